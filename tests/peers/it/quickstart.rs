//! The quickstart as its users run it.

use std::env;
use std::io::{self, BufRead as _, BufReader};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::OnceLock;
use std::thread;

/// A running quickstart, killed when dropped.
pub(crate) struct Quickstart {
    child: Child,
    pub(crate) address: SocketAddr,
}

impl Quickstart {
    pub(crate) fn start() -> Self {
        Self::start_on("127.0.0.1:0")
    }

    /// Starts it on a free port of this address, and waits until it has delivered its sample to itself.
    pub(crate) fn start_on(address: &str) -> Self {
        let mut child = Command::new(binary())
            .env("ADDR", address)
            .env_remove("MX_USER")
            .env_remove("MX_PASSWORD")
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut printed = BufReader::new(child.stdout.take().unwrap());
        let mut quickstart = Self {
            child,
            address: ([0, 0, 0, 0], 0).into(),
        };
        // `listening on http://127.0.0.1:40123, webhooks at /admin/webhooks`
        let mut line = String::new();
        printed.read_line(&mut line).unwrap();
        let address = line.split(['/', ',']).nth(2);
        quickstart.address = address.unwrap().parse().unwrap();
        while !line.starts_with("curl ") {
            line.clear();
            assert_ne!(printed.read_line(&mut line).unwrap(), 0, "it ended");
        }
        // It prints a line for each delivery, and would block without a reader.
        thread::spawn(move || io::copy(&mut printed, &mut io::sink()));
        quickstart
    }
}

impl Drop for Quickstart {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Built here, because cargo builds no examples of another package for a test. With all features, as the README's command
/// has built it.
fn binary() -> &'static PathBuf {
    static BINARY: OnceLock<PathBuf> = OnceLock::new();
    BINARY.get_or_init(|| {
        // `<target>/<profile>/deps/peers-…`
        let test = env::current_exe().unwrap();
        let profile = test.ancestors().nth(2).unwrap();
        let name = match profile.file_name().unwrap().to_str().unwrap() {
            "debug" => "dev",
            name => name,
        };
        let built = Command::new(env!("CARGO"))
            .current_dir(concat!(env!("CARGO_MANIFEST_DIR"), "/../.."))
            .args(["build", "--locked", "--quiet"])
            .args(["--all-features", "--example", "quickstart"])
            .args(["--profile", name, "--target-dir"])
            .arg(profile.parent().unwrap())
            .status()
            .unwrap();
        assert!(built.success(), "the quickstart was not built");
        profile.join("examples/quickstart")
    })
}
