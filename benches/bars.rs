//! The bars for instructions. It fails if one is missed by more than 5 %.
//!
//! `cargo bench -p mx-job-webhook-benches --bench bars`, with valgrind installed; with `-- --write` it also draws
//! `instructions.svg`.
#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "a panic fails the benchmark, which prints a table"
)]

mod instructions;
mod plot;
mod subjects;

use std::collections::BTreeMap;
use std::path::Path;
use std::process::ExitCode;
use std::{env, fs};

/// The margin. Instructions repeat to the digit on one machine, but change with the compiler or the allocator.
const MARGIN: f64 = 1.05;

/// Before the name of a subject, it asks the program to run that.
const COUNTED: &str = "--counted";

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
    let arguments: Vec<_> = env::args().skip(1).collect();
    if arguments.first().is_some_and(|first| first == COUNTED) {
        instructions::run(&arguments[1]);
        return ExitCode::SUCCESS;
    }
    let mut counts = Counts::default();

    println!("| what | instructions | against | measured | bar |");
    println!("|---|---|---|---|---|");
    let mut missed = 0;
    for (what, ours, theirs, bar) in &BARS {
        let [ours, theirs] = [ours, theirs].map(|subject| counts.of(subject));
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
    if arguments.iter().any(|argument| argument == "--write") {
        let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("instructions.svg");
        fs::write(file, drawn(&mut counts)).unwrap();
    }
    if missed > 0 {
        println!("\n{missed} bars are missed by more than 5 %");
        return ExitCode::FAILURE;
    }
    ExitCode::SUCCESS
}

fn drawn(counts: &mut Counts) -> String {
    let rows = [
        ("layer around the router", "deliver.around_the_router"),
        ("with the memory ledger", "deliver.with_the_memory_ledger"),
        ("route_service", "deliver.route_service"),
        ("Router::layer", "deliver.router_layer"),
        ("extractor", "deliver.extractor"),
        ("axum::Json and match", "deliver.by_hand"),
    ]
    .map(|(name, subject)| (name, counts.of(subject)));
    plot::bars("instructions a delivery", &rows, |name| {
        name != "axum::Json and match"
    })
}

/// The instructions of each subject, counted once.
#[derive(Default)]
struct Counts(BTreeMap<&'static str, f64>);

impl Counts {
    fn of(&mut self, subject: &'static str) -> f64 {
        *self
            .0
            .entry(subject)
            .or_insert_with(|| instructions::count(subject))
    }
}
