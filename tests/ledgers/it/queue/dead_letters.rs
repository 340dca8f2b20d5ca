//! Dead letters: found, understood, replayed, discarded.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use http_body_util::Full;

use mx_job_webhook::dead_letters::{LetterFilter, LetterKind, PostgresDeadLetters};
use mx_job_webhook::ledger::EventName;
use mx_job_webhook::queue::{JobQueue, Try};
use mx_job_webhook::{
    Background, Credentials, JobEvent, JobRouter, JobWebhook, Permanent, Receipt, Status,
};
use sqlx::postgres::PgPoolOptions;
use tokio::time::{Instant, sleep};
use tower::{BoxError, ServiceExt as _};

use super::{
    DEAD_AFTER, Fixture, KILLED, Running, completed, event, logging, quick, slow, store,
    until_logged,
};
use crate::postgres_wire::counted;
use crate::proxy::{Network, Proxy};
use crate::support::{Log, SAMPLE, delivery};

fn all() -> LetterFilter {
    LetterFilter::new()
}

/// Callbacks that fail until the fault is mended. DENIED fails permanently.
fn faulty(log: &Log, is_mended: &Arc<AtomicBool>) -> JobRouter {
    let (log, is_mended) = (log.clone(), is_mended.clone());
    JobRouter::new()
        .on_completed(move |event: JobEvent| {
            let (log, is_mended) = (log.clone(), is_mended.clone());
            async move {
                let number = Try::of(&event).unwrap().number();
                log.push(format!("{} {number}", event.guid));
                if is_mended.load(Ordering::Relaxed) {
                    return Ok::<(), BoxError>(());
                }
                Err("the bank did not answer".into())
            }
        })
        .on_denied(|_| async { Err(Permanent::new("unknown member")) })
}

impl Fixture {
    async fn names(&self, filter: &LetterFilter) -> Vec<String> {
        let page = self.queue.dead_letters(filter).await.unwrap();
        page.letters()
            .iter()
            .map(|letter| letter.guid().unwrap().to_string())
            .collect()
    }

    /// Makes dead letters of these jobs, in this order.
    async fn bury(&self, guids: &[String]) {
        for guid in guids {
            self.store(completed(guid)).await;
        }
        self.execute(
            "UPDATE apalis.jobs SET status = 'Failed', attempts = 3, max_attempts = 3,
                 last_result = '{\"Err\": \"the bank did not answer\"}',
                 done_at = 'epoch'::timestamptz + (run_at - 'epoch'::timestamptz)",
        )
        .await;
    }
}

#[tokio::test]
#[ignore = "needs PostgreSQL: set MX_TEST_POSTGRES_URL"]
async fn a_failing_event_is_found_understood_and_replayed() {
    let fixture = Fixture::new().await;
    let (log, is_mended) = (Log::default(), Arc::default());
    let worker = Running::start(quick(&fixture.queue, faulty(&log, &is_mended)).with_tries(2));
    fixture.store(completed("JOB-1")).await;
    fixture.store(event("JOB-2", Status::Denied)).await;
    fixture
        .until(
            2,
            "done_at IS NOT NULL AND (status = 'Killed' OR attempts = 2)",
        )
        .await;

    let page = fixture.letters().await;
    assert!(page.next().is_none());
    let [one, two] = page.letters() else {
        panic!("{page:?}")
    };
    // The newest failure is first.
    assert_eq!(two.guid().unwrap().as_str(), "JOB-2");
    assert_eq!(
        (two.status(), two.tries(), two.kind()),
        (Some(&Status::Denied), 1, LetterKind::Event)
    );
    assert!(two.error().ends_with(": unknown member"), "{}", two.error());
    assert_eq!((one.status(), one.tries()), (Some(&Status::Completed), 2));
    assert_eq!(one.error(), "the callback failed: the bank did not answer");
    assert!(one.first_failed_at() <= one.failed_at());
    assert!(!format!("{page:?}").contains("the bank"), "{page:?}");
    let body = fixture
        .queue
        .dead_letter_body(one.name())
        .await
        .unwrap()
        .unwrap();
    assert_eq!(body, completed("JOB-1").body());

    is_mended.store(true, Ordering::Relaxed);
    assert!(fixture.queue.replay(one.name()).await.unwrap());
    assert!(
        !fixture.queue.replay(one.name()).await.unwrap(),
        "it is no dead letter any more"
    );
    fixture.until(1, "status = 'Done'").await;
    assert_eq!(log.entries(), ["JOB-1 1", "JOB-1 2", "JOB-1 3"]);
    assert_eq!(fixture.names(&all()).await, ["JOB-2"]);

    assert!(fixture.queue.discard(two.name()).await.unwrap());
    assert!(!fixture.queue.discard(two.name()).await.unwrap());
    assert!(!fixture.queue.replay(two.name()).await.unwrap());
    assert_eq!(
        fixture.queue.dead_letter_body(two.name()).await.unwrap(),
        None
    );
    assert!(fixture.names(&all()).await.is_empty());
    // Only dead letters are discarded.
    assert!(!fixture.queue.discard(one.name()).await.unwrap());
    worker.end().await;
}

