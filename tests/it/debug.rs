//! `Debug` of public types: the type's name, and nothing that is private.

use axum::Router;
use axum::body::Body;
use http::Request;
use mx_job_webhook::acknowledge_first::AcknowledgeFirstLayer;
use mx_job_webhook::ledger::{BoxLedger, MemoryLedger};
use mx_job_webhook::{Background, BoxJobService, JobEvent, JobRouter, JobWebhook};
use tower::{Layer as _, Service as _};

use crate::support::{PATH, SAMPLE, credentials, delivery};

/// Parts of the credentials, of the sample's user, and of its body.
const PRIVATE: [&str; 5] = ["secret", "bXg6", "USR-", "7834372140", "created_at\":"];

fn assert_prints(name: &str, printed: &str) {
    assert!(printed.starts_with(name), "{name}: {printed}");
    for private in PRIVATE {
        assert!(!printed.contains(private), "{printed}");
    }
}

fn webhooks() -> JobWebhook<JobRouter> {
    JobWebhook::new(credentials(), JobRouter::new())
}

fn event() -> JobEvent {
    JobEvent::decode(SAMPLE).unwrap()
}

#[tokio::test]
async fn mounts_and_their_futures_print_their_names() {
    let settings = "{ path: Path(\"/admin/webhooks\"), credentials: Credentials { basic: 1, bearer: 0, closures: 0 }, .. }";
    let own = Router::<()>::new;
    let other = || Request::get("/accounts").body(Body::empty()).unwrap();

    let mut webhook = webhooks();
    assert_prints(
        "JobWebhook { credentials: Credentials { basic: 1,",
        &format!("{webhook:?}"),
    );
    let answer = webhook.call(delivery(SAMPLE));
    assert_prints("ResponseFuture {", &format!("{answer:?}"));

    let layer = webhooks().at(PATH);
    let service = layer.layer(own());
    let passing = webhooks().at(PATH).pass_on_other_webhooks();
    let mut passing_service = passing.layer(own());
    for (name, printed) in [
        ("JobWebhookLayer", format!("{layer:?}")),
        ("JobWebhookService", format!("{service:?}")),
        ("PassOnLayer", format!("{passing:?}")),
        ("PassOnService", format!("{passing_service:?}")),
    ] {
        assert_eq!(printed, format!("{name} {settings}"));
    }
    for request in [delivery(SAMPLE), other()] {
        let answer = passing_service.call(request);
        assert_prints("PassOnFuture {", &format!("{answer:?}"));
    }
}

#[tokio::test]
async fn jobs_and_what_surrounds_them_print_their_names() {
    let background = Background::new().with_capacity(7);
    assert_eq!(
        format!("{background:?}"),
        "Background { running: 0, capacity: 7, .. }"
    );

    let mut boxed = BoxJobService::new(JobRouter::new());
    assert_prints("BoxJobService", &format!("{boxed:?}"));
    let running = boxed.call(event());
    assert_prints("JobFuture", &format!("{running:?}"));

    let builder = JobRouter::with_state("secret").on_denied(|_, _| async {});
    let printed = format!("{builder:?}");
    assert_prints("JobRouterBuilder { router: JobRouter {", &printed);
    assert!(printed.contains("Denied"), "{printed}");

    let layer = AcknowledgeFirstLayer::new(|_| {});
    assert_prints("AcknowledgeFirstLayer", &format!("{layer:?}"));
    let ledger = BoxLedger::new(MemoryLedger::new());
    assert_prints("BoxLedger", &format!("{ledger:?}"));
}

#[test]
fn a_failure_prints_its_error_and_its_job_but_no_user() {
    let (sender, printed) = std::sync::mpsc::channel();
    let background = Background::new().with_spawn(|task| drop(tokio::spawn(task)));
    let jobs = JobRouter::new().on_completed(|_| async { Err::<(), _>("the disk is full") });
    let layer = AcknowledgeFirstLayer::new(move |failure| {
        sender.send(format!("{failure:?}")).unwrap();
    });
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    runtime.block_on(async {
        let receipt = background.run(layer.layer(jobs), event()).await;
        receipt.unwrap();
        assert_eq!(background.drain(std::future::pending::<()>()).await, 0);
    });
    let printed = printed.recv().unwrap();
    assert_prints("Failure { error: ", &printed);
    assert!(printed.contains("JOB-a177e002"), "{printed}");
}

