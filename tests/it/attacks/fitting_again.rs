//! A second attack on the mount's hooks of the extractor, its rejection, causes, and the check of a mount.

use std::future::pending;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::extract::{Path, Request, State};
use axum::middleware::{Next, from_fn, map_request};
use axum::response::{IntoResponse as _, Response};
use axum::routing::{get, post};
use http::{HeaderValue, StatusCode};
use mx_job_webhook::job::JobGuid;
use mx_job_webhook::mount::{JobEventRejection, PassedOn};
use mx_job_webhook::testing::{Mx, Sample};
use mx_job_webhook::watch::{Failsafe, JobWatch, MemoryWatchStore};
use mx_job_webhook::{
    Background, Credentials, Error, Job, JobEvent, JobRouter, JobWebhook, Receipt, Status,
};
use tower::{BoxError, Layer as _, ServiceExt as _};

use crate::observability::capture::{Capture, DELIVERY};
use crate::support::{Frames, PATH, credentials, delivery};

const BALANCE: &str = r#"{"type": "BALANCE", "account_guid": "ACT-1"}"#;

fn webhooks() -> JobWebhook<JobRouter> {
    JobWebhook::new(credentials(), JobRouter::new().on_completed(|_| async {}))
}

fn at(path: &str) -> Mx {
    Mx::new(path).with_basic("mx", "secret")
}

async fn handler(State(webhooks): State<JobWebhook>, event: JobEvent) -> Result<Receipt, Error> {
    webhooks.run(event).await
}

async fn of_tenant(
    State(webhooks): State<JobWebhook>,
    Path(_tenant): Path<String>,
    event: JobEvent,
) -> Result<Receipt, Error> {
    webhooks.run(event).await
}

fn extractor(path: &str, webhooks: JobWebhook<JobRouter>) -> Router {
    Router::new()
        .route(path, post(handler))
        .with_state(webhooks.boxed())
}

fn deliveries(capture: &Capture) -> Vec<(String, f64)> {
    let metrics = capture.metrics().into_iter();
    metrics
        .filter(|(name, _)| name.starts_with("mx_job_webhook_deliveries_total"))
        .collect()
}

/// Where the application's events were logged.
fn of_the_application(capture: &Capture) -> Vec<(String, Vec<&'static str>)> {
    let events = capture.events().into_iter();
    events
        .filter(|event| event.target == "application")
        .map(|event| (event.message().to_owned(), event.within.clone()))
        .collect()
}

// The extractor.

/// "The closures of `Credentials::verify` and of `on_error` run inside the span too. With the extractor, `verify` does not"
/// (observability). Here the mount's hook cannot run, because too many callbacks run.
#[test]
fn on_error_runs_inside_the_span_if_the_extractors_hook_is_not_called() {
    let capture = Capture::default();
    let webhooks = webhooks()
        .with_background(Background::new().with_capacity(0))
        .on_other_webhook(|_| async {})
        .on_error(|_| tracing::warn!(target: "application", "refused"));
    let answer = capture.run(extractor(PATH, webhooks).oneshot(delivery(BALANCE)));
    assert_eq!(answer.unwrap().status(), 503);
    let expected = [("refused".to_owned(), vec![DELIVERY])];
    assert_eq!(of_the_application(&capture), expected);
}

/// "The callback runs inside the span, so the application's own log lines there carry the job's guid." (observability) and "If
/// the mount has the hook for a body that is no job's, the hook takes it" (the extractor): as in a layer.
#[test]
fn a_hook_is_called_inside_the_span_with_the_extractor_as_with_the_layer() {
    let hook = || {
        webhooks().on_undecodable(|_| {
            tracing::info!(target: "application", "called");
            async {
                tracing::info!(target: "application", "polled");
                tokio::time::sleep(Duration::from_millis(1)).await;
                tracing::info!(target: "application", "ends");
                Err::<(), _>("no")
            }
        })
    };
    let layered = Router::new().layer(hook().at(PATH));
    let mut seen = Vec::new();
    for app in [layered, extractor(PATH, hook())] {
        let capture = Capture::default();
        let answer = capture.run(app.oneshot(delivery("{"))).unwrap();
        assert_eq!(answer.status(), 500);
        seen.push(of_the_application(&capture));
        assert_eq!(capture.deliveries().len(), 1);
    }
    assert_eq!(seen[0], seen[1]);
}