#[tokio::test]
#[ignore = "needs PostgreSQL: set MX_TEST_POSTGRES_URL"]
async fn a_replayed_event_has_fresh_tries() {
    let fixture = Fixture::new().await;
    let (log, is_mended) = (Log::default(), Arc::default());
    let worker = Running::start(quick(&fixture.queue, faulty(&log, &is_mended)).with_tries(2));
    fixture.store(completed("JOB-1")).await;
    fixture.until(1, "status = 'Failed' AND attempts = 2").await;
    let name = fixture.letters().await.letters()[0].name().to_owned();
    assert!(fixture.queue.replay(&name).await.unwrap());
    fixture.until(1, "status = 'Failed' AND attempts = 4").await;
    let replayed = fixture.queue.replay_all(&all()).await.unwrap();
    assert_eq!(replayed.succeeded(), 1);
    fixture.until(1, "status = 'Failed' AND attempts = 6").await;
    let page = fixture.letters().await;
    assert_eq!(
        (page.letters()[0].tries(), page.letters()[0].name()),
        (6, &*name)
    );
    assert_eq!(
        log.entries(),
        (1..7)
            .map(|number| format!("JOB-1 {number}"))
            .collect::<Vec<_>>()
    );
    worker.end().await;
}

/// `replay`: "with as many tries as a new event". Their pauses begin with the first one too: the sixth is 32 times as long.
#[tokio::test]
#[ignore = "needs PostgreSQL: set MX_TEST_POSTGRES_URL"]
async fn a_replayed_event_has_the_pauses_of_a_new_one() {
    let fixture = Fixture::new().await;
    let (log, is_mended) = (Log::default(), Arc::default());
    fixture.bury(&["JOB-1".to_owned()]).await;
    fixture
        .execute("UPDATE apalis.jobs SET attempts = 6, max_attempts = 6")
        .await;
    let name = EventName::of(&completed("JOB-1")).to_string();
    assert!(fixture.queue.replay(&name).await.unwrap());
    let pause = Duration::from_millis(500);
    let worker = quick(&fixture.queue, faulty(&log, &is_mended)).with_backoff(pause, 100 * pause);
    let worker = Running::start(worker);
    until_logged(&log, 1).await;
    let start = Instant::now();
    until_logged(&log, 2).await;
    let pause = start.elapsed();
    assert!(pause < Duration::from_secs(8), "{pause:?}");
    worker.end().await;
}

/// `JobQueue::run_now`: "Ends the pause of an event that has failed and has tries left […]. Returns whether it paused."
#[tokio::test]
#[ignore = "needs PostgreSQL: set MX_TEST_POSTGRES_URL"]
async fn an_event_that_pauses_can_be_run_at_once() {
    let fixture = Fixture::new().await;
    let (log, is_mended) = (Log::default(), Arc::default());
    let an_hour = Duration::from_secs(60 * 60);
    let worker = quick(&fixture.queue, faulty(&log, &is_mended)).with_backoff(an_hour, an_hour);
    let worker = Running::start(worker.with_tries(2));
    fixture.store(completed("JOB-1")).await;
    fixture.until(1, "status = 'Failed' AND attempts = 1").await;
    let name = EventName::of(&completed("JOB-1")).to_string();
    assert!(!fixture.queue.run_now("JOB-2 COMPLETED -").await.unwrap());
    // It is no dead letter.
    assert!(!fixture.queue.replay(&name).await.unwrap());
    assert!(!fixture.queue.discard(&name).await.unwrap());
    assert_eq!(fixture.queue.dead_letter_body(&name).await.unwrap(), None);
    let replayed = fixture.queue.replay_all(&all()).await.unwrap();
    assert_eq!(replayed.succeeded(), 0);
    assert!(fixture.queue.run_now(&name).await.unwrap());
    fixture.until(1, "status = 'Failed' AND attempts = 2").await;
    // A dead letter does not pause, nor does an event that is handled.
    assert!(!fixture.queue.run_now(&name).await.unwrap());
    is_mended.store(true, Ordering::Relaxed);
    assert!(fixture.queue.replay(&name).await.unwrap());
    fixture.until(1, "status = 'Done'").await;
    assert!(!fixture.queue.run_now(&name).await.unwrap());
    assert_eq!(log.entries(), ["JOB-1 1", "JOB-1 2", "JOB-1 3"]);
    worker.end().await;
}

/// `run_now`: "Returns whether it paused." One that waits for a worker does not, and keeps its place.
#[tokio::test]
#[ignore = "needs PostgreSQL: set MX_TEST_POSTGRES_URL"]
async fn an_event_that_waits_for_a_worker_does_not_pause() {
    let fixture = Fixture::new().await;
    for guid in ["JOB-1", "JOB-2"] {
        fixture.store(completed(guid)).await;
    }
    let name = EventName::of(&completed("JOB-1")).to_string();
    assert!(!fixture.queue.run_now(&name).await.unwrap());
    let log = Log::default();
    let worker = Running::start(quick(&fixture.queue, logging(&log)).with_concurrency(1));
    until_logged(&log, 2).await;
    worker.end().await;
    assert_eq!(log.entries(), ["JOB-1", "JOB-2"]);
}

/// Queues of other names are separate, also if both have a letter of the same event.
#[tokio::test]
#[ignore = "needs PostgreSQL: set MX_TEST_POSTGRES_URL"]
async fn a_queue_finds_its_own_letters_alone_by_their_names() {
    let fixture = Fixture::new().await;
    let one = fixture.queue.clone().named("one");
    let other = fixture.queue.clone().named("other");
    for (queue, status) in [(&one, 1), (&other, 2)] {
        store(queue, completed("JOB-1")).await;
        fixture
            .execute(&format!(
                "UPDATE apalis.jobs SET job = convert_to('{status}', 'UTF8') WHERE status = 'Pending'; {KILLED}"
            ))
            .await;
    }
    let name = EventName::of(&completed("JOB-1")).to_string();
    let body = async |queue: &JobQueue| queue.dead_letter_body(&name).await.unwrap();
    assert_eq!(body(&one).await.unwrap(), "1");
    assert_eq!(body(&other).await.unwrap(), "2");
    assert_eq!(body(&fixture.queue).await, None);
    assert!(!fixture.queue.discard(&name).await.unwrap());
    assert!(!fixture.queue.replay(&name).await.unwrap());
    assert!(one.discard(&name).await.unwrap());
    assert_eq!(body(&one).await, None);
    assert_eq!(body(&other).await.unwrap(), "2");
    assert!(other.replay(&name).await.unwrap());
    assert_eq!(
        fixture
            .rows("job_type = 'other' AND status = 'Pending'")
            .await,
        1
    );
}

