//! The store of expected jobs on PostgreSQL: its contract, its failures, its plans, and what it costs.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use mx_job_webhook::job::JobGuid;
use mx_job_webhook::testing::check_watch_store;
use mx_job_webhook::watch::{
    Due, Entry, Failsafe, JobWatch, PostgresWatchStore, Replaced, Update, WatchStore as _,
};
use mx_job_webhook::{Job, JobRouter, Status};
use sqlx::postgres::{PgConnectOptions, PgPoolOptions};
use sqlx::{AssertSqlSafe, ConnectOptions as _, Connection as _, PgConnection, PgPool, Row as _};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, timeout};
use tower::{Layer as _, ServiceExt as _};

use crate::engines::pgbouncer::{self, Version::V1_18, Version::V1_24};
use crate::engines::postgres::{Database, Postgres, Version, at, pool};
use crate::postgres_wire::{counted, run, text};
use crate::proxy::Proxy;
use crate::support::{Log, unique_id};
use harness::servers::Folder;

const LONG: Duration = Duration::from_secs(600);

async fn store(options: PgConnectOptions) -> PostgresWatchStore {
    let store = PostgresWatchStore::new(pool(options));
    store.create_table().await.unwrap();
    store
}

fn guid() -> JobGuid {
    format!("JOB-{}", unique_id()).parse().unwrap()
}

/// An event of the job is settled, in a process with this watch.
async fn deliver(watch: &JobWatch, guid: &JobGuid, status: Status) {
    let jobs = watch.layer().layer(JobRouter::new());
    let job = Job::new(guid.clone(), status);
    jobs.oneshot(job.into()).await.unwrap();
}

fn update(entry: &Entry, due: Due, keep: Option<Duration>) -> Update<'_> {
    Update {
        entry,
        due,
        keep,
        wakes: true,
    }
}

async fn execute(pool: &PgPool, sql: &str) {
    let sql = AssertSqlSafe(sql.to_owned());
    sqlx::raw_sql(sql).execute(pool).await.unwrap();
}

async fn number(pool: &PgPool, sql: &str) -> i64 {
    let sql = AssertSqlSafe(sql.to_owned());
    sqlx::raw_sql(sql).fetch_one(pool).await.unwrap().get(0)
}

#[tokio::test]
async fn it_keeps_the_contract_on_postgres_10() {
    let folder = Folder::new();
    let server = Postgres::primary(&folder, Version::V10, &["fsync=off"]);
    check_watch_store(store(server.options()).await).await;
}

#[tokio::test]
async fn it_keeps_the_contract_on_postgres_15() {
    let database = Database::create("").await;
    check_watch_store(store(database.options()).await).await;
}

#[tokio::test]
async fn it_keeps_the_contract_on_postgres_18() {
    let folder = Folder::new();
    let server = Postgres::primary(&folder, Version::V18, &["fsync=off"]);
    check_watch_store(store(server.options()).await).await;
}

#[tokio::test]
async fn it_keeps_the_contract_in_sql_ascii() {
    let settings = "TEMPLATE template0 ENCODING 'SQL_ASCII' LC_COLLATE 'C' LC_CTYPE 'C'";
    let database = Database::create(settings).await;
    check_watch_store(store(database.options()).await).await;
}

/// Without an index, each statement reads all rows, so that the server reports more conflicts.
#[tokio::test]
async fn it_keeps_the_contract_with_stricter_isolation() {
    for isolation in ["serializable", "repeatable read"] {
        let database = Database::create("").await;
        let options = database.options().options([
            ("default_transaction_isolation", isolation),
            ("enable_indexscan", "off"),
            ("enable_bitmapscan", "off"),
        ]);
        let pool = PgPoolOptions::new()
            .max_connections(16)
            .connect_lazy_with(options);
        let store = PostgresWatchStore::new(pool);
        store.create_table().await.unwrap();
        check_watch_store(store.clone()).await;
        // Unrelated jobs at once.
        let mut calls = JoinSet::new();
        for _ in 0..16 {
            let watch = JobWatch::new(store.clone());
            calls.spawn(async move {
                for _ in 0..10 {
                    let job = guid();
                    let expected = watch.expect(&job).await.unwrap();
                    deliver(&watch, &job, Status::Completed).await;
                    assert!(expected.within(Duration::ZERO).await.unwrap().is_some());
                }
            });
        }
        calls.join_all().await;
    }
}

/// The pool leads to PgBouncer, and the connection that listens to the server.
#[tokio::test]
async fn it_keeps_the_contract_behind_pgbouncer_in_transaction_mode() {
    let database = Database::create("").await;
    let folder = Folder::new();
    let settings = [
        ("pool_mode", "transaction"),
        ("default_pool_size", "3"),
        ("ignore_startup_parameters", "extra_float_digits"),
        ("max_prepared_statements", "100"),
    ];
    let pgbouncer = pgbouncer::start(&folder, V1_24, database.server(), &settings);
    let store = store(at(pgbouncer.address).database(&database.name)).await;
    check_watch_store(store.with_listener(database.options())).await;
}

