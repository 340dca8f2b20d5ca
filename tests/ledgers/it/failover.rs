//! The ledger on PostgreSQL while a standby takes over from the primary, and while the primary is
//! read-only.
//!
//! sqlx knows one address, such as a load balancer's or a DNS name. A failover moves it to the standby.

use std::time::{Duration, Instant};

use mx_job_webhook::ledger::{Claim, Commit, Ledger as _, PostgresLedger};
use mx_job_webhook::{DedupeLayer, JobEvent, JobRouter, Receipt};
use sqlx::postgres::{PgConnectOptions, PgPoolOptions};
use sqlx::{PgPool, Row as _};
use tower::{BoxError, Layer as _, ServiceExt as _};

use super::proxy::{Network, Proxy};
use crate::engines::postgres::{Database, Postgres, Version, at};
use crate::load::{self, Load, Plan, Tally};
use crate::support::{LEASE, completed, granted, name, unique_id};
use harness::servers::Folder;

/// Without waiting for the disk: no test cuts the machine's power.
const SETTINGS: [&str; 3] = ["fsync=off", "wal_level=replica", "max_wal_senders=4"];

/// Longer than a call to a working database takes, and shorter than the patience of the tests.
const LIMIT: Duration = Duration::from_secs(2);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Replication {
    /// A commit waits until the standby has it.
    Synchronous,
    /// The standby follows asynchronously.
    Asynchronous,
}

/// A primary, a standby that streams from it, and the address at which clients find the current
/// primary.
pub(crate) struct Pair {
    pub(crate) primary: Postgres,
    standby: Postgres,
    /// Between the standby and the primary.
    pub(crate) stream: Proxy,
    /// Between clients and the primary.
    address: Proxy,
    _folder: Folder,
}

impl Pair {
    pub(crate) async fn new(replication: Replication) -> Self {
        let folder = Folder::new();
        let names = match replication {
            Replication::Synchronous => "synchronous_standby_names=*",
            Replication::Asynchronous => "synchronous_standby_names=",
        };
        let mut settings = SETTINGS.to_vec();
        settings.push(names);
        let version = Version::V15;
        let primary = Postgres::primary(&folder, version, &settings);
        let stream = Proxy::to(primary.address()).await;
        let through = stream.address;
        // This runs in a thread, because the standby streams through the proxy in this runtime.
        let (folder, standby) = tokio::task::spawn_blocking(move || {
            let standby = Postgres::standby_of(&folder, version, through, &SETTINGS);
            (folder, standby)
        })
        .await
        .unwrap();
        let address = Proxy::to(primary.address()).await;
        let pair = Self {
            primary,
            standby,
            stream,
            address,
            _folder: folder,
        };
        pair.wait_until_it_streams(replication).await;
        let direct = pair.primary.pool();
        PostgresLedger::new(direct.clone())
            .create_table()
            .await
            .unwrap();
        load::create_effects(&direct).await;
        direct.close().await;
        pair.wait_until_it_has_replayed().await;
        pair
    }

    async fn wait_until_it_streams(&self, replication: Replication) {
        let state = match replication {
            Replication::Synchronous => "sync",
            Replication::Asynchronous => "async",
        };
        let streams = format!("state = 'streaming' AND sync_state = '{state}'");
        self.wait_until_the_standby(&streams).await;
    }

    pub(crate) async fn wait_until_it_has_replayed(&self) {
        self.wait_until_the_standby("replay_lsn >= pg_current_wal_lsn()")
            .await;
    }

