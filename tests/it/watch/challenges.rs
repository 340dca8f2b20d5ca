//! Challenges: they wake and rest, and `expect_after` tells them apart.

use mx_job_webhook::ledger::EventName;
use mx_job_webhook::watch::{JobWatch, MemoryWatchStore};
use mx_job_webhook::{JobRouter, Status};
use tokio::time::{sleep, timeout};
use tower::Layer as _;

use super::stand_ins::{FaultyStore, SECOND, deliver, event, guid, heard};

#[tokio::test(start_paused = true)]
async fn a_challenge_wakes_and_rests_until_the_job_is_expected_again() {
    let store = FaultyStore::default();
    let watch = JobWatch::new(store.clone());
    let jobs = watch.layer().layer(JobRouter::new());
    let expected = watch.expect(&guid("JOB-1")).await.unwrap();
    let waiting = tokio::spawn(async move { expected.within(60 * SECOND).await });
    sleep(SECOND).await;
    let challenge = event(Status::Challenged, "1");
    deliver(&jobs, challenge.clone()).await.unwrap();
    let heard_now = waiting.await.unwrap().unwrap().unwrap();
    assert_eq!(heard_now.name(), &EventName::of(&challenge));
    // It rests: it is expected, and the failsafe does not read it.
    assert!(store.entry(&guid("JOB-1")).await.unwrap().is_expected());
    sleep(10 * 60 * SECOND).await;
    assert_eq!(store.counts().await, (0, 0));

    for again in [false, true] {
        // Expected again, it is due again; expecting it once more changes nothing.
        let _ = watch.expect(&guid("JOB-1")).await.unwrap();
        assert_eq!(store.counts().await, (1, 0), "{again}");
    }
    // The same challenge, polled or delivered again, neither ends nor rests it.
    for _ in 0..2 {
        deliver(&jobs, challenge.clone()).await.unwrap();
        assert_eq!(store.counts().await, (1, 0));
    }
    // Another one rests it.
    deliver(&jobs, event(Status::Challenged, "2"))
        .await
        .unwrap();
    assert_eq!(store.counts().await, (0, 0));
    // And the end ends it, also while it rests.
    deliver(&jobs, event(Status::Completed, "3")).await.unwrap();
    assert!(!store.entry(&guid("JOB-1")).await.unwrap().is_expected());
}

