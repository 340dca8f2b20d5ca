//! The failsafe: when it reads, which replica does, and what follows.

use std::future::pending;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use mx_job_webhook::ledger::MemoryLedger;
use mx_job_webhook::watch::{Failsafe, JobWatch};
use mx_job_webhook::{Background, DedupeLayer, JobEvent, JobRouter, Receipt, Status};
use tokio::sync::oneshot;
use tokio::time::{Instant, sleep, timeout};
use tower::{Layer as _, service_fn};

use super::stand_ins::{Fault, FaultyStore, SECOND, deliver, event, event_of, guid, heard};

/// When something happened, since the start of the test.
#[derive(Clone)]
struct Times(Instant, Arc<Mutex<Vec<Duration>>>);

impl Times {
    fn new() -> Self {
        Self(Instant::now(), Arc::default())
    }

    fn note(&self) {
        self.1.lock().unwrap().push(self.0.elapsed());
    }

    fn all(&self) -> Vec<Duration> {
        self.1.lock().unwrap().clone()
    }
}

#[tokio::test(start_paused = true)]
async fn it_reads_a_job_that_is_overdue_and_runs_the_same_callback() {
    let store = FaultyStore::default();
    let watch = JobWatch::new(store.clone());
    let (reads, calls) = (Times::new(), Times::new());
    let callback = calls.clone();
    let router = JobRouter::new().on_completed(move |_| {
        callback.note();
        async {}
    });
    let dedupe = DedupeLayer::new(MemoryLedger::new());
    let jobs = watch.layer().layer(dedupe.layer(router));
    // Several replicas, of which one reads.
    for _ in 0..5 {
        let reads = reads.clone();
        let read = move |job: mx_job_webhook::job::JobGuid| {
            reads.note();
            async move { Ok::<_, &str>(event_of(job.as_str(), Status::Completed, "1")) }
        };
        tokio::spawn(Failsafe::new(&watch, jobs.clone(), read).run_until(pending::<()>()));
    }
    let expected = watch.expect(&guid("JOB-1")).await.unwrap();
    let found = expected.within(60 * SECOND).await.unwrap().unwrap();
    assert_eq!(found.status, Status::Completed);
    sleep(3_600 * SECOND).await;
    let read_at = reads.all();
    assert_eq!(read_at.len(), 1);
    assert!(read_at[0] >= 30 * SECOND && read_at[0] <= 31 * SECOND);
    assert_eq!(calls.all().len(), 1);
    assert_eq!(store.counts().await, (0, 0));
    // A webhook that comes late is a duplicate.
    let late = deliver(&jobs, event(Status::Completed, "1")).await;
    assert_eq!(late.unwrap(), Receipt::Duplicate);
}

#[tokio::test(start_paused = true)]
async fn it_does_not_read_what_was_heard_or_rests() {
    let watch = JobWatch::new(FaultyStore::default()).with_patience(10 * SECOND);
    let jobs = watch.layer().layer(JobRouter::new());
    let reads = Times::new();
    let reading = reads.clone();
    let read = move |_| {
        reading.note();
        async { Err::<Vec<u8>, _>("it failed") }
    };
    tokio::spawn(Failsafe::new(&watch, jobs.clone(), read).run_until(pending::<()>()));
    for (job, status) in [("JOB-1", Status::Completed), ("JOB-2", Status::Challenged)] {
        let _ = watch.expect(&guid(job)).await.unwrap();
        sleep(9 * SECOND).await;
        deliver(&jobs, event_of(job, status, "1")).await.unwrap();
    }
    sleep(7_200 * SECOND).await;
    assert!(reads.all().is_empty(), "{:?}", reads.all());
}

#[tokio::test(start_paused = true)]
async fn another_replica_goes_on_when_the_lease_of_a_dead_one_has_expired() {
    let store = FaultyStore::default();
    let watch = JobWatch::new(store.clone());
    let jobs = watch.layer().layer(JobRouter::new());
    let dying = Failsafe::new(&watch, jobs.clone(), |_| pending::<Result<Vec<u8>, &str>>());
    let dying = tokio::spawn(dying.run_until(pending::<()>()));
    let expected = watch.expect(&guid("JOB-1")).await.unwrap();
    sleep(35 * SECOND).await;
    dying.abort();
    let reads = Times::new();
    let reading = reads.clone();
    let read = move |_| {
        reading.note();
        async { Ok::<_, &str>(event(Status::Completed, "1")) }
    };
    tokio::spawn(Failsafe::new(&watch, jobs, read).run_until(pending::<()>()));
    assert!(expected.within(120 * SECOND).await.unwrap().is_some());
    let at = 35 * SECOND + reads.all()[0];
    assert!(at >= 90 * SECOND && at <= 92 * SECOND, "{at:?}");
}

