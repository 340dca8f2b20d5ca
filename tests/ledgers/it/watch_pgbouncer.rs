//! The watch on PostgreSQL behind PgBouncer in both of its modes.

use std::time::{Duration, Instant};

use mx_job_webhook::testing::check_watch_store;
use mx_job_webhook::watch::{JobWatch, PostgresWatchStore, WatchStore as _};
use sqlx::postgres::PgConnectOptions;
use tokio::time::sleep;

use crate::engines::pgbouncer::Version::{V1_18, V1_24};
use crate::engines::pgbouncer::{self, Version};
use crate::engines::postgres::{Database, at, pool};
use crate::support::LEASE;
use crate::watch_load::{Load, deliver, new_guid, watch};
use harness::servers::{Folder, Server};

/// sqlx sends this parameter when it connects, and PgBouncer does not know it.
const IGNORE: (&str, &str) = ("ignore_startup_parameters", "extra_float_digits");
const TRANSACTION: (&str, &str) = ("pool_mode", "transaction");
const SESSION: (&str, &str) = ("pool_mode", "session");
/// Fewer server connections than clients, so that the clients share them.
const FEW: (&str, &str) = ("default_pool_size", "3");
const ENOUGH: (&str, &str) = ("default_pool_size", "64");
const TRACKS: (&str, &str) = ("max_prepared_statements", "100");
const MIXES_UP: (&str, &str) = ("max_prepared_statements", "0");

/// How the connection that listens is opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Listener {
    /// As the pool's.
    Default,
    /// `with_listener`, past the pooler.
    Direct,
    /// `with_listener`, through the pooler.
    Through,
}

/// A database with a PgBouncer in front of it.
struct Behind {
    pgbouncer: Server,
    database: Database,
    _folder: Folder,
}

impl Behind {
    async fn new(version: Version, settings: &[(&str, &str)]) -> Self {
        let (folder, database) = (Folder::new(), Database::create("").await);
        let direct = PostgresWatchStore::new(database.pool());
        direct.create_table().await.unwrap();
        let pgbouncer = pgbouncer::start(&folder, version, database.server(), settings);
        Self {
            pgbouncer,
            database,
            _folder: folder,
        }
    }

    fn options(&self) -> PgConnectOptions {
        at(self.pgbouncer.address).database(&self.database.name)
    }

    fn store(&self, listener: Listener) -> PostgresWatchStore {
        let store = PostgresWatchStore::new(pool(self.options()));
        match listener {
            Listener::Default => store,
            Listener::Direct => store.with_listener(self.database.options()),
            Listener::Through => store.with_listener(self.options()),
        }
    }

    fn direct(&self) -> PostgresWatchStore {
        PostgresWatchStore::new(self.database.pool())
    }
}

/// Returns how long a waiter takes to hear of an event that was recorded elsewhere.
async fn heard_after(here: &JobWatch, there: &JobWatch) -> Duration {
    let job = new_guid();
    let expected = here.expect(&job).await.unwrap();
    let waiting = tokio::spawn(async move {
        let heard = expected.within(Duration::from_secs(60)).await;
        (heard.unwrap().is_some(), Instant::now())
    });
    sleep(Duration::from_millis(100)).await;
    deliver(there, &job).await.unwrap();
    let acknowledged = Instant::now();
    let (is_heard, at) = waiting.await.unwrap();
    assert!(is_heard);
    at.saturating_duration_since(acknowledged)
}