/// Without a connection that bypasses PgBouncer, waiters hear late. The store does not run `LISTEN` on a server
/// connection that others share: their statements would fail with "unexpected message: NotificationResponse".
#[tokio::test]
async fn a_listener_behind_pgbouncer_only_delays() {
    let database = Database::create("").await;
    let folder = Folder::new();
    let settings = [
        ("pool_mode", "transaction"),
        ("default_pool_size", "3"),
        ("ignore_startup_parameters", "extra_float_digits"),
        ("max_prepared_statements", "100"),
    ];
    let pgbouncer = pgbouncer::start(&folder, V1_24, database.server(), &settings);
    let options = at(pgbouncer.address).database(&database.name);
    // The first one finds no server connection that it could share.
    for _ in 0..3 {
        let store = PostgresWatchStore::new(pool(options.clone()));
        let (here, there) = (JobWatch::new(store.clone()), JobWatch::new(store.clone()));
        store.create_table().await.unwrap();
        let took = wake_up(&here, &there).await;
        println!("a listener behind PgBouncer: heard after {took:?}");
        assert!(took < Duration::from_secs(12), "{took:?}");
        // At the same time, so that each is on another server connection.
        let shared = pool(options.clone());
        let mut transactions = Vec::new();
        for _ in 0..3 {
            let mut transaction = shared.begin().await.unwrap();
            let listening = "SELECT count(*) FROM pg_listening_channels()";
            let row = sqlx::raw_sql(listening).fetch_one(&mut *transaction);
            assert_eq!(row.await.unwrap().get::<i64, _>(0), 0);
            transactions.push(transaction);
        }
    }
}

/// A session of the server that is older than the connection shows a pooler, also if no other connection has it.
#[tokio::test]
async fn the_store_does_not_listen_on_a_session_that_was_another_clients() {
    let database = Database::create("").await;
    store(database.options()).await;
    let folder = Folder::new();
    let settings = [
        ("pool_mode", "session"),
        ("default_pool_size", "8"),
        ("ignore_startup_parameters", "extra_float_digits"),
    ];
    let pgbouncer = pgbouncer::start(&folder, V1_24, database.server(), &settings);
    let options = at(pgbouncer.address).database(&database.name);
    let pool = PgPoolOptions::new().max_connections(1);
    let store = PostgresWatchStore::new(pool.connect_lazy_with(options.clone()));
    // The store's pool has its connection, and one session waits for another client.
    store.count().await.unwrap();
    let mut other = options.connect().await.unwrap();
    sqlx::raw_sql("SELECT 1").execute(&mut other).await.unwrap();
    other.close().await.unwrap();
    sleep(Duration::from_millis(100)).await;
    let watch = JobWatch::new(store);
    let expected = watch.expect(&guid()).await.unwrap();
    let waiting = tokio::spawn(async move { expected.within(LONG).await.map(drop) });
    let direct = database.pool();
    let listening = "SELECT count(*) FROM pg_stat_activity
                     WHERE datname = current_database() AND query LIKE 'LISTEN%'";
    let start = Instant::now();
    while start.elapsed() < Duration::from_secs(2) {
        assert_eq!(number(&direct, listening).await, 0);
        sleep(Duration::from_millis(20)).await;
    }
    waiting.abort();
}

/// An old PgBouncer that mixes up statements: calls may fail, and what a call has acknowledged stands.
#[tokio::test]
async fn an_old_pgbouncer_that_mixes_up_statements_loses_nothing() {
    let database = Database::create("").await;
    let folder = Folder::new();
    let settings = [
        ("pool_mode", "transaction"),
        ("default_pool_size", "3"),
        ("ignore_startup_parameters", "extra_float_digits"),
    ];
    let direct = store(database.options()).await;
    let pgbouncer = pgbouncer::start(&folder, V1_18, database.server(), &settings);
    let options = at(pgbouncer.address).database(&database.name);
    let mut calls = JoinSet::new();
    for _ in 0..4 {
        let store = PostgresWatchStore::new(pool(options.clone()));
        calls.spawn(async move {
            let mut recorded = Vec::new();
            for _ in 0..50 {
                let (job, entry) = (guid(), Entry::default());
                let replaced = store.replace(&job, None, update(&entry, Due::In(LONG), None));
                if matches!(replaced.await, Ok(Replaced::Done)) {
                    recorded.push(job.clone());
                }
                let _ = store.load(std::slice::from_ref(&job)).await;
            }
            recorded
        });
    }
    let recorded: Vec<_> = calls.join_all().await.into_iter().flatten().collect();
    let found = direct.load(&recorded).await.unwrap();
    println!(
        "1.18, transaction: {} of 200 calls succeeded",
        recorded.len()
    );
    assert_eq!(found.len(), recorded.len());
}