#[tokio::test(start_paused = true)]
async fn the_lease_is_extended_while_a_callback_runs() {
    let watch = JobWatch::new(FaultyStore::default());
    let router = JobRouter::new().on_completed(|_| sleep(20 * 60 * SECOND));
    let jobs = watch.layer().layer(router);
    let reads = Times::new();
    for _ in 0..3 {
        let reads = reads.clone();
        let read = move |_| {
            reads.note();
            async { Ok::<_, &str>(event(Status::Completed, "1")) }
        };
        tokio::spawn(Failsafe::new(&watch, jobs.clone(), read).run_until(pending::<()>()));
    }
    let expected = watch.expect(&guid("JOB-1")).await.unwrap();
    assert!(expected.within(3_600 * SECOND).await.unwrap().is_some());
    assert_eq!(reads.all().len(), 1);
}

#[tokio::test(start_paused = true)]
async fn the_lease_is_extended_while_a_read_takes_longer() {
    let watch = JobWatch::new(FaultyStore::default());
    let jobs = watch.layer().layer(JobRouter::new());
    let reads = Times::new();
    for _ in 0..3 {
        let reads = reads.clone();
        let read = move |_| {
            reads.note();
            async {
                sleep(300 * SECOND).await;
                Ok::<_, &str>(event(Status::Completed, "1"))
            }
        };
        let failsafe = Failsafe::new(&watch, jobs.clone(), read).with_read_timeout(600 * SECOND);
        tokio::spawn(failsafe.run_until(pending::<()>()));
    }
    let expected = watch.expect(&guid("JOB-1")).await.unwrap();
    assert!(expected.within(3_600 * SECOND).await.unwrap().is_some());
    assert_eq!(reads.all().len(), 1);
}

