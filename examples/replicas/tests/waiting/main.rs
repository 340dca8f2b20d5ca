//! Waits for jobs on three replicas of the example behind a load balancer, with each store in turn.
//! The test plays MX, which loses and delays webhooks, and the users, who ask any replica. Meanwhile it
//! kills replicas, restarts their server and cuts its connections.
#![cfg(unix)]
#![allow(
    clippy::print_stdout,
    clippy::unwrap_used,
    reason = "it prints the results of a run; a panic fails the test"
)]

#[path = "../faults/mod.rs"]
mod faults;
mod mx;
mod user;

use std::collections::HashMap;
use std::fs::{File, OpenOptions, read_to_string};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use faults::{Faults, cut_postgres, cut_redis};
use harness::example;
use harness::servers::{self, Folder, Server, free_address};
use mx::Mx;
use mx_job_webhook::watch::{PostgresWatchStore, RedisWatchStore, WatchStore};
use sqlx::{PgPool, Row as _};
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};
use user::User;

const LEASE: Duration = Duration::from_secs(3);
/// A limit that is far longer than a run takes.
const PATIENCE: Duration = Duration::from_secs(420);
/// How long jobs of which nothing was heard may stay expected after the last fault.
const END: Duration = Duration::from_secs(60);

/// How much happens in a run.
#[derive(Clone, Copy)]
struct Size {
    jobs: usize,
    /// The time within which the jobs start.
    time: Duration,
    between_faults: Duration,
}

