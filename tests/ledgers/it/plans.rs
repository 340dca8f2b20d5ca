//! How PostgreSQL runs the ledger's statements at a million events: each by an index.

use std::fmt::Write as _;
use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

use mx_job_webhook::{DedupeLayer, JobRouter, PostgresLedger, Receipt};
use sqlx::postgres::PgConnectOptions;
use sqlx::{AssertSqlSafe, ConnectOptions as _, PgConnection, Row as _};
use tower::{Layer as _, ServiceExt as _};

use crate::engines::postgres::{Database, Postgres, Version, pool};
use crate::servers::Folder;
use crate::support::completed;

/// Of pages: a call looks at a few rows, by way of the index.
const FEW: i64 = 100;

/// How many rows `prune` deletes at a time.
const BATCH: i64 = 10_000;

const HOURS: i64 = 60 * 60 * 1_000_000;

/// The crate's statements, by their files' names.
fn statements() -> Vec<(String, String)> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../src/dedupe/postgres/sql");
    let mut statements = Vec::new();
    for file in fs::read_dir(folder).unwrap() {
        let path = file.unwrap().path();
        let name = path.file_stem().unwrap().to_str().unwrap().to_owned();
        if path.extension().is_none_or(|kind| kind != "sql") {
            continue;
        }
        let text = fs::read_to_string(path).unwrap();
        let mut code = text
            .lines()
            .filter(|line| !line.trim_start().starts_with("--"));
        let begin = code.find_map(|line| line.split_whitespace().next());
        // Not those that look for the table, or make it.
        if begin == Some("WITH") {
            statements.push((name, text));
        }
    }
    statements.sort();
    let names: Vec<_> = statements.iter().map(|(name, _)| name.as_str()).collect();
    for name in ["claim", "commit", "commit_in", "prune", "release"] {
        assert!(names.contains(&name), "{names:?}");
    }
    statements
}

/// A connection to a database with this many events.
async fn with_events(options: PgConnectOptions, events: u32) -> PgConnection {
    let pool = pool(options.clone());
    let ledger = PostgresLedger::new(pool.clone());
    ledger.create_table().await.unwrap();
    pool.close().await;
    let mut connection = options.connect().await.unwrap();
    fill(&mut connection, events).await;
    // As autovacuum leaves it.
    execute(&mut connection, "VACUUM ANALYZE mx_job_webhook_events").await;
    connection
}

/// Five events a job, settled in the last 48 hours.
async fn fill(connection: &mut PgConnection, events: u32) {
    let fill = format!(
        "INSERT INTO mx_job_webhook_events (job, event, updated_at, token, leased_until, settled_at) \
         SELECT md5((number / 5)::text), 'event ' || number % 5, 1700000000 + number, \
         1000000 * number::bigint, settled, settled \
         FROM (SELECT number, now() - (number % 172800) * interval '1 second' AS settled \
         FROM generate_series(1, {events}) AS number) AS numbers"
    );
    execute(connection, &fill).await;
}

async fn execute(connection: &mut PgConnection, statement: &str) {
    let statement = AssertSqlSafe(statement.to_owned());
    sqlx::raw_sql(statement).execute(connection).await.unwrap();
}

async fn lines(connection: &mut PgConnection, query: &str) -> Vec<String> {
    let rows = sqlx::raw_sql(AssertSqlSafe(query.to_owned())).fetch_all(connection);
    rows.await.unwrap().iter().map(|row| row.get(0)).collect()
}

/// A prepared statement, with values for its parameters by their types.
struct Call {
    name: String,
    /// Of these numbers first, then of the last one.
    numbers: Vec<i64>,
    /// How many pages it may touch.
    buffers: i64,
}

impl Call {
    fn all(name: &str) -> Vec<Self> {
        let call = |numbers: &[i64], buffers| Self {
            name: name.to_owned(),
            numbers: numbers.to_vec(),
            buffers,
        };
        match name {
            // How long ago, and how many: nothing is as old, or a batch is.
            "prune" => vec![
                call(&[49 * HOURS, BATCH], FEW),
                call(&[47 * HOURS, BATCH], 20 * BATCH),
            ],
            // A token, and how long the transaction may be idle.
            "commit_in" => vec![call(&[10_000_000_000_000, 60_000], FEW)],
            // A token, or a lease.
            _ => vec![call(&[10_000_000_000_000], FEW)],
        }
    }

    async fn text(&self, connection: &mut PgConnection) -> String {
        let types = format!(
            "SELECT unnest(parameter_types)::text FROM pg_prepared_statements WHERE name = '{}'",
            self.name
        );
        let mut text = format!("EXECUTE {}", self.name);
        let mut numbers = self.numbers.iter().copied();
        let mut number = self.numbers[0];
        for (position, kind) in lines(connection, &types).await.iter().enumerate() {
            text.push_str(if position == 0 { "(" } else { ", " });
            let value = match (position, kind.as_str()) {
                // By its name, a statement knows that it is meant.
                (0, "text") => format!("'{}'", self.name),
                (1, "text") => "md5('12345')".to_owned(),
                (2, "text") => "'event 3'".to_owned(),
                (_, "text") => "'1700061728'".to_owned(),
                (1, "text[]") => "ARRAY[md5('12345'), md5('1000')]".to_owned(),
                (2, "text[]") => "ARRAY['event 3', 'event 1']".to_owned(),
                (_, "text[]") => "ARRAY['1700061728', NULL]".to_owned(),
                (_, "bigint") => {
                    number = numbers.next().unwrap_or(number);
                    number.to_string()
                }
                (_, "bigint[]") => format!("ARRAY[{number}, {number}]"),
                _ => panic!("{}: a parameter of type {kind}", self.name),
            };
            write!(text, "({value})::{kind}").unwrap();
        }
        if text.contains('(') {
            text.push(')');
        }
        text
    }
}

