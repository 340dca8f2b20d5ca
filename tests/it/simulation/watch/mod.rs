//! Checks what a `JobWatch` and its `Failsafe` promise while every kind of fault occurs at once,
//! from a seed.
//!
//! MX loses deliveries for good, delays, repeats and reorders them. Jobs are expected before, between
//! and after their webhooks, by clients that stop waiting, on replicas that are killed at any step.
//! The replicas share a store that fails, hangs, and loses answers, and a ledger. Reads fail, hang,
//! and answer older and newer states. Time is paused and there are no sockets, so a seed always gives
//! the same run. The promises are checked at every step: see `World`.

mod broken;
mod client;
mod mx;
mod plan;
mod replica;
mod world;

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicU64, Ordering};

use broken::Broken;
use plan::Plan;
use world::World;

/// The number of seeds unless `MX_SIMULATION_SEEDS` sets it.
const SEEDS: u64 = 4_000;

/// A run takes longer than one of the other simulation, so only one of so many seeds is tried.
const SHARE: u64 = 40;

/// Returns the trace of this seed's run, and its failure, if any.
fn run(seed: u64, broken: Option<Broken>) -> (Vec<String>, Result<(), String>) {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .start_paused(true)
        .build()
        .unwrap();
    mx_job_webhook::testing::seed_random_numbers(seed);
    let mut random = fastrand::Rng::with_seed(seed);
    let plan = Plan::draw(&mut random);
    let world = World::new(plan, random, broken);
    let run = || runtime.block_on(world.clone().run());
    let result = catch_unwind(AssertUnwindSafe(run));
    let result = result.unwrap_or_else(|_| Err("the run panicked".to_owned()));
    let trace = world.take_trace();
    drop(runtime);
    world.forget_the_replicas();
    (trace, result)
}

/// Returns the first failing seed with its trace, tried on all processors.
fn first_failure(seeds: u64, broken: Option<Broken>) -> Option<(u64, String)> {
    let next = AtomicU64::new(0);
    let search = || {
        loop {
            let seed = next.fetch_add(1, Ordering::Relaxed);
            if seed >= seeds {
                return None;
            }
            if let (trace, Err(wrong)) = run(seed, broken) {
                next.store(seeds, Ordering::Relaxed);
                return Some((seed, format!("{}\n{wrong}", trace.join("\n"))));
            }
        }
    };
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    std::thread::scope(|scope| {
        let searches: Vec<_> = (0..threads).map(|_| scope.spawn(search)).collect();
        let found = searches.into_iter().filter_map(|it| it.join().unwrap());
        found.min_by_key(|(seed, _)| *seed)
    })
}

fn seeds() -> u64 {
    let set = std::env::var("MX_SIMULATION_SEEDS");
    set.map_or(SEEDS, |seeds| seeds.parse().unwrap()) / SHARE
}

#[test]
fn no_expected_job_is_forgotten_with_any_seed() {
    let failure = match std::env::var("MX_SIMULATION_SEED") {
        Ok(seed) => {
            let seed = seed.parse().unwrap();
            let (trace, result) = run(seed, None);
            let failed = |wrong| (seed, format!("{}\n{wrong}", trace.join("\n")));
            result.err().map(failed)
        }
        Err(_) => first_failure(seeds(), None),
    };
    if let Some((seed, wrong)) = failure {
        panic!(
            "{wrong}\nreplay it with\n  MX_SIMULATION_SEED={seed} \
             cargo test --all-features --test it no_expected_job_is_forgotten"
        );
    }
}

#[test]
fn the_simulation_finds_every_broken_watch() {
    for (broken, expected) in [
        (Broken::ForgetsTheLookBack, "was not heard of, although"),
        (Broken::HearsBeforeSuccess, "before its callback succeeded"),
        (Broken::LosesTheLease, "is read twice at once"),
        (Broken::DropsWhatIsDue, "was neither heard nor given up"),
    ] {
        let (_, wrong) = first_failure(300, Some(broken))
            .unwrap_or_else(|| panic!("the simulation did not find {broken:?}"));
        assert!(wrong.contains(expected), "{broken:?}: {wrong}");
    }
}

#[test]
fn a_seed_always_gives_the_same_run() {
    for seed in 0..5 {
        let (trace, _) = run(seed, None);
        let (again, _) = run(seed, None);
        assert_eq!(trace, again, "seed {seed}");
    }
}
