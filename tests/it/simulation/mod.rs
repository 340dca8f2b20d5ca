//! Checks the guarantees while every kind of fault occurs at once, from a seed.
//!
//! A stand-in for MX delivers events with dates of every kind or none, with retries, duplicates,
//! reordering and hang-ups. The receiver's callbacks succeed, fail, panic and stall, its
//! ledger fails, and it is killed and restarted. Time is paused and there are no sockets, so a seed always gives the same run.
//! The guarantees are checked at every step: see `World`.

mod broken;
mod plan;
mod receiver;
mod sender;
#[cfg(feature = "test-util")]
mod watch;
mod world;

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicU64, Ordering};

use broken::Broken;
use plan::Plan;
use world::World;

/// The number of seeds unless `MX_SIMULATION_SEEDS` sets it.
const SEEDS: u64 = 1_000;

/// A run with a ledger that outlives the process takes longer, so only one of so many seeds is tried.
const SHARE: u64 = 10;

/// What is different in a run, beside its seed.
#[derive(Clone, Copy, Default)]
struct Setting {
    broken: Option<Broken>,
    keeps_ledger: bool,
}

/// Returns the trace of this seed's run; if it failed, as a text with the failure.
fn run(seed: u64, setting: Setting) -> Result<Vec<String>, String> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .start_paused(true)
        .build()
        .unwrap();
    let run = || {
        let mut random = fastrand::Rng::with_seed(seed);
        let mut plan = Plan::draw(&mut random);
        plan.keeps_ledger = setting.keeps_ledger;
        let world = World::new(plan, random, setting.broken);
        let held = runtime.block_on(world.clone().run());
        let trace = world.trace();
        held.map_err(|wrong| format!("{}\n{wrong}", trace.join("\n")))?;
        Ok(trace)
    };
    catch_unwind(AssertUnwindSafe(run)).unwrap_or_else(|_| Err("the run panicked".to_owned()))
}

/// Returns the first failing seed, tried on all processors.
fn first_failure(seeds: u64, setting: Setting) -> Option<(u64, String)> {
    let next = AtomicU64::new(0);
    let search = || {
        loop {
            let seed = next.fetch_add(1, Ordering::Relaxed);
            if seed >= seeds {
                return None;
            }
            if let Err(wrong) = run(seed, setting) {
                next.store(seeds, Ordering::Relaxed);
                return Some((seed, wrong));
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
    set.map_or(SEEDS, |seeds| seeds.parse().unwrap())
}

#[test]
fn the_guarantees_hold_with_every_seed() {
    check(
        seeds(),
        Setting::default(),
        "the_guarantees_hold_with_every",
    );
}

/// A process is killed between a claim and its end, and another one finds both in the ledger.
#[test]
fn the_guarantees_hold_with_a_ledger_that_outlives_the_process() {
    let setting = Setting {
        keeps_ledger: true,
        ..Setting::default()
    };
    check(seeds() / SHARE, setting, "a_ledger_that_outlives");
}

fn check(seeds: u64, setting: Setting, test: &str) {
    let failure = match std::env::var("MX_SIMULATION_SEED") {
        Ok(seed) => {
            let seed = seed.parse().unwrap();
            run(seed, setting).err().map(|wrong| (seed, wrong))
        }
        Err(_) => first_failure(seeds, setting),
    };
    if let Some((seed, wrong)) = failure {
        panic!(
            "{wrong}\nreplay it with\n  MX_SIMULATION_SEED={seed} \
             cargo test --all-features --test it {test}"
        );
    }
}

/// A claim that was sent before its sender left reaches the ledger later, so its lease is the last to expire.
#[test]
fn the_guarantees_hold_with_a_claim_that_is_later_than_its_sender() {
    let trace = run(41_778, Setting::default()).unwrap();
    let before = trace.split(|line| line == "calm").next().unwrap();
    let last = |what: String| before.iter().rposition(|line| line.starts_with(&what));
    let is_later = |event: &usize| {
        let claimed = last(format!("claimed {event}"));
        claimed > last(format!("left {event}")) && claimed > last(format!("answered {event} "))
    };
    let later: Vec<_> = (0..9).filter(is_later).collect();
    assert!(!later.is_empty(), "{trace:#?}");
}

/// Three callbacks of an event run at once, because two leases have expired, and all of them succeed.
#[test]
fn the_guarantees_hold_after_three_successes_of_an_event() {
    let trace = run(1_611_016, Setting::default()).unwrap();
    let lives = trace.split(|line| line == "restart");
    let most = lives.flat_map(|life| {
        (0..12).map(|event| {
            let success = format!("succeeded {event}");
            life.iter().filter(|line| **line == success).count()
        })
    });
    assert_eq!(most.max(), Some(3), "{trace:#?}");
}

#[test]
fn the_simulation_finds_every_broken_ledger() {
    for (broken, expected) in [
        (Broken::CommitsBeforeSuccess, "acknowledged"),
        (Broken::AcknowledgesInFlight, "acknowledged"),
        (Broken::NeverReleases, "in flight"),
        (Broken::NeverCommits, "settled"),
        (Broken::ForgetsTheOvertaken, "recorded"),
    ] {
        let setting = Setting {
            broken: Some(broken),
            ..Setting::default()
        };
        let (_, wrong) = first_failure(500, setting)
            .unwrap_or_else(|| panic!("the simulation did not find {broken:?}"));
        assert!(wrong.contains(expected), "{broken:?}: {wrong}");
    }
}

#[test]
fn a_seed_always_gives_the_same_run() {
    for seed in 0..20 {
        let trace = || run(seed, Setting::default()).unwrap();
        assert_eq!(trace(), trace(), "seed {seed}");
    }
}
