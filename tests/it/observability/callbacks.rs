//! Callbacks: their span, their duration, and their number.

use std::time::Duration;

use mx_job_webhook::acknowledge_first::AcknowledgeFirstLayer;
use mx_job_webhook::ledger::MemoryLedger;
use mx_job_webhook::{DedupeLayer, JobEvent, JobRouter, JobWebhook};
use tower::{ServiceBuilder, ServiceExt as _};

use super::{Capture, DELIVERY, Endpoint, answer, endpoint, hang_up};
use crate::support::{SAMPLE, credentials, delivery, jobs, panic_quietly};

const SECOND: Duration = Duration::from_secs(1);

/// Logs when it is called, and a second later when it ends.
fn talking() -> JobRouter {
    JobRouter::new().on_completed(|_| {
        tracing::info!("called");
        async {
            tracing::info!("started");
            tokio::time::sleep(SECOND).await;
            tracing::info!("finished");
        }
    })
}

/// Returns the callback's messages and the spans around them.
fn said(capture: &Capture) -> Vec<(String, Vec<&'static str>)> {
    let mut events = capture.events();
    events.retain(|event| event.target == module_path!());
    let said = events.into_iter();
    said.map(|event| (event.message().to_owned(), event.within))
        .collect()
}

fn all_within_the_delivery() -> Vec<(String, Vec<&'static str>)> {
    ["called", "started", "finished"]
        .map(|said| (said.to_owned(), vec![DELIVERY]))
        .to_vec()
}

/// One delivery with this label in the metrics, and one callback with the other.
fn counted(capture: &Capture, delivery: &str, callback: &str) {
    let metrics = capture.metrics();
    let expected = [
        (
            "mx_job_webhook_callback_duration_seconds",
            format!("{{status=completed,outcome={callback}}}"),
            1.0,
        ),
        ("mx_job_webhook_callbacks_in_flight", "{}".to_owned(), 0.0),
        ("mx_job_webhook_deliveries_in_flight", "{}".to_owned(), 0.0),
        (
            "mx_job_webhook_deliveries_total",
            format!("{{status=completed,outcome={delivery},source=webhook}}"),
            1.0,
        ),
    ];
    let expected = expected.map(|(name, labels, value)| (format!("{name}{labels}"), value));
    assert_eq!(metrics, expected.into());
}

#[test]
fn an_awaited_callback_runs_in_the_span_of_its_delivery() {
    let capture = Capture::default();
    capture.run(async {
        assert_eq!(answer(&endpoint(talking()), delivery(SAMPLE)).await, 204);
    });
    assert_eq!(said(&capture), all_within_the_delivery());
    counted(&capture, "handled", "handled");
}

#[test]
fn a_callback_runs_in_the_span_and_is_counted_once_if_its_sender_hangs_up() {
    let capture = Capture::default();
    capture.run(async {
        hang_up(&endpoint(talking()), delivery(SAMPLE));
        assert_eq!(
            capture.metrics()["mx_job_webhook_deliveries_in_flight{}"],
            1.0
        );
        tokio::time::sleep(2 * SECOND).await;
    });
    assert_eq!(said(&capture), all_within_the_delivery());
    counted(&capture, "handled", "handled");
}

#[test]
fn a_callback_past_the_answer_deadline_stays_in_the_span_and_its_end_is_logged() {
    let capture = Capture::default();
    capture.run(async {
        let endpoint = endpoint(talking()).with_answer_deadline(SECOND / 2);
        assert_eq!(answer(&endpoint, delivery(SAMPLE)).await, 503);
        assert!(!capture.deliveries()[0].closed);
        assert_eq!(
            capture.metrics()["mx_job_webhook_deliveries_in_flight{}"],
            1.0
        );
        tokio::time::sleep(2 * SECOND).await;
    });
    assert_eq!(said(&capture), all_within_the_delivery());
    counted(&capture, "answer_deadline", "handled");
    let [answer, end] = &capture.own_events()[..] else {
        panic!("{:?}", capture.own_events());
    };
    assert_eq!(
        answer.message(),
        "delivery refused: the answer deadline passed"
    );
    assert_eq!(end.message(), "the callback ended after the answer");
    assert_eq!(end.fields.named("outcome"), Some("handled"));
    assert_eq!(end.within, [DELIVERY]);
}

#[test]
fn on_error_runs_in_the_span() {
    let capture = Capture::default();
    let telling = |endpoint: Endpoint| endpoint.on_error(|_| tracing::info!("told"));
    capture.run(async {
        let late = telling(endpoint(talking())).with_answer_deadline(SECOND / 2);
        answer(&late, delivery(SAMPLE)).await;
        let undecodable = telling(endpoint(talking()));
        answer(&undecodable, delivery("{}")).await;
        let failing = JobRouter::new().on_completed(|_| async { Err("no") });
        answer(&telling(endpoint(failing)), delivery(SAMPLE)).await;
    });
    let told: Vec<_> = said(&capture)
        .into_iter()
        .filter(|(said, _)| said == "told")
        .collect();
    // Reports the deadline and, at the runtime's end, the callback that was running; the other errors
    // once each.
    assert_eq!(told, vec![("told".to_owned(), vec![DELIVERY]); 4]);
}

