//! Storing events, and the rows that identify them.

use std::sync::atomic::Ordering;
use std::time::Duration;

use bytes::Bytes;
use mx_job_webhook::ledger::EventName;
use mx_job_webhook::queue::{JobQueue, Try};
use mx_job_webhook::{Credentials, ErrorKind, JobEvent, JobRouter, JobWebhook, Receipt, Status};
use sqlx::postgres::PgPoolOptions;
use sqlx::{Connection as _, PgConnection};
use tokio::task::block_in_place;
use tokio::time::sleep;
use tower::{BoxError, ServiceExt as _};

use super::{Fixture, Running, completed, event, logging, quick, until_logged};
use crate::engines::postgres::at;
use crate::failover::{Pair, Replication};
use crate::postgres_wire::counted;
use crate::proxy::Network;
use crate::support::{Log, SAMPLE, delivery};

#[tokio::test]
#[ignore = "needs PostgreSQL: set MX_TEST_POSTGRES_URL"]
async fn a_204_says_that_the_event_is_stored_as_it_came_and_once() {
    let fixture = Fixture::new().await;
    let webhooks = JobWebhook::new(Credentials::unauthenticated(), fixture.queue.enqueue());
    let body = SAMPLE.replace(
        '{',
        "{ \"new\": 1.2300e+5, \"big\": 123456789012345678901234567890,\t",
    );
    for _ in 0..3 {
        let response = webhooks
            .clone()
            .oneshot(delivery(body.clone()))
            .await
            .unwrap();
        assert_eq!(response.status(), 204);
        let receipt = response.extensions().get::<Receipt>();
        assert_eq!(receipt, Some(&Receipt::Queued));
    }
    let stored: Vec<(Vec<u8>, String)> =
        sqlx::query_as("SELECT job, row_to_json(jobs)::text FROM apalis.jobs")
            .fetch_all(&fixture.pool)
            .await
            .unwrap();
    let [(job, row)] = stored.try_into().unwrap();
    assert_eq!(job, body.as_bytes());
    assert!(!row.contains("charset=utf-8"), "no header is stored: {row}");
}

/// "The receipt is `Queued`, or `Duplicate` if a worker has handled the event already", also if they share a statement.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs PostgreSQL: set MX_TEST_POSTGRES_URL"]
async fn a_delivery_of_a_handled_event_is_a_duplicate() {
    let fixture = Fixture::new().await;
    let rows = [
        ("JOB-waiting", "'Pending', attempts = 0"),
        ("JOB-running", "'Running', attempts = 0"),
        ("JOB-pausing", "'Failed', attempts = 1, max_attempts = 2"),
        ("JOB-dead", "'Killed', attempts = 1, max_attempts = 2"),
        ("JOB-handled", "'Done', attempts = 1"),
    ];
    for (guid, status) in rows {
        fixture.store(completed(guid)).await;
        let row = format!(
            "UPDATE apalis.jobs SET status = {status} WHERE idempotency_key LIKE '{guid} %'"
        );
        fixture.execute(&row).await;
    }
    let queue = fixture.queue.clone().with_max_connections(1);
    let other = queue.clone().named("other");
    let guids = rows.map(|(guid, _)| guid);
    let deliveries = guids.into_iter().chain(["JOB-new"]).cycle().take(60);
    let deliveries: Vec<_> = deliveries
        .map(|guid| (guid, tokio::spawn(queue.enqueue().oneshot(completed(guid)))))
        .collect();
    for (guid, delivery) in deliveries {
        let expected = match guid {
            "JOB-handled" => Receipt::Duplicate,
            _ => Receipt::Queued,
        };
        assert_eq!(delivery.await.unwrap().unwrap(), expected, "{guid}");
    }
    let receipt = other.enqueue().oneshot(completed("JOB-handled")).await;
    assert_eq!(receipt.unwrap(), Receipt::Queued, "of another queue");
}

