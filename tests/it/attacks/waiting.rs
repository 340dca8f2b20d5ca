//! Attacks on jobs that are expected: what is forgotten, who waits in vain, and what grows.

use std::future::pending;
use std::sync::atomic::{AtomicU32, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, mpsc};
use std::time::Duration;

use mx_job_webhook::job::JobGuid;
use mx_job_webhook::ledger::{EventName, MemoryLedger};
use mx_job_webhook::testing::Sample;
use mx_job_webhook::watch::{
    Counts, Due, Entry, Failsafe, JobWatch, MemoryWatchStore, Replaced, Stored, Update, Wake,
    WatchStore,
};
use mx_job_webhook::{Background, DedupeLayer, Error, Job, JobEvent, JobRouter, Receipt, Status};
use tokio::time::sleep;
use tower::{BoxError, Layer as _, Service, ServiceBuilder};

use crate::observability::capture::Capture;
use crate::watch::stand_ins::{FaultyStore, Listening};

const SECOND: Duration = Duration::from_secs(1);
const MINUTE: Duration = Duration::from_secs(60);
const HOUR: Duration = Duration::from_secs(60 * 60);

fn guid(text: &str) -> JobGuid {
    text.parse().unwrap()
}

fn event(job: &str, status: Status, updated_at: i64) -> JobEvent {
    let sample = Sample::new(status).with_guid(job);
    sample.with_field("updated_at", updated_at).event().unwrap()
}

async fn deliver<S>(jobs: &S, event: JobEvent) -> Receipt
where
    S: Service<JobEvent, Response = Receipt, Error = Error> + Clone + Send + 'static,
    S::Future: Send,
{
    Background::new().run(jobs.clone(), event).await.unwrap()
}

// The look-back and the names.

/// "that an event is heard at all by `expect` if it was heard longer ago than the watch looks back. The failsafe then
/// reads the job, which settles it again as a duplicate" (guide *Guarantees*).
///
/// The challenge came while nobody waited; the client comes back after the look-back.
#[tokio::test(start_paused = true)]
async fn a_challenge_that_is_older_than_the_look_back_is_heard_by_a_read() {
    let watch = JobWatch::new(MemoryWatchStore::new());
    let jobs = ServiceBuilder::new()
        .layer(watch.layer())
        .layer(DedupeLayer::new(MemoryLedger::new()))
        .service(JobRouter::new().on_challenged(|_| async {}));
    let given_up = Arc::new(AtomicU32::new(0));
    let told = given_up.clone();
    let failsafe = Failsafe::new(&watch, jobs.clone(), |guid: JobGuid| async move {
        Ok::<_, BoxError>(event(guid.as_str(), Status::Challenged, 1))
    });
    let failsafe = failsafe.on_given_up(move |_| {
        told.fetch_add(1, Ordering::SeqCst);
        async {}
    });
    tokio::spawn(failsafe.run_until(pending::<()>()));

    let _ = watch.expect(&guid("JOB-1")).await.unwrap();
    sleep(10 * SECOND).await;
    deliver(&jobs, event("JOB-1", Status::Challenged, 1)).await;
    sleep(11 * MINUTE).await;
    let expected = watch.expect(&guid("JOB-1")).await.unwrap();
    let heard = expected.within(2 * HOUR).await.unwrap();
    assert!(
        heard.is_some(),
        "reads found the challenge for hours, and nobody heard of it; given up {} times",
        given_up.load(Ordering::SeqCst)
    );
}

/// "must not miss the next one although it came before the call" and the same promise, with `expect_after`.
#[tokio::test(start_paused = true)]
async fn the_next_challenge_is_heard_by_a_read_although_it_is_older_than_the_look_back() {
    let watch = JobWatch::new(MemoryWatchStore::new()).with_look_back(MINUTE);
    let jobs = watch.layer().layer(JobRouter::new());
    let failsafe = Failsafe::new(&watch, jobs.clone(), |guid: JobGuid| async move {
        Ok::<_, BoxError>(event(guid.as_str(), Status::Challenged, 2))
    });
    tokio::spawn(failsafe.run_until(pending::<()>()));
    let _ = watch.expect(&guid("JOB-1")).await.unwrap();
    let first = event("JOB-1", Status::Challenged, 1);
    deliver(&jobs, first.clone()).await;
    deliver(&jobs, event("JOB-1", Status::Challenged, 2)).await;
    sleep(2 * MINUTE).await;
    let expected = watch.expect_after(&EventName::of(&first)).await.unwrap();
    let heard = expected.within(30 * MINUTE).await.unwrap();
    assert!(heard.is_some(), "the second challenge is never heard");
}