/// The span "is a child of the span that the request comes in", and "Every delivery has one outcome", for a hook whose sender
/// leaves.
#[test]
fn a_hook_of_the_extractor_goes_on_when_the_sender_leaves_and_is_counted_once() {
    let capture = Capture::default();
    let background = Background::new();
    let webhooks = webhooks()
        .with_background(background.clone())
        .on_other_webhook(|_| tokio::time::sleep(Duration::from_secs(5)));
    let app = extractor(PATH, webhooks);
    capture.run(async {
        let answer = tokio::time::timeout(Duration::from_secs(1), app.oneshot(delivery(BALANCE)));
        assert!(answer.await.is_err());
        assert_eq!(background.running(), 1);
        assert_eq!(background.drain(pending::<()>()).await, 0);
    });
    let expected = "mx_job_webhook_deliveries_total{status=other_webhook,outcome=other_webhook,source=webhook}";
    assert_eq!(deliveries(&capture), [(expected.to_owned(), 1.0)]);
    let spans = capture.deliveries();
    assert_eq!(spans.len(), 1);
    assert!(spans[0].closed && spans[0].fields.named("body.problem").is_some());
    assert_eq!(
        capture.metrics()["mx_job_webhook_deliveries_in_flight{}"],
        0.0
    );
}

/// The answer deadline of a mount "holds" for the extractor's hook; one line, one report, one more line for its late end.
#[test]
fn a_hook_of_the_extractor_that_is_late_is_answered_at_the_deadline_and_reported() {
    let capture = Capture::default();
    let background = Background::new();
    let reports = Arc::new(Mutex::new(Vec::new()));
    let told = reports.clone();
    let webhooks = webhooks()
        .with_background(background.clone())
        .with_answer_deadline(Duration::from_secs(1))
        .on_error(move |failure| {
            tracing::warn!(target: "application", "told");
            told.lock().unwrap().push(failure.error().kind().name());
        })
        .on_undecodable(|_| async {
            tokio::time::sleep(Duration::from_secs(5)).await;
            Err::<(), _>("no")
        });
    let app = extractor(PATH, webhooks);
    capture.run(async {
        let answer = app.oneshot(delivery("{")).await.unwrap();
        assert_eq!(answer.status(), 503);
        assert_eq!(background.drain(pending::<()>()).await, 0);
    });
    assert_eq!(
        *reports.lock().unwrap(),
        ["answer_deadline", "callback_failed"]
    );
    for (message, within) in of_the_application(&capture) {
        assert_eq!(within, [DELIVERY], "{message}");
    }
    assert_eq!(deliveries(&capture).len(), 1);
    assert_eq!(capture.own_events().len(), 2, "{:?}", capture.own_events());
}

/// A rejection can be returned by `?`, as any error (`impl std::error::Error`), and is counted once, whatever becomes of it.
#[test]
fn a_rejection_is_an_error_for_any_thread_and_is_counted_once() {
    fn assert_error<T: std::error::Error + Send + Sync + 'static>() {}
    assert_error::<JobEventRejection>();
    async fn own(event: Result<JobEvent, JobEventRejection>) -> Response {
        let rejection = event.unwrap_err();
        // Neither is it.
        let rejection = rejection.into_undecodable().unwrap_err();
        let rejection = rejection.into_undecodable().unwrap_err();
        let error = rejection.error().clone();
        match rejection.into_other_webhook() {
            Ok(webhook) => {
                drop(webhook);
                StatusCode::NO_CONTENT.into_response()
            }
            Err(rejection) => {
                tokio::spawn(async move { drop(rejection) }).await.unwrap();
                error.into_response()
            }
        }
    }
    let app = Router::new()
        .route(PATH, post(own))
        .with_state(webhooks().boxed());
    for (body, has_credentials, status) in [(BALANCE, true, 204), (BALANCE, false, 401)] {
        let capture = Capture::default();
        let mut request = delivery(body);
        if !has_credentials {
            request.headers_mut().remove("authorization");
        }
        let answer = capture.run(app.clone().oneshot(request)).unwrap();
        assert_eq!(answer.status(), status);
        let counted = deliveries(&capture);
        assert_eq!((counted.len(), counted[0].1), (1, 1.0), "{counted:?}");
        assert_eq!(capture.own_events().len(), 1);
        assert_eq!(
            capture.metrics()["mx_job_webhook_deliveries_in_flight{}"],
            0.0
        );
    }
}