#[tokio::test(start_paused = true)]
async fn concurrent_reads_are_bounded() {
    let watch = JobWatch::new(FaultyStore::default());
    let jobs = watch.layer().layer(JobRouter::new());
    let (running, most) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
    let peak = most.clone();
    let read = move |job: mx_job_webhook::job::JobGuid| {
        peak.fetch_max(running.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
        let running = running.clone();
        async move {
            sleep(10 * SECOND).await;
            running.fetch_sub(1, Ordering::SeqCst);
            Ok::<_, &str>(event_of(job.as_str(), Status::Completed, "1"))
        }
    };
    let failsafe = Failsafe::new(&watch, jobs, read).with_concurrency(3);
    tokio::spawn(failsafe.run_until(pending::<()>()));
    let mut all = Vec::new();
    for number in 0..20 {
        all.push(watch.expect(&guid(&format!("JOB-{number}"))).await.unwrap());
    }
    for expected in all {
        assert!(expected.within(200 * SECOND).await.unwrap().is_some());
    }
    assert_eq!(most.load(Ordering::SeqCst), 3);
}

#[tokio::test(start_paused = true)]
async fn the_pauses_grow_and_are_capped() {
    let watch = JobWatch::new(FaultyStore::default());
    let jobs = watch.layer().layer(JobRouter::new());
    let reads = Times::new();
    let reading = reads.clone();
    let read = move |_| {
        reading.note();
        async { Ok::<_, &str>(event(Status::Requested, "1")) }
    };
    let failsafe = Failsafe::new(&watch, jobs, read).with_limit(3 * 3_600 * SECOND);
    tokio::spawn(failsafe.run_until(pending::<()>()));
    let _ = watch.expect(&guid("JOB-1")).await.unwrap();
    sleep(2 * 3_600 * SECOND).await;
    let times = reads.all();
    let longest = [15, 30, 60, 120, 240, 300, 300];
    for (pair, longest) in times.windows(2).zip(longest) {
        let pause = pair[1] - pair[0];
        let bounds = longest * SECOND / 2..=longest * SECOND + SECOND;
        assert!(bounds.contains(&pause), "{times:?}");
    }
    let many = 7_200 / 301..7_200 / 150 + 8;
    assert!(many.contains(&times.len()), "{}", times.len());
}

#[tokio::test(start_paused = true)]
async fn an_event_in_flight_postpones() {
    let watch = JobWatch::new(FaultyStore::default());
    let router = JobRouter::new().on_completed(|_| sleep(60 * SECOND));
    let dedupe = DedupeLayer::new(MemoryLedger::new());
    let jobs = watch.layer().layer(dedupe.layer(router));
    let reads = Times::new();
    let reading = reads.clone();
    let read = move |_| {
        reading.note();
        async { Ok::<_, &str>(event(Status::Completed, "1")) }
    };
    tokio::spawn(Failsafe::new(&watch, jobs.clone(), read).run_until(pending::<()>()));
    let expected = watch.expect(&guid("JOB-1")).await.unwrap();
    sleep(20 * SECOND).await;
    let webhook = tokio::spawn(async move { deliver(&jobs, event(Status::Completed, "1")).await });
    assert!(expected.within(61 * SECOND).await.unwrap().is_some());
    assert_eq!(webhook.await.unwrap().unwrap(), Receipt::Handled);
    assert!(!reads.all().is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_polled_challenge_is_heard_once_and_then_the_job_is_read_again_after_it_is_resumed() {
    let store = FaultyStore::default();
    let watch = JobWatch::new(store.clone());
    let calls = Arc::new(AtomicUsize::new(0));
    let counting = calls.clone();
    let router = JobRouter::new().on_challenged(move |_| {
        counting.fetch_add(1, Ordering::SeqCst);
        async {}
    });
    let dedupe = DedupeLayer::new(MemoryLedger::new());
    let jobs = watch.layer().layer(dedupe.layer(router));
    let state = Arc::new(Mutex::new(event(Status::Challenged, "5")));
    let (reads, reading) = (Times::new(), state.clone());
    let noting = reads.clone();
    let read = move |_| {
        noting.note();
        let event = reading.lock().unwrap().clone();
        async move { Ok::<_, &str>(event.into_job()) }
    };
    tokio::spawn(Failsafe::new(&watch, jobs, read).run_until(pending::<()>()));
    let expected = watch.expect(&guid("JOB-1")).await.unwrap();
    let challenge = expected.within(60 * SECOND).await.unwrap().unwrap();
    assert_eq!(challenge.status, Status::Challenged);
    sleep(3_000 * SECOND).await;
    assert_eq!(reads.all().len(), 1, "it rests");
    let expected = watch.expect_after(challenge.name()).await.unwrap();
    // MX has not noticed yet, and then answers an older state.
    assert!(expected.within(120 * SECOND).await.unwrap().is_none());
    assert!(reads.all().len() > 2);
    *state.lock().unwrap() = event(Status::Challenged, "4");
    assert!(expected.within(400 * SECOND).await.unwrap().is_none());
    assert_eq!(calls.load(Ordering::SeqCst), 1);
    *state.lock().unwrap() = event(Status::Completed, "6");
    let ended = expected.within(400 * SECOND).await.unwrap().unwrap();
    assert_eq!(ended.status, Status::Completed);
    assert_eq!(store.counts().await, (0, 0));
}

#[tokio::test(start_paused = true)]
async fn jobs_without_the_layer_are_heard_too() {
    let watch = JobWatch::new(FaultyStore::default());
    let read = |_| async { Ok::<_, &str>(event(Status::Denied, "1")) };
    let failsafe = Failsafe::new(&watch, JobRouter::new(), read);
    tokio::spawn(failsafe.run_until(pending::<()>()));
    let expected = watch.expect(&guid("JOB-1")).await.unwrap();
    let found = expected.within(60 * SECOND).await.unwrap().unwrap();
    assert_eq!(found.status, Status::Denied);
}

#[tokio::test(start_paused = true)]
async fn a_background_without_a_permit_postpones() {
    let watch = JobWatch::new(FaultyStore::default());
    let background = Background::new().with_capacity(1);
    let busy = background.run(
        service_fn(|_: JobEvent| async {
            sleep(100 * SECOND).await;
            Ok::<_, std::convert::Infallible>(Receipt::Handled)
        }),
        event_of("JOB-0", Status::Completed, "1"),
    );
    let busy = tokio::spawn(busy);
    let jobs = watch.layer().layer(JobRouter::new());
    let read = |_| async { Ok::<_, &str>(event(Status::Completed, "1")) };
    let failsafe = Failsafe::new(&watch, jobs, read).with_background(background);
    tokio::spawn(failsafe.run_until(pending::<()>()));
    let expected = watch.expect(&guid("JOB-1")).await.unwrap();
    assert!(expected.within(99 * SECOND).await.unwrap().is_none());
    assert!(expected.within(120 * SECOND).await.unwrap().is_some());
    busy.await.unwrap().unwrap();
}

#[tokio::test(start_paused = true)]
async fn shutdown_waits_for_what_is_under_way_and_claims_nothing_more() {
    let store = FaultyStore::default();
    let watch = JobWatch::new(store.clone());
    let router = JobRouter::new().on_completed(|_| sleep(20 * SECOND));
    let jobs = watch.layer().layer(router);
    let reads = Times::new();
    let reading = reads.clone();
    let read = move |job: mx_job_webhook::job::JobGuid| {
        reading.note();
        async move {
            sleep(10 * SECOND).await;
            Ok::<_, &str>(event_of(job.as_str(), Status::Completed, "1"))
        }
    };
    let (shutdown, signal) = oneshot::channel::<()>();
    let failsafe = tokio::spawn(Failsafe::new(&watch, jobs, read).run_until(signal));
    let first = watch.expect(&guid("JOB-1")).await.unwrap();
    sleep(5 * SECOND).await;
    let _ = watch.expect(&guid("JOB-2")).await.unwrap();
    sleep(29 * SECOND).await;
    shutdown.send(()).unwrap();
    failsafe.await.unwrap();
    assert_eq!(heard(&first).await, Some(Status::Completed));
    assert_eq!(reads.all().len(), 1);
    // The other one is left to other replicas at once.
    assert_eq!(store.counts().await, (1, 1));
}

/// "A claim is not cancelled": the job is read nevertheless, or it would wait for the lease to expire.
#[tokio::test(start_paused = true)]
async fn a_job_that_is_being_claimed_at_the_shutdown_is_read() {
    let store = FaultyStore::default();
    let watch = JobWatch::new(store.clone());
    let jobs = watch.layer().layer(JobRouter::new());
    let read = |_| async { Ok::<_, &str>(event(Status::Completed, "1")) };
    let (shutdown, signal) = oneshot::channel::<()>();
    let failsafe = tokio::spawn(Failsafe::new(&watch, jobs, read).run_until(signal));
    store.faults().claim = Fault::AnswersAfter(3 * SECOND);
    let expected = watch.expect(&guid("JOB-1")).await.unwrap();
    sleep(31 * SECOND).await;
    while store.counts().await != (1, 0) {
        sleep(SECOND / 10).await;
    }
    shutdown.send(()).unwrap();
    failsafe.await.unwrap();
    assert_eq!(heard(&expected).await, Some(Status::Completed));
}

/// `with_lease`: another replica goes on after this time.
#[tokio::test(start_paused = true)]
async fn a_lease_of_ten_minutes_is_one_from_the_claim_on() {
    let watch = JobWatch::new(FaultyStore::default());
    let jobs = watch.layer().layer(JobRouter::new());
    let dying = Failsafe::new(&watch, jobs.clone(), |_| pending::<Result<Vec<u8>, &str>>());
    let dying = tokio::spawn(dying.with_lease(600 * SECOND).run_until(pending::<()>()));
    let start = Instant::now();
    let expected = watch.expect(&guid("JOB-1")).await.unwrap();
    sleep(35 * SECOND).await;
    dying.abort();
    let read = |_| async { Ok::<_, &str>(event(Status::Completed, "1")) };
    tokio::spawn(Failsafe::new(&watch, jobs, read).run_until(pending::<()>()));
    assert!(expected.within(1_000 * SECOND).await.unwrap().is_some());
    let took = start.elapsed();
    assert!(took >= 630 * SECOND && took <= 635 * SECOND, "{took:?}");
}

/// A callback that takes minutes keeps no other job from being read, and may take longer than a job is expected.
#[tokio::test(start_paused = true)]
async fn a_callback_that_takes_minutes_keeps_no_other_job_from_being_read() {
    let watch = JobWatch::new(FaultyStore::default());
    let router = JobRouter::new().on_completed(|event: JobEvent| async move {
        let takes = if event.guid.as_str() == "JOB-1" {
            1_200
        } else {
            0
        };
        sleep(takes * SECOND).await;
    });
    let jobs = watch.layer().layer(router);
    let read = |job: mx_job_webhook::job::JobGuid| async move {
        Ok::<_, &str>(event_of(job.as_str(), Status::Completed, "1"))
    };
    let told = Arc::new(AtomicUsize::new(0));
    let telling = told.clone();
    let failsafe = Failsafe::new(&watch, jobs, read)
        .with_concurrency(1)
        .with_limit(600 * SECOND)
        .on_given_up(move |_| {
            telling.fetch_add(1, Ordering::SeqCst);
            async {}
        });
    tokio::spawn(failsafe.run_until(pending::<()>()));
    let start = Instant::now();
    let slow = watch.expect(&guid("JOB-1")).await.unwrap();
    sleep(5 * SECOND).await;
    let other = watch.expect(&guid("JOB-2")).await.unwrap();
    assert!(other.within(1_000 * SECOND).await.unwrap().is_some());
    let took = start.elapsed();
    assert!(took <= 100 * SECOND, "{took:?}");
    assert!(slow.within(2_000 * SECOND).await.unwrap().is_some());
    assert_eq!(told.load(Ordering::SeqCst), 0);
}

/// The callback has succeeded, and the store is down when the watch would hear of that.
#[tokio::test(start_paused = true)]
async fn a_store_that_fails_after_the_callback_is_told_to_the_hook_of_errors() {
    let store = FaultyStore::default();
    let watch = JobWatch::new(store.clone());
    let breaking = store.clone();
    // It has no layer of the watch.
    let jobs = JobRouter::new().on_completed(move |_| {
        breaking.faults().replace = Fault::Fails;
        async {}
    });
    let errors = Arc::new(Mutex::new(Vec::new()));
    let (told, mended) = (errors.clone(), store.clone());
    let read = |_| async { Ok::<_, &str>(event(Status::Completed, "1")) };
    let failsafe = Failsafe::new(&watch, jobs, read).on_error(move |job, error| {
        mended.faults().replace = Fault::None;
        told.lock().unwrap().push(format!("{job}: {error}"));
    });
    tokio::spawn(failsafe.run_until(pending::<()>()));
    let _ = watch.expect(&guid("JOB-1")).await.unwrap();
    sleep(40 * SECOND).await;
    let errors = errors.lock().unwrap().clone();
    let first = errors.first().expect("the store has failed");
    assert!(first.starts_with("JOB-1: "), "{first}");
}

#[tokio::test(start_paused = true)]
async fn a_run_that_is_dropped_loses_nothing_and_its_callbacks_finish() {
    let store = FaultyStore::default();
    let watch = JobWatch::new(store.clone());
    let ended = Arc::new(AtomicUsize::new(0));
    let counting = ended.clone();
    let router = JobRouter::new().on_completed(move |_| {
        let ended = counting.clone();
        async move {
            sleep(10 * SECOND).await;
            ended.fetch_add(1, Ordering::SeqCst);
        }
    });
    let dedupe = DedupeLayer::new(MemoryLedger::new());
    let jobs = watch.layer().layer(dedupe.layer(router));
    // Dropped while it reads, and while the callback runs.
    for (number, after) in [32, 36].into_iter().enumerate() {
        let job = format!("JOB-{number}");
        let read = |job: mx_job_webhook::job::JobGuid| async move {
            sleep(4 * SECOND).await;
            Ok::<_, &str>(event_of(job.as_str(), Status::Completed, "1"))
        };
        let run = Failsafe::new(&watch, jobs.clone(), read).run_until(pending::<()>());
        let expected = watch.expect(&guid(&job)).await.unwrap();
        assert!(timeout(after * SECOND, run).await.is_err());
        sleep(20 * SECOND).await;
        assert_eq!(heard(&expected).await.is_some(), number == 1, "{job}");
        let next = Failsafe::new(&watch, jobs.clone(), read).run_until(pending::<()>());
        let next = tokio::spawn(next);
        assert!(expected.within(100 * SECOND).await.unwrap().is_some());
        next.abort();
        assert_eq!(ended.load(Ordering::SeqCst), number + 1);
    }
    assert_eq!(store.counts().await, (0, 0));
}

#[tokio::test(start_paused = true)]
async fn a_store_with_faults_delays_and_the_job_is_heard() {
    for fault in [
        Fault::Fails,
        Fault::Hangs,
        Fault::Panics,
        Fault::LosesTheAnswer,
    ] {
        let store = FaultyStore::default();
        let watch = JobWatch::new(store.clone());
        let jobs = watch
            .layer()
            .layer(DedupeLayer::new(MemoryLedger::new()).layer(JobRouter::new()));
        let read = |_| async {
            sleep(SECOND).await;
            Ok::<_, &str>(event(Status::Completed, "1"))
        };
        tokio::spawn(Failsafe::new(&watch, jobs, read).run_until(pending::<()>()));
        let expected = watch.expect(&guid("JOB-1")).await.unwrap();
        for which in 0..4 {
            {
                let mut faults = store.faults();
                *faults = Default::default();
                match which {
                    0 => faults.count = fault,
                    1 => faults.claim = fault,
                    2 => faults.replace = fault,
                    _ => faults.load = fault,
                }
            }
            sleep(25 * SECOND).await;
        }
        store.all(Fault::None);
        let found = expected.within(400 * SECOND).await.unwrap();
        assert!(found.is_some(), "{fault:?}");
        sleep(100 * SECOND).await;
        assert_eq!(store.counts().await, (0, 0), "{fault:?}");
    }
}
