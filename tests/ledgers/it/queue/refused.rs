//! Rows that the database refuses to change, or whose change waits, because of the application's constraints, triggers and locks.

use std::sync::atomic::Ordering;
use std::time::Duration;

use mx_job_webhook::dead_letters::LetterFilter;
use mx_job_webhook::{Job, JobEvent, JobRouter, Status};
use sqlx::AssertSqlSafe;
use tokio::time::{Instant, sleep, timeout};
use tower::ServiceExt as _;

use super::logged::Lines;
use super::{
    DEAD_AFTER, Fixture, KILLED, PATIENCE, Running, completed, event, logging, quick, slow, store,
    until_logged,
};
use crate::postgres_wire::counted;
use crate::support::Log;

/// A trigger that runs this code for each row.
async fn trigger(fixture: &Fixture, when: &str, body: &str) {
    fixture
        .execute(&format!(
            "CREATE OR REPLACE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS
                 $f$ BEGIN {body} RETURN NEW; END $f$;
             CREATE TRIGGER refuse {when} ON apalis.jobs FOR EACH ROW EXECUTE FUNCTION refuse()"
        ))
        .await;
}

/// A trigger of the statement that refuses all changes.
async fn freeze(fixture: &Fixture) {
    fixture
        .execute(
            "CREATE FUNCTION frozen() RETURNS trigger LANGUAGE plpgsql AS
                 $f$ BEGIN RAISE 'maintenance'; END $f$;
             CREATE TRIGGER frozen BEFORE UPDATE ON apalis.jobs FOR EACH STATEMENT EXECUTE FUNCTION frozen()",
        )
        .await;
}

/// Whether this many entries are logged within the time.
pub(super) async fn logged_within(log: &Log, entries: usize, time: Duration) -> bool {
    let start = Instant::now();
    while log.entries().len() < entries {
        if start.elapsed() > time {
            return false;
        }
        sleep(Duration::from_millis(20)).await;
    }
    true
}

/// Whether a worker runs an event within the time, while a transaction of the application holds these rows.
async fn runs_one_within(fixture: &Fixture, time: Duration, locked: &'static str) -> bool {
    let mut lock = fixture.pool.begin().await.unwrap();
    sqlx::query(locked).execute(&mut *lock).await.unwrap();
    let log = Log::default();
    let worker = Running::start(quick(&fixture.queue, logging(&log)));
    let ran = logged_within(&log, 1, time).await;
    lock.rollback().await.unwrap();
    worker.end().await;
    ran
}

/// Workers of a process that has died. They held these events.
pub(super) async fn orphans(fixture: &Fixture, guids: &[String]) {
    fixture
        .execute(
            "INSERT INTO apalis.workers (id, worker_type, storage_name, layers, last_seen, started_at)
             VALUES ('dead', 'mx-jobs', 'mx-job-webhook', '', now() - interval '1 hour', now() - interval '1 hour')",
        )
        .await;
    for guid in guids {
        fixture.store(completed(guid)).await;
    }
    fixture
        .execute(
            "UPDATE apalis.jobs SET status = 'Running', lock_by = 'dead', lock_at = now() - interval '1 hour',
                 max_attempts = 12",
        )
        .await;
}

/// Guide: "If they refuse to change a stored row […], its event waits". Others run, also if as
/// many events as the worker can take are locked by a transaction of the application ("A row that another transaction has
/// locked delays no other event").
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs PostgreSQL: set MX_TEST_POSTGRES_URL"]
async fn a_refused_event_behind_locked_ones_keeps_no_other_one() {
    let fixture = Fixture::new().await;
    for number in 0..4 {
        fixture.store(completed(&format!("LOCKED-{number}"))).await;
    }
    fixture.store(completed("JOB-refused")).await;
    fixture.store(completed("JOB-good")).await;
    fixture.refuse_changes("JOB-refused %").await;
    let locked = "SELECT FROM apalis.jobs WHERE idempotency_key LIKE 'LOCKED%' FOR UPDATE";
    let ran = runs_one_within(&fixture, Duration::from_secs(12), locked).await;
    assert!(ran, "JOB-good did not run for 12 s");
}