/// The span "is a child of the span that the request comes in." (observability) The handler keeps what is refused for an
/// audit.
#[test]
fn the_span_of_a_rejection_is_a_child_of_the_requests_span() {
    async fn own(event: Result<JobEvent, JobEventRejection>) -> StatusCode {
        let rejection = event.unwrap_err();
        let audit = tracing::info_span!("audit");
        tokio::spawn(tracing::Instrument::instrument(
            async move { drop(rejection) },
            audit,
        ))
        .await
        .unwrap();
        StatusCode::UNAUTHORIZED
    }
    let app = Router::new()
        .route(PATH, post(own))
        .with_state(webhooks().boxed());
    for has_credentials in [true, false] {
        let capture = Capture::default();
        let mut request = delivery("{");
        if !has_credentials {
            request.headers_mut().remove("authorization");
        }
        let app = app.clone();
        capture.run(async move {
            let span = tracing::info_span!("request");
            let answer = tracing::Instrument::instrument(app.oneshot(request), span);
            assert_eq!(answer.await.unwrap().status(), 401);
        });
        let parents: Vec<_> = capture
            .deliveries()
            .iter()
            .map(|span| span.parent)
            .collect();
        assert_eq!(parents, [Some("request")], "{has_credentials}");
    }
}

/// "If the mount has the hook for a body that is no job's, the hook takes it, and the rejection is the answer to that" and
/// `into_undecodable` "Returns the rejection itself if … `on_undecodable` of the mount has taken the body." One that fails or
/// panics is reported once, and is one delivery.
#[test]
fn a_rejection_that_a_hook_has_taken_is_the_answer_to_that() {
    async fn own(event: Result<JobEvent, JobEventRejection>) -> Response {
        let rejection = event.unwrap_err().into_other_webhook().unwrap_err();
        rejection.into_undecodable().unwrap_err().into_response()
    }
    for (case, status, outcome) in [
        (0, 204, "undecodable"),
        (1, 500, "callback_failed"),
        (2, 500, "callback_panicked"),
        (3, 500, "callback_panicked"),
    ] {
        let capture = Capture::default();
        let reports = Arc::new(Mutex::new(Vec::new()));
        let told = reports.clone();
        let webhooks = webhooks()
            .on_error(move |failure| told.lock().unwrap().push(failure.error().kind().name()))
            .on_undecodable(move |_| {
                if case == 3 {
                    crate::support::panic_quietly();
                }
                async move {
                    tokio::time::sleep(Duration::from_secs(1)).await;
                    match case {
                        0 => Ok(()),
                        1 => Err("no"),
                        _ => {
                            crate::support::panic_quietly();
                            Ok(())
                        }
                    }
                }
            });
        let app = Router::new()
            .route(PATH, post(own))
            .with_state(webhooks.boxed());
        let answer = capture.run(app.oneshot(delivery("{"))).unwrap();
        assert_eq!(answer.status(), status, "{case}");
        let expected = format!(
            "mx_job_webhook_deliveries_total{{status=not_json,outcome={outcome},source=webhook}}"
        );
        assert_eq!(deliveries(&capture), [(expected, 1.0)]);
        assert_eq!(capture.own_events().len(), 1, "{case}");
        let expected: &[&str] = if case == 0 { &[] } else { &[outcome] };
        assert_eq!(*reports.lock().unwrap(), expected, "{case}");
    }
}

// The mark.

