//! Events per second through each ledger, from claim to commit, and the storage that an event takes.
//!
//! `cargo bench -p mx-job-webhook-benches --features ledgers --bench ledgers`, with
//! `MX_TEST_POSTGRES_URL` and `MX_TEST_REDIS_URL`. Use servers for this alone, because its rows stay there. It takes about
//! a minute. Client and servers share the machine, and so its processors.
#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "a panic fails the benchmark, which prints a table"
)]

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use mx_job_webhook::job::Timestamp;
use mx_job_webhook::ledger::{Ledger, MemoryLedger, PostgresLedger, RedisLedger};
use mx_job_webhook::{DedupeLayer, Job, JobEvent, JobRouter, Status};
use sqlx::postgres::PgPoolOptions;
use sqlx::{PgPool, Row as _};
use tower::{BoxError, Layer as _, ServiceExt as _};

const SLICE: Duration = Duration::from_secs(4);
const CONCURRENCY: [usize; 3] = [1, 16, 128];

#[tokio::main]
async fn main() {
    let postgres = std::env::var("MX_TEST_POSTGRES_URL");
    let redis = std::env::var("MX_TEST_REDIS_URL");
    let (Ok(postgres), Ok(redis)) = (postgres, redis) else {
        println!("not run: MX_TEST_POSTGRES_URL and MX_TEST_REDIS_URL have to name servers");
        return;
    };
    let pool = PgPoolOptions::new()
        .max_connections(16)
        .test_before_acquire(false)
        .connect(&postgres)
        .await
        .unwrap();
    let table = "CREATE TABLE IF NOT EXISTS mx_bench_effects (event text NOT NULL)";
    sqlx::query(table).execute(&pool).await.unwrap();
    let table = PostgresLedger::new(pool.clone());
    table.create_table().await.unwrap();
    let client = redis::Client::open(redis).unwrap();

    println!("| ledger | deliveries at once | events/s | median | 99 % |");
    println!("|---|---|---|---|---|");
    let nothing = JobRouter::new().on_completed(|_| async {});
    run("memory", MemoryLedger::new(), nothing.clone()).await;
    let before = redis_memory(&client).await;
    let ledger = RedisLedger::new(client.clone());
    let events = run("Redis", ledger, nothing.clone()).await;
    let redis_bytes = (redis_memory(&client).await - before) / events;
    let before = table_bytes(&pool).await;
    let events = run("PostgreSQL", table.clone(), nothing).await;
    let postgres_bytes = (table_bytes(&pool).await - before) / events;
    let app = App {
        pool: pool.clone(),
        ledger: table.clone(),
    };
    let effects = JobRouter::with_state(app.clone())
        .on_completed(effect_then_commit)
        .build();
    run(
        "PostgreSQL, and an effect of one row",
        table.clone(),
        effects,
    )
    .await;
    let effects = JobRouter::with_state(app)
        .on_completed(effect_with_commit)
        .build();
    run("PostgreSQL, in one transaction with it", table, effects).await;
    println!("\nan event takes {redis_bytes} bytes in Redis, {postgres_bytes} in PostgreSQL");
}

#[derive(Clone)]
struct App {
    pool: PgPool,
    ledger: PostgresLedger,
}

const EFFECT: &str = "INSERT INTO mx_bench_effects VALUES ($1)";

async fn effect_then_commit(app: App, event: JobEvent) -> Result<(), BoxError> {
    let effect = sqlx::query(EFFECT).bind(event.guid.to_string());
    effect.execute(&app.pool).await?;
    Ok(())
}

async fn effect_with_commit(app: App, event: JobEvent) -> Result<(), BoxError> {
    let mut transaction = app.pool.begin().await?;
    let effect = sqlx::query(EFFECT).bind(event.guid.to_string());
    effect.execute(&mut *transaction).await?;
    app.ledger.commit_in(&mut transaction, &event).await?;
    transaction.commit().await?;
    Ok(())
}

/// Prints a row for each concurrency, and returns the number of events.
async fn run<L: Ledger>(name: &str, ledger: L, jobs: JobRouter) -> u64 {
    let jobs = DedupeLayer::new(ledger).layer(jobs);
    let run = fastrand::u64(..);
    let numbers = Arc::new(AtomicUsize::new(0));
    for concurrency in CONCURRENCY {
        let mut deliveries = tokio::task::JoinSet::new();
        let started = Instant::now();
        for _ in 0..concurrency {
            let (jobs, numbers) = (jobs.clone(), numbers.clone());
            deliveries.spawn(async move {
                let mut took = Vec::new();
                while started.elapsed() < SLICE {
                    let number = numbers.fetch_add(1, Ordering::Relaxed);
                    // As long as MX's guids.
                    let guid = format!("JOB-{run:016x}-{number:019}");
                    let mut job = Job::new(guid.parse().unwrap(), Status::Completed);
                    job.updated_at = Some(Timestamp::from_unix_seconds(1_471_281_218));
                    let delivery = Instant::now();
                    jobs.clone().oneshot(job.into()).await.unwrap();
                    took.push(delivery.elapsed());
                }
                took
            });
        }
        let mut took = deliveries.join_all().await.concat();
        let rate = took.len() as f64 / started.elapsed().as_secs_f64();
        took.sort_unstable();
        let (median, slow) = (took[took.len() / 2], took[took.len() * 99 / 100]);
        println!("| {name} | {concurrency} | {rate:.0} | {median:.1?} | {slow:.1?} |");
    }
    numbers.load(Ordering::Relaxed) as u64
}

async fn redis_memory(client: &redis::Client) -> u64 {
    let mut connection = client.get_multiplexed_async_connection().await.unwrap();
    let info: redis::InfoDict = redis::cmd("INFO")
        .arg("memory")
        .query_async(&mut connection)
        .await
        .unwrap();
    info.get("used_memory").unwrap()
}

async fn table_bytes(pool: &PgPool) -> u64 {
    let bytes = "SELECT pg_total_relation_size('mx_job_webhook_events')";
    let bytes: i64 = sqlx::query(bytes).fetch_one(pool).await.unwrap().get(0);
    bytes.unsigned_abs()
}