/// Neither the plan that is made once for all values nor one for these reads the whole table.
async fn are_by_an_index(connection: &mut PgConnection) {
    // Before PostgreSQL 12 there is no such setting: the sixth call may have the plan for all values.
    let version = lines(connection, "SHOW server_version_num").await;
    let modes = match version[0].parse::<u32>().unwrap() {
        ..120_000 => ["SELECT"; 6].to_vec(),
        _ => vec![
            "SET plan_cache_mode = force_generic_plan",
            "SET plan_cache_mode = force_custom_plan",
        ],
    };
    let mut at_fault = Vec::new();
    for (name, statement) in statements() {
        execute(connection, &format!("PREPARE {name} AS {statement}")).await;
        for call in Call::all(&name) {
            let text = call.text(connection).await;
            for mode in &modes {
                execute(connection, mode).await;
                execute(connection, "BEGIN").await;
                let explain = format!("EXPLAIN (ANALYZE, BUFFERS, TIMING OFF) {text}");
                let plan = lines(connection, &explain).await;
                let answer = lines(connection, &text).await;
                assert!(answer[0].starts_with(&name), "{text}: {answer:?}");
                execute(connection, "ROLLBACK").await;
                let (touched, plan) = (buffers(&plan), plan.join("\n"));
                println!("{text}, {mode}: {touched} buffers");
                if plan.contains("Seq Scan on mx_job_webhook_events") {
                    at_fault.push(format!("{text}, {mode}: reads the table\n{plan}"));
                } else if touched > call.buffers {
                    at_fault.push(format!("{text}, {mode}: {touched} buffers\n{plan}"));
                }
            }
        }
    }
    assert!(at_fault.is_empty(), "{}", at_fault.join("\n\n"));
}

/// Of the whole plan: its first line of them sums up the rest.
fn buffers(plan: &[String]) -> i64 {
    let line = plan.iter().find(|line| line.contains("Buffers: shared"));
    // What is of temporary files comes after a comma.
    let shared = line
        .and_then(|line| line.split(',').next())
        .unwrap_or_default();
    let counts = shared.split(' ').filter_map(|word| word.split_once('='));
    let counts = counts.filter(|(kind, _)| ["hit", "read"].contains(kind));
    counts.map(|(_, count)| count.parse::<i64>().unwrap()).sum()
}

#[tokio::test]
async fn each_statement_is_by_an_index_at_a_million_events() {
    let database = Database::create("").await;
    let mut connection = with_events(database.options(), 1_000_000).await;
    are_by_an_index(&mut connection).await;
}

#[tokio::test]
async fn each_statement_is_by_an_index_on_the_oldest_server() {
    let folder = Folder::new();
    let server = Postgres::primary(&folder, Version::V10, &["fsync=off"]);
    let mut connection = with_events(server.options(), 200_000).await;
    are_by_an_index(&mut connection).await;
}

#[tokio::test]
async fn each_statement_is_by_an_index_on_the_newest_server() {
    let folder = Folder::new();
    let server = Postgres::primary(&folder, Version::V18, &["fsync=off"]);
    let mut connection = with_events(server.options(), 200_000).await;
    are_by_an_index(&mut connection).await;
}

/// The server plans a ledger's statements by the size of the table, which is small at first, and keeps the plans of a
/// connection while there are no new statistics. Events that come in a burst must not each read all of the table.
#[tokio::test]
async fn a_table_that_grows_fast_is_not_read_for_each_event() {
    const EVENTS: i64 = 3_000;
    let database = Database::create("").await;
    let mut connection = with_events(database.options(), 0).await;
    // So that no statistics come, as they would within a minute.
    let alone = "ALTER TABLE mx_job_webhook_events SET (autovacuum_enabled = off)";
    execute(&mut connection, alone).await;
    let ledger = PostgresLedger::new(pool(database.options())).with_max_connections(1);
    let once = DedupeLayer::new(ledger).layer(JobRouter::new().on_completed(|_| async {}));
    let mut deliveries = tokio::task::JoinSet::new();
    for number in 0..16 {
        let once = once.clone();
        deliveries.spawn(async move {
            for event in (0..EVENTS).filter(|event| event % 16 == number) {
                let receipt = once
                    .clone()
                    .oneshot(completed(&format!("JOB-{event}"), 1))
                    .await;
                assert_eq!(receipt.unwrap(), Receipt::Handled);
            }
        });
    }
    deliveries.join_all().await;
    // The server counts what a session did when that ends, at the latest.
    drop(once);
    let read = "SELECT seq_tup_read FROM pg_stat_user_tables \
                WHERE relname = 'mx_job_webhook_events' AND n_tup_ins >= 3000";
    let patience = Instant::now() + Duration::from_secs(30);
    let read = loop {
        let row = sqlx::raw_sql(read).fetch_optional(&mut connection).await;
        if let Some(row) = row.unwrap() {
            break row.get::<i64, _>(0);
        }
        assert!(Instant::now() < patience, "the server counts nothing");
        tokio::time::sleep(Duration::from_millis(100)).await;
    };
    println!("{read} rows were read in order for {EVENTS} events");
    // As long as the table is a few pages, reading it is the quickest. All along, it would be 20 million.
    assert!(read < 1_000_000, "{read}");
}