/// `a_worker_whose_statements_fail_does_not_repeat_them_all_the_time`: "A worker that cannot look for events tries again after
/// a pause." The application refuses all changes with a trigger of the statement. No event waits.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs PostgreSQL: set MX_TEST_POSTGRES_URL"]
async fn a_statement_that_is_refused_is_not_repeated_all_the_time() {
    let fixture = Fixture::new().await;
    let (options, round_trips) = counted().await;
    let (_pool, queue) = super::queue(options.database(&fixture.database.name));
    let log = Log::default();
    let worker = Running::start(quick(&queue, logging(&log)));
    fixture.store(completed("JOB-1")).await;
    until_logged(&log, 1).await;
    fixture.until(1, "status = 'Done'").await;
    freeze(&fixture).await;
    sleep(Duration::from_secs(1)).await;
    round_trips.store(0, Ordering::SeqCst);
    sleep(Duration::from_secs(2)).await;
    let during = round_trips.load(Ordering::SeqCst);
    fixture.execute("DROP TRIGGER frozen ON apalis.jobs").await;
    fixture.store(completed("JOB-2")).await;
    until_logged(&log, 2).await;
    worker.end().await;
    assert!(during <= 60, "{during} round trips in 2 s");
}

/// The same for a role that has lost the privilege to change rows.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs PostgreSQL: set MX_TEST_POSTGRES_URL"]
async fn a_role_without_a_privilege_does_not_repeat_statements_all_the_time() {
    let fixture = Fixture::new().await;
    let role = format!("app_{}", fixture.database.name);
    fixture
        .execute(&format!(
            "CREATE ROLE {role} LOGIN; GRANT USAGE ON SCHEMA apalis TO {role};
             GRANT SELECT, INSERT, UPDATE, DELETE ON apalis.jobs, apalis.workers TO {role}"
        ))
        .await;
    let (options, round_trips) = counted().await;
    let options = options.database(&fixture.database.name).username(&role);
    let (_pool, queue) = super::queue(options);
    let log = Log::default();
    let worker = Running::start(quick(&queue, logging(&log)));
    store(&queue, completed("JOB-1")).await;
    until_logged(&log, 1).await;
    fixture.until(1, "status = 'Done'").await;
    fixture
        .execute(&format!("REVOKE UPDATE ON apalis.jobs FROM {role}"))
        .await;
    sleep(Duration::from_secs(1)).await;
    round_trips.store(0, Ordering::SeqCst);
    sleep(Duration::from_secs(2)).await;
    let during = round_trips.load(Ordering::SeqCst);
    worker.task.abort();
    sleep(Duration::from_millis(500)).await;
    let _ = sqlx::raw_sql(AssertSqlSafe(format!(
        "DROP OWNED BY {role}; DROP ROLE {role}"
    )))
    .execute(&fixture.pool)
    .await;
    assert!(during <= 60, "{during} round trips in 2 s");
}

/// Guide: "**At shutdown**, a worker takes no further events", also while it takes them one by one.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs PostgreSQL: set MX_TEST_POSTGRES_URL"]
async fn a_shutdown_while_events_are_taken_one_by_one_takes_no_further_one() {
    let fixture = Fixture::new().await;
    for number in 0..16 {
        fixture.store(completed(&format!("JOB-{number:02}"))).await;
    }
    trigger(
        &fixture,
        "BEFORE UPDATE",
        "IF NEW.status = 'Running' THEN
             IF NEW.idempotency_key LIKE 'JOB-00 %' THEN RAISE 'no'; END IF;
             PERFORM pg_sleep(0.2);
         END IF;",
    )
    .await;
    let log = Log::default();
    let worker = Running::start(quick(&fixture.queue, logging(&log)).with_concurrency(64));
    until_logged(&log, 1).await;
    worker.shut_down();
    sleep(Duration::from_millis(50)).await;
    let before = log.entries().len();
    worker.end().await;
    let after = log.entries().len();
    assert!(
        after <= before + 1,
        "{} events were taken after it",
        after - before
    );
}

