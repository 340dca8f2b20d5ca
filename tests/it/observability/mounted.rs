//! Each delivery is observed once with every mount.

use axum::body::Body;
use http::Request;
use mx_job_webhook::{JobEvent, JobRouter, JobWebhook};
use tower::{Layer as _, ServiceExt as _, service_fn};
use tracing::Level;

use super::Capture;
use crate::support::{
    Frames, PATH, SAMPLE, Settings, credentials, delivery, extractor, jobs, mounts, run, send,
};

/// Returns `status outcome` of each delivery, on which its span and its counter agree.
fn seen(capture: &Capture) -> Vec<String> {
    let spans = capture.deliveries();
    for span in &spans {
        assert!(span.closed && span.level == Level::INFO);
        assert!(span.fields.named("duration").is_some());
    }
    let mut seen: Vec<String> = spans
        .iter()
        .map(|span| {
            let field = |name| span.fields.named(name).unwrap_or("none").to_lowercase();
            let status = match field("body.problem") {
                problem if problem.starts_with("not a job webhook") => "no_job".to_owned(),
                _ => field("job.status"),
            };
            format!("{status} {}", field("outcome"))
        })
        .collect();
    seen.sort();
    let mut counted = Vec::new();
    for (name, count) in capture.metrics() {
        if let Some(labels) = name.strip_prefix("mx_job_webhook_deliveries_total{status=") {
            let labels = labels.trim_end_matches(",source=webhook}");
            let labels = labels.replace(",outcome=", " ");
            counted.extend((0..count as usize).map(|_| labels.clone()));
        }
    }
    counted.sort();
    assert_eq!(seen, counted);
    seen
}

#[test]
fn every_mount_observes_a_delivery_once() {
    let settings = Settings::new(jobs(JobRouter::new().on_completed(|_| async {})));
    for (mount, app) in mounts(&settings) {
        let requests = [
            (delivery(SAMPLE), "completed handled"),
            (delivery("{}"), "no_job no_job"),
            (
                Request::post(PATH).body(Body::empty()).unwrap(),
                "none unauthorized",
            ),
        ];
        for (request, expected) in requests {
            let capture = Capture::default();
            capture.run(send(app.clone(), request));
            assert_eq!(seen(&capture), [expected], "{mount}");
        }
    }
}

#[test]
fn other_requests_are_not_observed() {
    let settings = Settings::new(jobs(JobRouter::new()));
    for (mount, app) in mounts(&settings) {
        let capture = Capture::default();
        capture.run(send(
            app,
            Request::get("/accounts").body(Body::empty()).unwrap(),
        ));
        assert!(
            seen(&capture).is_empty() && capture.metrics().is_empty(),
            "{mount}"
        );
    }
}

#[test]
fn a_delivery_dropped_while_the_extractor_reads_it_is_abandoned() {
    let capture = Capture::default();
    let app = extractor(&Settings::new(jobs(JobRouter::new())));
    let endless = Frames::of_data([&b"{"[..]]).then_pending();
    capture.run(async {
        let second = std::time::Duration::from_secs(1);
        let waiting = tokio::time::timeout(second, app.oneshot(delivery(endless)));
        assert!(waiting.await.is_err());
    });
    assert_eq!(seen(&capture), ["none abandoned"]);
}

#[test]
fn a_router_called_directly_observes_the_delivery() {
    let capture = Capture::default();
    capture.run(async {
        let event = || JobEvent::decode(SAMPLE).unwrap();
        let _ = run(&JobRouter::new(), event()).await;
        let background = mx_job_webhook::Background::new();
        let _ = background
            .run(JobRouter::new().on_completed(|_| async {}), event())
            .await;
        let full = background.with_capacity(0);
        let _ = full.run(JobRouter::new(), event()).await;
    });
    let spans = capture.deliveries();
    let outcomes: Vec<_> = spans
        .iter()
        .map(|span| span.fields.named("outcome").unwrap())
        .collect();
    assert_eq!(outcomes, ["unhandled", "handled", "overloaded"]);
}

#[test]
fn a_router_called_within_a_delivery_does_not_observe_it_again() {
    let capture = Capture::default();
    capture.run(async {
        let router = JobRouter::new().on_completed(|_| async {});
        let within = service_fn(move |event| {
            let router = router.clone();
            async move { run(&router, event).await }
        });
        let nothing = axum::Router::<()>::new();
        let app = JobWebhook::new(credentials(), within)
            .at(PATH)
            .layer(nothing);
        assert_eq!(app.oneshot(delivery(SAMPLE)).await.unwrap().status(), 204);
    });
    assert_eq!(seen(&capture), ["completed handled"]);
}

#[test]
fn invented_statuses_share_one_label_value_and_a_guid_has_no_label() {
    let capture = Capture::default();
    capture.run(async {
        let app = super::endpoint(JobRouter::new());
        let named = r#"{"job": {"guid": "JOB-1\nforged", "status_name": "NEW\nforged"}}"#;
        assert_eq!(super::answer(&app, delivery(named)).await, 204);
        let numbered = r#"{"job": {"guid": "JOB-2", "status": 42}}"#;
        assert_eq!(super::answer(&app, delivery(numbered)).await, 204);
    });
    let counted = capture.metrics()["mx_job_webhook_deliveries_total{status=other,outcome=unhandled,source=webhook}"];
    assert_eq!(counted, 2.0);
    let spans = capture.deliveries();
    let statuses: Vec<_> = spans
        .iter()
        .map(|span| span.fields.named("job.status").unwrap())
        .collect();
    assert_eq!(statuses, ["NEW\nFORGED", "42"]);
}
