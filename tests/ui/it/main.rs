//! What the compiler says about mistakes, word by word.
//!
//! The words are those of the toolchain that `rustc` below names; another one may say the same
//! differently, so there the cases are not compared. `TRYBUILD=overwrite` writes them anew.
#![allow(clippy::unwrap_used, reason = "a panic is how a test fails")]

const TOOLCHAIN: &str = "rustc 1.95.0";

#[test]
#[allow(clippy::print_stdout, reason = "why nothing was compared")]
fn mistakes_are_explained() {
    let version = std::process::Command::new(std::env::var("RUSTC").unwrap_or("rustc".into()))
        .arg("--version")
        .output()
        .unwrap();
    let version = String::from_utf8(version.stdout).unwrap();
    if !version.starts_with(TOOLCHAIN) {
        assert!(std::env::var_os("CI").is_none(), "CI runs {TOOLCHAIN}");
        println!("not compared: the cases are written for {TOOLCHAIN}, and this is {version}");
        return;
    }
    trybuild::TestCases::new().compile_fail("*.rs");
}