/// "What was heard of the job in the last ten minutes counts", and nothing older.
#[tokio::test(start_paused = true)]
async fn what_is_older_than_the_look_back_does_not_count_for_a_job_that_is_expected_already() {
    let watch = JobWatch::new(MemoryWatchStore::new());
    let jobs = watch.layer().layer(JobRouter::new());
    let challenge = event("JOB-1", Status::Challenged, 1);
    let _ = watch.expect(&guid("JOB-1")).await.unwrap();
    deliver(&jobs, challenge.clone()).await;
    let _ = watch
        .expect_after(&EventName::of(&challenge))
        .await
        .unwrap();
    sleep(50 * MINUTE).await;
    let expected = watch.expect(&guid("JOB-1")).await.unwrap();
    let heard = expected.within(Duration::ZERO).await.unwrap();
    assert_eq!(heard.map(|it| it.status.clone()), None, "50 minutes old");
}

/// "Who waits with `within` hears of the event on whichever replica", and "a lost notification delays and never loses".
#[tokio::test(start_paused = true)]
async fn a_waiter_on_another_replica_hears_with_a_short_look_back() {
    let mut found = Vec::new();
    for (look_back, is_lost) in [(Duration::ZERO, false), (2 * SECOND, true), (MINUTE, true)] {
        let store = FaultyStore::default();
        if is_lost {
            store.faults().listening = Listening::Hangs;
        }
        let one = JobWatch::new(store.clone()).with_look_back(look_back);
        let other = JobWatch::new(store).with_look_back(look_back);
        let jobs = one.layer().layer(JobRouter::new());
        let expected = other.expect(&guid("JOB-1")).await.unwrap();
        let waiting = tokio::spawn(async move { expected.within(MINUTE).await.unwrap() });
        sleep(SECOND).await;
        deliver(&jobs, event("JOB-1", Status::Completed, 1)).await;
        found.push((look_back, is_lost, waiting.await.unwrap().is_some()));
    }
    assert!(found.iter().all(|(_, _, is_heard)| *is_heard), "{found:?}");
}

/// "CHALLENGED wakes who waits and rests it until the application expects again"; "a challenged job rests. The failsafe
/// does not read it until the application expects it again". Whether the challenge came before or after `expect`.
#[tokio::test(start_paused = true)]
async fn a_challenge_rests_the_job_although_it_came_before_expect() {
    for before in [false, true] {
        let watch = JobWatch::new(MemoryWatchStore::new());
        let jobs = watch.layer().layer(JobRouter::new());
        let reads = Arc::new(AtomicU32::new(0));
        let given_up = Arc::new(AtomicU32::new(0));
        let (counter, told) = (reads.clone(), given_up.clone());
        let failsafe = Failsafe::new(&watch, jobs.clone(), move |guid: JobGuid| {
            counter.fetch_add(1, Ordering::SeqCst);
            async move { Ok::<_, BoxError>(event(guid.as_str(), Status::Challenged, 1)) }
        });
        let failsafe = failsafe.on_given_up(move |_| {
            told.fetch_add(1, Ordering::SeqCst);
            async {}
        });
        tokio::spawn(failsafe.run_until(pending::<()>()));
        let challenge = event("JOB-1", Status::Challenged, 1);
        if before {
            deliver(&jobs, challenge.clone()).await;
        }
        let expected = watch.expect(&guid("JOB-1")).await.unwrap();
        if !before {
            deliver(&jobs, challenge).await;
        }
        assert!(expected.within(SECOND).await.unwrap().is_some());
        sleep(2 * HOUR).await;
        let found = (
            reads.load(Ordering::SeqCst),
            given_up.load(Ordering::SeqCst),
        );
        assert_eq!(found, (0, 0), "reads and given up; before: {before}");
    }
}

/// "`expect` is idempotent": clients that ask again and again must not keep the failsafe away.
#[tokio::test(start_paused = true)]
async fn two_clients_that_ask_again_and_again_do_not_keep_the_failsafe_away() {
    let watch = JobWatch::new(MemoryWatchStore::new());
    let jobs = watch.layer().layer(JobRouter::new());
    let reads = Arc::new(AtomicU32::new(0));
    let counter = reads.clone();
    let failsafe = Failsafe::new(&watch, jobs.clone(), move |guid: JobGuid| {
        counter.fetch_add(1, Ordering::SeqCst);
        async move { Ok::<_, BoxError>(event(guid.as_str(), Status::Completed, 3)) }
    });
    tokio::spawn(failsafe.run_until(pending::<()>()));
    let [first, second] = [1, 2].map(|date| event("JOB-1", Status::Challenged, date));
    let _ = watch.expect(&guid("JOB-1")).await.unwrap();
    deliver(&jobs, first.clone()).await;
    deliver(&jobs, second.clone()).await;
    // One tab shows the first challenge still, and the other one the second. Both poll the application.
    for _ in 0..360 {
        for seen in [&first, &second] {
            let _ = watch.expect_after(&EventName::of(seen)).await.unwrap();
            sleep(5 * SECOND).await;
        }
    }
    let reads = reads.load(Ordering::SeqCst);
    assert!(reads > 0, "the job was expected for an hour and never read");
}

