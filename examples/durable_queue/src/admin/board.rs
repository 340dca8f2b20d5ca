//! The page of apalis' board for this queue.
//!
//! The board has to be at the root of its origin, because it was built with absolute paths for its page, its
//! script and its API. That API can also add tasks, and shows bodies. So this module mounts only the routes
//! that read, and hides the bodies.

use std::convert::Infallible;
use std::sync::Arc;

use apalis_board_api::framework::axum::{
    fetch_queues, get_all_workers, get_task_by_id, get_tasks, get_workers, overview, stats_by_queue,
};
use apalis_board_api::ui::ServeUI;
use apalis_postgres::{Config, PostgresStorage};
use axum::http::header::{CACHE_CONTROL, CONTENT_SECURITY_POLICY, CONTENT_TYPE};
use axum::http::{StatusCode, Uri};
use axum::response::sse::{Event, KeepAlive, Sse};
use axum::response::{Html, IntoResponse, Response};
use axum::routing::get;
use axum::{Extension, Router};
use futures_util::{StreamExt as _, stream};
use serde::de::IgnoredAny;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use sqlx::PgPool;
use tokio::sync::{RwLock, watch};

use super::QUEUE;

/// The board's page has a script of a few lines, which starts WebAssembly. It is a file here, so that the
/// policy needs no exception for it.
const SCRIPT: &str = "/board.js";
/// Scripts of this origin, WebAssembly, and no other origin. The board sets inline styles.
const POLICY: &str = "default-src 'none'; script-src 'self' 'wasm-unsafe-eval'; style-src 'self' \
    'unsafe-inline';     img-src 'self' data:; connect-src 'self'; base-uri 'self'; form-action 'none'; \
    frame-ancestors 'none'";

type Storage = PostgresStorage<Hidden>;

/// Stands for a body, which the page of dead letters shows on demand.
struct Hidden;

impl<'de> Deserialize<'de> for Hidden {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        IgnoredAny::deserialize(deserializer).map(|_| Self)
    }
}

impl Serialize for Hidden {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str("hidden")
    }
}

/// Returns the board's page and its API, for the root of a router. Its streams end once the sender of
/// `stopping` is dropped.
pub(super) fn routes(pool: &PgPool, stopping: watch::Receiver<()>) -> Router {
    let storage = Storage::new(pool).with_config(Config::default().queue(QUEUE));
    let queue = Router::new()
        .route("/tasks", get(get_tasks::<Storage, Hidden>))
        .route("/tasks/{task_id}", get(get_task_by_id::<Storage, Hidden>))
        .route("/stats", get(stats_by_queue::<Storage>))
        .route("/workers", get(get_workers::<Storage>));
    let api = Router::new()
        .route("/queues", get(fetch_queues::<Storage>))
        .route("/overview", get(overview::<Storage>))
        .route("/workers", get(get_all_workers::<Storage>))
        // The tasks of this queue, because the board's own function shows those of all queues as bytes.
        .route("/tasks", get(get_tasks::<Storage, Hidden>))
        .nest(&format!("/queues/{QUEUE}"), queue)
        .route("/events", get(async || events(stopping)))
        .fallback(StatusCode::NOT_FOUND)
        .layer(Extension(Arc::new(RwLock::new(storage))));
    Router::new()
        .nest("/api/v1", api)
        .route(SCRIPT, get(script))
        .fallback(get(file))
}

/// Answers with a stream that has no events. The board calls the system unhealthy if there is no stream.
fn events(mut stopping: watch::Receiver<()>) -> impl IntoResponse {
    let stopped = async move { while stopping.changed().await.is_ok() {} };
    let events = stream::pending::<Result<Event, Infallible>>().take_until(Box::pin(stopped));
    Sse::new(events).keep_alive(KeepAlive::default())
}

/// Answers with a file of the board. Its page answers for paths that are no files.
async fn file(uri: Uri) -> Response {
    let Some(file) = ServeUI::get_file(uri.path()) else {
        return StatusCode::NOT_FOUND.into_response();
    };
    let name = file.path().to_str().unwrap_or_default();
    if name == "index.html" {
        let policy = [(CONTENT_SECURITY_POLICY, POLICY)];
        return match page() {
            Some((before, _, after)) => {
                let script = format!(r#"<script type="module" src="{SCRIPT}">"#);
                (policy, Html([before, &script, after].concat())).into_response()
            }
            None => (StatusCode::INTERNAL_SERVER_ERROR, "the board has changed\n").into_response(),
        };
    }
    let headers = [
        (CONTENT_TYPE, ServeUI::content_type(name)),
        (
            CACHE_CONTROL,
            ServeUI::cache_control(name).unwrap_or("no-store"),
        ),
    ];
    (headers, file.contents().to_vec()).into_response()
}

async fn script() -> Response {
    let script = page().map(|(_, script, _)| script);
    (
        [(CONTENT_TYPE, "text/javascript")],
        script.unwrap_or_default(),
    )
        .into_response()
}

/// Returns the board's page before, in and after its script.
fn page() -> Option<(&'static str, &'static str, &'static str)> {
    let page = ServeUI::get_file("index.html")?.contents();
    let (before, rest) = std::str::from_utf8(page)
        .ok()?
        .split_once(r#"<script type="module">"#)?;
    let end = rest.find("</script>")?;
    Some((before, &rest[..end], &rest[end..]))
}
