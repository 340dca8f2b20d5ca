//! The traffic to Postgres: the number of round trips per delivery, and proof that no statement can be
//! confused with another.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::Poll;
use std::time::Duration;

use mx_job_webhook::ledger::{Commit, Ledger as _, PostgresLedger};
use mx_job_webhook::{DedupeLayer, JobEvent, JobRouter, Receipt};
use sqlx::postgres::{PgConnectOptions, PgPoolOptions};
use sqlx::{Connection as _, PgConnection, PgPool, Row as _};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tower::{BoxError, Layer as _, ServiceExt as _};

use crate::engines::postgres::Database;
use crate::support::{LEASE, completed, granted, name, unique_id};

fn options() -> PgConnectOptions {
    let url = std::env::var("MX_TEST_POSTGRES_URL").unwrap();
    url.parse().unwrap()
}

/// The server behind a forwarder that counts requests for an answer: each `Sync` and each simple query.
pub(crate) async fn counted() -> (PgConnectOptions, Arc<AtomicUsize>) {
    counted_messages(b"SQ").await
}

/// The same for messages of these types.
async fn counted_messages(types: &'static [u8]) -> (PgConnectOptions, Arc<AtomicUsize>) {
    let options = options();
    let server = format!("{}:{}", options.get_host(), options.get_port());
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let round_trips = Arc::new(AtomicUsize::new(0));
    let counter = round_trips.clone();
    tokio::spawn(async move {
        loop {
            let (client, _) = listener.accept().await.unwrap();
            let server = TcpStream::connect(&server).await.unwrap();
            tokio::spawn(forward(client, server, types, counter.clone()));
        }
    });
    (options.host("127.0.0.1").port(port), round_trips)
}

async fn forward(client: TcpStream, server: TcpStream, types: &[u8], counter: Arc<AtomicUsize>) {
    let (mut from_client, mut to_client) = client.into_split();
    let (mut from_server, mut to_server) = server.into_split();
    tokio::spawn(async move { tokio::io::copy(&mut from_server, &mut to_client).await });
    let mut chunk = vec![0; 65_536];
    let mut unread = Vec::new();
    // The first message has no type, and neither does the TLS request before it.
    let mut has_started = false;
    while let Ok(count @ 1..) = from_client.read(&mut chunk).await {
        unread.extend_from_slice(&chunk[..count]);
        loop {
            let head = if has_started { 5 } else { 4 };
            let Some(bytes) = unread.get(head - 4..head) else {
                break;
            };
            let length = u32::from_be_bytes(bytes.try_into().unwrap()) as usize;
            let end = head - 4 + length;
            if unread.len() < end {
                break;
            }
            if has_started {
                let counts = types.contains(&unread[0]);
                counter.fetch_add(usize::from(counts), Ordering::SeqCst);
            } else {
                has_started = length > 8;
            }
            unread.drain(..end);
        }
        // Its messages are counted before their answers can come.
        if to_server.write_all(&chunk[..count]).await.is_err() {
            return;
        }
    }
}

/// A ledger with one connection in a database of its own, to which the pool leads too, and its round trips.
async fn counted_ledger() -> (Database, PgPool, PostgresLedger, Arc<AtomicUsize>) {
    let database = Database::create("").await;
    let admin = database.pool();
    PostgresLedger::new(admin.clone())
        .create_table()
        .await
        .unwrap();
    let (options, round_trips) = counted().await;
    let pool = PgPoolOptions::new().connect_lazy_with(options.database(&database.name));
    let ledger = PostgresLedger::new(pool).with_max_connections(1);
    (database, admin, ledger, round_trips)
}

/// A claim and a commit, once the statements are prepared: one round trip each, whatever the pool does for its
/// own connections. Concurrent calls share round trips.
#[tokio::test]
async fn a_delivery_takes_two_round_trips_and_concurrent_deliveries_share_them() {
    PostgresLedger::new(PgPool::connect_with(options()).await.unwrap())
        .create_table()
        .await
        .unwrap();
    let (options, round_trips) = counted().await;
    // sqlx's default settings: such a pool pings before and after each use of a connection.
    let pool = PgPoolOptions::new().connect_with(options).await.unwrap();
    let ledger = PostgresLedger::new(pool).with_max_connections(1);
    let once = DedupeLayer::new(ledger).layer(JobRouter::new().on_completed(|_| async {}));
    let deliver = || once.clone().oneshot(completed(&unique_id(), 1));
    assert_eq!(deliver().await.unwrap(), Receipt::Handled);

    round_trips.store(0, Ordering::SeqCst);
    for _ in 0..10 {
        assert_eq!(deliver().await.unwrap(), Receipt::Handled);
    }
    assert_eq!(round_trips.load(Ordering::SeqCst), 20);

    round_trips.store(0, Ordering::SeqCst);
    let mut at_once = tokio::task::JoinSet::new();
    for _ in 0..64 {
        at_once.spawn(deliver());
    }
    for receipt in at_once.join_all().await {
        assert_eq!(receipt.unwrap(), Receipt::Handled);
    }
    let shared = round_trips.load(Ordering::SeqCst);
    assert!(shared <= 16, "{shared} round trips for 64 deliveries");
}

