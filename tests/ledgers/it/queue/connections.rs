//! The queue's own connections: how many they are, what closes them, and which settings they have.

use std::future::poll_fn;
use std::pin::Pin;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use mx_job_webhook::dead_letters::LetterFilter;
use mx_job_webhook::queue::{JobQueue, Try};
use mx_job_webhook::{ErrorKind, JobEvent, JobRouter};
use sqlx::postgres::PgPoolOptions;
use tokio::runtime::Runtime;
use tokio::sync::Notify;
use tokio::time::{Instant, sleep, timeout};
use tower::{BoxError, ServiceExt as _};

use super::{
    DEAD_AFTER, Fixture, KILLED, Running, completed, logging, quick, slow, store, until_logged,
};
use crate::proxy::Proxy;
use crate::support::Log;

/// The sessions of a queue, by the comment of their last statement.
const SESSIONS: &str = "SELECT count(*) FROM pg_stat_activity
    WHERE datname = current_database() AND query LIKE '%/* mx-job-webhook%' AND pid <> pg_backend_pid()";

/// Callbacks may hold all connections of the pool.
#[tokio::test]
#[ignore = "needs PostgreSQL: set MX_TEST_POSTGRES_URL"]
async fn it_takes_no_connection_of_the_applications_pool() {
    let fixture = Fixture::new().await;
    let pool = PgPoolOptions::new()
        .max_connections(1)
        .acquire_timeout(Duration::from_secs(1))
        .connect_lazy_with(fixture.database.options());
    let held = pool.acquire().await.unwrap();
    let queue = JobQueue::postgres(pool.clone());
    super::store(&queue, completed("JOB-1")).await;
    let log = Log::default();
    let worker = Running::start(quick(&queue, logging(&log)));
    until_logged(&log, 1).await;
    worker.end().await;
    drop(held);
    pool.close().await;
    let closed = queue.enqueue().oneshot(completed("JOB-2")).await;
    assert_eq!(closed.unwrap_err().kind(), ErrorKind::QueueUnavailable);
}

/// A connection is kept for the next event, until it is as old as those of the pool may become.
#[tokio::test]
#[ignore = "needs PostgreSQL: set MX_TEST_POSTGRES_URL"]
async fn connections_are_kept_and_become_as_old_as_those_of_the_pool() {
    for (lifetime, connections) in [(None, 1), (Some(Duration::from_millis(300)), 2)] {
        let fixture = Fixture::new().await;
        let proxy = Proxy::to(fixture.database.server()).await;
        let options = fixture.database.options().host("127.0.0.1");
        let pool = PgPoolOptions::new().max_lifetime(lifetime);
        let pool = pool.connect_lazy_with(options.port(proxy.address.port()));
        let queue = JobQueue::postgres(pool);
        super::store(&queue, completed("JOB-1")).await;
        tokio::time::sleep(Duration::from_millis(400)).await;
        super::store(&queue, completed("JOB-2")).await;
        assert_eq!(proxy.connections(), connections, "{lifetime:?}");
    }
}

/// Errors of the database cost no connection, and a broken connection fails no delivery.
#[tokio::test]
#[ignore = "needs PostgreSQL: set MX_TEST_POSTGRES_URL"]
async fn only_a_broken_connection_is_replaced() {
    let fixture = Fixture::new().await;
    let refuse = "ALTER TABLE apalis.jobs ADD CHECK (idempotency_key NOT LIKE 'JOB-1 %')";
    fixture.execute(refuse).await;
    let proxy = Proxy::to(fixture.database.server()).await;
    let options = fixture.database.options().host("127.0.0.1");
    let (_, queue) = super::queue(options.port(proxy.address.port()));
    for guid in ["JOB-2", "JOB-3"] {
        super::store(&queue, completed(guid)).await;
        let refused = queue.enqueue().oneshot(completed("JOB-1")).await;
        assert!(refused.is_err());
    }
    assert_eq!(proxy.connections(), 1);
    proxy.cut().await;
    super::store(&queue, completed("JOB-4")).await;
    assert_eq!(proxy.connections(), 2);
}

/// `with_max_connections`: a number that no server reaches.
#[tokio::test]
#[ignore = "needs PostgreSQL: set MX_TEST_POSTGRES_URL"]
async fn any_number_of_connections_can_be_the_most() {
    let fixture = Fixture::new().await;
    let queue = fixture.queue.clone().with_max_connections(u32::MAX);
    store(&queue, completed("JOB-1")).await;
    assert_eq!(queue.counts().await.unwrap().waiting, 1);
}

