//! The settings of the ledgers, and what printing them shows. No server is needed.

use std::time::Duration;

use mx_job_webhook::ledger::{CommitInError, PostgresLedger, Reconnecting, RedisLedger, Sentinels};
use mx_job_webhook::{DedupeLayer, JobRouter};
use redis::Client;
use redis::cluster_async::ClusterConnection;
use sqlx::PgPool;
use sqlx::postgres::PgPoolOptions;
use tower::Layer as _;

const SENTINEL: &str = "redis://:one@sentinel-1:26379";

fn redis_ledger() -> RedisLedger<Reconnecting> {
    RedisLedger::new(Client::open("redis://:secret@redis.internal/").unwrap())
}

fn pool() -> PgPool {
    PgPool::connect_lazy("postgres://app:secret@postgres.internal/app").unwrap()
}

#[test]
fn printing_a_redis_ledger_shows_its_settings_and_no_address_or_password() {
    let default = format!("{:?}", redis_ledger());
    let set = redis_ledger()
        .with_key_prefix("staging:mx:")
        .with_window(Duration::from_secs(25 * 60 * 60));
    let set = format!("{set:?}");
    for printed in [&default, &set] {
        assert!(!printed.contains("secret"), "{printed}");
        assert!(!printed.contains("redis.internal"), "{printed}");
        assert!(printed.contains("replicas: 0"), "{printed}");
    }
    assert!(default.contains("window: 172800s"), "{default}");
    assert!(set.contains("window: 90000s"), "{set}");
    assert!(set.contains("staging:mx:"), "{set}");
}

#[test]
fn printing_a_ledger_behind_sentinels_shows_no_address_or_password() {
    let sentinels = Sentinels::new([SENTINEL], "mymaster")
        .unwrap()
        .with_master_login("redis://webhooks:another@mymaster/")
        .unwrap();
    let printed = format!("{sentinels:?}");
    let ledger = RedisLedger::from_sentinels(sentinels)
        .with_replicated_commits(1, Duration::from_millis(200));
    let ledger = format!("{ledger:?}");
    assert!(ledger.contains("replicas: 1"), "{ledger}");
    for secret in ["one", "another", "sentinel-1"] {
        assert!(!printed.contains(secret), "{printed}");
        assert!(!ledger.contains(secret), "{ledger}");
    }
}

#[test]
fn sentinels_need_an_address_and_a_scheme() {
    assert!(Sentinels::new([SENTINEL], "mymaster").is_ok());
    let several = ["redis://sentinel-1:26379", "redis://sentinel-2:26379"];
    assert!(Sentinels::new(several, "mymaster").is_ok());
    assert!(Sentinels::new(["sentinel-1:26379"], "mymaster").is_err());
    assert!(Sentinels::new([""; 0], "mymaster").is_err());
}

#[test]
fn a_connection_to_a_cluster_can_be_used_in_a_layer() {
    fn jobs(cluster: ClusterConnection) -> impl std::fmt::Debug {
        DedupeLayer::new(RedisLedger::from_connection(cluster)).layer(JobRouter::new())
    }

    let _: fn(ClusterConnection) -> _ = jobs;
}

#[tokio::test]
async fn printing_a_postgres_ledger_does_not_show_its_pool() {
    let ledger =
        PostgresLedger::new(pool()).with_idle_in_transaction(Some(Duration::from_secs(300)));
    assert_eq!(format!("{ledger:?}"), "PostgresLedger { .. }");
}

#[tokio::test]
async fn the_limit_of_a_ledgers_connections_leaves_the_applications_pool_alone() {
    let pool = pool();
    let _ledger = PostgresLedger::new(pool.clone()).with_max_connections(2);
    assert_eq!(pool.options().get_max_connections(), 10);
}

#[test]
fn the_statement_of_the_table_creates_it_if_it_is_missing() {
    let table = "CREATE TABLE IF NOT EXISTS mx_job_webhook_events";
    assert!(PostgresLedger::TABLE.contains(table));
}

#[tokio::test]
async fn creating_the_table_fails_if_no_server_listens() {
    let pool = PgPoolOptions::new()
        .acquire_timeout(Duration::from_millis(50))
        .connect_lazy("postgres://127.0.0.1:1/app")
        .unwrap();
    assert!(PostgresLedger::new(pool).create_table().await.is_err());
}

#[test]
fn an_error_of_the_database_is_not_an_overtaken_claim() {
    let error = CommitInError::from(sqlx::Error::PoolTimedOut);
    assert!(!error.is_overtaken());
    assert!(error.to_string().contains("database"), "{error}");
    let source = std::error::Error::source(&error).unwrap();
    assert_eq!(source.to_string(), sqlx::Error::PoolTimedOut.to_string());
}
