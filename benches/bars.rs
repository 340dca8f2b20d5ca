//! The bars for instructions: runs `instructions`, and fails if a bar is missed by more than 5 %.
//!
//! `cargo bench -p mx-job-webhook-benches --bench bars`; with `-- --write` it also draws
//! `instructions.svg`.
#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "a panic fails the benchmark, which prints a table"
)]

mod plot;

use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};

/// The margin. Instructions repeat to the digit on one machine, but change with the compiler or the allocator.
const MARGIN: f64 = 1.05;

enum Bar {
    /// At most this many times the other's instructions.
    Ratio(f64),
    /// At most this many more instructions than the other.
    More(f64),
}

const BARS: [(&str, &str, &str, Bar); 13] = [
    (
        "decode the sample, to a struct of Strings",
        "decode.sample",
        "decode_by_hand.sample",
        Bar::Ratio(0.80),
    ),
    (
        "decode the sample, to axum::Json",
        "decode.sample",
        "decode_with_axum_json.sample",
        Bar::Ratio(0.50),
    ),
    (
        "fields reversed, to a struct of Strings",
        "decode.reversed",
        "decode_by_hand.reversed",
        Bar::Ratio(0.80),
    ),
    (
        "fields reversed, to axum::Json",
        "decode.reversed",
        "decode_with_axum_json.reversed",
        Bar::Ratio(0.50),
    ),
    (
        "a delivery, layer around the router",
        "deliver.around_the_router",
        "deliver.by_hand",
        Bar::Ratio(0.53),
    ),
    (
        "a delivery, Router::layer",
        "deliver.router_layer",
        "deliver.by_hand",
        Bar::Ratio(0.66),
    ),
    (
        "a delivery, route_service",
        "deliver.route_service",
        "deliver.by_hand",
        Bar::Ratio(0.65),
    ),
    (
        "a delivery, extractor",
        "deliver.extractor",
        "deliver.by_hand",
        Bar::Ratio(0.77),
    ),
    (
        "a duplicate, memory ledger",
        "deliver.a_duplicate",
        "deliver.around_the_router",
        Bar::More(1_500.0),
    ),
    (
        "a new event, memory ledger",
        "deliver.with_the_memory_ledger",
        "deliver.around_the_router",
        Bar::More(2_000.0),
    ),
    (
        "an event of an unexpected job, watch in memory",
        "deliver.with_a_watch",
        "deliver.around_the_router",
        Bar::More(700.0),
    ),
    (
        "not ours, layer around the router",
        "pass_through.around_the_router",
        "pass_through.bare_router",
        Bar::More(150.0),
    ),
    (
        "not ours, Router::layer, beyond a layer that does nothing",
        "pass_through.router_layer",
        "pass_through.layer_that_does_nothing",
        Bar::More(400.0),
    ),
];

fn main() -> ExitCode {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let target = std::env::current_exe().unwrap();
    // `<target>/release/deps/bars-…`
    let target = target.ancestors().nth(3).unwrap();
    let counted = Command::new(env!("CARGO"))
        .current_dir(root)
        .args([
            "bench",
            "--quiet",
            "--bench",
            "instructions",
            "--target-dir",
        ])
        .arg(target)
        .args(["--", "--save-summary=json"])
        .output()
        .unwrap();
    if !counted.status.success() {
        println!("{}", String::from_utf8_lossy(&counted.stderr));
        return ExitCode::FAILURE;
    }
    let folder = target.join("gungraun/mx-job-webhook-benches/instructions/receive");

    println!("| what | instructions | against | measured | bar |");
    println!("|---|---|---|---|---|");
    let mut missed = 0;
    for (what, ours, theirs, bar) in &BARS {
        let [ours, theirs] = [ours, theirs].map(|name| instructions(&folder, name));
        let (measured, limit, holds) = match bar {
            Bar::Ratio(limit) => {
                let ratio = ours / theirs;
                (
                    format!("{ratio:.3} ×"),
                    format!("≤ {limit:.2} ×"),
                    ratio <= limit * MARGIN,
                )
            }
            Bar::More(limit) => {
                let more = ours - theirs;
                (
                    format!("{more:+.0}"),
                    format!("≤ {limit:.0} more"),
                    more <= limit * MARGIN,
                )
            }
        };
        missed += u32::from(!holds);
        let mark = if holds { "" } else { " **MISSED**" };
        println!("| {what} | {ours:.0} | {theirs:.0} | {measured} | {limit}{mark} |");
    }
    if std::env::args().any(|argument| argument == "--write") {
        std::fs::write(root.join("instructions.svg"), drawn(&folder)).unwrap();
    }
    if missed > 0 {
        println!("\n{missed} bars are missed by more than 5 %");
        return ExitCode::FAILURE;
    }
    ExitCode::SUCCESS
}

fn drawn(folder: &Path) -> String {
    let rows = [
        ("layer around the router", "deliver.around_the_router"),
        ("with the memory ledger", "deliver.with_the_memory_ledger"),
        ("route_service", "deliver.route_service"),
        ("Router::layer", "deliver.router_layer"),
        ("extractor", "deliver.extractor"),
        ("axum::Json and match", "deliver.by_hand"),
    ]
    .map(|(name, benchmark)| (name, instructions(folder, benchmark)));
    plot::bars("instructions a delivery", &rows, |name| {
        name != "axum::Json and match"
    })
}

/// Returns gungraun's count for a benchmark, such as `decode.sample`.
fn instructions(folder: &Path, benchmark: &str) -> f64 {
    let file: PathBuf = folder.join(benchmark).join("summary.json");
    let text = std::fs::read_to_string(&file).unwrap_or_else(|error| panic!("{file:?}: {error}"));
    let summary: serde_json::Value = serde_json::from_str(&text).unwrap();
    let metrics =
        &summary["profiles"][0]["summaries"]["total"]["summary"]["Callgrind"]["Ir"]["metrics"];
    // If there is an earlier run, the first of the two values is the current one.
    let [alone, beside] = [&metrics["Left"]["Int"], &metrics["Both"][0]["Int"]];
    alone.as_f64().or(beside.as_f64()).unwrap()
}