/// Guide: "If they refuse to change a stored row […], its event waits". A trigger of the application refuses one row with each
/// class of errors, such as `lock_not_available` of a `FOR UPDATE NOWAIT`. The others run.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs PostgreSQL: set MX_TEST_POSTGRES_URL"]
async fn an_event_that_is_refused_with_any_sqlstate_keeps_no_other_one() {
    let mut stuck = Vec::new();
    for code in [
        "P0001", "23514", "42501", "54000", "0A000", "40001", "55P03", "57014", "53400", "25006",
        "XX000", "XX001", "58030", "28000", "08006", "26000",
    ] {
        let fixture = Fixture::new().await;
        fixture.store(completed("JOB-bad")).await;
        fixture.store(completed("JOB-good")).await;
        let body = format!(
            "IF NEW.idempotency_key LIKE 'JOB-bad %' THEN RAISE 'no' USING ERRCODE = '{code}'; END IF;"
        );
        trigger(&fixture, "AFTER UPDATE", &body).await;
        let log = Log::default();
        let worker = Running::start(quick(&fixture.queue, logging(&log)));
        if !logged_within(&log, 1, Duration::from_secs(4)).await {
            stuck.push(code);
        }
        worker.end().await;
    }
    assert!(stuck.is_empty(), "others do not run after {stuck:?}");
}

/// The same for a trigger that waits for a row which a transaction of the application holds. "Statements of the queue end
/// after 3 s".
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs PostgreSQL: set MX_TEST_POSTGRES_URL"]
async fn an_event_whose_trigger_waits_keeps_no_other_one() {
    let fixture = Fixture::new().await;
    fixture.store(completed("JOB-bad")).await;
    fixture.store(completed("JOB-good")).await;
    fixture
        .execute("CREATE TABLE members (guid text); INSERT INTO members VALUES ('JOB-bad')")
        .await;
    trigger(
        &fixture,
        "AFTER UPDATE",
        "UPDATE members SET guid = guid WHERE guid = split_part(NEW.idempotency_key, ' ', 1);",
    )
    .await;
    let locked = "SELECT FROM members FOR UPDATE";
    let ran = runs_one_within(&fixture, Duration::from_secs(25), locked).await;
    assert!(ran, "JOB-good did not run for 25 s");
}

/// The same for an event of a dead worker: the others are taken over, and the worker counts as alive.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs PostgreSQL: set MX_TEST_POSTGRES_URL"]
async fn an_event_that_cannot_be_taken_over_with_any_sqlstate_keeps_no_other_one() {
    let mut stuck = Vec::new();
    for code in ["P0001", "40001", "55P03", "57014", "XX000"] {
        let fixture = Fixture::new().await;
        let guids = ["JOB-bad".to_owned(), "JOB-good".to_owned()];
        orphans(&fixture, &guids).await;
        let body = format!(
            "IF NEW.idempotency_key LIKE 'JOB-bad %' THEN RAISE 'no' USING ERRCODE = '{code}'; END IF;"
        );
        trigger(&fixture, "AFTER UPDATE", &body).await;
        let log = Log::default();
        let worker = Running::start(quick(&fixture.queue, logging(&log)));
        let ran = logged_within(&log, 1, DEAD_AFTER * 5).await;
        let silence = fixture
            .number(
                "SELECT extract(epoch FROM now() - max(last_seen))::bigint FROM apalis.workers WHERE id <> 'dead'",
            )
            .await;
        worker.task.abort();
        if !ran || silence > 2 {
            stuck.push(format!(
                "{code}: good ran: {ran}, the living worker is silent for {silence} s"
            ));
        }
    }
    assert!(stuck.is_empty(), "{stuck:#?}");
}

