//! Waiting: any number, on any replica, dropped at any time.

use std::sync::Arc;
use std::time::Duration;

use mx_job_webhook::job::JobGuid;
use mx_job_webhook::ledger::EventName;
use mx_job_webhook::watch::{
    Counts, JobWatch, MemoryWatchStore, Replaced, Stored, Update, Wake, WatchStore,
};
use mx_job_webhook::{ErrorKind, JobRouter, Status};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, timeout};
use tower::Layer as _;

use super::stand_ins::{
    Fault, FaultyStore, Listening, SECOND, deliver, event, event_of, guid, heard, waiting,
};

#[tokio::test(start_paused = true)]
async fn all_who_wait_hear_at_once_on_every_replica_and_none_is_left() {
    let store = FaultyStore::default();
    let replicas = [0; 3].map(|_| JobWatch::new(store.clone()));
    let mut waiters = JoinSet::new();
    for number in 0..300 {
        let watch = replicas[number % 3].clone();
        waiters.spawn(async move {
            let expected = watch.expect(&guid("JOB-1")).await.unwrap();
            expected.within(60 * SECOND).await.unwrap()
        });
    }
    sleep(SECOND).await;
    assert_eq!(replicas.each_ref().map(waiting), [100; 3]);
    let jobs = replicas[0].layer().layer(JobRouter::new());
    let start = Instant::now();
    deliver(&jobs, event(Status::Completed, "1")).await.unwrap();
    while let Some(heard) = waiters.join_next().await {
        assert_eq!(heard.unwrap().unwrap().status, Status::Completed);
    }
    assert!(start.elapsed() < Duration::from_millis(50));
    assert_eq!(replicas.each_ref().map(waiting), [0; 3]);
}

#[tokio::test(start_paused = true)]
async fn a_waiter_that_is_dropped_leaks_nothing() {
    let watch = JobWatch::new(MemoryWatchStore::new());
    let jobs = watch.layer().layer(JobRouter::new());
    let expected = watch.expect(&guid("JOB-1")).await.unwrap();
    for millis in [0, 1, 999, 5_000, 5_001, 20_000] {
        let waits = expected.within(60 * SECOND);
        assert!(timeout(Duration::from_millis(millis), waits).await.is_err());
        assert_eq!(waiting(&watch), 0);
    }
    // Not even polled.
    drop(expected.within(SECOND));
    assert_eq!(waiting(&watch), 0);
    // Another one still hears.
    let dropped = expected.within(60 * SECOND);
    let (dropped, kept) = tokio::join!(timeout(SECOND, dropped), async {
        let kept = expected.within(60 * SECOND);
        let delivery = async {
            sleep(2 * SECOND).await;
            deliver(&jobs, event(Status::Completed, "1")).await.unwrap();
        };
        tokio::join!(kept, delivery).0
    });
    assert!(dropped.is_err());
    assert!(kept.unwrap().is_some());
    assert_eq!(waiting(&watch), 0);
    // Nothing was lost for who asks again.
    assert!(heard(&expected).await.is_some());
}

#[tokio::test(start_paused = true)]
async fn those_who_have_seen_different_events_hear_different_ones() {
    let watch = JobWatch::new(MemoryWatchStore::new());
    let jobs = watch.layer().layer(JobRouter::new());
    let [first, second] = ["1", "2"].map(|date| event(Status::Challenged, date));
    let plain = watch.expect(&guid("JOB-1")).await.unwrap();
    deliver(&jobs, first.clone()).await.unwrap();
    let after_first = watch.expect_after(&EventName::of(&first)).await.unwrap();
    deliver(&jobs, second.clone()).await.unwrap();
    let after_second = watch.expect_after(&EventName::of(&second)).await.unwrap();
    assert_eq!(heard(&plain).await, Some(Status::Challenged));
    assert_eq!(heard(&after_first).await, Some(Status::Challenged));
    let waiter = tokio::spawn(async move { after_second.within(60 * SECOND).await });
    sleep(SECOND).await;
    assert!(!waiter.is_finished());
    deliver(&jobs, event(Status::Completed, "3")).await.unwrap();
    let ended = waiter.await.unwrap().unwrap().unwrap();
    assert_eq!(ended.status, Status::Completed);
}