/// "The queue has connections of its own, at most four by default".
#[tokio::test]
#[ignore = "needs PostgreSQL: set MX_TEST_POSTGRES_URL"]
async fn replays_and_discards_open_no_further_connections() {
    let fixture = Fixture::new().await;
    for number in 0..30 {
        fixture.store(completed(&format!("JOB-{number}"))).await;
    }
    fixture.execute(KILLED).await;
    let page = fixture.letters().await;
    for letter in page.letters() {
        assert!(fixture.queue.replay(letter.name()).await.unwrap());
    }
    let sessions = fixture.number(SESSIONS).await;
    assert!(sessions <= 4, "{sessions} sessions");
}

/// `with_max_connections`: "Sets how many connections the queue opens at most." A table is locked, and the server keeps
/// a session for each statement that has timed out.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs PostgreSQL: set MX_TEST_POSTGRES_URL"]
async fn a_locked_table_does_not_use_up_the_servers_connections() {
    let fixture = Fixture::new().await;
    let mut lock = fixture.pool.begin().await.unwrap();
    sqlx::query("LOCK TABLE apalis.jobs IN ACCESS EXCLUSIVE MODE")
        .execute(&mut *lock)
        .await
        .unwrap();
    let tasks: Vec<_> = (0..4)
        .map(|task| {
            let queue = fixture.queue.clone();
            tokio::spawn(async move {
                for number in 0_u64.. {
                    let _ = queue
                        .enqueue()
                        .oneshot(completed(&format!("JOB-{task}-{number}")))
                        .await;
                }
            })
        })
        .collect();
    let start = Instant::now();
    let mut most = 0;
    while start.elapsed() < Duration::from_secs(18) {
        sleep(Duration::from_millis(500)).await;
        let sessions = fixture
            .number("SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND query LIKE '%/* mx-job-webhook%' AND pid <> pg_backend_pid()")
            .await;
        most = most.max(sessions);
    }
    for task in tasks {
        task.abort();
    }
    lock.rollback().await.unwrap();
    assert!(most <= 4, "{most} sessions");
}

/// `with_max_connections`, also if calls are dropped, as tower's `timeout` does: the server continues with their statements.
#[tokio::test]
#[ignore = "needs PostgreSQL: set MX_TEST_POSTGRES_URL"]
async fn dropped_calls_have_no_further_sessions() {
    let fixture = Fixture::new().await;
    // Its connection stays, so that on a busy machine a call waits for the lock before it is dropped.
    store(&fixture.queue, completed("JOB-first")).await;
    let mut lock = fixture.pool.begin().await.unwrap();
    sqlx::query("LOCK TABLE apalis.jobs, mx_job_webhook_dead_letters IN ACCESS EXCLUSIVE MODE")
        .execute(&mut *lock)
        .await
        .unwrap();
    let letters = LetterFilter::new();
    for number in 0..20 {
        let dropped = Duration::from_millis(30);
        let store = fixture
            .queue
            .enqueue()
            .oneshot(completed(&format!("JOB-{number}")));
        assert!(timeout(dropped, store).await.is_err());
        assert!(timeout(dropped, fixture.queue.counts()).await.is_err());
        let letters = fixture.queue.dead_letters(&letters);
        assert!(timeout(dropped, letters).await.is_err());
    }
    let sessions = fixture.number(SESSIONS).await;
    lock.rollback().await.unwrap();
    assert!((1..=6).contains(&sessions), "{sessions} sessions");
    // Their connections are free again.
    store(&fixture.queue, completed("JOB-last")).await;
}

/// Futures are dropped at each of their steps. The only connection's permit returns.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs PostgreSQL: set MX_TEST_POSTGRES_URL"]
async fn futures_that_are_dropped_at_any_step_keep_no_connection() {
    let fixture = Fixture::new().await;
    let queue = fixture.queue.clone().with_max_connections(1);
    for steps in 0..40 {
        let guid = format!("JOB-{steps}");
        let filter = LetterFilter::new();
        let calls: [Pin<Box<dyn Future<Output = ()> + Send>>; 7] = [
            Box::pin(async { drop(queue.enqueue().oneshot(completed(&guid)).await) }),
            Box::pin(async { drop(queue.replay("JOB-0 COMPLETED -").await) }),
            Box::pin(async { drop(queue.replay_all(&filter).await) }),
            Box::pin(async { drop(queue.dead_letters(&filter).await) }),
            Box::pin(async { drop(queue.prune(Duration::from_secs(1)).await) }),
            Box::pin(async {
                drop(
                    queue
                        .discard("undecodable 343e1662793c64bf6f0d3597ba446f18")
                        .await,
                );
            }),
            Box::pin(async { drop(queue.counts().await) }),
        ];
        for mut call in calls {
            let mut left = steps;
            poll_fn(|context| {
                if left == 0 {
                    return Poll::Ready(());
                }
                left -= 1;
                call.as_mut().poll(context)
            })
            .await;
        }
    }
    let counted = timeout(Duration::from_secs(10), queue.counts()).await;
    counted.unwrap().unwrap();
    store(&queue, completed("JOB-last")).await;
    queue.dead_letters(&LetterFilter::new()).await.unwrap();
}