#[tokio::test]
#[ignore = "needs PostgreSQL: set MX_TEST_POSTGRES_URL"]
async fn pages_have_neither_gaps_nor_doubles() {
    let fixture = Fixture::new().await;
    let guids: Vec<_> = (0..57).map(|number| format!("JOB-{number:02}")).collect();
    fixture.bury(&guids).await;
    // Several of them at the same time.
    fixture
        .execute("UPDATE apalis.jobs SET done_at = date_trunc('second', done_at)")
        .await;
    let mut found = Vec::new();
    let mut filter = all().with_limit(10);
    loop {
        let page = fixture.queue.dead_letters(&filter).await.unwrap();
        found.extend(
            page.letters()
                .iter()
                .map(|letter| letter.guid().unwrap().to_string()),
        );
        // What fails meanwhile is on the first page.
        let new = format!("JOB-new-{}", found.len());
        fixture.store(completed(&new)).await;
        fixture
            .execute("UPDATE apalis.jobs SET status = 'Killed', done_at = now() WHERE status = 'Pending'")
            .await;
        let Some(next) = page.next() else { break };
        let next = next.to_string().parse().unwrap();
        filter = all().with_limit(10).after(next);
    }
    assert_eq!(found.len(), 57);
    found.sort();
    assert_eq!(found, guids);
}

#[tokio::test]
#[ignore = "needs PostgreSQL: set MX_TEST_POSTGRES_URL"]
async fn all_that_match_are_replayed_in_order() {
    let fixture = Fixture::new().await;
    let guids: Vec<_> = (0..30).map(|number| format!("JOB-{number:02}")).collect();
    fixture.bury(&guids).await;
    fixture.store(event("JOB-denied", Status::Denied)).await;
    fixture
        .execute("UPDATE apalis.jobs SET status = 'Killed', done_at = now(), last_result = '{\"Err\": \"x\"}' WHERE status = 'Pending'")
        .await;
    let none = all().with_error_containing("no such error");
    assert_eq!(
        fixture.queue.replay_all(&none).await.unwrap().succeeded(),
        0
    );
    let filter = all()
        .with_status(Status::Completed)
        .with_error_containing("did not answer");
    assert_eq!(
        fixture.queue.replay_all(&filter).await.unwrap().succeeded(),
        30
    );
    assert_eq!(
        fixture.queue.replay_all(&filter).await.unwrap().succeeded(),
        0
    );
    assert_eq!(fixture.names(&all()).await, ["JOB-denied"]);
    assert_eq!(
        fixture.names(&all().with_status(Status::Completed)).await,
        [""; 0]
    );
    let log = Log::default();
    let worker = Running::start(quick(&fixture.queue, logging(&log)).with_concurrency(1));
    until_logged(&log, 30).await;
    worker.end().await;
    assert_eq!(log.entries(), guids);
}

/// `replay_all`: "in the order in which they failed". The last that was stored failed first.
#[tokio::test]
#[ignore = "needs PostgreSQL: set MX_TEST_POSTGRES_URL"]
async fn letters_that_failed_in_another_order_than_they_came_are_replayed_in_that_of_their_failures()
 {
    let fixture = Fixture::new().await;
    let mut guids: Vec<_> = (0..30).map(|number| format!("JOB-{number:02}")).collect();
    fixture.bury(&guids).await;
    fixture
        .execute("UPDATE apalis.jobs SET done_at = 'epoch'::timestamptz + (now() - run_at)")
        .await;
    let replayed = fixture.queue.replay_all(&all()).await.unwrap();
    assert_eq!(replayed.succeeded(), 30);
    let log = Log::default();
    let worker = Running::start(quick(&fixture.queue, logging(&log)).with_concurrency(1));
    until_logged(&log, 30).await;
    worker.end().await;
    guids.reverse();
    assert_eq!(log.entries(), guids);
}

/// Events that fail again while all are replayed are not replayed twice.
#[tokio::test]
#[ignore = "needs PostgreSQL: set MX_TEST_POSTGRES_URL"]
async fn a_replay_of_all_ends_although_its_events_fail_again() {
    let fixture = Fixture::new().await;
    let guids: Vec<_> = (0..2_500).map(|number| format!("JOB-{number}")).collect();
    fixture
        .execute(
            "INSERT INTO apalis.jobs (id, job_type, job, status, attempts, max_attempts, done_at, idempotency_key)
             SELECT apalis.generate_ulid(), 'mx-jobs', convert_to(
                 format('{\"job\": {\"guid\": \"JOB-%s\", \"status\": 6}}', number), 'UTF8'),
                 'Killed', 1, 1, now(), format('JOB-%s COMPLETED 1', number)
             FROM generate_series(0, 2499) AS number",
        )
        .await;
    let jobs = JobRouter::new().on_completed(|_| async { Err(Permanent::new("still")) });
    let worker = Running::start(quick(&fixture.queue, jobs).with_concurrency(64));
    let replayed = fixture.queue.replay_all(&all()).await.unwrap();
    assert_eq!(replayed.succeeded(), guids.len() as u64);
    fixture
        .until(2_500, "status = 'Killed' AND attempts = 2")
        .await;
    worker.end().await;
}

