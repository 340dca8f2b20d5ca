//! Jobs that are given up: once the limit has passed, and the hook was told.

use std::future::pending;
use std::pin::Pin;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll};
use std::time::Duration;

use mx_job_webhook::job::JobGuid;
use mx_job_webhook::watch::{Failsafe, GivenUp, JobWatch};
use mx_job_webhook::{BoxJobService, Job, JobEvent, JobRouter, Status};
use tokio::time::{Instant, sleep};
use tower::{BoxError, Layer as _, Service};

use super::stand_ins::{Fault, FaultyStore, SECOND, deliver, event, guid, heard};
use crate::support::panic_quietly;

type Told = Arc<Mutex<Vec<(Instant, GivenUp)>>>;

#[tokio::test(start_paused = true)]
async fn the_hook_is_told_all_that_is_known_and_the_expectation_ends() {
    let store = FaultyStore::default();
    let watch = JobWatch::new(store.clone());
    let jobs = watch.layer().layer(JobRouter::new());
    let told = Told::default();
    let telling = told.clone();
    let reads = Arc::new(AtomicU32::new(0));
    let counting = reads.clone();
    let read = move |_| {
        let read = counting.fetch_add(1, Ordering::SeqCst);
        async move {
            match read {
                0 => Ok(event(Status::Transferred, "2")),
                _ => Err(BoxError::from("the bank of Jane Doe is closed")),
            }
        }
    };
    let failsafe = Failsafe::new(&watch, jobs.clone(), read).on_given_up(move |given_up| {
        telling.lock().unwrap().push((Instant::now(), given_up));
        async {}
    });
    tokio::spawn(failsafe.run_until(pending::<()>()));
    let challenge = event(Status::Challenged, "1");
    deliver(&jobs, challenge.clone()).await.unwrap();
    let name = mx_job_webhook::ledger::EventName::of(&challenge);
    let start = Instant::now();
    let expected = watch.expect_after(&name).await.unwrap();
    assert!(expected.within(2 * 3_600 * SECOND).await.unwrap().is_none());
    let told = std::mem::take(&mut *told.lock().unwrap());
    let [(at, given_up)] = told.as_slice() else {
        panic!("told {} times", told.len());
    };
    let took = *at - start;
    assert!(took >= 3_600 * SECOND && took <= 3_902 * SECOND, "{took:?}");
    assert_eq!(given_up.job(), &guid("JOB-1"));
    let difference = took.abs_diff(given_up.expected_for());
    assert!(difference < SECOND, "{:?}", given_up.expected_for());
    assert_eq!(given_up.reads(), reads.load(Ordering::SeqCst));
    assert_eq!(given_up.last_status(), Some(&Status::Transferred));
    assert_eq!(given_up.heard().unwrap().name(), &name);
    let error = given_up.error().unwrap().to_string();
    assert_eq!(error, "the bank of Jane Doe is closed");
    assert!(!format!("{given_up:?}").contains("Jane"));
    assert_eq!(store.counts().await, (0, 0));
    // What comes later is heard nevertheless, and the job can be expected again.
    deliver(&jobs, event(Status::Completed, "3")).await.unwrap();
    assert_eq!(heard(&expected).await, Some(Status::Completed));
}

#[tokio::test(start_paused = true)]
async fn a_hook_that_fails_is_called_again_until_it_succeeds() {
    let store = FaultyStore::default();
    let watch = JobWatch::new(store.clone());
    let calls = Arc::new(AtomicU32::new(0));
    let counting = calls.clone();
    let read = |_| async { Err::<Vec<u8>, _>("it failed") };
    let failsafe = Failsafe::new(&watch, BoxJobService::new(JobRouter::new()), read)
        .with_limit(60 * SECOND)
        .on_given_up(move |_| {
            let call = counting.fetch_add(1, Ordering::SeqCst);
            if call == 0 {
                panic_quietly();
            }
            async move {
                match call {
                    1 => Err("it failed"),
                    2 => {
                        panic_quietly();
                        Ok(())
                    }
                    _ => Ok(()),
                }
            }
        });
    tokio::spawn(failsafe.run_until(pending::<()>()));
    let _ = watch.expect(&guid("JOB-1")).await.unwrap();
    sleep(3_600 * SECOND).await;
    assert_eq!(calls.load(Ordering::SeqCst), 4);
    assert_eq!(store.counts().await, (0, 0));
    assert!(
        !store
            .entry(&guid("JOB-1"))
            .await
            .is_some_and(|it| it.is_expected())
    );
}