/// "No waiter is left waiting for what was heard."
#[tokio::test(start_paused = true)]
async fn a_waiter_hears_of_a_challenge_that_another_caller_has_named_before() {
    let watch = JobWatch::new(MemoryWatchStore::new());
    let jobs = watch.layer().layer(JobRouter::new());
    let expected = watch.expect(&guid("JOB-1")).await.unwrap();
    let waiting = tokio::spawn(async move { expected.within(MINUTE).await.unwrap() });
    sleep(SECOND).await;
    // Another handler has read the job itself, has resumed it, and expects what follows.
    let challenge = event("JOB-1", Status::Challenged, 1);
    let _ = watch
        .expect_after(&EventName::of(&challenge))
        .await
        .unwrap();
    deliver(&jobs, challenge).await;
    let heard = waiting.await.unwrap();
    assert!(heard.is_some(), "its callback has succeeded");
}

// The failsafe.

/// "An expected job is never forgotten: it ends in a webhook, in a read through the same callbacks, or in a hook."
#[tokio::test(start_paused = true)]
async fn callbacks_that_hang_do_not_stop_the_failsafe() {
    let watch = JobWatch::new(MemoryWatchStore::new());
    let router = JobRouter::new().on_completed(|event: JobEvent| async move {
        if event.guid.as_str().starts_with("JOB-hangs") {
            pending::<()>().await;
        }
    });
    let jobs = watch.layer().layer(router);
    let given_up = Arc::new(Mutex::new(Vec::new()));
    let told = given_up.clone();
    let failsafe = Failsafe::new(&watch, jobs, |guid: JobGuid| async move {
        Ok::<_, BoxError>(event(guid.as_str(), Status::Completed, 1))
    });
    let failsafe = failsafe.on_given_up(move |job| {
        told.lock().unwrap().push(job.job().to_string());
        async {}
    });
    tokio::spawn(failsafe.run_until(pending::<()>()));
    for number in 0..8 {
        let job = guid(&format!("JOB-hangs-{number}"));
        let _ = watch.expect(&job).await.unwrap();
    }
    sleep(SECOND).await;
    let expected = watch.expect(&guid("JOB-1")).await.unwrap();
    let heard = expected.within(2 * MINUTE).await.unwrap();
    assert!(heard.is_some());
    sleep(24 * HOUR).await;
    let given_up = given_up.lock().unwrap().clone();
    assert_eq!(given_up.len(), 8, "given up: {given_up:?}");
}

/// One hook that never returns costs one job at most.
#[tokio::test(start_paused = true)]
async fn hooks_that_hang_do_not_stop_the_failsafe() {
    let watch = JobWatch::new(MemoryWatchStore::new());
    let jobs = watch.layer().layer(JobRouter::new());
    let failsafe = Failsafe::new(&watch, jobs, |guid: JobGuid| async move {
        match guid.as_str().starts_with("JOB-hangs") {
            true => Err(BoxError::from("not found")),
            false => Ok(event(guid.as_str(), Status::Completed, 1)),
        }
    });
    let failsafe = failsafe.on_given_up(|_| pending::<()>());
    tokio::spawn(failsafe.run_until(pending::<()>()));
    for number in 0..8 {
        let job = guid(&format!("JOB-hangs-{number}"));
        let _ = watch.expect(&job).await.unwrap();
    }
    sleep(2 * HOUR).await;
    let expected = watch.expect(&guid("JOB-1")).await.unwrap();
    let heard = expected.within(24 * HOUR).await.unwrap();
    assert!(heard.is_some(), "the failsafe reads nothing any more");
}

/// "A job of which nothing is heard for an hour is given up": whatever the patience and the pauses.
#[tokio::test(start_paused = true)]
async fn a_job_is_given_up_after_its_limit_whatever_the_pauses() {
    let mut found = Vec::new();
    for (patience, pause) in [
        (SECOND, 24 * HOUR),
        (SECOND, Duration::MAX),
        (2 * HOUR, SECOND),
    ] {
        let watch = JobWatch::new(MemoryWatchStore::new()).with_patience(patience);
        let jobs = watch.layer().layer(JobRouter::new());
        let given_up = Arc::new(AtomicU32::new(0));
        let told = given_up.clone();
        let failsafe = Failsafe::new(&watch, jobs, |_| async { Err::<Job, _>("not found") });
        let failsafe = failsafe.with_pauses(pause, pause).on_given_up(move |_| {
            told.fetch_add(1, Ordering::SeqCst);
            async {}
        });
        let running = tokio::spawn(failsafe.run_until(pending::<()>()));
        let _ = watch.expect(&guid("JOB-1")).await.unwrap();
        for _ in 0..10 {
            sleep(HOUR).await;
            if given_up.load(Ordering::SeqCst) > 0 {
                break;
            }
        }
        // It is told once.
        sleep(HOUR).await;
        running.abort();
        found.push((patience, pause, given_up.load(Ordering::SeqCst)));
    }
    assert!(found.iter().all(|(_, _, told)| *told == 1), "{found:?}");
}

