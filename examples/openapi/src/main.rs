//! How do I publish the webhook in my API description?
//!
//! Run it with `cargo run -p openapi`. It serves an application whose
//! `OpenAPI` document has its own route under `paths` and MX's webhook under `webhooks`:
//!
//! ```text
//! curl http://127.0.0.1:3000/openapi.json
//! ```
//!
//! It reads `ADDR` from the environment. With `-- --print` it prints the document and ends.

#![allow(
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "the example prints what happens"
)]
#![cfg_attr(test, allow(clippy::unwrap_used, reason = "a panic fails the test"))]

use std::env;
use std::error::Error;
use std::process::ExitCode;

use axum::routing::get;
use axum::{Json, Router};
use mx_job_webhook::schema::OpenApiWebhook;
use mx_job_webhook::{Credentials, JobRouter, JobWebhook};
use tokio::net::TcpListener;
use utoipa::OpenApi;

/// The credentials are those of `app`.
const WEBHOOK: OpenApiWebhook = OpenApiWebhook::new().with_basic();

#[derive(OpenApi)]
#[openapi(
    info(title = "Accounts", version = "1.0.0", license(name = "MIT", identifier = "MIT")),
    paths(accounts),
    modifiers(&WEBHOOK)
)]
struct Api;

/// The names of the accounts.
#[utoipa::path(get, path = "/accounts", responses((status = 200, body = [String])))]
async fn accounts() -> Json<Vec<String>> {
    Json(vec!["checking".to_owned()])
}

/// The application: the routes that its description names, the description, and the webhook.
fn app(credentials: Credentials) -> Router {
    let jobs = JobRouter::new()
        .on_completed(|event| async move { println!("{} {}", event.status, event.guid) });

    Router::new()
        .route("/accounts", get(accounts))
        .route("/openapi.json", get(|| async { Json(Api::openapi()) }))
        .layer(JobWebhook::new(credentials, jobs).at("/admin/webhooks"))
}

#[tokio::main]
async fn main() -> ExitCode {
    match run().await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("openapi: {error}");
            ExitCode::FAILURE
        }
    }
}

async fn run() -> Result<(), Box<dyn Error>> {
    match env::args().skip(1).collect::<Vec<_>>().as_slice() {
        [] => {}
        [argument] if argument == "--print" => {
            println!("{}", Api::openapi().to_pretty_json()?);
            return Ok(());
        }
        _ => return Err("the only argument is --print".into()),
    }
    let address = env::var("ADDR").unwrap_or_else(|_| "127.0.0.1:3000".to_owned());
    let listener = TcpListener::bind(&address)
        .await
        .map_err(|error| format!("cannot listen on {address}: {error}"))?;
    println!("curl http://{}/openapi.json", listener.local_addr()?);
    Ok(axum::serve(listener, app(Credentials::basic("mx", "secret")?)).await?)
}

#[cfg(test)]
mod tests {
    use axum::body::Body;
    use http::Request;
    use http_body_util::BodyExt as _;
    use serde_json::Value;
    use tower::ServiceExt as _;

    use super::*;

    #[tokio::test]
    async fn the_document_has_the_route_and_the_webhook() {
        let app = app(Credentials::basic("mx", "secret").unwrap());
        let request = Request::get("/openapi.json").body(Body::empty()).unwrap();
        let response = app.oneshot(request).await.unwrap();
        assert_eq!(response.status(), 200);
        let body = response.into_body().collect().await.unwrap().to_bytes();
        let document: Value = serde_json::from_slice(&body).unwrap();
        assert_eq!(document["openapi"], "3.1.0");
        assert!(document["paths"]["/accounts"]["get"].is_object());
        let webhook = &document["webhooks"]["mxJob"]["post"];
        assert_eq!(webhook["security"][0], serde_json::json!({"mxBasic": []}));
        let schema = &webhook["requestBody"]["content"]["application/json"]["schema"];
        let name = schema["$ref"].as_str().unwrap();
        let schema = name
            .strip_prefix('#')
            .and_then(|path| document.pointer(path));
        assert_eq!(schema.unwrap()["required"][0], "job");
    }

    #[tokio::test]
    async fn the_described_webhook_is_served() {
        let app = app(Credentials::basic("mx", "secret").unwrap());
        let delivery = |password| {
            Request::post("/admin/webhooks")
                .header("content-type", "application/json")
                .header("authorization", password)
                .body(Body::from(include_str!(
                    "../../../tests/fixtures/completed.json"
                )))
        };
        for (credentials, status) in [("Basic bXg6c2VjcmV0", 204), ("Basic bXg6", 401)] {
            let response = app.clone().oneshot(delivery(credentials).unwrap()).await;
            assert_eq!(response.unwrap().status(), status);
        }
    }
}
