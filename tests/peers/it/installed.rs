//! Programs installed on the machine. A missing one fails the test and names its Debian package.

use std::env;
use std::path::PathBuf;
use std::process::Command;

/// A command for the program from this Debian package.
pub(crate) fn program(name: &str, package: &str) -> Command {
    // Debian keeps servers out of the `PATH` of users other than root.
    let path = env::var_os("PATH").unwrap_or_default();
    let found = env::split_paths(&path)
        .chain([PathBuf::from("/usr/sbin")])
        .map(|folder| folder.join(name))
        .find(|program| program.is_file());
    match found {
        Some(program) => Command::new(program),
        None => panic!("`{name}` is missing here. Install Debian's package `{package}`."),
    }
}

/// Fails unless the program, run with these arguments, finds the library from this Debian package.
pub(crate) fn library(program: &mut Command, arguments: &[&str], package: &str) {
    let output = program.args(arguments).output().unwrap();
    assert!(
        output.status.success(),
        "{program:?} fails here. Install Debian's package `{package}`.\n{}",
        String::from_utf8_lossy(&output.stderr)
    );
}

/// Returns whether this process is root. Some servers then need a configured user.
pub(crate) fn running_as_root() -> bool {
    let output = Command::new("id").arg("-u").output().unwrap();
    output.stdout == b"0\n"
}