/// "Each `Failsafe` sets the gauge of expected jobs every ten seconds" (guide *Observability*), also while its reader is
/// limited, which is when somebody needs to know.
#[test]
fn the_gauge_of_overdue_jobs_is_set_while_the_reader_is_not_ready() {
    let capture = Capture::default();
    capture.run(async {
        let watch = JobWatch::new(MemoryWatchStore::new()).with_patience(SECOND / 10);
        let jobs = watch.layer().layer(JobRouter::new());
        let reader = NeverReady;
        let failsafe = Failsafe::from_service(&watch, jobs, reader);
        let running = tokio::spawn(failsafe.run_until(pending::<()>()));
        sleep(SECOND).await;
        for number in 0..100 {
            let _ = watch.expect(&guid(&format!("JOB-{number}"))).await.unwrap();
        }
        sleep(HOUR).await;
        running.abort();
    });
    let metrics = capture.metrics();
    let overdue = metrics.iter().find(|(name, _)| name.contains("overdue"));
    assert!(
        overdue.is_some_and(|(_, value)| *value > 99.0),
        "100 jobs are overdue for an hour: {overdue:?}"
    );
}

struct NeverReady;

impl Service<JobGuid> for NeverReady {
    type Response = Job;
    type Error = BoxError;
    type Future = std::future::Ready<Result<Job, BoxError>>;

    fn poll_ready(
        &mut self,
        _: &mut std::task::Context<'_>,
    ) -> std::task::Poll<Result<(), BoxError>> {
        std::task::Poll::Pending
    }

    fn call(&mut self, job: JobGuid) -> Self::Future {
        std::future::ready(Ok(Job::new(job, Status::Completed)))
    }
}

/// The metric says `heard` of a read of which somebody has heard.
#[test]
fn a_read_that_finds_what_was_seen_is_not_counted_as_heard() {
    let capture = Capture::default();
    capture.run(async {
        let watch = JobWatch::new(MemoryWatchStore::new());
        let jobs = watch.layer().layer(JobRouter::new());
        let challenge = event("JOB-1", Status::Challenged, 1);
        let failsafe = Failsafe::new(&watch, jobs.clone(), |guid: JobGuid| async move {
            Ok::<_, BoxError>(event(guid.as_str(), Status::Challenged, 1))
        });
        let running = tokio::spawn(failsafe.run_until(pending::<()>()));
        deliver(&jobs, challenge.clone()).await;
        let _ = watch
            .expect_after(&EventName::of(&challenge))
            .await
            .unwrap();
        sleep(30 * MINUTE).await;
        running.abort();
    });
    let metrics = capture.metrics();
    let heard = metrics
        .iter()
        .find(|(name, _)| name.contains("failsafe_reads") && name.contains("heard"));
    assert!(heard.is_none(), "nothing was heard: {heard:?}");
}

