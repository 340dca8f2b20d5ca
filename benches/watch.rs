//! How soon a waiter hears of its job if another replica receives the webhook, and how long `expect` takes.
//!
//! `cargo bench -p mx-job-webhook-benches --features ledgers --bench watch`, with `MX_TEST_POSTGRES_URL` and
//! `MX_TEST_REDIS_URL`. Use servers for this alone, because its rows stay there. It takes about half a minute.
//! Client and servers share the machine, and so its processors.
#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "a panic fails the benchmark, which prints a table"
)]

use std::time::{Duration, Instant};

use mx_job_webhook::job::JobGuid;
use mx_job_webhook::watch::{
    JobWatch, MemoryWatchStore, PostgresWatchStore, RedisWatchStore, WatchStore,
};
use mx_job_webhook::{Job, JobRouter, Status};
use sqlx::postgres::PgPoolOptions;
use tokio::time::sleep;
use tower::{Layer as _, ServiceExt as _};

const JOBS: u64 = 300;

#[tokio::main]
async fn main() {
    let postgres = std::env::var("MX_TEST_POSTGRES_URL");
    let redis = std::env::var("MX_TEST_REDIS_URL");
    let (Ok(postgres), Ok(redis)) = (postgres, redis) else {
        println!("not run: MX_TEST_POSTGRES_URL and MX_TEST_REDIS_URL have to name servers");
        return;
    };
    println!("| store | `expect`, median | delivery, median | wake-up, median | wake-up, 99 % |");
    println!("|---|---|---|---|---|");
    let memory = MemoryWatchStore::new();
    run("memory", memory.clone(), memory).await;
    let client = || redis::Client::open(redis.clone()).unwrap();
    run(
        "Redis",
        RedisWatchStore::new(client()),
        RedisWatchStore::new(client()),
    )
    .await;
    let store = || async {
        let pool = PgPoolOptions::new().max_connections(4);
        let store = PostgresWatchStore::new(pool.connect(&postgres).await.unwrap());
        store.create_table().await.unwrap();
        store
    };
    run("PostgreSQL", store().await, store().await).await;
}

/// Prints a row: what two replicas measure, each with its own connections.
async fn run(name: &str, here: impl WatchStore, there: impl WatchStore) {
    let here = JobWatch::new(here);
    let there = JobWatch::new(there).layer().layer(JobRouter::new());
    let [mut expects, mut deliveries, mut wake_ups] = [const { Vec::new() }; 3];
    for _ in 0..JOBS {
        let guid = format!("JOB-{:016x}", fastrand::u64(..));
        let guid: JobGuid = guid.parse().unwrap();
        let started = Instant::now();
        let expected = here.expect(&guid).await.unwrap();
        expects.push(started.elapsed());
        let waiting = tokio::spawn(async move {
            let heard = expected.within(Duration::from_secs(30)).await.unwrap();
            assert!(heard.is_some());
            Instant::now()
        });
        // The waiter has read the entry, and sleeps.
        sleep(Duration::from_millis(30)).await;
        let event = Job::new(guid, Status::Completed).into();
        let started = Instant::now();
        there.clone().oneshot(event).await.unwrap();
        let delivered = Instant::now();
        deliveries.push(delivered - started);
        wake_ups.push(waiting.await.unwrap().saturating_duration_since(started));
    }
    let milliseconds = |times: &mut Vec<Duration>, percent: usize| {
        times.sort();
        times[times.len() * percent / 100].as_secs_f64() * 1_000.0
    };
    println!(
        "| {name} | {:.2} ms | {:.2} ms | {:.2} ms | {:.2} ms |",
        milliseconds(&mut expects, 50),
        milliseconds(&mut deliveries, 50),
        milliseconds(&mut wake_ups, 50),
        milliseconds(&mut wake_ups, 99),
    );
}
