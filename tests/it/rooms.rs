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
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
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