/// "`Debug` shows no error of the application, because it may name a person"; nothing prints a user's id or a body.
#[test]
fn nothing_names_a_person() {
    let capture = Capture::default();
    let debugged = Arc::new(Mutex::new(String::new()));
    let noting = debugged.clone();
    capture.run(async {
        let store = Recorder::default();
        let watch = JobWatch::new(MemoryWatchStore::new());
        let jobs = watch.layer().layer(
            JobRouter::new().on_halted(|_| async { Err::<(), _>(BoxError::from("SECRET-callback")) }),
        );
        let failsafe = Failsafe::new(&watch, jobs.clone(), |guid: JobGuid| async move {
            match guid.as_str() {
                "JOB-1" => Err(BoxError::from("the API is down")),
                "JOB-2" => Ok(br#"{"job":{"guid":"SECRET-body""#.to_vec()),
                "JOB-3" => Ok(br#"{"job":{"guid":"SECRET-guid","status":6}}"#.to_vec()),
                _ => Ok(br#"{"job":{"guid":"JOB-4","status":4,"user_id":"SECRET-user"}}"#.to_vec()),
            }
        });
        let noting_hook = noting.clone();
        let failsafe = failsafe.on_given_up(move |job: mx_job_webhook::watch::GivenUp| {
            noting_hook.lock().unwrap().push_str(&format!("{job:?}"));
            async {}
        });
        noting.lock().unwrap().push_str(&format!("{failsafe:?}"));
        let running = tokio::spawn(failsafe.run_until(pending::<()>()));
        for job in ["JOB-1", "JOB-2", "JOB-3", "JOB-4"] {
            let _ = watch.expect(&guid(job)).await.unwrap();
        }
        let body = r#"{"job":{"guid":"JOB-5","status":6,"user_id":"SECRET-user","user_guid":"SECRET-guid","error_message":"SECRET-text","updated_at":"SECRET-date"}}"#;
        let other = JobWatch::new(store.clone());
        let event = JobEvent::decode(body).unwrap();
        deliver(&other.layer().layer(JobRouter::new()), event.clone()).await;
        let loaded = store.load(&[guid("JOB-5")]).await.unwrap();
        let expected = other.expect(&guid("JOB-5")).await.unwrap();
        let heard = expected.within(Duration::ZERO).await.unwrap();
        let read: mx_job_webhook::watch::ReadJob = body.to_owned().into();
        let broken: mx_job_webhook::watch::ReadJob = body[..60].to_owned().into();
        let text = format!("{loaded:?}{expected:?}{heard:?}{read:?}{broken:?}{other:?}");
        noting.lock().unwrap().push_str(&text);
        sleep(2 * HOUR).await;
        running.abort();
    });
    let debugged = debugged.lock().unwrap().clone();
    assert!(debugged.contains("GivenUp"), "{debugged}");
    assert!(!debugged.contains("SECRET"), "{debugged}");
    let logged = capture.text();
    let line = logged
        .lines()
        .find(|line| line.contains("SECRET") && !line.contains("SECRET-callback"));
    assert!(line.is_none(), "{line:?}");
}

// Runtimes.

/// Everything at once: expecting, hearing on another replica, challenges, on two threads. Nothing falls between.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_falls_between_expect_and_a_delivery_elsewhere() {
    let store = MemoryWatchStore::new();
    let (one, other) = (JobWatch::new(store.clone()), JobWatch::new(store));
    let jobs = one.layer().layer(JobRouter::new());
    for round in 0..10 {
        let mut tasks = Vec::new();
        for number in 0..100 {
            let name = format!("JOB-{round:08}-{number:08}");
            let (jobs, other, job) = (jobs.clone(), other.clone(), guid(&name));
            tasks.push(tokio::spawn(async move {
                let delivering = tokio::spawn(async move {
                    deliver(&jobs, event(&name, Status::Challenged, 1)).await;
                    tokio::task::yield_now().await;
                    deliver(&jobs, event(&name, Status::Challenged, 2)).await;
                    deliver(&jobs, event(&name, Status::Challenged, 1)).await;
                    deliver(&jobs, event(&name, Status::Completed, 3)).await;
                });
                let start = std::time::Instant::now();
                let mut expected = other.expect(&job).await.unwrap();
                let mut dates = Vec::new();
                loop {
                    let heard = expected.within(20 * SECOND).await.unwrap().expect("lost");
                    dates.push(heard.updated_at.unwrap().unix_seconds());
                    if heard.status == Status::Completed {
                        break;
                    }
                    expected = other.expect_after(heard.name()).await.unwrap();
                }
                assert!(dates.is_sorted() && dates.len() <= 3, "{dates:?}");
                delivering.await.unwrap();
                start.elapsed()
            }));
        }
        for task in tasks {
            let took = task.await.unwrap();
            // A waiter that no change has woken reads after 5 s.
            assert!(took < 5 * SECOND, "{took:?}");
        }
    }
}

/// "Who waits reads the entry first, then every five seconds."
#[test]
#[ignore = "it waits for seconds by the clock"]
fn a_runtime_that_is_idle_does_not_keep_those_of_another_one_waiting() {
    let runtime = || {
        let mut builder = tokio::runtime::Builder::new_current_thread();
        builder.enable_all().build().unwrap()
    };
    let store = MemoryWatchStore::new();
    let (one, other) = (JobWatch::new(store.clone()), JobWatch::new(store));
    let (idle, busy) = (runtime(), runtime());
    // Somebody waits on a runtime, which is not driven afterwards.
    idle.block_on(async {
        let expected = one.expect(&guid("JOB-0")).await.unwrap();
        assert!(expected.within(Duration::ZERO).await.unwrap().is_none());
    });
    let start = std::time::Instant::now();
    let heard = busy.block_on(async {
        let expected = one.expect(&guid("JOB-1")).await.unwrap();
        let jobs = other.layer().layer(JobRouter::new());
        tokio::spawn(async move {
            sleep(SECOND / 10).await;
            deliver(&jobs, event("JOB-1", Status::Completed, 1)).await;
        });
        expected.within(20 * SECOND).await.unwrap()
    });
    assert!(heard.is_some());
    let took = start.elapsed();
    assert!(took < 12 * SECOND, "it heard after {took:?}");
    drop(idle);
}

/// A runtime that has ended is no obstacle.
#[test]
#[ignore = "it waits for seconds by the clock"]
fn a_runtime_that_has_ended_does_not_keep_those_of_another_one_waiting() {
    let runtime = || {
        let mut builder = tokio::runtime::Builder::new_multi_thread();
        builder.worker_threads(1).enable_all().build().unwrap()
    };
    let store = MemoryWatchStore::new();
    let (one, other) = (JobWatch::new(store.clone()), JobWatch::new(store));
    let (first, second) = (runtime(), runtime());
    let expected = first.block_on(one.expect(&guid("JOB-1"))).unwrap();
    let handle = first.handle().clone();
    let expected = Arc::new(expected);
    let waiter = expected.clone();
    handle.spawn(async move { waiter.within(Duration::MAX).await });
    std::thread::sleep(SECOND / 5);
    let start = std::time::Instant::now();
    let heard = second.block_on(async {
        let waiting = tokio::spawn(async move { expected.within(20 * SECOND).await.unwrap() });
        sleep(SECOND / 5).await;
        first.shutdown_background();
        sleep(SECOND / 5).await;
        let jobs = other.layer().layer(JobRouter::new());
        deliver(&jobs, event("JOB-1", Status::Completed, 1)).await;
        waiting.await.unwrap()
    });
    assert!(heard.is_some());
    let took = start.elapsed();
    assert!(took < 12 * SECOND, "it heard after {took:?}");
}

// The store in memory.

/// "memory (bounded)"; what was heard in the last ten minutes counts "(settable, bounded memory)".
#[tokio::test(start_paused = true)]
async fn jobs_that_have_ended_do_not_fill_the_memory() {
    let mut found = Vec::new();
    for (look_back, pause) in [(10 * MINUTE, Duration::ZERO), (Duration::MAX, 1_000 * HOUR)] {
        let store = MemoryWatchStore::new().with_capacity(10).with_recent(10);
        let watch = JobWatch::new(store).with_look_back(look_back);
        let jobs = watch.layer().layer(JobRouter::new());
        let name = |number: usize| format!("JOB-{number:08}-0000");
        for number in 0..2_000 {
            let _ = watch.expect(&guid(&name(number))).await.unwrap();
            deliver(&jobs, event(&name(number), Status::Completed, 1)).await;
        }
        sleep(pause).await;
        let mut kept = 0;
        for number in 0..2_000 {
            kept += usize::from(watch_load(&watch, &guid(&name(number))).await);
        }
        found.push(kept);
    }
    assert!(found.iter().all(|kept| *kept <= 20), "kept: {found:?}");
}

/// "Of events that nobody expects, it keeps the last" `with_recent`. The guids are chosen by an authenticated sender.
#[tokio::test(start_paused = true)]
async fn events_that_nobody_expects_are_bounded_whatever_their_guids() {
    let store = MemoryWatchStore::new().with_recent(10);
    let watch = JobWatch::new(store);
    let jobs = watch.layer().layer(JobRouter::new());
    let name = |number: usize| format!("JOB-aaaaaaaa-{number:08}-bbbbbbbb");
    let _ = watch.expect(&guid(&name(0))).await.unwrap();
    for number in 1..5_000 {
        deliver(&jobs, event(&name(number), Status::Completed, 1)).await;
    }
    let mut kept = 0;
    for number in 1..5_000 {
        kept += usize::from(watch_load(&watch, &guid(&name(number))).await);
    }
    assert!(kept <= 11, "{kept} are kept");
}

/// Returns whether the watch still knows that the job has ended.
async fn watch_load(watch: &JobWatch, job: &JobGuid) -> bool {
    match watch.expect(job).await {
        Ok(expected) => expected.within(Duration::ZERO).await.unwrap().is_some(),
        Err(_) => false, // It is full.
    }
}

/// "Their bodies take at most 16 MiB."
#[tokio::test(start_paused = true)]
async fn the_bodies_of_events_that_nobody_expects_take_at_most_16_mib() {
    let watch = JobWatch::new(MemoryWatchStore::new());
    let jobs = watch.layer().layer(JobRouter::new());
    let large = "x".repeat(1024 * 1024 - 1024);
    let name = |number: usize| format!("JOB-{number:08}-0000");
    for number in 0..17 {
        let sample = Sample::new(Status::Completed).with_guid(&name(number));
        deliver(
            &jobs,
            sample.with_field("other", large.as_str()).event().unwrap(),
        )
        .await;
    }
    let mut bytes = 0;
    for number in 0..17 {
        bytes += large.len() * usize::from(watch_load(&watch, &guid(&name(number))).await);
    }
    assert!(bytes <= 16 * 1024 * 1024, "{bytes} bytes are kept");
}

/// The same, with one body: an application can take larger ones.
#[tokio::test(start_paused = true)]
async fn one_body_of_an_event_that_nobody_expects_takes_at_most_16_mib() {
    let watch = JobWatch::new(MemoryWatchStore::new());
    let jobs = watch.layer().layer(JobRouter::new());
    let large = "x".repeat(64 * 1024 * 1024);
    let sample = Sample::new(Status::Completed).with_guid("JOB-00000001-1");
    deliver(
        &jobs,
        sample.with_field("other", large.as_str()).event().unwrap(),
    )
    .await;
    let is_kept = watch_load(&watch, &guid("JOB-00000001-1")).await;
    assert!(!is_kept, "64 MiB are kept");
}

/// The trait allows an entry that is due and that expires; "an entry that has expired is the same as none".
#[test]
fn an_entry_that_was_claimed_and_expires_does_not_hang_the_store() {
    let (done, ended) = mpsc::channel();
    std::thread::spawn(move || {
        let mut runtime = tokio::runtime::Builder::new_current_thread();
        let runtime = runtime.enable_all().build().unwrap();
        runtime.block_on(async {
            let store = MemoryWatchStore::new();
            let job = guid("JOB-1");
            let entry = Entry::default();
            let update = Update {
                entry: &entry,
                due: Due::In(Duration::ZERO),
                keep: Some(SECOND / 10),
                wakes: false,
            };
            store.replace(&job, None, update).await.unwrap();
            assert_eq!(store.claim_due(1, MINUTE).await.unwrap().len(), 1);
            sleep(SECOND / 5).await;
            let found = store.load(&[job]).await.unwrap().len();
            done.send(found).unwrap();
        });
    });
    let found = ended.recv_timeout(5 * SECOND);
    assert_eq!(found, Ok(0), "the store loops, and holds its lock");
}

/// Many events of one job that nobody expects: `expect` of it decodes only the last of them.
#[tokio::test]
async fn of_many_events_of_one_job_the_last_is_heard() {
    let watch = JobWatch::new(MemoryWatchStore::new());
    let jobs = watch.layer().layer(JobRouter::new());
    for number in 0..16_384 {
        deliver(&jobs, event("JOB-00000001-1", Status::Challenged, number)).await;
    }
    let expected = watch.expect(&guid("JOB-00000001-1")).await.unwrap();
    let heard = expected.within(Duration::ZERO).await.unwrap().unwrap();
    assert_eq!(
        heard.updated_at.map(|date| date.unix_seconds()),
        Some(16_383)
    );
}

// Entries.

/// `from_bytes` reads what `to_bytes` wrote, whatever was heard, and refuses the rest without a panic.
#[tokio::test]
async fn entries_survive_being_stored_and_hostile_bytes_are_refused() {
    let store = Recorder::default();
    let bodies = [
        r#"{"job":{"guid":"JOB-1","status":6,"updated_at":1e400}}"#,
        r#"{"job":{"guid":"JOB-1","status":6,"updated_at":-62135596800}}"#,
        r#"{"job":{"guid":"JOB-1","status":6,"updated_at":9223372036854775807}}"#,
        r#"{"job":{"guid":"JOB-1","status":6,"updated_at":-9223372036854775808.999999999}}"#,
        r#"{"job":{"guid":"JOB-1","status":6,"status_name":"COMPLETED","updated_at":"9999-12-31T23:59:59.999999999Z"}}"#,
        r#"{"job":{"guid":"JOB-1","status":2,"status_name":"COMPLETED","updated_at":"-0001-01-01T00:00:00Z"}}"#,
        r#"{"job":{"guid":"a\u0000b \ud83d\ude00\n","status":"2","user_id":18446744073709551616,"updated_at":0}}"#,
        r#"{"job":{"guid":"JOB-1","status":2,"error_message":"\ud800","updated_at":5.000000001}}"#,
        r#"{"job":{"guid":" JOB-1 ","status":2,"member_id":1.5e3,"is_authenticated":"yes"}}"#,
        r#"{"job":{"guid":12,"status":6.0,"user_id":-0.0}}"#,
        r#"{"job":{"guid":"JOB-1","status":4,"status_name":"completed","created_at":99999999999}}"#,
        r#"{"job":{"guid":"JOB-1","status":"CHALLENGED","updated_at":253402300800.5}}"#,
    ];
    let mut heard = 0;
    for body in bodies {
        for first in [false, true] {
            let watch = JobWatch::new(store.clone());
            let jobs = watch.layer().layer(JobRouter::new());
            let Ok(event) = JobEvent::decode(body) else {
                continue;
            };
            let job = event.guid.clone();
            if first {
                let _ = watch.expect(&job).await.unwrap();
            }
            heard += 1;
            deliver(&jobs, event.clone()).await;
            let _ = watch.expect_after(&EventName::of(&event)).await.unwrap();
            store.0.lock().unwrap().clear();
            *store.1.lock().unwrap() += 1;
        }
    }
    assert!(heard > 10, "{heard}");
    // Hostile bytes.
    let samples = store.2.lock().unwrap().clone();
    let mut seed = 1_u64;
    let mut next = move || {
        seed = seed
            .wrapping_mul(6364136223846793005)
            .wrapping_add(1442695040888963407);
        (seed >> 33) as usize
    };
    for _ in 0..60_000 {
        let mut bytes = samples[next() % samples.len()].clone();
        for _ in 0..1 + next() % 3 {
            let at = next() % bytes.len();
            match next() % 5 {
                0 => bytes[at] = next() as u8,
                1 => drop(bytes.remove(at)),
                2 => bytes.insert(at, b"0123456789{}[]\",:-+e.ntf"[next() % 24]),
                3 => bytes.truncate(at.max(1)),
                _ => {
                    let other = samples[next() % samples.len()].clone();
                    let from = next() % other.len();
                    bytes.truncate(at);
                    bytes.extend_from_slice(&other[from..]);
                }
            }
            if bytes.is_empty() {
                break;
            }
        }
        if let Ok(entry) = Entry::from_bytes(&bytes) {
            let again = Entry::from_bytes(&entry.to_bytes());
            let text = String::from_utf8_lossy(&bytes).into_owned();
            assert_eq!(again.ok().as_ref(), Some(&entry), "{text}");
            let _ = format!("{entry:?}");
        }
    }
    for bytes in [
        "[".repeat(1_000_000),
        "{\"a\":".repeat(1_000_000),
        format!(
            r#"{{"version":1,"names":[{}"a"]}}"#,
            "\"a\",".repeat(1_000_000)
        ),
    ] {
        let _ = Entry::from_bytes(bytes.as_bytes());
    }
}

type Entries = std::collections::HashMap<JobGuid, (Vec<u8>, u64)>;

/// A store whose entries are bytes.
#[derive(Clone, Default)]
struct Recorder(
    Arc<Mutex<Entries>>,
    Arc<Mutex<u64>>,
    Arc<Mutex<Vec<Vec<u8>>>>,
);

impl WatchStore for Recorder {
    type Error = BoxError;

    async fn load(&self, jobs: &[JobGuid]) -> Result<Vec<(JobGuid, Stored)>, BoxError> {
        let held = self.0.lock().unwrap();
        let mut found = Vec::new();
        for job in jobs {
            if let Some((bytes, revision)) = held.get(job) {
                let stored = Stored {
                    entry: Entry::from_bytes(bytes)?,
                    revision: *revision,
                    age: SECOND,
                };
                found.push((job.clone(), stored));
            }
        }
        Ok(found)
    }

    async fn replace(
        &self,
        job: &JobGuid,
        expected: Option<u64>,
        update: Update<'_>,
    ) -> Result<Replaced, BoxError> {
        let current = self.load(std::slice::from_ref(job)).await?.pop();
        if current.as_ref().map(|(_, stored)| stored.revision) != expected {
            return Ok(Replaced::Conflict(current.map(|(_, stored)| stored)));
        }
        let bytes = update.entry.to_bytes();
        let text = String::from_utf8_lossy(&bytes).into_owned();
        let again = Entry::from_bytes(&bytes).expect(&text);
        assert_eq!(&again.to_bytes(), &bytes);
        self.2.lock().unwrap().push(bytes.clone());
        let mut revision = self.1.lock().unwrap();
        *revision += 1;
        self.0
            .lock()
            .unwrap()
            .insert(job.clone(), (bytes, *revision));
        Ok(Replaced::Done)
    }

    async fn claim_due(&self, _: usize, _: Duration) -> Result<Vec<(JobGuid, Stored)>, BoxError> {
        Ok(Vec::new())
    }

    async fn count(&self) -> Result<Counts, BoxError> {
        Ok(Counts::default())
    }

    async fn listen(&self, _: Wake) -> Result<(), BoxError> {
        pending().await
    }
}

// Dropping at each await.

/// "If the future is dropped, reads are cancelled; other replicas read the jobs when their lease has expired. Callbacks
/// that have started finish."; and a waiter that is dropped at any poll leaks nothing.
#[tokio::test(start_paused = true)]
async fn a_waiter_that_is_dropped_after_any_number_of_polls_leaks_nothing() {
    let watch = JobWatch::new(MemoryWatchStore::new());
    let job = Job::new(guid("JOB-1"), Status::Completed);
    let polls = AtomicUsize::new(0);
    for limit in 0..20 {
        let expected = watch.expect(&job.guid).await.unwrap();
        let mut waiting = Box::pin(expected.within(20 * SECOND));
        for _ in 0..limit {
            polls.fetch_add(1, Ordering::Relaxed);
            let _ = futures_poll(waiting.as_mut()).await;
            tokio::time::advance(SECOND / 2).await;
        }
        drop(waiting);
        assert!(format!("{watch:?}").contains("waiting: 0"), "{watch:?}");
    }
}

async fn futures_poll<F: Future>(mut future: std::pin::Pin<&mut F>) -> std::task::Poll<F::Output> {
    std::future::poll_fn(|context| std::task::Poll::Ready(future.as_mut().poll(context))).await
}
