//! Readers that fail, hang, panic, are limited, or answer something else.

use std::convert::Infallible;
use std::future::{Ready, pending, ready};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll};

use mx_job_webhook::job::JobGuid;
use mx_job_webhook::testing::Sample;
use mx_job_webhook::watch::{Failsafe, JobWatch, MemoryWatchStore, ReadFn};
use mx_job_webhook::{Job, JobEvent, JobRouter, Status};
use tokio::time::{Instant, sleep};
use tower::{BoxError, Layer as _, Service, ServiceBuilder};

use super::stand_ins::{SECOND, event, event_of, guid};
use crate::support::panic_quietly;

/// Reads that go wrong are followed by one that does not.
#[tokio::test(start_paused = true)]
async fn a_read_that_goes_wrong_postpones_and_the_next_one_is_heard() {
    let wrong = [
        "fails",
        "hangs",
        "panics at once",
        "panics later",
        "another job",
        "not JSON",
        "no job",
        "empty",
        "not yet",
        "unknown status",
    ];
    for wrong in wrong {
        let watch = JobWatch::new(MemoryWatchStore::new());
        let ran = Arc::new(Mutex::new(Vec::new()));
        let noting = ran.clone();
        let router = JobRouter::new().on_completed(move |event: JobEvent| {
            noting.lock().unwrap().push(event.guid.to_string());
            async {}
        });
        let jobs = watch.layer().layer(router);
        let attempts = Arc::new(AtomicU32::new(0));
        let counting = attempts.clone();
        let read = move |_: JobGuid| {
            let attempt = counting.fetch_add(1, Ordering::SeqCst);
            if attempt == 0 && wrong == "panics at once" {
                panic_quietly();
            }
            async move {
                if attempt > 0 {
                    return Ok(event(Status::Halted, "1").body().to_vec());
                }
                match wrong {
                    "fails" => return Err(BoxError::from("it failed")),
                    "hangs" => pending().await,
                    "panics later" => panic_quietly(),
                    _ => {}
                }
                Ok(match wrong {
                    "another job" => event_of("JOB-2", Status::Completed, "1").body().to_vec(),
                    "not JSON" => b"<html>".to_vec(),
                    "no job" => b"{}".to_vec(),
                    "empty" => Vec::new(),
                    "not yet" => event(Status::Transferred, "1").body().to_vec(),
                    _ => event("ANYTHING".into(), "1").body().to_vec(),
                })
            }
        };
        tokio::spawn(Failsafe::new(&watch, jobs, read).run_until(pending::<()>()));
        let expected = watch.expect(&guid("JOB-1")).await.unwrap();
        let other = watch.expect(&guid("JOB-3")).await.unwrap();
        let found = expected.within(100 * SECOND).await.unwrap().unwrap();
        assert_eq!(found.status, Status::Halted, "{wrong}");
        assert_eq!(found.guid, guid("JOB-1"));
        let ran = ran.lock().unwrap();
        assert!(!ran.iter().any(|job| job == "JOB-2"), "{wrong}: {ran:?}");
        drop(other);
    }
}

#[tokio::test(start_paused = true)]
async fn it_answers_a_job_or_bytes_of_any_kind() {
    async fn check<T: Into<mx_job_webhook::watch::ReadJob> + Send + 'static>(
        answer: impl Fn(Sample) -> T + Send + 'static,
    ) {
        let watch = JobWatch::new(MemoryWatchStore::new());
        let jobs = watch.layer().layer(JobRouter::new());
        let read = move |_| ready(Ok::<_, Infallible>(answer(Sample::completed())));
        tokio::spawn(Failsafe::new(&watch, jobs, read).run_until(pending::<()>()));
        let job = Sample::completed().event().unwrap().guid.clone();
        let expected = watch.expect(&job).await.unwrap();
        let found = expected.within(40 * SECOND).await.unwrap().unwrap();
        assert_eq!(found.job(), Sample::completed().event().unwrap().job());
    }
    check(|sample| sample.body()).await;
    check(|sample| sample.body().to_vec()).await;
    check(|sample| String::from_utf8(sample.body().to_vec()).unwrap()).await;
    check(|sample| sample.event().unwrap()).await;
    check(|sample| -> Job { sample.event().unwrap().into_job() }).await;
}

#[tokio::test(start_paused = true)]
async fn the_webhook_and_the_read_of_one_state_are_one_event() {
    use mx_job_webhook::DedupeLayer;
    use mx_job_webhook::ledger::MemoryLedger;
    let watch = JobWatch::new(MemoryWatchStore::new());
    let calls = Arc::new(AtomicU32::new(0));
    let counting = calls.clone();
    let router = JobRouter::new().on_completed(move |_| {
        let call = counting.fetch_add(1, Ordering::SeqCst);
        // The first attempt has its effect, and the sender does not hear of it.
        async move { if call == 0 { Ok(()) } else { Err("twice") } }
    });
    let dedupe = DedupeLayer::new(MemoryLedger::new());
    let inner = dedupe.layer(router);
    let jobs = watch.layer().layer(inner.clone());
    let read = |_| async { Ok::<_, Infallible>(Sample::completed().body()) };
    tokio::spawn(Failsafe::new(&watch, jobs, read).run_until(pending::<()>()));
    let sample = Sample::completed().event().unwrap();
    let expected = watch.expect(&sample.guid).await.unwrap();
    // The watch did not hear of this one, as if its process died in between.
    super::stand_ins::deliver(&inner, sample).await.unwrap();
    assert!(expected.within(40 * SECOND).await.unwrap().is_some());
    assert_eq!(calls.load(Ordering::SeqCst), 1);
}