/// "A handler that demands it, such as by axum's `Extension<PassedOn>`, cannot be reached otherwise, for example by a path with a
/// trailing slash that a router within normalises." (`PassedOn`)
#[tokio::test]
async fn a_handler_that_demands_the_mark_is_reached_by_the_layer_alone() {
    async fn own(_: axum::Extension<PassedOn>, body: String) -> String {
        body
    }
    let within = Router::new().route(PATH, post(own));
    let normalises = map_request(|mut request: Request| async move {
        let path = request.uri().path().trim_end_matches('/').to_owned();
        *request.uri_mut() = path.parse().unwrap();
        request
    });
    let app = webhooks()
        .at(PATH)
        .pass_on_other_webhooks()
        .layer(normalises.layer(within));
    let answer = app.clone().oneshot(delivery(BALANCE)).await.unwrap();
    assert_eq!(answer.status(), 200);
    let mut slash = delivery(BALANCE);
    *slash.uri_mut() = format!("{PATH}/").parse().unwrap();
    let answer = app.oneshot(slash).await.unwrap();
    assert_eq!(answer.status(), 500);
}

// Causes.

/// "The cause of a body that could not be read is left out, because it could repeat the body." (`Error`) A callback sends the
/// event on to another mount of the process, and returns the reason of that.
#[tokio::test]
async fn the_cause_of_a_body_is_left_out_below_another_error_too() {
    let body = Frames::new([Err(BoxError::from("unexpected end in `USR-7`"))]);
    let answer = webhooks().oneshot(delivery(body)).await.unwrap();
    let error = answer.extensions().get::<Error>().unwrap().clone();
    assert!(!format!("{error:#} {error:?}").contains("USR-7"));
    let failed = Error::from(BoxError::from(error));
    let printed = format!("{failed:#} {failed:?}");
    assert!(!printed.contains("USR-7"), "{printed}");
}

/// "Sets how long a job is expected before it is given up. … It is read once more when the time is up, and given up if that ends
/// nothing." (`Failsafe::with_limit`) "For a rate, put tower's `rate_limit` around the closure" (`from_polling`): one read a
/// minute, and one job, which is completed just before its time is up.
#[tokio::test(start_paused = true)]
async fn a_job_is_read_once_more_before_it_is_given_up_behind_a_rate_limit() {
    let mut given_up = Vec::new();
    for seconds in (300..360).step_by(5) {
        let limit = Duration::from_secs(seconds);
        let watch = JobWatch::new(MemoryWatchStore::new());
        let start = tokio::time::Instant::now();
        let read = tower::service_fn(move |job: JobGuid| async move {
            let is_over = start.elapsed() >= limit - Duration::from_secs(1);
            let status = if is_over { "COMPLETED" } else { "RECEIVED" };
            Ok::<_, BoxError>(Job::new(job, Status::from(status)))
        });
        let reader = tower::ServiceBuilder::new()
            .rate_limit(1, Duration::from_secs(60))
            .service(read);
        let jobs = watch.layer().layer(JobRouter::new());
        let told = Arc::new(Mutex::new(None));
        let tell = told.clone();
        let failsafe = Failsafe::from_service(&watch, jobs, reader)
            .with_limit(limit)
            .on_given_up(move |job| {
                let error = job.error().map(ToString::to_string);
                *tell.lock().unwrap() = Some(error);
                async {}
            });
        let running = tokio::spawn(failsafe.run_until(pending::<()>()));
        let _ = watch.expect(&"JOB-1".parse().unwrap()).await.unwrap();
        tokio::time::sleep(Duration::from_secs(600)).await;
        running.abort();
        let told = told.lock().unwrap().take();
        given_up.extend(told.map(|error| (seconds, error)));
    }
    assert!(given_up.is_empty(), "{given_up:?}");
}

// The clock.

/// "`Mx` therefore holds the clock still for 500 ms of real time whenever an attempt waits, and for at most 2 s of each attempt".
/// Three waits of 200 ms, in a callback with a timeout of its own, and a pause between them.
#[tokio::test(start_paused = true)]
async fn a_callback_waits_for_a_database_several_times() {
    let jobs = JobRouter::new().on_completed(|_| async {
        for _ in 0..3 {
            let (told, row) = tokio::sync::oneshot::channel();
            std::thread::spawn(move || {
                std::thread::sleep(Duration::from_millis(200));
                let _ = told.send(());
            });
            tokio::time::timeout(Duration::from_secs(1), row).await??;
            tokio::task::yield_now().await;
        }
        Ok::<_, BoxError>(())
    });
    let app = Router::new().layer(JobWebhook::new(credentials(), jobs).at(PATH));
    let mx = at(PATH).with_retries(0);
    let samples = [Sample::completed(), Sample::completed()];
    let transcript = mx.deliver(app, samples).await;
    assert!(transcript.all_acknowledged(), "{transcript}");
}

