//! Webhooks that come before the job is expected.

use std::time::Duration;

use mx_job_webhook::watch::{JobWatch, MemoryWatchStore};
use mx_job_webhook::{JobRouter, Status};
use tokio::time::sleep;
use tower::Layer as _;

use super::stand_ins::{FaultyStore, Listening, SECOND, deliver, event, event_of, guid, heard};

#[tokio::test(start_paused = true)]
async fn what_was_heard_lately_counts() {
    for (look_back, pause, counts) in [
        (None, Duration::ZERO, true),
        (None, 599 * SECOND, true),
        (None, 601 * SECOND, false),
        (Some(SECOND), Duration::from_millis(900), true),
        (Some(SECOND), Duration::from_millis(1_100), false),
        (Some(Duration::MAX), Duration::ZERO, true),
        (Some(Duration::MAX), 1_000_000 * SECOND, true),
    ] {
        for status in [Status::Completed, Status::Challenged] {
            let row = (look_back, pause, &status);
            let store = FaultyStore::default();
            let mut watch = JobWatch::new(store.clone());
            if let Some(look_back) = look_back {
                watch = watch.with_look_back(look_back);
            }
            let jobs = watch.layer().layer(JobRouter::new());
            deliver(&jobs, event(status.clone(), "1")).await.unwrap();
            sleep(pause).await;
            let expected = watch.expect(&guid("JOB-1")).await.expect("it works");
            assert_eq!(heard(&expected).await.is_some(), counts, "{row:?}");
            if !counts {
                assert_eq!(store.counts().await, (1, 0), "{row:?}");
            }
        }
    }
}

#[tokio::test(start_paused = true)]
async fn it_counts_on_another_replica_too() {
    let store = FaultyStore::default();
    let (one, other) = (JobWatch::new(store.clone()), JobWatch::new(store));
    let jobs = one.layer().layer(JobRouter::new());
    deliver(&jobs, event(Status::Completed, "1")).await.unwrap();
    let expected = other.expect(&guid("JOB-1")).await.unwrap();
    assert_eq!(heard(&expected).await, Some(Status::Completed));
}

#[tokio::test(start_paused = true)]
async fn the_end_is_heard_even_if_the_challenge_before_it_comes_late() {
    for order in [["1", "2"], ["2", "1"]] {
        let watch = JobWatch::new(MemoryWatchStore::new());
        let jobs = watch.layer().layer(JobRouter::new());
        for date in order {
            let status = match date {
                "1" => Status::Challenged,
                _ => Status::Completed,
            };
            deliver(&jobs, event(status, date)).await.unwrap();
            sleep(SECOND).await;
        }
        let expected = watch.expect(&guid("JOB-1")).await.unwrap();
        assert_eq!(heard(&expected).await, Some(Status::Completed));
    }
}

/// The end stays 8 s older than the challenge that came late.
#[tokio::test(start_paused = true)]
async fn a_late_challenge_does_not_make_the_end_younger() {
    for (pause, counts) in [(SECOND, true), (3 * SECOND, false)] {
        let watch = JobWatch::new(MemoryWatchStore::new()).with_look_back(10 * SECOND);
        let jobs = watch.layer().layer(JobRouter::new());
        deliver(&jobs, event(Status::Completed, "2")).await.unwrap();
        sleep(8 * SECOND).await;
        let challenge = event(Status::Challenged, "1");
        deliver(&jobs, challenge).await.unwrap();
        sleep(pause).await;
        let expected = watch.expect(&guid("JOB-1")).await.unwrap();
        assert_eq!(heard(&expected).await.is_some(), counts, "{pause:?}");
    }
}

/// What is heard while it waits counts, even if it is read only seconds later: this process hears nothing of the others.
#[tokio::test(start_paused = true)]
async fn what_was_heard_since_the_job_was_expected_counts_however_short_the_look_back() {
    let store = FaultyStore::default();
    store.faults().listening = Listening::Hangs;
    let watch = JobWatch::new(store.clone()).with_look_back(SECOND);
    let expected = watch.expect(&guid("JOB-1")).await.unwrap();
    let waiting = tokio::spawn(async move { expected.within(60 * SECOND).await });
    sleep(SECOND).await;
    let jobs = JobWatch::new(store).layer().layer(JobRouter::new());
    deliver(&jobs, event(Status::Completed, "1")).await.unwrap();
    assert!(waiting.await.unwrap().unwrap().is_some());
}