#[tokio::test(start_paused = true)]
async fn a_rate_limit_around_the_reader_is_kept() {
    let watch = JobWatch::new(MemoryWatchStore::new());
    let jobs = watch.layer().layer(JobRouter::new());
    let reads: Arc<Mutex<Vec<Instant>>> = Arc::default();
    let noting = reads.clone();
    let reader = ServiceBuilder::new()
        .rate_limit(1, 10 * SECOND)
        .service(ReadFn::new(move |job: JobGuid| {
            noting.lock().unwrap().push(Instant::now());
            ready(Ok::<_, BoxError>(event_of(
                job.as_str(),
                Status::Completed,
                "1",
            )))
        }));
    let failsafe = Failsafe::from_service(&watch, jobs, reader);
    tokio::spawn(failsafe.run_until(pending::<()>()));
    let mut all = Vec::new();
    for number in 0..10 {
        all.push(watch.expect(&guid(&format!("JOB-{number}"))).await.unwrap());
    }
    for expected in all {
        assert!(expected.within(200 * SECOND).await.unwrap().is_some());
    }
    let reads = reads.lock().unwrap().clone();
    assert_eq!(reads.len(), 10);
    for pair in reads.windows(2) {
        assert!(pair[1] - pair[0] >= 10 * SECOND - std::time::Duration::from_millis(5));
    }
}

/// A service that is not ready for some time.
#[derive(Clone)]
struct Unready {
    until: Instant,
    panics: bool,
}

impl Service<JobGuid> for Unready {
    type Response = Job;
    type Error = BoxError;
    type Future = Ready<Result<Job, BoxError>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        if Instant::now() >= self.until {
            return Poll::Ready(Ok(()));
        }
        if self.panics {
            panic_quietly();
        }
        Poll::Ready(Err("not ready".into()))
    }

    fn call(&mut self, job: JobGuid) -> Self::Future {
        assert!(
            Instant::now() >= self.until,
            "called while it was not ready"
        );
        ready(Ok(event_of(job.as_str(), Status::Completed, "1").into_job()))
    }
}

#[tokio::test(start_paused = true)]
async fn a_reader_that_is_not_ready_delays_this_replica_and_not_the_others() {
    for panics in [false, true] {
        for has_another in [false, true] {
            let watch = JobWatch::new(MemoryWatchStore::new());
            let jobs = watch.layer().layer(JobRouter::new());
            let now = Instant::now();
            let unready = Unready {
                until: now + 300 * SECOND,
                panics,
            };
            let failsafe = Failsafe::from_service(&watch, jobs.clone(), unready);
            tokio::spawn(failsafe.run_until(pending::<()>()));
            if has_another {
                let ready = Unready { until: now, panics };
                let failsafe = Failsafe::from_service(&watch, jobs, ready);
                tokio::spawn(failsafe.run_until(pending::<()>()));
            }
            let expected = watch.expect(&guid("JOB-1")).await.unwrap();
            assert!(expected.within(400 * SECOND).await.unwrap().is_some());
            let took = now.elapsed();
            let most = if has_another { 32 } else { 306 };
            assert!(took <= most * SECOND, "{panics} {has_another} {took:?}");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn an_older_state_does_not_end_what_is_expected() {
    use mx_job_webhook::DedupeLayer;
    use mx_job_webhook::ledger::MemoryLedger;
    let watch = JobWatch::new(MemoryWatchStore::new());
    let log = crate::support::Log::default();
    let logging = log.clone();
    let router = JobRouter::new().on_challenged(move |event: mx_job_webhook::JobEvent| {
        logging.push(format!(
            "{:?}",
            event.updated_at.map(|at| at.unix_seconds())
        ));
        async {}
    });
    let jobs = watch
        .layer()
        .layer(DedupeLayer::new(MemoryLedger::new()).layer(router));
    let newer = event(Status::Challenged, "5");
    super::stand_ins::deliver(&jobs, newer.clone())
        .await
        .unwrap();
    // The read answers a challenge before that, which was never delivered.
    let read = |_| async { Ok::<_, Infallible>(event(Status::Challenged, "4")) };
    tokio::spawn(Failsafe::new(&watch, jobs, read).run_until(pending::<()>()));
    let name = mx_job_webhook::ledger::EventName::of(&newer);
    let expected = watch.expect_after(&name).await.unwrap();
    assert!(expected.within(300 * SECOND).await.unwrap().is_none());
    sleep(SECOND).await;
    assert_eq!(log.entries(), ["Some(5)"]);
}
