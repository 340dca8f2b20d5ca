//! Runs the tests within the small examples, and each example as a process.
#![allow(clippy::unwrap_used, reason = "a panic fails the test")]

#[cfg(unix)]
mod hosts;
#[cfg(unix)]
mod processes;
#[cfg(target_os = "linux")]
mod sockets;
mod sources;

use std::process::Command;

/// Returns the command of an example. cargo builds the examples before this test.
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