#[tokio::test]
#[ignore = "needs PostgreSQL: set MX_TEST_POSTGRES_URL"]
async fn bodies_that_no_callback_took_are_kept_and_replayed() {
    let fixture = Fixture::new().await;
    let webhooks = JobWebhook::new(Credentials::unauthenticated(), fixture.queue.enqueue())
        .on_undecodable(fixture.queue.keep_undecodable())
        .on_other_webhook(fixture.queue.keep_other_webhooks());
    let bodies = [
        r#"{"job": {"guid": "JOB-1"}}"#,
        "not JSON",
        r#"{"type": "BALANCE", "user_guid": "USR-1"}"#,
    ];
    for body in bodies {
        for _ in 0..2 {
            let response = webhooks
                .clone()
                .oneshot(delivery(body.to_owned()))
                .await
                .unwrap();
            assert_eq!(response.status(), 204, "{body}");
        }
    }
    fixture.bury(&["JOB-2".to_owned()]).await;
    let page = fixture.letters().await;
    let kinds: Vec<_> = page.letters().iter().map(|letter| letter.kind()).collect();
    assert_eq!(kinds.len(), 4);
    assert_eq!(
        kinds
            .iter()
            .filter(|kind| **kind == LetterKind::Undecodable)
            .count(),
        2
    );
    for (kind, expected) in [
        (LetterKind::Event, 1),
        (LetterKind::Undecodable, 2),
        (LetterKind::OtherWebhook, 1),
    ] {
        let page = fixture.queue.dead_letters(&all().with_kind(kind)).await;
        let page = page.unwrap();
        assert_eq!(page.letters().len(), expected, "{kind:?}");
        assert!(page.letters().iter().all(|letter| letter.kind() == kind));
    }
    for letter in page.letters() {
        assert!(!letter.error().contains("USR-1"));
        let kept = fixture.queue.dead_letter_body(letter.name()).await.unwrap();
        assert!(kept.is_some(), "{letter:?}");
        if letter.kind() != LetterKind::Event {
            let error = fixture.queue.replay(letter.name()).await.unwrap_err();
            assert!(error.is_undecodable(), "{error}");
        }
    }
    let replayed = fixture.queue.replay_all(&all()).await.unwrap();
    assert_eq!((replayed.succeeded(), replayed.failed()), (1, 3));

    // A release that can read one of them.
    fixture
        .execute(&format!(
            "UPDATE mx_job_webhook_dead_letters SET body = convert_to('{}', 'UTF8') WHERE kind = 'undecodable'",
            SAMPLE.replace('\'', "''")
        ))
        .await;
    let undecodable = all().with_kind(LetterKind::Undecodable);
    let replayed = fixture.queue.replay_all(&undecodable).await.unwrap();
    assert_eq!((replayed.succeeded(), replayed.failed()), (2, 0));
    let left = fixture.letters().await;
    assert_eq!(left.letters().len(), 1);
    assert!(
        fixture
            .queue
            .discard(left.letters()[0].name())
            .await
            .unwrap()
    );
    // Both were the same event.
    assert_eq!(fixture.rows("status = 'Pending'").await, 2);
}

/// "replayed once a new version can read them", also if a worker has handled the event meanwhile.
#[tokio::test]
#[ignore = "needs PostgreSQL: set MX_TEST_POSTGRES_URL"]
async fn a_replay_of_a_body_whose_event_was_handled_runs_nothing_and_succeeds() {
    let fixture = Fixture::new().await;
    keep_undecodable(&fixture.queue, "not JSON").await;
    fixture.store(completed("JOB-1")).await;
    fixture
        .execute(
            "UPDATE mx_job_webhook_dead_letters SET body = (SELECT job FROM apalis.jobs);
             UPDATE apalis.jobs SET status = 'Done', attempts = 1",
        )
        .await;
    let replayed = fixture.queue.replay_all(&all()).await.unwrap();
    assert_eq!((replayed.succeeded(), replayed.failed()), (1, 0));
    assert!(fixture.letters().await.letters().is_empty());
    assert_eq!(fixture.rows("status = 'Done'").await, 1);
}

/// `with_kind`: "Chooses letters of this kind."
#[tokio::test]
#[ignore = "needs PostgreSQL: set MX_TEST_POSTGRES_URL"]
async fn a_replay_of_one_kind_leaves_the_others() {
    let fixture = Fixture::new().await;
    fixture.bury(&["JOB-1".to_owned()]).await;
    keep_undecodable(&fixture.queue, "not JSON").await;
    let [bodies, events] =
        [LetterKind::Undecodable, LetterKind::Event].map(|kind| all().with_kind(kind));
    let replayed = fixture.queue.replay_all(&bodies).await.unwrap();
    assert_eq!((replayed.succeeded(), replayed.failed()), (0, 1));
    assert_eq!(fixture.names(&events).await, ["JOB-1"]);
    let replayed = fixture.queue.replay_all(&events).await.unwrap();
    assert_eq!((replayed.succeeded(), replayed.failed()), (1, 0));
}

/// Keeps a body that is no event in a queue.
async fn keep_undecodable(queue: &JobQueue, body: &str) {
    let webhooks = JobWebhook::new(Credentials::unauthenticated(), queue.enqueue())
        .on_undecodable(queue.keep_undecodable());
    let response = webhooks.oneshot(delivery(body.to_owned())).await.unwrap();
    assert_eq!(response.status(), 204);
}

