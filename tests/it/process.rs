//! An example as its users run it: a process with an address, lines of output and signals.

use std::io::{BufRead as _, BufReader};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::sync::OnceLock;
use std::sync::mpsc::{Receiver, channel};
use std::thread;
use std::time::{Duration, Instant};

/// Far more than anything takes: it ends a test that would hang.
const PATIENCE: Duration = Duration::from_secs(30);

/// The command of an example, with nothing of this process's environment that examples read.
pub(crate) fn example(name: &str) -> Command {
    let mut command = Command::new(examples().join(name));
    for variable in [
        "MX_USER",
        "MX_PASSWORD",
        "MX_TOKEN",
        "WORK_SECONDS",
        "DATABASE_URL",
        "DEAD_AFTER_SECONDS",
        "FAILING_TRIES",
    ] {
        command.env_remove(variable);
    }
    command.env("ADDR", "127.0.0.1:0");
    command
}

pub(crate) fn quickstart() -> Command {
    example("quickstart")
}

/// Built here because cargo builds examples with tests of their own only as their tests.
fn examples() -> &'static PathBuf {
    static EXAMPLES: OnceLock<PathBuf> = OnceLock::new();
    EXAMPLES.get_or_init(|| {
        // `<target>/<profile>/deps/it-…`
        let test = std::env::current_exe().unwrap();
        let profile = test.ancestors().nth(2).unwrap();
        let name = match profile.file_name().unwrap().to_str().unwrap() {
            "debug" => "dev",
            name => name,
        };
        let built = Command::new(env!("CARGO"))
            .current_dir(env!("CARGO_MANIFEST_DIR"))
            .args(["build", "--locked", "--quiet", "--examples"])
            .args(["--profile", name])
            .args(cfg!(feature = "postgres").then_some("--all-features"))
            .arg("--target-dir")
            .arg(profile.parent().unwrap())
            .status()
            .unwrap();
        assert!(built.success(), "the examples were not built");
        profile.join("examples")
    })
}

/// An example that runs, killed when dropped.
pub(crate) struct Process {
    child: Child,
    lines: Receiver<String>,
    pub(crate) address: SocketAddr,
}

impl Process {
    /// Starts one that does not listen.
    pub(crate) fn start(mut command: Command) -> Self {
        let mut child = command.stdout(Stdio::piped()).spawn().unwrap();
        let output = BufReader::new(child.stdout.take().unwrap());
        let (sender, lines) = channel();
        thread::spawn(move || {
            output
                .lines()
                .try_for_each(|line| sender.send(line.ok()?).ok())
        });
        Self {
            child,
            lines,
            address: ([0, 0, 0, 0], 0).into(),
        }
    }

    /// Starts it, and waits until it has printed its curl line.
    pub(crate) fn serve(command: Command) -> (Self, Vec<String>) {
        let mut process = Self::start(command);
        let mut printed = vec![process.line()];
        let address = printed[0].split(['/', ',']).nth(2);
        process.address = address.unwrap().parse().unwrap();
        while !printed.last().unwrap().starts_with("curl ") {
            printed.push(process.line());
        }
        (process, printed)
    }

    /// The next line that it prints and that is not empty.
    pub(crate) fn line(&self) -> String {
        loop {
            let line = self.lines.recv_timeout(PATIENCE).unwrap();
            if !line.is_empty() {
                return line;
            }
        }
    }

    /// By SIGKILL, which it does not see coming.
    pub(crate) fn kill(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }

    /// Sends a signal, such as `STOP`, which it does not see, or `CONT`, which ends that.
    pub(crate) fn signal(&self, signal: &str) {
        let signalled = Command::new("kill")
            .args([&format!("-{signal}"), &self.child.id().to_string()])
            .status()
            .unwrap();
        assert!(signalled.success());
    }

    /// Sends a signal, such as Ctrl-C's `INT`, and waits for the end.
    pub(crate) fn stop(&mut self, signal: &str) -> ExitStatus {
        self.signal(signal);
        let patience = Instant::now() + PATIENCE;
        loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                return status;
            }
            assert!(Instant::now() < patience, "it went on after the signal");
            thread::sleep(Duration::from_millis(10));
        }
    }

    /// A line of the kernel's account of the process, in kB.
    pub(crate) fn memory(&self, line: &str) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.child.id())).unwrap();
        let value = status.lines().find_map(|found| found.strip_prefix(line));
        let value = value.unwrap().trim_start_matches(':').trim();
        value.trim_end_matches(" kB").parse().unwrap()
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.kill();
    }
}

/// Runs it to its end.
pub(crate) fn run(command: &mut Command) -> Output {
    command.output().unwrap()
}
