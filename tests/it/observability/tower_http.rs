//! tower-http's `TraceLayer` around the endpoint: nested spans, and the reason in the response.

use http::Response;
use mx_job_webhook::{Error, JobRouter, JobWebhook};
use tower::{ServiceBuilder, ServiceExt as _};
use tower_http::trace::TraceLayer;

use super::{Capture, DELIVERY};
use crate::support::{PATH, SAMPLE, credentials, delivery};

#[test]
fn the_trace_layers_span_contains_ours_and_reads_the_reason() {
    let capture = Capture::default();
    capture.run(async {
        let trace = TraceLayer::new_for_http()
            .make_span_with(|_: &http::Request<_>| tracing::info_span!("request"))
            .on_response(|response: &Response<_>, _, _: &tracing::Span| {
                let reason = response.extensions().get::<Error>();
                let reason = reason.map(|error| error.kind().name());
                tracing::info!(reason, "answered");
            });
        let jobs = JobRouter::new().on_completed(|_| async {
            tracing::info!("in the callback");
            Err("the database is down")
        });
        let app = ServiceBuilder::new()
            .layer(trace)
            .layer(JobWebhook::new(credentials(), jobs).at(PATH))
            .service(axum::Router::<()>::new());
        let response = app.oneshot(delivery(SAMPLE)).await.unwrap();
        assert_eq!(response.status(), 500);
    });
    let span = &capture.deliveries()[0];
    assert_eq!(span.parent, Some("request"));
    let events = capture.events();
    let event = |message: &str| {
        events
            .iter()
            .find(|event| event.message() == message)
            .unwrap()
    };
    assert_eq!(event("in the callback").within, [DELIVERY, "request"]);
    assert_eq!(
        event("delivery failed: the callback failed: the database is down").within,
        [DELIVERY, "request"]
    );
    let answered = event("answered");
    assert_eq!(answered.fields.named("reason"), Some("callback_failed"));
    assert_eq!(answered.within, ["request"]);
}