/// Guide: "If constraints or triggers of yours on `apalis.jobs` refuse to store an event, only that one is answered 503." With
/// each class of errors.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs PostgreSQL: set MX_TEST_POSTGRES_URL"]
async fn an_event_that_is_refused_with_any_sqlstate_fails_no_other_one() {
    let mut failed = Vec::new();
    for code in ["P0001", "40001", "55P03", "57014", "53400", "XX000"] {
        let fixture = Fixture::new().await;
        let body = format!(
            "IF NEW.idempotency_key LIKE 'JOB-7 %' THEN RAISE 'no' USING ERRCODE = '{code}'; END IF;"
        );
        trigger(&fixture, "BEFORE INSERT", &body).await;
        let queue = fixture.queue.clone().with_max_connections(1);
        let deliveries: Vec<_> = (0..32)
            .map(|number| {
                let event = completed(&format!("JOB-{number}"));
                tokio::spawn(queue.enqueue().oneshot(event))
            })
            .collect();
        let mut refused = 0;
        for delivery in deliveries {
            refused += usize::from(delivery.await.unwrap().is_err());
        }
        if refused != 1 {
            failed.push(format!("{code}: {refused} of 32"));
        }
    }
    assert!(failed.is_empty(), "answered 503: {failed:?}");
}

/// `replay_all`: "Returns all dead letters that match to the queue". One whose row the database refuses to change keeps no other
/// one.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs PostgreSQL: set MX_TEST_POSTGRES_URL"]
async fn a_letter_that_is_refused_keeps_no_other_one_from_a_replay() {
    let fixture = Fixture::new().await;
    for number in 0..8 {
        fixture.store(completed(&format!("JOB-{number}"))).await;
    }
    fixture.store(event("JOB-other", Status::Denied)).await;
    fixture.execute(KILLED).await;
    fixture.refuse_changes("JOB-3 %").await;
    // Its limit and cursor are those of a page.
    let filter = LetterFilter::new().with_limit(2);
    let page = fixture.queue.dead_letters(&filter).await.unwrap();
    let cursor = page.next().unwrap().clone();
    let filter = filter.with_status(Status::Completed).after(cursor);
    let replayed = fixture.queue.replay_all(&filter).await;
    let waiting = fixture.rows("status = 'Pending'").await;
    assert_eq!(waiting, 7, "{replayed:?}");
    let others = "status = 'Killed' AND idempotency_key LIKE 'JOB-other %'";
    assert_eq!(
        fixture.rows(others).await,
        1,
        "the filter is for the others too"
    );
}

/// The same for more letters than a page has.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs PostgreSQL: set MX_TEST_POSTGRES_URL"]
async fn a_letter_that_is_refused_keeps_none_of_1100_from_a_replay() {
    let fixture = Fixture::new().await;
    fixture.store(completed("JOB-refused")).await;
    fixture
        .execute(
            "INSERT INTO apalis.jobs (id, job_type, job, status, attempts, max_attempts, run_at, priority, idempotency_key)
             SELECT 'x' || n, job_type, job, status, 0, 0, now(), 0, 'JOB-' || n || ' COMPLETED -'
             FROM apalis.jobs, generate_series(1, 1100) n",
        )
        .await;
    fixture.execute(KILLED).await;
    // The statement that begins with the oldest letters is refused.
    fixture
        .execute(
            "UPDATE apalis.jobs SET done_at = done_at - interval '1 minute'
             WHERE idempotency_key LIKE 'JOB-refused %'",
        )
        .await;
    fixture.refuse_changes("JOB-refused %").await;
    let replayed = fixture.queue.replay_all(&LetterFilter::new()).await;
    let waiting = fixture.rows("status = 'Pending'").await;
    assert_eq!(waiting, 1100, "{replayed:?}");
    let replayed = replayed.unwrap();
    assert_eq!((replayed.succeeded(), replayed.failed()), (1100, 1));
}

