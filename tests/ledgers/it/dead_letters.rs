//! Dead letters on PostgreSQL: what is kept, listed, replayed and deleted, through failures and poolers.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use bytes::Bytes;
use http_body_util::Full;
use mx_job_webhook::acknowledge_first::AcknowledgeFirstLayer;
use mx_job_webhook::dead_letters::{
    Letter, LetterCursor, LetterFilter, LetterKind, PostgresDeadLetters, ReplayError,
};
use mx_job_webhook::event::Source;
use mx_job_webhook::job::Timestamp;
use mx_job_webhook::ledger::MemoryLedger;
use mx_job_webhook::{
    Background, Credentials, DedupeLayer, ErrorKind, JobEvent, JobRouter, JobWebhook, Permanent,
    Receipt, Status,
};
use sqlx::postgres::{PgConnectOptions, PgPoolOptions};
use sqlx::{AssertSqlSafe, ConnectOptions as _, PgConnection, PgPool, Row as _};
use tokio::sync::Notify;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, timeout};
use tower::{BoxError, Layer as _, ServiceExt as _};

use crate::engines::pgbouncer::{self, Version::V1_18, Version::V1_24};
use crate::engines::postgres::{Database, Postgres, Version, at, pool};
use crate::postgres_wire::{run, text};
use crate::support::{Log, completed, delivery, notified};
use harness::servers::Folder;

/// Longer than any step takes.
const PATIENCE: Duration = Duration::from_secs(30);

const LONG: Duration = Duration::from_secs(600);

async fn letters(options: PgConnectOptions) -> PostgresDeadLetters {
    let letters = PostgresDeadLetters::new(pool(options));
    letters.create_table().await.unwrap();
    letters
}

async fn execute(pool: &PgPool, sql: &str) {
    let sql = AssertSqlSafe(sql.to_owned());
    sqlx::raw_sql(sql).execute(pool).await.unwrap();
}

async fn number(pool: &PgPool, sql: &str) -> i64 {
    let sql = AssertSqlSafe(sql.to_owned());
    sqlx::raw_sql(sql).fetch_one(pool).await.unwrap().get(0)
}

/// Callbacks that fail permanently with this error, and a hook that keeps the events.
fn failing(letters: &PostgresDeadLetters, error: impl Into<String>) -> JobRouter {
    let error = error.into();
    let fail = move |_| {
        let error = error.clone();
        async move { Err(Permanent::new(error)) }
    };
    JobRouter::new()
        .on_statuses(
            [Status::Completed, Status::Denied, Status::from("no more")],
            fail,
        )
        .on_dead_letter(letters.keep_dead_letters())
}

/// Callbacks that succeed, and a log of their events.
fn succeeding(log: &Log) -> JobRouter {
    let log = log.clone();
    JobRouter::new().on_completed(move |event: JobEvent| {
        log.push(event.guid.as_str());
        async {}
    })
}

async fn keep(letters: &PostgresDeadLetters, event: JobEvent, error: &str) {
    let outcome = failing(letters, error).oneshot(event).await.unwrap();
    assert_eq!(outcome, Receipt::DeadLettered);
}

async fn all(letters: &PostgresDeadLetters) -> Vec<Letter> {
    let filter = LetterFilter::new().with_limit(1_000);
    letters.list(&filter).await.unwrap().into_letters()
}

fn names(letters: &[Letter]) -> Vec<String> {
    letters
        .iter()
        .map(|letter| letter.name().to_owned())
        .collect()
}

/// A mount with all hooks.
fn mount(letters: &PostgresDeadLetters, jobs: JobRouter) -> JobWebhook<JobRouter> {
    JobWebhook::new(Credentials::unauthenticated(), jobs)
        .with_body_limit(4 * 1024 * 1024)
        .on_undecodable(letters.keep_undecodable())
        .on_other_webhook(letters.keep_other_webhooks())
}

async fn deliver(mount: &JobWebhook<JobRouter>, body: impl Into<Bytes>) -> u16 {
    let request = delivery(String::new()).map(|_| Full::new(body.into()));
    mount
        .clone()
        .oneshot(request)
        .await
        .unwrap()
        .status()
        .into()
}

#[tokio::test]
async fn an_event_that_is_kept_twice_is_one_letter_with_its_newest_error() {
    let database = Database::create("").await;
    let letters = letters(database.options()).await;
    let body = r#"{"job": {"guid":"JOB-1","status":6,"updated_at":1,"new":1.10}}"#;
    let event = JobEvent::decode(body).unwrap();
    keep(&letters, event.clone(), "first").await;
    let first = all(&letters).await.remove(0);
    assert_eq!((first.name(), first.tries()), ("JOB-1 COMPLETED 1", 1));
    assert_eq!(first.first_failed_at(), first.failed_at());
    keep(&letters, event, "second").await;
    let found = all(&letters).await;
    let [letter] = &found[..] else {
        panic!("{found:?}")
    };
    assert_eq!(letter.kind(), LetterKind::Event);
    assert_eq!(letter.status(), Some(&Status::Completed));
    assert_eq!(letter.guid().unwrap(), "JOB-1");
    assert_eq!(letter.tries(), 2);
    assert_eq!(
        letter.error(),
        "the callback failed: a permanent error: no retry will help: second"
    );
    assert_eq!(letter.first_failed_at(), first.failed_at());
    assert!(letter.failed_at() > first.failed_at());
    assert_eq!(letters.body(letter.name()).await.unwrap().unwrap(), body);
    assert_eq!(letters.body("JOB-2 COMPLETED 1").await.unwrap(), None);
    assert_eq!(letters.count().await.unwrap(), 1);
    assert!(letters.discard(letter.name()).await.unwrap());
    assert!(!letters.discard(letter.name()).await.unwrap());
    assert_eq!(letters.count().await.unwrap(), 0);
}

