//! Rows that wait in a statement and at its end, and locks of the table.

use std::error::Error as _;
use std::time::Duration;

use mx_job_webhook::{Credentials, JobWebhook};
use tokio::time::{Instant, sleep, timeout};
use tower::ServiceExt as _;

use super::logged::Lines;
use super::refused::{logged_within, orphans};
use super::slow_rows::refused_of_sixteen;
use super::{
    Fixture, PATIENCE, Running, completed, logging, quick, sleeping_trigger, slow, store,
    until_logged,
};
use crate::engines::pgbouncer;
use crate::engines::postgres::at;
use crate::support::{Log, delivery};
use harness::servers::Folder;

const DAY: Duration = Duration::from_secs(24 * 60 * 60);

/// A trigger that takes a while at once, and one that takes a while at the end of the transaction.
async fn slow_twice(fixture: &Fixture, when: &str, condition: &str, before: f64, deferred: f64) {
    sleeping_trigger(&fixture.pool, when, condition, before).await;
    fixture
        .execute(&format!(
            "CREATE FUNCTION late() RETURNS trigger LANGUAGE plpgsql AS
                 $f$ BEGIN IF {condition} THEN PERFORM pg_sleep({deferred}); END IF; RETURN NULL; END $f$;
             CREATE CONSTRAINT TRIGGER late AFTER {when} ON apalis.jobs DEFERRABLE INITIALLY DEFERRED
                 FOR EACH ROW EXECUTE FUNCTION late()"
        ))
        .await;
}

/// Guide: "Statements of the queue end after 3 s […]. Deferred constraints are checked before the commit, within 1.5 s", and
/// "If they refuse to change a stored row, or let the change wait, its event waits. Workers […] go on with the other events".
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs PostgreSQL: set MX_TEST_POSTGRES_URL"]
async fn a_row_that_waits_in_the_statement_and_at_its_end_keeps_no_other_one() {
    let fixture = Fixture::new().await;
    fixture.store(completed("JOB-bad")).await;
    fixture.store(completed("JOB-good")).await;
    let condition = "NEW.status = 'Running' AND NEW.idempotency_key LIKE 'JOB-bad%'";
    slow_twice(&fixture, "UPDATE", condition, 1.0, 10.0).await;
    let log = Log::default();
    let worker = Running::start(quick(&fixture.queue, logging(&log)));
    let ran = logged_within(&log, 1, 2 * PATIENCE).await;
    worker.task.abort();
    assert!(ran, "JOB-good did not run for a minute");
}

/// The same, with a change that ends: "[A try counts, so that an event which kills its process becomes a dead letter]". No event
/// whose callback never ran becomes a dead letter while its worker lives.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs PostgreSQL: set MX_TEST_POSTGRES_URL"]
async fn an_event_beside_one_that_is_slow_twice_is_no_dead_letter() {
    let fixture = Fixture::new().await;
    fixture.store(completed("JOB-bad")).await;
    fixture.store(completed("JOB-good")).await;
    let condition = "NEW.status = 'Running' AND NEW.idempotency_key LIKE 'JOB-bad%'";
    slow_twice(&fixture, "UPDATE", condition, 3.0, 3.0).await;
    let log = Log::default();
    let worker = Running::start(quick(&fixture.queue, logging(&log)).with_tries(3));
    let ran = logged_within(&log, 1, 2 * PATIENCE).await;
    worker.task.abort();
    let dead = fixture
        .rows("status = 'Failed' AND attempts >= max_attempts")
        .await;
    assert!(ran, "nothing ran for a minute; dead letters: {dead}");
}

/// The same for events of a dead worker, and `Worker`: "A worker sends heartbeats to the database while callbacks run."
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs PostgreSQL: set MX_TEST_POSTGRES_URL"]
async fn a_row_of_a_dead_worker_that_is_slow_twice_silences_no_living_one() {
    let fixture = Fixture::new().await;
    orphans(&fixture, &["JOB-bad".to_owned(), "JOB-good".to_owned()]).await;
    let condition = "NEW.status = 'Pending' AND NEW.idempotency_key LIKE 'JOB-bad%'";
    slow_twice(&fixture, "UPDATE", condition, 1.0, 10.0).await;
    let log = Log::default();
    let worker = quick(&fixture.queue, logging(&log)).with_dead_after(Duration::from_secs(30));
    let worker = Running::start(worker);
    let ran = logged_within(&log, 1, Duration::from_secs(150)).await;
    let silence = fixture
        .number("SELECT extract(epoch FROM now() - max(last_seen))::bigint FROM apalis.workers WHERE id <> 'dead'")
        .await;
    worker.task.abort();
    assert!(
        ran && silence < 15,
        "ran: {ran}; the living worker is silent for {silence} s"
    );
}