/// A statement that failed is made again call by call if one of several calls may be the reason, and else not.
#[tokio::test]
async fn a_failed_statement_is_not_repeated_without_need() {
    let (_database, admin, ledger, round_trips) = counted_ledger().await;
    let claim = async |guid: String| ledger.claim(&name(&guid, 1), LEASE).await;
    claim("warm".to_owned()).await.unwrap();
    // A value of one call; or anything else.
    for (sqlstate, most) in [("22000", usize::MAX), ("P0001", 4)] {
        let refuse = format!(
            "CREATE OR REPLACE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS $f$ BEGIN
                 IF NEW.job LIKE 'bad%' THEN RAISE 'refused' USING ERRCODE = '{sqlstate}'; END IF;
                 RETURN NEW;
             END $f$;
             CREATE OR REPLACE TRIGGER refuse BEFORE INSERT ON mx_job_webhook_events
                 FOR EACH ROW EXECUTE FUNCTION refuse()"
        );
        sqlx::raw_sql(sqlx::AssertSqlSafe(refuse))
            .execute(&admin)
            .await
            .unwrap();
        round_trips.store(0, Ordering::SeqCst);
        claim("bad".to_owned()).await.unwrap_err();
        assert_eq!(round_trips.load(Ordering::SeqCst), 1, "{sqlstate}");

        round_trips.store(0, Ordering::SeqCst);
        let calls = (0..32).map(|number| claim(format!("bad{number}")));
        let outcomes = futures(calls).await;
        assert!(outcomes.iter().all(Result::is_err));
        let made = round_trips.load(Ordering::SeqCst);
        assert!(made <= most, "{sqlstate}: {made} round trips for 32 calls");

        // The others of the same statement succeed.
        let calls = (0..8).map(|number| {
            let guid = if number == 3 { "bad" } else { "good" };
            claim(format!("{guid}{number}{sqlstate}"))
        });
        let granted = futures(calls).await.iter().filter(|it| it.is_ok()).count();
        assert!(sqlstate != "22000" || granted == 7, "{granted}");
    }
}

/// A call waits for a transaction that has locked its event, for longer and longer.
#[tokio::test]
async fn a_call_whose_event_is_locked_is_repeated_with_pauses() {
    let (_database, admin, ledger, round_trips) = counted_ledger().await;
    let event = name("JOB-1", 1);
    let token = granted(ledger.claim(&event, LEASE).await.unwrap());
    let mut lock = admin.begin().await.unwrap();
    sqlx::raw_sql("SELECT job FROM mx_job_webhook_events FOR UPDATE")
        .execute(&mut *lock)
        .await
        .unwrap();
    let (waiting, waited) = (ledger.clone(), event.clone());
    let commit = tokio::spawn(async move { waiting.commit(&waited, token).await });
    tokio::time::sleep(Duration::from_secs(1)).await;
    // After 2, 4, 8, 16, 32, 64 and 128 ms, and then each 200 ms. The first one prepares the statement.
    let made = round_trips.load(Ordering::SeqCst);
    assert!((4..=20).contains(&made), "{made} round trips");
    lock.rollback().await.unwrap();
    assert_eq!(commit.await.unwrap().unwrap(), Commit::Settled);
}

/// A statement is planned again as its table grows, and therefore prepared again, but not often.
#[tokio::test]
async fn statements_are_prepared_again_each_time_the_calls_have_doubled() {
    let database = Database::create("").await;
    PostgresLedger::new(database.pool())
        .create_table()
        .await
        .unwrap();
    let (options, prepared) = counted_messages(b"P").await;
    let pool = PgPoolOptions::new().connect_lazy_with(options.database(&database.name));
    let ledger = PostgresLedger::new(pool).with_max_connections(1);
    for batch in 0..64 {
        let names = (0..64).map(|number| name(&format!("JOB-{batch}-{number}"), 1));
        let names: Vec<_> = names.collect();
        let claims = names.iter().map(|name| ledger.claim(name, LEASE));
        for claim in futures(claims).await {
            granted(claim.unwrap());
        }
    }
    let prepared = prepared.load(Ordering::SeqCst);
    println!("prepared {prepared} times for 4,096 calls");
    assert!((3..=8).contains(&prepared), "{prepared}");
}