/// Returns how long it takes until one watch hears what was delivered to the other.
async fn wake_up(here: &JobWatch, there: &JobWatch) -> Duration {
    let job = guid();
    let expected = here.expect(&job).await.unwrap();
    let waiting = tokio::spawn(async move {
        let heard = expected.within(Duration::from_secs(60)).await.unwrap();
        assert!(heard.is_some());
        Instant::now()
    });
    sleep(Duration::from_millis(50)).await;
    deliver(there, &job, Status::Completed).await;
    let settled = Instant::now();
    waiting.await.unwrap().saturating_duration_since(settled)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_wake_up_takes_some_milliseconds() {
    let database = Database::create("").await;
    let (one, other) = (
        store(database.options()).await,
        store(database.options()).await,
    );
    let (here, there) = (JobWatch::new(one), JobWatch::new(other));
    // Opens the connection that listens.
    wake_up(&here, &there).await;
    let mut times = Vec::new();
    for _ in 0..100 {
        times.push(wake_up(&here, &there).await);
    }
    times.sort();
    println!(
        "a wake-up, after the delivery was settled: median {:?}, 90 % {:?}",
        times[50], times[90]
    );
    assert!(times[50] < Duration::from_millis(50), "{times:?}");
}

/// Guids that do not fit into a notification.
#[tokio::test]
async fn any_guid_wakes() {
    let database = Database::create("").await;
    let store = store(database.options()).await;
    let (here, there) = (JobWatch::new(store.clone()), JobWatch::new(store));
    wake_up(&here, &there).await;
    for suffix in ["a\0b".to_owned(), "ä".to_owned(), "x".repeat(10_000)] {
        let job: JobGuid = format!("JOB-{}-{suffix}", unique_id()).parse().unwrap();
        let expected = here.expect(&job).await.unwrap();
        let waiting = tokio::spawn(async move { expected.within(LONG).await.unwrap() });
        sleep(Duration::from_millis(100)).await;
        deliver(&there, &job, Status::Completed).await;
        let heard = timeout(Duration::from_secs(2), waiting).await.unwrap();
        assert_eq!(heard.unwrap().unwrap().guid, job);
    }
}

/// Sessions that listen. Each ran `LISTEN` last, or the check.
const LISTENERS: &str = "FROM pg_stat_activity WHERE datname = current_database() \
     AND query NOT LIKE '%pg_stat_activity%' AND query IN ('LISTEN \"mx_job_webhook_watch\"', 'SELECT')";

#[tokio::test]
async fn a_listener_that_is_killed_only_delays() {
    let database = Database::create("").await;
    let store = store(database.options()).await;
    let (here, there) = (JobWatch::new(store.clone()), JobWatch::new(store));
    let admin = database.pool();
    wake_up(&here, &there).await;
    for _ in 0..3 {
        let job = guid();
        let expected = here.expect(&job).await.unwrap();
        let waiting = tokio::spawn(async move { expected.within(LONG).await.unwrap() });
        sleep(Duration::from_millis(50)).await;
        let killed = format!("SELECT count(pg_terminate_backend(pid)) {LISTENERS}");
        assert!(number(&admin, &killed).await >= 1);
        let killed = Instant::now();
        deliver(&there, &job, Status::Completed).await;
        assert!(waiting.await.unwrap().is_some());
        println!("heard {:?} after the listener was killed", killed.elapsed());
        assert!(killed.elapsed() < Duration::from_secs(12));
    }
}

/// The network drops the connection without a word. The store notices it and listens on another one.
#[tokio::test]
async fn a_listener_whose_server_is_silent_is_replaced() {
    let database = Database::create("").await;
    let proxy = Proxy::to(database.server()).await;
    let store = store(database.options()).await;
    let listening = store
        .clone()
        .with_listener(at(proxy.address).database(&database.name));
    let (here, there) = (JobWatch::new(listening), JobWatch::new(store));
    wake_up(&here, &there).await;
    assert_eq!(proxy.connections(), 1);
    proxy.stall_existing();
    let stalled = Instant::now();
    while proxy.connections() < 2 {
        assert!(stalled.elapsed() < Duration::from_secs(30));
        sleep(Duration::from_millis(100)).await;
    }
    println!(
        "a silent listener was replaced after {:?}",
        stalled.elapsed()
    );
    sleep(Duration::from_secs(1)).await;
    let took = wake_up(&here, &there).await;
    assert!(took < Duration::from_secs(1), "{took:?}");
}

/// When the application closes its pool, nothing keeps connections open.
#[tokio::test]
async fn a_closed_pool_ends_the_listener() {
    let database = Database::create("").await;
    let store = store(database.options()).await;
    let pool = pool(database.options());
    let here = JobWatch::new(PostgresWatchStore::new(pool.clone()));
    wake_up(&here, &JobWatch::new(store)).await;
    let admin = database.pool();
    let count = format!("SELECT count(*) {LISTENERS}");
    assert_eq!(number(&admin, &count).await, 1);
    pool.close().await;
    let patience = Instant::now() + Duration::from_secs(5);
    while number(&admin, &count).await > 0 {
        assert!(Instant::now() < patience);
        sleep(Duration::from_millis(50)).await;
    }
}

/// Two replicas wait for jobs and read overdue ones while the server crashes. What was recorded is heard.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_restart_of_the_server_loses_no_job() {
    let folder = Folder::new();
    let mut server = Postgres::primary(&folder, Version::V15, &[]);
    let ran = Log::default();
    let mut watches = Vec::new();
    let mut failsafes = JoinSet::new();
    for _ in 0..2 {
        let store = store(server.options()).await;
        let watch = JobWatch::new(store).with_patience(Duration::from_secs(2));
        let log = ran.clone();
        let jobs = watch.layer().layer(JobRouter::new().on_completed(
            move |event: mx_job_webhook::JobEvent| {
                let log = log.clone();
                async move { log.push(event.guid.as_str()) }
            },
        ));
        let read = |guid: JobGuid| async move {
            sleep(Duration::from_millis(200)).await;
            Ok::<_, std::io::Error>(Job::new(guid, Status::Completed))
        };
        let failsafe = Failsafe::new(&watch, jobs, read)
            .with_lease(Duration::from_secs(3))
            .with_pauses(Duration::from_secs(1), Duration::from_secs(1));
        failsafes.spawn(failsafe.run_until(std::future::pending::<()>()));
        watches.push(watch);
    }
    let mut waiting = JoinSet::new();
    let jobs: Vec<_> = (0..80).map(|_| guid()).collect();
    for job in &jobs {
        // Recorded by one replica, awaited on the other.
        let _ = watches[0].expect(job).await.unwrap();
        let expected = watches[1].expect(job).await.unwrap();
        waiting.spawn(async move {
            let started = Instant::now();
            loop {
                match expected.within(Duration::from_secs(60)).await {
                    Ok(heard) => return heard.is_some(),
                    // The server is down at the end of the wait.
                    Err(_) => assert!(started.elapsed() < LONG),
                }
            }
        });
    }
    // Some reads are done by now, and some jobs are claimed.
    while ran.entries().len() < 10 {
        sleep(Duration::from_millis(20)).await;
    }
    server.crash();
    sleep(Duration::from_secs(2)).await;
    let before = ran.entries().len();
    server.start_again();
    let restarted = Instant::now();
    let heard = waiting.join_all().await;
    println!(
        "{before} of 80 callbacks before the restart, all heard {:?} after it, {} callbacks",
        restarted.elapsed(),
        ran.entries().len()
    );
    assert!(before < 80);
    assert!(heard.iter().all(|heard| *heard));
    let ran = ran.entries();
    assert!(
        jobs.iter()
            .all(|job| ran.iter().any(|ran| ran == job.as_str()))
    );
}