/// A set-up that the guide recommends: expecting, hearing, and claiming work, and so does the contract.
async fn works(version: Version, settings: &[(&str, &str)], listener: Listener, limit: Duration) {
    let behind = Behind::new(version, settings).await;
    if limit == AT_ONCE {
        check_watch_store(behind.store(listener)).await;
    }
    let (here, there) = (watch(behind.store(listener)), watch(behind.store(listener)));
    // Opens the connection that listens.
    heard_after(&here, &there).await;
    let mut slowest = Duration::ZERO;
    let times = if limit < Duration::from_secs(2) {
        10
    } else {
        1
    };
    for _ in 0..times {
        slowest = slowest.max(heard_after(&here, &there).await);
    }
    println!(
        "the watch, {version:?}, {}, {listener:?}: heard after {slowest:.2?} at most",
        settings[1].1
    );
    assert!(
        slowest < limit,
        "{version:?} {settings:?} {listener:?}: {slowest:?}"
    );
    let (one, other, job) = (behind.store(listener), behind.store(listener), new_guid());
    let here = here.with_patience(Duration::ZERO);
    let _ = here.expect(&job).await.unwrap();
    let (one, other) = tokio::join!(one.claim_due(8, LEASE), other.claim_due(8, LEASE));
    let claimed = [one.unwrap(), other.unwrap()].concat();
    let claims = claimed.iter().filter(|(claimed, _)| *claimed == job);
    assert_eq!(claims.count(), 1, "claimed by one of two");
}

const AT_ONCE: Duration = Duration::from_secs(1);
const BY_READING: Duration = Duration::from_secs(12);

#[tokio::test]
async fn transaction_mode_with_a_listener_past_the_pooler_hears_at_once() {
    let settings = [IGNORE, TRANSACTION, FEW, TRACKS];
    works(V1_24, &settings, Listener::Direct, AT_ONCE).await;
}

#[tokio::test]
async fn transaction_mode_without_a_listener_hears_later() {
    let settings = [IGNORE, TRANSACTION, FEW, TRACKS];
    works(V1_24, &settings, Listener::Default, BY_READING).await;
}

#[tokio::test]
async fn session_mode_with_a_listener_through_the_pooler_hears_at_once() {
    let settings = [IGNORE, SESSION, ENOUGH];
    tokio::join!(
        works(V1_18, &settings, Listener::Through, AT_ONCE),
        works(V1_24, &settings, Listener::Through, AT_ONCE),
    );
}

#[tokio::test]
async fn session_mode_without_a_listener_hears_later() {
    let settings = [IGNORE, SESSION, ENOUGH];
    works(V1_24, &settings, Listener::Default, BY_READING).await;
}

/// PgBouncer restarts under load, as for an update of its configuration.
async fn restarts(mode: (&str, &str), size: (&str, &str), listener: Listener) {
    let mut behind = Behind::new(V1_24, &[IGNORE, mode, size, TRACKS]).await;
    let replica = || watch(behind.store(listener));
    let mut load = Load::on(&replica(), &replica());
    load.wait_through(10).await;
    for _ in 0..3 {
        load.records(50).await;
        behind.pgbouncer.crash();
        sleep(Duration::from_millis(200)).await;
        behind.pgbouncer.restart();
    }
    load.records(50).await;
    let what = format!("the watch, PgBouncer 1.24, {}, 3 restarts", mode.1);
    let outcome = load.stop(behind.direct(), &what).await;
    outcome.nothing_is_forgotten();
    assert!(outcome.silence < Duration::from_secs(5), "{outcome}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_restart_of_pgbouncer_forgets_nothing() {
    tokio::join!(
        restarts(TRANSACTION, FEW, Listener::Direct),
        restarts(SESSION, ENOUGH, Listener::Through),
    );
}

/// A pooler that mixes up statements: many calls fail, and what a call has acknowledged stands.
async fn mixes_up(version: Version, settings: &[(&str, &str)]) {
    let behind = Behind::new(version, settings).await;
    let replica = || watch(behind.store(Listener::Direct));
    let load = Load::on(&replica(), &replica());
    load.refuses(100).await;
    let what = format!("the watch, {version:?}, statements are mixed up");
    let outcome = load.stop(behind.direct(), &what).await;
    assert_eq!(outcome.forgotten_jobs, [0; 0]);
    assert_eq!(outcome.forgotten_events, [0; 0]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn statements_that_are_mixed_up_forget_nothing() {
    tokio::join!(
        mixes_up(V1_18, &[IGNORE, TRANSACTION, FEW]),
        mixes_up(V1_24, &[IGNORE, TRANSACTION, FEW, MIXES_UP]),
    );
}