/// Each clone has its own look-back.
#[tokio::test(start_paused = true)]
async fn an_event_is_kept_for_half_a_minute_however_short_the_look_back_of_its_layer() {
    for (pause, counts) in [(29 * SECOND, true), (31 * SECOND, false)] {
        let watch = JobWatch::new(MemoryWatchStore::new());
        let hasty = watch.clone().with_look_back(SECOND);
        let jobs = hasty.layer().layer(JobRouter::new());
        deliver(&jobs, event(Status::Completed, "1")).await.unwrap();
        sleep(pause).await;
        let expected = watch.expect(&guid("JOB-1")).await.unwrap();
        assert_eq!(heard(&expected).await.is_some(), counts, "{pause:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn recent_events_are_bounded_and_expectations_are_not_evicted_by_them() {
    let store = FaultyStore::of(MemoryWatchStore::new().with_recent(10));
    let watch = JobWatch::new(store.clone());
    let jobs = watch.layer().layer(JobRouter::new());
    let early = watch.expect(&guid("JOB-early")).await.unwrap();
    for number in 0..30 {
        let event = event_of(&format!("JOB-{number}"), Status::Completed, "1");
        deliver(&jobs, event).await.unwrap();
    }
    for number in 0..30 {
        let expected = watch.expect(&guid(&format!("JOB-{number}"))).await.unwrap();
        assert_eq!(heard(&expected).await.is_some(), number >= 20, "{number}");
    }
    // Those that were forgotten are expected.
    assert_eq!(store.counts().await, (21, 0));
    deliver(&jobs, event_of("JOB-early", Status::Denied, "1"))
        .await
        .unwrap();
    assert_eq!(heard(&early).await, Some(Status::Denied));
}

#[tokio::test(start_paused = true)]
async fn no_event_falls_between_expect_and_the_look_back() {
    for yields in 0..20 {
        for delivered_first in [false, true] {
            let store = FaultyStore::default();
            let watch = JobWatch::new(store.clone());
            let jobs = watch.layer().layer(JobRouter::new());
            let expecting = async {
                for _ in 0..(if delivered_first { yields } else { 0 }) {
                    tokio::task::yield_now().await;
                }
                watch.expect(&guid("JOB-1")).await.unwrap()
            };
            let delivering = async {
                for _ in 0..(if delivered_first { 0 } else { yields }) {
                    tokio::task::yield_now().await;
                }
                deliver(&jobs, event(Status::Completed, "1")).await.unwrap();
            };
            let (expected, ()) = tokio::join!(expecting, delivering);
            assert_eq!(heard(&expected).await, Some(Status::Completed));
            assert_eq!(store.counts().await, (0, 0));
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_event_falls_between_on_several_threads() {
    let watch = JobWatch::new(MemoryWatchStore::new());
    let jobs = watch.layer().layer(JobRouter::new());
    for number in 0..500 {
        let name = format!("JOB-{number}");
        let (expecting, job) = (watch.clone(), guid(&name));
        let expecting = tokio::spawn(async move { expecting.expect(&job).await.unwrap() });
        let jobs = jobs.clone();
        let event = event_of(&name, Status::Completed, "1");
        let delivering = tokio::spawn(async move { deliver(&jobs, event).await.unwrap() });
        delivering.await.unwrap();
        assert!(heard(&expecting.await.unwrap()).await.is_some(), "{name}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_later_call_hears_of_an_event_for_as_long_as_the_watch_looks_back() {
    let watch = JobWatch::new(MemoryWatchStore::new()).with_look_back(600 * SECOND);
    let jobs = watch.layer().layer(JobRouter::new());
    let expected = watch.expect(&guid("JOB-1")).await.unwrap();
    deliver(&jobs, event(Status::Completed, "1")).await.unwrap();
    for _ in 0..2 {
        sleep(299 * SECOND).await;
        assert_eq!(heard(&expected).await, Some(Status::Completed));
    }
    sleep(3 * SECOND).await;
    assert_eq!(heard(&expected).await, None);
}

#[tokio::test(start_paused = true)]
async fn a_store_that_is_full_says_so() {
    let watch = JobWatch::new(MemoryWatchStore::new().with_capacity(1));
    let _ = watch.expect(&guid("JOB-1")).await.unwrap();
    let error = watch.expect(&guid("JOB-2")).await.unwrap_err();
    let text = format!("{error:#}");
    assert!(
        text.ends_with("the store expects as many jobs as its capacity allows"),
        "{text}"
    );
}

/// By default, for 16,384 events and 16 MiB.
#[tokio::test(start_paused = true)]
async fn by_default_ten_thousand_webhooks_before_expect_are_remembered() {
    let watch = JobWatch::new(MemoryWatchStore::new());
    let jobs = watch.layer().layer(JobRouter::new());
    for number in 0..10_000 {
        let event = event_of(&format!("JOB-{number}"), Status::Completed, "1");
        deliver(&jobs, event).await.unwrap();
    }
    let first = watch.expect(&guid("JOB-0")).await.unwrap();
    assert_eq!(heard(&first).await, Some(Status::Completed));
}

#[test]
fn the_defaults_of_a_watch_and_its_failsafe_are_the_documented_ones() {
    let watch = JobWatch::new(MemoryWatchStore::new());
    let printed = format!("{watch:?}");
    assert!(
        printed.contains("patience: 30s, look_back: 600s"),
        "{printed}"
    );
    let read = |_| async { Err::<mx_job_webhook::JobEvent, _>("down") };
    let failsafe = mx_job_webhook::watch::Failsafe::new(&watch, JobRouter::new(), read);
    let printed = format!("{failsafe:?}");
    assert!(
        printed.contains("concurrency: 8, limit: 3600s"),
        "{printed}"
    );
}
