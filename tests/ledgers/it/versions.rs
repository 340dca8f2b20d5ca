//! Each ledger on the oldest and the newest installed version of its server, and on the most common ones
//! in between.

use std::process::{Command, Stdio};
use std::time::Duration;

use mx_job_webhook::DedupeLayer;
use mx_job_webhook::ledger::{Ledger, PostgresLedger, RedisLedger};
use mx_job_webhook::testing::check_ledger;
use redis::Client;
use sqlx::Connection as _;
use sqlx::postgres::PgConnectOptions;
use tower::Layer as _;

use crate::engines::postgres::{Database, Postgres, Version, pool};
use crate::engines::programs;
use crate::load::{self, Load, Plan, Tally};
use harness::servers::{Folder, Server, free_address};

const EVENTS: usize = 150;

/// Effects in memory, by several senders at once.
async fn handles_each_once<L: Ledger>(engine: &str, ledger: L) {
    let tally = Tally::new();
    let service = DedupeLayer::new(ledger).layer(load::in_memory(&tally));
    Load::start(Plan::of(EVENTS), &tally, std::slice::from_ref(&service))
        .all()
        .await;
    println!("{engine}: {tally}");
    assert_eq!(tally.lost(), [""; 0]);
    assert_eq!(tally.doubled(), [""; 0]);
    tally.look(|counts| assert_eq!(counts.acknowledged.len(), EVENTS));
    assert_eq!(load::forgotten(&tally, &service).await, 0);
}

async fn a_postgres_works(engine: &str, options: PgConnectOptions) {
    let pool = pool(options);
    let ledger = PostgresLedger::new(pool.clone());
    ledger.create_table().await.unwrap();
    load::create_effects(&pool).await;
    check_ledger(ledger.clone()).await;
    handles_each_once(engine, ledger.clone()).await;

    let tally = Tally::new();
    let service = DedupeLayer::new(ledger.clone()).layer(load::in_the_database(&pool));
    Load::start(Plan::of(EVENTS), &tally, &[service])
        .all()
        .await;
    load::read_effects(&tally, &pool).await;
    println!("{engine}, commit_in: {tally}");
    assert_eq!(tally.lost(), [""; 0]);
    assert_eq!(tally.doubled(), [""; 0]);
    tally.look(|counts| assert_eq!(counts.acknowledged.len(), EVENTS));

    // The events that the conformance suite has settled are included.
    assert!(ledger.prune(Duration::ZERO).await.unwrap() >= 2 * EVENTS as u64);
    ledger.create_table().await.unwrap();
    pool.close().await;
}

#[tokio::test]
async fn postgres_10_works() {
    let folder = Folder::new();
    let server = Postgres::primary(&folder, Version::V10, &["fsync=off"]);
    a_postgres_works("PostgreSQL 10", server.options()).await;
}

#[tokio::test]
async fn postgres_15_works() {
    let database = Database::create("").await;
    a_postgres_works("PostgreSQL 15", database.options()).await;
}

#[tokio::test]
async fn postgres_18_works() {
    let folder = Folder::new();
    let server = Postgres::primary(&folder, Version::V18, &["fsync=off"]);
    a_postgres_works("PostgreSQL 18", server.options()).await;
}

/// The setting exists since PostgreSQL 14. An older server refuses every connection that sends it.
#[tokio::test]
async fn postgres_10_refuses_client_connection_check_interval() {
    let folder = Folder::new();
    let server = Postgres::primary(&folder, Version::V10, &["fsync=off"]);
    let checks = [("client_connection_check_interval", "1s")];
    let refused = sqlx::PgConnection::connect_with(&server.options().options(checks)).await;
    let refused = refused.unwrap_err();
    println!("PostgreSQL 10, client_connection_check_interval: {refused}");
    let code = refused.as_database_error().and_then(|error| error.code());
    assert_eq!(code.as_deref(), Some("42704"), "{refused}");
    // The guide's other settings are older.
    let others = [
        ("statement_timeout", "5s"),
        ("idle_in_transaction_session_timeout", "60s"),
    ];
    let accepted = sqlx::PgConnection::connect_with(&server.options().options(others)).await;
    accepted.unwrap().close().await.unwrap();
}

async fn a_redis_works(engine: &str, variable: &str, program: &str) {
    let (folder, address) = (Folder::new(), free_address());
    let mut command = Command::new(programs(variable).join(program));
    command
        .args(["--bind", "127.0.0.1", "--port", &address.port().to_string()])
        .args(["--save", "", "--dir"])
        .arg(folder.path())
        .stdout(Stdio::null());
    let _server = Server::start(address, command);
    let client = Client::open(format!("redis://{address}/")).unwrap();
    check_ledger(RedisLedger::new(client.clone())).await;
    handles_each_once(engine, RedisLedger::new(client)).await;
}

#[tokio::test]
async fn redis_6_works() {
    a_redis_works("Redis 6", "MX_TEST_REDIS_6", "redis-server").await;
}

#[tokio::test]
async fn redis_7_works() {
    a_redis_works("Redis 7", "MX_TEST_REDIS_7", "redis-server").await;
}

#[tokio::test]
async fn redis_8_works() {
    a_redis_works("Redis 8", "MX_TEST_REDIS_8", "redis-server").await;
}

#[tokio::test]
async fn valkey_8_works() {
    a_redis_works("Valkey 8", "MX_TEST_VALKEY_8", "valkey-server").await;
}
