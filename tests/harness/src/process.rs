//! An example as its users run it: a process with an address, lines of output and signals.

use std::ffi::OsStr;
use std::io::{BufRead as _, BufReader};
use std::net::SocketAddr;
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::thread;
use std::time::{Duration, Instant};

/// A generous limit that ends a test that would hang.
const PATIENCE: Duration = Duration::from_secs(30);

/// Returns the command of an example, without the environment variables of this process that examples read.
pub fn example(binary: impl AsRef<OsStr>) -> Command {
    let mut command = Command::new(binary);
    for variable in [
        "MX_USER",
        "MX_PASSWORD",
        "MX_TOKEN",
        "WORK_SECONDS",
        "DATABASE_URL",
        "DEAD_AFTER_SECONDS",
        "FAILING_TRIES",
        "BACKOFF_SECONDS",
        "ADMIN_ADDR",
        "ADMIN_PASSWORD",
    ] {
        command.env_remove(variable);
    }
    command.env("ADDR", "127.0.0.1:0");
    command
}

/// A running example. It is killed when dropped.
#[derive(Debug)]
pub struct Process {
    child: Child,
    lines: Receiver<String>,
    /// Its address, once `serve` has read it.
    pub address: SocketAddr,
}

impl Process {
    /// Starts it, without waiting until it listens.
    pub fn start(mut command: Command) -> Self {
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

    /// Starts it, and waits until it has printed the command that delivers something.
    pub fn serve(command: Command) -> (Self, Vec<String>) {
        let mut process = Self::start(command);
        let mut printed = vec![process.line()];
        let address = printed[0].split(['/', ',']).nth(2);
        process.address = address.unwrap().parse().unwrap();
        let is_command = |line: &String| line.starts_with("curl ") || line.starts_with("cargo ");
        while !printed.last().is_some_and(is_command) {
            printed.push(process.line());
        }
        (process, printed)
    }

    /// Waits for the next line of output that is not empty.
    pub fn line(&self) -> String {
        loop {
            let line = self.lines.recv_timeout(PATIENCE).unwrap();
            if !line.is_empty() {
                return line;
            }
        }
    }

    /// Kills it by SIGKILL, which it cannot handle.
    pub fn kill(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }

    /// Sends a signal, such as `STOP`, which pauses it, or `CONT`, which resumes it.
    pub fn signal(&self, signal: &str) {
        let signalled = Command::new("kill")
            .args([&format!("-{signal}"), &self.child.id().to_string()])
            .status()
            .unwrap();
        assert!(signalled.success());
    }

    /// Sends a signal, such as Ctrl-C's `INT`, and waits until it ends.
    pub fn stop(&mut self, signal: &str) -> ExitStatus {
        self.signal(signal);
        let patience = Instant::now() + PATIENCE;
        loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                return status;
            }
            assert!(
                Instant::now() < patience,
                "the process continued after the signal"
            );
            thread::sleep(Duration::from_millis(10));
        }
    }

    /// Returns a line of the kernel's statistics of the process, in kB.
    pub fn memory(&self, line: &str) -> u64 {
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

/// Runs a command to its end.
pub fn run(command: &mut Command) -> Output {
    command.output().unwrap()
}