#[tokio::test(start_paused = true)]
async fn expect_after_ignores_what_was_seen_and_what_is_older_and_hears_what_is_newer() {
    // The event that the application has seen, another event, and whether that counts.
    let table = [
        ("5", "5", false),
        ("5", "4", false),
        ("5", "6", true),
        // Fractions.
        ("5.5", "5.5", false),
        ("5.5", "5.25", false),
        ("5.5", "5", false),
        ("5.5", "5.75", true),
        ("5.5", "6", true),
        ("5", "5.000000001", true),
        ("5", "5.0", false),
        ("5", r#""1970-01-01T00:00:05Z""#, false),
        // Without a readable date, the name alone tells them apart.
        ("null", "null", false),
        ("null", "5", true),
        ("5", "null", true),
        (r#""Monday""#, r#""Monday""#, false),
        (r#""Monday""#, r#""Tuesday""#, true),
        // A date that lies in the future orders nothing.
        ("99999999999999", "5", true),
        ("5", "99999999999999", true),
        ("99999999999999", "99999999999998", true),
    ];
    for (seen, other, counts) in table {
        for before_the_call in [false, true] {
            for through_another_replica in [false, true] {
                let row = (seen, other, before_the_call, through_another_replica);
                let store = FaultyStore::default();
                let watch = JobWatch::new(store.clone());
                let delivering = match through_another_replica {
                    true => JobWatch::new(store.clone()),
                    false => watch.clone(),
                };
                let jobs = delivering.layer().layer(JobRouter::new());
                let _ = watch.expect(&guid("JOB-1")).await.unwrap();
                let seen = event(Status::Challenged, seen);
                deliver(&jobs, seen.clone()).await.unwrap();
                let other = event(Status::Challenged, other);
                let expected = if before_the_call {
                    deliver(&jobs, other.clone()).await.unwrap();
                    watch.expect_after(&EventName::of(&seen)).await.unwrap()
                } else {
                    let expected = watch.expect_after(&EventName::of(&seen)).await.unwrap();
                    assert_eq!(heard(&expected).await, None, "{row:?}");
                    deliver(&jobs, other.clone()).await.unwrap();
                    expected
                };
                let found = expected.within(SECOND).await.unwrap();
                assert_eq!(found.is_some(), counts, "{row:?}");
                if let Some(found) = found {
                    assert_eq!(found.name(), &EventName::of(&other), "{row:?}");
                }
                // If it does not count, the failsafe goes on.
                if !counts {
                    assert_eq!(store.counts().await, (1, 0), "{row:?}");
                } else if !before_the_call {
                    assert_eq!(store.counts().await, (0, 0), "{row:?}");
                }
                // The end always counts, whatever its date.
                deliver(&jobs, event(Status::Completed, "1")).await.unwrap();
                let expected = watch.expect_after(&EventName::of(&seen)).await.unwrap();
                assert_eq!(heard(&expected).await, Some(Status::Completed), "{row:?}");
                assert_eq!(store.counts().await, (0, 0), "{row:?}");
            }
        }
    }
}

#[tokio::test(start_paused = true)]
async fn two_challenges_in_one_second_are_two_if_anything_tells_them_apart() {
    let store = FaultyStore::default();
    let watch = JobWatch::new(store.clone());
    let jobs = watch.layer().layer(JobRouter::new());
    let first = event(Status::Challenged, "5.1");
    let second = event(Status::Challenged, "5.2");
    deliver(&jobs, first.clone()).await.unwrap();
    deliver(&jobs, second.clone()).await.unwrap();
    // The older one arrives again, and late.
    deliver(&jobs, first.clone()).await.unwrap();
    let expected = watch.expect_after(&EventName::of(&first)).await.unwrap();
    let found = expected.within(SECOND).await.unwrap().unwrap();
    assert_eq!(found.name(), &EventName::of(&second));
    let expected = watch.expect_after(&EventName::of(&second)).await.unwrap();
    assert_eq!(heard(&expected).await, None);
}

#[tokio::test(start_paused = true)]
async fn a_challenge_that_was_never_heard_can_be_named() {
    let store = FaultyStore::default();
    let watch = JobWatch::new(store.clone());
    let jobs = watch.layer().layer(JobRouter::new());
    // The application has read it itself.
    let seen = event(Status::Challenged, "5");
    let expected = watch.expect_after(&EventName::of(&seen)).await.unwrap();
    assert_eq!(heard(&expected).await, None);
    assert_eq!(store.counts().await, (1, 0));
    // Its webhook comes late.
    deliver(&jobs, seen).await.unwrap();
    assert_eq!(heard(&expected).await, None);
    assert_eq!(store.counts().await, (1, 0));
    deliver(&jobs, event(Status::Denied, "6")).await.unwrap();
    assert_eq!(heard(&expected).await, Some(Status::Denied));
}

#[tokio::test(start_paused = true)]
async fn many_challenges_end_well() {
    let store = FaultyStore::default();
    let watch = JobWatch::new(store.clone());
    let jobs = watch.layer().layer(JobRouter::new());
    let mut expected = watch.expect(&guid("JOB-1")).await.unwrap();
    for number in 0..50 {
        let challenge = event(Status::Challenged, &number.to_string());
        deliver(&jobs, challenge.clone()).await.unwrap();
        let found = expected.within(SECOND).await.unwrap().unwrap();
        assert_eq!(found.name(), &EventName::of(&challenge));
        expected = watch.expect_after(found.name()).await.unwrap();
        assert_eq!(heard(&expected).await, None);
    }
    deliver(&jobs, event(Status::Halted, "51")).await.unwrap();
    assert_eq!(heard(&expected).await, Some(Status::Halted));
}

/// The application has not seen the later challenge, so the job waits for its user.
#[tokio::test(start_paused = true)]
async fn a_later_challenge_that_came_before_expect_after_rests_the_job() {
    let store = FaultyStore::of(MemoryWatchStore::new());
    let watch = JobWatch::new(store.clone());
    let jobs = watch.layer().layer(JobRouter::new());
    let first = event(Status::Challenged, "1");
    deliver(&jobs, first.clone()).await.unwrap();
    deliver(&jobs, event(Status::Challenged, "2"))
        .await
        .unwrap();
    for _ in 0..2 {
        let expected = watch.expect_after(&EventName::of(&first)).await.unwrap();
        assert_eq!(heard(&expected).await, Some(Status::Challenged));
        assert_eq!(
            store.counts().await,
            (0, 0),
            "the failsafe has nothing to read"
        );
    }
    // Once it has seen that one too, the failsafe goes on.
    let second = EventName::of(&event(Status::Challenged, "2"));
    let expected = watch.expect_after(&second).await.unwrap();
    assert_eq!(heard(&expected).await, None);
    assert_eq!(store.counts().await, (1, 0));
}

#[tokio::test(start_paused = true)]
async fn without_a_date_the_order_in_which_both_were_heard_decides_what_was_seen() {
    let watch = JobWatch::new(MemoryWatchStore::new());
    let jobs = watch.layer().layer(JobRouter::new());
    let [first, second] = [r#""Monday""#, "5"].map(|date| event(Status::Challenged, date));
    deliver(&jobs, first.clone()).await.unwrap();
    deliver(&jobs, second.clone()).await.unwrap();
    let after_first = watch.expect_after(&EventName::of(&first)).await.unwrap();
    assert_eq!(heard(&after_first).await, Some(Status::Challenged));
    // The application has named both by now, so neither is news.
    let after_second = watch.expect_after(&EventName::of(&second)).await.unwrap();
    assert_eq!(heard(&after_second).await, None);
    deliver(&jobs, event(Status::Challenged, "6"))
        .await
        .unwrap();
    assert_eq!(heard(&after_second).await, Some(Status::Challenged));
}

#[tokio::test(start_paused = true)]
async fn of_two_events_that_the_application_has_seen_the_later_one_counts() {
    for seen in [["10", "5"], ["5", "10"]] {
        let store = FaultyStore::default();
        let watch = JobWatch::new(store.clone());
        let jobs = watch.layer().layer(JobRouter::new());
        for seen in seen {
            let seen = EventName::of(&event(Status::Challenged, seen));
            let _ = watch.expect_after(&seen).await.unwrap();
        }
        deliver(&jobs, event(Status::Challenged, "7"))
            .await
            .unwrap();
        assert_eq!(store.counts().await, (1, 0), "{seen:?}");
        deliver(&jobs, event(Status::Challenged, "11"))
            .await
            .unwrap();
        assert_eq!(store.counts().await, (0, 0), "{seen:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn an_older_challenge_that_comes_late_does_not_replace_the_newer_one() {
    let watch = JobWatch::new(MemoryWatchStore::new());
    let jobs = watch.layer().layer(JobRouter::new());
    for date in ["10", "5"] {
        let event = event(Status::Challenged, date);
        deliver(&jobs, event).await.unwrap();
    }
    let expected = watch.expect(&guid("JOB-1")).await.unwrap();
    let heard = expected.within(SECOND).await.unwrap().unwrap();
    let newer = EventName::of(&event(Status::Challenged, "10"));
    assert_eq!(heard.name(), &newer);
}

#[tokio::test(start_paused = true)]
async fn each_of_two_challenges_changes_nothing_if_it_comes_again() {
    let store = FaultyStore::default();
    let watch = JobWatch::new(store.clone());
    let jobs = watch.layer().layer(JobRouter::new());
    let _ = watch.expect(&guid("JOB-1")).await.unwrap();
    let challenges = ["1", "2"].map(|date| event(Status::Challenged, date));
    for challenge in &challenges {
        deliver(&jobs, challenge.clone()).await.unwrap();
    }
    let _ = watch.expect(&guid("JOB-1")).await.unwrap();
    for challenge in challenges {
        deliver(&jobs, challenge).await.unwrap();
        assert_eq!(store.counts().await, (1, 0));
    }
}

#[tokio::test(start_paused = true)]
async fn only_the_challenge_that_was_named_starts_the_wait_for_a_webhook_again() {
    // The challenge that comes late, and whether the failsafe waits for longer.
    for (late, waits) in [("5", false), ("10", true)] {
        let store = FaultyStore::default();
        let watch = JobWatch::new(store.clone()).with_patience(30 * SECOND);
        let jobs = watch.layer().layer(JobRouter::new());
        // The callback of this challenge has resumed the job, and runs.
        let named = EventName::of(&event(Status::Challenged, "10"));
        let _ = watch.expect_after(&named).await.unwrap();
        sleep(20 * SECOND).await;
        deliver(&jobs, event(Status::Challenged, late))
            .await
            .unwrap();
        sleep(11 * SECOND).await;
        assert_eq!(store.counts().await, (1, u64::from(!waits)), "{late}");
        sleep(20 * SECOND).await;
        assert_eq!(store.counts().await, (1, 1), "{late}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_challenge_that_was_named_long_ago_does_not_start_the_wait_for_a_webhook_again() {
    let store = FaultyStore::default();
    let watch = JobWatch::new(store.clone())
        .with_patience(30 * SECOND)
        .with_look_back(60 * SECOND);
    let jobs = watch.layer().layer(JobRouter::new());
    let challenge = event(Status::Challenged, "10");
    let _ = watch.expect(&guid("JOB-1")).await.unwrap();
    deliver(&jobs, challenge.clone()).await.unwrap();
    sleep(90 * SECOND).await;
    // By now it is too old to count.
    let _ = watch.expect_after(&EventName::of(&challenge)).await;
    sleep(20 * SECOND).await;
    deliver(&jobs, challenge).await.unwrap();
    sleep(11 * SECOND).await;
    assert_eq!(store.counts().await, (1, 1));
}

#[tokio::test(start_paused = true)]
async fn a_challenge_that_was_named_and_comes_after_a_later_one_lets_the_job_rest() {
    let store = FaultyStore::default();
    let watch = JobWatch::new(store.clone());
    let jobs = watch.layer().layer(JobRouter::new());
    let named = event(Status::Challenged, "5");
    let _ = watch.expect_after(&EventName::of(&named)).await.unwrap();
    deliver(&jobs, event(Status::Challenged, "6"))
        .await
        .unwrap();
    assert_eq!(store.counts().await, (0, 0));
    deliver(&jobs, named).await.unwrap();
    assert_eq!(store.counts().await, (0, 0));
}

#[tokio::test(start_paused = true)]
async fn of_challenges_without_a_date_those_before_the_one_that_is_named_do_not_count() {
    let store = FaultyStore::default();
    let watch = JobWatch::new(store.clone());
    let jobs = watch.layer().layer(JobRouter::new());
    let challenges = [r#""Monday""#, r#""Tuesday""#].map(|date| event(Status::Challenged, date));
    for challenge in &challenges {
        deliver(&jobs, challenge.clone()).await.unwrap();
    }
    let last = EventName::of(&challenges[1]);
    let expected = watch.expect_after(&last).await.unwrap();
    assert_eq!(heard(&expected).await, None);
    assert_eq!(store.counts().await, (1, 0));
}

#[tokio::test(start_paused = true)]
async fn a_challenge_that_counts_no_more_wakes_once_it_is_delivered_again() {
    let watch = JobWatch::new(MemoryWatchStore::new()).with_look_back(60 * SECOND);
    let jobs = watch.layer().layer(JobRouter::new());
    let challenge = event(Status::Challenged, "1");
    deliver(&jobs, challenge.clone()).await.unwrap();
    for _ in 0..2 {
        let _ = watch.expect(&guid("JOB-1")).await.unwrap();
    }
    sleep(90 * SECOND).await;
    let expected = watch.expect(&guid("JOB-1")).await.unwrap();
    let waiting = tokio::spawn(async move { expected.within(60 * SECOND).await });
    sleep(SECOND).await;
    assert!(!waiting.is_finished());
    deliver(&jobs, challenge).await.unwrap();
    // At once, and not when the entries are read the next time.
    let found = timeout(SECOND / 10, waiting).await.unwrap();
    assert!(found.unwrap().unwrap().is_some());
}