// The check of the mount.

/// "Checks how an application mounts this crate, and names the mistake that it finds." Here is none: the example
/// `axum_extractor` has the route `/admin/webhooks/{tenant}`, and the layer takes the path without a tenant.
#[tokio::test]
async fn a_path_and_the_same_path_with_a_tenant_are_right_mounts() {
    let tenants = Router::new()
        .route("/admin/webhooks/{tenant}", post(of_tenant))
        .with_state(webhooks().boxed());
    let app = tenants.layer(webhooks().at("/admin/webhooks"));
    at("/admin/webhooks/acme")
        .check_mount(app.clone())
        .await
        .unwrap();
    at("/admin/webhooks").check_mount(app).await.unwrap();
}

/// The same: one capture, and nothing before it.
#[tokio::test]
async fn a_capture_at_the_root_is_a_right_mount() {
    let app = Router::new()
        .route("/accounts", get(|| async { "accounts" }))
        .route("/{tenant}", post(of_tenant))
        .with_state(webhooks().boxed());
    at("/acme").check_mount(app).await.unwrap();
}

/// The same: a second endpoint beside the first, with two captures.
#[tokio::test]
async fn an_endpoint_with_two_captures_beside_another_is_a_right_mount() {
    async fn of_both(
        State(webhooks): State<JobWebhook>,
        Path(_both): Path<(String, String)>,
        event: JobEvent,
    ) -> Result<Receipt, Error> {
        webhooks.run(event).await
    }
    let app = Router::new()
        .route("/mx/{tenant}/{environment}", post(of_both))
        .route("/mx/webhooks", post(handler))
        .with_state(webhooks().boxed());
    at("/mx/acme/production")
        .check_mount(app.clone())
        .await
        .unwrap();
    at("/mx/webhooks").check_mount(app).await.unwrap();
}

/// The same: the application's own route answers with this crate's `Error`, as a handler does that waits for a job
/// (`JobWatch`).
#[tokio::test]
async fn another_route_that_answers_with_the_crates_error_is_no_delivery() {
    let app = Router::new()
        .route(
            "/admin/{page}/{part}",
            post(|| async { Err::<(), Error>(BoxError::from("the store is down").into()) }),
        )
        .layer(webhooks().at(PATH));
    at(PATH).check_mount(app).await.unwrap();
}

/// The same, on the path itself: a page of the jobs, by GET.
#[tokio::test]
async fn a_page_on_the_path_that_answers_with_the_crates_error_is_no_delivery() {
    let page = || async { Err::<(), Error>(BoxError::from("the store is down").into()) };
    let app = Router::new()
        .route(PATH, get(page))
        .layer(webhooks().at(PATH));
    at(PATH).check_mount(app).await.unwrap();
}

/// "It finds that … deliveries are accepted on other paths or by other methods." (`Mx::check_mount`)
#[tokio::test]
async fn handlers_that_take_other_methods_are_found() {
    use axum::routing::{MethodFilter, MethodRouter};
    let filters = [
        MethodFilter::GET,
        MethodFilter::PUT,
        MethodFilter::PATCH,
        MethodFilter::DELETE,
        MethodFilter::OPTIONS,
    ];
    let mut missed = Vec::new();
    for filter in filters {
        let route: MethodRouter<JobWebhook> = post(handler).on(filter, handler);
        let app = Router::new()
            .route(PATH, route)
            .with_state(webhooks().boxed());
        if at(PATH).check_mount(app).await.is_ok() {
            missed.push(filter);
        }
    }
    assert!(missed.is_empty(), "{missed:?}");
}

/// "Checks how an application mounts this crate, and names the mistake that it finds." A layer that logs the answers builds a
/// new response, and the mount receives all events: it is not true that "another part of the application answers", and that "the
/// event is lost".
#[tokio::test]
async fn a_layer_that_builds_the_response_anew_loses_no_event() {
    let unhandled = Arc::new(Mutex::new(0));
    let counter = unhandled.clone();
    let jobs = JobRouter::new().on_unhandled(move |_| {
        *counter.lock().unwrap() += 1;
        async {}
    });
    let logs = from_fn(|request: Request<Body>, next: Next| async move {
        let response = next.run(request).await;
        let (status, headers) = (response.status(), response.headers().clone());
        (status, headers, response.into_body())
    });
    let app = Router::new()
        .layer(JobWebhook::new(credentials(), jobs).at(PATH))
        .layer(logs);
    let printed = at(PATH)
        .check_mount(app)
        .await
        .map_err(|error| error.to_string());
    assert_eq!(*unhandled.lock().unwrap(), 1, "the event has arrived");
    let says = printed.err().unwrap_or_default();
    assert!(!says.contains("the event is lost"), "{says}");
}

