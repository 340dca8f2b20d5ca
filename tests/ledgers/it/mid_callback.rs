//! A server restarts, refuses writes or fails over while callbacks run: each callback has succeeded once, and
//! none runs again.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use mx_job_webhook::ledger::{Ledger, PostgresLedger, RedisLedger, Sentinels};
use mx_job_webhook::{DedupeLayer, JobEvent, JobRouter};
use redis::Client;
use sqlx::PgPool;
use tokio::sync::watch;
use tower::{Layer as _, ServiceExt as _};

use crate::engines::postgres::{Postgres, Version};
use crate::engines::redis::{PASSWORD, SENTINEL_PASSWORD, ask, wait_until, watched};
use crate::support::{completed, unique_id};
use harness::servers::{self, Folder, Server};

const AT_ONCE: usize = 32;

/// Longer than two commits without a pause between them, and shorter than the patience of one commit.
const OUTAGE: Duration = Duration::from_secs(2);

/// A generous limit for every step.
const PATIENCE: Duration = Duration::from_secs(40);

/// Delivers events at once. The server breaks while all of their callbacks run; the callbacks succeed; the server is
/// repaired. Each event is then delivered until it is acknowledged, as MX does.
async fn repeats_nothing<L, Breaks, Mends>(what: &str, ledger: L, breaks: Breaks, mends: Mends)
where
    L: Ledger,
    Breaks: FnOnce() + Send + 'static,
    Mends: FnOnce() + Send + 'static,
{
    let (broken, is_broken) = watch::channel(false);
    let ran = Arc::new(Mutex::new(HashMap::<String, usize>::new()));
    let seen = ran.clone();
    let callback = move |event: JobEvent| {
        let mut is_broken = is_broken.clone();
        *seen
            .lock()
            .unwrap()
            .entry(event.guid.to_string())
            .or_default() += 1;
        async move {
            is_broken.wait_for(|broken| *broken).await.unwrap();
        }
    };
    let once = DedupeLayer::new(ledger).layer(JobRouter::new().on_completed(callback));
    let events: Vec<_> = (0..AT_ONCE).map(|_| completed(&unique_id(), 1)).collect();
    let mut deliveries = tokio::task::JoinSet::new();
    for event in events.clone() {
        deliveries.spawn(once.clone().oneshot(event));
    }
    let patience = Instant::now() + PATIENCE;
    while ran.lock().unwrap().len() < AT_ONCE {
        assert!(
            Instant::now() < patience,
            "{what}: the callbacks do not start"
        );
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    tokio::task::spawn_blocking(breaks).await.unwrap();
    broken.send_replace(true);
    tokio::time::sleep(OUTAGE).await;
    tokio::task::spawn_blocking(mends).await.unwrap();
    let mended = Instant::now();
    let answers = deliveries.join_all().await;
    let errors = answers.iter().filter(|answer| answer.is_err()).count();
    for event in events {
        while once.clone().oneshot(event.clone()).await.is_err() {
            assert!(
                Instant::now() < patience,
                "{what}: the server does not recover"
            );
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }
    let ran = ran.lock().unwrap();
    let repeated = ran.values().filter(|times| **times > 1).count();
    println!(
        "{what}: {AT_ONCE} callbacks in flight, {errors} answered 503 first, {repeated} ran again; \
         all acknowledged {:.1?} after it was back",
        mended.elapsed(),
    );
    assert_eq!(repeated, 0, "{what}");
}

/// Stops a Redis from writing by `redis-cli`, and makes it writable again.
async fn redis_that(what: &str, breaks: &[&'static str], mends: &'static str) {
    let folder = Folder::new();
    let server = servers::redis(&folder, &[]);
    let address = server.address;
    let ledger = RedisLedger::new(Client::open(format!("redis://{address}/")).unwrap());
    let breaks = breaks.to_vec();
    repeats_nothing(
        what,
        ledger,
        move || {
            for words in breaks {
                assert!(ask(address, None, words).starts_with("OK"), "{words}");
            }
        },
        move || assert!(ask(address, None, mends).starts_with("OK"), "{mends}"),
    )
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_full_redis_repeats_no_callback() {
    let full = [
        "CONFIG SET maxmemory-policy noeviction",
        "CONFIG SET maxmemory 1",
    ];
    redis_that("Redis, OOM", &full, "CONFIG SET maxmemory 0").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_redis_without_enough_replicas_repeats_no_callback() {
    let lacks = ["CONFIG SET min-replicas-to-write 1"];
    redis_that(
        "Redis, NOREPLICAS",
        &lacks,
        "CONFIG SET min-replicas-to-write 0",
    )
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_redis_that_is_temporarily_a_replica_repeats_no_callback() {
    redis_that(
        "Redis, READONLY",
        &["REPLICAOF 127.0.0.1 1"],
        "REPLICAOF NO ONE",
    )
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_busy_redis_repeats_no_callback() {
    let folder = Folder::new();
    let server = servers::redis(&folder, &["--lua-time-limit", "10"]);
    let address = server.address;
    let ledger = RedisLedger::new(Client::open(format!("redis://{address}/")).unwrap());
    repeats_nothing(
        "Redis, BUSY",
        ledger,
        move || {
            let mut endless = std::process::Command::new("redis-cli");
            endless.args([
                "-p",
                &address.port().to_string(),
                "EVAL",
                "while true do end",
                "0",
            ]);
            std::thread::spawn(move || endless.output());
            std::thread::sleep(Duration::from_millis(200));
        },
        move || assert!(ask(address, None, "SCRIPT KILL").starts_with("OK")),
    )
    .await;
}

/// A server that two closures of the test stop and restart.
type Shared = Arc<Mutex<Server>>;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_crashed_redis_with_all_writes_on_disk_repeats_no_callback() {
    let folder = Folder::new();
    let server = servers::redis(&folder, &["--appendfsync", "always"]);
    let url = format!("redis://{}/", server.address);
    // The folder lives as long as the test.
    let kept: Shared = Arc::new(Mutex::new(server));
    let (crashed, server) = (kept.clone(), kept.clone());
    repeats_nothing(
        "Redis, a crash",
        RedisLedger::new(Client::open(url).unwrap()),
        move || crashed.lock().unwrap().crash(),
        move || {
            let mut server = server.lock().unwrap();
            server.restart();
            server.wait_until_it_listens();
        },
    )
    .await;
}

/// No server accepts writes until Sentinel has made the old master a replica, after about ten seconds.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_planned_failover_by_sentinel_repeats_no_callback() {
    let folder = Folder::new();
    let settings = [
        "--min-replicas-to-write",
        "1",
        "--min-replicas-max-lag",
        "2",
    ];
    let watched = watched(&folder, 1, &settings);
    let addresses = watched
        .sentinels
        .iter()
        .map(|sentinel| format!("redis://:{SENTINEL_PASSWORD}@{}/", sentinel.address));
    let sentinels = Sentinels::new(addresses, "mymaster")
        .unwrap()
        .with_master_login(format!("redis://:{PASSWORD}@any/"))
        .unwrap();
    let (sentinel, next) = (watched.sentinels[0].address, watched.servers[1].address);
    repeats_nothing(
        "Redis Sentinel, planned failover",
        RedisLedger::from_sentinels(sentinels),
        move || {
            // The replica has the latest claims.
            std::thread::sleep(Duration::from_millis(500));
            let words = "SENTINEL FAILOVER mymaster";
            let answer = ask(sentinel, Some(SENTINEL_PASSWORD), words);
            assert!(answer.starts_with("OK"), "{answer}");
            wait_until("another master", || {
                ask(next, Some(PASSWORD), "ROLE").starts_with("master")
            });
        },
        || {},
    )
    .await;
}

async fn postgres() -> (Folder, Postgres, PostgresLedger) {
    let (folder, server) = tokio::task::spawn_blocking(|| {
        let folder = Folder::new();
        let server = Postgres::primary(&folder, Version::V15, &["fsync=off"]);
        (folder, server)
    })
    .await
    .unwrap();
    let ledger = PostgresLedger::new(server.pool());
    ledger.create_table().await.unwrap();
    (folder, server, ledger)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_crashed_postgres_repeats_no_callback() {
    let (_folder, server, ledger) = postgres().await;
    // The folder lives as long as the test.
    let kept = Arc::new(Mutex::new(server));
    let (crashed, server) = (kept.clone(), kept.clone());
    repeats_nothing(
        "PostgreSQL, a crash",
        ledger,
        move || crashed.lock().unwrap().crash(),
        move || server.lock().unwrap().start_again(),
    )
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_temporarily_read_only_postgres_repeats_no_callback() {
    let (_folder, server, ledger) = postgres().await;
    let direct = server.pool();
    let set = move |direct: PgPool, setting: &'static str| {
        let runtime = tokio::runtime::Handle::current();
        move || {
            for sql in [setting, "SELECT pg_reload_conf()"] {
                runtime
                    .block_on(sqlx::raw_sql(sql).execute(&direct))
                    .unwrap();
            }
            // Each session reads the new setting at a different time.
            std::thread::sleep(Duration::from_millis(300));
        }
    };
    let breaks = set(
        direct.clone(),
        "ALTER SYSTEM SET default_transaction_read_only = on",
    );
    let mends = set(direct, "ALTER SYSTEM RESET default_transaction_read_only");
    repeats_nothing("PostgreSQL, read-only", ledger, breaks, mends).await;
}
