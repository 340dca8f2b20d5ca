//! The ledger on a PostgreSQL with stricter transaction isolation than the default. The server
//! then reports conflicts between unrelated events.

use std::time::Duration;

use mx_job_webhook::DedupeLayer;
use mx_job_webhook::ledger::PostgresLedger;
use sqlx::postgres::PgPoolOptions;
use tower::Layer as _;

use crate::engines::postgres::Database;
use crate::load::{self, Load, Plan, Tally};

/// Far longer than any call. An event whose commit always fails would be handled again when the lease
/// expires; its senders give up earlier.
const LEASE: Duration = Duration::from_secs(30);

/// Slows each write down as on a busy server, so that the writes overlap.
const SLOWLY: &str = "CREATE FUNCTION slowly() RETURNS trigger LANGUAGE plpgsql \
     AS 'BEGIN PERFORM pg_sleep(0.002); RETURN new; END'; \
     CREATE TRIGGER slowly BEFORE INSERT OR UPDATE ON mx_job_webhook_events \
     FOR EACH ROW EXECUTE PROCEDURE slowly()";

/// The number of each kind: effects in memory, and effects in the database by `commit_in`.
const AT_ONCE: usize = 16;

async fn effects_happen_once(isolation: &str) {
    let events = match std::env::var_os("MX_TEST_STORM") {
        None => 500,
        Some(_) => 10_000,
    };
    let database = Database::create("").await;
    // Without an index, each statement reads all events, as the planner chooses for a small table.
    let options = database.options().options([
        ("default_transaction_isolation", isolation),
        ("enable_indexscan", "off"),
        ("enable_bitmapscan", "off"),
    ]);
    let pool = PgPoolOptions::new()
        .max_connections(2 * AT_ONCE as u32)
        .acquire_timeout(Duration::from_secs(30))
        .connect_lazy_with(options);
    let ledger = PostgresLedger::new(pool.clone());
    ledger.create_table().await.unwrap();
    load::create_effects(&pool).await;
    sqlx::raw_sql(SLOWLY).execute(&pool).await.unwrap();
    let layer = DedupeLayer::new(ledger).with_lease(LEASE);
    let tallies = [Tally::new(), Tally::new()];
    let in_memory = layer.layer(load::in_memory(&tallies[0]));
    let in_the_database = layer.layer(load::in_the_database(&pool));
    let plan = Plan {
        at_once: AT_ONCE,
        patience: LEASE / 3,
        ..Plan::of(events)
    };
    let one = Load::start(plan, &tallies[0], &[in_memory]);
    let other = Load::start(plan, &tallies[1], &[in_the_database]);
    tokio::join!(one.all(), other.all());
    load::read_effects(&tallies[1], &pool).await;
    pool.close().await;
    println!("{isolation}: {}", tallies[0]);
    println!("{isolation}, commit_in: {}", tallies[1]);
    for tally in &tallies {
        assert_eq!(tally.lost(), [""; 0]);
        assert_eq!(tally.doubled(), [""; 0]);
    }
    // Each callback has run. Those of events not acknowledged by now would run once more.
    tallies[0].look(|counts| assert_eq!(counts.acknowledged.len(), events));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn effects_happen_once_with_serializable_transactions() {
    effects_happen_once("serializable").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn effects_happen_once_with_repeatable_reads() {
    effects_happen_once("repeatable read").await;
}
