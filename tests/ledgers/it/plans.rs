//! PostgreSQL's plans for the ledger's statements at a million events: each uses an index.

use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

use mx_job_webhook::ledger::PostgresLedger;
use mx_job_webhook::{DedupeLayer, JobRouter, Receipt};
use sqlx::postgres::PgConnectOptions;
use sqlx::{AssertSqlSafe, ConnectOptions as _, PgConnection, Row as _};
use tower::{Layer as _, ServiceExt as _};

use crate::engines::postgres::{Database, Postgres, Version, pool};
use crate::support::completed;
use harness::servers::Folder;

/// In pages: a call reads a few rows through the index, and a new connection reads the catalogue.
const FEW: i64 = 300;

/// How many rows `prune` deletes at a time.
const BATCH: i64 = 10_000;

const HOURS: i64 = 60 * 60 * 1_000_000;

/// The crate's statements, by their files' names.
fn statements() -> Vec<(String, String)> {
    let mut statements = Vec::new();
    let mut folders = vec![Path::new(env!("CARGO_MANIFEST_DIR")).join("../../src/ledger/postgres")];
    while let Some(folder) = folders.pop() {
        for file in fs::read_dir(folder).unwrap() {
            let path = file.unwrap().path();
            if path.is_dir() {
                folders.push(path);
                continue;
            }
            if path.extension().is_none_or(|kind| kind != "sql") {
                continue;
            }
            let name = path.file_stem().unwrap().to_str().unwrap().to_owned();
            let text = fs::read_to_string(path).unwrap();
            let mut code = text
                .lines()
                .filter(|line| !line.trim_start().starts_with("--"));
            let begin = code.find_map(|line| line.split_whitespace().next());
            // Without the statements that create the table.
            if ["WITH", "SELECT", "INSERT", "UPDATE", "DELETE"].contains(&begin.unwrap_or_default())
            {
                statements.push((name, text));
            }
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
    // Five events per job, settled in the last 48 hours; one in a hundred is not committed.
    let fill = format!(
        "INSERT INTO mx_job_webhook_events (job, event, updated_at, token, leased_until, settled_at) \
         SELECT md5((number / 5)::text), 'event ' || number % 5, 1700000000 + number, \
         1000000 * number::bigint, settled, CASE WHEN number % 100 > 0 THEN settled END \
         FROM (SELECT number, now() - (number % 172800) * interval '1 second' AS settled \
         FROM generate_series(1, {events}) AS number) AS numbers"
    );
    execute(&mut connection, &fill).await;
    // The state that autovacuum leaves.
    execute(&mut connection, "VACUUM ANALYZE mx_job_webhook_events").await;
    connection
}

async fn execute(connection: &mut PgConnection, statement: &str) {
    let statement = AssertSqlSafe(statement.to_owned());
    sqlx::raw_sql(statement).execute(connection).await.unwrap();
}

async fn lines(connection: &mut PgConnection, query: &str) -> Vec<String> {
    let rows = sqlx::raw_sql(AssertSqlSafe(query.to_owned())).fetch_all(connection);
    rows.await.unwrap().iter().map(|row| row.get(0)).collect()
}

/// Values for the parameters of a prepared statement, in order and by type.
struct Values {
    /// For array parameters: the number of events in one call.
    events: i64,
    /// As SQL. The last one is used for all further parameters.
    numbers: [String; 2],
    /// The number of buffers that the call may touch.
    buffers: i64,
}

impl Values {
    fn all(name: &str) -> Vec<Self> {
        let values = |events, numbers: [&dyn ToString; 2], buffers| Self {
            events,
            numbers: numbers.map(ToString::to_string),
            buffers,
        };
        match name {
            // The age and the batch size: either no event or a whole batch is that old.
            "prune" => vec![
                values(1, [&(49 * HOURS), &BATCH], FEW),
                values(1, [&(47 * HOURS), &BATCH], 20 * BATCH),
            ],
            // The event's token or a lease of about an hour; a limit in ms.
            _ => {
                let numbers: [&dyn ToString; 2] = [&"1000000 * (5 * n + n % 6)::bigint", &60_000];
                vec![values(1, numbers, FEW), values(64, numbers, 64 * 30)]
            }
        }
    }

    async fn call(&self, connection: &mut PgConnection, name: &str, statement: &str) -> String {
        let types = format!(
            "SELECT unnest(parameter_types)::text FROM pg_prepared_statements WHERE name = '{name}'"
        );
        // The jobs exist; of their events, some are settled, one is not committed, and some do not exist.
        let mut texts = vec!["md5(n::text)", "'event ' || n % 6", "'1700061728'"];
        let tag = format!("'{name}'");
        if statement.contains(&format!("$1::text = {tag}")) {
            texts.insert(0, &tag);
        }
        let (mut texts, mut numbers) = (texts.into_iter(), self.numbers.iter());
        let (mut text, mut number) = ("NULL", &self.numbers[0]);
        let mut values = Vec::new();
        for kind in lines(connection, &types).await {
            let element = kind.trim_end_matches("[]");
            let value = match element {
                "text" => {
                    text = texts.next().unwrap_or(text);
                    text.to_owned()
                }
                "smallint" | "integer" | "bigint" | "numeric" | "double precision" => {
                    number = numbers.next().unwrap_or(number);
                    number.to_string()
                }
                "interval" => format!("{number} * interval '1 microsecond'"),
                "boolean" => "true".to_owned(),
                _ => "NULL".to_owned(),
            };
            let first = if kind.ends_with("[]") { "" } else { "[1]" };
            values.push(format!(
                "(SELECT (array_agg(({value})::{element})){first} FROM generate_series(1020, {}) AS n)",
                1019 + self.events
            ));
        }
        // An argument may not be a query, so the values are evaluated first.
        let mut literals = Vec::new();
        for value in values {
            let literal = lines(connection, &format!("SELECT quote_nullable({value}::text)")).await;
            literals.push(literal[0].clone());
        }
        match literals.is_empty() {
            true => format!("EXECUTE {name}"),
            false => format!("EXECUTE {name}({})", literals.join(", ")),
        }
    }
}

/// Checks that neither the generic plan nor the plan for these values reads the whole table.
async fn use_an_index(connection: &mut PgConnection) {
    // PostgreSQL 11 and older lack this setting: the sixth call may use the generic plan.
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
        for values in Values::all(&name) {
            let call = values.call(connection, &name, &statement).await;
            let shown: String = call.chars().take(160).collect();
            let mut touches = Vec::new();
            for mode in &modes {
                execute(connection, mode).await;
                execute(connection, "BEGIN").await;
                let explain = format!("EXPLAIN (ANALYZE, BUFFERS, TIMING OFF) {call}");
                let plan = lines(connection, &explain).await;
                execute(connection, "ROLLBACK").await;
                let (touched, plan) = (buffers(&plan), plan.join("\n"));
                touches.push(touched);
                if plan.contains("Seq Scan on mx_job_webhook_events") {
                    at_fault.push(format!("{shown}, {mode}: reads the table\n{plan}"));
                } else if touched > values.buffers {
                    at_fault.push(format!("{shown}, {mode}: {touched} buffers\n{plan}"));
                }
            }
            println!("{shown}: {touches:?} buffers");
        }
    }
    assert!(at_fault.is_empty(), "{}", at_fault.join("\n\n"));
}

/// Of the whole plan: its first such line is the total.
fn buffers(plan: &[String]) -> i64 {
    let line = plan.iter().find(|line| line.contains("Buffers: shared"));
    // Temporary files are listed after a comma.
    let shared = line
        .and_then(|line| line.split(',').next())
        .unwrap_or_default();
    let counts = shared.split(' ').filter_map(|word| word.split_once('='));
    let counts = counts.filter(|(kind, _)| ["hit", "read"].contains(kind));
    counts.map(|(_, count)| count.parse::<i64>().unwrap()).sum()
}

#[tokio::test]
async fn each_statement_uses_an_index_at_a_million_events() {
    let database = Database::create("").await;
    let mut connection = with_events(database.options(), 1_000_000).await;
    use_an_index(&mut connection).await;
}

#[tokio::test]
async fn each_statement_uses_an_index_on_the_oldest_server() {
    let folder = Folder::new();
    let server = Postgres::primary(&folder, Version::V10, &["fsync=off"]);
    let mut connection = with_events(server.options(), 200_000).await;
    use_an_index(&mut connection).await;
}

#[tokio::test]
async fn each_statement_uses_an_index_on_the_newest_server() {
    let folder = Folder::new();
    let server = Postgres::primary(&folder, Version::V18, &["fsync=off"]);
    let mut connection = with_events(server.options(), 200_000).await;
    use_an_index(&mut connection).await;
}

/// The server plans a ledger's statements by the size of the table, which is small at first, and keeps a connection's
/// plans until there are new statistics. In a burst, each event must not read the whole table.
#[tokio::test]
async fn a_fast_growing_table_is_not_read_for_each_event() {
    const EVENTS: i64 = 3_000;
    let database = Database::create("").await;
    let mut connection = with_events(database.options(), 0).await;
    // Prevents new statistics, which would arrive within a minute.
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
    // The server counts a session's work at the latest when it ends.
    drop(once);
    let read = "SELECT seq_tup_read FROM pg_stat_user_tables \
                WHERE relname = 'mx_job_webhook_events' AND n_tup_ins >= 3000";
    let patience = Instant::now() + Duration::from_secs(30);
    let read = loop {
        let row = sqlx::raw_sql(read).fetch_optional(&mut connection).await;
        if let Some(row) = row.unwrap() {
            break row.get::<i64, _>(0);
        }
        assert!(
            Instant::now() < patience,
            "the server's statistics lack the rows"
        );
        tokio::time::sleep(Duration::from_millis(100)).await;
    };
    println!("{read} rows were read in order for {EVENTS} events");
    // While the table has few pages, reading it is fastest. For the whole test, that would be 20 million rows.
    assert!(read < 1_000_000, "{read}");
}
