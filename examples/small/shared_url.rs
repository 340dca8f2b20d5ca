//! How do I receive MX's other webhooks on the same URL?
//!
//! Run it with `cargo run --example shared_url`, and deliver a job's webhook and another one:
//!
//! ```text
//! curl -i -u mx:secret -H 'content-type: application/json' \
//!     --data @tests/fixtures/completed.json http://127.0.0.1:3000/webhooks
//! curl -i -u mx:secret -H 'content-type: application/json' \
//!     --data '{"type": "BALANCE", "account_guid": "ACT-1"}' http://127.0.0.1:3000/webhooks
//! ```
//!
//! Unless you ask MX for several URLs, it sends all its webhooks to one. The layer checks the
//! credentials of all of them. It takes those of jobs, and passes the others on to the application's
//! own route for the path.

#![allow(clippy::print_stdout, reason = "the example prints what happens")]
#![cfg_attr(test, allow(clippy::unwrap_used, reason = "a panic fails the test"))]

use std::env;
use std::error::Error;

use axum::routing::post;
use axum::{Extension, Json, Router};
use http::StatusCode;
use mx_job_webhook::mount::PassedOn;
use mx_job_webhook::{Credentials, JobRouter, JobWebhook};
use serde_json::Value;
use tokio::net::TcpListener;

/// Webhooks without a job have a `type`, or only an `action`. A 2xx says that the webhook was received,
/// so MX does not send it again. The extension says that the layer has checked the credentials.
async fn other(_: Extension<PassedOn>, Json(webhook): Json<Value>) -> StatusCode {
    match webhook["type"].as_str() {
        Some("AGGREGATION") => println!("read the accounts of {}", webhook["member_guid"]),
        Some("BALANCE") => println!("read the balance of {}", webhook["account_guid"]),
        Some("CONNECTION_STATUS") => println!("{} is connected", webhook["member_guid"]),
        other => println!("this application does not use {other:?}"),
    }
    StatusCode::NO_CONTENT
}

fn app(credentials: Credentials) -> Router {
    let jobs =
        JobRouter::new().on_completed(|event| async move { println!("completed {}", event.guid) });
    let webhooks = JobWebhook::new(credentials, jobs)
        .at("/webhooks")
        .pass_on_other_webhooks();
    Router::new()
        .route("/webhooks", post(other))
        .layer(webhooks)
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let address = env::var("ADDR").unwrap_or_else(|_| "127.0.0.1:3000".to_owned());
    let listener = TcpListener::bind(address).await?;
    println!("listening on http://{}", listener.local_addr()?);
    Ok(axum::serve(listener, app(Credentials::basic("mx", "secret")?)).await?)
}

#[cfg(test)]
mod tests {
    use axum::body::Body;
    use http::Request;
    use tower::ServiceExt as _;

    use super::*;

    async fn status(body: &str, authorization: &str) -> StatusCode {
        let delivery = Request::post("/webhooks")
            .header("authorization", authorization)
            .header("content-type", "application/json")
            .body(Body::from(body.to_owned()))
            .unwrap();
        let app = app(Credentials::basic("mx", "secret").unwrap());
        app.oneshot(delivery).await.unwrap().status()
    }

    #[tokio::test]
    async fn each_webhook_of_mx_is_taken_and_a_stranger_is_refused() {
        let mx = "Basic bXg6c2VjcmV0";
        let webhooks = [
            include_str!("../../tests/fixtures/completed.json"),
            r#"{"type": "AGGREGATION", "action": "member_data_updated", "member_guid": "MBR-1"}"#,
            r#"{"type": "BALANCE", "account_guid": null, "balance": 12.0}"#,
            r#"{"type": "CONNECTION_STATUS", "connection_status": "CHALLENGED"}"#,
            r#"{"action": "UPDATED", "micro_deposit": {"status_name": "COMPLETED"}}"#,
        ];
        for webhook in webhooks {
            assert_eq!(
                status(webhook, mx).await,
                StatusCode::NO_CONTENT,
                "{webhook}"
            );
            let stranger = status(webhook, "Basic eDp5").await;
            assert_eq!(stranger, StatusCode::UNAUTHORIZED, "{webhook}");
        }
        assert_eq!(status("{}", mx).await, StatusCode::UNPROCESSABLE_ENTITY);
    }
}
