//! How do I receive the webhooks in a function on AWS Lambda, behind API Gateway?
//!
//! Run it as cargo-lambda does, with `cargo lambda watch`, and deliver something:
//!
//! ```text
//! curl -i -u mx:secret -H 'content-type: application/json' \
//!     --data @tests/fixtures/completed.json \
//!     http://127.0.0.1:9000/lambda-url/lambda/admin/webhooks
//! ```
//!
//! Lambda freezes the process when the answer has gone out, and may never wake it. So nothing may
//! run on after an answer here: no `AcknowledgeFirstLayer`, no `with_answer_deadline`. A sender that
//! hangs up is no worry: Lambda does not tell the function, which goes on to its own timeout. That
//! timeout does cut a callback short; MX was told nothing then, and comes again. Each instance has a
//! memory of its own, so duplicates are for the ledgers in Redis or `PostgreSQL` to find.

#![allow(clippy::print_stdout, reason = "it talks to whoever ran it")]
#![cfg_attr(
    test,
    allow(
        clippy::unwrap_used,
        reason = "a test that panics is a test that fails"
    )
)]

use std::convert::Infallible;
use std::error::Error;

use http::StatusCode;
use lambda_http::{Body, Request, Response};
use mx_job_webhook::{Credentials, JobRouter, JobWebhookLayer};
use tower::{Service, ServiceBuilder};

/// The function, which has other paths than MX's too.
fn app(
    credentials: Credentials,
) -> impl Service<Request, Response = Response<Body>, Error = Infallible, Future: Send> {
    let jobs = JobRouter::new()
        .on_completed(|event| async move { println!("completed {}", event.guid) })
        .on_unhandled(|unhandled| async move { println!("{} unhandled", unhandled.status) });
    ServiceBuilder::new()
        .layer(JobWebhookLayer::new("/admin/webhooks", credentials, jobs))
        .service_fn(answer)
}

/// Everything that is not a delivery. A stage of API Gateway other than `$default` is the first part
/// of every path, unless `AWS_LAMBDA_HTTP_IGNORE_STAGE_IN_PATH` is set.
async fn answer(request: Request) -> Result<Response<Body>, Infallible> {
    let (status, text) = match request.uri().path() {
        "/" => (StatusCode::OK, "a function of its own\n"),
        _ => (StatusCode::NOT_FOUND, "nothing here\n"),
    };
    let mut response = Response::new(Body::from(text));
    *response.status_mut() = status;
    Ok(response)
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn Error + Send + Sync>> {
    lambda_http::run(app(Credentials::basic("mx", "secret")?)).await
}

#[cfg(test)]
mod tests {
    use base64::Engine as _;
    use base64::engine::general_purpose::STANDARD;
    use serde_json::{Value, json};
    use tower::ServiceExt as _;

    use super::*;

    const SAMPLE: &str = include_str!("../tests/fixtures/completed.json");

    /// An event of API Gateway, as `lambda_http` makes a request of it.
    async fn status(method: &str, stage: &str, body: Value, is_base64: bool) -> StatusCode {
        let event = json!({
            "version": "2.0",
            "routeKey": "$default",
            "rawPath": "/admin/webhooks",
            "rawQueryString": "",
            "headers": {
                "authorization": "Basic bXg6c2VjcmV0",
                "content-type": "application/json; charset=utf-8",
                "host": "abc.execute-api.us-east-1.amazonaws.com",
            },
            "requestContext": {
                "http": {
                    "method": method,
                    "path": "/admin/webhooks",
                    "protocol": "HTTP/1.1",
                    "sourceIp": "192.0.2.1",
                    "userAgent": "",
                },
                "stage": stage,
                "timeEpoch": 1_700_000_000_000_u64,
            },
            "body": body,
            "isBase64Encoded": is_base64,
        });
        let request = lambda_http::request::from_str(&event.to_string()).unwrap();
        let app = app(Credentials::basic("mx", "secret").unwrap());
        app.oneshot(request).await.unwrap().status()
    }

    #[tokio::test]
    async fn events_of_api_gateway_are_deliveries() {
        let text = status("POST", "$default", json!(SAMPLE), false).await;
        assert_eq!(text, StatusCode::NO_CONTENT);
        let encoded = json!(STANDARD.encode(SAMPLE));
        let base64 = status("POST", "$default", encoded.clone(), true).await;
        assert_eq!(base64, StatusCode::NO_CONTENT);
        let not_decoded = status("POST", "$default", encoded, false).await;
        assert_eq!(not_decoded, StatusCode::UNPROCESSABLE_ENTITY);
    }

    #[tokio::test]
    async fn other_methods_and_other_stages_are_the_functions() {
        let page = status("GET", "$default", Value::Null, false).await;
        assert_eq!(page, StatusCode::NOT_FOUND);
        let stage = status("POST", "test", json!(SAMPLE), false).await;
        assert_eq!(stage, StatusCode::NOT_FOUND);
    }
}
