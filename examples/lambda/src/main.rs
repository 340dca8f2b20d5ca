//! How do I receive the webhooks in a function on AWS Lambda, behind API Gateway?
//!
//! Run it with `cargo run -p lambda`, and deliver something:
//!
//! ```text
//! curl -i -u mx:secret -H 'content-type: application/json' \
//!     --data @tests/fixtures/completed.json http://127.0.0.1:3000/admin/webhooks
//! ```
//!
//! Outside of Lambda, a small stand-in runs the function. For a function of your own, use
//! `cargo lambda watch`.
//!
//! Lambda freezes the process after the answer, and may never resume it. So use neither
//! `AcknowledgeFirstLayer` nor `with_answer_deadline` here. If the sender hangs up, Lambda does not
//! notify the function, which continues until its own timeout. That timeout cuts a callback short. MX
//! gets no receipt then, and delivers the event again. Each instance has its own memory, so finding
//! duplicates needs a ledger that the instances share.

#![allow(clippy::print_stdout, reason = "the example prints what happens")]
#![cfg_attr(test, allow(clippy::unwrap_used, reason = "a panic fails the test"))]

mod stand_in;
#[cfg(test)]
mod tests;

use std::convert::Infallible;
use std::env;

use http::StatusCode;
use lambda_http::{Body, Error, Request, Response};
use mx_job_webhook::{Credentials, JobRouter, JobWebhook};
use tower::{Service, ServiceBuilder};

/// The function. It also serves other paths.
fn app(
    credentials: Credentials,
) -> impl Service<Request, Response = Response<Body>, Error = Infallible, Future: Send> {
    let jobs = JobRouter::new()
        .on_completed(|event| async move { println!("completed {}", event.guid) })
        .on_unhandled(|unhandled| async move { println!("{} unhandled", unhandled.status) });
    ServiceBuilder::new()
        .layer(JobWebhook::new(credentials, jobs).at("/admin/webhooks"))
        .service_fn(answer)
}

/// Answers every request that is not a delivery. The first part of every path is the stage of API
/// Gateway, if that is not `$default`. Set `AWS_LAMBDA_HTTP_IGNORE_STAGE_IN_PATH` to omit it.
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
async fn main() -> Result<(), Error> {
    if env::var_os("AWS_LAMBDA_RUNTIME_API").is_none() {
        return stand_in::run().await;
    }
    lambda_http::run(app(Credentials::basic("mx", "secret")?)).await
}