#[tokio::test(start_paused = true)]
async fn a_hook_that_takes_minutes_is_called_once() {
    let store = FaultyStore::default();
    let watch = JobWatch::new(store.clone());
    let calls = Arc::new(AtomicU32::new(0));
    for _ in 0..3 {
        let counting = calls.clone();
        let read = |_| async { Err::<Vec<u8>, _>("it failed") };
        let failsafe = Failsafe::new(&watch, JobRouter::new(), read)
            .with_limit(SECOND)
            .on_given_up(move |_| {
                counting.fetch_add(1, Ordering::SeqCst);
                sleep(600 * SECOND)
            });
        tokio::spawn(failsafe.run_until(pending::<()>()));
    }
    let _ = watch.expect(&guid("JOB-1")).await.unwrap();
    sleep(3_600 * SECOND).await;
    assert_eq!(calls.load(Ordering::SeqCst), 1);
    assert_eq!(store.counts().await, (0, 0));
}

#[tokio::test(start_paused = true)]
async fn without_a_hook_it_ends_too() {
    let store = FaultyStore::default();
    let watch = JobWatch::new(store.clone());
    let read = |_| async { Err::<Vec<u8>, _>("it failed") };
    tokio::spawn(Failsafe::new(&watch, JobRouter::new(), read).run_until(pending::<()>()));
    let _ = watch.expect(&guid("JOB-1")).await.unwrap();
    sleep(3_000 * SECOND).await;
    assert_eq!(store.counts().await.0, 1);
    sleep(1_000 * SECOND).await;
    assert_eq!(store.counts().await, (0, 0));
}

#[tokio::test(start_paused = true)]
async fn it_is_read_once_more_before_it_is_given_up() {
    let watch = JobWatch::new(FaultyStore::default()).with_patience(100 * SECOND);
    let jobs = watch.layer().layer(JobRouter::new());
    let read = |_| async { Ok::<_, &str>(event(Status::Completed, "1")) };
    let failsafe = Failsafe::new(&watch, jobs, read)
        .with_limit(SECOND)
        .on_given_up(|_| async { panic!("it was heard") });
    tokio::spawn(failsafe.run_until(pending::<()>()));
    let expected = watch.expect(&guid("JOB-1")).await.unwrap();
    assert!(expected.within(200 * SECOND).await.unwrap().is_some());
}

#[tokio::test(start_paused = true)]
async fn a_store_that_is_down_when_the_hook_has_succeeded_tells_it_again() {
    let store = FaultyStore::default();
    let watch = JobWatch::new(store.clone());
    let calls = Arc::new(AtomicU32::new(0));
    let (counting, breaking) = (calls.clone(), store.clone());
    let read = |_| async { Err::<Vec<u8>, _>("it failed") };
    let failsafe = Failsafe::new(&watch, JobRouter::new(), read)
        .with_limit(SECOND)
        .on_given_up(move |_| {
            if counting.fetch_add(1, Ordering::SeqCst) == 0 {
                breaking.all(Fault::Fails);
            }
            async {}
        });
    tokio::spawn(failsafe.run_until(pending::<()>()));
    let _ = watch.expect(&guid("JOB-1")).await.unwrap();
    sleep(100 * SECOND).await;
    assert_eq!(calls.load(Ordering::SeqCst), 1);
    store.all(Fault::None);
    sleep(100 * SECOND).await;
    assert_eq!(calls.load(Ordering::SeqCst), 2);
    assert_eq!(store.counts().await, (0, 0));
}

/// "While the store fails, it tries again, because the hook is told again otherwise." It fails for 20 s, and the lease is a minute.
#[tokio::test(start_paused = true)]
async fn a_store_that_is_down_for_a_moment_when_the_hook_has_succeeded_tells_it_once() {
    let store = FaultyStore::default();
    let watch = JobWatch::new(store.clone());
    let calls = Arc::new(AtomicU32::new(0));
    let (counting, breaking) = (calls.clone(), store.clone());
    let read = |_| async { Err::<Vec<u8>, _>("it failed") };
    let failsafe = Failsafe::new(&watch, JobRouter::new(), read)
        .with_limit(SECOND)
        .on_given_up(move |_| {
            counting.fetch_add(1, Ordering::SeqCst);
            breaking.all(Fault::Fails);
            let store = breaking.clone();
            tokio::spawn(async move {
                sleep(20 * SECOND).await;
                store.all(Fault::None);
            });
            async {}
        });
    tokio::spawn(failsafe.run_until(pending::<()>()));
    let _ = watch.expect(&guid("JOB-1")).await.unwrap();
    sleep(300 * SECOND).await;
    assert_eq!(calls.load(Ordering::SeqCst), 1);
    assert_eq!(store.counts().await, (0, 0));
}

/// The last read is when the time is up, and not after the next pause.
#[tokio::test(start_paused = true)]
async fn a_job_is_given_up_when_its_time_is_up() {
    let watch = JobWatch::new(FaultyStore::default());
    let told = Told::default();
    let telling = told.clone();
    let read = |_| async { Err::<Vec<u8>, _>("it failed") };
    // Reads after 30 s, 60 s, 120 s, 240 s, 480 s.
    let failsafe = Failsafe::new(&watch, JobRouter::new(), read)
        .with_pauses(30 * SECOND, 3_600 * SECOND)
        .with_limit(300 * SECOND)
        .on_given_up(move |given_up| {
            telling.lock().unwrap().push((Instant::now(), given_up));
            async {}
        });
    tokio::spawn(failsafe.run_until(pending::<()>()));
    let start = Instant::now();
    let _ = watch.expect(&guid("JOB-1")).await.unwrap();
    sleep(1_000 * SECOND).await;
    let told = told.lock().unwrap();
    let took = told[0].0 - start;
    assert!(took >= 300 * SECOND && took < 310 * SECOND, "{took:?}");
}