/// Awaits these futures at once.
async fn futures<F: Future>(futures: impl Iterator<Item = F>) -> Vec<F::Output> {
    let mut running: Vec<_> = futures.map(Box::pin).collect();
    let mut outcomes: Vec<_> = running.iter().map(|_| None).collect();
    std::future::poll_fn(|context| {
        for (future, outcome) in running.iter_mut().zip(&mut outcomes) {
            if outcome.is_none()
                && let Poll::Ready(ready) = future.as_mut().poll(context)
            {
                *outcome = Some(ready);
            }
        }
        if outcomes.iter().all(Option::is_some) {
            Poll::Ready(())
        } else {
            Poll::Pending
        }
    })
    .await;
    outcomes.into_iter().flatten().collect()
}

/// With an effect in the application's transaction: begin, effect and end, `commit_in`, and
/// the claim and the commit, which finds the event settled and writes no row.
#[tokio::test]
async fn an_effect_in_the_same_transaction_takes_one_more_round_trip() {
    let (options, round_trips) = counted().await;
    let pool = PgPoolOptions::new()
        .max_connections(1)
        .test_before_acquire(false)
        .connect_with(options)
        .await
        .unwrap();
    let ledger = PostgresLedger::new(pool.clone()).with_max_connections(1);
    ledger.create_table().await.unwrap();
    let callback = |(pool, ledger): (PgPool, PostgresLedger), event: JobEvent| async move {
        let mut transaction = pool.begin().await?;
        ledger.commit_in(&mut transaction, &event).await?;
        transaction.commit().await?;
        Ok::<_, BoxError>(())
    };
    let jobs = JobRouter::with_state((pool, ledger.clone()))
        .on_completed(callback)
        .build();
    let once = DedupeLayer::new(ledger).layer(jobs);
    let mut last = 0;
    for _ in 0..3 {
        round_trips.store(0, Ordering::SeqCst);
        let receipt = once.clone().oneshot(completed(&unique_id(), 1)).await;
        assert_eq!(receipt.unwrap(), Receipt::Handled);
        // The pool pings once more when the connection returns.
        tokio::time::sleep(Duration::from_millis(50)).await;
        last = round_trips.load(Ordering::SeqCst);
    }
    // BEGIN, `commit_in`, COMMIT and sqlx's ping; claim, commit.
    assert_eq!(last, 4 + 2);
}

/// A pooler in transaction mode that does not track prepared statements may run another client's statement of the same
/// name. A statement of the ledger that runs in place of another changes no row and reports no success.
#[tokio::test]
async fn a_confused_statement_changes_no_row() {
    let statements = [
        (
            "claim",
            include_str!("../../../src/ledger/postgres/sql/claim.sql"),
            MANY,
        ),
        (
            "commit",
            include_str!("../../../src/ledger/postgres/sql/commit.sql"),
            MANY,
        ),
        (
            "release",
            include_str!("../../../src/ledger/postgres/sql/release.sql"),
            MANY,
        ),
        (
            "commit_in",
            include_str!("../../../src/ledger/postgres/sql/commit_in.sql"),
            "'J', 'E', '1', 7, 60000",
        ),
        (
            "prune",
            include_str!("../../../src/ledger/postgres/sql/prune.sql"),
            "0, 10000",
        ),
    ];
    const MANY: &str = "ARRAY['J'], ARRAY['E'], ARRAY['1'], ARRAY[7]::bigint[]";
    // Each statement of the crate with parameters is one of these, and its first parameter identifies it.
    for (name, sql) in statements_with_parameters() {
        let told = format!("$1::text = '{name}'");
        assert!(sql.contains(&told), "{name} lacks {told}");
        // `watch_postgres` tests those of the watch. Those of dead letters run within a transaction, which a pooler
        // leaves on one connection: `dead_letters` tests them behind each PgBouncer.
        if name.starts_with("watch_") || name.starts_with("letter_") {
            continue;
        }
        let names = statements.map(|(name, ..)| name);
        assert!(names.contains(&name.as_str()), "{name} is not tested here");
    }
    let mut connection = PgConnection::connect_with(&options()).await.unwrap();
    let schema = format!("mx_{}", unique_id());
    for sql in [
        format!("CREATE SCHEMA {schema}"),
        format!("SET search_path = {schema}"),
        PostgresLedger::TABLE.to_owned(),
        // One event is claimed with token 7 and may be taken over; another could be pruned.
        "INSERT INTO mx_job_webhook_events VALUES \
         ('J', 'E', 1, 7, now(), NULL), ('J', 'old', 0, 1, now(), now() - interval '1 year')"
            .to_owned(),
    ] {
        run(&mut connection, sql).await;
    }
    let rows = "SELECT count(*) || string_agg(mx_job_webhook_events::text, ';' ORDER BY event) \
                FROM mx_job_webhook_events";
    let before = text(&mut connection, rows.to_owned()).await;
    for (name, sql, parameters) in statements {
        run(&mut connection, format!("PREPARE {name}_prepared AS {sql}")).await;
        for (asked, _, _) in statements {
            // Runs in place of `asked`, with parameters of the same types.
            if asked == name {
                continue;
            }
            let execute = format!("EXECUTE {name}_prepared ('{asked}', {parameters})");
            let answer = text(&mut connection, execute).await.unwrap_or_default();
            assert!(!answer.starts_with(asked), "{name} for {asked}: {answer}");
        }
        assert_eq!(
            text(&mut connection, rows.to_owned()).await,
            before,
            "{name}"
        );
    }
    // Each statement changes a row when it is called correctly.
    for (name, _, parameters) in statements {
        let execute = format!("EXECUTE {name}_prepared ('{name}', {parameters})");
        let answer = text(&mut connection, execute).await.unwrap();
        assert!(answer.starts_with(name), "{answer}");
        assert_ne!(
            text(&mut connection, rows.to_owned()).await,
            before,
            "{name}"
        );
        if name != "prune" {
            run(&mut connection, "UPDATE mx_job_webhook_events SET token = 7, leased_until = now() + interval '1 hour', settled_at = NULL WHERE event = 'E'".to_owned()).await;
        }
    }
    run(&mut connection, format!("DROP SCHEMA {schema} CASCADE")).await;
}

