//! The watch on PostgreSQL while a standby takes over from the primary.

use std::time::{Duration, Instant};

use mx_job_webhook::watch::PostgresWatchStore;

use crate::failover::{Pair, Replication, pool};
use crate::proxy::Network;
use crate::watch_load::{Load, Outcome, watch};

/// The result of a failover, and how many jobs and events the standby had for certain.
struct Failover {
    outcome: Outcome,
    replayed: (usize, usize),
}

/// Fails over under load. The standby lags when the primary crashes.
async fn fail_over(replication: Replication, commits_are_local: bool) -> Failover {
    let pair = Pair::new(replication).await;
    let direct = pool(pair.primary.options());
    let created = PostgresWatchStore::new(direct.clone()).create_table().await;
    created.unwrap();
    direct.close().await;
    let options = match commits_are_local {
        false => pair.options(),
        true => pair.options().options([("synchronous_commit", "local")]),
    };
    let replica = || watch(PostgresWatchStore::new(pool(options.clone())));
    let mut load = Load::on(&replica(), &replica());
    load.wait_through(20).await;
    load.records(100).await;
    let replayed = load.recorded();
    pair.wait_until_it_has_replayed().await;
    pair.stream.set(Network::Hangs);
    // A change that waits for the standby finally fails; one that does not wait is lost with the primary.
    tokio::select! {
        () = load.refuses(4) => {}
        () = load.records(50) => {}
    }
    let crash = Instant::now();
    let (standby, _address, _folder) = pair.fail_over().await;
    let promoted = crash.elapsed();
    load.records(1).await;
    let works = crash.elapsed();
    load.records(100).await;
    let what = format!("the watch, {replication:?}, local commits: {commits_are_local}");
    println!("{what}: promoted in {promoted:.2?}, recorded again after {works:.2?}");
    let store = PostgresWatchStore::new(standby.pool());
    let outcome = load.stop(store, &what).await;
    Failover { outcome, replayed }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_synchronous_standby_forgets_no_expected_job_and_no_event() {
    let failover = fail_over(Replication::Synchronous, false).await;
    failover.outcome.nothing_is_forgotten();
}

/// The application has chosen this for its own transactions. The changes of the watch remain durable.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_synchronous_standby_forgets_nothing_if_local_commits_are_the_default() {
    let failover = fail_over(Replication::Synchronous, true).await;
    failover.outcome.nothing_is_forgotten();
}

/// The standby lacks the latest changes: the failsafe does not read those jobs. A waiter still hears of an event
/// that is delivered afterwards.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_asynchronous_standby_forgets_only_what_it_lacked() {
    let Failover { outcome, replayed } = fail_over(Replication::Asynchronous, false).await;
    let (jobs, events) = (&outcome.forgotten_jobs, &outcome.forgotten_events);
    assert!(jobs.iter().all(|job| *job >= replayed.0), "{jobs:?}");
    assert!(
        events.iter().all(|event| *event >= replayed.1),
        "{events:?}"
    );
    outcome.every_waiter_hears();
    // Without a loss, this test and those of a synchronous standby would show nothing.
    assert!(jobs.len() >= 10 && events.len() >= 10, "{outcome}");
    assert!(outcome.silence < Duration::from_secs(20), "{outcome}");
}