/// Round trips on the wire once statements are prepared, without sqlx's test of a pooled connection.
#[tokio::test]
async fn each_call_takes_one_round_trip() {
    let database = Database::create("").await;
    store(database.options()).await;
    let (options, trips) = counted().await;
    let pool = PgPoolOptions::new()
        .max_connections(1)
        .test_before_acquire(false)
        .connect_with(options.database(&database.name))
        .await
        .unwrap();
    let store = PostgresWatchStore::new(pool);
    let watch = JobWatch::new(store.clone());
    // sqlx tests a connection when it returns to the pool.
    let settle = async || {
        sleep(Duration::from_millis(50)).await;
        trips.swap(0, Ordering::SeqCst)
    };
    // An error adds no round trips to later calls.
    let direct = database.pool();
    execute(&direct, "ALTER TABLE mx_job_webhook_watch RENAME TO other").await;
    store.load(&[guid()]).await.unwrap_err();
    execute(&direct, "ALTER TABLE other RENAME TO mx_job_webhook_watch").await;
    // Each includes the tests of returned connections, one a call.
    let expected_trips = [2, 4, 2, 2, 2];
    let mut last = [0; 5];
    // The first round prepares statements. A busy machine can move a test of a connection past the pause.
    for _ in 0..8 {
        settle().await;
        let job = guid();
        let expected = watch.expect(&job).await.unwrap();
        let expect = settle().await;
        deliver(&watch, &job, Status::Completed).await;
        let heard = settle().await;
        deliver(&watch, &guid(), Status::Completed).await;
        let unexpected = settle().await;
        store.claim_due(8, LONG).await.unwrap();
        let claim = settle().await;
        store.count().await.unwrap();
        let count = settle().await;
        assert!(expected.within(Duration::ZERO).await.unwrap().is_some());
        last = [expect, heard, unexpected, claim, count];
        if last == expected_trips {
            break;
        }
    }
    println!("round trips: expect, heard, heard of no expected job, claim, count: {last:?}");
    assert_eq!(last, expected_trips);
}