/// `replay_all`: "If the server has not answered in time, letters may have been returned or not." So if a connection is cut off, the
/// replay fails, and does not count letters of which it knows nothing.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs PostgreSQL: set MX_TEST_POSTGRES_URL"]
async fn a_replay_of_all_fails_if_its_connection_is_cut_off() {
    for one_by_one in [false, true] {
        let fixture = Fixture::new().await;
        for number in 0..8 {
            fixture.store(completed(&format!("JOB-{number}"))).await;
        }
        fixture.execute(KILLED).await;
        if one_by_one {
            fixture.refuse_changes("JOB-0 %").await;
        }
        // A statement for all letters is refused before, for JOB-0, and one for JOB-1 alone is cut off each time. Otherwise one
        // statement is cut off: sequences are not rolled back.
        let (cut_off, times) = if one_by_one {
            ("JOB-1", 9)
        } else {
            ("JOB-0", 1)
        };
        fixture.execute("CREATE SEQUENCE tries").await;
        trigger(
            &fixture,
            "AFTER UPDATE",
            &format!(
                "IF NEW.idempotency_key LIKE '{cut_off} %' AND nextval('tries') <= {times} THEN
                     PERFORM pg_terminate_backend(pg_backend_pid());
                 END IF;"
            ),
        )
        .await;
        let replayed = fixture.queue.replay_all(&LetterFilter::new()).await;
        assert!(replayed.is_err(), "{one_by_one}: {replayed:?}");
        fixture.execute("DROP TRIGGER refuse ON apalis.jobs").await;
        let replayed = fixture.queue.replay_all(&LetterFilter::new()).await;
        assert_eq!(replayed.unwrap().failed(), u64::from(one_by_one));
    }
}

/// "Secrets, user ids and bodies never reach a log, an error or a response": `Error`'s `Debug` says that "Their own `Debug` can
/// show more than an application may log, such as the row that a database has refused."
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs PostgreSQL: set MX_TEST_POSTGRES_URL"]
async fn errors_of_calls_show_no_row() {
    let fixture = Fixture::new().await;
    let mut job = Job::new("JOB-1".parse().unwrap(), Status::Completed);
    job.user_guid = Some("USR-secret".parse().unwrap());
    fixture.store(job.into()).await;
    let errors = Log::default();
    let (pool, queue, noted) = (fixture.pool.clone(), fixture.queue.clone(), errors.clone());
    let jobs = JobRouter::new().on_completed(move |event: JobEvent| {
        let (pool, queue, noted) = (pool.clone(), queue.clone(), noted.clone());
        async move {
            let mut transaction = pool.begin().await?;
            let error = queue.commit_in(&mut transaction, &event).await.unwrap_err();
            noted.push(format!("commit_in: {error:?} {error:#}"));
            Err::<(), tower::BoxError>(error.into())
        }
    });
    fixture
        .execute("ALTER TABLE apalis.jobs ADD CONSTRAINT refuse CHECK (status = 'Running' OR status = 'Failed') NOT VALID")
        .await;
    let worker = Running::start(quick(&fixture.queue, jobs).with_tries(1));
    fixture.until(1, "status = 'Failed' AND attempts = 1").await;
    worker.end().await;
    let name = fixture.letters().await.letters()[0].name().to_owned();
    let error = fixture.queue.replay(&name).await.unwrap_err();
    errors.push(format!("replay: {error:?} {error:#}"));
    let replayed = fixture.queue.replay_all(&LetterFilter::new()).await;
    assert_eq!(replayed.unwrap().failed(), 1);
    let refused = "ALTER TABLE apalis.jobs ADD CHECK (job IS NULL) NOT VALID";
    fixture.execute(refused).await;
    let error = fixture.queue.enqueue().oneshot(completed("JOB-2")).await;
    errors.push(format!("enqueue: {0:?} {0:#}", error.unwrap_err()));
    let shown: Vec<_> = errors
        .entries()
        .into_iter()
        .filter(|error| error.contains("Failing row"))
        .collect();
    assert!(shown.is_empty(), "{shown:#?}");
    // The constraint is of a table of the crate, so its name is no user's.
    for error in errors.entries() {
        assert!(error.contains("violates the constraint"), "{error}");
    }
}

