//! HTTP clients that post to the quickstart. Each reads the answer at a different time.

use std::fs;
use std::process::Command;

use crate::installed::{library, program};
use crate::quickstart::Quickstart;
use crate::server::Folder;
use crate::tally::Tally;
use crate::{HUGE, LARGE, SAMPLE, sample_of};

/// The number of tries of each client for each kind of request.
const TRIES: usize = 20;

/// The kinds of request of a client, and the answer to each.
type Kinds = &'static [(&'static str, &'static str)];

#[test]
fn rubys_httpclient_is_acknowledged_when_challenged_and_gets_every_refusal() {
    let ruby = || program("ruby", "ruby");
    library(
        &mut ruby(),
        &["-e", "require 'httpclient'"],
        "ruby-httpclient",
    );
    let kinds: Kinds = &[
        ("545 B, challenge first", "204"),
        ("60 KiB, challenge first", "204"),
        ("60 KiB, credentials at once", "204"),
        ("60 KiB, no credentials", "401"),
        ("1 MiB, no credentials", "401"),
        ("1 MiB, wrong password", "401"),
        ("1 MiB refused, then the sample", "401 204"),
    ];
    every_answer_arrives(ruby(), "httpclient.rb", kinds);
}

#[test]
fn wget_is_acknowledged_when_challenged_and_gets_every_refusal() {
    program("wget", "wget");
    let kinds: Kinds = &[
        ("545 B, challenge first", "204"),
        ("60 KiB, challenge first", "204"),
        ("60 KiB, credentials at once", "204"),
        ("60 KiB, no credentials", "401"),
        ("1 MiB, no credentials", "401"),
        ("1 MiB, wrong password", "401"),
    ];
    every_answer_arrives(program("sh", "dash"), "wget.sh", kinds);
}

#[test]
fn curl_is_acknowledged_when_challenged_and_gets_every_refusal() {
    program("curl", "curl");
    let kinds: Kinds = &[
        ("545 B, challenge first", "204"),
        ("60 KiB, challenge first", "204"),
        ("60 KiB, credentials at once", "204"),
        ("60 KiB, expects 100", "204"),
        ("1 MiB, no credentials", "401"),
        ("1 MiB, wrong password", "401"),
        ("1 MiB, no credentials, expects 100", "401 close"),
        ("1 MiB refused, then the sample", "401 204"),
    ];
    every_answer_arrives(program("sh", "dash"), "curl.sh", kinds);
}

#[test]
fn python_is_acknowledged_when_challenged_and_gets_every_refusal() {
    let python = || program("python3", "python3");
    library(&mut python(), &["-c", "import urllib.request"], "python3");
    let kinds: Kinds = &[
        ("545 B refused, then the sample", "401 204"),
        ("60 KiB refused, then the sample", "401 204"),
        ("1 MiB refused, then the sample", "401 204"),
        ("545 B, challenge first", "204"),
        ("60 KiB, challenge first", "204"),
        ("1 MiB, wrong password", "401"),
    ];
    every_answer_arrives(python(), "standard_library.py", kinds);
}

#[test]
fn java_is_acknowledged_when_challenged_and_gets_every_refusal() {
    // The `java` command compiles its source first.
    program("javac", "default-jdk-headless");
    let kinds: Kinds = &[
        ("545 B, challenge first", "204"),
        ("60 KiB, challenge first", "204"),
        ("60 KiB, credentials at once", "204"),
        ("60 KiB, no credentials", "401"),
        ("1 MiB, no credentials", "401"),
        ("1 MiB refused, then the sample", "401 204"),
    ];
    every_answer_arrives(
        program("java", "default-jdk-headless"),
        "Client.java",
        kinds,
    );
}

/// Runs a program of `clients/` against a separate quickstart. It prints a line for each try: the kind, a tab
/// and the answer.
fn every_answer_arrives(mut interpreter: Command, script: &str, kinds: Kinds) {
    let quickstart = Quickstart::start();
    let folder = Folder::new();
    for (name, size) in [("sample", SAMPLE.len()), ("large", LARGE), ("huge", HUGE)] {
        fs::write(folder.0.join(format!("{name}.json")), sample_of(size)).unwrap();
    }
    let output = interpreter
        .arg(format!("{}/clients/{script}", env!("CARGO_MANIFEST_DIR")))
        .arg(quickstart.url())
        .arg(&folder.0)
        .arg(TRIES.to_string())
        .output()
        .unwrap();
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{script} failed:\n{errors}");

    let mut tally = Tally::default();
    for line in String::from_utf8(output.stdout).unwrap().lines() {
        let (kind, answer) = line.split_once('\t').unwrap();
        let known = kinds.iter().find(|(name, _)| *name == kind);
        let (_, expected) =
            known.unwrap_or_else(|| panic!("{script} prints an unknown kind: {line}"));
        tally.add(kind, expected, answer);
    }
    for (kind, _) in kinds {
        assert_eq!(tally.count(kind), TRIES, "{script}: {kind}\n{tally}");
    }
    tally.assert_as_expected(script);
}