/// The crate's statements with values for their parameters, after the first.
fn statements() -> [(&'static str, &'static str, &'static str); 5] {
    macro_rules! sql {
        ($name:literal) => {
            include_str!(concat!("../../../src/watch/postgres/sql/", $name, ".sql"))
        };
    }
    [
        ("watch_load", sql!("watch_load"), ", '{J}'"),
        (
            "watch_replace",
            sql!("watch_replace"),
            ", 'J', NULL, 7, 'new', false, 0, NULL, 'job J'",
        ),
        ("watch_claim", sql!("watch_claim"), ", 10, 1000"),
        ("watch_count", sql!("watch_count"), ""),
        ("watch_prune", sql!("watch_prune"), ", 10"),
    ]
}

/// As for the ledger: a statement that runs in place of another changes no row and answers nothing.
#[tokio::test]
async fn a_confused_statement_changes_no_row() {
    let database = Database::create("").await;
    store(database.options()).await;
    let mut connection = database.options().connect().await.unwrap();
    let fill = "INSERT INTO mx_job_webhook_watch VALUES ('J', NULL, 7, 'entry', now(), now(), NULL), \
                ('old', NULL, 8, 'entry', now(), NULL, now() - interval '1 hour')";
    let rows = "SELECT count(*) || string_agg(mx_job_webhook_watch::text, ';' ORDER BY job) \
                FROM mx_job_webhook_watch";
    run(&mut connection, fill.to_owned()).await;
    let before = text(&mut connection, rows.to_owned()).await;
    for (name, sql, _) in statements() {
        run(&mut connection, format!("PREPARE {name} AS {sql}")).await;
    }
    for (name, _, parameters) in statements() {
        let others = ["claim", "commit", "release", "commit_in", "prune"];
        let asked = statements().map(|(asked, ..)| asked);
        for asked in asked
            .into_iter()
            .chain(others)
            .filter(|asked| *asked != name)
        {
            let execute = format!("EXECUTE {name} ('{asked}'{parameters})");
            let answer = text(&mut connection, execute).await.unwrap_or_default();
            assert!(!answer.starts_with(asked), "{name} for {asked}: {answer}");
            let after = text(&mut connection, rows.to_owned()).await;
            assert_eq!(after, before, "{name} for {asked}");
        }
    }
    for (name, _, parameters) in statements() {
        let before = text(&mut connection, rows.to_owned()).await;
        run(&mut connection, "BEGIN".to_owned()).await;
        let execute = format!("EXECUTE {name} ('{name}'{parameters})");
        assert_eq!(text(&mut connection, execute).await.unwrap(), name);
        let after = text(&mut connection, rows.to_owned()).await;
        let only_reads = ["watch_load", "watch_count"].contains(&name);
        assert_eq!(after == before, only_reads, "{name}");
        run(&mut connection, "ROLLBACK".to_owned()).await;
    }
}

/// A change is on disk and on the synchronous standbys before it is acknowledged.
#[tokio::test]
async fn a_change_is_durable_whatever_the_application_has_set() {
    let database = Database::create("").await;
    store(database.options()).await;
    let mut connection = database.options().connect().await.unwrap();
    for (name, sql, parameters) in statements() {
        let expected = |setting| match (name, setting) {
            ("watch_replace", "off" | "local") => "on",
            ("watch_claim", _) => "off",
            _ => setting,
        };
        run(&mut connection, format!("PREPARE {name} AS {sql}")).await;
        for setting in ["off", "local", "remote_write", "on", "remote_apply"] {
            let set = format!("SET synchronous_commit = {setting}");
            run(&mut connection, set).await;
            run(&mut connection, "BEGIN".to_owned()).await;
            let execute = format!("EXECUTE {name} ('{name}'{parameters})");
            text(&mut connection, execute).await.unwrap();
            let show = || "SHOW synchronous_commit".to_owned();
            let within = text(&mut connection, show()).await.unwrap();
            assert_eq!(within, expected(setting), "{name} at {setting}");
            run(&mut connection, "ROLLBACK".to_owned()).await;
            assert_eq!(text(&mut connection, show()).await.unwrap(), setting);
        }
    }
}

async fn plan(connection: &mut PgConnection, execute: &str) -> String {
    let explain = format!("EXPLAIN (ANALYZE, BUFFERS, TIMING OFF) {execute}");
    let rows = sqlx::raw_sql(AssertSqlSafe(explain)).fetch_all(connection);
    let rows = rows.await.unwrap();
    let lines: Vec<String> = rows.iter().map(|row| row.get(0)).collect();
    lines.join("\n")
}

/// With 100,000 expected jobs, of which 1,000 are overdue, and 100,000 others, half of which have expired.
async fn plans_use_an_index(options: PgConnectOptions) {
    store(options.clone()).await;
    let mut connection = options.connect().await.unwrap();
    let fill = "INSERT INTO mx_job_webhook_watch \
         SELECT 'JOB-' || md5(n::text), NULL, n, repeat('entry ', 50), now(), \
         now() + (n - 1000) * interval '1 second', NULL FROM generate_series(1, 100000) AS n; \
         INSERT INTO mx_job_webhook_watch \
         SELECT 'JOB-' || md5(n::text), NULL, n, repeat('entry ', 50), now(), NULL, \
         now() + (n - 150000) * interval '1 second' FROM generate_series(100001, 200000) AS n";
    run(&mut connection, fill.to_owned()).await;
    run(
        &mut connection,
        "VACUUM ANALYZE mx_job_webhook_watch".to_owned(),
    )
    .await;
    for (name, sql, _) in statements() {
        run(&mut connection, format!("PREPARE {name} AS {sql}")).await;
    }
    let job = format!("(SELECT 'JOB-' || md5('{}'))", 5_000);
    let job = text(&mut connection, format!("SELECT {job}"))
        .await
        .unwrap();
    let cases = [
        ("watch_claim", "8, 60000000".to_owned()),
        ("watch_claim", "1000, 60000000".to_owned()),
        ("watch_prune", "1000".to_owned()),
        ("watch_load", format!("'{{{job}}}'")),
        (
            "watch_replace",
            format!("'{job}', NULL, 5000, 'new', true, 0, NULL, NULL"),
        ),
    ];
    for (name, parameters) in cases {
        // The sixth call and later ones may use a generic plan.
        for call in 0..7 {
            run(&mut connection, "BEGIN".to_owned()).await;
            let execute = format!("EXECUTE {name} ('{name}', {parameters})");
            let plan = plan(&mut connection, &execute).await;
            run(&mut connection, "ROLLBACK".to_owned()).await;
            if call == 0 && name == "watch_claim" {
                println!("{execute}\n{plan}\n");
            }
            assert!(!plan.contains("Seq Scan on mx_job_webhook_watch"), "{plan}");
        }
    }
}

#[tokio::test]
async fn each_statement_uses_an_index_at_100_000_jobs() {
    let database = Database::create("").await;
    plans_use_an_index(database.options()).await;
}

#[tokio::test]
async fn each_statement_uses_an_index_on_the_oldest_and_the_newest_server() {
    for version in [Version::V10, Version::V18] {
        let folder = Folder::new();
        let server = Postgres::primary(&folder, version, &["fsync=off"]);
        plans_use_an_index(server.options()).await;
    }
}

/// The server plans a prepared statement by the size of the table at that time, which is small at first.
#[tokio::test]
async fn a_fast_growing_table_is_not_read_for_each_job() {
    const JOBS: i64 = 2_000;
    let database = Database::create("").await;
    let (store, admin) = (store(database.options()).await, database.pool());
    // Prevents new statistics, which would arrive within a minute.
    let alone = "ALTER TABLE mx_job_webhook_watch SET (autovacuum_enabled = off)";
    execute(&admin, alone).await;
    let watch = JobWatch::new(store);
    let started = Instant::now();
    for _ in 0..JOBS {
        let job = guid();
        let expected = watch.expect(&job).await.unwrap();
        deliver(&watch, &job, Status::Completed).await;
        assert!(expected.within(Duration::ZERO).await.unwrap().is_some());
    }
    println!(
        "expect, heard and a wait without any take {:?}",
        started.elapsed() / JOBS as u32
    );
    let read =
        "SELECT seq_tup_read FROM pg_stat_user_tables WHERE relname = 'mx_job_webhook_watch'";
    sleep(Duration::from_secs(2)).await;
    let read = number(&admin, read).await;
    println!("{read} rows were read in order for {JOBS} jobs");
    assert!(read < 100_000, "{read}");
}

#[tokio::test]
async fn expired_rows_are_deleted() {
    let database = Database::create("").await;
    let (store, admin) = (store(database.options()).await, database.pool());
    let rows = "SELECT count(*) FROM mx_job_webhook_watch";
    let entry = Entry::default();
    for keep in [Some(Duration::ZERO), Some(LONG), None] {
        for _ in 0..3 {
            let update = update(&entry, Due::Never, keep);
            store.replace(&guid(), None, update).await.unwrap();
        }
    }
    assert_eq!(number(&admin, rows).await, 9);
    assert!(store.claim_due(1, LONG).await.unwrap().is_empty());
    assert_eq!(number(&admin, rows).await, 6);

    let fill = "INSERT INTO mx_job_webhook_watch \
         SELECT n::text, NULL, n, '{}', now(), NULL, now() FROM generate_series(1, 12000) AS n";
    execute(&admin, fill).await;
    // A locked row waits for the next time.
    let mut locking = admin.begin().await.unwrap();
    let lock = "SELECT FROM mx_job_webhook_watch WHERE job = '7' FOR UPDATE";
    sqlx::raw_sql(lock).execute(&mut *locking).await.unwrap();
    assert_eq!(store.prune().await.unwrap(), 11_999);
    locking.rollback().await.unwrap();
    assert_eq!(store.prune().await.unwrap(), 1);
    assert_eq!(number(&admin, rows).await, 6);
}

/// An entry that this release cannot read neither hides others nor is lost.
#[tokio::test]
async fn an_entry_of_a_later_release_is_left_alone() {
    let database = Database::create("").await;
    let (store, admin) = (store(database.options()).await, database.pool());
    let fill = "INSERT INTO mx_job_webhook_watch \
         VALUES ('later', NULL, 1, '{\"version\": 2}', now(), now(), NULL)";
    execute(&admin, fill).await;
    let (job, later) = (guid(), "later".parse::<JobGuid>().unwrap());
    let entry = Entry::default();
    let replaced = store.replace(&job, None, update(&entry, Due::In(Duration::ZERO), None));
    assert!(matches!(replaced.await.unwrap(), Replaced::Done));
    assert_eq!(store.load(&[later.clone(), job]).await.unwrap().len(), 1);
    assert_eq!(store.claim_due(10, LONG).await.unwrap().len(), 1);
    let replaced = store.replace(&later, None, update(&entry, Due::Never, None));
    let refused = replaced.await.unwrap_err().to_string();
    assert!(refused.contains("cannot read"), "{refused}");
    let rows = "SELECT count(*) FROM mx_job_webhook_watch WHERE entry = '{\"version\": 2}'";
    assert_eq!(number(&admin, rows).await, 1);
}

#[tokio::test]
async fn the_table_is_created_once_by_whoever_is_first() {
    let database = Database::create("").await;
    let isolation = [("default_transaction_isolation", "serializable")];
    for options in [database.options(), database.options().options(isolation)] {
        let store = Arc::new(PostgresWatchStore::new(pool(options)));
        let mut calls = JoinSet::new();
        for _ in 0..8 {
            let store = store.clone();
            calls.spawn(async move { store.create_table().await });
        }
        for created in calls.join_all().await {
            created.unwrap();
        }
        store.create_table().await.unwrap();
        execute(&database.pool(), "DROP TABLE mx_job_webhook_watch").await;
    }
}

#[tokio::test]
async fn an_unsuitable_database_is_refused() {
    let latin1 = "ENCODING 'LATIN1' TEMPLATE template0 LC_COLLATE 'C' LC_CTYPE 'C'";
    let later = format!(
        "{}; COMMENT ON TABLE mx_job_webhook_watch IS 'mx-job-webhook watch schema 2'",
        PostgresWatchStore::TABLE
    );
    let column = PostgresWatchStore::TABLE.replace("revision bigint", "revision int");
    let cases = [
        (latin1, String::new(), "encoding is LATIN1"),
        ("", later, "has version 2"),
        ("", column, "columns of the table"),
    ];
    for (settings, sql, expected) in cases {
        let database = Database::create(settings).await;
        execute(&database.pool(), &sql).await;
        let store = PostgresWatchStore::new(database.pool());
        let refused = store.create_table().await.unwrap_err();
        assert!(
            matches!(refused, sqlx::Error::Configuration(_)),
            "{refused}"
        );
        assert!(refused.to_string().contains(expected), "{refused}");
    }
}

/// A role that may only read and write the table works with one that its owner created.
#[tokio::test]
async fn a_role_without_rights_to_create_uses_the_table_of_its_owner() {
    let database = Database::create("").await;
    let (role, admin) = (format!("role_{}", database.name), database.pool());
    execute(&admin, "REVOKE CREATE ON SCHEMA public FROM PUBLIC").await;
    execute(&admin, &format!("CREATE ROLE {role} LOGIN")).await;
    let store = PostgresWatchStore::new(pool(database.options().username(&role)));
    let refused = store.create_table().await.unwrap_err().to_string();
    assert!(refused.contains("permission denied"), "{refused}");
    execute(&admin, PostgresWatchStore::TABLE).await;
    let lacks = store.create_table().await.unwrap_err().to_string();
    assert!(lacks.contains("lacks a privilege"), "{lacks}");
    let grant = "GRANT SELECT, INSERT, UPDATE, DELETE ON mx_job_webhook_watch TO";
    execute(&admin, &format!("{grant} {role}")).await;
    check_watch_store(store.clone()).await;
    store.create_table().await.unwrap();
    execute(&admin, &format!("DROP OWNED BY {role}; DROP ROLE {role}")).await;
}

/// A store whose server hangs is an error in bounded time, and works again afterwards.
#[tokio::test]
async fn a_locked_table_is_an_error_in_bounded_time() {
    let database = Database::create("").await;
    let store = store(database.options()).await;
    let admin = database.pool();
    let watch = JobWatch::new(store).with_store_timeout(Duration::from_millis(300));
    let mut locking = admin.begin().await.unwrap();
    let lock = "LOCK TABLE mx_job_webhook_watch";
    sqlx::raw_sql(lock).execute(&mut *locking).await.unwrap();
    let started = Instant::now();
    for _ in 0..5 {
        let error = watch.expect(&guid()).await.unwrap_err();
        assert_eq!(error.kind(), mx_job_webhook::ErrorKind::WatchUnavailable);
    }
    assert!(started.elapsed() < Duration::from_secs(3));
    locking.rollback().await.unwrap();
    let _ = watch.expect(&guid()).await.unwrap();
}

#[tokio::test]
async fn debug_shows_no_address() {
    let options = PgConnectOptions::new_without_pgpass()
        .host("secret-host")
        .password("secret-password");
    let store = PostgresWatchStore::new(pool(options.clone())).with_listener(options);
    let shown = format!("{store:?}, {:?}", JobWatch::new(store.clone()));
    assert!(
        shown.contains("PostgresWatchStore") && !shown.contains("secret"),
        "{shown}"
    );
}

/// "A number that is different after each change": also if the server's clock stands still, or was set back.
#[tokio::test]
async fn revisions_grow_although_the_clock_does_not() {
    let database = Database::create("").await;
    store(database.options()).await;
    let clock = "CREATE SCHEMA clock; CREATE FUNCTION clock.clock_timestamp() RETURNS timestamptz LANGUAGE sql AS
        $$SELECT '2026-01-01'::timestamptz$$";
    execute(&database.pool(), clock).await;
    let options = database.options();
    let store = store(options.options([("search_path", "clock,pg_catalog,public")])).await;
    let (guid, entry) = (guid(), Entry::default());
    let mut known = None;
    for _ in 0..3 {
        let replace = store.replace(&guid, known, update(&entry, Due::Never, None));
        assert!(matches!(replace.await.unwrap(), Replaced::Done));
        let late = store.replace(&guid, known, update(&entry, Due::Never, None));
        let Replaced::Conflict(Some(current)) = late.await.unwrap() else {
            panic!("a caller that is too late has replaced it");
        };
        known = Some(current.revision);
    }
}

/// Rows that others have locked are skipped by a claim and by a prune.
#[tokio::test]
async fn a_locked_row_keeps_no_other_one_from_being_claimed_and_pruned() {
    let database = Database::create("").await;
    let (store, admin) = (store(database.options()).await, database.pool());
    let (locked, other, entry) = (guid(), guid(), Entry::default());
    for keep in [None, Some(Duration::ZERO)] {
        for guid in [&locked, &other] {
            let known = store.load(std::slice::from_ref(guid)).await.unwrap();
            let known = known.first().map(|(_, stored)| stored.revision);
            let update = update(&entry, Due::In(Duration::ZERO), keep);
            let replaced = store.replace(guid, known, update).await.unwrap();
            assert!(matches!(replaced, Replaced::Done));
        }
        let mut lock = admin.begin().await.unwrap();
        sqlx::query("SELECT FROM mx_job_webhook_watch WHERE job = $1 FOR UPDATE")
            .bind(locked.as_str())
            .execute(&mut *lock)
            .await
            .unwrap();
        let done = async {
            match keep {
                None => store.claim_due(10, LONG).await.unwrap().len() as u64,
                Some(_) => store.prune().await.unwrap(),
            }
        };
        let done = timeout(Duration::from_secs(2), done).await;
        assert_eq!(done.expect("it does not wait"), 1, "{keep:?}");
        lock.rollback().await.unwrap();
    }
}