/// Returns the size of a run. `MX_TEST_STORM=1` raises it.
fn size() -> Size {
    if std::env::var("MX_TEST_STORM").is_ok_and(|storm| storm == "1") {
        Size {
            jobs: 2_000,
            time: Duration::from_secs(60),
            between_faults: Duration::from_millis(1_500),
        }
    } else {
        Size {
            jobs: 200,
            time: Duration::from_secs(10),
            between_faults: Duration::from_millis(800),
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs redis-server and haproxy to start: set MX_TEST_REDIS_URL"]
async fn with_redis() {
    let folder = Folder::new();
    // Otherwise a killed Redis can lose the commands of the last second.
    let server = servers::redis(&folder, &["--appendfsync", "always"]);
    let url = format!("redis://{}/", server.address);
    let cut = cut_redis(&server);
    let store = RedisWatchStore::new(redis::Client::open(url.clone()).unwrap());
    let run = Run::of(&folder, server, &url, cut, store).await;

    // Redis and the effects have no transaction in common, so an effect may stand twice.
    for event in run.mx.events() {
        assert!(run.printed.contains_key(&event), "{event} had no effect");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs postgres and haproxy to start: set MX_TEST_POSTGRES_URL"]
async fn with_postgres() {
    let folder = Folder::new();
    let (server, url) = servers::postgres(&folder);
    let pool = PgPool::connect_lazy(&url).unwrap();
    // The test kills the server, not the machine, so nothing is lost. Slow disks are not the point.
    for setting in ["ALTER SYSTEM SET fsync = off", "SELECT pg_reload_conf()"] {
        sqlx::query(setting).execute(&pool).await.unwrap();
    }
    let cut = cut_postgres(&pool);
    let store = PostgresWatchStore::new(pool.clone());
    let run = Run::of(&folder, server, &url, cut, store).await;

    let rows = sqlx::query("SELECT event, count(*) FROM handled GROUP BY event")
        .fetch_all(&pool)
        .await
        .unwrap();
    let rows: HashMap<String, i64> = rows.iter().map(|row| (row.get(0), row.get(1))).collect();
    for event in run.mx.events() {
        if event.contains(" COMPLETED ") {
            assert_eq!(rows.get(&event), Some(&1), "the effect of {event}");
        } else {
            assert!(run.printed.contains_key(&event), "{event} had no effect");
        }
    }
    assert_eq!(rows.len(), size().jobs);
}

/// The results of a run.
struct Run {
    /// The checks need it.
    _server: Server,
    mx: Arc<Mx>,
    /// The number of times that each event was printed.
    printed: HashMap<String, usize>,
}

impl Run {
    async fn of(
        folder: &Folder,
        server: Server,
        url: &str,
        cut: impl Fn() + Send + 'static,
        store: impl WatchStore,
    ) -> Self {
        let (mx, api) = Mx::start(size().jobs).await;
        let logs: Vec<_> = (0..3)
            .map(|number| folder.path().join(format!("replica-{number}")))
            .collect();
        let replicas: Vec<Server> = logs
            .iter()
            .map(|log| {
                let log = OpenOptions::new().create(true).append(true).open(log);
                replica(url, &api, log.unwrap())
            })
            .collect();
        let addresses: Vec<_> = replicas.iter().map(|replica| replica.address).collect();
        let balancer = servers::load_balancer(folder, &addresses);
        mx.deliver_to(balancer.address);

        let over = Arc::new(AtomicBool::new(false));
        let faults = {
            let over = over.clone();
            std::thread::spawn(move || {
                Faults::cause(size().between_faults, replicas, server, cut, &over)
            })
        };
        let started = Instant::now();
        let users = User::new(mx.clone(), addresses);
        let ended = timeout(PATIENCE, all_jobs(&mx, &users)).await;
        assert!(ended.is_ok(), "{:?}; {}", mx.numbers(), users.numbers());
        timeout(PATIENCE, mx.all_is_delivered()).await.unwrap();
        over.store(true, Ordering::SeqCst);
        let (faults, mut replicas, server) = tokio::task::spawn_blocking(|| faults.join().unwrap())
            .await
            .unwrap();
        nothing_is_expected(&store).await;
        let took = started.elapsed();
        // They end by themselves, once nothing is under way.
        tokio::task::spawn_blocking(move || replicas.iter_mut().for_each(Server::stop))
            .await
            .unwrap();

        let (printed, given_up) = printed(&logs);
        let doubles: usize = printed.values().map(|times| times - 1).sum();
        println!(
            "{} jobs in {took:.1?}; {faults:?}; {:?}; {}; printed twice {doubles}",
            size().jobs,
            mx.numbers(),
            users.numbers(),
        );
        assert!(faults.replicas_killed >= 5 && faults.servers_restarted >= 2);
        assert_eq!(given_up, Vec::<String>::new());
        users.nobody_waited_for_what_was_heard();
        Self {
            _server: server,
            mx,
            printed,
        }
    }
}

fn replica(url: &str, api: &str, log: File) -> Server {
    let address = free_address();
    let mut command = example(env!("CARGO_BIN_EXE_replicas"));
    command
        .env("ADDR", address.to_string())
        .env("LEDGER_URL", url)
        .env("MX_API", api)
        .env("LEASE_SECONDS", LEASE.as_secs().to_string())
        // Long enough that the test kills some replicas between an effect and its commit.
        .env("WORK_MILLISECONDS", "10")
        .env("PATIENCE_MILLISECONDS", "2000")
        .env("PAUSE_MILLISECONDS", "200")
        .stdout(log);
    Server::start(address, command)
}

/// Runs all jobs at MX, and the users who wait for them.
async fn all_jobs(mx: &Arc<Mx>, users: &User) {
    let Size { jobs, time, .. } = size();
    let mut running = JoinSet::new();
    for job in 0..jobs {
        let start = time.mul_f64(fastrand::f64());
        // Some webhooks come before their job is expected.
        let hesitation = match fastrand::u8(..5) {
            0 => Duration::from_millis(fastrand::u64(500..3_000)),
            _ => Duration::ZERO,
        };
        // Some users leave as soon as the job is expected. The failsafe has to end their jobs.
        let (challenges, leaves) = match fastrand::u8(..10) {
            0..3 => (0, true),
            3 => (2, false),
            4 | 5 => (1, false),
            _ => (0, false),
        };
        let (mx, user) = (mx.clone(), users.clone());
        running.spawn(async move {
            sleep(start).await;
            let at_mx = tokio::spawn(mx.run_job(job, challenges));
            sleep(hesitation).await;
            user.follow(job, leaves).await;
            at_mx.await.unwrap();
        });
    }
    while let Some(job) = running.join_next().await {
        job.unwrap();
    }
}

async fn nothing_is_expected(store: &impl WatchStore) {
    let end = Instant::now() + END;
    loop {
        let counts = store.count().await;
        let counts = counts.unwrap_or_else(|error| panic!("{}", error.into()));
        if counts.outstanding == 0 {
            return;
        }
        assert!(Instant::now() < end, "{counts:?}");
        sleep(Duration::from_millis(100)).await;
    }
}

/// Returns how often each event was handled, and the jobs that were given up.
fn printed(logs: &[PathBuf]) -> (HashMap<String, usize>, Vec<String>) {
    let (mut printed, mut given_up) = (HashMap::new(), Vec::new());
    for log in logs {
        for line in read_to_string(log).unwrap().lines() {
            if let Some(event) = line.strip_prefix("handled ") {
                *printed.entry(event.to_owned()).or_default() += 1;
            } else if let Some(job) = line.strip_prefix("given up ") {
                given_up.push(job.to_owned());
            }
        }
    }
    (printed, given_up)
}
