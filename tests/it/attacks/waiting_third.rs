//! A third attack on jobs that are expected: on the mends of the second, and on what is around them.

use std::future::pending;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use mx_job_webhook::job::JobGuid;
use mx_job_webhook::ledger::EventName;
use mx_job_webhook::testing::Sample;
use mx_job_webhook::watch::{Failsafe, GivenUp, JobWatch, MemoryWatchStore, WatchStore as _};
use mx_job_webhook::{Error, Job, JobEvent, JobRouter, Receipt, Status};
use tokio::sync::oneshot;
use tokio::time::{Instant, sleep, timeout};
use tower::{BoxError, Layer as _, Service};

use crate::watch::stand_ins::{Fault, FaultyStore, Listening, SECOND, guid, waiting};

const MINUTE: Duration = Duration::from_secs(60);
const HOUR: Duration = Duration::from_secs(60 * 60);

fn event(job: &str, status: Status, updated_at: i64) -> JobEvent {
    let sample = Sample::new(status).with_guid(job);
    sample.with_field("updated_at", updated_at).event().unwrap()
}

/// A challenge of `JOB-1` without a date. Different numbers are different events.
fn undated(number: u32) -> JobEvent {
    let body = format!(r#"{{"job":{{"guid":"JOB-1","status":2,"new":{number}}}}}"#);
    JobEvent::decode(body).unwrap()
}

async fn deliver<S>(jobs: &S, event: JobEvent) -> Receipt
where
    S: Service<JobEvent, Response = Receipt, Error = Error> + Clone + Send + 'static,
    S::Future: Send,
{
    crate::watch::stand_ins::deliver(jobs, event).await.unwrap()
}

// Waiting.

/// "A waiter reads the entry first, then every five seconds, after each reconnection, and at the end" (guide
/// *Guarantees*): also of many jobs, with a store that is slow. The issue: "10,000 waiters in one process".
#[tokio::test(start_paused = true)]
async fn who_waits_for_the_last_of_many_jobs_hears_although_the_store_is_slow() {
    let store = FaultyStore::default();
    let (one, other) = (JobWatch::new(store.clone()), JobWatch::new(store.clone()));
    let jobs = one.layer().layer(JobRouter::new());
    store.faults().listening = Listening::Hangs;
    let mut waits = Vec::new();
    for number in 0..5_000 {
        let expected = other.expect(&guid(&format!("JOB-{number:08}"))).await;
        let expected = expected.unwrap();
        waits.push(tokio::spawn(
            async move { expected.within(10 * MINUTE).await },
        ));
    }
    sleep(SECOND).await;
    store.faults().load = Fault::AnswersAfter(SECOND / 2);
    let mut found = Vec::new();
    for number in [0, 2_500, 4_999] {
        let start = Instant::now();
        let name = format!("JOB-{number:08}");
        deliver(&jobs, event(&name, Status::Completed, 1)).await;
        let heard = (&mut waits[number]).await.unwrap().unwrap();
        assert!(heard.is_some());
        found.push((number, start.elapsed()));
    }
    // 20 reads of 256 entries take ten seconds.
    assert!(
        found.iter().all(|(_, took)| *took < 30 * SECOND),
        "heard after {found:?}"
    );
    for wait in waits {
        wait.abort();
    }
}

/// "A caller of `within` hears of the event on whichever replica, after its callback has succeeded": the job was given
/// up, and few events are kept, which concerns "a later `expect`" only.
#[tokio::test(start_paused = true)]
async fn who_waits_hears_of_a_job_that_was_given_up_although_few_events_are_kept() {
    let mut found = Vec::new();
    for recent in [0, 1, 16] {
        let store = MemoryWatchStore::new().with_recent(recent);
        let watch = JobWatch::new(store);
        let jobs = watch.layer().layer(JobRouter::new());
        let failsafe = Failsafe::new(&watch, jobs.clone(), |_| async { Err::<Job, _>("down") });
        let running = tokio::spawn(failsafe.with_limit(MINUTE).run_until(pending::<()>()));
        let expected = watch.expect(&guid("JOB-1")).await.unwrap();
        let waiting = tokio::spawn(async move { expected.within(HOUR).await.unwrap() });
        sleep(30 * MINUTE).await;
        deliver(&jobs, event("JOB-1", Status::Completed, 1)).await;
        deliver(&jobs, event("JOB-2", Status::Completed, 1)).await;
        found.push((recent, waiting.await.unwrap().is_some()));
        running.abort();
    }
    assert!(found.iter().all(|(_, is_heard)| *is_heard), "{found:?}");
}

// What counts after a challenge.

/// "An event that ends the job always counts, and so does a later challenge that came before this call"; "if a date
/// cannot be read, the event counts". The application has read the first challenge itself, so the watch has heard of it
/// by `expect_after` alone.
#[tokio::test(start_paused = true)]
async fn a_late_old_challenge_does_not_hide_the_next_one_if_the_first_was_not_heard() {
    let watch = JobWatch::new(MemoryWatchStore::new());
    let jobs = watch.layer().layer(JobRouter::new());
    let first = EventName::of(&event("JOB-1", Status::Challenged, 5));
    let _ = watch.expect_after(&first).await.unwrap();
    // Nobody waits at the moment.
    let next = undated(1);
    deliver(&jobs, next.clone()).await;
    deliver(&jobs, event("JOB-1", Status::Challenged, 3)).await;
    let expected = watch.expect_after(&first).await.unwrap();
    let heard = expected.within(SECOND).await.unwrap();
    assert_eq!(
        heard.map(|it| it.name().clone()),
        Some(EventName::of(&next))
    );
}

/// "`expect_after(name)` does not count the event of that name, nor events whose readable date is earlier. Everything
/// else counts." The event that is named has no date, so the other challenge is not known to be earlier. It is the one
/// that MX's API shows, and the failsafe reads it.
#[tokio::test(start_paused = true)]
async fn a_challenge_without_a_date_does_not_hide_the_one_before() {
    let watch = JobWatch::new(MemoryWatchStore::new());
    let jobs = watch.layer().layer(JobRouter::new());
    let read = event("JOB-1", Status::Challenged, 7);
    let answer = read.clone();
    let failsafe = Failsafe::new(&watch, jobs.clone(), move |_| {
        let answer = answer.clone();
        async move { Ok::<_, BoxError>(answer) }
    });
    tokio::spawn(failsafe.run_until(pending::<()>()));
    let _ = watch.expect(&guid("JOB-1")).await.unwrap();
    // Nobody waits at the moment.
    deliver(&jobs, read.clone()).await;
    deliver(&jobs, undated(1)).await;
    let expected = watch.expect(&guid("JOB-1")).await.unwrap();
    let seen = expected.within(SECOND).await.unwrap().unwrap();
    let expected = watch.expect_after(seen.name()).await.unwrap();
    let heard = expected.within(50 * MINUTE).await.unwrap();
    let names = (seen.name().clone(), heard.map(|it| it.name().clone()));
    let expected = (EventName::of(&undated(1)), Some(EventName::of(&read)));
    assert_eq!(names, expected);
}

/// "Does not count the event of that name, nor events whose readable date is earlier. Everything else counts": an event
/// that was heard longer ago than the watch looks back does not take part.
#[tokio::test(start_paused = true)]
async fn what_was_heard_too_long_ago_to_count_does_not_hide_a_later_challenge() {
    let watch = JobWatch::new(MemoryWatchStore::new());
    let jobs = watch.layer().layer(JobRouter::new());
    let seen = EventName::of(&event("JOB-1", Status::Challenged, 10));
    let _ = watch.expect_after(&seen).await.unwrap();
    deliver(&jobs, event("JOB-1", Status::Challenged, 100)).await;
    sleep(11 * MINUTE).await;
    let expected = watch.expect_after(&seen).await.unwrap();
    assert!(expected.within(Duration::ZERO).await.unwrap().is_none());
    // Its date is later than that of the event that is named.
    deliver(&jobs, event("JOB-1", Status::Challenged, 50)).await;
    assert!(expected.within(SECOND).await.unwrap().is_some());
}

/// "The event that is named, and earlier ones, do not count": however often they are delivered and read, while the
/// look-back passes, nobody who has seen the challenge is woken, and the next one is heard.
#[tokio::test(start_paused = true)]
async fn duplicates_of_a_challenge_that_was_seen_wake_nobody_and_hide_nothing() {
    for start in [0, 30, 9 * 60, 11 * 60, 50 * 60] {
        let watch = JobWatch::new(MemoryWatchStore::new());
        let jobs = watch.layer().layer(JobRouter::new());
        let challenge = event("JOB-1", Status::Challenged, 5);
        let _ = watch.expect(&guid("JOB-1")).await.unwrap();
        deliver(&jobs, event("JOB-1", Status::Challenged, 3)).await;
        deliver(&jobs, challenge.clone()).await;
        sleep(Duration::from_secs(start)).await;
        let name = EventName::of(&challenge);
        let expected = Arc::new(watch.expect_after(&name).await.unwrap());
        let waiter = expected.clone();
        let waiting = tokio::spawn(async move { waiter.within(HOUR).await.unwrap() });
        for round in 0..40 {
            deliver(&jobs, challenge.clone()).await;
            deliver(&jobs, event("JOB-1", Status::Challenged, 3)).await;
            let again = watch.expect_after(&name).await.unwrap();
            let heard = again.within(Duration::ZERO).await.unwrap();
            assert_eq!(heard, None, "start {start}, round {round}");
            assert!(!waiting.is_finished(), "start {start}, round {round}");
            sleep(70 * SECOND).await;
        }
        deliver(&jobs, event("JOB-1", Status::Challenged, 6)).await;
        let heard = waiting.await.unwrap().map(|it| it.name().clone());
        let next = EventName::of(&event("JOB-1", Status::Challenged, 6));
        assert_eq!(heard, Some(next), "start {start}");
    }
}

/// "A job of which nothing is heard for an hour is given up": a challenge was heard ten minutes ago. Its callback has
/// answered it and expected what follows, as a program may that knows the answers. After the callback it would be so.
#[tokio::test(start_paused = true)]
async fn a_job_whose_challenge_was_answered_within_its_callback_gets_another_hour() {
    let mut found = Vec::new();
    for is_within in [true, false] {
        let watch = JobWatch::new(MemoryWatchStore::new());
        let answering = watch.clone();
        let router = JobRouter::new().on_challenged(move |event| {
            let watch = answering.clone();
            async move {
                if is_within {
                    let _ = watch.expect_after(&EventName::of(&event)).await?;
                }
                Ok::<_, Error>(())
            }
        });
        let jobs = watch.layer().layer(router);
        let given_up = Arc::new(AtomicU32::new(0));
        let told = given_up.clone();
        let failsafe = Failsafe::new(&watch, jobs.clone(), |guid: JobGuid| async move {
            Ok::<_, BoxError>(Job::new(guid, Status::from("RECEIVED")))
        });
        let failsafe = failsafe.on_given_up(move |_| {
            told.fetch_add(1, Ordering::SeqCst);
            async {}
        });
        let running = tokio::spawn(failsafe.run_until(pending::<()>()));
        let _ = watch.expect(&guid("JOB-1")).await.unwrap();
        sleep(50 * MINUTE).await;
        let challenge = event("JOB-1", Status::Challenged, 5);
        deliver(&jobs, challenge.clone()).await;
        if !is_within {
            let name = EventName::of(&challenge);
            let _ = watch.expect_after(&name).await.unwrap();
        }
        sleep(15 * MINUTE).await;
        found.push((is_within, given_up.load(Ordering::SeqCst)));
        running.abort();
    }
    assert_eq!(found, [(true, 0), (false, 0)]);
}

/// "Sets for how long what was heard of a job counts for a later `expect`. … Clones that were made before keep their own
/// time." During a deployment that changes it, a duplicate is delivered to the other replica.
#[tokio::test(start_paused = true)]
async fn a_duplicate_does_not_shorten_the_look_back_of_another_watch() {
    let store = MemoryWatchStore::new();
    let long = JobWatch::new(store.clone()).with_look_back(HOUR);
    let short = JobWatch::new(store).with_look_back(MINUTE);
    let _ = long.expect(&guid("JOB-1")).await.unwrap();
    let completed = event("JOB-1", Status::Completed, 1);
    for watch in [&long, &short] {
        let jobs = watch.layer().layer(JobRouter::new());
        deliver(&jobs, completed.clone()).await;
        sleep(10 * MINUTE).await;
    }
    let expected = long.expect(&guid("JOB-1")).await.unwrap();
    assert!(expected.within(Duration::ZERO).await.unwrap().is_some());
}

// The store in memory.

/// "For as long as the watch looks back, the store also keeps the last 16,384 jobs that have ended, and the last 16,384
/// events of jobs that are not expected." One event of a job that is not expected came before three jobs ended.
#[tokio::test(start_paused = true)]
async fn a_webhook_that_came_before_expect_is_heard_although_many_jobs_have_ended_since() {
    let store = MemoryWatchStore::new().with_recent(3);
    let watch = JobWatch::new(store);
    let jobs = watch.layer().layer(JobRouter::new());
    deliver(&jobs, event("JOB-early", Status::Completed, 1)).await;
    sleep(SECOND).await;
    for number in 0..3 {
        let name = format!("JOB-{number:08}-0000");
        let _ = watch.expect(&guid(&name)).await.unwrap();
        deliver(&jobs, event(&name, Status::Completed, 1)).await;
    }
    let expected = watch.expect(&guid("JOB-early")).await.unwrap();
    assert!(expected.within(Duration::ZERO).await.unwrap().is_some());
}

/// "What was heard of a job in the last ten minutes counts", "no event falls between the two": of two jobs with the
/// same key, of which the documentation says only that it is rare.
#[tokio::test(start_paused = true)]
async fn expecting_a_job_does_not_forget_another_one_with_the_same_key() {
    let watch = JobWatch::new(MemoryWatchStore::new());
    let jobs = watch.layer().layer(JobRouter::new());
    let names = ["JOB-11111111-a-22222222", "JOB-11111111-b-22222222"];
    for name in names {
        deliver(&jobs, event(name, Status::Completed, 1)).await;
    }
    for name in names {
        let expected = watch.expect(&guid(name)).await.unwrap();
        let heard = expected.within(Duration::ZERO).await.unwrap();
        assert!(heard.is_some(), "{name}");
    }
}

/// "Each entry is given to one of them": a call returns an entry once, as the store in Redis does.
#[tokio::test(start_paused = true)]
async fn a_call_claims_an_entry_once_whatever_the_lease() {
    let store = MemoryWatchStore::new();
    let watch = JobWatch::new(store.clone()).with_patience(Duration::ZERO);
    let _ = watch.expect(&guid("JOB-1")).await.unwrap();
    let claimed = store.claim_due(10, Duration::ZERO).await.unwrap();
    assert_eq!(claimed.len(), 1);
}

// The failsafe.

/// "Sets how many jobs are read at once. # Panics If the number is 0."
#[tokio::test(start_paused = true)]
async fn any_number_of_jobs_can_be_read_at_once() {
    let watch = JobWatch::new(MemoryWatchStore::new());
    let jobs = watch.layer().layer(JobRouter::new());
    let failsafe = Failsafe::new(&watch, jobs, |guid: JobGuid| async move {
        Ok::<_, BoxError>(event(guid.as_str(), Status::Completed, 1))
    });
    let failsafe = failsafe.with_concurrency(usize::MAX);
    let running = tokio::spawn(failsafe.run_until(pending::<()>()));
    let expected = watch.expect(&guid("JOB-1")).await.unwrap();
    let heard = expected.within(MINUTE).await.unwrap();
    assert!(heard.is_some(), "it ended: {}", running.is_finished());
}

/// "Shutdown waits for what is under way" (issue); "if one **dies**, another goes on after a minute". In a rolling
/// deployment, one that stops leaves no job claimed that it does not read.
#[tokio::test(start_paused = true)]
async fn a_shutdown_while_a_job_is_claimed_does_not_leave_it_for_a_minute() {
    let store = FaultyStore::default();
    let watch = JobWatch::new(store.clone()).with_patience(Duration::ZERO);
    let jobs = watch.layer().layer(JobRouter::new());
    let read = |guid: JobGuid| async move {
        Ok::<_, BoxError>(event(guid.as_str(), Status::Completed, 1))
    };
    store.faults().claim = Fault::AnswersAfter(2 * SECOND);
    let expected = watch.expect(&guid("JOB-1")).await.unwrap();
    let (stop, stopped) = oneshot::channel::<()>();
    let old = Failsafe::new(&watch, jobs.clone(), read).run_until(stopped);
    let old = tokio::spawn(old);
    sleep(SECOND).await;
    stop.send(()).unwrap();
    old.await.unwrap();
    let new = Failsafe::new(&watch, jobs, read);
    let new = tokio::spawn(new.run_until(pending::<()>()));
    let start = Instant::now();
    assert!(expected.within(10 * MINUTE).await.unwrap().is_some());
    let took = start.elapsed();
    assert!(took < 20 * SECOND, "it is read after {took:?}");
    new.abort();
}

/// "The job is no longer expected once the hook has succeeded. … If the process dies in between, it can be called
/// twice." It does not die: one call to the store fails.
#[tokio::test(start_paused = true)]
async fn a_hook_that_has_succeeded_is_not_called_again_because_the_store_failed_once() {
    let store = FaultyStore::default();
    let watch = JobWatch::new(store.clone());
    let calls = Arc::new(AtomicU32::new(0));
    let (counter, faulty) = (calls.clone(), store.clone());
    let failsafe = Failsafe::new(&watch, JobRouter::new(), |_| async {
        Err::<Job, _>("not found")
    });
    let failsafe = failsafe.on_given_up(move |_| {
        let store = faulty.clone();
        let call = counter.fetch_add(1, Ordering::SeqCst);
        async move {
            if call == 0 {
                store.faults().replace = Fault::Fails;
                tokio::spawn(async move {
                    sleep(SECOND).await;
                    store.faults().replace = Fault::None;
                });
            }
        }
    });
    tokio::spawn(failsafe.with_limit(MINUTE).run_until(pending::<()>()));
    let _ = watch.expect(&guid("JOB-1")).await.unwrap();
    sleep(HOUR).await;
    assert_eq!(calls.load(Ordering::SeqCst), 1);
}

/// "A callback counts as a read while it runs, for at most a minute"; "waits for the reads that are under way and their
/// callbacks"; each job is read once, since "the lease is extended".
#[tokio::test(start_paused = true)]
async fn callbacks_of_half_an_hour_hold_up_nothing_and_the_shutdown_waits_for_them() {
    let watch = JobWatch::new(MemoryWatchStore::new());
    let (started, ended) = (Arc::new(AtomicU32::new(0)), Arc::new(AtomicU32::new(0)));
    let (starting, ending) = (started.clone(), ended.clone());
    let router = JobRouter::new().on_completed(move |_| {
        starting.fetch_add(1, Ordering::SeqCst);
        let ending = ending.clone();
        async move {
            sleep(HOUR / 2).await;
            ending.fetch_add(1, Ordering::SeqCst);
        }
    });
    let jobs = watch.layer().layer(router);
    let reads = Arc::new(AtomicU32::new(0));
    let counter = reads.clone();
    let (stop, stopped) = oneshot::channel::<()>();
    let failsafe = Failsafe::new(&watch, jobs, move |guid: JobGuid| {
        counter.fetch_add(1, Ordering::SeqCst);
        async move { Ok::<_, BoxError>(event(guid.as_str(), Status::Completed, 1)) }
    });
    let running = tokio::spawn(failsafe.run_until(stopped));
    let mut expected = Vec::new();
    for number in 0..40 {
        let job = guid(&format!("JOB-{number}"));
        expected.push(watch.expect(&job).await.unwrap());
    }
    sleep(6 * MINUTE).await;
    assert_eq!(started.load(Ordering::SeqCst), 40);
    stop.send(()).unwrap();
    timeout(HOUR, running).await.unwrap().unwrap();
    assert_eq!(ended.load(Ordering::SeqCst), 40);
    assert_eq!(reads.load(Ordering::SeqCst), 40);
    for expected in expected {
        assert!(expected.within(Duration::ZERO).await.unwrap().is_some());
    }
    assert_eq!(waiting(&watch), 0);
}

/// "At most 128 jobs are told at once; further ones are read again, and told later": each exactly once.
#[tokio::test(start_paused = true)]
async fn more_jobs_than_hooks_are_all_told_once() {
    let watch = JobWatch::new(MemoryWatchStore::new());
    let told = Arc::new(Mutex::new(Vec::new()));
    let (at_once, most) = (Arc::new(AtomicU32::new(0)), Arc::new(AtomicU32::new(0)));
    let (telling, running, highest) = (told.clone(), at_once.clone(), most.clone());
    let failsafe = Failsafe::new(&watch, JobRouter::new(), |_| async {
        Err::<Job, _>("not found")
    });
    let failsafe = failsafe.on_given_up(move |job: GivenUp| {
        telling.lock().unwrap().push(job.job().clone());
        let count = running.fetch_add(1, Ordering::SeqCst) + 1;
        highest.fetch_max(count, Ordering::SeqCst);
        let running = running.clone();
        async move {
            sleep(5 * MINUTE).await;
            running.fetch_sub(1, Ordering::SeqCst);
        }
    });
    tokio::spawn(failsafe.run_until(pending::<()>()));
    for number in 0..600 {
        let _ = watch.expect(&guid(&format!("JOB-{number}"))).await.unwrap();
    }
    sleep(3 * HOUR).await;
    let mut told = told.lock().unwrap().clone();
    assert_eq!(told.len(), 600);
    told.sort();
    told.dedup();
    assert_eq!(told.len(), 600);
    assert!(most.load(Ordering::SeqCst) <= 128);
}