#[tokio::test]
#[ignore = "needs PostgreSQL: set MX_TEST_POSTGRES_URL"]
async fn events_that_differ_in_anything_are_different_rows() {
    let fixture = Fixture::new().await;
    let long = "x".repeat(300);
    let guids = [
        "JOB-1",
        "JOB-2",
        "a'b\\c\"d$1",
        "a\0b",
        "ä €",
        long.as_str(),
        "a b",
        "a  b",
    ];
    for guid in guids {
        for status in [
            Status::Completed,
            Status::Denied,
            Status::from("NEW"),
            Status::from(99),
        ] {
            fixture.store(event(guid, status.clone())).await;
            fixture.store(event(guid, status)).await;
        }
    }
    assert_eq!(fixture.rows("true").await, 4 * guids.len() as i64);
    let undated = |text: &str| {
        let body =
            format!(r#"{{"job": {{"guid": "JOB-1", "status": 6, "error_message": "{text}"}}}}"#);
        JobEvent::decode(body).unwrap()
    };
    fixture.store(undated("one")).await;
    fixture.store(undated("two")).await;
    assert_eq!(fixture.rows("true").await, 4 * guids.len() as i64 + 2);
}

#[tokio::test]
#[ignore = "needs PostgreSQL: set MX_TEST_POSTGRES_URL"]
async fn queues_of_other_names_are_separate() {
    let fixture = Fixture::new().await;
    let other = fixture.queue.clone().named("it's \"another\"");
    fixture.store(completed("JOB-1")).await;
    super::store(&other, completed("JOB-1")).await;
    let log = Log::default();
    let worker = Running::start(quick(&other, logging(&log)));
    until_logged(&log, 1).await;
    worker.end().await;
    assert_eq!(fixture.queue.counts().await.unwrap().waiting, 1);
    assert_eq!(other.counts().await.unwrap().waiting, 0);
}

#[tokio::test]
async fn an_event_that_cannot_be_stored_is_not_acknowledged() {
    let nowhere = at("127.0.0.1:9".parse().unwrap());
    let pool = PgPoolOptions::new().connect_lazy_with(nowhere);
    let webhooks = JobWebhook::new(
        Credentials::unauthenticated(),
        JobQueue::postgres(pool).enqueue(),
    );
    let response = webhooks.oneshot(delivery(SAMPLE.to_owned())).await.unwrap();
    assert_eq!(response.status(), 503);
    assert!(response.headers().contains_key("retry-after"));
    let error = response
        .extensions()
        .get::<mx_job_webhook::Error>()
        .unwrap();
    assert_eq!(error.kind(), ErrorKind::QueueUnavailable);
    assert!(
        format!("{error:#}").starts_with("the queue is unavailable: "),
        "{error:#}"
    );
}

#[tokio::test]
#[ignore = "needs PostgreSQL: set MX_TEST_POSTGRES_URL"]
async fn a_stored_event_is_durable_even_if_the_application_commits_locally() {
    let fixture = Fixture::new().await;
    let log = "CREATE TABLE settings (setting text);
        CREATE FUNCTION note() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
            INSERT INTO settings VALUES (TG_OP || ' ' || current_setting('synchronous_commit') || ' '
                || current_setting('transaction_isolation'));
            RETURN NEW;
        END $$;
        CREATE TRIGGER note AFTER INSERT OR UPDATE ON apalis.jobs FOR EACH ROW EXECUTE FUNCTION note()";
    fixture.execute(log).await;
    for (weak, expected) in [
        ("off", "on"),
        ("local", "on"),
        ("remote_apply", "remote_apply"),
    ] {
        fixture.execute("TRUNCATE settings, apalis.jobs").await;
        let settings = [
            ("synchronous_commit", weak),
            ("default_transaction_isolation", "serializable"),
        ];
        let (_, queue) = super::queue(fixture.database.options().options(settings));
        super::store(&queue, completed("JOB-1")).await;
        let log = Log::default();
        let worker = Running::start(quick(&queue, logging(&log)));
        until_logged(&log, 1).await;
        worker.end().await;
        for operation in ["INSERT", "UPDATE"] {
            let expected = format!("{operation} {expected} read committed");
            let noted = format!("SELECT count(*) FROM settings WHERE setting = '{expected}'");
            assert!(fixture.number(&noted).await >= 1, "{weak}: {expected}");
        }
    }
}

/// A constraint or a trigger of the application refuses an event. The next event is stored on the same connection.
#[tokio::test]
#[ignore = "needs PostgreSQL: set MX_TEST_POSTGRES_URL"]
async fn an_event_that_the_database_refuses_does_not_hinder_the_next_one() {
    let fixture = Fixture::new().await;
    let refuse = "ALTER TABLE apalis.jobs ADD CHECK (idempotency_key NOT LIKE 'JOB-1 %')";
    fixture.execute(refuse).await;
    for guid in ["JOB-2", "JOB-3"] {
        let refused = fixture.queue.enqueue().oneshot(completed("JOB-1")).await;
        let refused = refused.unwrap_err();
        assert_eq!(refused.kind(), ErrorKind::QueueUnavailable);
        // The server's error has the row in its details.
        let printed = format!("{refused:?} {refused:#}");
        assert!(!printed.contains("Failing row"), "{printed}");
        assert!(printed.contains("violates"), "{printed}");
        fixture.store(completed(guid)).await;
    }
    assert_eq!(fixture.rows("true").await, 2);
}

/// Events that are stored at the same time share statements, whose bodies are 1 MiB at most.
#[tokio::test]
#[ignore = "needs PostgreSQL: set MX_TEST_POSTGRES_URL"]
async fn events_that_are_stored_together_share_statements() {
    for (bytes, statements) in [(10, 1..=8), (600_000, 16..=16)] {
        let fixture = Fixture::new().await;
        let queue = fixture.queue.clone().with_max_connections(1);
        let store = |number| {
            let (guid, text) = (format!("JOB-{number}"), "x".repeat(bytes));
            let body = format!(r#"{{"job": {{"guid": "{guid}", "status": 6, "text": "{text}"}}}}"#);
            let event = JobEvent::decode(body).unwrap();
            tokio::spawn(queue.enqueue().oneshot(event))
        };
        let deliveries: Vec<_> = (0..16).map(store).collect();
        for delivery in deliveries {
            assert_eq!(delivery.await.unwrap().unwrap(), Receipt::Queued);
        }
        let made = fixture
            .number("SELECT count(DISTINCT xmin::text) FROM apalis.jobs")
            .await;
        assert!(
            statements.contains(&made),
            "{bytes} bytes: {made} statements"
        );
    }
}

/// Events that are stored at the same time share a statement, and one that the database refuses is refused alone: by a
/// constraint, or by a trigger with an error code of the application.
#[tokio::test]
#[ignore = "needs PostgreSQL: set MX_TEST_POSTGRES_URL"]
async fn an_event_that_the_database_refuses_fails_no_other_one() {
    let constraint = "ALTER TABLE apalis.jobs ADD CHECK (idempotency_key NOT LIKE 'JOB-7 %')";
    let trigger = "CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS
             $f$ BEGIN IF NEW.idempotency_key LIKE 'JOB-7 %' THEN RAISE 'no' USING ERRCODE = 'MX001'; END IF;
             RETURN NEW; END $f$;
         CREATE TRIGGER refuse BEFORE INSERT ON apalis.jobs FOR EACH ROW EXECUTE FUNCTION refuse()";
    for refuse in [constraint, trigger] {
        let fixture = Fixture::new().await;
        fixture.execute(refuse).await;
        let queue = fixture.queue.clone().with_max_connections(1);
        let store = |number| {
            let event = completed(&format!("JOB-{number}"));
            tokio::spawn(queue.enqueue().oneshot(event))
        };
        let deliveries: Vec<_> = (0..32).map(store).collect();
        for (number, delivery) in deliveries.into_iter().enumerate() {
            let answer = delivery.await.unwrap();
            assert_eq!(answer.is_ok(), number != 7, "{number}: {answer:?}");
        }
        assert_eq!(fixture.rows("true").await, 31);
    }
}

#[tokio::test]
#[ignore = "needs PostgreSQL: set MX_TEST_POSTGRES_URL"]
async fn deliveries_of_one_event_at_the_same_time_store_it_once() {
    let fixture = Fixture::new().await;
    let other = fixture.other();
    let mut deliveries = Vec::new();
    for number in 0..64 {
        let queue = if number % 2 == 0 {
            &fixture.queue
        } else {
            &other
        };
        let guid = format!("JOB-{}", number % 4);
        deliveries.push(tokio::spawn(queue.enqueue().oneshot(completed(&guid))));
    }
    for delivery in deliveries {
        assert_eq!(delivery.await.unwrap().unwrap(), Receipt::Queued);
    }
    assert_eq!(fixture.rows("true").await, 4);
}

#[tokio::test]
#[ignore = "needs PostgreSQL: set MX_TEST_POSTGRES_URL"]
async fn prune_deletes_handled_events_alone() {
    let fixture = Fixture::new().await;
    for number in 0..3 {
        fixture.store(completed(&format!("JOB-{number}"))).await;
    }
    let aged = "UPDATE apalis.jobs SET done_at = now() - interval '49 hours'";
    fixture.execute(&format!("{aged}, status = 'Done'")).await;
    fixture.store(completed("JOB-new")).await;
    fixture.execute("UPDATE apalis.jobs SET status = 'Done', done_at = now() WHERE id = (SELECT max(id) FROM apalis.jobs)").await;
    fixture.store(completed("JOB-waiting")).await;
    for (guid, status) in [
        ("JOB-killed", "'Killed'"),
        ("JOB-failed", "'Failed', attempts = 5, max_attempts = 5"),
    ] {
        fixture.store(completed(guid)).await;
        fixture
            .execute(&format!(
                "{aged}, status = {status} WHERE idempotency_key LIKE '{guid} %'"
            ))
            .await;
    }
    super::store(
        &fixture.queue.clone().named("other"),
        completed("JOB-other"),
    )
    .await;
    fixture
        .execute(&format!("{aged}, status = 'Done' WHERE job_type = 'other'"))
        .await;

    let two_days = Duration::from_secs(48 * 3600);
    assert_eq!(fixture.queue.prune(two_days).await.unwrap(), 3);
    assert_eq!(fixture.queue.prune(two_days).await.unwrap(), 0);
    assert_eq!(fixture.rows("true").await, 5);
    // MX no longer delivers what is pruned. If it does, it is an event again.
    fixture.store(completed("JOB-0")).await;
    assert_eq!(fixture.rows("true").await, 6);
}

#[tokio::test]
#[ignore = "needs PostgreSQL: set MX_TEST_POSTGRES_URL"]
async fn prune_deletes_all_in_several_statements() {
    let fixture = Fixture::new().await;
    fixture.store(completed("JOB-1")).await;
    let copies = "UPDATE apalis.jobs SET status = 'Done', done_at = now() - interval '49 hours';
         INSERT INTO apalis.jobs
             SELECT (jsonb_populate_record(jobs, jsonb_build_object('id', id || number, 'idempotency_key', number))).*
             FROM apalis.jobs, generate_series(1, 4000) AS number";
    fixture.execute(copies).await;
    let two_days = Duration::from_secs(48 * 3600);
    assert_eq!(fixture.queue.prune(two_days).await.unwrap(), 4_001);
    assert_eq!(fixture.rows("true").await, 0);
}

#[tokio::test]
#[ignore = "needs PostgreSQL: set MX_TEST_POSTGRES_URL"]
async fn prune_deletes_old_workers_that_hold_no_event() {
    let fixture = Fixture::new().await;
    for _ in 0..3 {
        Running::start(quick(&fixture.queue, JobRouter::new()))
            .end()
            .await;
    }
    fixture.store(completed("JOB-1")).await;
    fixture
        .execute(
            "UPDATE apalis.jobs SET status = 'Running', lock_by = (SELECT min(id) FROM apalis.workers);
             UPDATE apalis.workers SET last_seen = now() - interval '25 hours';
             INSERT INTO apalis.workers (id, worker_type, storage_name) VALUES ('new', 'mx-jobs', '')",
        )
        .await;
    fixture.queue.prune(Duration::from_secs(1)).await.unwrap();
    assert_eq!(
        fixture.number("SELECT count(*) FROM apalis.workers").await,
        2
    );
}

#[tokio::test]
#[ignore = "needs PostgreSQL: set MX_TEST_POSTGRES_URL"]
async fn names_are_the_texts_of_event_names() {
    let fixture = Fixture::new().await;
    let event = JobEvent::decode(Bytes::from(SAMPLE)).unwrap();
    let name = EventName::of(&event).to_string();
    fixture.store(event).await;
    let key: String = sqlx::query_scalar("SELECT idempotency_key FROM apalis.jobs")
        .fetch_one(&fixture.pool)
        .await
        .unwrap();
    assert_eq!(key, name);
    let mut connection = PgConnection::connect_with(&fixture.database.options())
        .await
        .unwrap();
    connection.ping().await.unwrap();
}

/// A statement that the server refuses is not repeated on each idle connection.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs PostgreSQL: set MX_TEST_POSTGRES_URL"]
async fn a_refused_statement_runs_once() {
    let fixture = Fixture::new().await;
    let (options, round_trips) = counted().await;
    let (_pool, queue) = super::queue(options.database(&fixture.database.name));
    // All four are open, and idle.
    let mut lock = fixture.pool.begin().await.unwrap();
    sqlx::query("LOCK TABLE apalis.jobs IN ACCESS EXCLUSIVE MODE")
        .execute(&mut *lock)
        .await
        .unwrap();
    let counts = || async { queue.counts().await.unwrap() };
    let unlock = async {
        sleep(Duration::from_millis(500)).await;
        lock.rollback().await.unwrap();
    };
    tokio::join!(counts(), counts(), counts(), counts(), unlock);
    fixture
        .execute("ALTER TABLE apalis.jobs RENAME TO hidden")
        .await;
    round_trips.store(0, Ordering::SeqCst);
    queue.counts().await.unwrap_err();
    assert_eq!(round_trips.load(Ordering::SeqCst), 1);
}

/// Guide: "Further deliveries of the event change nothing, also while it runs", and `enqueue`: the answer is 204.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs PostgreSQL: set MX_TEST_POSTGRES_URL"]
async fn a_second_delivery_is_acknowledged_while_a_transaction_ends_the_event() {
    let fixture = Fixture::new().await;
    fixture.store(completed("JOB-1")).await;
    let log = Log::default();
    let (pool, queue, entered) = (fixture.pool.clone(), fixture.queue.clone(), log.clone());
    let jobs = JobRouter::new().on_completed(move |event: JobEvent| {
        let (pool, queue, entered) = (pool.clone(), queue.clone(), entered.clone());
        async move {
            let mut transaction = pool.begin().await?;
            queue.commit_in(&mut transaction, &event).await?;
            entered.push(format!("try {}", Try::of(&event).unwrap().number()));
            sleep(Duration::from_secs(8)).await;
            transaction.commit().await?;
            Ok::<(), BoxError>(())
        }
    });
    let worker = Running::start(quick(&fixture.queue, jobs));
    until_logged(&log, 1).await;
    let second = fixture.queue.enqueue().oneshot(completed("JOB-1")).await;
    worker.end().await;
    assert!(second.is_ok(), "{:#}", second.unwrap_err());
}

/// `JobQueue`: "A stored event is on the server's disk and on its synchronous standbys". Guide: "A 204 then means: the event is
/// stored: on the server's disk and on its synchronous standbys".
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs the engines"]
async fn a_204_says_that_the_synchronous_standby_has_the_event() {
    let mut pair = Pair::new(Replication::Synchronous).await;
    let direct = pair.primary.pool();
    JobQueue::postgres(direct.clone()).migrate().await.unwrap();
    direct.close().await;
    pair.wait_until_it_has_replayed().await;
    let (_, queue) = super::queue(pair.options());
    // The standby is away.
    pair.stream.set(Network::Down);
    assert_eq!(answer(&queue).await, 503);
    block_in_place(|| {
        pair.primary.crash();
        pair.primary.start_again();
    });
    // MX delivers the event again.
    let again = answer(&queue).await;
    let (standby, _address, _folder) = pair.fail_over().await;
    let pool = standby.pool();
    let rows: i64 = sqlx::query_scalar("SELECT count(*) FROM apalis.jobs")
        .fetch_one(&pool)
        .await
        .unwrap();
    pool.close().await;
    assert!(
        again == 503 || rows > 0,
        "answered {again}, and the standby that took over has {rows} rows"
    );
}

async fn answer(queue: &JobQueue) -> u16 {
    let webhooks = JobWebhook::new(Credentials::unauthenticated(), queue.enqueue());
    let response = webhooks.oneshot(delivery(SAMPLE.to_owned())).await.unwrap();
    response.status().as_u16()
}