/// "no credentials are needed: a delivery without any is accepted" is not so here: MX moves from a key in a header to
/// `Authorization`, a layer in front wants another header.
#[tokio::test]
async fn credentials_in_another_header_are_credentials() {
    let key = Credentials::verify(|head| {
        let is_key = head.headers.get("x-api-key").is_some_and(|it| it == "key");
        async move { is_key }
    });
    let tenant = from_fn(|request: Request, next: Next| async move {
        match request.headers().contains_key("x-tenant") {
            true => next.run(request).await,
            false => StatusCode::BAD_REQUEST.into_response(),
        }
    });
    let either = JobWebhook::new(credentials().or(key), JobRouter::new());
    let app = Router::new().layer(either.at(PATH)).layer(tenant);
    let mut without = delivery(BALANCE);
    without.headers_mut().remove("authorization");
    without
        .headers_mut()
        .insert("x-tenant", HeaderValue::from_static("acme"));
    let answer = app.clone().oneshot(without).await.unwrap();
    assert_eq!(answer.status(), 401, "credentials are needed");
    let mx = at(PATH)
        .with_header("x-tenant", "acme")
        .with_header("x-api-key", "key");
    mx.check_mount(app).await.unwrap();
}

/// More right mounts.
#[tokio::test]
async fn other_right_mounts_pass() {
    let normalises = |mut request: http::Request<http_body_util::Full<bytes::Bytes>>| {
        let path = request.uri().path().trim_end_matches('/').to_owned();
        *request.uri_mut() = path.parse().unwrap();
        request
    };
    let app = tower::util::MapRequestLayer::new(normalises)
        .layer(Router::new().route_service(PATH, webhooks()));
    at("/admin/webhooks/")
        .check_mount(app.clone())
        .await
        .unwrap();
    at(PATH).check_mount(app).await.unwrap();

    let nested = Router::new().nest(
        "/{tenant}",
        Router::new().route_service("/webhooks", webhooks()),
    );
    at("/acme/webhooks").check_mount(nested).await.unwrap();

    // A layer in front checks the credentials, and removes them.
    let basic = from_fn(|mut request: Request<Body>, next: Next| async move {
        match request.headers_mut().remove("authorization") {
            Some(own) if own == crate::support::BASIC => next.run(request).await,
            _ => StatusCode::UNAUTHORIZED.into_response(),
        }
    });
    let open = JobWebhook::new(Credentials::unauthenticated(), JobRouter::new());
    let app = Router::new().layer(open.at(PATH)).layer(basic);
    at(PATH).check_mount(app).await.unwrap();

    // The session of a browser for everything else.
    let session = from_fn(|request: Request<Body>, next: Next| async move {
        if request.uri().path() == PATH || request.headers().contains_key("cookie") {
            return next.run(request).await;
        }
        axum::response::Redirect::to("/login").into_response()
    });
    let shared = webhooks()
        .on_undecodable(|_| async {})
        .on_other_webhook(|_| async {});
    let app = extractor(PATH, shared)
        .fallback(|| async { "a page" })
        .layer(session);
    at(PATH).check_mount(app).await.unwrap();

    let shared = Router::new()
        .route(PATH, post(|_: axum::Extension<PassedOn>| async {}))
        .layer(webhooks().at(PATH).pass_on_other_webhooks());
    at(PATH).check_mount(shared).await.unwrap();
    at("/")
        .check_mount(extractor("/", webhooks()))
        .await
        .unwrap();
    let query = Router::new().layer(webhooks().at("/%7Ea/b%2Fc"));
    at("http://mx@h:1/%7Ea/b%2Fc?d=/e")
        .check_mount(query)
        .await
        .unwrap();
}