#[test]
fn a_callback_behind_middleware_runs_in_the_span() {
    for hangs_up in [false, true] {
        let capture = Capture::default();
        capture.run(async {
            let between = ServiceBuilder::new()
                .concurrency_limit(1)
                .layer(DedupeLayer::new(MemoryLedger::new()))
                .buffer(4)
                .service(talking());
            let endpoint = JobWebhook::new(credentials(), between);
            let response = endpoint.clone().oneshot(delivery(SAMPLE));
            if hangs_up {
                assert!(tokio::time::timeout(SECOND / 2, response).await.is_err());
                tokio::time::sleep(2 * SECOND).await;
            } else {
                assert_eq!(response.await.unwrap().status(), 204);
            }
        });
        assert_eq!(
            said(&capture),
            all_within_the_delivery(),
            "hangs up: {hangs_up}"
        );
        counted(&capture, "handled", "handled");
    }
}

#[test]
fn a_callback_run_after_the_acknowledgement_is_in_the_span_and_its_end_is_logged() {
    let capture = Capture::default();
    capture.run(async {
        let first = AcknowledgeFirstLayer::new(|_| {});
        let first = ServiceBuilder::new().layer(first).service(talking());
        let endpoint = JobWebhook::new(credentials(), jobs(first));
        assert_eq!(answer(&endpoint, delivery(SAMPLE)).await, 204);
        tokio::task::yield_now().await;
        assert_eq!(
            capture.metrics()["mx_job_webhook_callbacks_in_flight{}"],
            1.0
        );
        tokio::time::sleep(2 * SECOND).await;
    });
    assert_eq!(said(&capture), all_within_the_delivery());
    counted(&capture, "accepted", "handled");
    let messages: Vec<String> = capture
        .own_events()
        .iter()
        .map(|it| it.message().to_owned())
        .collect();
    assert_eq!(
        messages,
        [
            "delivery acknowledged",
            "the callback ended after the answer"
        ]
    );
}

#[test]
fn a_failure_after_the_acknowledgement_is_logged_as_an_error() {
    let capture = Capture::default();
    capture.run(async {
        let failing = JobRouter::new().on_completed(|_| async { Err::<(), _>("the disk is full") });
        let first = AcknowledgeFirstLayer::new(|_| {});
        let first = ServiceBuilder::new().layer(first).service(failing);
        let endpoint = JobWebhook::new(credentials(), jobs(first));
        assert_eq!(answer(&endpoint, delivery(SAMPLE)).await, 204);
        tokio::time::sleep(SECOND).await;
    });
    let events = capture.own_events();
    let last = events.last().unwrap();
    assert_eq!(last.level, tracing::Level::ERROR);
    let message = last.message();
    assert!(message.starts_with("after the answer: "), "{message}");
    assert!(message.contains("the disk is full"), "{message}");
}

#[test]
fn a_panicking_callback_is_counted_and_leaves_the_in_flight_gauge() {
    let capture = Capture::default();
    capture.run(async {
        let panicking = JobRouter::new().on_completed(|_| async { panic_quietly() });
        assert_eq!(answer(&endpoint(panicking), delivery(SAMPLE)).await, 500);
    });
    counted(&capture, "callback_panicked", "callback_panicked");
}

#[test]
fn a_callback_cancelled_by_the_runtime_is_counted_and_leaves_the_in_flight_gauge() {
    struct Held;
    impl Drop for Held {
        fn drop(&mut self) {
            tracing::info!("dropped");
        }
    }
    let capture = Capture::default();
    capture.run(async {
        let hanging = JobRouter::new().on_completed(|_| async {
            let _held = Held;
            std::future::pending::<()>().await;
        });
        hang_up(&endpoint(hanging), delivery(SAMPLE));
    });
    assert_eq!(said(&capture), [("dropped".to_owned(), vec![DELIVERY])]);
    counted(&capture, "callback_cancelled", "callback_cancelled");
}

#[test]
fn a_queue_workers_callbacks_are_timed_without_deliveries() {
    let capture = Capture::default();
    capture.run(async {
        let event = JobEvent::decode(SAMPLE).unwrap();
        talking().oneshot(event).await.unwrap();
        let unwanted = JobEvent::decode(SAMPLE).unwrap();
        JobRouter::new()
            .on_unhandled(|_| async {})
            .oneshot(unwanted)
            .await
            .unwrap();
    });
    assert!(capture.deliveries().is_empty());
    let expected = [
        (
            "mx_job_webhook_callback_duration_seconds{status=completed,outcome=handled}",
            1.0,
        ),
        (
            "mx_job_webhook_callback_duration_seconds{status=completed,outcome=unhandled}",
            1.0,
        ),
        ("mx_job_webhook_callbacks_in_flight{}", 0.0),
    ];
    assert_eq!(
        capture.metrics(),
        expected
            .map(|(name, value)| (name.to_owned(), value))
            .into()
    );
}