/// All of the crate's SQL statements with parameters.
fn statements_with_parameters() -> Vec<(String, String)> {
    let mut folders = vec![std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../../src")];
    let mut statements = Vec::new();
    while let Some(folder) = folders.pop() {
        for file in std::fs::read_dir(folder).unwrap() {
            let path = file.unwrap().path();
            // Those of the queue are not prepared: their values are literals, or they run within a transaction.
            if path.ends_with("queue/sql") {
                continue;
            }
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|extension| extension == "sql") {
                let name = path.file_stem().unwrap().to_str().unwrap().to_owned();
                let sql = std::fs::read_to_string(path).unwrap();
                if sql.contains("$1") {
                    statements.push((name, sql));
                }
            }
        }
    }
    assert!(statements.len() >= 5, "{}", statements.len());
    statements
}

/// A success is on disk and on the synchronous standbys before it is acknowledged, even if the application has
/// chosen less durability. A claim and a release wait for neither. The setting ends with the statement.
#[tokio::test]
async fn each_statement_has_the_durability_it_needs() {
    const PARAMETERS: &str = "ARRAY['J'], ARRAY['E'], ARRAY['1'], ARRAY[7]::bigint[]";
    let statements = [
        (
            "claim",
            include_str!("../../../src/ledger/postgres/sql/claim.sql"),
            false,
        ),
        (
            "commit",
            include_str!("../../../src/ledger/postgres/sql/commit.sql"),
            true,
        ),
        (
            "release",
            include_str!("../../../src/ledger/postgres/sql/release.sql"),
            false,
        ),
    ];
    let ledger = PostgresLedger::new(PgPool::connect_with(options()).await.unwrap());
    ledger.create_table().await.unwrap();
    let mut connection = PgConnection::connect_with(&options()).await.unwrap();
    for (name, sql, _) in statements {
        run(&mut connection, format!("PREPARE {name} AS {sql}")).await;
    }
    let settings = ["off", "local", "remote_write", "on", "remote_apply"];
    for (name, _, is_durable) in statements {
        for setting in settings {
            run(
                &mut connection,
                format!("SET synchronous_commit = {setting}"),
            )
            .await;
            run(&mut connection, "BEGIN".to_owned()).await;
            let execute = format!("EXECUTE {name} ('{name}', {PARAMETERS})");
            let answer = text(&mut connection, execute).await.unwrap();
            assert!(answer.starts_with(name), "{answer}");
            let show = || "SHOW synchronous_commit".to_owned();
            let within = text(&mut connection, show()).await.unwrap();
            let expected = match (is_durable, setting) {
                (false, _) => "off",
                (true, "off" | "local") => "on",
                (true, setting) => setting,
            };
            assert_eq!(within, expected, "{name} at {setting}");
            run(&mut connection, "ROLLBACK".to_owned()).await;
            assert_eq!(
                text(&mut connection, show()).await.unwrap(),
                setting,
                "{name}"
            );
        }
    }
}

pub(crate) async fn run(connection: &mut PgConnection, sql: String) {
    let sql = sqlx::AssertSqlSafe(sql);
    sqlx::raw_sql(sql).execute(connection).await.unwrap();
}

pub(crate) async fn text(connection: &mut PgConnection, sql: String) -> Option<String> {
    let sql = sqlx::AssertSqlSafe(sql);
    let row = sqlx::raw_sql(sql).fetch_optional(connection).await.unwrap();
    row.map(|row| row.get(0))
}
