//! The pages on a database of their own, and the dead letters that they show.

use std::collections::HashMap;
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use http::{Request, StatusCode};
use mx_job_webhook::dead_letters::{Letter, LetterFilter};
use mx_job_webhook::queue::JobQueue;
use mx_job_webhook::router::Unhandled;
use mx_job_webhook::{Credentials, JobRouter, JobWebhook};
use serde_json::json;
use sqlx::PgPool;
use tokio::sync::watch;
use tokio::time::sleep;
use tower::ServiceExt as _;

use crate::admin::admin;
use crate::database::Database;

/// The names of the first two letters of `Pages::three`.
pub(crate) const A: &str = "A COMPLETED 1471281218";
pub(crate) const B: &str = "B DENIED 1471281218";

/// A password of the pages.
pub(crate) const PASSWORD: &str = "secret";

pub(crate) struct Pages {
    pub(crate) database: Database,
    pub(crate) queue: JobQueue,
}

impl Pages {
    /// Returns pages with these letters: the guid of the job, its status, and the error.
    pub(crate) async fn with(letters: &[(&str, &str, &str)]) -> Self {
        let database = Database::create().await;
        let queue = database.queue().await;
        let pages = Self { database, queue };
        pages.fail(letters).await;
        pages
    }

    /// Returns pages with the letters A and B, and a body that cannot be decoded.
    pub(crate) async fn three() -> Self {
        let pages = Self::with(&[
            ("A", "COMPLETED", "the bank did not answer: timed out"),
            ("B", "DENIED", "no such member"),
        ])
        .await;
        pages.deliver("USR-secret".to_owned()).await;
        pages
    }

    pub(crate) fn router(&self) -> Router {
        router(&self.queue, &self.database.pool)
    }

    pub(crate) async fn deliver(&self, body: String) {
        let webhooks = JobWebhook::new(Credentials::unauthenticated(), self.queue.enqueue())
            .on_undecodable(self.queue.keep_undecodable());
        let request = Request::post("/").header("content-type", "application/json");
        let answer = webhooks.oneshot(request.body(Body::from(body)).unwrap());
        assert_eq!(answer.await.unwrap().status(), StatusCode::NO_CONTENT);
    }

    /// Delivers events whose callbacks fail.
    pub(crate) async fn fail(&self, letters: &[(&str, &str, &str)]) {
        let mut errors = HashMap::new();
        for (guid, status, error) in letters {
            self.deliver(body(guid, status)).await;
            errors.insert((*guid).to_owned(), (*error).to_owned());
        }
        let jobs = JobRouter::new().on_unhandled(move |unhandled: Unhandled| {
            let error = errors[unhandled.event().guid.as_str()].clone();
            async move { Err::<(), _>(error) }
        });
        let all_failed = async {
            while self.queue.counts().await.unwrap().dead < letters.len() as u64 {
                sleep(Duration::from_millis(10)).await;
            }
        };
        let worker = self.queue.worker(jobs).with_tries(1).with_concurrency(16);
        worker.run_until(all_failed).await.unwrap();
    }

    pub(crate) async fn letters(&self) -> Vec<Letter> {
        let all = LetterFilter::new().with_limit(1000);
        let page = self.queue.dead_letters(&all).await.unwrap();
        page.into_letters()
    }

    /// Returns the guids of the dead letters in their order, and the kinds of others.
    pub(crate) async fn left(&self) -> Vec<String> {
        let letters = self.letters().await;
        let mut left: Vec<_> = letters
            .iter()
            .map(|letter| match letter.guid() {
                Some(guid) => guid.to_string(),
                None => letter.kind().name().to_owned(),
            })
            .collect();
        left.sort();
        left
    }

    /// Returns the guids of the events that wait for a worker, in their order.
    pub(crate) async fn waiting(&self) -> Vec<String> {
        let query = "SELECT split_part(idempotency_key, ' ', 1) FROM apalis.jobs
            WHERE status = 'Pending' ORDER BY 1";
        sqlx::query_scalar(query)
            .fetch_all(&self.database.pool)
            .await
            .unwrap()
    }
}

pub(crate) fn router(queue: &JobQueue, pool: &PgPool) -> Router {
    let (_, stopping) = watch::channel(());
    admin(queue.clone(), pool, PASSWORD, stopping).unwrap()
}

/// Returns the body of an event.
pub(crate) fn body(guid: &str, status: &str) -> String {
    json!({"job": {
        "guid": guid,
        "status_name": status,
        "updated_at": 1_471_281_218,
        "user_guid": "USR-secret",
    }})
    .to_string()
}