/// "User ids and bodies never reach a log": a constraint of the application reads the body, and the message of the server has
/// the value that it cannot read.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs PostgreSQL: set MX_TEST_POSTGRES_URL"]
async fn a_refused_row_puts_no_user_id_into_the_log() {
    let fixture = Fixture::new().await;
    let lines = Lines::of_all_tests();
    let mut job = Job::new("JOB-1".parse().unwrap(), Status::Completed);
    job.user_guid = Some("USR-of-a-refused-row".parse().unwrap());
    fixture.store(job.into()).await;
    fixture
        .execute(
            "ALTER TABLE apalis.jobs ADD CONSTRAINT refuse CHECK
                 ((convert_from(job, 'UTF8')::jsonb #>> '{job,user_guid}')::uuid IS NOT NULL) NOT VALID",
        )
        .await;
    let log = Log::default();
    let worker = Running::start(quick(&fixture.queue, logging(&log)));
    let start = Instant::now();
    while !lines.has(&[
        "refuses to change their rows",
        "invalid input syntax for type uuid",
    ]) {
        if start.elapsed() > Duration::from_secs(5) {
            break;
        }
        sleep(Duration::from_millis(20)).await;
    }
    worker.end().await;
    let text = lines.text();
    let line = text
        .lines()
        .find(|line| line.contains("USR-of-a-refused-row"));
    assert!(line.is_none(), "{line:?}");
}

/// The same for the answer of a delivery whose event is refused: what `on_error` and logs hear.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs PostgreSQL: set MX_TEST_POSTGRES_URL"]
async fn an_event_that_is_not_stored_puts_no_user_id_into_an_error() {
    let fixture = Fixture::new().await;
    fixture
        .execute(
            "ALTER TABLE apalis.jobs ADD CONSTRAINT refuse CHECK
                 ((convert_from(job, 'UTF8')::jsonb #>> '{job,user_guid}')::uuid IS NOT NULL) NOT VALID",
        )
        .await;
    let mut job = Job::new("JOB-1".parse().unwrap(), Status::Completed);
    job.user_guid = Some("USR-of-an-error".parse().unwrap());
    let error = fixture
        .queue
        .enqueue()
        .oneshot(job.into())
        .await
        .unwrap_err();
    let text = format!("{error:?} {error:#}");
    assert!(!text.contains("USR-of-an-error"), "{text}");
}

/// Guide: "A worker leaves out 1,000 such events at a time". With the default settings, 400 events of a dead worker cannot be taken
/// over. The one behind them runs.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs PostgreSQL: set MX_TEST_POSTGRES_URL"]
async fn an_event_behind_400_that_cannot_be_taken_over_runs() {
    let fixture = Fixture::new().await;
    let mut guids: Vec<_> = (0..400).map(|number| format!("BAD-{number:03}")).collect();
    guids.push("JOB-good".to_owned());
    orphans(&fixture, &guids).await;
    fixture.execute("VACUUM FULL apalis.jobs").await;
    fixture.refuse_changes("BAD-%").await;
    let log = Log::default();
    let worker = Running::start(fixture.queue.worker(logging(&log)));
    let ran = logged_within(&log, 1, Duration::from_secs(150)).await;
    worker.end().await;
    assert!(ran, "JOB-good did not run for 150 s");
}

/// Guide: "try it again after 15 to 30 s", also if they look for events rarely.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs PostgreSQL: set MX_TEST_POSTGRES_URL"]
async fn a_refused_event_is_tried_again_although_the_worker_looks_rarely() {
    let fixture = Fixture::new().await;
    fixture.store(completed("JOB-1")).await;
    fixture.refuse_changes("JOB-1 %").await;
    let log = Log::default();
    let hour = Duration::from_secs(3600);
    let worker = Running::start(quick(&fixture.queue, logging(&log)).with_poll_interval(hour));
    sleep(Duration::from_secs(3)).await;
    fixture
        .execute("ALTER TABLE apalis.jobs DROP CONSTRAINT refuse")
        .await;
    let ran = logged_within(&log, 1, Duration::from_secs(75)).await;
    worker.end().await;
    assert!(ran, "JOB-1 did not run for 75 s after the mend");
}

/// Guide: "A worker leaves out 1,000 such events at a time". 450 are refused, by a trigger that takes 60 ms. The one behind them runs.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs PostgreSQL: set MX_TEST_POSTGRES_URL"]
async fn an_event_behind_450_that_are_refused_slowly_runs() {
    let fixture = Fixture::new().await;
    fixture.store(completed("JOB-good")).await;
    fixture
        .execute(
            "INSERT INTO apalis.jobs (id, job_type, job, status, attempts, max_attempts, run_at, priority, idempotency_key)
             SELECT 'x' || n, job_type, job, status, 0, 0, now() - interval '1 hour', 0, 'REFUSED-' || n
             FROM apalis.jobs, generate_series(1, 450) n",
        )
        .await;
    trigger(
        &fixture,
        "BEFORE UPDATE",
        "IF NEW.idempotency_key LIKE 'REFUSED-%' THEN PERFORM pg_sleep(0.06); RAISE 'no'; END IF;",
    )
    .await;
    let log = Log::default();
    let worker = Running::start(quick(&fixture.queue, logging(&log)));
    let ran = logged_within(&log, 1, Duration::from_secs(100)).await;
    worker.end().await;
    assert!(ran, "JOB-good did not run for 100 s");
}

/// `run_until`: "After the shutdown, it waits for the database as long as for a silent worker." Eight results are refused, by a
/// trigger that takes two seconds.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs PostgreSQL: set MX_TEST_POSTGRES_URL"]
async fn a_shutdown_ends_although_results_are_refused_slowly() {
    let fixture = Fixture::new().await;
    trigger(
        &fixture,
        "BEFORE UPDATE",
        "IF NEW.status = 'Done' THEN PERFORM pg_sleep(2); RAISE 'no'; END IF;",
    )
    .await;
    for number in 0..8 {
        fixture.store(completed(&format!("JOB-{number}"))).await;
    }
    let log = Log::default();
    let worker = Running::start(quick(&fixture.queue, logging(&log)).with_concurrency(8));
    until_logged(&log, 8).await;
    worker.shut_down();
    let start = Instant::now();
    let ended = timeout(Duration::from_secs(150), worker.task).await;
    let after = start.elapsed();
    assert!(ended.is_ok(), "it did not end");
    // One statement may run when the time is over, and another one was before.
    assert!(
        after < DEAD_AFTER + Duration::from_secs(10),
        "it ended after {after:?}"
    );
}

/// "If the silent worker still lives": workers that live and reach their database are not silent, and their events do not run
/// twice, although an event of a dead worker has a trigger that waits for a transaction of the application for a while.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs PostgreSQL: set MX_TEST_POSTGRES_URL"]
async fn living_workers_do_not_count_as_dead_because_of_a_row_of_a_dead_one() {
    let fixture = Fixture::new().await;
    orphans(&fixture, &["JOB-bad".to_owned()]).await;
    fixture
        .execute("CREATE TABLE members (guid text); INSERT INTO members VALUES ('JOB-bad')")
        .await;
    trigger(
        &fixture,
        "AFTER UPDATE",
        "UPDATE members SET guid = guid WHERE guid = split_part(NEW.idempotency_key, ' ', 1);",
    )
    .await;
    let log = Log::default();
    let mut workers = Vec::new();
    let mut lock = fixture.pool.begin().await.unwrap();
    sqlx::query("SELECT FROM members FOR UPDATE")
        .execute(&mut *lock)
        .await
        .unwrap();
    for number in 0..4 {
        store(&fixture.queue, completed(&format!("JOB-long-{number}"))).await;
        let worker = quick(&fixture.other(), slow(&log, Duration::from_secs(120)));
        workers.push(Running::start(worker.with_concurrency(1)));
        until_logged(&log, number + 1).await;
        sleep(Duration::from_millis(300)).await;
    }
    sleep(Duration::from_secs(12)).await;
    for _ in 0..4 {
        lock.rollback().await.unwrap();
        sleep(Duration::from_secs(1)).await;
        fixture
            .execute(
                "UPDATE apalis.jobs SET status = 'Running', lock_by = 'dead', lock_at = now() - interval '1 hour'
                 WHERE idempotency_key LIKE 'JOB-bad %' AND lock_by IS NULL",
            )
            .await;
        lock = fixture.pool.begin().await.unwrap();
        sqlx::query("SELECT FROM members FOR UPDATE")
            .execute(&mut *lock)
            .await
            .unwrap();
        sleep(Duration::from_secs(9)).await;
    }
    let twice = fixture
        .rows("idempotency_key LIKE 'JOB-long-%' AND attempts > 0")
        .await;
    lock.rollback().await.unwrap();
    for worker in workers {
        worker.task.abort();
    }
    assert_eq!(twice, 0, "events of living workers were taken over");
}

/// Guide: "If they refuse to change a stored row […], its event waits". 32 of 36 results that are recorded together are
/// refused. The others are recorded, and those are tried one after the other, not with all that are left again and again.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs PostgreSQL: set MX_TEST_POSTGRES_URL"]
async fn results_that_are_refused_keep_no_other_one() {
    let fixture = Fixture::new().await;
    let lines = Lines::of_all_tests();
    fixture.execute("CREATE SEQUENCE refusals").await;
    trigger(
        &fixture,
        "BEFORE UPDATE",
        "IF NEW.status = 'Done' AND NEW.idempotency_key LIKE 'RESULT-%' THEN
             PERFORM nextval('refusals'); RAISE 'no';
         END IF;",
    )
    .await;
    for number in 0..36 {
        let name = if number % 9 == 8 { "JOB" } else { "RESULT" };
        let event = completed(&format!("{name}-{number}"));
        fixture.store(event).await;
    }
    let log = Log::default();
    let jobs = slow(&log, Duration::from_millis(500));
    let worker = Running::start(quick(&fixture.queue, jobs).with_concurrency(36));
    fixture.until(4, "status = 'Done' AND attempts = 1").await;
    let start = Instant::now();
    while lines.count(&["refuses to change their rows", "RESULT-"]) < 32 {
        assert!(start.elapsed() < PATIENCE);
        sleep(Duration::from_millis(5)).await;
    }
    let refusals = fixture.number("SELECT last_value FROM refusals").await;
    fixture.execute("DROP TRIGGER refuse ON apalis.jobs").await;
    fixture.until(36, "status = 'Done' AND attempts = 1").await;
    worker.end().await;
    assert!(refusals < 50, "{refusals} refusals");
}

/// The application refuses all changes with a trigger of the statement, so no result is the cause, and none is tried by itself.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs PostgreSQL: set MX_TEST_POSTGRES_URL"]
async fn results_whose_statement_is_refused_are_not_tried_one_by_one() {
    let fixture = Fixture::new().await;
    let lines = Lines::of_all_tests();
    for number in 0..8 {
        fixture.store(completed(&format!("FROZEN-{number}"))).await;
    }
    let log = Log::default();
    let jobs = slow(&log, Duration::from_secs(1));
    let worker = Running::start(quick(&fixture.queue, jobs).with_concurrency(8));
    until_logged(&log, 8).await;
    freeze(&fixture).await;
    sleep(Duration::from_secs(3)).await;
    fixture.execute("DROP TRIGGER frozen ON apalis.jobs").await;
    fixture.until(8, "status = 'Done' AND attempts = 1").await;
    worker.end().await;
    let refused = lines.count(&["refuses to change their rows", "FROZEN-"]);
    assert_eq!(refused, 0);
}