#[tokio::test(start_paused = true)]
async fn a_job_that_is_expected_again_starts_again() {
    let store = FaultyStore::default();
    let watch = JobWatch::new(store.clone());
    let calls = Arc::new(AtomicU32::new(0));
    let counting = calls.clone();
    let read = |_| async { Err::<Vec<u8>, _>("it failed") };
    let failsafe = Failsafe::new(&watch, JobRouter::new(), read)
        .with_limit(60 * SECOND)
        .on_given_up(move |_| {
            counting.fetch_add(1, Ordering::SeqCst);
            async {}
        });
    tokio::spawn(failsafe.run_until(pending::<()>()));
    for times in 1..=3 {
        let _ = watch.expect(&guid("JOB-1")).await.unwrap();
        sleep(400 * SECOND).await;
        assert_eq!(calls.load(Ordering::SeqCst), times);
        assert_eq!(store.counts().await, (0, 0));
    }
}

#[tokio::test(start_paused = true)]
async fn a_reader_that_is_never_ready_does_not_keep_the_hook_from_being_told() {
    let store = FaultyStore::default();
    let watch = JobWatch::new(store.clone());
    let told = Told::default();
    let telling = told.clone();
    let failsafe = Failsafe::from_service(&watch, JobRouter::new(), NeverReady)
        .with_limit(100 * SECOND)
        .on_given_up(move |given_up| {
            telling.lock().unwrap().push((Instant::now(), given_up));
            async {}
        });
    tokio::spawn(failsafe.run_until(pending::<()>()));
    let start = Instant::now();
    let _ = watch.expect(&guid("JOB-1")).await.unwrap();
    sleep(200 * SECOND).await;
    let told = std::mem::take(&mut *told.lock().unwrap());
    let [(at, given_up)] = told.as_slice() else {
        panic!("told {} times", told.len());
    };
    let took = *at - start;
    assert!(took >= 100 * SECOND && took < 106 * SECOND, "{took:?}");
    assert_eq!(given_up.reads(), 0);
    let error = given_up.error().unwrap().to_string();
    assert_eq!(error, "the reader of jobs is not ready");
    assert_eq!(store.counts().await, (0, 0));
}

/// A rate limit can let the last read through later: a job whose time has passed waits five minutes for a reader that is pending, and
/// no longer.
#[tokio::test(start_paused = true)]
async fn a_job_whose_time_has_passed_waits_a_while_for_a_reader_that_is_pending() {
    for (ready_after, is_read) in [(200 * SECOND, true), (10_000 * SECOND, false)] {
        let watch = JobWatch::new(FaultyStore::default());
        let jobs = watch.layer().layer(JobRouter::new());
        let told = Told::default();
        let telling = told.clone();
        let reader = PendingUntil(Box::pin(sleep(ready_after)));
        let failsafe = Failsafe::from_service(&watch, jobs, reader)
            .with_limit(100 * SECOND)
            .on_given_up(move |given_up| {
                telling.lock().unwrap().push((Instant::now(), given_up));
                async {}
            });
        tokio::spawn(failsafe.run_until(pending::<()>()));
        let start = Instant::now();
        let expected = watch.expect(&guid("JOB-1")).await.unwrap();
        let heard = expected.within(1_000 * SECOND).await.unwrap();
        assert_eq!(heard.is_some(), is_read);
        let told = told.lock().unwrap();
        assert_eq!(told.len(), usize::from(!is_read));
        if let Some((at, _)) = told.first() {
            let took = *at - start;
            assert!(took >= 400 * SECOND && took < 500 * SECOND, "{took:?}");
        }
    }
}

struct PendingUntil(Pin<Box<tokio::time::Sleep>>);

impl Service<JobGuid> for PendingUntil {
    type Response = JobEvent;
    type Error = BoxError;
    type Future = std::future::Ready<Result<JobEvent, BoxError>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        self.0.as_mut().poll(context).map(Ok)
    }

    fn call(&mut self, _: JobGuid) -> Self::Future {
        // Each `Sleep` is polled once after its end.
        self.0 = Box::pin(sleep(Duration::ZERO));
        std::future::ready(Ok(event(Status::Completed, "1")))
    }
}

struct NeverReady;

impl Service<JobGuid> for NeverReady {
    type Response = Job;
    type Error = BoxError;
    type Future = std::future::Pending<Result<Job, BoxError>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        Poll::Ready(Err("its worker has died".into()))
    }

    fn call(&mut self, _: JobGuid) -> Self::Future {
        panic!("it is not ready")
    }
}