async fn list(queue: &JobQueue) -> Vec<String> {
    let page = queue.dead_letters(&all()).await.unwrap();
    page.letters()
        .iter()
        .map(|letter| letter.name().to_owned())
        .collect()
}

/// The same body in two queues, and in a store without a queue, is three letters.
#[tokio::test]
#[ignore = "needs PostgreSQL: set MX_TEST_POSTGRES_URL"]
async fn queues_that_share_a_database_have_lists_of_their_own() {
    let fixture = Fixture::new().await;
    let one = fixture.queue.clone().named("one");
    let other = fixture.queue.clone().named("other");
    let alone = PostgresDeadLetters::new(fixture.pool.clone());
    keep_undecodable(&one, "not JSON").await;
    keep_undecodable(&one, "only in one").await;
    assert!(list(&other).await.is_empty());
    keep_undecodable(&other, "not JSON").await;
    let mount = JobWebhook::new(Credentials::unauthenticated(), JobRouter::new())
        .on_undecodable(alone.keep_undecodable());
    let response = mount.oneshot(delivery("not JSON".to_owned())).await;
    assert_eq!(response.unwrap().status(), 204);

    let names = list(&other).await;
    let [name] = &names[..] else {
        panic!("{names:?}")
    };
    assert_eq!(list(&one).await.len(), 2);
    assert!(list(&one).await.contains(name));
    assert_eq!(alone.count().await.unwrap(), 1);
    assert_eq!(list(&fixture.queue).await, [""; 0]);
    for letter in one.dead_letters(&all()).await.unwrap().letters() {
        assert_eq!(letter.tries(), 1, "each was kept once in this queue");
    }

    assert!(!fixture.queue.discard(name).await.unwrap());
    assert!(one.discard(name).await.unwrap());
    assert_eq!(one.dead_letter_body(name).await.unwrap(), None);
    assert_eq!(
        other.dead_letter_body(name).await.unwrap().unwrap(),
        "not JSON"
    );
    assert_eq!(alone.prune(Duration::ZERO).await.unwrap(), 1);
    assert_eq!(
        (list(&one).await.len(), list(&other).await.len()),
        (1, 1),
        "a store without a queue deletes its own letters only"
    );
}

/// A body that can be decoded meanwhile is replayed into the queue that has kept it.
#[tokio::test]
#[ignore = "needs PostgreSQL: set MX_TEST_POSTGRES_URL"]
async fn queues_that_share_a_database_replay_their_own_letters() {
    let fixture = Fixture::new().await;
    let one = fixture.queue.clone().named("one");
    let other = fixture.queue.clone().named("other");
    for queue in [&one, &other] {
        keep_undecodable(queue, "not JSON").await;
        keep_undecodable(queue, "nor this").await;
    }
    fixture
        .execute(&format!(
            "UPDATE mx_job_webhook_dead_letters SET body = convert_to('{}', 'UTF8')",
            SAMPLE.replace('\'', "''")
        ))
        .await;
    let names = list(&one).await;
    assert!(!fixture.queue.replay(&names[0]).await.unwrap());
    assert!(one.replay(&names[0]).await.unwrap());
    assert!(!one.replay(&names[0]).await.unwrap());
    assert_eq!(fixture.rows("job_type = 'one'").await, 1);
    assert_eq!(fixture.rows("job_type <> 'one'").await, 0);
    assert_eq!(list(&other).await.len(), 2);

    assert_eq!(other.replay_all(&all()).await.unwrap().succeeded(), 2);
    assert_eq!(fixture.rows("job_type = 'other'").await, 1);
    assert_eq!(list(&one).await, [&*names[1]]);
}

/// The bodies that were kept fill pages of their own, although the queue has no dead event.
#[tokio::test]
#[ignore = "needs PostgreSQL: set MX_TEST_POSTGRES_URL"]
async fn pages_of_kept_bodies_have_a_next_page() {
    let fixture = Fixture::new().await;
    for number in 0..3 {
        keep_undecodable(&fixture.queue, &format!("not JSON {number}")).await;
    }
    let (mut names, mut filter) = (Vec::new(), all().with_limit(1));
    loop {
        let page = fixture.queue.dead_letters(&filter).await.unwrap();
        assert_eq!(page.letters().len(), 1);
        names.push(page.letters()[0].name().to_owned());
        let Some(next) = page.next() else { break };
        filter = all().with_limit(1).after(next);
    }
    assert_eq!(names, list(&fixture.queue).await);
    assert_eq!(names.len(), 3);
}

/// Callbacks hold the only connection of the pool.
#[tokio::test]
#[ignore = "needs PostgreSQL: set MX_TEST_POSTGRES_URL"]
async fn bodies_are_kept_and_replayed_while_the_pool_is_in_use() {
    let fixture = Fixture::new().await;
    let pool = PgPoolOptions::new()
        .max_connections(1)
        .connect_lazy_with(fixture.database.options().application_name("held"));
    let queue = JobQueue::postgres(pool.clone());
    let held = pool.acquire().await.unwrap();
    for number in 0..8 {
        keep_undecodable(&queue, &format!("not JSON {number}")).await;
    }
    fixture
        .execute(&format!(
            "UPDATE mx_job_webhook_dead_letters SET body = convert_to('{}', 'UTF8')",
            SAMPLE.replace('\'', "''")
        ))
        .await;
    let filter = all();
    let (one, two) = tokio::join!(queue.replay_all(&filter), queue.replay_all(&filter));
    assert_eq!(one.unwrap().succeeded() + two.unwrap().succeeded(), 8);
    assert_eq!(list(&queue).await, [""; 0]);
    let sessions = "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'held' AND datname = current_database()";
    let sessions = fixture.number(sessions).await;
    assert!(sessions <= 1 + 2 + 4, "{sessions} sessions");
    drop(held);
}