/// "It opens them as the pool does, with the same options": a server that closes idle sessions refuses no event.
#[tokio::test]
#[ignore = "needs PostgreSQL: set MX_TEST_POSTGRES_URL"]
async fn a_server_that_closes_idle_sessions_refuses_no_event() {
    let fixture = Fixture::new().await;
    let options = fixture.database.options();
    let (_pool, queue) = super::queue(options.options([("idle_session_timeout", "500ms")]));
    for number in 0..2 {
        store(&queue, completed(&format!("JOB-{number}"))).await;
        assert_eq!(queue.counts().await.unwrap().waiting, number + 1);
        sleep(Duration::from_secs(1)).await;
    }
    assert_eq!(queue.counts().await.unwrap().waiting, 2);
}

/// The application closes its pool before the worker has ended. The worker ends, and another one runs the event.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs PostgreSQL: set MX_TEST_POSTGRES_URL"]
async fn a_pool_that_is_closed_early_loses_no_event() {
    let fixture = Fixture::new().await;
    let (pool, queue) = super::queue(fixture.database.options());
    store(&queue, completed("JOB-1")).await;
    let log = Log::default();
    let worker = Running::start(quick(&queue, slow(&log, Duration::from_secs(2))));
    until_logged(&log, 1).await;
    worker.shut_down();
    pool.close().await;
    worker.end().await;
    let refused = queue.enqueue().oneshot(completed("JOB-2")).await;
    assert!(refused.is_err());
    let other = Running::start(quick(&fixture.queue, logging(&log)));
    fixture.until(1, "status = 'Done' AND attempts = 2").await;
    other.end().await;
}

/// The settings of a role change nothing. With `bytea_output = 'escape'`, which some databases have for old clients, a
/// worker takes events and cannot read them, and they return to the queue for ever.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs PostgreSQL: set MX_TEST_POSTGRES_URL"]
async fn events_run_whatever_form_the_database_gives_to_bytes() {
    let fixture = Fixture::new().await;
    let name = &fixture.database.name;
    fixture
        .execute(&format!(
            "ALTER DATABASE {name} SET bytea_output = 'escape'"
        ))
        .await;
    let queue = fixture.other();
    store(&queue, completed("JOB-1")).await;
    let log = Log::default();
    let worker = Running::start(quick(&queue, logging(&log)));
    sleep(DEAD_AFTER * 3).await;
    assert_eq!(log.entries(), ["JOB-1"]);
    worker.end().await;
}

/// The settings that `after_connect` makes change nothing.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs PostgreSQL: set MX_TEST_POSTGRES_URL"]
async fn settings_of_the_application_change_nothing() {
    let fixture = Fixture::new().await;
    let pool = PgPoolOptions::new()
        .after_connect(|connection, _| {
            Box::pin(async move {
                sqlx::raw_sql(
                    "SET standard_conforming_strings = off; SET backslash_quote = off; SET DateStyle = 'SQL, DMY';
                     SET IntervalStyle = 'sql_standard'; SET TimeZone = 'Asia/Kathmandu';
                     SET bytea_output = 'escape'; SET transform_null_equals = on; SET array_nulls = off;
                     SET extra_float_digits = -15; SET synchronous_commit = off; SET quote_all_identifiers = on;
                     SET default_transaction_isolation = 'serializable'; SET default_transaction_deferrable = on;
                     SET enable_indexscan = off; SET jit_above_cost = 0; SET plan_cache_mode = force_generic_plan;
                     SET lc_messages = 'C'; SET statement_timeout = '1min'; SET idle_in_transaction_session_timeout = 1000",
                )
                .execute(connection)
                .await?;
                Ok(())
            })
        })
        .connect_lazy_with(fixture.database.options());
    let queue =
        mx_job_webhook::queue::JobQueue::postgres(pool.clone()).named("a 'b' \"c\" \\ $1 é 🏦 --");
    let name = "JOB '\"\\ $1 é 🏦 -- /*";
    let log = Log::default();
    let is_mended = Arc::new(Notify::new());
    let (noted, mended) = (log.clone(), is_mended.clone());
    let (transactions, own) = (pool.clone(), queue.clone());
    let jobs = JobRouter::new().on_completed(move |event: JobEvent| {
        let (log, pool, queue) = (noted.clone(), transactions.clone(), own.clone());
        let mended = mended.clone();
        async move {
            let it = Try::of(&event).unwrap();
            log.push(format!("{} {} {}", event.guid, it.number(), it.is_last()));
            if it.number() <= 2 {
                return Err::<(), BoxError>("é '\"\\ \0 no".into());
            }
            let mut transaction = pool.begin().await?;
            queue.commit_in(&mut transaction, &event).await?;
            transaction.commit().await?;
            mended.notify_one();
            Ok(())
        }
    });
    let worker = Running::start(quick(&queue, jobs).with_tries(2));
    store(&queue, completed(name)).await;
    until_logged(&log, 2).await;
    fixture.until(1, "status = 'Failed' AND attempts = 2").await;
    let filter = LetterFilter::new().with_error_containing("é '\"\\");
    let page = queue.dead_letters(&filter).await.unwrap();
    assert_eq!(page.letters().len(), 1, "{page:?}");
    assert_eq!(page.letters()[0].guid().unwrap().as_str(), name);
    assert!(queue.replay(page.letters()[0].name()).await.unwrap());
    fixture.until(1, "status = 'Done' AND attempts = 3").await;
    is_mended.notified().await;
    worker.end().await;
    assert_eq!(queue.counts().await.unwrap().dead, 0);
    assert_eq!(log.entries().len(), 3);
}

