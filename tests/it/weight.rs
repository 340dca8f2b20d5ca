//! The number of crates that the default features add to an application that already has axum and
//! tokio, in the versions of our `Cargo.lock`.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::process::Command;

/// The limit, including this crate.
const AT_MOST: usize = 8;

#[test]
fn the_readme_states_how_many_crates_an_application_with_axum_gains() {
    let theirs = "axum = '0.8'\ntokio = '1'\n";
    let ours = concat!(
        "mx-job-webhook = { path = '",
        env!("CARGO_MANIFEST_DIR"),
        "' }\n"
    );
    let had = crates_of("without", theirs);
    let has = crates_of("with", &format!("{theirs}{ours}"));

    let added: Vec<_> = has.difference(&had).collect();
    let number = added.len();
    assert!(
        number <= AT_MOST,
        "{number} crates exceed the limit: {added:#?}"
    );
    let sentence =
        format!("To an application that has axum it adds {number} crates, itself included.");
    let readme = include_str!("../../README.md");
    assert!(
        readme.contains(&sentence),
        "the README lacks: {sentence} {added:#?}"
    );
}

/// Names and versions of all crates that an application with these dependencies builds here.
fn crates_of(name: &str, dependencies: &str) -> BTreeSet<String> {
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR"))
        .join("weight")
        .join(name);
    fs::create_dir_all(folder.join("src")).unwrap();
    fs::write(folder.join("src/lib.rs"), "").unwrap();
    fs::write(
        folder.join("Cargo.toml"),
        format!(
            "[workspace]\n\
             [package]\nname = 'application'\nversion = '0.0.0'\nedition = '2024'\n\
             [dependencies]\n{dependencies}"
        ),
    )
    .unwrap();
    let lock = Path::new(env!("CARGO_MANIFEST_DIR")).join("Cargo.lock");
    fs::copy(lock, folder.join("Cargo.lock")).unwrap();

    let tree = Command::new(env!("CARGO"))
        .args(["tree", "--offline", "--quiet", "--edges", "normal,build"])
        .args(["--prefix", "none"])
        .current_dir(folder)
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&tree.stderr);
    assert!(tree.status.success(), "{said}");
    // Each line is `name v1.2.3`, then its source, its kind, and whether it was listed before.
    let lines = String::from_utf8(tree.stdout).unwrap();
    let crates: BTreeSet<_> = lines
        .lines()
        .map(|line| line.split(' ').take(2).collect::<Vec<_>>().join(" "))
        .filter(|named| !named.is_empty())
        .collect();
    let axum = crates.iter().any(|named| named.starts_with("axum v0.8."));
    assert!(axum, "not the dependency tree of an application: {lines}");
    crates
}
