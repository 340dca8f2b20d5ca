//! Servers that a test starts on a free port and in a separate folder.

use std::fs::{self, File};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command};
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread::sleep;
use std::time::{Duration, Instant};

/// A generous limit for a server's start and stop.
const PATIENCE: Duration = Duration::from_secs(30);

/// A listening server, stopped when dropped.
pub(crate) struct Server {
    child: Child,
    pub(crate) address: SocketAddr,
    // This is dropped after the server has stopped.
    _folder: Folder,
}

impl Server {
    /// Starts the command that `configured` returns for an address and a folder. If another process takes the port
    /// first, it tries another one.
    pub(crate) fn start(configured: impl Fn(SocketAddr, &Path) -> Command) -> Self {
        let mut said = String::new();
        for _ in 0..5 {
            let folder = Folder::new();
            let address = free_address();
            let output = folder.0.join("output");
            let child = configured(address, &folder.0)
                .stdout(File::create(&output).unwrap())
                .stderr(File::options().append(true).open(&output).unwrap())
                .spawn()
                .unwrap();
            let mut server = Self {
                child,
                address,
                _folder: folder,
            };
            if server.listens() {
                return server;
            }
            said = fs::read_to_string(output).unwrap();
        }
        panic!("the server ended before it listened:\n{said}");
    }

    /// Waits until it listens, or has ended.
    fn listens(&mut self) -> bool {
        let patience = Instant::now() + PATIENCE;
        while Instant::now() < patience {
            let connected = TcpStream::connect(self.address).is_ok();
            // If it has ended, another process listens there.
            if self.child.try_wait().unwrap().is_some() {
                return false;
            }
            if connected {
                return true;
            }
            sleep(Duration::from_millis(20));
        }
        false
    }
}

impl Drop for Server {
    /// Stops the server by SIGTERM. After SIGKILL, nginx and Apache would leave their workers running.
    fn drop(&mut self) {
        let process = self.child.id().to_string();
        let _ = Command::new("kill").args(["-TERM", &process]).status();
        let patience = Instant::now() + PATIENCE;
        while self.child.try_wait().is_ok_and(|ended| ended.is_none()) {
            if Instant::now() > patience {
                let _ = self.child.kill();
                let _ = self.child.wait();
            }
            sleep(Duration::from_millis(5));
        }
    }
}

/// An address without a listening process.
fn free_address() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    listener.local_addr().unwrap()
}

/// A folder that is removed when dropped.
pub(crate) struct Folder(pub(crate) PathBuf);

impl Folder {
    pub(crate) fn new() -> Self {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let name = format!(
            "mx-job-webhook-peers-{}-{}",
            std::process::id(),
            NUMBER.fetch_add(1, Ordering::Relaxed)
        );
        let path = std::env::temp_dir().join(name);
        fs::create_dir(&path).unwrap();
        Self(path)
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}