/// Stores events for a while. Returns the most sessions.
async fn most_sessions(fixture: &Fixture, queue: &JobQueue) -> i64 {
    let tasks: Vec<_> = (0..4)
        .map(|task| {
            let queue = queue.clone();
            tokio::spawn(async move {
                for number in 0_u64.. {
                    let event = completed(&format!("JOB-{task}-{number}"));
                    let _ = queue.enqueue().oneshot(event).await;
                }
            })
        })
        .collect();
    let start = Instant::now();
    let mut most = 0;
    while start.elapsed() < Duration::from_secs(16) {
        sleep(Duration::from_millis(500)).await;
        most = most.max(fixture.number(SESSIONS).await);
    }
    for task in tasks {
        task.abort();
    }
    most
}

/// The same with a table that is locked, and a role whose `statement_timeout` is a minute.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs PostgreSQL: set MX_TEST_POSTGRES_URL"]
async fn a_locked_table_does_not_use_up_the_servers_connections_if_the_role_has_a_limit() {
    let fixture = Fixture::new().await;
    let options = fixture.database.options();
    let (_, queue) = super::queue(options.options([("statement_timeout", "60s")]));
    let mut lock = fixture.pool.begin().await.unwrap();
    sqlx::query("LOCK TABLE apalis.jobs IN ACCESS EXCLUSIVE MODE")
        .execute(&mut *lock)
        .await
        .unwrap();
    let most = most_sessions(&fixture, &queue).await;
    lock.rollback().await.unwrap();
    assert!(most <= 4, "{most} sessions");
}

/// Guide: "Statements of the queue end after 3 s, or after the role's `statement_timeout` if it is shorter." The table is locked.
#[tokio::test]
#[ignore = "needs PostgreSQL: set MX_TEST_POSTGRES_URL"]
async fn a_statement_ends_after_the_limit_of_its_role_if_that_is_shorter() {
    let fixture = Fixture::new().await;
    let options = fixture.database.options();
    let (_, queue) = super::queue(options.options([("statement_timeout", "400ms")]));
    let mut lock = fixture.pool.begin().await.unwrap();
    sqlx::query("LOCK TABLE apalis.jobs IN ACCESS EXCLUSIVE MODE")
        .execute(&mut *lock)
        .await
        .unwrap();
    for (queue, shortest) in [(&queue, 400), (&fixture.queue, 3_000)] {
        let start = Instant::now();
        let error = queue.counts().await.unwrap_err();
        let code = error.as_database_error().unwrap().code().unwrap();
        assert_eq!(code, "57014");
        let took = start.elapsed();
        let shortest = Duration::from_millis(shortest);
        assert!(
            shortest <= took && took < shortest + Duration::from_secs(2),
            "{took:?}"
        );
    }
    lock.rollback().await.unwrap();
}

