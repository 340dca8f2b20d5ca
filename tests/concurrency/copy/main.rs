//! Copies the crate's source, with shuttle's types in place of those of the standard library and of tokio, and with
//! the faults that the tests can turn on.
#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    clippy::expect_used,
    reason = "a build script fails by a panic, and prints what cargo has to know"
)]

mod faults;

use std::path::Path;
use std::{env, fs};

use faults::FAULTS;

/// The types that a schedule depends on, in all files. Locks of `tokio::sync` stay: see `src/lib.rs`.
const EVERYWHERE: [(&str, &str); 4] = [
    // The source's own tests need more than is here.
    ("#[cfg(test)]", "#[cfg(any())]"),
    ("std::sync::", "shuttle::sync::"),
    // No schedule depends on it: it is set once, before it is read.
    ("shuttle::sync::LazyLock", "std::sync::LazyLock"),
    ("arc_swap::ArcSwap", "crate::stand_in::ArcSwap"),
];

/// The same, in one file each, which has the text once.
const IN_FILES: [(&str, &str, &str); 6] = [
    (
        "background/permit.rs",
        "thread_local! {",
        "shuttle::thread_local! {",
    ),
    (
        "watch/expected.rs",
        "use tokio::time::",
        "use crate::stand_in::",
    ),
    (
        "watch/listening.rs",
        "use tokio::task::",
        "use crate::stand_in::",
    ),
    (
        "watch/listening.rs",
        "use tokio::time::",
        "use crate::stand_in::",
    ),
    (
        "watch/listening.rs",
        "listen: tokio::spawn(",
        "listen: crate::stand_in::spawn(",
    ),
    (
        "watch/listening.rs",
        "read: tokio::spawn(",
        "read: crate::stand_in::spawn(",
    ),
];

fn main() {
    let source = Path::new("../../src");
    println!("cargo::rerun-if-changed={}", source.display());
    println!("cargo::rerun-if-changed=copy");
    let target = Path::new(&env::var_os("OUT_DIR").unwrap()).join("src");
    // A row for a file that has moved would change nothing.
    let files = FAULTS.iter().map(|fault| fault.file);
    for file in files.chain(IN_FILES.map(|(file, ..)| file)) {
        let is_there = source.join(file).is_file();
        assert!(is_there, "src/{file} is gone; mend tests/concurrency/copy");
    }
    let _ = fs::remove_dir_all(&target);
    copy_folder(source, &target, "");
}

fn copy_folder(source: &Path, target: &Path, folder: &str) {
    fs::create_dir_all(target.join(folder)).unwrap();
    for entry in fs::read_dir(source.join(folder)).unwrap() {
        let entry = entry.unwrap();
        let name = entry.file_name().into_string().unwrap();
        let path = match folder {
            "" => name,
            folder => format!("{folder}/{name}"),
        };
        if entry.file_type().unwrap().is_dir() {
            copy_folder(source, target, &path);
        } else if path.ends_with(".rs") {
            let text = fs::read_to_string(entry.path()).unwrap();
            fs::write(target.join(&path), change(&path, text)).unwrap();
        }
    }
}

fn change(path: &str, mut text: String) -> String {
    if path == "lib.rs" {
        text = without_head(&text);
    }
    // The faults are written in the terms of the source, so they come first.
    for fault in FAULTS.iter().filter(|fault| fault.file == path) {
        let what = format!("the fault {:?}", fault.name);
        text = replace_once(path, &text, fault.text, &fault.choice(), &what);
    }
    for (file, from, to) in IN_FILES {
        if file == path {
            text = replace_once(path, &text, from, to, "a type");
        }
    }
    for (from, to) in EVERYWHERE {
        text = text.replace(from, to);
    }
    let mut code = text
        .lines()
        .filter(|line| !line.trim_start().starts_with("//"));
    let hidden = code.find(|line| line.contains("std::{") || line.contains("use std::sync;"));
    assert_eq!(hidden, None, "src/{path} hides a type from shuttle");
    text
}

/// Replaces a text that is in the file once. Otherwise the source has changed, and the table here has to change too.
fn replace_once(path: &str, text: &str, from: &str, to: &str, what: &str) -> String {
    let found = text.matches(from).count();
    assert_eq!(
        found, 1,
        "src/{path} has the text for {what} {found} times instead of once; \
         mend tests/concurrency/copy: {from:?}"
    );
    text.replace(from, to)
}

/// Returns the root without attributes of the crate, which an included file cannot have, and without the guides.
fn without_head(text: &str) -> String {
    let modules = text.find("\npub mod ").expect("the root has modules");
    text[modules..].replace("pub mod guide;", "")
}
