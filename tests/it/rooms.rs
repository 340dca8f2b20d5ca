//! The modules of `src` follow the order of the list in `lib.rs`: each uses only those above it.

use std::fs;
use std::path::{Path, PathBuf};

const LIB: &str = include_str!("../../src/lib.rs");

/// Modules that contain only documentation.
const GUIDES: &str = "guide";

/// The rooms in the order of the chapter *Modules*.
fn rooms() -> Vec<&'static str> {
    let chapter = LIB.split("//! # Modules").nth(1).unwrap();
    let chapter = chapter.split("//! # ").next().unwrap();
    let items = chapter
        .lines()
        .filter_map(|line| line.strip_prefix("//! - "));
    items
        .map(|item| {
            let name = item.trim_start_matches('[').strip_prefix('`').unwrap();
            name.split('`').next().unwrap()
        })
        .collect()
}

fn source() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("src")
}

/// The Rust files of a room and their code.
fn files(room: &str) -> Vec<(PathBuf, String)> {
    let mut open = vec![source().join(room), source().join(format!("{room}.rs"))];
    let mut files = Vec::new();
    while let Some(path) = open.pop() {
        if path.is_dir() {
            let entries = fs::read_dir(&path).unwrap();
            open.extend(entries.map(|entry| entry.unwrap().path()));
        } else if path.extension().is_some_and(|extension| extension == "rs") && path.exists() {
            let code = code(&fs::read_to_string(&path).unwrap());
            files.push((path, code));
        }
    }
    assert!(!files.is_empty(), "the room `{room}` has no files");
    files
}

/// A file without its comments and its documentation.
fn code(text: &str) -> String {
    let lines = text
        .lines()
        .filter(|line| !line.trim_start().starts_with("//"));
    lines.collect::<Vec<_>>().join("\n")
}

/// What follows each `crate::` in the code, up to the end of the name.
fn names_in_crate(code: &str) -> impl Iterator<Item = &str> {
    code.split("crate::").skip(1).map(|rest| {
        let is_part = |character: char| character.is_alphanumeric() || character == '_';
        let end = rest.find(|character| !is_part(character));
        &rest[..end.unwrap_or(rest.len())]
    })
}

/// Spellings by which the code reaches the crate's root otherwise than by `crate::` and a room.
///
/// `depth` says how many modules the file is below the root.
fn other_ways_to_the_root(code: &str, depth: usize) -> Vec<String> {
    let mut found = Vec::new();
    let words = code.split(|character: char| !(character.is_alphanumeric() || character == '_'));
    let mut rest = code;
    for word in words {
        rest = &rest[rest.find(word).unwrap() + word.len()..];
        if word == "crate" && !rest.starts_with("::") && !rest.starts_with(')') {
            found.push("`crate` that no `::` follows".to_owned());
        }
    }
    // Unit tests are one module deeper.
    let (code, tests) = code.split_once("\nmod tests {").unwrap_or((code, ""));
    for (code, depth) in [(code, depth), (tests, depth + 1)] {
        let spaceless: String = code.split_whitespace().collect();
        if spaceless.contains(&"super::".repeat(depth)) {
            found.push("super::".repeat(depth));
        }
    }
    found
}

/// How many modules a file is below the root: `room.rs` and `room/mod.rs` are one below it.
fn depth(path: &Path) -> usize {
    let below = path.strip_prefix(source()).unwrap();
    let parts = below.components().count();
    if below.ends_with("mod.rs") {
        parts - 1
    } else {
        parts
    }
}

#[test]
fn each_room_uses_only_the_rooms_above_it() {
    let rooms = rooms();
    assert!(rooms.len() > 10, "{rooms:?}");
    let mut wrong = Vec::new();
    for (index, room) in rooms.iter().enumerate() {
        for (path, code) in files(room) {
            for name in names_in_crate(&code) {
                if !rooms[..=index].contains(&name) {
                    wrong.push(format!("{} uses `crate::{name}`", path.display()));
                }
            }
            for way in other_ways_to_the_root(&code, depth(&path)) {
                wrong.push(format!("{} contains {way}", path.display()));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn imports_from_the_root_are_found_in_each_spelling() {
    let (room, within, test) = (1, 2, "\nmod tests {\n");
    for (code, depth) in [
        ("use super::Background;", room),
        ("fn f(_: super :: Background) {}", room),
        ("use super::super::router::JobRouter;", within),
        (&format!("{test}use super::super::Background;"), room),
        ("use crate as root;", room),
        ("use crate\n::Background;", room),
        ("extern crate self as house;", room),
    ] {
        assert_eq!(other_ways_to_the_root(code, depth).len(), 1, "{code}");
    }
    for (code, depth) in [
        ("use crate::error::Error;\npub(crate) fn f() {}", room),
        ("use super::layer::Options;", within),
        (&format!("{test}use super::*;"), room),
    ] {
        assert!(other_ways_to_the_root(code, depth).is_empty(), "{code}");
    }
}

#[test]
fn each_module_of_the_crate_is_a_room() {
    let mut modules: Vec<&str> = code(LIB)
        .lines()
        .filter_map(|line| {
            let line = line.trim_start_matches("pub ").strip_prefix("mod ")?;
            line.strip_suffix(';')
        })
        .map(|name| &*name.to_owned().leak())
        .filter(|name| *name != GUIDES)
        .collect();
    let mut rooms = rooms();
    modules.sort_unstable();
    rooms.sort_unstable();
    assert_eq!(modules, rooms);
}

#[test]
fn names_of_the_crate_are_found_in_code_and_not_in_comments() {
    let found = code("/// crate::a\n// crate::b\nuse crate::c::D;\nfn e() -> crate::F {}\n");
    assert_eq!(names_in_crate(&found).collect::<Vec<_>>(), ["c", "F"]);
}