    /// Waits until the primary reports this condition of the standby.
    async fn wait_until_the_standby(&self, condition: &str) {
        let query = format!("SELECT FROM pg_stat_replication WHERE {condition}");
        let direct = self.primary.pool();
        let patience = Instant::now() + Duration::from_secs(60);
        loop {
            let query = sqlx::query(sqlx::AssertSqlSafe(query.clone()));
            if query.fetch_optional(&direct).await.unwrap().is_some() {
                return direct.close().await;
            }
            assert!(Instant::now() < patience, "never {condition}");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    pub(crate) fn options(&self) -> PgConnectOptions {
        at(self.address.address)
    }

    /// New connections lead to the standby; existing ones stay.
    pub(crate) fn lead_to_the_standby(&self) {
        self.address.lead_to(self.standby.address());
    }

    pub(crate) fn lead_to_the_primary(&self) {
        self.address.lead_to(self.primary.address());
    }

    /// The primary crashes, the standby takes over, and the address moves to it.
    pub(crate) async fn fail_over(mut self) -> (Postgres, Proxy, Folder) {
        let Self {
            standby,
            address,
            stream,
            ref mut primary,
            _folder: folder,
        } = self;
        stream.set(Network::Down);
        primary.crash();
        let standby = tokio::task::spawn_blocking(move || {
            standby.promote();
            standby
        });
        let standby = standby.await.unwrap();
        address.move_to(standby.address());
        (standby, address, folder)
    }
}

pub(crate) fn pool(options: PgConnectOptions) -> PgPool {
    PgPoolOptions::new()
        .max_connections(16)
        .acquire_timeout(Duration::from_secs(10))
        .connect_lazy_with(options)
}

fn layer(pool: &PgPool) -> DedupeLayer<PostgresLedger> {
    DedupeLayer::new(PostgresLedger::new(pool.clone()))
        .with_lease(Duration::from_secs(2))
        .with_ledger_timeout(LIMIT)
}

/// The result of a failover, with effects in memory and in the database by `commit_in`.
struct Outcome {
    memory: Tally,
    database: Tally,
    /// Acknowledged events whose callbacks ran again.
    forgotten: usize,
}

/// Fails over under load. The standby lags when the primary crashes.
///
/// Commits may be local by default: by the pool's setting for one kind of effects, by the
/// role's for the other.
async fn fail_over(replication: Replication, are_local: bool) -> Outcome {
    let pair = Pair::new(replication).await;
    let pools = match are_local {
        false => [pool(pair.options()), pool(pair.options())],
        true => {
            let local = [("synchronous_commit", "local")];
            let role =
                "CREATE ROLE app LOGIN SUPERUSER; ALTER ROLE app SET synchronous_commit = local";
            let direct = pair.primary.pool();
            sqlx::raw_sql(role).execute(&direct).await.unwrap();
            direct.close().await;
            [
                pool(pair.options().options(local)),
                pool(pair.options().username("app")),
            ]
        }
    };
    let (memory, database) = (Tally::new(), Tally::new());
    let services = (
        [layer(&pools[0]).layer(load::in_memory(&memory))],
        [layer(&pools[1]).layer(load::in_the_database(&pools[1]))],
    );
    let plan = Plan {
        at_once: 8,
        ..Plan::of(usize::MAX)
    };
    let loads = (
        Load::start(plan, &memory, &services.0),
        Load::start(plan, &database, &services.1),
    );
    tokio::join!(memory.more(100), database.more(100));
    pair.stream.set(Network::Hangs);
    // A commit that waits for the standby finally fails; one that does not wait is
    // acknowledged and lost with the primary.
    let acknowledged = async { tokio::join!(memory.more(100), database.more(100)) };
    tokio::select! {
        () = memory.more_unavailable(8) => {}
        _ = acknowledged => {}
    }
    let crash = Instant::now();
    let (standby, _address, _folder) = pair.fail_over().await;
    let promoted = crash.elapsed();
    tokio::join!(memory.more(1), database.more(1));
    let works = crash.elapsed();
    tokio::join!(memory.more(100), database.more(100));
    tokio::join!(loads.0.finish(), loads.1.finish());

    let direct = standby.pool();
    load::read_effects(&database, &direct).await;
    direct.close().await;
    let doubled = memory.doubled().len();
    let forgotten = load::forgotten(&memory, &services.0[0]).await;
    let set_up = format!("{replication:?}, local commits: {are_local}");
    println!("{set_up}: {memory}");
    println!("{set_up}, commit_in: {database}");
    println!(
        "{set_up}: {forgotten} acknowledged in memory were forgotten, {doubled} doubled by then"
    );
    println!("{set_up}: promoted in {promoted:?}, the first acknowledgement after {works:?}");
    Outcome {
        memory,
        database,
        forgotten,
    }
}

impl Outcome {
    fn nothing_is_lost(&self) {
        assert_eq!(self.memory.lost(), [""; 0]);
        assert_eq!(self.database.lost(), [""; 0], "commit_in");
        assert_eq!(self.database.doubled(), [""; 0], "commit_in");
        assert_eq!(self.forgotten, 0, "acknowledged events are settled");
        self.everything_is_acknowledged();
    }

    fn everything_is_acknowledged(&self) {
        for tally in [&self.memory, &self.database] {
            tally.look(|counts| assert_eq!(counts.given_up, 0));
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_synchronous_standby_has_everything_that_was_acknowledged() {
    let outcome = fail_over(Replication::Synchronous, false).await;
    outcome.nothing_is_lost();
}

/// The application has chosen this for its own transactions. The ledger's remain durable.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_synchronous_standby_has_everything_if_local_commits_are_the_default() {
    fail_over(Replication::Synchronous, true)
        .await
        .nothing_is_lost();
}

/// The standby lacks the latest acknowledged events, which MX does not deliver again: their effects in
/// the database are lost with their entries. A second delivery of one runs its callback again.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_asynchronous_standby_loses_the_latest_acknowledged_events() {
    let outcome = fail_over(Replication::Asynchronous, false).await;
    outcome.everything_is_acknowledged();
    assert_eq!(outcome.database.doubled(), [""; 0], "commit_in");
}

/// A commit is as durable as the application's setting for all its commits, and at least on the disks of
/// the synchronous standbys.
#[tokio::test]
async fn a_weak_setting_is_raised_for_a_commit_and_a_strong_one_is_kept() {
    let mut at_fault = Vec::new();
    let database = Database::create("").await;
    let options = [
        ("off", "on"),
        ("local", "on"),
        ("on", "on"),
        ("remote_apply", "remote_apply"),
    ];
    for (own, expected) in options {
        let pool = pool(database.options().options([("synchronous_commit", own)]));
        let ledger = PostgresLedger::new(pool.clone());
        ledger.create_table().await.unwrap();
        let seen = Tally::new();
        let (inner, sees) = (pool.clone(), seen.clone());
        let jobs = JobRouter::new().on_completed(move |event: JobEvent| {
            let (pool, seen) = (inner.clone(), sees.clone());
            async move {
                let mut transaction = pool.begin().await?;
                let ledger = PostgresLedger::new(pool.clone());
                ledger.commit_in(&mut transaction, &event).await?;
                let shown = sqlx::query("SHOW synchronous_commit").fetch_one(&mut *transaction);
                seen.effect(shown.await?.get(0));
                transaction.commit().await?;
                Ok::<_, BoxError>(())
            }
        });
        let service = DedupeLayer::new(ledger).layer(jobs);
        let receipt = service.oneshot(completed(&unique_id(), 1)).await;
        assert_eq!(receipt.unwrap(), Receipt::Handled);
        let is = seen.look(|counts| counts.effects.keys().cloned().collect::<String>());
        if is != expected {
            at_fault.push(format!("{own}: {is}, not {expected}"));
        }
        pool.close().await;
    }
    assert_eq!(at_fault, [""; 0]);
}

/// Commits wait for the standby, and the server keeps each of them even after its client has hung up. The ledger works
/// again when the standby does.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_ledger_recovers_from_an_absent_synchronous_standby() {
    let pair = Pair::new(Replication::Synchronous).await;
    let direct = PgPoolOptions::new()
        .max_connections(1)
        .connect_with(pair.primary.options())
        .await
        .unwrap();
    let pool = pool(pair.options());
    let tally = Tally::new();
    let layer = DedupeLayer::new(PostgresLedger::new(pool.clone()))
        .with_lease(Duration::from_secs(30))
        .with_ledger_timeout(Duration::from_millis(400));
    let service = layer.layer(load::in_memory(&tally));
    // These senders move on to the next event after a while.
    let plan = Plan {
        patience: Duration::from_millis(100),
        ..Plan::of(usize::MAX)
    };
    let load = Load::start(plan, &tally, std::slice::from_ref(&service));
    tally.more(100).await;
    pair.stream.set(Network::Hangs);
    let away = Instant::now();
    tally.more_unavailable(48).await;
    let count = "SELECT count(*) FROM pg_stat_activity WHERE wait_event = 'SyncRep'";
    let waiting: i64 = sqlx::query(count).fetch_one(&direct).await.unwrap().get(0);
    let count = "SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'client backend'";
    let all: i64 = sqlx::query(count).fetch_one(&direct).await.unwrap().get(0);
    println!(
        "a standby away for {:?}: {waiting} of {all} connections to the primary wait for it, by a pool of 16",
        away.elapsed()
    );
    pair.stream.set(Network::Works);
    let back = Instant::now();
    tally.more(100).await;
    println!(
        "the standby is back: 100 acknowledged after {:?}",
        back.elapsed()
    );
    load.finish().await;
    println!("a standby away for a while: {tally}");
    assert_eq!(tally.lost(), [""; 0]);
    assert_eq!(load::forgotten(&tally, &service).await, 0);
}

/// A primary is read-only, as some providers make it before a switchover. The connections
/// to it are usable again afterwards.
#[tokio::test]
async fn a_read_only_primary_causes_no_new_connections() {
    const CALLS: usize = 40;
    let folder = Folder::new();
    let primary = Postgres::primary(&folder, Version::V15, &SETTINGS);
    let direct = primary.pool();
    PostgresLedger::new(direct.clone())
        .create_table()
        .await
        .unwrap();
    let proxy = Proxy::to(primary.address()).await;
    let ledger = PostgresLedger::new(pool(at(proxy.address)));
    let run = unique_id();
    let event = |number: usize| name(&format!("{run}-{number}"), 1);
    let claimed = granted(ledger.claim(&event(0), LEASE).await.unwrap());

    read_only(&direct, true).await;
    let before = proxy.connections();
    for number in 1..CALLS {
        let error = ledger.claim(&event(number), LEASE).await.unwrap_err();
        assert!(error.to_string().contains("read-only"), "{error}");
        ledger.commit(&event(0), claimed).await.unwrap_err();
    }
    let calls = 2 * (CALLS - 1);
    let connections = proxy.connections() - before;
    println!("a primary that may not write: {connections} connections for {calls} calls");
    read_only(&direct, false).await;
    assert_eq!(
        ledger.commit(&event(0), claimed).await.unwrap(),
        Commit::Settled
    );
    granted(ledger.claim(&event(1), LEASE).await.unwrap());
    direct.close().await;
    assert!(
        connections <= 4,
        "{connections} connections for {calls} calls"
    );
}

/// Sets it for all other sessions, and waits until they have it.
pub(crate) async fn read_only(direct: &PgPool, on: bool) {
    let set = match on {
        true => "ALTER SYSTEM SET default_transaction_read_only = on",
        false => "ALTER SYSTEM SET default_transaction_read_only = off",
    };
    let mut connection = direct.acquire().await.unwrap();
    for statement in [set, "SELECT pg_reload_conf()"] {
        sqlx::raw_sql(statement)
            .execute(&mut *connection)
            .await
            .unwrap();
    }
    drop(connection);
    // A new or idle connection has it at once; the server reads it a moment after the signal.
    let patience = Instant::now() + Duration::from_secs(30);
    let expected = if on { "on" } else { "off" };
    loop {
        let shown = sqlx::query("SHOW default_transaction_read_only").fetch_one(direct);
        if shown.await.unwrap().get::<String, _>(0) == expected {
            return;
        }
        assert!(
            Instant::now() < patience,
            "the server does not read its settings"
        );
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// A pool's connections lead to a server that stays a standby, because the address moved late. The ledger
/// finds the primary without a restart.
#[tokio::test]
async fn connections_to_a_standby_are_replaced_after_the_address_moves() {
    let pair = Pair::new(Replication::Asynchronous).await;
    pair.address.move_to(pair.standby.address());
    let ledger = PostgresLedger::new(pool(pair.options()));
    let (run, patience) = (unique_id(), Instant::now() + Duration::from_secs(60));
    let event = |number: usize| name(&format!("{run}-{number}"), 1);
    for number in 0..8 {
        let error = ledger.claim(&event(number), LEASE).await.unwrap_err();
        assert!(error.to_string().contains("read-only"), "{error}");
    }
    // One new connection a second is enough to find the address's next server.
    let (before, start) = (pair.address.connections(), Instant::now());
    while start.elapsed() < Duration::from_secs(2) {
        ledger.claim(&event(0), LEASE).await.unwrap_err();
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    let made = pair.address.connections() - before;
    assert!((1..=4).contains(&made), "{made} connections");
    // Existing connections stay with the old server.
    pair.address.lead_to(pair.primary.address());
    let mut errors = 0;
    let token = loop {
        match ledger.claim(&event(0), LEASE).await {
            Ok(claim) => break granted(claim),
            Err(error) => assert!(Instant::now() < patience, "{error}"),
        }
        errors += 1;
        tokio::time::sleep(Duration::from_millis(20)).await;
    };
    println!("connections to a standby: {errors} errors after the address has moved");
    assert_eq!(
        ledger.commit(&event(0), token).await.unwrap(),
        Commit::Settled
    );
    assert_eq!(
        ledger.claim(&event(0), LEASE).await.unwrap(),
        Claim::Settled
    );
}