/// Connections that the server has closed are replaced.
#[tokio::test]
#[ignore = "needs PostgreSQL: set MX_TEST_POSTGRES_URL"]
async fn dead_letters_are_seen_after_the_server_has_closed_the_connections() {
    let fixture = Fixture::new().await;
    keep_undecodable(&fixture.queue, "not JSON").await;
    for _ in 0..3 {
        assert_eq!(list(&fixture.queue).await.len(), 1);
        let others = "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity \
                      WHERE datname = current_database() AND pid <> pg_backend_pid()";
        fixture.number(others).await;
    }
}

/// A statement that the database refuses leaves its connection to the next one.
#[tokio::test]
#[ignore = "needs PostgreSQL: set MX_TEST_POSTGRES_URL"]
async fn an_error_of_the_database_costs_no_connection_to_the_dead_letters() {
    let fixture = Fixture::new().await;
    keep_undecodable(&fixture.queue, "not JSON").await;
    let sessions = "SELECT array_agg(pid) FROM pg_stat_activity WHERE datname = current_database() AND backend_type = 'client backend'";
    let sessions = async || -> Vec<i32> {
        let pids = sqlx::query_scalar(sessions).fetch_one(&fixture.pool);
        pids.await.unwrap()
    };
    let rename = |from, to| format!("ALTER TABLE {from} RENAME TO {to}");
    assert_eq!(list(&fixture.queue).await.len(), 1);
    let before = sessions().await;
    let (table, other) = ("mx_job_webhook_dead_letters", "renamed");
    fixture.execute(&rename(table, other)).await;
    assert!(fixture.queue.dead_letters(&all()).await.is_err());
    fixture.execute(&rename(other, table)).await;
    assert_eq!(list(&fixture.queue).await.len(), 1);
    // The pool of this test may have more.
    let after = sessions().await;
    assert!(
        before.iter().all(|pid| after.contains(pid)),
        "{before:?} {after:?}"
    );
}

/// The store connects as the application's pool does, also if that changes.
#[tokio::test]
#[ignore = "needs PostgreSQL: set MX_TEST_POSTGRES_URL"]
async fn dead_letters_follow_the_options_of_the_pool_and_end_with_it() {
    let fixture = Fixture::new().await;
    let pool =
        PgPoolOptions::new().connect_lazy_with(fixture.database.options().username("no such role"));
    let queue = JobQueue::postgres(pool.clone());
    let kept = all().with_kind(LetterKind::Undecodable);
    let refused = queue.dead_letters(&kept).await.unwrap_err();
    assert!(refused.as_database_error().is_some(), "{refused}");
    pool.set_connect_options(fixture.database.options());
    assert!(
        queue
            .dead_letters(&kept)
            .await
            .unwrap()
            .letters()
            .is_empty()
    );
    pool.close().await;
    let closed = queue.dead_letters(&kept).await.unwrap_err();
    assert!(matches!(closed, sqlx::Error::PoolClosed), "{closed}");
}

/// An operator has stopped events by SQL. The rows lack what a worker writes.
#[tokio::test]
#[ignore = "needs PostgreSQL: set MX_TEST_POSTGRES_URL"]
async fn letters_that_were_made_by_hand_are_listed_and_replayed() {
    let fixture = Fixture::new().await;
    fixture.bury(&["JOB-0".to_owned()]).await;
    for number in 1..6 {
        fixture.store(completed(&format!("JOB-{number}"))).await;
    }
    fixture
        .execute("UPDATE apalis.jobs SET status = 'Killed' WHERE status = 'Pending'")
        .await;
    let (mut found, mut filter) = (Vec::new(), all().with_limit(2));
    loop {
        let page = fixture.queue.dead_letters(&filter).await.unwrap();
        for letter in page.letters() {
            found.push(letter.guid().unwrap().to_string());
            assert_eq!(letter.status(), Some(&Status::Completed));
        }
        let Some(next) = page.next() else { break };
        filter = filter.after(next);
    }
    // When they were due is taken for the time of their failure.
    assert_eq!(
        found,
        ["JOB-5", "JOB-4", "JOB-3", "JOB-2", "JOB-1", "JOB-0"]
    );
    let replayed = fixture.queue.replay_all(&all()).await.unwrap();
    assert_eq!(replayed.succeeded(), 6);
    assert_eq!(fixture.names(&all()).await, [""; 0]);
}

#[tokio::test]
#[ignore = "needs PostgreSQL: set MX_TEST_POSTGRES_URL"]
async fn names_of_every_kind_can_be_replayed() {
    let fixture = Fixture::new().await;
    let long = "x".repeat(300);
    for guid in [
        "a'b\\c\"d$1",
        "a\0b",
        "ä €",
        &long,
        "a b",
        "digest:a68d6315038b5822836dbc79783ec15a:3",
    ] {
        fixture.store(completed(guid)).await;
    }
    fixture
        .execute("UPDATE apalis.jobs SET status = 'Killed', done_at = now()")
        .await;
    let page = fixture.letters().await;
    assert_eq!(page.letters().len(), 6);
    for letter in page.letters() {
        assert_eq!(letter.status(), Some(&Status::Completed));
        assert!(
            fixture.queue.replay(letter.name()).await.unwrap(),
            "{}",
            letter.name()
        );
    }
    for hostile in ["", "\0", " ", "' OR true --", "undecodable x"] {
        assert!(!fixture.queue.replay(hostile).await.unwrap(), "{hostile:?}");
        assert!(
            !fixture.queue.discard(hostile).await.unwrap(),
            "{hostile:?}"
        );
    }
    assert_eq!(fixture.rows("status = 'Pending'").await, 6);
}