/// The same for events that are stored together: "only that one is answered 503".
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs PostgreSQL: set MX_TEST_POSTGRES_URL"]
async fn an_event_that_is_slow_twice_fails_no_other_one() {
    let fixture = Fixture::new().await;
    let queue = fixture.other().with_max_connections(1);
    slow_twice(
        &fixture,
        "INSERT",
        "NEW.idempotency_key LIKE 'JOB-7 %'",
        1.0,
        10.0,
    )
    .await;
    assert_eq!(refused_of_sixteen(&queue).await, [7]);
}

/// "Every wait ends". `prune`: "# Errors: The database's error". The deletion of one row waits, as for a row that the application
/// has locked.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs PostgreSQL: set MX_TEST_POSTGRES_URL"]
async fn a_prune_of_a_row_whose_deletion_waits_ends() {
    let fixture = Fixture::new().await;
    fixture.store(completed("JOB-1")).await;
    fixture
        .execute(
            "UPDATE apalis.jobs SET status = 'Done', done_at = now() - interval '9 days';
             CREATE FUNCTION archive() RETURNS trigger LANGUAGE plpgsql AS
                 $f$ BEGIN PERFORM pg_sleep(10); RETURN OLD; END $f$;
             CREATE TRIGGER archive BEFORE DELETE ON apalis.jobs FOR EACH ROW EXECUTE FUNCTION archive()",
        )
        .await;
    let pruned = timeout(Duration::from_secs(90), fixture.queue.prune(2 * DAY)).await;
    println!("prune: {pruned:?}, rows: {}", fixture.rows("true").await);
    assert!(pruned.is_ok(), "it did not end for 90 s");
}

/// The same without any trigger: an index is built for 20 s.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs PostgreSQL: set MX_TEST_POSTGRES_URL"]
async fn a_prune_during_a_lock_of_the_table_ends_after_it() {
    let fixture = Fixture::new().await;
    let mut lock = fixture.pool.begin().await.unwrap();
    sqlx::raw_sql("LOCK TABLE apalis.jobs IN SHARE MODE")
        .execute(&mut *lock)
        .await
        .unwrap();
    let queue = fixture.queue.clone();
    let mut prune = tokio::spawn(async move { queue.prune(2 * DAY).await });
    let early = timeout(Duration::from_secs(20), &mut prune).await;
    lock.rollback().await.unwrap();
    if early.is_err() {
        let ended = timeout(PATIENCE, &mut prune).await;
        prune.abort();
        assert!(ended.is_ok(), "it runs for 30 s after the end of the lock");
    }
}

async fn during_a_lock(shuts_down: bool) -> Vec<String> {
    let fixture = Fixture::new().await;
    for number in 0..3 {
        fixture.store(completed(&format!("JOB-{number}"))).await;
    }
    fixture
        .execute("UPDATE apalis.jobs SET run_at = run_at + interval '2 s'")
        .await;
    let log = Log::default();
    let worker = quick(&fixture.queue, slow(&log, Duration::from_millis(100)));
    let worker = worker.with_concurrency(1).with_dead_after(PATIENCE);
    let worker = Running::start(worker);
    sleep(Duration::from_millis(500)).await;
    let mut lock = fixture.pool.begin().await.unwrap();
    sqlx::raw_sql("LOCK TABLE apalis.jobs IN SHARE MODE")
        .execute(&mut *lock)
        .await
        .unwrap();
    // A fetch takes 3 s to fail, and what follows it has waited for half a second. It can begin to search.
    sleep(Duration::from_millis(if shuts_down {
        3_500
    } else {
        6_500
    }))
    .await;
    if shuts_down {
        worker.shut_down();
        sleep(Duration::from_millis(300)).await;
    }
    lock.rollback().await.unwrap();
    if !shuts_down {
        until_logged(&log, 3).await;
    }
    worker.end().await;
    log.entries()
}