#[tokio::test(start_paused = true)]
async fn waiting_ends_in_time() {
    let watch = JobWatch::new(MemoryWatchStore::new());
    let expected = watch.expect(&guid("JOB-1")).await.unwrap();
    for patience in [
        Duration::ZERO,
        Duration::from_millis(1),
        SECOND,
        61 * SECOND,
    ] {
        let start = Instant::now();
        assert!(expected.within(patience).await.unwrap().is_none());
        assert!(start.elapsed() >= patience);
        assert!(start.elapsed() <= patience + Duration::from_millis(2));
    }
}

#[tokio::test(start_paused = true)]
async fn a_patience_without_end_is_possible() {
    let watch = JobWatch::new(MemoryWatchStore::new());
    let jobs = watch.layer().layer(JobRouter::new());
    let expected = watch.expect(&guid("JOB-1")).await.unwrap();
    let waiter = tokio::spawn(async move { expected.within(Duration::MAX).await });
    sleep(3_600 * SECOND).await;
    deliver(&jobs, event(Status::Completed, "1")).await.unwrap();
    assert!(waiter.await.unwrap().unwrap().is_some());
}

#[tokio::test(start_paused = true)]
async fn a_listener_that_does_not_work_only_delays() {
    for listening in [
        Listening::Hangs,
        Listening::Fails,
        Listening::Ends,
        Listening::Panics,
    ] {
        let store = FaultyStore::default();
        store.faults().listening = listening;
        let (here, there) = (JobWatch::new(store.clone()), JobWatch::new(store.clone()));
        let jobs = there.layer().layer(JobRouter::new());
        let expected = here.expect(&guid("JOB-1")).await.unwrap();
        let waiter = tokio::spawn(async move {
            let heard = expected.within(60 * SECOND).await.unwrap();
            (heard.is_some(), Instant::now())
        });
        sleep(7 * SECOND).await;
        let start = Instant::now();
        deliver(&jobs, event(Status::Completed, "1")).await.unwrap();
        let (is_heard, at) = waiter.await.unwrap();
        assert!(is_heard, "{listening:?}");
        assert!(at - start <= 11 * SECOND, "{listening:?}: {:?}", at - start);
        // If it works again, it is used again.
        store.faults().listening = Listening::Works;
        if listening == Listening::Hangs {
            continue;
        }
        let expected = here.expect(&guid("JOB-2")).await.unwrap();
        let waiter = tokio::spawn(async move {
            let heard = expected.within(60 * SECOND).await.unwrap();
            (heard.is_some(), Instant::now())
        });
        sleep(12 * SECOND).await;
        let start = Instant::now();
        deliver(&jobs, event_of("JOB-2", Status::Completed, "1"))
            .await
            .unwrap();
        let (is_heard, at) = waiter.await.unwrap();
        assert!(is_heard && at - start < SECOND, "{listening:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_lost_notification_only_delays_even_if_others_keep_coming() {
    let store = FaultyStore::default();
    let (here, there) = (JobWatch::new(store.clone()), JobWatch::new(store.clone()));
    let jobs = there.layer().layer(JobRouter::new());
    // Other jobs are heard of twice a second, so there is always something to read.
    let busy = tokio::spawn({
        let (here, jobs) = (here.clone(), jobs.clone());
        async move {
            for number in 0.. {
                let name = format!("BUSY-{number}");
                let expected = here.expect(&guid(&name)).await.unwrap();
                let (heard, ()) = tokio::join!(expected.within(60 * SECOND), async {
                    sleep(SECOND / 2).await;
                    deliver(&jobs, event_of(&name, Status::Completed, "1"))
                        .await
                        .unwrap();
                });
                heard.unwrap().unwrap();
            }
        }
    });
    let expected = here.expect(&guid("JOB-1")).await.unwrap();
    let waiter = tokio::spawn(async move { expected.within(600 * SECOND).await });
    sleep(7 * SECOND).await;
    // The notification of this one is lost: the store is changed without one.
    use mx_job_webhook::watch::{Due, MemoryWatchStore, Update, WatchStore as _};
    let other = MemoryWatchStore::new();
    let elsewhere = JobWatch::new(other.clone());
    let elsewhere = elsewhere.layer().layer(JobRouter::new());
    deliver(&elsewhere, event(Status::Completed, "1"))
        .await
        .unwrap();
    let job = [guid("JOB-1")];
    let entry = other.load(&job).await.unwrap().remove(0).1.entry;
    let revision = store.load(&job).await.unwrap().remove(0).1.revision;
    let update = Update {
        entry: &entry,
        due: Due::Never,
        keep: Some(600 * SECOND),
        wakes: false,
    };
    store
        .replace(&job[0], Some(revision), update)
        .await
        .unwrap();
    let start = Instant::now();
    assert!(waiter.await.unwrap().unwrap().is_some());
    assert!(start.elapsed() < 15 * SECOND, "{:?}", start.elapsed());
    busy.abort();
}

#[tokio::test(start_paused = true)]
async fn while_the_store_is_down_it_waits_on() {
    for fault in [
        Fault::Fails,
        Fault::Hangs,
        Fault::Panics,
        Fault::LosesTheAnswer,
    ] {
        let store = FaultyStore::default();
        let (here, there) = (JobWatch::new(store.clone()), JobWatch::new(store.clone()));
        let jobs = there.layer().layer(JobRouter::new());
        let expected = here.expect(&guid("JOB-1")).await.unwrap();
        store.all(fault);
        let waiter = tokio::spawn(async move {
            let heard = expected.within(120 * SECOND).await;
            (heard, Instant::now())
        });
        sleep(40 * SECOND).await;
        assert!(!waiter.is_finished(), "{fault:?}");
        store.all(Fault::None);
        let start = Instant::now();
        deliver(&jobs, event(Status::Completed, "1")).await.unwrap();
        let (heard, at) = waiter.await.unwrap();
        assert!(heard.unwrap().is_some(), "{fault:?}");
        assert!(at - start <= 15 * SECOND, "{fault:?}: {:?}", at - start);
        assert_eq!(waiting(&here), 0);
    }
}

#[tokio::test(start_paused = true)]
async fn if_the_store_is_down_until_the_end_that_is_an_error_in_bounded_time() {
    for fault in [
        Fault::Fails,
        Fault::Hangs,
        Fault::Panics,
        Fault::LosesTheAnswer,
    ] {
        for patience in [Duration::ZERO, SECOND, 20 * SECOND] {
            let store = FaultyStore::default();
            let watch = JobWatch::new(store.clone());
            let expected = watch.expect(&guid("JOB-1")).await.unwrap();
            store.all(fault);
            let start = Instant::now();
            let error = expected.within(patience).await.unwrap_err();
            assert_eq!(error.kind(), ErrorKind::WatchUnavailable);
            let took = start.elapsed();
            assert!(took >= patience, "{fault:?} {patience:?} {took:?}");
            // At most one call to the store more than the patience.
            let most = patience + Duration::from_millis(5_010);
            assert!(took <= most, "{fault:?} {patience:?} {took:?}");
            assert_eq!(waiting(&watch), 0);
        }
    }
}

#[tokio::test(start_paused = true)]
async fn it_hears_while_its_first_read_hangs() {
    let store = FaultyStore::default();
    let watch = JobWatch::new(store.clone());
    let jobs = watch.layer().layer(JobRouter::new());
    let expected = watch.expect(&guid("JOB-1")).await.unwrap();
    store.faults().load = Fault::Hangs;
    let waiter = tokio::spawn(async move {
        let heard = expected.within(60 * SECOND).await.unwrap();
        (heard.is_some(), Instant::now())
    });
    sleep(SECOND).await;
    let start = Instant::now();
    deliver(&jobs, event(Status::Completed, "1")).await.unwrap();
    let (is_heard, at) = waiter.await.unwrap();
    assert!(is_heard);
    assert!(at - start < SECOND, "{:?}", at - start);
}

#[tokio::test(start_paused = true)]
async fn a_watch_that_is_dropped_stops_listening() {
    let store = MemoryWatchStore::new();
    let watch = JobWatch::new(store);
    let before = tokio::runtime::Handle::current()
        .metrics()
        .num_alive_tasks();
    let expected = watch.expect(&guid("JOB-1")).await.unwrap();
    assert!(expected.within(SECOND).await.unwrap().is_none());
    let tasks = || {
        tokio::runtime::Handle::current()
            .metrics()
            .num_alive_tasks()
    };
    assert!(tasks() > before);
    drop((watch, expected));
    sleep(SECOND).await;
    assert_eq!(tasks(), before);
}

#[test]
fn it_hears_after_the_runtime_that_listened_has_ended() {
    let runtime = || {
        tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .start_paused(true)
            .build()
            .unwrap()
    };
    let store = MemoryWatchStore::new();
    let (here, there) = (JobWatch::new(store.clone()), JobWatch::new(store));
    runtime().block_on(async {
        let expected = here.expect(&guid("JOB-0")).await.unwrap();
        assert!(expected.within(SECOND).await.unwrap().is_none());
    });
    runtime().block_on(async {
        let expected = here.expect(&guid("JOB-1")).await.unwrap();
        let jobs = there.layer().layer(JobRouter::new());
        let waiter = tokio::spawn(async move { expected.within(60 * SECOND).await });
        sleep(8 * SECOND).await;
        let start = Instant::now();
        deliver(&jobs, event(Status::Completed, "1")).await.unwrap();
        assert!(waiter.await.unwrap().unwrap().is_some());
        assert!(start.elapsed() < SECOND);
    });
}

/// A store that hears of changes in its own way.
struct Hears<F> {
    memory: MemoryWatchStore,
    changed: tokio::sync::broadcast::Sender<JobGuid>,
    listen: F,
}

impl<F, Fut> Hears<F>
where
    F: Fn(Wake, tokio::sync::broadcast::Receiver<JobGuid>) -> Fut,
{
    fn new(listen: F) -> Arc<Self> {
        Arc::new(Self {
            memory: MemoryWatchStore::new(),
            changed: tokio::sync::broadcast::channel(64).0,
            listen,
        })
    }
}

impl<F, Fut> WatchStore for Hears<F>
where
    F: Fn(Wake, tokio::sync::broadcast::Receiver<JobGuid>) -> Fut + Send + Sync + 'static,
    Fut: Future<Output = ()> + Send,
{
    type Error = <MemoryWatchStore as WatchStore>::Error;

    async fn load(&self, jobs: &[JobGuid]) -> Result<Vec<(JobGuid, Stored)>, Self::Error> {
        self.memory.load(jobs).await
    }

    async fn replace(
        &self,
        job: &JobGuid,
        expected: Option<u64>,
        update: Update<'_>,
    ) -> Result<Replaced, Self::Error> {
        let replaced = self.memory.replace(job, expected, update).await?;
        let _ = self.changed.send(job.clone());
        Ok(replaced)
    }

    async fn claim_due(
        &self,
        limit: usize,
        lease: Duration,
    ) -> Result<Vec<(JobGuid, Stored)>, Self::Error> {
        self.memory.claim_due(limit, lease).await
    }

    async fn count(&self) -> Result<Counts, Self::Error> {
        self.memory.count().await
    }

    async fn listen(&self, wake: Wake) -> Result<(), Self::Error> {
        (self.listen)(wake, self.changed.subscribe()).await;
        Ok(())
    }
}

#[tokio::test(start_paused = true)]
async fn a_notification_that_names_only_the_job_wakes_another_replica_at_once() {
    let store = Hears::new(|wake: Wake, mut changed| async move {
        wake.connected();
        while let Ok(job) = changed.recv().await {
            wake.job(&job);
        }
    });
    let [waits, delivers] = [0; 2].map(|_| JobWatch::new(store.clone()));
    let expected = waits.expect(&guid("JOB-1")).await.unwrap();
    let jobs = delivers.layer().layer(JobRouter::new());
    let delivery = async {
        sleep(SECOND).await;
        deliver(&jobs, event(Status::Completed, "1")).await.unwrap();
        Instant::now()
    };
    let (heard, delivered) = tokio::join!(expected.within(60 * SECOND), delivery);
    assert_eq!(heard.unwrap().unwrap().status, Status::Completed);
    assert!(delivered.elapsed() < Duration::from_millis(50));
}

#[tokio::test(start_paused = true)]
async fn the_pause_between_connections_grows_and_is_short_again_after_a_long_one() {
    const LONG: usize = 12;
    let calls = Arc::new(std::sync::Mutex::new(Vec::new()));
    let noting = calls.clone();
    let store = Hears::new(move |_, _| {
        let mut calls = noting.lock().unwrap();
        calls.push(Instant::now());
        let lasts = if calls.len() == LONG {
            60 * SECOND
        } else {
            Duration::ZERO
        };
        sleep(lasts)
    });
    let watch = JobWatch::new(store);
    let expected = watch.expect(&guid("JOB-1")).await.unwrap();
    assert_eq!(expected.within(300 * SECOND).await.unwrap(), None);
    let calls = calls.lock().unwrap();
    let pauses: Vec<_> = calls.windows(2).map(|pair| pair[1] - pair[0]).collect();
    assert!(pauses[0] <= Duration::from_millis(101), "{pauses:?}");
    // Half of the longest pause, at least.
    for pause in &pauses[LONG - 4..LONG - 1] {
        assert!((SECOND * 2..=SECOND * 5).contains(pause), "{pauses:?}");
    }
    let after_the_long_one = pauses[LONG - 1] - 60 * SECOND;
    assert!(
        after_the_long_one <= Duration::from_millis(101),
        "{pauses:?}"
    );
}

#[tokio::test(start_paused = true)]
async fn what_happened_before_the_store_can_hear_is_read_once_it_can() {
    let store = Hears::new(|wake: Wake, _| async move {
        sleep(SECOND).await;
        wake.connected();
        std::future::pending::<()>().await;
    });
    let [waits, delivers] = [0; 2].map(|_| JobWatch::new(store.clone()));
    let expected = waits.expect(&guid("JOB-1")).await.unwrap();
    let jobs = delivers.layer().layer(JobRouter::new());
    let start = Instant::now();
    let delivery = async {
        sleep(SECOND / 2).await;
        deliver(&jobs, event(Status::Completed, "1")).await.unwrap();
    };
    let (heard, ()) = tokio::join!(expected.within(60 * SECOND), delivery);
    assert_eq!(heard.unwrap().unwrap().status, Status::Completed);
    // Without a notification, entries are read after 2.5 s at the earliest.
    assert!(start.elapsed() < SECOND * 2);
}

#[tokio::test(start_paused = true)]
async fn while_nothing_happens_the_store_is_asked_every_few_seconds() {
    let store = FaultyStore::default();
    let watch = JobWatch::new(store.clone());
    let expected = watch.expect(&guid("JOB-1")).await.unwrap();
    for _ in 0..2 {
        let before = store.loads();
        assert!(expected.within(600 * SECOND).await.unwrap().is_none());
        let loads = store.loads() - before;
        assert!((60..=300).contains(&loads), "{loads}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_waiter_hears_at_once_even_if_the_store_has_forgotten_the_job() {
    let watch = JobWatch::new(MemoryWatchStore::new()).with_look_back(SECOND);
    let jobs = watch.layer().layer(JobRouter::new());
    let expected = watch.expect(&guid("JOB-1")).await.unwrap();
    deliver(&jobs, event(Status::Completed, "1")).await.unwrap();
    // It is over, and forgotten.
    sleep(100 * SECOND).await;
    let waiting = tokio::spawn(async move { expected.within(60 * SECOND).await });
    sleep(SECOND).await;
    assert!(!waiting.is_finished());
    deliver(&jobs, event(Status::Completed, "1")).await.unwrap();
    let found = timeout(SECOND / 10, waiting).await.unwrap();
    assert!(found.unwrap().unwrap().is_some());
}