/// A dead letter stays one if MX delivers its event again.
#[tokio::test]
#[ignore = "needs PostgreSQL: set MX_TEST_POSTGRES_URL"]
async fn a_delivery_of_a_dead_event_is_acknowledged_and_runs_nothing() {
    let fixture = Fixture::new().await;
    fixture.bury(&["JOB-1".to_owned()]).await;
    let receipt = fixture.queue.enqueue().oneshot(completed("JOB-1")).await;
    assert_eq!(receipt.unwrap(), Receipt::Queued);
    let log = Log::default();
    let worker = Running::start(quick(&fixture.queue, logging(&log)));
    tokio::time::sleep(Duration::from_millis(500).max(DEAD_AFTER / 4)).await;
    worker.end().await;
    assert!(log.entries().is_empty());
    assert_eq!(fixture.names(&all()).await, ["JOB-1"]);
}

fn failing() -> JobRouter {
    JobRouter::new().on_completed(|_: JobEvent| async { Err::<(), _>(Permanent::new("no")) })
}

/// `Letter::first_failed_at`: "For one of its events, it is when the event was stored, by the clock of the process that
/// stored it."
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs PostgreSQL: set MX_TEST_POSTGRES_URL"]
async fn a_letter_says_when_its_event_was_stored() {
    let fixture = Fixture::new().await;
    let now = || SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
    let before = now().as_millis();
    fixture.store(completed("JOB-1")).await;
    let after = now().as_millis();
    sleep(Duration::from_millis(1_500)).await;
    let worker = Running::start(quick(&fixture.queue, failing()));
    fixture.until(1, "status = 'Killed'").await;
    worker.end().await;
    let page = fixture.letters().await;
    let letter = &page.letters()[0];
    let stored = letter.first_failed_at();
    let millis = stored.unix_seconds() * 1_000 + i64::from(stored.subsec_nanos()) / 1_000_000;
    let millis = u128::try_from(millis).unwrap();
    assert!((before..=after).contains(&millis), "{letter:?}");
    assert!(letter.failed_at() > stored);
}

/// `Letter::status`: "Returns `None` too if the status is none of MX's and longer than 200 bytes." The key of such an
/// event has a digest in place of status and version, and words of the guid are taken for the status.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs PostgreSQL: set MX_TEST_POSTGRES_URL"]
async fn a_word_of_a_guid_is_not_taken_for_the_status() {
    let fixture = Fixture::new().await;
    let long = Status::from("X".repeat(300).as_str());
    fixture.store(event("JOB COMPLETED", long.clone())).await;
    fixture.execute(KILLED).await;
    let chosen = LetterFilter::new().with_status(Status::Completed);
    let completed = fixture.queue.dead_letters(&chosen).await.unwrap();
    let page = fixture.letters().await;
    let letter = &page.letters()[0];
    let guid = letter.guid().map(ToString::to_string);
    let found = (
        letter.status().cloned(),
        guid.as_deref(),
        completed.letters().len(),
    );
    assert_eq!(found, (None, Some("JOB COMPLETED"), 0));
}

/// The same for an ordinary guid: the filter on its status finds the letter in `PostgresDeadLetters`, and here it does not.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs PostgreSQL: set MX_TEST_POSTGRES_URL"]
async fn a_letter_with_a_long_status_is_found_by_it() {
    let fixture = Fixture::new().await;
    let long = Status::from("X".repeat(300).as_str());
    fixture.store(event("JOB-1", long.clone())).await;
    fixture.execute(KILLED).await;
    let page = fixture.letters().await;
    assert_eq!(page.letters()[0].status(), None);
    let chosen = LetterFilter::new().with_status(long);
    let found = fixture.queue.dead_letters(&chosen).await.unwrap();
    assert_eq!(found.letters().len(), 1);
}

/// A filter with a text that no error contains finds nothing, as in `PostgresDeadLetters`.
#[tokio::test]
#[ignore = "needs PostgreSQL: set MX_TEST_POSTGRES_URL"]
async fn a_filter_with_a_nul_finds_nothing() {
    let fixture = Fixture::new().await;
    fixture.store(completed("JOB-1")).await;
    fixture.execute(KILLED).await;
    let filter = LetterFilter::new().with_error_containing("a\0b");
    let page = fixture.queue.dead_letters(&filter).await;
    assert_eq!(page.unwrap().letters().len(), 0);
    let replayed = fixture.queue.replay_all(&filter).await;
    assert_eq!(replayed.unwrap().succeeded(), 0);
}