#[test]
fn a_task_of_a_background_prints_its_name() {
    let (executor, tasks) = std::sync::mpsc::channel();
    let background = Background::new().with_spawn(move |task| executor.send(task).unwrap());
    let jobs = JobRouter::new().on_completed(|_| std::future::pending::<()>());
    let mut running = Box::pin(background.run(jobs, event()));
    let context = &mut std::task::Context::from_waker(std::task::Waker::noop());
    assert!(running.as_mut().poll(context).is_pending());
    drop(running);
    let task = tasks.recv().unwrap();
    assert_prints("BackgroundTask", &format!("{task:?}"));
}

#[test]
fn events_and_errors_print_their_names() {
    let event = event();
    assert_prints("JobEvent", &format!("{event:?}"));
    let name = mx_job_webhook::ledger::EventName::of(&event);
    let printed = format!("{name:?}");
    assert_prints("EventName", &printed);
    assert!(printed.contains(&name.to_string()), "{printed}");
    let error = JobEvent::decode(r#"{"job":{"user_guid":"USR-7"}}"#).unwrap_err();
    let printed = format!("{error:?}");
    assert_prints("Error { kind: InvalidJob", &printed);
    assert!(printed.contains("guid"), "{printed}");
}

#[cfg(feature = "tokio")]
#[test]
fn a_job_that_was_read_prints_its_event_or_its_error() {
    use mx_job_webhook::watch::ReadJob;

    let read = ReadJob::from(event());
    assert_prints("ReadJob(Ok(JobEvent {", &format!("{read:?}"));
    let body = r#"{"job":{"user_guid":"USR-7"}}"#;
    let read = ReadJob::from(body.to_owned());
    assert_prints("ReadJob(Err(Error {", &format!("{read:?}"));
}

#[tokio::test]
async fn an_undecodable_body_prints_its_error_and_its_length() {
    let body = r#"{"job":{"user_guid":"USR-7"}}"#;
    let (sender, printed) = std::sync::mpsc::channel();
    let endpoint = webhooks().on_undecodable(move |undecodable| {
        sender.send(format!("{undecodable:?}")).unwrap();
        async {}
    });
    let answer = tower::ServiceExt::oneshot(endpoint, delivery(body)).await;
    assert_eq!(answer.unwrap().status(), 204);
    let printed = printed.recv().unwrap();
    assert_prints("Undecodable { ", &printed);
    assert!(
        printed.contains(&format!("{} bytes", body.len())),
        "{printed}"
    );
}

#[tokio::test]
async fn another_webhook_prints_its_kind_and_its_length() {
    let body = r#"{"type":"BALANCE","action":"UPDATED","user_guid":"USR-7"}"#;
    let (sender, printed) = std::sync::mpsc::channel();
    let endpoint = webhooks().on_other_webhook(move |webhook| {
        sender.send(format!("{webhook:?}")).unwrap();
        async {}
    });
    let answer = tower::ServiceExt::oneshot(endpoint, delivery(body)).await;
    assert_eq!(answer.unwrap().status(), 204);
    let printed = printed.recv().unwrap();
    assert_prints("OtherWebhook { type: Some(\"BALANCE\"),", &printed);
    assert!(printed.contains("UPDATED"), "{printed}");
    assert!(
        printed.contains(&format!("{} bytes", body.len())),
        "{printed}"
    );
}

#[cfg(feature = "axum")]
#[tokio::test]
async fn a_rejection_prints_its_error_and_has_its_source() {
    use std::error::Error as _;

    use axum::extract::FromRequest as _;
    use http_body::Frame;

    use crate::support::Frames;

    let webhooks = webhooks().boxed();
    let broken = Frames::new([Ok(Frame::data("{".into())), Err("reset".into())]);
    let request = delivery(broken);
    let rejection = JobEvent::from_request(request, &webhooks)
        .await
        .unwrap_err();
    assert_prints("JobEventRejection(", &format!("{rejection:?}"));
    assert_eq!(rejection.source().unwrap().to_string(), "reset");
}

#[cfg(feature = "test-util")]
#[test]
fn the_jobs_of_the_stand_in_print_how_many_there_are() {
    use mx_job_webhook::testing::{Mx, Sample};

    let mx: Mx = Mx::new("/admin/webhooks").with_basic("mx", "secret");
    let printed = format!("{mx:?}");
    assert_prints("Mx {", &printed);
    assert!(printed.contains("/admin/webhooks"), "{printed}");
    assert_prints("Sample", &format!("{:?}", Sample::completed()));
    let jobs = mx.jobs();
    jobs.set(&Sample::completed());
    assert_eq!(format!("{jobs:?}"), "MxJobs { jobs: 1 }");
}

#[cfg(feature = "tokio")]
mod watch {
    use std::convert::Infallible;
    use std::sync::mpsc::{Sender, channel};
    use std::time::Duration;

    use mx_job_webhook::job::JobGuid;
    use mx_job_webhook::watch::{
        Counts, JobWatch, MemoryWatchStore, ReadFn, Replaced, SettledEvent, Stored, Update, Wake,
        WatchStore,
    };
    use tower::{Layer as _, Service as _};

    use super::*;

    /// A store that prints what the watch passes to it.
    struct Prints(MemoryWatchStore, Sender<(&'static str, String)>);

    impl WatchStore for Prints {
        type Error = <MemoryWatchStore as WatchStore>::Error;

        async fn load(&self, jobs: &[JobGuid]) -> Result<Vec<(JobGuid, Stored)>, Self::Error> {
            self.0.load(jobs).await
        }

        async fn replace(
            &self,
            job: &JobGuid,
            expected: Option<u64>,
            update: Update<'_>,
        ) -> Result<Replaced, Self::Error> {
            self.0.replace(job, expected, update).await
        }

        async fn claim_due(
            &self,
            limit: usize,
            lease: Duration,
        ) -> Result<Vec<(JobGuid, Stored)>, Self::Error> {
            self.0.claim_due(limit, lease).await
        }

        async fn count(&self) -> Result<Counts, Self::Error> {
            self.0.count().await
        }

        async fn listen(&self, wake: Wake) -> Result<(), Self::Error> {
            self.1.send(("Wake", format!("{wake:?}"))).unwrap();
            self.0.listen(wake).await
        }

        fn record_unexpected(&self, event: SettledEvent, keep: Duration) -> Option<SettledEvent> {
            let printed = format!("{event:?}");
            assert!(printed.contains(&format!("{} bytes", SAMPLE.len())));
            self.1.send(("SettledEvent", printed)).unwrap();
            self.0.record_unexpected(event, keep)
        }
    }

    #[tokio::test]
    async fn the_watch_and_what_it_passes_to_a_store_print_their_names() {
        let (sender, printed) = channel();
        let watch = JobWatch::new(Prints(MemoryWatchStore::new(), sender));
        let mut jobs = watch.layer().layer(JobRouter::new());
        assert_prints("Watch { inner: JobRouter", &format!("{jobs:?}"));
        let running = jobs.call(event());
        assert_prints("WatchFuture", &format!("{running:?}"));
        running.await.unwrap();
        let job = "JOB-1".parse().unwrap();
        let expected = watch.expect(&job).await.unwrap();
        assert_prints("Expected", &format!("{expected:?}"));
        let _ = tokio::time::timeout(
            Duration::from_millis(50),
            expected.within(Duration::from_secs(9)),
        )
        .await;
        drop(watch);
        drop(jobs);
        let printed: Vec<_> = printed.try_iter().collect();
        for name in ["SettledEvent", "Wake"] {
            let found = printed.iter().find(|(it, _)| *it == name).unwrap();
            assert_prints(name, &found.1);
        }

        let store = MemoryWatchStore::new().with_capacity(7).with_recent(8);
        let printed = format!("{store:?}");
        assert_eq!(printed, "MemoryWatchStore { capacity: 7, recent: 8, .. }");

        let read = ReadFn::new(|_: JobGuid| async { Ok::<_, Infallible>("secret") });
        assert_prints("ReadFn", &format!("{read:?}"));
    }
}