/// Guide: "**Order**: events start in the order in which they were stored". Without any trigger: an index is built for 7 s.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs PostgreSQL: set MX_TEST_POSTGRES_URL"]
async fn a_lock_of_the_table_changes_no_order() {
    assert_eq!(during_a_lock(false).await, ["JOB-0", "JOB-1", "JOB-2"]);
}

/// Guide: "**At shutdown**, a worker takes no further events". The shutdown comes while the table is locked.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs PostgreSQL: set MX_TEST_POSTGRES_URL"]
async fn a_worker_that_is_shut_down_during_a_lock_of_the_table_takes_nothing_after_it() {
    assert_eq!(during_a_lock(true).await, [""; 0]);
}

/// Guide: "**At shutdown**, a worker takes no further events". It tries an event that it has left out.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs PostgreSQL: set MX_TEST_POSTGRES_URL"]
async fn a_worker_that_is_shut_down_while_it_tries_a_left_out_event_takes_no_other_one() {
    let fixture = Fixture::new().await;
    let condition = "NEW.status = 'Running' AND NEW.idempotency_key LIKE 'JOB-bad%'";
    sleeping_trigger(&fixture.pool, "UPDATE", condition, 10.0).await;
    fixture.store(completed("JOB-bad")).await;
    let log = Log::default();
    let worker = Running::start(quick(&fixture.queue, logging(&log)));
    sleep(Duration::from_secs(20)).await;
    let start = Instant::now();
    let tries = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database()
        AND query LIKE '%mx-job-webhook fetch%' AND state = 'active' AND wait_event = 'PgSleep'";
    while fixture.number(tries).await == 0 {
        assert!(start.elapsed() < 2 * PATIENCE);
        sleep(Duration::from_millis(50)).await;
    }
    worker.shut_down();
    sleep(Duration::from_millis(100)).await;
    fixture.store(completed("JOB-late")).await;
    worker.end().await;
    assert_eq!(log.entries(), [""; 0]);
}