/// "Several queues can share a database."
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs PostgreSQL: set MX_TEST_POSTGRES_URL"]
async fn a_body_that_one_queue_keeps_is_not_replayed_into_another() {
    let fixture = Fixture::new().await;
    let one = fixture.queue.clone().named("one");
    let other = fixture.queue.clone().named("other");
    let webhooks = JobWebhook::new(Credentials::unauthenticated(), one.enqueue())
        .on_undecodable(one.keep_undecodable());
    let request = http::Request::post("/")
        .header("content-type", "application/json")
        .body(Full::new(Bytes::from(r#"{"job": {"guid": 1}}"#)))
        .unwrap();
    let response = webhooks.oneshot(request).await.unwrap();
    assert_eq!(response.status(), 204);
    let letters = other.dead_letters(&LetterFilter::new()).await.unwrap();
    assert_eq!(letters.letters().len(), 0, "{letters:?}");
}

/// "It therefore works even if callbacks hold all connections of the pool."
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs PostgreSQL: set MX_TEST_POSTGRES_URL"]
async fn dead_letters_are_seen_while_callbacks_hold_all_connections() {
    let fixture = Fixture::new().await;
    let pool = PgPoolOptions::new()
        .max_connections(1)
        .acquire_timeout(Duration::from_secs(3))
        .connect_lazy_with(fixture.database.options());
    let queue = JobQueue::postgres(pool.clone());
    let _held = pool.acquire().await.unwrap();
    store(&queue, completed("JOB-1")).await;
    let page = queue.dead_letters(&LetterFilter::new()).await;
    assert!(page.is_ok(), "{page:?}");
}

/// `replay`: "Returns whether there was one." The answer of the server is lost, and the statement is repeated.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs PostgreSQL: set MX_TEST_POSTGRES_URL"]
async fn a_replay_whose_answer_is_lost_does_not_say_that_there_was_no_letter() {
    let fixture = Fixture::new().await;
    let proxy = Proxy::to(fixture.database.server()).await;
    let (_, queue) = super::queue(fixture.database.options().port(proxy.address.port()));
    store(&queue, completed("JOB-1")).await;
    fixture.execute(KILLED).await;
    let page = fixture.letters().await;
    let name = page.letters()[0].name();
    proxy.set(Network::LosesOneAnswer);
    let replayed = queue.replay(name).await;
    assert!(!matches!(replayed, Ok(false)), "{replayed:?}");
    assert!(queue.replay(name).await.is_ok());
    assert_eq!(fixture.rows("status = 'Pending'").await, 1);
}

/// `with_replay_lease`: whatever the lease is, a replay does not extend it all the time.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs PostgreSQL: set MX_TEST_POSTGRES_URL"]
async fn a_short_lease_is_not_extended_all_the_time() {
    let fixture = Fixture::new().await;
    let (options, round_trips) = counted().await;
    let (pool, _) = super::queue(options.database(&fixture.database.name));
    let letters = PostgresDeadLetters::new(pool).with_replay_lease(Duration::ZERO);
    let failing = JobRouter::new()
        .on_completed(|_| async { Err::<(), _>(Permanent::new("no")) })
        .on_dead_letter(letters.keep_dead_letters());
    let kept = Background::new().run(failing, completed("JOB-1")).await;
    assert_eq!(kept.unwrap(), Receipt::DeadLettered);
    let page = letters.list(&LetterFilter::new()).await.unwrap();
    round_trips.store(0, Ordering::SeqCst);
    let slow = slow(&Log::default(), Duration::from_secs(1));
    letters
        .replay(page.letters()[0].name(), slow)
        .await
        .unwrap();
    let during = round_trips.load(Ordering::SeqCst);
    assert!(during < 100, "{during} round trips");
}

/// "The number of the try continues" after a replay, and its pauses are those of a new event.
#[tokio::test]
#[ignore = "needs PostgreSQL: set MX_TEST_POSTGRES_URL"]
async fn a_failure_after_a_replay_keeps_the_number_of_tries_before_it() {
    let fixture = Fixture::new().await;
    fixture.store(completed("JOB-1")).await;
    fixture
        .execute("UPDATE apalis.jobs SET attempts = 3, max_attempts = 3")
        .await;
    fixture.execute(KILLED).await;
    let replayed = fixture.queue.replay_all(&LetterFilter::new()).await;
    assert_eq!(replayed.unwrap().succeeded(), 1);
    let failing = JobRouter::new().on_completed(|_| async { Err::<(), _>("no") });
    let worker = Running::start(quick(&fixture.queue, failing).with_tries(3));
    fixture.until(1, "status = 'Failed' AND attempts = 6").await;
    worker.end().await;
    assert_eq!(fixture.rows("last_result ->> 'before' = '3'").await, 1);
}

/// Guide: "Statements of the queue end after 3 s". The network hangs while one waits for a lock, so that its answer does not come.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs PostgreSQL: set MX_TEST_POSTGRES_URL"]
async fn a_body_that_cannot_be_kept_because_the_network_hangs_is_refused_in_time() {
    let fixture = Fixture::new().await;
    let proxy = Proxy::to(fixture.database.server()).await;
    let options = fixture.database.options();
    let (host, port) = (proxy.address.ip().to_string(), proxy.address.port());
    let (_, queue) = super::queue(options.host(&host).port(port));
    let webhooks = JobWebhook::new(Credentials::unauthenticated(), queue.enqueue())
        .on_undecodable(queue.keep_undecodable());
    let deliver = |body: &str| webhooks.clone().oneshot(delivery(body.to_owned()));
    assert_eq!(deliver("not JSON").await.unwrap().status(), 204);
    let mut lock = fixture.pool.begin().await.unwrap();
    sqlx::raw_sql("LOCK TABLE mx_job_webhook_dead_letters IN EXCLUSIVE MODE")
        .execute(&mut *lock)
        .await
        .unwrap();
    let delivered = tokio::spawn(deliver("nor this"));
    sleep(Duration::from_secs(1)).await;
    proxy.set(Network::Hangs);
    let response = tokio::time::timeout(Duration::from_secs(15), delivered).await;
    assert_eq!(response.unwrap().unwrap().unwrap().status(), 500);
    lock.rollback().await.unwrap();
}
