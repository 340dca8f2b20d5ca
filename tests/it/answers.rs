//! The answer table, row by row, for every way to mount the crate.

use std::future::{pending, ready};
use std::time::Duration;

use axum::body::Body;
use http::{Request, StatusCode};
use mx_job_webhook::event::FencingToken;
use mx_job_webhook::ledger::{Claim, Commit, EventName, Ledger};
use mx_job_webhook::{
    Background, Credentials, DedupeLayer, Error, ErrorKind, JobRouter, Permanent, Receipt,
};
use tower::{Layer as _, ServiceBuilder};

use crate::support::{
    Frames, Jobs, PATH, SAMPLE, Settings, delivery, jobs, mounts, no_callbacks, sample_with_status,
    send,
};

struct Row {
    name: &'static str,
    settings: Settings,
    request: fn() -> Request<Body>,
    status: u16,
    /// A header that the answer must have, and its value.
    header: Option<(&'static str, &'static str)>,
    kind: Option<ErrorKind>,
}

fn row(name: &'static str, jobs: Jobs, request: fn() -> Request<Body>, status: u16) -> Row {
    Row {
        name,
        settings: Settings::new(jobs),
        request,
        status,
        header: None,
        kind: None,
    }
}

impl Row {
    fn because(mut self, kind: ErrorKind) -> Self {
        self.kind = Some(kind);
        self
    }

    fn header(mut self, name: &'static str, value: &'static str) -> Self {
        self.header = Some((name, value));
        self
    }

    /// The receipt in the response's extensions.
    fn receipt(&self) -> Option<Receipt> {
        (self.status == 204).then_some(match self.name {
            "a duplicate of a settled event" => Receipt::Duplicate,
            "a stale event" => Receipt::Stale,
            "the dead-letter hook succeeded" => Receipt::DeadLettered,
            "`on_undecodable` succeeded" => Receipt::Undecodable,
            "`on_other_webhook` succeeded" => Receipt::OtherWebhook,
            "no callback for the status"
            | "no callback for a new status of MX"
            | "`on_unhandled` succeeded" => Receipt::Unhandled,
            _ => Receipt::Handled,
        })
    }

    fn with(mut self, change: impl FnOnce(&mut Settings)) -> Self {
        change(&mut self.settings);
        self
    }
}

fn panics() {
    panic!("on purpose")
}

fn sample() -> Request<Body> {
    delivery(SAMPLE)
}

