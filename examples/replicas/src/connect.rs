//! The application's own route, which waits for a job.

use std::collections::HashMap;
use std::time::Duration;

use axum::Router;
use axum::body::Bytes;
use axum::extract::{Path, Query, State};
use axum::http::StatusCode;
use axum::http::header::CONTENT_TYPE;
use axum::response::{IntoResponse as _, Response};
use axum::routing::post;
use mx_job_webhook::job::JobGuid;
use mx_job_webhook::ledger::EventName;
use mx_job_webhook::watch::JobWatch;
use mx_job_webhook::{Error, JobEvent};

/// The longest wait, and the default. Load balancers cut requests that take much longer.
const WAIT: u64 = 20;

pub(crate) fn routes(watch: JobWatch) -> Router {
    Router::new()
        .route("/connect/{guid}", post(connect))
        .with_state(watch)
}

/// Expects a job, or what follows a challenge that the body names, and answers what was heard.
async fn connect(
    State(watch): State<JobWatch>,
    Path(guid): Path<String>,
    Query(query): Query<HashMap<String, u64>>,
    seen: Bytes,
) -> Result<Response, Error> {
    let expected = if seen.is_empty() {
        let Ok(guid) = guid.parse::<JobGuid>() else {
            return Ok((StatusCode::BAD_REQUEST, "the guid is blank\n").into_response());
        };
        watch.expect(&guid).await?
    } else {
        let seen = EventName::of(&JobEvent::decode(seen)?);
        watch.expect_after(&seen).await?
    };
    // From here on the job is not forgotten, whichever process dies.
    let wait = query.get("wait").copied().unwrap_or(WAIT).min(WAIT);
    let heard = tokio::select! {
        heard = expected.within(Duration::from_secs(wait)) => heard?,
        () = crate::stop() => None, // Another replica hears of it.
    };
    Ok(match heard {
        Some(heard) => {
            // The body of a webhook with this job, which is what a next request sends back.
            let job = JobEvent::from(heard.into_job()).body().clone();
            ([(CONTENT_TYPE, "application/json")], job).into_response()
        }
        None => (StatusCode::ACCEPTED, "not yet: ask again\n").into_response(),
    })
}