/// Guide: "If constraints or triggers of yours on `apalis.jobs` refuse […] to change a stored row, its event waits", and "**Order**:
/// events start in the order in which they were stored". The role has a `lock_timeout`, and an index is built for a moment.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs PostgreSQL: set MX_TEST_POSTGRES_URL"]
async fn short_locks_of_the_table_change_no_order_with_a_lock_timeout() {
    let fixture = Fixture::new().await;
    let mut orders = Vec::new();
    for round in 0..10 {
        let name = format!("round-{round}");
        let options = fixture.database.options().options([("lock_timeout", "1s")]);
        let (_pool, queue) = super::queue(options);
        let queue = queue.named(&name);
        for number in 0..8 {
            store(&queue, completed(&format!("JOB-{number}"))).await;
        }
        fixture
            .execute(
                "UPDATE apalis.jobs SET run_at = run_at + interval '1 s' WHERE status = 'Pending'",
            )
            .await;
        let log = Log::default();
        let jobs = slow(&log, Duration::from_millis(100));
        let worker = quick(&queue, jobs)
            .with_concurrency(1)
            .with_dead_after(PATIENCE);
        let worker = Running::start(worker);
        sleep(Duration::from_millis(300)).await;
        let mut lock = fixture.pool.begin().await.unwrap();
        sqlx::raw_sql("LOCK TABLE apalis.jobs IN SHARE MODE")
            .execute(&mut *lock)
            .await
            .unwrap();
        sleep(Duration::from_millis(1_600)).await;
        lock.rollback().await.unwrap();
        until_logged(&log, 8).await;
        worker.end().await;
        let log = log.entries();
        if !log.is_sorted() {
            orders.push((round, log));
        }
    }
    assert!(orders.is_empty(), "{orders:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs PostgreSQL: set MX_TEST_POSTGRES_URL"]
async fn bodies_whose_commit_waits_leave_no_session() {
    let fixture = Fixture::new().await;
    fixture
        .execute(
            "CREATE FUNCTION late() RETURNS trigger LANGUAGE plpgsql AS
                 $f$ BEGIN PERFORM pg_sleep(30); RETURN NULL; END $f$;
             CREATE CONSTRAINT TRIGGER late AFTER INSERT ON mx_job_webhook_dead_letters DEFERRABLE INITIALLY DEFERRED
                 FOR EACH ROW EXECUTE FUNCTION late()",
        )
        .await;
    let queue = fixture.queue.clone();
    let webhooks = JobWebhook::new(Credentials::unauthenticated(), queue.enqueue())
        .on_undecodable(queue.keep_undecodable());
    let mut deliveries = Vec::new();
    for number in 0..6 {
        let body = format!("not JSON {number}");
        deliveries.push(tokio::spawn(webhooks.clone().oneshot(delivery(body))));
        if number % 2 == 1 {
            sleep(Duration::from_millis(6_000)).await;
        }
    }
    let sessions = fixture
        .number(
            "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND state = 'active'
                 AND wait_event = 'PgSleep'",
        )
        .await;
    assert!(sessions <= 2, "{sessions} sessions, and no call runs");
}

/// Guide: "**Order**: events start in the order in which they were stored". There is no trigger. The application locks the table of
/// the workers for a while, as `VACUUM FULL` and `ALTER TABLE` do.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs PostgreSQL: set MX_TEST_POSTGRES_URL"]
async fn a_lock_of_the_table_of_workers_is_blamed_on_no_event() {
    let fixture = Fixture::new().await;
    let queue = fixture.queue.clone().named("workers-locked");
    let lines = Lines::of_all_tests();
    let log = Log::default();
    // The first callback runs while the table is locked.
    for number in 0..4 {
        store(&queue, completed(&format!("JOB-{number}"))).await;
    }
    let worker = quick(&queue, slow(&log, Duration::from_secs(1)))
        .with_concurrency(1)
        .with_dead_after(PATIENCE);
    let worker = Running::start(worker);
    until_logged(&log, 1).await;
    let mut lock = fixture.pool.begin().await.unwrap();
    sqlx::raw_sql("LOCK TABLE apalis.workers IN EXCLUSIVE MODE")
        .execute(&mut *lock)
        .await
        .unwrap();
    sleep(Duration::from_secs(18)).await;
    lock.rollback().await.unwrap();
    let unlocked = Instant::now();
    store(&queue, completed("JOB-4")).await;
    logged_within(&log, 5, 2 * PATIENCE).await;
    let after = unlocked.elapsed();
    worker.task.abort();
    let blamed = lines.count(&["workers-locked", "refuses to change their rows"]);
    assert_eq!(
        log.entries(),
        ["JOB-0", "JOB-1", "JOB-2", "JOB-3", "JOB-4"],
        "all ran {after:?} after the lock; {blamed} lines blame events"
    );
    assert_eq!(blamed, 0);
}

/// Brief: "a transaction or session that stays open". `Statements of the queue end after 3 s`, and the dead letters' transactions have an
/// `idle_in_transaction_session_timeout` of 5 s. A trigger refuses to keep a body.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs PostgreSQL: set MX_TEST_POSTGRES_URL"]
async fn a_body_that_is_not_kept_leaves_no_transaction_open() {
    let fixture = Fixture::new().await;
    fixture
        .execute("ALTER TABLE mx_job_webhook_dead_letters ADD CONSTRAINT no CHECK (body IS NULL) NOT VALID")
        .await;
    let webhooks = JobWebhook::new(Credentials::unauthenticated(), fixture.queue.enqueue())
        .on_undecodable(fixture.queue.keep_undecodable());
    let response = webhooks.oneshot(delivery("not JSON".to_owned())).await;
    assert_eq!(response.unwrap().status(), 500);
    let open = "SELECT count(*) FROM pg_stat_activity
        WHERE datname = current_database() AND state LIKE 'idle in transaction%'";
    let start = Instant::now();
    while fixture.number(open).await > 0 {
        let after = start.elapsed();
        assert!(
            after < Duration::from_secs(15),
            "a transaction is open after {after:?}"
        );
        sleep(Duration::from_millis(100)).await;
    }
}

/// Guide: "It works through `PgBouncer` in session and transaction mode." The same body, behind a pooler.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs PostgreSQL: set MX_TEST_POSTGRES_URL"]
async fn a_body_that_is_not_kept_takes_no_connection_of_a_pooler() {
    let fixture = Fixture::new().await;
    fixture
        .execute("ALTER TABLE mx_job_webhook_dead_letters ADD CONSTRAINT no CHECK (body IS NULL) NOT VALID")
        .await;
    let folder = Folder::new();
    let settings = [
        ("pool_mode", "transaction"),
        ("default_pool_size", "2"),
        ("ignore_startup_parameters", "extra_float_digits"),
    ];
    let pooler = pgbouncer::start(
        &folder,
        pgbouncer::Version::V1_24,
        fixture.database.server(),
        &settings,
    );
    let (_pool, queue) = super::queue(at(pooler.address).database(&fixture.database.name));
    let webhooks = JobWebhook::new(Credentials::unauthenticated(), queue.enqueue())
        .on_undecodable(queue.keep_undecodable());
    let keep = |number: usize| {
        let webhooks = webhooks.clone();
        async move {
            let response = webhooks
                .oneshot(delivery(format!("not JSON {number}")))
                .await;
            assert_eq!(response.unwrap().status(), 500);
        }
    };
    tokio::join!(keep(1), keep(2));
    sleep(Duration::from_secs(10)).await;
    let stored = timeout(PATIENCE, queue.enqueue().oneshot(completed("JOB-1"))).await;
    let open = "SELECT count(*) FROM pg_stat_activity
        WHERE datname = current_database() AND state LIKE 'idle in transaction%'";
    let open = fixture.number(open).await;
    let stored = stored.map(|stored| stored.map_err(|error| format!("{:?}", error.source())));
    assert!(
        matches!(stored, Ok(Ok(_))),
        "{stored:?}, {open} sessions idle in transactions"
    );
}

/// Guide: "Order: events start in the order in which they were stored, several at a time." No trigger; a lock of the table such as that of a
/// new index. The rows that come first are locked for a moment, as by the statement of another worker that fails, while this
/// one asks which events come next.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs PostgreSQL: set MX_TEST_POSTGRES_URL"]
async fn events_that_were_locked_for_a_moment_after_a_lock_of_the_table_keep_their_order() {
    let fixture = Fixture::new().await;
    let log = Log::default();
    for number in 0..150 {
        fixture.store(completed(&format!("JOB-{number}"))).await;
    }
    let jobs = super::slow(&log, Duration::from_millis(100));
    let worker = quick(&fixture.queue, jobs).with_dead_after(PATIENCE);
    let worker = Running::start(worker.with_concurrency(1));
    until_logged(&log, 2).await;
    let mut transaction = fixture.pool.begin().await.unwrap();
    sqlx::raw_sql(
        "SELECT 1 FROM apalis.jobs WHERE status = 'Pending' ORDER BY run_at LIMIT 64 FOR UPDATE SKIP LOCKED;
         SAVEPOINT before; LOCK TABLE apalis.jobs IN SHARE MODE",
    )
    .execute(&mut *transaction)
    .await
    .unwrap();
    let asks = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'
        AND query LIKE '%mx-job-webhook fetch%' AND query LIKE '%LIMIT 0::bigint%'";
    let start = Instant::now();
    while fixture.number(asks).await == 0 {
        assert!(start.elapsed() < 2 * PATIENCE);
        sleep(Duration::from_millis(10)).await;
    }
    let before = log.entries().len();
    sqlx::raw_sql("ROLLBACK TO SAVEPOINT before")
        .execute(&mut *transaction)
        .await
        .unwrap();
    until_logged(&log, before + 1).await;
    transaction.rollback().await.unwrap();
    let free = log.entries().len();
    until_logged(&log, free + 10).await;
    worker.task.abort();
    let entries = log.entries();
    let later = &entries[free + 1..free + 10];
    let number = |entry: &String| entry["JOB-".len()..].parse::<usize>().unwrap();
    let off = later.iter().filter(|entry| number(entry) > 66).count();
    assert!(
        off <= 2,
        "{off} of 9 started before earlier ones that were free: {later:?}"
    );
}