fn balance() -> Request<Body> {
    delivery(r#"{"type": "BALANCE"}"#)
}

fn returns(outcome: Result<(), &'static str>) -> Jobs {
    jobs(JobRouter::new().on_completed(move |_| async move { outcome }))
}

#[derive(Clone)]
struct NeverReady;

impl tower::Service<mx_job_webhook::JobEvent> for NeverReady {
    type Response = mx_job_webhook::Receipt;
    type Error = std::convert::Infallible;
    type Future = std::future::Pending<Result<Self::Response, Self::Error>>;

    fn poll_ready(
        &mut self,
        _: &mut std::task::Context<'_>,
    ) -> std::task::Poll<Result<(), Self::Error>> {
        std::task::Poll::Pending
    }

    fn call(&mut self, _: mx_job_webhook::JobEvent) -> Self::Future {
        unreachable!("the service is never ready")
    }
}

/// Gives the same answer to every call.
struct FixedLedger {
    claim: Result<Claim, &'static str>,
    commit: Result<Commit, &'static str>,
}

impl Ledger for FixedLedger {
    type Error = &'static str;

    async fn claim(&self, _: &EventName, _: Duration) -> Result<Claim, Self::Error> {
        self.claim
    }

    async fn commit(&self, _: &EventName, _: FencingToken) -> Result<Commit, Self::Error> {
        self.commit
    }

    async fn release(&self, _: &EventName, _: FencingToken) -> Result<(), Self::Error> {
        Err("nobody asked")
    }
}

/// Callbacks that would fail, behind a ledger with this answer.
fn behind(claim: Result<Claim, &'static str>) -> Jobs {
    let commit = Ok(Commit::Settled);
    let dedupe = DedupeLayer::new(FixedLedger { claim, commit });
    jobs(dedupe.layer(JobRouter::new().on_completed(|_| async { Err("it ran") })))
}

/// A callback that succeeds, behind a ledger whose commit has this outcome.
fn commits(commit: Result<Commit, &'static str>) -> Jobs {
    let claim = Ok(Claim::Granted(FencingToken::new(1)));
    let dedupe = DedupeLayer::new(FixedLedger { claim, commit });
    jobs(dedupe.layer(JobRouter::new().on_completed(|_| async {})))
}

fn fails_for_good(hook: Result<(), &'static str>) -> Jobs {
    let router = JobRouter::new()
        .on_completed(|_| async { Err(Permanent::new("the member was deleted")) })
        .on_dead_letter(move |_| async move { hook });
    jobs(router)
}

fn ledger_and_background_rows() -> Vec<Row> {
    let retry = ("retry-after", "30");
    let unavailable = |row: Row| {
        row.because(ErrorKind::LedgerUnavailable)
            .header(retry.0, retry.1)
    };
    let permanent = JobRouter::new().on_completed(|_| async { Err(Permanent::new("gone")) });
    let full = |settings: &mut Settings| {
        settings.background = Background::new().with_capacity(0);
    };
    vec![
        row(
            "a duplicate of a settled event",
            behind(Ok(Claim::Settled)),
            sample,
            204,
        ),
        row("a stale event", behind(Ok(Claim::Stale)), sample, 204),
        row(
            "a duplicate of an event in flight",
            behind(Ok(Claim::InFlight)),
            sample,
            503,
        )
        .because(ErrorKind::InFlight)
        .header(retry.0, retry.1),
        unavailable(row("the claim fails", behind(Err("down")), sample, 503)),
        #[cfg(feature = "tokio")]
        row(
            "the store of expected jobs is down",
            watched::jobs_of_a_store_that_is_down(),
            sample,
            503,
        )
        .because(ErrorKind::WatchUnavailable)
        .header(retry.0, retry.1),
        #[cfg(feature = "queue")]
        row(
            "the durable queue is down",
            jobs(durable::queue_that_is_down().enqueue()),
            sample,
            503,
        )
        .because(ErrorKind::QueueUnavailable)
        .header(retry.0, retry.1),
        unavailable(row("the commit fails", commits(Err("down")), sample, 503)),
        row("settled", commits(Ok(Commit::Settled)), sample, 204),
        row(
            "the claim was overtaken and the callback succeeded",
            commits(Ok(Commit::Overtaken)),
            sample,
            204,
        ),
        row(
            "the dead-letter hook succeeded",
            fails_for_good(Ok(())),
            sample,
            204,
        ),
        row(
            "the dead-letter hook failed",
            fails_for_good(Err("full")),
            sample,
            500,
        )
        .because(ErrorKind::CallbackFailed),
        row(
            "permanent, without a dead-letter hook",
            jobs(permanent),
            sample,
            500,
        )
        .because(ErrorKind::CallbackFailed),
        row("no permit is free", no_callbacks(), sample, 503)
            .with(full)
            .because(ErrorKind::Overloaded)
            .header(retry.0, retry.1),
    ]
}

fn table() -> Vec<Row> {
    let retry = ("retry-after", "30");
    let mut table = vec![
        row(
            "the callback returned `()`",
            jobs(JobRouter::new().on_completed(|_| async {})),
            sample,
            204,
        ),
        row("the callback returned `Ok`", returns(Ok(())), sample, 204),
        row("no callback for the status", no_callbacks(), sample, 204),
        row(
            "no callback for a new status of MX",
            returns(Err("not for this one")),
            || delivery(sample_with_status(13, "AUTHENTICATED")),
            204,
        ),
        row(
            "`on_unhandled` succeeded",
            jobs(JobRouter::new().on_unhandled(|_| async {})),
            sample,
            204,
        ),
        row(
            "`on_unhandled` failed",
            jobs(JobRouter::new().on_unhandled(|_| async { Err("full") })),
            sample,
            500,
        )
        .because(ErrorKind::CallbackFailed),
        row(
            "`on_undecodable` succeeded",
            no_callbacks(),
            || delivery("{}"),
            204,
        )
        .with(|settings| settings.on_undecodable = Some(Ok(()))),
        row(
            "`on_undecodable` failed",
            no_callbacks(),
            || delivery("{}"),
            500,
        )
        .with(|settings| settings.on_undecodable = Some(Err("full")))
        .because(ErrorKind::CallbackFailed),
        row("`on_other_webhook` succeeded", no_callbacks(), balance, 204)
            .with(|settings| settings.on_other_webhook = Some(Ok(()))),
        row("`on_other_webhook` failed", no_callbacks(), balance, 500)
            .with(|settings| settings.on_other_webhook = Some(Err("full")))
            .because(ErrorKind::CallbackFailed),
        row(
            "another webhook without a hook",
            no_callbacks(),
            balance,
            422,
        )
        .with(|settings| settings.on_undecodable = Some(Ok(())))
        .because(ErrorKind::UnexpectedWebhook),
        row(
            "the callback returned `Err`",
            returns(Err("no")),
            sample,
            500,
        )
        .because(ErrorKind::CallbackFailed),
        row(
            "the callback panicked",
            jobs(JobRouter::new().on_completed(|_| async { panics() })),
            sample,
            500,
        )
        .because(ErrorKind::CallbackPanicked),
        row(
            "the callback panicked before it returned a future",
            jobs(
                JobRouter::new()
                    .on_completed(|_| -> std::future::Ready<()> { panic!("on purpose") }),
            ),
            sample,
            500,
        )
        .because(ErrorKind::CallbackPanicked),
        row(
            "overloaded",
            jobs(ServiceBuilder::new().load_shed().service(NeverReady)),
            sample,
            503,
        )
        .because(ErrorKind::Overloaded)
        .header(retry.0, retry.1),
        row(
            "credentials could not be checked",
            no_callbacks(),
            sample,
            503,
        )
        .with(|settings| {
            settings.credentials =
                Credentials::verify(|_| async { Err::<bool, _>("the key server is down") });
        })
        .because(ErrorKind::AuthenticationUnavailable)
        .header(retry.0, retry.1),
        row(
            "credentials missing",
            no_callbacks(),
            || without("authorization"),
            401,
        )
        .because(ErrorKind::Unauthorized)
        .header(
            "www-authenticate",
            r#"Basic realm="webhooks", charset="UTF-8""#,
        ),
        row(
            "credentials wrong",
            no_callbacks(),
            || with("authorization", "Basic bXg6"),
            401,
        )
        .because(ErrorKind::Unauthorized)
        .header(
            "www-authenticate",
            r#"Basic realm="webhooks", charset="UTF-8""#,
        ),
        row(
            "a bearer token wrong",
            no_callbacks(),
            || with("authorization", "Bearer x"),
            401,
        )
        .with(|settings| settings.credentials = Credentials::bearer("y").unwrap())
        .because(ErrorKind::Unauthorized)
        .header("www-authenticate", r#"Bearer realm="webhooks""#),
        row(
            "the content type is not JSON",
            no_callbacks(),
            || with("content-type", "text/plain"),
            415,
        )
        .because(ErrorKind::UnsupportedMediaType),
        row(
            "no content type",
            no_callbacks(),
            || without("content-type"),
            415,
        )
        .because(ErrorKind::UnsupportedMediaType),
        row("too large", no_callbacks(), sample, 413)
            .with(|settings| settings.body_limit = Some(100))
            .because(ErrorKind::BodyTooLarge),
        row(
            "the body broke off",
            no_callbacks(),
            || {
                delivery(Frames::new([
                    Ok(http_body::Frame::data("{\"job\"".into())),
                    Err("connection reset".into()),
                ]))
            },
            400,
        )
        .because(ErrorKind::BodyInterrupted),
        row("not JSON inside", no_callbacks(), || delivery("{"), 422).because(ErrorKind::NotJson),
        row(
            "an empty body",
            no_callbacks(),
            || delivery(Body::empty()),
            422,
        )
        .because(ErrorKind::NotJson),
        row(
            "another webhook of MX",
            no_callbacks(),
            || delivery(r#"{"type":"BALANCE"}"#),
            422,
        )
        .because(ErrorKind::UnexpectedWebhook),
        row("no job", no_callbacks(), || delivery("[]"), 422).because(ErrorKind::NoJob),
        row(
            "a job without a guid",
            no_callbacks(),
            || delivery(r#"{"job":{"status":6}}"#),
            422,
        )
        .because(ErrorKind::InvalidJob),
    ];
    table.extend(ledger_and_background_rows());
    if cfg!(feature = "tokio") {
        let stalled = JobRouter::new().on_completed(|_| pending::<()>());
        let timeout = ServiceBuilder::new()
            .timeout(Duration::from_secs(1))
            .service(stalled);
        table.push(
            row("timed out", jobs(timeout), sample, 503)
                .because(ErrorKind::TimedOut)
                .header(retry.0, retry.1),
        );
        table.push(
            row(
                "the body came too slowly",
                no_callbacks(),
                || delivery(Frames::of_data([&b"{"[..]]).then_pending()),
                408,
            )
            .because(ErrorKind::ReadTimeout),
        );
        table.push(
            row(
                "the credential check never ends",
                no_callbacks(),
                sample,
                503,
            )
            .with(|settings| settings.credentials = Credentials::verify(|_| pending::<bool>()))
            .because(ErrorKind::AuthenticationUnavailable)
            .header(retry.0, retry.1),
        );
    }
    table
}

fn with(name: &'static str, value: &'static str) -> Request<Body> {
    let mut request = sample();
    request.headers_mut().insert(name, value.parse().unwrap());
    request
}

fn without(name: &'static str) -> Request<Body> {
    let mut request = sample();
    request.headers_mut().remove(name);
    request
}

#[tokio::test(start_paused = true)]
async fn every_mount_answers_each_row_alike() {
    for row in table() {
        for (mount, app) in mounts(&row.settings) {
            let name = format!("{} ({mount})", row.name);
            let (head, body) = send(app, (row.request)()).await;
            assert_eq!(head.status.as_u16(), row.status, "{name}");
            assert!(body.is_empty(), "{name}: the answer's body is empty");
            let kind = head.extensions.get::<Error>().map(Error::kind);
            assert_eq!(kind, row.kind, "{name}");
            let receipt = head.extensions.get::<Receipt>().copied();
            assert_eq!(receipt, row.receipt(), "{name}");
            if let Some((header, value)) = row.header {
                assert_eq!(head.headers[header], value, "{name}");
            }
            let only = |header| head.headers.contains_key(header);
            assert_eq!(only("retry-after"), row.status == 503, "{name}");
            assert_eq!(only("www-authenticate"), row.status == 401, "{name}");
        }
    }
}

#[tokio::test]
async fn a_delivery_during_shutdown_is_answered_503() {
    for undecodable in [false, true] {
        let mut settings = Settings::new(no_callbacks());
        settings.on_undecodable = undecodable.then_some(Ok(()));
        assert_eq!(settings.background.drain(ready(())).await, 0);
        for (mount, app) in mounts(&settings) {
            if mount == "the extractor" && undecodable {
                continue; // the application's handler answers here
            }
            let body = if undecodable { "{}" } else { SAMPLE };
            let (head, _) = send(app, delivery(body)).await;
            assert_eq!(head.status, 503, "{mount}");
            assert_eq!(head.headers["retry-after"], "30", "{mount}");
            let error = head.extensions.get::<Error>().unwrap();
            assert_eq!(error.kind(), ErrorKind::ShuttingDown, "{mount}");
        }
    }
}

#[cfg(feature = "tokio")]
#[tokio::test(start_paused = true)]
async fn a_delivery_past_the_answer_deadline_is_answered_503() {
    let slow = JobRouter::new().on_completed(|_| pending::<()>());
    for stalls in [jobs(slow), jobs(ServiceBuilder::new().service(NeverReady))] {
        let mut settings = Settings::new(stalls);
        settings.answer_deadline = Some(5);
        for (mount, app) in mounts(&settings) {
            if mount == "the extractor" {
                continue; // a handler sets its own timeout
            }
            let sent = tokio::time::Instant::now();
            let (head, _) = send(app, delivery(SAMPLE)).await;
            assert_eq!(sent.elapsed().as_secs(), 5, "{mount}");
            assert_eq!(head.status, 503, "{mount}");
            assert_eq!(head.headers["retry-after"], "30", "{mount}");
            let error = head.extensions.get::<Error>().unwrap();
            assert_eq!(error.kind(), ErrorKind::AnswerDeadline, "{mount}");
        }
    }
}

#[tokio::test]
async fn the_terminal_service_refuses_another_method_and_the_layer_forwards_it() {
    for method in ["GET", "HEAD", "PUT", "DELETE", "OPTIONS", "PATCH"] {
        let settings = Settings::new(no_callbacks());
        for (mount, app) in mounts(&settings) {
            let mut request = sample();
            *request.method_mut() = method.parse().unwrap();
            let (head, _) = send(app, request).await;
            let expected = match mount {
                // The application has no such route and answers 404 itself.
                "the layer around the router" | "Router::layer" => StatusCode::NOT_FOUND,
                _ => StatusCode::METHOD_NOT_ALLOWED,
            };
            assert_eq!(head.status, expected, "{method} {mount}");
            if mount == "route_service" {
                assert_eq!(head.headers["allow"], "POST", "{method}");
                let error = head.extensions.get::<Error>().unwrap();
                assert_eq!(error.kind(), ErrorKind::MethodNotAllowed);
            }
        }
    }
}

#[tokio::test]
async fn a_refusal_offers_every_scheme_that_is_accepted() {
    let mut settings = Settings::new(no_callbacks());
    settings.credentials = Credentials::basic("mx", "secret")
        .unwrap()
        .or(Credentials::bearer("token").unwrap())
        .or(Credentials::basic("mx", "old").unwrap());
    for (mount, app) in mounts(&settings) {
        let (head, _) = send(app, without("authorization")).await;
        let offered: Vec<_> = head.headers.get_all("www-authenticate").iter().collect();
        let basic = r#"Basic realm="webhooks", charset="UTF-8""#;
        assert_eq!(offered, [basic, r#"Bearer realm="webhooks""#], "{mount}");
    }
}

/// If a request has several faults, the answer shows which stage comes first.
#[tokio::test(start_paused = true)]
async fn credentials_are_checked_before_the_type_and_the_type_before_the_size() {
    let cases = [
        ("nothing right", "Basic x", "text/plain", "999999", 401),
        (
            "credentials right",
            "Basic bXg6c2VjcmV0",
            "text/plain",
            "999999",
            415,
        ),
        (
            "type right",
            "Basic bXg6c2VjcmV0",
            "application/json",
            "999999",
            413,
        ),
    ];
    for (name, authorization, content_type, length, status) in cases {
        let mut settings = Settings::new(no_callbacks());
        settings.body_limit = Some(1000);
        for (mount, app) in mounts(&settings) {
            let body = Frames::of_data([]).then_pending();
            let request = Request::post(PATH)
                .header("authorization", authorization)
                .header("content-type", content_type)
                .header("content-length", length)
                .body(body.into())
                .unwrap();
            let (head, _) = send(app, request).await;
            assert_eq!(head.status.as_u16(), status, "{name} ({mount})");
        }
    }
}

#[cfg(feature = "tokio")]
mod watched {
    use mx_job_webhook::job::JobGuid;
    use mx_job_webhook::watch::{Counts, JobWatch, Replaced, Stored, Update, Wake, WatchStore};

    use super::*;

    /// A store that cannot be reached.
    struct DownStore;

    impl WatchStore for DownStore {
        type Error = &'static str;

        async fn load(&self, _: &[JobGuid]) -> Result<Vec<(JobGuid, Stored)>, Self::Error> {
            Err("down")
        }

        async fn replace(
            &self,
            _: &JobGuid,
            _: Option<u64>,
            _: Update<'_>,
        ) -> Result<Replaced, Self::Error> {
            Err("down")
        }

        async fn claim_due(
            &self,
            _: usize,
            _: Duration,
        ) -> Result<Vec<(JobGuid, Stored)>, Self::Error> {
            Err("down")
        }

        async fn count(&self) -> Result<Counts, Self::Error> {
            Err("down")
        }

        async fn listen(&self, _: Wake) -> Result<(), Self::Error> {
            Err("down")
        }
    }

    pub(super) fn jobs_of_a_store_that_is_down() -> Jobs {
        let router = JobRouter::new().on_completed(|_| async {});
        jobs(JobWatch::new(DownStore).layer().layer(router))
    }
}

#[cfg(feature = "queue")]
mod durable {
    use mx_job_webhook::queue::JobQueue;
    use sqlx::PgPool;

    /// A queue that cannot be reached.
    pub(super) fn queue_that_is_down() -> JobQueue {
        let pool = PgPool::connect_lazy("postgres://127.0.0.1:1/app").unwrap();
        // It is closed from this call on.
        drop(pool.close());
        JobQueue::postgres(pool)
    }
}
