//! Entries as bytes, and what `Debug` shows.

use std::future::ready;

use mx_job_webhook::job::JobGuid;
use mx_job_webhook::testing::Sample;
use mx_job_webhook::watch::{Entry, Failsafe, JobWatch, MemoryWatchStore, WatchStore as _};
use mx_job_webhook::{JobRouter, Status};
use tower::Layer as _;

use super::stand_ins::{SECOND, deliver, event_of, guid};

async fn entry(store: &MemoryWatchStore, job: &JobGuid) -> Entry {
    let loaded = store.load(std::slice::from_ref(job)).await.unwrap();
    loaded.into_iter().next().unwrap().1.entry
}

#[tokio::test(start_paused = true)]
async fn an_entry_is_read_from_its_bytes_whatever_mx_sent() {
    let dates = [
        "1471281212",
        "1471281212.123456789",
        r#""2016-08-15T17:13:32.5+02:00""#,
        "-5.25",
        "-62135596800",
        "0",
        "null",
        r#""Monday""#,
        "1471281212000",
        "9223372036854775807",
        "-9223372036854775808",
        "[]",
    ];
    for job in ["JOB-1", "ä \" {} \u{0}", "x y z"] {
        for date in dates {
            for is_expected in [false, true] {
                for statuses in [
                    vec![Status::Challenged],
                    vec![Status::Challenged, Status::Challenged],
                    vec![Status::Completed],
                    vec![Status::Challenged, Status::Denied],
                ] {
                    let row = (job, date, is_expected, &statuses);
                    let store = MemoryWatchStore::new();
                    let watch = JobWatch::new(store.clone());
                    let jobs = watch.layer().layer(JobRouter::new());
                    if is_expected {
                        let _ = watch.expect(&guid(job)).await.unwrap();
                    }
                    for status in &statuses {
                        let event = event_of(job, status.clone(), date);
                        deliver(&jobs, event).await.unwrap();
                    }
                    let event = event_of(job, statuses[0].clone(), date);
                    let name = mx_job_webhook::ledger::EventName::of(&event);
                    for after in [false, true] {
                        if after {
                            let _ = watch.expect_after(&name).await.unwrap();
                        }
                        let entry = entry(&store, &guid(job)).await;
                        let read = Entry::from_bytes(&entry.to_bytes());
                        assert_eq!(read.ok(), Some(entry), "{row:?}");
                    }
                }
            }
        }
    }
}

#[test]
fn bytes_that_are_no_entry_are_an_error() {
    for bytes in [
        "",
        "null",
        "{}",
        "[]",
        r#"{"version": 2, "names": []}"#,
        r#"{"version": 1}"#,
        r#"{"version": 1, "names": [1]}"#,
        r#"{"version": 1, "names": [], "heard": [{}]}"#,
        r#"{"version": 1, "names": [], "expectation": {}}"#,
        r#"{"version": 1, "names": [], "expectation": {"id": -1}}"#,
    ] {
        assert!(Entry::from_bytes(bytes.as_bytes()).is_err(), "{bytes}");
    }
    let error = Entry::from_bytes(&[0xff, 0xfe]).unwrap_err();
    let text = "the store contains an entry that this release cannot read";
    assert_eq!(error.to_string(), text);
}

#[tokio::test(start_paused = true)]
async fn debug_shows_nothing_secret() {
    let store = MemoryWatchStore::new();
    let watch = JobWatch::new(store.clone());
    let jobs = watch.layer().layer(JobRouter::new());
    let sample = Sample::challenged()
        .with_field("user_id", "secret-user-id")
        .with_field("error_message", "secret-message")
        .with_field("unknown", "secret-field");
    let job = sample.event().unwrap().guid.clone();
    let expected = watch.expect(&job).await.unwrap();
    deliver(&jobs, sample.event().unwrap()).await.unwrap();
    let heard = expected.within(SECOND).await.unwrap().unwrap();
    let read = mx_job_webhook::watch::ReadJob::from(sample.body());
    let reader = |_| ready(Ok::<_, &str>(Vec::new()));
    let failsafe = Failsafe::new(&watch, jobs.clone(), reader);
    let undecodable = mx_job_webhook::watch::ReadJob::from("secret-text".to_owned());
    let text = format!(
        "{watch:?} {jobs:?} {expected:?} {heard:?} {read:?} {failsafe:?} {store:?} {undecodable:?} \
         {:?} {:?}",
        entry(&store, &job).await,
        watch.layer(),
    );
    assert!(!text.contains("secret"), "{text}");
    assert!(!text.contains("USR-"), "{text}");
}

/// Replicas of two releases read the same entries, so what an entry calls an event never changes.
#[tokio::test(start_paused = true)]
async fn an_entry_names_its_events_as_their_names_do_without_the_job() {
    let store = MemoryWatchStore::new();
    let watch = JobWatch::new(store.clone());
    let jobs = watch.layer().layer(JobRouter::new());
    for job in ["JOB-1", "x y z"] {
        let event = event_of(job, Status::Challenged, "1471281212.5");
        let name = mx_job_webhook::ledger::EventName::of(&event).to_string();
        deliver(&jobs, event).await.unwrap();
        let bytes = entry(&store, &guid(job)).await.to_bytes();
        let stored: serde_json::Value = serde_json::from_slice(&bytes).unwrap();
        let without_job = name.strip_prefix(job).unwrap().trim_start();
        assert_eq!(stored["names"], serde_json::json!([without_job]));
    }
}

#[tokio::test(start_paused = true)]
async fn a_stored_time_has_less_than_a_second_beside_its_seconds() {
    let store = MemoryWatchStore::new();
    let watch = JobWatch::new(store.clone());
    let seen = event_of("JOB-1", Status::Challenged, "1471281212.5");
    let seen = mx_job_webhook::ledger::EventName::of(&seen);
    let _ = watch.expect_after(&seen).await.unwrap();
    let bytes = entry(&store, &guid("JOB-1")).await.to_bytes();
    let bytes = String::from_utf8(bytes).unwrap();
    for (nanos, is_entry) in [("999999999", true), ("1000000000", false)] {
        let changed = bytes.replace("500000000", nanos);
        assert_ne!(changed, bytes);
        assert_eq!(Entry::from_bytes(changed.as_bytes()).is_ok(), is_entry);
    }
}
