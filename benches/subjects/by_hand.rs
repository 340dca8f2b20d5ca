//! The code written by hand: a struct of `String`s, axum's `Json` and a `match`, without credentials.

use axum::extract::FromRequest as _;
use axum::routing::post;
use axum::{Json, Router};
use http::StatusCode;

use super::mounts::{PATH, delivery, now, own_routes};

#[derive(serde::Deserialize)]
pub(crate) struct Webhook {
    job: Job,
}

#[derive(serde::Deserialize)]
#[expect(dead_code, reason = "only their decoding is measured")]
struct Job {
    guid: String,
    status: i64,
    status_name: String,
    created_at: i64,
    started_at: Option<i64>,
    finished_at: Option<i64>,
    updated_at: i64,
    error_message: Option<String>,
    institution_guid: Option<String>,
    is_authenticated: bool,
    member_guid: String,
    member_id: Option<String>,
    user_guid: String,
    user_id: Option<String>,
}

/// The whole application.
pub(crate) fn app() -> Router {
    own_routes().route(PATH, post(handler))
}

async fn handler(Json(webhook): Json<Webhook>) -> StatusCode {
    match webhook.job.status_name.as_str() {
        "COMPLETED" | "CHALLENGED" => StatusCode::NO_CONTENT,
        _ => StatusCode::INTERNAL_SERVER_ERROR,
    }
}

/// Decodes a request with axum's `Json`. The request is built before the clock starts.
pub(crate) fn json(body: Vec<u8>) -> impl FnOnce() -> Webhook {
    let request = delivery(body);
    move || now(Json::<Webhook>::from_request(request, &())).unwrap().0
}