#[tokio::test]
async fn other_bodies_are_kept_as_they_came() {
    let database = Database::create("").await;
    let letters = letters(database.options()).await.with_max_body(1024);
    let webhooks = mount(&letters, JobRouter::new());
    let bodies: [(&[u8], LetterKind); 6] = [
        (b"not JSON \0 \xff\xfe", LetterKind::Undecodable),
        (b"", LetterKind::Undecodable),
        (br#"{"job": {"guid": 5}}"#, LetterKind::Undecodable),
        (
            b"{\"job\": {\"guid\":\"a\", \"guid\":\"b\", \"status\":6}}",
            LetterKind::Undecodable,
        ),
        (
            br#"{"type": "BALANCE", "n": 1.10}"#,
            LetterKind::OtherWebhook,
        ),
        (b" {\"action\": \"\\u0000\"}\n", LetterKind::OtherWebhook),
    ];
    for (body, _) in bodies {
        for _ in 0..2 {
            assert_eq!(deliver(&webhooks, body).await, 204, "{body:?}");
        }
    }
    let found = all(&letters).await;
    assert_eq!(found.len(), bodies.len());
    let mut kept = HashMap::new();
    for letter in &found {
        assert_eq!(
            (letter.tries(), letter.status(), letter.guid()),
            (2, None, None)
        );
        assert!(!letter.error().is_empty());
        let body = letters.body(letter.name()).await.unwrap().unwrap();
        kept.insert(body, letter.kind());
    }
    for (body, kind) in bodies {
        assert_eq!(kept.get(body), Some(&kind), "{body:?}");
    }
    // Nothing is cut: MX keeps what is too long.
    let long = "x".repeat(1025);
    assert_eq!(deliver(&webhooks, long.clone()).await, 500);
    assert_eq!(
        deliver(&webhooks, format!(r#"{{"type": "{long}"}}"#)).await,
        500
    );
    assert_eq!(deliver(&webhooks, long[1..].to_owned()).await, 204);
    assert_eq!(letters.count().await.unwrap(), bodies.len() as u64 + 1);
}

/// Names, errors and bodies that PostgreSQL cannot store as they are.
#[tokio::test]
async fn hostile_events_are_kept_listed_and_replayed() {
    let ascii = "TEMPLATE template0 ENCODING 'SQL_ASCII' LC_COLLATE 'C' LC_CTYPE 'C'";
    for settings in ["", ascii] {
        let database = Database::create(settings).await;
        let letters = letters(database.options()).await;
        let errors = [
            "a\0b".to_owned(),
            "x".repeat(1 << 20),
            "\u{202e}gnp.exe\r\nINFO fine".to_owned(),
            "é🏦".repeat(10_000),
            "$1 'quoted' \\ %".to_owned(),
        ];
        let guids = [
            "a\0b",
            "é 🏦",
            "'; DROP TABLE x; --",
            "digest:x",
            &"x".repeat(5_000),
        ];
        for (guid, error) in guids.into_iter().zip(&errors) {
            keep(&letters, completed(guid, 1), error).await;
        }
        let found = all(&letters).await;
        assert_eq!(found.len(), guids.len());
        let log = Log::default();
        for letter in &found {
            let guid = letter.guid().unwrap().as_str();
            assert!(guids.contains(&guid));
            assert!(letter.error().len() <= 8 * 1024);
            let is_plain = |text: &str| !text.contains(['\0', '\n', '\r', '\u{202e}']);
            assert!(is_plain(letter.error()) && is_plain(letter.name()));
            // The name, and the text of the event's name.
            assert!(letters.body(letter.name()).await.unwrap().is_some());
            let event = crate::support::name(guid, 1).to_string();
            assert!(letters.body(&event).await.unwrap().is_some(), "{guid:?}");
            if letters.count().await.unwrap() == 1 {
                break;
            }
            let one = letters.list(&LetterFilter::new().with_limit(1)).await;
            let next = one.unwrap().next().unwrap();
            assert_eq!(next.to_string().parse::<LetterCursor>(), Ok(next));
            letters
                .replay(letter.name(), succeeding(&log))
                .await
                .unwrap();
            assert_eq!(log.entries().last().unwrap(), guid);
        }
        assert_eq!(letters.count().await.unwrap(), 1);
        for name in ["", "\0", "a\0b COMPLETED 2", "no such letter"] {
            let error = letters.replay(name, succeeding(&log)).await.unwrap_err();
            assert!(error.is_not_found(), "{error}");
            assert!(!letters.discard(name).await.unwrap());
        }
        let nul = LetterFilter::new().with_error_containing("\0");
        assert!(letters.list(&nul).await.unwrap().letters().is_empty());
        let replayed = letters.replay_all(&nul, succeeding(&log)).await.unwrap();
        assert_eq!(replayed.succeeded() + replayed.failed(), 0);
    }
}

/// While rows come and go, each letter that stays is listed once.
#[tokio::test]
async fn pages_have_neither_gaps_nor_doubles() {
    let database = Database::create("").await;
    let (letters, admin) = (letters(database.options()).await, database.pool());
    // Ten letters fail at the same time.
    let fill = "INSERT INTO mx_job_webhook_dead_letters \
         SELECT '', 'JOB-' || n || ' COMPLETED 1', 'event', NULL, 'COMPLETED', 1, 'no', '{}', now(), \
         now() - (n / 10) * interval '1 second', n, 0 FROM generate_series(1, 2500) AS n";
    execute(&admin, fill).await;
    let is_done = Arc::new(AtomicBool::new(false));
    let changing = tokio::spawn({
        let (letters, is_done) = (letters.clone(), is_done.clone());
        async move {
            let mut changes = 0;
            while !is_done.load(Ordering::Relaxed) {
                changes += 1;
                keep(&letters, completed("new", changes), "no").await;
                // Numbers that are divisible by 25 do not stay.
                let gone = format!("JOB-{} COMPLETED 1", 25 * (changes % 100 + 1));
                letters.discard(&gone).await.unwrap();
            }
            changes
        }
    });
    let (mut seen, mut last) = (HashSet::new(), None);
    let mut filter = LetterFilter::new().with_limit(37);
    let mut pages = 0;
    loop {
        let page = letters.list(&filter).await.unwrap();
        pages += 1;
        for letter in page.letters() {
            assert!(seen.insert(letter.name().to_owned()), "{letter:?} twice");
            let place = (letter.failed_at(), letter.name().to_owned());
            assert!(last.as_ref().is_none_or(|last| *last > place), "{letter:?}");
            last = Some(place);
        }
        let Some(next) = page.next() else { break };
        assert_eq!(page.letters().len(), 37);
        filter = filter.after(next.to_string().parse().unwrap());
    }
    is_done.store(true, Ordering::Relaxed);
    println!("{pages} pages during {} changes", changing.await.unwrap());
    for n in (1..=2_500).filter(|n| n % 25 != 0) {
        assert!(seen.contains(&format!("JOB-{n} COMPLETED 1")), "{n}");
    }
    // A page that ends with the last letter has no next one.
    let left = letters.count().await.unwrap() as usize;
    assert!(left > 1_000);
    execute(
        &admin,
        "DELETE FROM mx_job_webhook_dead_letters WHERE name NOT LIKE 'JOB-1_ %'",
    )
    .await;
    let page = letters
        .list(&LetterFilter::new().with_limit(10))
        .await
        .unwrap();
    assert_eq!((page.letters().len(), page.next()), (10, None));
}

#[tokio::test]
async fn each_filter_chooses_its_letters() {
    let database = Database::create("").await;
    let letters = letters(database.options()).await;
    let webhooks = mount(&letters, failing(&letters, "out of_100% \\ cheese"));
    for body in [
        r#"{"job": {"guid": "JOB-1", "status": 6, "updated_at": 1}}"#,
        r#"{"job": {"guid": "JOB-2", "status_name": "DENIED", "updated_at": 1}}"#,
        r#"{"job": {"guid": "JOB-3", "status_name": " No More", "updated_at": 1}}"#,
        r#"{"type": "BALANCE"}"#,
        "not JSON",
    ] {
        assert_eq!(deliver(&webhooks, body).await, 204);
    }
    let every = all(&letters).await;
    assert_eq!(every.len(), 5);
    let (second, third) = (every[3].failed_at(), every[2].failed_at());
    let new = LetterFilter::new;
    let cases = [
        ("all", new(), vec![0, 1, 2, 3, 4]),
        ("events", new().with_kind(LetterKind::Event), vec![2, 3, 4]),
        (
            "undecodable",
            new().with_kind(LetterKind::Undecodable),
            vec![0],
        ),
        ("other", new().with_kind(LetterKind::OtherWebhook), vec![1]),
        ("completed", new().with_status(Status::Completed), vec![4]),
        (
            "another status",
            new().with_status(Status::from("no more")),
            vec![2],
        ),
        ("no such status", new().with_status(Status::Halted), vec![]),
        (
            "an error",
            new().with_error_containing("of_100% \\ "),
            vec![2, 3, 4],
        ),
        (
            "no pattern",
            new().with_error_containing("of%cheese"),
            vec![],
        ),
        (
            "another case",
            new().with_error_containing("Cheese"),
            vec![],
        ),
        (
            "an empty error",
            new().with_error_containing(""),
            vec![0, 1, 2, 3, 4],
        ),
        ("since", new().failed_since(third), vec![0, 1, 2]),
        ("until", new().failed_until(third), vec![3, 4]),
        (
            "between",
            new().failed_since(second).failed_until(third),
            vec![3],
        ),
        (
            "the last",
            new().failed_since(Timestamp::from_unix_seconds(i64::MAX)),
            vec![],
        ),
        (
            "the first",
            new().failed_until(Timestamp::from_unix_seconds(i64::MIN)),
            vec![],
        ),
        (
            "all of them",
            new()
                .with_kind(LetterKind::Event)
                .with_status(Status::Denied)
                .with_error_containing("cheese")
                .failed_since(Timestamp::from_unix_seconds(1)),
            vec![3],
        ),
    ];
    for (case, filter, expected) in cases {
        let found = letters.list(&filter).await.unwrap();
        let expected: Vec<_> = expected.into_iter().map(|n| every[n].name()).collect();
        assert_eq!(names(found.letters()), expected, "{case}");
    }
}

#[tokio::test]
async fn a_replay_that_succeeds_deletes_the_letter_and_one_that_fails_keeps_it() {
    let database = Database::create("").await;
    let letters = letters(database.options()).await;
    keep(&letters, completed("JOB-1", 1), "at first").await;
    let before = all(&letters).await.remove(0);
    let name = before.name();

    let ordinary = JobRouter::new().on_completed(|_| async { Err("the second time") });
    let error = letters.replay(name, ordinary).await.unwrap_err();
    assert_eq!(error.error().unwrap().kind(), ErrorKind::CallbackFailed);
    assert_eq!(error.to_string(), "the replay failed");
    let after = all(&letters).await.remove(0);
    assert_eq!(after.error(), "the callback failed: the second time");
    assert_eq!((after.tries(), after.name()), (2, name));
    assert!(after.failed_at() > before.failed_at());
    assert_eq!(after.first_failed_at(), before.first_failed_at());

    let panicking = JobRouter::new().on_completed(|_| async { panic!("on purpose") });
    let error = letters.replay(name, panicking).await.unwrap_err();
    assert_eq!(error.error().unwrap().kind(), ErrorKind::CallbackPanicked);
    let after = all(&letters).await.remove(0);
    assert_eq!((after.error(), after.tries()), ("the callback panicked", 3));

    // The hook keeps it again.
    let again = letters.replay(name, failing(&letters, "again")).await;
    assert_eq!(again.unwrap_err().receipt(), Some(Receipt::DeadLettered));
    let after = all(&letters).await.remove(0);
    assert!(after.error().ends_with("again"), "{}", after.error());
    assert_eq!(after.tries(), 4);

    // Another hook takes it, so that the store does not know the error.
    let elsewhere = JobRouter::new()
        .on_completed(|_| async { Err(Permanent::new("no")) })
        .on_dead_letter(|_| async {});
    assert!(letters.replay(name, elsewhere).await.is_err());
    let after = all(&letters).await.remove(0);
    assert_eq!(
        (after.error(), after.tries()),
        ("the callback failed permanently again", 5)
    );

    let source = Arc::new(AtomicUsize::new(0));
    let seen = source.clone();
    let fixed = JobRouter::new().on_completed(move |event: JobEvent| {
        assert!(event.headers().is_empty());
        seen.fetch_add(
            usize::from(event.source() == Source::Replay),
            Ordering::Relaxed,
        );
        async {}
    });
    let receipt = letters.replay(name, fixed.clone()).await.unwrap();
    assert_eq!(
        (receipt, source.load(Ordering::Relaxed)),
        (Receipt::Handled, 1)
    );
    assert_eq!(letters.count().await.unwrap(), 0);
    assert!(
        letters
            .replay(name, fixed)
            .await
            .unwrap_err()
            .is_not_found()
    );
}

/// The ledger has settled an event that a hook kept, and answers before the callback runs.
#[tokio::test]
async fn a_layer_that_answers_in_place_of_the_callback_loses_no_letter() {
    let database = Database::create("").await;
    let letters = letters(database.options()).await;
    let is_fixed = Arc::new(AtomicBool::new(false));
    let fixed = is_fixed.clone();
    let jobs = JobRouter::new()
        .on_completed(move |_| {
            let is_fixed = fixed.load(Ordering::Relaxed);
            async move {
                if is_fixed {
                    Ok(())
                } else {
                    Err(Permanent::new("no"))
                }
            }
        })
        .on_dead_letter(letters.keep_dead_letters());
    let once = DedupeLayer::new(MemoryLedger::new()).layer(jobs.clone());
    let outcome = once.clone().oneshot(completed("JOB-1", 1)).await.unwrap();
    assert_eq!(outcome, Receipt::DeadLettered);
    is_fixed.store(true, Ordering::Relaxed);
    let name = "JOB-1 COMPLETED 1";
    let error = letters.replay(name, once).await.unwrap_err();
    assert_eq!(error.receipt(), Some(Receipt::Duplicate), "{error}");
    let first = AcknowledgeFirstLayer::new(|_| {}).layer(jobs.clone());
    let error = letters.replay(name, first).await.unwrap_err();
    assert_eq!(error.receipt(), Some(Receipt::Accepted), "{error}");
    assert_eq!(all(&letters).await[0].tries(), 3);
    assert_eq!(letters.replay(name, jobs).await.unwrap(), Receipt::Handled);
    assert_eq!(letters.count().await.unwrap(), 0);
}

/// As after an update of the crate: what could not be decoded now can be.
#[tokio::test]
async fn a_body_that_became_decodable_is_replayed() {
    let database = Database::create("").await;
    let (letters, admin) = (letters(database.options()).await, database.pool());
    let webhooks = mount(&letters, JobRouter::new());
    assert_eq!(
        deliver(&webhooks, r#"{"job": {"guid": "JOB-1"}}"#).await,
        204
    );
    assert_eq!(deliver(&webhooks, r#"{"type": "BALANCE"}"#).await, 204);
    let log = Log::default();
    for letter in all(&letters).await {
        let error = letters.replay(letter.name(), succeeding(&log)).await;
        let error = error.unwrap_err();
        assert!(error.is_undecodable() && error.error().is_some(), "{error}");
        let body = letters.body(letter.name()).await.unwrap().unwrap();
        assert!(
            !format!("{error:?} {error}").contains("BALANCE"),
            "{body:?}"
        );
    }
    let kept = all(&letters).await;
    assert_eq!(kept.iter().map(Letter::tries).collect::<Vec<_>>(), [2, 2]);
    let fix = r#"UPDATE mx_job_webhook_dead_letters SET body =
        '{"job": {"guid": "JOB-1", "status": 6}}' WHERE kind = 'undecodable'"#;
    execute(&admin, fix).await;
    let undecodable = LetterFilter::new().with_kind(LetterKind::Undecodable);
    let replayed = letters
        .replay_all(&undecodable, succeeding(&log))
        .await
        .unwrap();
    assert_eq!((replayed.succeeded(), replayed.failed()), (1, 0));
    assert_eq!(log.entries(), ["JOB-1"]);
    assert_eq!(letters.count().await.unwrap(), 1);
}

#[tokio::test]
async fn all_that_match_are_replayed_in_order_and_once() {
    let database = Database::create("").await;
    let letters = letters(database.options()).await;
    for n in 0..450 {
        let guid = format!("JOB-{n:03}");
        keep(
            &letters,
            completed(&guid, 1),
            if n % 3 == 0 { "other" } else { "this" },
        )
        .await;
    }
    let log = Log::default();
    let writing = log.clone();
    let jobs = JobRouter::new()
        .on_completed(move |event: JobEvent| {
            let number: usize = event.guid.as_str()[4..].parse().unwrap();
            writing.push(event.guid.as_str());
            async move {
                match number % 5 {
                    0 => Err(BoxError::from("this failed again")),
                    1 => panic!("this panicked"),
                    2 => Err(Permanent::new("this failed permanently").into()),
                    _ => Ok(()),
                }
            }
        })
        .on_dead_letter(letters.keep_dead_letters());
    // The limit is that of a page.
    let filter = LetterFilter::new()
        .with_error_containing("this")
        .with_limit(1);
    let replayed = timeout(PATIENCE, letters.replay_all(&filter, jobs)).await;
    let replayed = replayed.expect("each letter is replayed once").unwrap();
    let expected: Vec<_> = (0..450).filter(|n| n % 3 != 0).collect();
    let ran: Vec<_> = expected.iter().map(|n| format!("JOB-{n:03}")).collect();
    assert_eq!(log.entries(), ran);
    let failed = expected.iter().filter(|n| *n % 5 < 3).count() as u64;
    assert_eq!(
        (replayed.succeeded(), replayed.failed()),
        (300 - failed, failed)
    );
    assert_eq!(replayed.skipped(), 0);
    assert_eq!(letters.count().await.unwrap(), 150 + failed);
}

/// The callback waits until it is told to go on.
fn waiting(started: &Arc<Notify>, go_on: &Arc<Notify>, calls: &Arc<AtomicUsize>) -> JobRouter {
    let (started, go_on, calls) = (started.clone(), go_on.clone(), calls.clone());
    JobRouter::new().on_completed(move |_| {
        let (started, go_on) = (started.clone(), go_on.clone());
        calls.fetch_add(1, Ordering::Relaxed);
        async move {
            started.notify_one();
            go_on.notified().await;
        }
    })
}

#[tokio::test]
async fn of_two_processes_one_replays_the_letter() {
    let database = Database::create("").await;
    let (one, other) = (
        letters(database.options()).await,
        letters(database.options()).await,
    );
    // Shorter than the callback takes: it is extended.
    let (one, other) = (
        one.with_replay_lease(Duration::from_millis(900)),
        other.with_replay_lease(Duration::from_millis(900)),
    );
    keep(&one, completed("JOB-1", 1), "no").await;
    let (started, go_on, calls) = Default::default();
    let jobs = waiting(&started, &go_on, &calls);
    let first = {
        let (one, jobs) = (one.clone(), jobs.clone());
        tokio::spawn(async move { one.replay("JOB-1 COMPLETED 1", jobs).await })
    };
    notified(&started).await;
    for _ in 0..10 {
        let error = other.replay("JOB-1 COMPLETED 1", jobs.clone());
        let error = timeout(PATIENCE, error).await.expect("it does not wait");
        assert!(error.unwrap_err().is_in_progress());
        sleep(Duration::from_millis(200)).await;
    }
    let all = other.replay_all(&LetterFilter::new(), jobs).await.unwrap();
    assert_eq!((all.succeeded(), all.failed(), all.skipped()), (0, 0, 1));
    assert_eq!(
        other.prune(Duration::ZERO).await.unwrap(),
        0,
        "it is being replayed"
    );
    go_on.notify_one();
    assert_eq!(first.await.unwrap().unwrap(), Receipt::Handled);
    assert_eq!(calls.load(Ordering::Relaxed), 1);
    assert_eq!(other.count().await.unwrap(), 0);
}

/// All at once, so that their claims meet.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_replays_at_once_run_each_letter_once() {
    let database = Database::create("").await;
    let stores = [
        letters(database.options()).await,
        letters(database.options()).await,
    ];
    let log = Log::default();
    for n in 0..20 {
        keep(&stores[0], completed(&format!("JOB-{n}"), 1), "no").await;
    }
    let mut replays = JoinSet::new();
    for n in 0..20 {
        for m in 0..6 {
            let store = stores[m % 2].clone();
            let jobs = succeeding(&log);
            replays.spawn(async move {
                let replayed = store.replay(&format!("JOB-{n} COMPLETED 1"), jobs).await;
                replayed.map_err(|error| error.is_not_found() || error.is_in_progress())
            });
        }
    }
    let outcomes = replays.join_all().await;
    assert!(
        outcomes.iter().all(|outcome| *outcome != Err(false)),
        "{outcomes:?}"
    );
    assert_eq!(
        outcomes.iter().filter(|outcome| outcome.is_ok()).count(),
        20
    );
    assert_eq!(log.entries().len(), 20);
    assert_eq!(stores[1].count().await.unwrap(), 0);
}

/// The process that replays it dies. Another one can replay it when the lease has expired.
#[tokio::test]
async fn a_dead_process_blocks_a_letter_for_its_lease() {
    let database = Database::create("").await;
    let letters = letters(database.options()).await;
    keep(&letters, completed("JOB-1", 1), "no").await;
    let options = database.options();
    std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build();
        let runtime = runtime.unwrap();
        runtime.block_on(async {
            let letters = PostgresDeadLetters::new(pool(options));
            let letters = letters.with_replay_lease(Duration::from_secs(2));
            let (started, go_on, calls) = Default::default();
            let jobs = waiting(&started, &go_on, &calls);
            let replay = letters.replay("JOB-1 COMPLETED 1", jobs);
            tokio::select! {
                _ = replay => unreachable!("it waits"),
                () = started.notified() => {}
            }
        });
        runtime.shutdown_background();
    })
    .join()
    .unwrap();
    let log = Log::default();
    let died = Instant::now();
    loop {
        match letters.replay("JOB-1 COMPLETED 1", succeeding(&log)).await {
            Ok(_) => break,
            Err(error) => assert!(error.is_in_progress(), "{error}"),
        }
        assert!(died.elapsed() < Duration::from_secs(20));
        sleep(Duration::from_millis(50)).await;
    }
    println!("replayed {:?} after a process died", died.elapsed());
    assert!(died.elapsed() > Duration::from_millis(500));
    assert_eq!(log.entries(), ["JOB-1"]);
}

/// The callback of a process whose lease was lost fails. Another process has the letter.
#[tokio::test]
async fn the_end_of_a_replay_whose_lease_was_lost_leaves_that_of_another_process() {
    let database = Database::create("").await;
    let (letters, admin) = (letters(database.options()).await, database.pool());
    let letters = letters.with_replay_lease(LONG);
    let name = "JOB-1 COMPLETED 1";
    let (started, go_on) = (Arc::new(Notify::new()), Arc::new(Notify::new()));
    let fails_later = || {
        let (started, go_on) = (started.clone(), go_on.clone());
        JobRouter::new().on_completed(move |_| {
            let (started, go_on) = (started.clone(), go_on.clone());
            async move {
                started.notify_one();
                go_on.notified().await;
                Err::<(), _>("no")
            }
        })
    };
    let lose =
        "UPDATE mx_job_webhook_dead_letters SET replaying_until = now() - interval '1 second'";
    // The other process has replayed it, and it was kept again: fences of both letters differ.
    for kept_again in [false, true] {
        keep(&letters, completed("JOB-1", 1), "no").await;
        let first = {
            let (letters, jobs) = (letters.clone(), fails_later());
            tokio::spawn(async move { letters.replay(name, jobs).await })
        };
        notified(&started).await;
        execute(&admin, lose).await;
        if kept_again {
            let log = Log::default();
            letters.replay(name, succeeding(&log)).await.unwrap();
            keep(&letters, completed("JOB-1", 1), "no").await;
        }
        let (began, end, calls) = Default::default();
        let second = {
            let (letters, jobs) = (letters.clone(), waiting(&began, &end, &calls));
            tokio::spawn(async move { letters.replay(name, jobs).await })
        };
        notified(&began).await;
        go_on.notify_one();
        first.await.unwrap().unwrap_err();
        let third = letters.replay(name, succeeding(&Log::default())).await;
        assert!(third.unwrap_err().is_in_progress(), "{kept_again}");
        end.notify_one();
        second.await.unwrap().unwrap();
    }
}

/// It extends its own lease alone: the other process may have died.
#[tokio::test]
async fn a_replay_whose_lease_was_lost_does_not_extend_that_of_another_process() {
    let database = Database::create("").await;
    let (letters, admin) = (letters(database.options()).await, database.pool());
    let letters = letters.with_replay_lease(Duration::from_millis(900));
    keep(&letters, completed("JOB-1", 1), "no").await;
    let (started, go_on, calls) = Default::default();
    let first = {
        let (letters, jobs) = (letters.clone(), waiting(&started, &go_on, &calls));
        tokio::spawn(async move { letters.replay("JOB-1 COMPLETED 1", jobs).await })
    };
    notified(&started).await;
    let claim = "UPDATE mx_job_webhook_dead_letters
         SET fence = fence + 1, replaying_until = clock_timestamp() + interval '1 second'";
    execute(&admin, claim).await;
    sleep(Duration::from_secs(2)).await;
    let log = Log::default();
    let again = letters.replay("JOB-1 COMPLETED 1", succeeding(&log)).await;
    assert_eq!(again.unwrap(), Receipt::Handled);
    go_on.notify_one();
    first.await.unwrap().unwrap();
}

/// `replay_all`: "Each letter that matches when this begins is run at most once." Its callback fails again, and the server's clock is set back
/// by half an hour meanwhile: to a time after the failures of before.
#[tokio::test]
async fn a_replay_of_all_meets_no_letter_twice_although_the_clock_was_set_back() {
    let database = Database::create("").await;
    letters(database.options()).await;
    let admin = database.pool();
    let clock = "CREATE SCHEMA clock; CREATE TABLE clock.back (by interval); INSERT INTO clock.back VALUES ('0');
         CREATE FUNCTION clock.clock_timestamp() RETURNS timestamptz LANGUAGE sql AS
             'SELECT pg_catalog.clock_timestamp() - by FROM clock.back'";
    execute(&admin, clock).await;
    let options = database.options();
    let letters = letters(options.options([("search_path", "clock,pg_catalog,public")])).await;
    for number in 0..3 {
        keep(&letters, completed(&format!("JOB-{number}"), 1), "no").await;
    }
    let earlier =
        "UPDATE mx_job_webhook_dead_letters SET failed_at = failed_at - interval '1 hour'";
    execute(&admin, earlier).await;
    let log = Log::default();
    let noted = log.clone();
    let jobs = JobRouter::new().on_completed(move |event: JobEvent| {
        noted.push(event.guid.as_str());
        let admin = admin.clone();
        async move {
            execute(&admin, "UPDATE clock.back SET by = '30 minutes'").await;
            Err::<(), _>("no")
        }
    });
    let all = LetterFilter::new();
    let replayed = letters.replay_all(&all, jobs);
    let replayed = timeout(PATIENCE, replayed).await;
    assert_eq!(log.entries(), ["JOB-0", "JOB-1", "JOB-2"]);
    assert_eq!(replayed.unwrap().unwrap().failed(), 3);
}

/// The replay continues, and is waited for at shutdown.
#[tokio::test]
async fn a_replay_whose_caller_leaves_continues() {
    let database = Database::create("").await;
    let background = Background::new();
    let letters = letters(database.options())
        .await
        .with_background(background.clone());
    let (started, go_on, calls) = Default::default();
    let jobs = waiting(&started, &go_on, &calls);
    // It leaves at each of its awaits.
    for polls in 0..12 {
        keep(&letters, completed("JOB-1", 1), "no").await;
        let mut replay = Box::pin(letters.replay("JOB-1 COMPLETED 1", jobs.clone()));
        for _ in 0..polls {
            let polled = timeout(Duration::from_millis(1), replay.as_mut());
            if let Ok(replayed) = polled.await {
                assert_eq!(replayed.unwrap(), Receipt::Handled);
                break;
            }
        }
        drop(replay);
        go_on.notify_one();
        // Without a poll, nothing has happened.
        let ended = Instant::now();
        while polls > 0 && letters.count().await.unwrap() > 0 {
            assert!(ended.elapsed() < Duration::from_secs(10), "{polls}");
            sleep(Duration::from_millis(5)).await;
        }
        while background.running() > 0 {
            sleep(Duration::from_millis(5)).await;
        }
    }
    keep(&letters, completed("JOB-2", 1), "no").await;
    let (started, go_on, calls) = Default::default();
    let jobs = waiting(&started, &go_on, &calls);
    let replay = {
        let (letters, jobs) = (letters.clone(), jobs.clone());
        tokio::spawn(async move { letters.replay("JOB-2 COMPLETED 1", jobs).await })
    };
    notified(&started).await;
    replay.abort();
    assert!(replay.await.unwrap_err().is_cancelled());
    go_on.notify_one();
    assert_eq!(background.drain(sleep(Duration::from_secs(10))).await, 0);
    assert_eq!(letters.count().await.unwrap(), 0);
    let refused = letters.replay("JOB-2 COMPLETED 1", jobs).await.unwrap_err();
    assert_eq!(refused.error().unwrap().kind(), ErrorKind::ShuttingDown);
}

/// MX delivers the event while it is replayed.
#[tokio::test]
async fn a_letter_that_is_kept_again_while_it_is_replayed_stays() {
    let database = Database::create("").await;
    let letters = letters(database.options()).await;
    let (started, go_on, calls) = Default::default();
    for discard in [false, true] {
        keep(&letters, completed("JOB-1", 1), "first").await;
        let replay = {
            let (letters, jobs) = (letters.clone(), waiting(&started, &go_on, &calls));
            tokio::spawn(async move { letters.replay("JOB-1 COMPLETED 1", jobs).await })
        };
        notified(&started).await;
        if discard {
            assert!(letters.discard("JOB-1 COMPLETED 1").await.unwrap());
        }
        keep(&letters, completed("JOB-1", 1), "second").await;
        go_on.notify_one();
        assert_eq!(replay.await.unwrap().unwrap(), Receipt::Handled);
        let left = all(&letters).await;
        assert_eq!(left.len(), 1, "discard: {discard}");
        assert!(left[0].error().ends_with("second"));
        // It can be replayed at once.
        let log = Log::default();
        letters
            .replay("JOB-1 COMPLETED 1", succeeding(&log))
            .await
            .unwrap();
        assert_eq!(letters.count().await.unwrap(), 0);
    }
}

/// The callback has succeeded. The database is gone when the letter is to be deleted.
#[tokio::test]
async fn a_replay_whose_letter_cannot_be_deleted_says_so() {
    let database = Database::create("").await;
    let (letters, admin) = (letters(database.options()).await, database.pool());
    keep(&letters, completed("JOB-1", 1), "no").await;
    let breaking = admin.clone();
    let jobs = JobRouter::new().on_completed(move |_| {
        let admin = breaking.clone();
        async move {
            execute(
                &admin,
                "ALTER TABLE mx_job_webhook_dead_letters RENAME TO away",
            )
            .await;
        }
    });
    let error = letters.replay("JOB-1 COMPLETED 1", jobs).await.unwrap_err();
    assert!(error.is_handled() && error.is_database(), "{error:?}");
    assert!(error.to_string().contains("may run again"), "{error}");
    assert!(std::error::Error::source(&error).is_some());
    execute(
        &admin,
        "ALTER TABLE away RENAME TO mx_job_webhook_dead_letters",
    )
    .await;
    assert_eq!(letters.count().await.unwrap(), 1);
    // A replay of all ends with such an error, because the others would fail too.
    keep(&letters, completed("JOB-2", 1), "no").await;
    let breaking = admin.clone();
    let jobs = JobRouter::new().on_completed(move |_| {
        let admin = breaking.clone();
        async move {
            let refuse = "CREATE OR REPLACE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql
                     AS $f$ BEGIN RAISE 'refused'; END $f$;
                 CREATE OR REPLACE TRIGGER refuse BEFORE DELETE ON mx_job_webhook_dead_letters
                     FOR EACH ROW EXECUTE FUNCTION refuse()";
            execute(&admin, refuse).await;
        }
    });
    let error = letters.replay_all(&LetterFilter::new(), jobs).await;
    let error = error.unwrap_err().to_string();
    assert!(error.contains("refused"), "{error}");
}

#[tokio::test]
async fn a_database_that_is_down_is_a_clear_error_and_mx_keeps_the_event() {
    let options = at("127.0.0.1:1".parse().unwrap()).password("secret");
    let closed = PgPoolOptions::new()
        .acquire_timeout(Duration::from_millis(100))
        .connect_lazy_with(options);
    let letters = PostgresDeadLetters::new(closed);
    let webhooks = mount(&letters, failing(&letters, "no"));
    let log = Log::default();
    let writing = log.clone();
    let webhooks = webhooks.on_error(move |failure| writing.push(format!("{:#}", failure.error())));
    for body in [
        r#"{"job": {"guid": "JOB-1", "status": 6}}"#,
        r#"{"type": "BALANCE"}"#,
        "not JSON",
    ] {
        assert_eq!(deliver(&webhooks, body).await, 500);
    }
    for reported in log.entries() {
        assert!(reported.contains("could not be kept"), "{reported}");
        assert!(reported.contains("timed out"), "the cause: {reported}");
        assert!(
            !reported.contains("secret") && !reported.contains("JOB-1"),
            "{reported}"
        );
    }
    assert_eq!(log.entries().len(), 3);
    assert!(letters.create_table().await.is_err());
    assert!(letters.list(&LetterFilter::new()).await.is_err());
    assert!(letters.body("JOB-1 COMPLETED 1").await.is_err());
    assert!(letters.count().await.is_err());
    assert!(letters.discard("JOB-1 COMPLETED 1").await.is_err());
    assert!(letters.prune(LONG).await.is_err());
    let error: ReplayError = letters.replay("x", succeeding(&log)).await.unwrap_err();
    assert!(error.is_database() && !error.is_handled(), "{error}");
    assert!(
        letters
            .replay_all(&LetterFilter::new(), succeeding(&log))
            .await
            .is_err()
    );
    let shown = format!("{letters:?}");
    assert!(shown.contains("max_body") && !shown.contains("127.0.0.1"));
}

/// Every event that was acknowledged behind this PgBouncer is there. Returns how many of 200 were.
async fn behind_pgbouncer(version: pgbouncer::Version, more: &[(&str, &str)]) -> usize {
    let database = Database::create("").await;
    let folder = Folder::new();
    let mut settings = vec![
        ("pool_mode", "transaction"),
        ("default_pool_size", "3"),
        ("ignore_startup_parameters", "extra_float_digits"),
    ];
    settings.extend(more);
    let direct = letters(database.options()).await;
    let pgbouncer = pgbouncer::start(&folder, version, database.server(), &settings);
    let options = at(pgbouncer.address).database(&database.name);
    let mut calls = JoinSet::new();
    for n in 0..4 {
        let pool = pool(options.clone());
        let letters = PostgresDeadLetters::new(pool.clone());
        calls.spawn(async move {
            letters.create_table().await.unwrap();
            let (mut kept, log) = (Vec::new(), Log::default());
            for m in 0..50 {
                let guid = format!("JOB-{n}-{m}");
                let name = format!("{guid} COMPLETED 1");
                let jobs = failing(&letters, "no");
                if jobs.oneshot(completed(&guid, 1)).await.is_ok() {
                    kept.push(name.clone());
                }
                let _ = letters.list(&LetterFilter::new().with_limit(5)).await;
                // Another client's statements, which are prepared.
                let prepared = sqlx::query("SELECT $1::bigint + $2").bind(1_i64).bind(m);
                let _ = prepared.fetch_one(&pool).await;
                if m % 10 == 0 && letters.replay(&name, succeeding(&log)).await.is_ok() {
                    kept.retain(|kept| *kept != name);
                    assert_eq!(log.entries().last(), Some(&guid));
                }
            }
            kept
        });
    }
    let kept: Vec<_> = calls.join_all().await.into_iter().flatten().collect();
    let found = names(&all(&direct).await);
    for name in &kept {
        assert!(found.contains(name), "{name} is lost");
    }
    kept.len()
}

/// They use no prepared statement that a pooler could mix up.
#[tokio::test]
async fn it_works_behind_every_pgbouncer_in_transaction_mode() {
    let mixes = ("max_prepared_statements", "0");
    let tracks = ("max_prepared_statements", "100");
    for (version, more) in [(V1_18, vec![]), (V1_24, vec![mixes]), (V1_24, vec![tracks])] {
        let kept = behind_pgbouncer(version, &more).await;
        println!("{version:?} {more:?}: {kept} of 180 are kept");
        assert_eq!(kept, 180, "{version:?} {more:?}");
    }
}

fn statements() -> [(&'static str, &'static str, &'static str); 11] {
    macro_rules! sql {
        ($name:literal) => {
            include_str!(concat!("../../../src/dead_letters/sql/", $name, ".sql"))
        };
    }
    [
        (
            "letter_keep",
            sql!("letter_keep"),
            ", '', 'J', 'event', NULL, 'COMPLETED', 'new', 'body'",
        ),
        (
            "letter_list",
            sql!("letter_list"),
            ", '', NULL, NULL, NULL, NULL, NULL, NULL, NULL, 51",
        ),
        (
            "letter_oldest",
            sql!("letter_oldest"),
            ", '', NULL, NULL, NULL, NULL, NULL, NULL, NULL, 200, NULL",
        ),
        ("letter_body", sql!("letter_body"), ", '', 'J'"),
        ("letter_count", sql!("letter_count"), ", ''"),
        ("letter_discard", sql!("letter_discard"), ", '', 'J'"),
        ("letter_prune", sql!("letter_prune"), ", '', 0, 10"),
        ("letter_claim", sql!("letter_claim"), ", '', 'J', 1000"),
        ("letter_extend", sql!("letter_extend"), ", '', 'J', 7, 1000"),
        ("letter_settle", sql!("letter_settle"), ", '', 'J', 7"),
        (
            "letter_release",
            sql!("letter_release"),
            ", '', 'J', 7, 7, 'new', NULL",
        ),
    ]
}

/// A statement that runs in place of another changes no row and answers nothing.
#[tokio::test]
async fn a_confused_statement_changes_no_row() {
    let database = Database::create("").await;
    letters(database.options()).await;
    let mut connection = database.options().connect().await.unwrap();
    let fill = "INSERT INTO mx_job_webhook_dead_letters VALUES \
         ('', 'J', 'event', NULL, 'COMPLETED', 1, 'old', 'body', now(), now(), 7, 7)";
    let rows = "SELECT count(*) || coalesce(string_agg(letter::text, ';' ORDER BY name), '') \
                FROM mx_job_webhook_dead_letters AS letter";
    run(&mut connection, fill.to_owned()).await;
    let before = text(&mut connection, rows.to_owned()).await;
    for (name, sql, _) in statements() {
        run(&mut connection, format!("PREPARE {name} AS {sql}")).await;
    }
    for (name, _, parameters) in statements() {
        let others = ["claim", "commit", "watch_load", "watch_replace", "prune"];
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
        run(&mut connection, "BEGIN".to_owned()).await;
        let execute = format!("EXECUTE {name} ('{name}'{parameters})");
        assert_eq!(text(&mut connection, execute).await.unwrap(), name);
        let after = text(&mut connection, rows.to_owned()).await;
        let only_reads = [
            "letter_list",
            "letter_oldest",
            "letter_body",
            "letter_count",
        ];
        assert_eq!(after == before, only_reads.contains(&name), "{name}");
        run(&mut connection, "ROLLBACK".to_owned()).await;
        // And with no row.
        run(
            &mut connection,
            "BEGIN; DELETE FROM mx_job_webhook_dead_letters".to_owned(),
        )
        .await;
        let execute = format!("EXECUTE {name} ('{name}'{parameters})");
        assert_eq!(text(&mut connection, execute).await.unwrap(), name);
        run(&mut connection, "ROLLBACK".to_owned()).await;
    }
}

#[tokio::test]
async fn a_letter_is_durable_whatever_the_application_has_set() {
    let database = Database::create("").await;
    letters(database.options()).await;
    let mut connection = database.options().connect().await.unwrap();
    for (name, sql, parameters) in statements() {
        run(&mut connection, format!("PREPARE {name} AS {sql}")).await;
        for setting in ["off", "local", "remote_write", "on", "remote_apply"] {
            let expected = match (name, setting) {
                ("letter_keep", "off" | "local") => "on",
                _ => setting,
            };
            run(
                &mut connection,
                format!("SET synchronous_commit = {setting}"),
            )
            .await;
            run(&mut connection, "BEGIN".to_owned()).await;
            let execute = format!("EXECUTE {name} ('{name}'{parameters})");
            text(&mut connection, execute).await.unwrap();
            let show = || "SHOW synchronous_commit".to_owned();
            let within = text(&mut connection, show()).await.unwrap();
            assert_eq!(within, expected, "{name} at {setting}");
            run(&mut connection, "ROLLBACK".to_owned()).await;
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

/// With 100,000 letters, of which each 100th is DENIED.
async fn plans_use_an_index(options: PgConnectOptions) {
    let letters = letters(options.clone()).await;
    let mut connection = options.connect().await.unwrap();
    let fill = "INSERT INTO mx_job_webhook_dead_letters \
         SELECT '', 'JOB-' || md5(n::text) || ' COMPLETED 1', \
         CASE WHEN n % 1000 = 1 THEN 'undecodable' ELSE 'event' END, NULL, \
         CASE WHEN n % 100 = 0 THEN 'DENIED' ELSE 'COMPLETED' END, 1, repeat('error ', 30), \
         convert_to(repeat('body ', 100), 'UTF8'), now(), now() - n * interval '1 second', n, 0 \
         FROM generate_series(1, 100000) AS n";
    run(&mut connection, fill.to_owned()).await;
    let vacuum = "VACUUM ANALYZE mx_job_webhook_dead_letters";
    run(&mut connection, vacuum.to_owned()).await;
    let name =
        "SELECT name FROM mx_job_webhook_dead_letters ORDER BY failed_at OFFSET 50000 LIMIT 1";
    let name = text(&mut connection, name.to_owned()).await.unwrap();
    let at = "SELECT (extract(epoch FROM failed_at) * 1000000)::bigint::text \
              FROM mx_job_webhook_dead_letters ORDER BY failed_at OFFSET 50000 LIMIT 1";
    let at = text(&mut connection, at.to_owned()).await.unwrap();
    let sql = statements().map(|(name, sql, _)| (name, sql));
    let sql: HashMap<_, _> = sql.into_iter().collect();
    let none = "NULL, NULL, NULL, NULL, NULL, NULL, NULL, 51".to_owned();
    let cases = [
        ("letter_list", none.clone()),
        (
            "letter_list",
            format!("NULL, NULL, NULL, NULL, NULL, {at}, '{name}', 51"),
        ),
        (
            "letter_list",
            format!("'event', 'DENIED', 'error', 1, {at}, {at}, '{name}', 51"),
        ),
        (
            "letter_list",
            "NULL, 'DENIED', NULL, NULL, NULL, NULL, NULL, 51".to_owned(),
        ),
        (
            "letter_list",
            "'undecodable', NULL, NULL, NULL, NULL, NULL, NULL, 51".to_owned(),
        ),
        (
            "letter_oldest",
            format!("{}, NULL", none.replace("51", "200")),
        ),
        (
            "letter_oldest",
            format!("NULL, NULL, NULL, NULL, NULL, {at}, '{name}', 200, {at}"),
        ),
        (
            "letter_keep",
            format!("'{name}', 'event', NULL, 'COMPLETED', 'new', 'body'"),
        ),
        ("letter_body", format!("'{name}'")),
        ("letter_discard", format!("'{name}'")),
        ("letter_claim", format!("'{name}', 1000")),
        ("letter_extend", format!("'{name}', 0, 1000")),
        ("letter_settle", format!("'{name}', 7")),
        ("letter_release", format!("'{name}', 0, 7, 'new', NULL")),
        ("letter_prune", "90000000000, 1000".to_owned()),
        ("letter_prune", "0, 10000".to_owned()),
    ];
    for (name, parameters) in cases {
        // As the store does it: each call has a plan of its own, for its parameters.
        let prepare = format!("PREPARE planned AS {}", sql[name]);
        run(&mut connection, prepare).await;
        run(&mut connection, "BEGIN".to_owned()).await;
        let execute = format!("EXECUTE planned ('{name}', '', {parameters})");
        let plan = plan(&mut connection, &execute).await;
        run(&mut connection, "ROLLBACK; DEALLOCATE planned".to_owned()).await;
        println!("{execute}\n{plan}\n");
        assert!(
            !plan.contains("Seq Scan on mx_job_webhook_dead_letters"),
            "{execute}\n{plan}"
        );
    }
    let mut times = Vec::new();
    for filter in [
        LetterFilter::new(),
        LetterFilter::new().with_status(Status::Denied),
        LetterFilter::new().with_status(Status::Halted),
        LetterFilter::new().with_error_containing("no such error"),
    ] {
        let started = Instant::now();
        letters.list(&filter).await.unwrap();
        times.push(started.elapsed());
    }
    println!(
        "a page of 100,000: all, DENIED, none with the status, none with the error: {times:?}"
    );
    let started = Instant::now();
    let pruned = letters.prune(Duration::from_secs(90_000)).await.unwrap();
    assert!((10_000..11_000).contains(&pruned), "{pruned}");
    println!("pruned {pruned} of 100,000 in {:?}", started.elapsed());
}

#[tokio::test]
async fn each_statement_uses_an_index_at_100_000_letters() {
    let database = Database::create("").await;
    plans_use_an_index(database.options()).await;
}

/// The oldest and the newest server plan and compute alike.
#[tokio::test]
async fn it_works_on_the_oldest_and_the_newest_server() {
    for version in [Version::V10, Version::V18] {
        let folder = Folder::new();
        let server = Postgres::primary(&folder, version, &["fsync=off"]);
        plans_use_an_index(server.options()).await;
        let letters = letters(server.options().database("postgres")).await;
        letters.prune(Duration::ZERO).await.unwrap();
        assert_eq!(letters.count().await.unwrap(), 0);
        let log = Log::default();
        for n in 0..5 {
            keep(&letters, completed(&format!("JOB-{n}"), 1), "no").await;
        }
        let error = letters
            .replay("JOB-2 COMPLETED 1", failing(&letters, "no"))
            .await;
        assert!(error.is_err());
        let replayed = letters
            .replay_all(&LetterFilter::new(), succeeding(&log))
            .await;
        assert_eq!(replayed.unwrap().succeeded(), 5);
        assert_eq!(log.entries(), ["JOB-0", "JOB-1", "JOB-3", "JOB-4", "JOB-2"]);
    }
}

/// Concurrent calls report no conflicts.
#[tokio::test]
async fn it_works_with_stricter_isolation() {
    let database = Database::create("").await;
    let isolation = [("default_transaction_isolation", "serializable")];
    let letters = letters(database.options().options(isolation)).await;
    let mut calls = JoinSet::new();
    for _ in 0..8 {
        let letters = letters.clone();
        calls.spawn(async move {
            for n in 0..10 {
                keep(&letters, completed("JOB-1", n), "no").await;
                letters.list(&LetterFilter::new()).await.unwrap();
            }
        });
    }
    calls.join_all().await;
    assert!(all(&letters).await.iter().all(|letter| letter.tries() == 8));
}

#[tokio::test]
async fn old_letters_are_pruned() {
    let database = Database::create("").await;
    let (letters, admin) = (letters(database.options()).await, database.pool());
    let fill = "INSERT INTO mx_job_webhook_dead_letters \
         SELECT '', n::text, 'event', NULL, 'COMPLETED', 1, 'no', '', now(), now() - interval '2 hours', n, 0 \
         FROM generate_series(1, 12000) AS n";
    execute(&admin, fill).await;
    keep(&letters, completed("JOB-1", 1), "no").await;
    // A locked row waits for the next time.
    let mut locking = admin.begin().await.unwrap();
    let lock = "SELECT FROM mx_job_webhook_dead_letters WHERE name = '7' FOR UPDATE";
    sqlx::raw_sql(lock).execute(&mut *locking).await.unwrap();
    let hour = Duration::from_secs(3600);
    assert_eq!(letters.prune(3 * hour).await.unwrap(), 0);
    assert_eq!(letters.prune(hour).await.unwrap(), 11_999);
    locking.rollback().await.unwrap();
    assert_eq!(letters.prune(hour).await.unwrap(), 1);
    assert_eq!(letters.prune(Duration::MAX).await.unwrap(), 0);
    assert_eq!(letters.count().await.unwrap(), 1);
}

#[tokio::test]
async fn the_table_is_created_once_by_whoever_is_first() {
    let database = Database::create("").await;
    let isolation = [("default_transaction_isolation", "serializable")];
    for options in [database.options(), database.options().options(isolation)] {
        let mut calls = JoinSet::new();
        for _ in 0..8 {
            let letters = PostgresDeadLetters::new(pool(options.clone()));
            calls.spawn(async move { letters.create_table().await });
        }
        for created in calls.join_all().await {
            created.unwrap();
        }
        execute(&database.pool(), PostgresDeadLetters::TABLE).await;
        execute(&database.pool(), "DROP TABLE mx_job_webhook_dead_letters").await;
    }
}

#[tokio::test]
async fn an_unsuitable_database_is_refused() {
    let latin1 = "ENCODING 'LATIN1' TEMPLATE template0 LC_COLLATE 'C' LC_CTYPE 'C'";
    let comment = "COMMENT ON TABLE mx_job_webhook_dead_letters IS";
    let later = format!(
        "{}; {comment} 'mx-job-webhook dead letters schema 2'",
        PostgresDeadLetters::TABLE
    );
    let column = PostgresDeadLetters::TABLE.replace("tries bigint", "tries int");
    let cases = [
        (latin1, String::new(), "encoding is LATIN1"),
        ("", later, "has version 2"),
        ("", column, "columns of the table"),
    ];
    for (settings, sql, expected) in cases {
        let database = Database::create(settings).await;
        execute(&database.pool(), &sql).await;
        let letters = PostgresDeadLetters::new(database.pool());
        let refused = letters.create_table().await.unwrap_err();
        assert!(
            matches!(refused, sqlx::Error::Configuration(_)),
            "{refused}"
        );
        assert!(refused.to_string().contains(expected), "{refused}");
    }
}

#[tokio::test]
async fn a_role_without_rights_to_create_uses_the_table_of_its_owner() {
    let database = Database::create("").await;
    let (role, admin) = (format!("role_{}", database.name), database.pool());
    execute(&admin, "REVOKE CREATE ON SCHEMA public FROM PUBLIC").await;
    execute(&admin, &format!("CREATE ROLE {role} LOGIN")).await;
    let letters = PostgresDeadLetters::new(pool(database.options().username(&role)));
    let refused = letters.create_table().await.unwrap_err().to_string();
    assert!(refused.contains("permission denied"), "{refused}");
    execute(&admin, PostgresDeadLetters::TABLE).await;
    let lacks = letters.create_table().await.unwrap_err().to_string();
    assert!(lacks.contains("lacks a privilege"), "{lacks}");
    let grant = "GRANT SELECT, INSERT, UPDATE, DELETE ON mx_job_webhook_dead_letters TO";
    execute(&admin, &format!("{grant} {role}")).await;
    letters.create_table().await.unwrap();
    keep(&letters, completed("JOB-1", 1), "no").await;
    let log = Log::default();
    letters
        .replay("JOB-1 COMPLETED 1", succeeding(&log))
        .await
        .unwrap();
    assert_eq!(letters.prune(Duration::ZERO).await.unwrap(), 0);
    assert_eq!(
        number(&admin, "SELECT count(*) FROM mx_job_webhook_dead_letters").await,
        0
    );
    execute(&admin, &format!("DROP OWNED BY {role}; DROP ROLE {role}")).await;
}