/// `JobQueue`: "Dead letters that are no event have two more connections." Their table is locked, and the role has no
/// `statement_timeout`.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs PostgreSQL: set MX_TEST_POSTGRES_URL"]
async fn a_locked_table_of_dead_letters_does_not_use_up_the_servers_connections() {
    let fixture = Fixture::new().await;
    let mut lock = fixture.pool.begin().await.unwrap();
    sqlx::query("LOCK TABLE mx_job_webhook_dead_letters IN ACCESS EXCLUSIVE MODE")
        .execute(&mut *lock)
        .await
        .unwrap();
    let tasks: Vec<_> = (0..4)
        .map(|_| {
            let queue = fixture.queue.clone();
            tokio::spawn(async move {
                loop {
                    let _ = queue.dead_letters(&LetterFilter::new()).await;
                }
            })
        })
        .collect();
    let sessions = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database()
        AND wait_event_type = 'Lock' AND query LIKE '%mx_job_webhook_dead_letters%' AND pid <> pg_backend_pid()";
    let start = Instant::now();
    let mut most = 0;
    while start.elapsed() < Duration::from_secs(16) {
        sleep(Duration::from_millis(500)).await;
        most = most.max(fixture.number(sessions).await);
    }
    for task in tasks {
        task.abort();
    }
    lock.rollback().await.unwrap();
    assert!(most <= 2, "{most} sessions");
}

/// `with_max_connections`: "Sets how many connections the queue opens at most." Calls are dropped while a hook of the pool
/// prepares their connections, as `tower`'s `timeout` does.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs PostgreSQL: set MX_TEST_POSTGRES_URL"]
async fn calls_that_are_dropped_while_they_connect_have_no_further_sessions() {
    let fixture = Fixture::new().await;
    let pool = PgPoolOptions::new()
        .after_connect(|connection, _| {
            Box::pin(async move {
                sqlx::raw_sql("SELECT pg_sleep(3)")
                    .execute(connection)
                    .await?;
                Ok(())
            })
        })
        .connect_lazy_with(fixture.database.options());
    let queue = JobQueue::postgres(pool);
    let mut most = 0;
    for _ in 0..20 {
        assert!(
            timeout(Duration::from_millis(100), queue.counts())
                .await
                .is_err()
        );
        let sessions = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database()
            AND query LIKE 'SELECT pg_sleep%' AND state = 'active'";
        most = most.max(fixture.number(sessions).await);
    }
    assert!(most <= 4, "{most} sessions");
}

/// A thread with a runtime of its own gives four calls up, as with `block_on(timeout(…))`, and does something else. No task of
/// that runtime runs any more.
#[test]
#[ignore = "needs PostgreSQL: set MX_TEST_POSTGRES_URL"]
fn calls_that_another_runtime_has_given_up_keep_no_permit() {
    let main = Runtime::new().unwrap();
    let fixture = main.block_on(Fixture::new());
    let queue = fixture.queue.clone();
    let mut lock = main.block_on(async { fixture.pool.begin().await.unwrap() });
    main.block_on(async {
        sqlx::raw_sql("LOCK TABLE apalis.jobs IN ACCESS EXCLUSIVE MODE")
            .execute(&mut *lock)
            .await
            .unwrap()
    });
    let own = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    for _ in 0..4 {
        let given_up = own.block_on(async {
            timeout(Duration::from_millis(300), queue.counts())
                .await
                .is_err()
        });
        assert!(given_up);
    }
    main.block_on(async { lock.rollback().await.unwrap() });
    let stored = main.block_on(async {
        let first = queue.enqueue().oneshot(completed("JOB-1")).await;
        match first {
            // The permits end when the server has had the time to answer.
            Err(_) => queue.enqueue().oneshot(completed("JOB-1")).await,
            stored => stored,
        }
    });
    drop(own);
    main.block_on(async { drop(fixture) });
    stored.unwrap();
}

/// If one connection does not answer, the network may have forgotten all of them. One call finds that out, and not each.
#[tokio::test]
#[ignore = "needs PostgreSQL: set MX_TEST_POSTGRES_URL"]
async fn one_connection_that_stalls_replaces_the_other_idle_ones_too() {
    let fixture = Fixture::new().await;
    let proxy = Proxy::to(fixture.database.server()).await;
    let options = fixture.database.options().port(proxy.address.port());
    let (_, queue) = super::queue(options);
    let counts = async || queue.counts().await;
    let opened = tokio::join!(counts(), counts(), counts());
    assert!(opened.0.is_ok() && opened.1.is_ok() && opened.2.is_ok());
    assert!(proxy.connections() >= 2, "{}", proxy.connections());
    proxy.stall_existing();
    counts().await.unwrap_err();
    for _ in 0..3 {
        let counted = timeout(Duration::from_secs(3), counts()).await;
        counted.expect("it does not wait").unwrap();
    }
}
