//! Receipts in the transcript: an answer of this crate is told from that of another component.

use std::convert::Infallible;

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::{Empty, Full};
use mx_job_webhook::acknowledge_first::AcknowledgeFirstLayer;
use mx_job_webhook::ledger::MemoryLedger;
use mx_job_webhook::testing::{Mx, Sample, Transcript};
use mx_job_webhook::{DedupeLayer, ErrorKind, JobRouter, JobWebhook, Permanent, Receipt};
use tower::{Layer as _, ServiceExt as _, service_fn};

use crate::support::{PATH, credentials};

fn mx() -> Mx {
    Mx::new(PATH).with_basic("mx", "secret")
}

fn outcome(transcript: &Transcript) -> Vec<String> {
    let printed = transcript.to_string();
    let lines = printed.lines().map(|line| line.split(": ").nth(1).unwrap());
    lines.map(str::to_owned).collect()
}

#[tokio::test(start_paused = true)]
async fn each_attempt_has_and_prints_its_receipt() {
    let jobs = JobRouter::new()
        .on_completed(|_| async {})
        .on_denied(|_| async { Err(Permanent::new("gone")) })
        .on_dead_letter(|_| async { Ok::<_, Infallible>(()) });
    let once = DedupeLayer::new(MemoryLedger::new()).layer(jobs);
    let samples = [
        Sample::completed(),
        Sample::completed(),
        Sample::challenged(),
        Sample::halted().numbered(1),
        Sample::denied().numbered(2),
    ];
    let app = JobWebhook::new(credentials(), once);
    let transcript = mx().deliver(app, samples).await;
    let expected = [
        Receipt::Handled,
        Receipt::Duplicate,
        Receipt::Stale,
        Receipt::Unhandled,
        Receipt::DeadLettered,
    ];
    assert_eq!(transcript.receipts(), expected);
    assert!(transcript.all_acknowledged());
    assert_eq!(
        outcome(&transcript),
        expected.map(|receipt| format!("204 ({})", receipt.name()))
    );
    let first = &transcript.attempts()[0];
    assert_eq!(first.receipt(), Some(Receipt::Handled));
    assert!(first.error().is_none());

    let later = AcknowledgeFirstLayer::new(|_| {}).layer(JobRouter::new());
    let app = JobWebhook::new(credentials(), later);
    let transcript = mx().deliver(app, Sample::completed()).await;
    assert_eq!(transcript.receipts(), [Receipt::Accepted]);
}

#[tokio::test(start_paused = true)]
async fn a_refusal_has_no_receipt() {
    let jobs = JobRouter::new().on_halted(|_| async { Err("the database is down") });
    let app = JobWebhook::new(credentials(), jobs);
    let transcript = mx().with_retries(0).deliver(app, Sample::halted()).await;
    let [attempt] = transcript.attempts() else {
        panic!("{transcript}");
    };
    assert_eq!(attempt.receipt(), None);
    let error = attempt.error().unwrap();
    assert_eq!(error.kind(), ErrorKind::CallbackFailed);
    // The alternate form is that of a person who looks for the cause.
    assert!(
        transcript
            .to_string()
            .ends_with(&format!("500 ({error:#})\n")),
        "{transcript}"
    );
}

#[tokio::test(start_paused = true)]
async fn a_2xx_of_another_component_is_no_acknowledgement() {
    for status in [200, 204] {
        let other = service_fn(move |_: Request<Full<Bytes>>| async move {
            let mut response = Response::new(Empty::<Bytes>::new());
            *response.status_mut() = http::StatusCode::from_u16(status).unwrap();
            Ok::<_, Infallible>(response)
        });
        let transcript = mx().deliver(other, Sample::completed()).await;
        assert_eq!(transcript.answers(), [status], "MX takes it for a receipt");
        assert!(!transcript.all_acknowledged());
        assert!(transcript.receipts().is_empty());
        let expected = format!("{status} (not answered by mx-job-webhook)");
        assert_eq!(outcome(&transcript), [expected]);
    }
}

/// MX delivers again after any answer but 2xx, whatever this crate said.
#[tokio::test(start_paused = true)]
async fn a_receipt_with_another_status_is_no_acknowledgement() {
    let own = JobWebhook::new(credentials(), JobRouter::new());
    let app = service_fn(move |request: Request<Full<Bytes>>| {
        let own = own.clone();
        async move {
            let mut response = own.oneshot(request).await?;
            *response.status_mut() = http::StatusCode::BAD_GATEWAY;
            Ok::<_, Infallible>(response)
        }
    });
    let transcript = mx().with_retries(1).deliver(app, Sample::completed()).await;
    assert_eq!(transcript.answers(), [502, 502]);
    assert!(!transcript.all_acknowledged());
}

#[cfg(feature = "axum")]
#[tokio::test(start_paused = true)]
async fn a_handler_that_returns_the_receipt_acknowledges() {
    use axum::Router;
    use axum::extract::State;
    use axum::routing::post;
    use mx_job_webhook::{Error, JobEvent};

    async fn receipt(
        State(webhooks): State<JobWebhook>,
        event: JobEvent,
    ) -> Result<Receipt, Error> {
        webhooks.run(event).await
    }

    async fn status(_: JobEvent) -> http::StatusCode {
        http::StatusCode::NO_CONTENT
    }

    let webhooks = JobWebhook::new(credentials(), JobRouter::new());
    let app = Router::new()
        .route("/receipt", post(receipt))
        .route("/status", post(status))
        .with_state(webhooks.boxed());
    for (path, acknowledged) in [("/receipt", true), ("/status", false)] {
        let mx = Mx::new(path).with_basic("mx", "secret");
        let transcript = mx.deliver(app.clone(), Sample::completed()).await;
        assert_eq!(transcript.answers(), [204], "{path}");
        assert_eq!(transcript.all_acknowledged(), acknowledged, "{path}");
    }
}
