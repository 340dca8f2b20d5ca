//! The small examples: the tests that are in them, and each run as its users run it.
#![allow(clippy::unwrap_used, reason = "a panic is how a test fails")]

#[cfg(unix)]
mod hosts;
#[cfg(unix)]
mod processes;
#[cfg(target_os = "linux")]
mod sockets;
mod sources;

use std::process::Command;

/// Returns the command of one of the examples, which cargo builds before it runs this.
fn example(name: &str) -> Command {
    // `<target>/<profile>/deps/small-…`
    let test = std::env::current_exe().unwrap();
    let profile = test.ancestors().nth(2).unwrap();
    let binary = profile.join("examples").join(name);
    assert!(
        binary.exists(),
        "{} is not built: run `cargo build --examples`",
        binary.display()
    );
    harness::example(binary)
}

fn quickstart() -> Command {
    example("quickstart")
}
