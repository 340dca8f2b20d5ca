//! The check of the mount, against routers that mount the crate rightly or wrongly.

use std::convert::Infallible;
use std::future::pending;
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::extract::{DefaultBodyLimit, Request, State};
use axum::middleware::{Next, from_fn, map_request};
use axum::response::IntoResponse as _;
use axum::routing::{any, get, post};
use http::{Response, StatusCode};
use http_body::Frame;
use mx_job_webhook::ledger::MemoryLedger;
use mx_job_webhook::testing::{MountError, Mx};
use mx_job_webhook::{
    Background, Credentials, DedupeLayer, Error, JobEvent, JobRouter, JobWebhook, Receipt,
};
use tower::{Layer as _, service_fn};
use tower_http::limit::RequestBodyLimitLayer;

use crate::support::{Frames, Log, PATH, credentials};

fn mx() -> Mx {
    at(PATH)
}

fn at(path: &str) -> Mx {
    Mx::new(path).with_basic("mx", "secret")
}

fn webhooks() -> JobWebhook<JobRouter> {
    JobWebhook::new(credentials(), JobRouter::new().on_completed(|_| async {}))
}

fn own() -> Router {
    Router::new().route("/accounts", get(|| async { "accounts" }))
}

fn with_fallback() -> Router {
    own().fallback(|| async { "a page" })
}

async fn handler(State(webhooks): State<JobWebhook>, event: JobEvent) -> Result<Receipt, Error> {
    webhooks.run(event).await
}

fn sentences(result: Result<(), MountError>) -> String {
    let error = result.unwrap_err();
    assert_eq!(
        format!("{error:?}"),
        error.to_string(),
        "`unwrap` prints it"
    );
    error.to_string()
}

async fn assert_mistake(mx: Mx, app: Router, expected: &[&str]) {
    let printed = sentences(mx.check_mount(app).await);
    for part in expected {
        assert!(printed.contains(part), "{part}: {printed}");
    }
    assert!(!printed.contains("secret"), "{printed}");
}

#[tokio::test]
async fn right_mounts_pass() {
    let layer = || webhooks().at(PATH);
    let nested = |router: Router| own().nest("/api", router);
    let once = DedupeLayer::new(MemoryLedger::new()).layer(JobRouter::new());
    let strict = JobRouter::new().on_unhandled(|_| async { Err("a new status") });
    let extractor = || {
        Router::new()
            .route(PATH, post(handler))
            .with_state(webhooks().boxed())
    };
    let either = credentials().or(Credentials::verify(|_| async { false }));
    let apps = [
        ("the layer", own().layer(layer())),
        (
            "the layer, after a fallback",
            with_fallback().layer(layer()),
        ),
        (
            "the layer, after nested routers",
            nested(with_fallback()).layer(layer()),
        ),
        (
            "the layer, with a page on the path",
            own().route(PATH, get(|| async { "a page" })).layer(layer()),
        ),
        ("route_service", own().route_service(PATH, webhooks())),
        ("the extractor", own().merge(extractor())),
        (
            "a ledger",
            own().layer(JobWebhook::new(credentials(), once).at(PATH)),
        ),
        (
            "`on_unhandled` refuses",
            own().layer(JobWebhook::new(credentials(), strict).at(PATH)),
        ),
        (
            "credentials of two kinds",
            own().layer(JobWebhook::new(either, JobRouter::new()).at(PATH)),
        ),
        (
            "a limit of 64 KiB in front",
            own()
                .layer(layer())
                .layer(RequestBodyLimitLayer::new(65_536)),
        ),
    ];
    for (name, app) in apps {
        mx().check_mount(app).await.expect(name);
    }
    let nested_path = at("/api/admin/webhooks");
    let routed = Router::new().route_service(PATH, webhooks());
    nested_path.check_mount(nested(routed)).await.unwrap();
    nested_path.check_mount(nested(extractor())).await.unwrap();
    // The layer of a nested router that has a fallback sees all of its requests.
    let layered = nested(with_fallback().layer(layer()));
    nested_path.check_mount(layered).await.unwrap();
    let around = layer().layer(own());
    mx().check_mount(around).await.unwrap();
    let url = at("http://127.0.0.1:3000/admin/webhooks?from=mx");
    url.check_mount(own().layer(layer())).await.unwrap();
    let bearer = JobWebhook::new(Credentials::bearer("token").unwrap(), JobRouter::new());
    let mx = Mx::new(PATH).with_bearer("token");
    mx.check_mount(own().layer(bearer.at(PATH))).await.unwrap();
}

#[tokio::test]
async fn no_callback_runs_but_on_unhandled() {
    let log = Log::default();
    let seen = log.clone();
    let callback = move |event: JobEvent| {
        seen.push(event.status.to_string());
        async {}
    };
    let unhandled = log.clone();
    let jobs = JobRouter::new()
        .on_challenged(callback.clone())
        .on_completed(callback.clone())
        .on_prevented(callback.clone())
        .on_denied(callback.clone())
        .on_halted(callback)
        .on_unhandled(move |event| {
            unhandled.push(format!("unhandled {}", event.status));
            async {}
        });
    let app = own().layer(JobWebhook::new(credentials(), jobs).at(PATH));
    mx().check_mount(app).await.unwrap();
    assert_eq!(log.entries(), ["unhandled MOUNT_CHECK"]);
}

#[tokio::test]
async fn a_fallback_or_route_after_the_layer_answers() {
    let fallback = own()
        .layer(webhooks().at(PATH))
        .fallback(|| async { "a page" });
    let expected = ["another part", "with 200", "Add the layer last", "lost"];
    assert_mistake(mx(), fallback, &expected).await;
    let route = own()
        .layer(webhooks().at(PATH))
        .route(PATH, post(|| async { StatusCode::NO_CONTENT }));
    assert_mistake(mx(), route, &["with 204", "Add the layer last"]).await;
    let moved = own()
        .layer(webhooks().at(PATH))
        .fallback(|| async { axum::response::Redirect::to("/login") });
    assert_mistake(mx(), moved, &["with 303", "Add the layer last"]).await;
}

#[tokio::test]
async fn a_handler_that_returns_another_answer_is_not_ours() {
    async fn wrong(_: JobEvent) -> StatusCode {
        StatusCode::NO_CONTENT
    }
    let app = Router::new()
        .route(PATH, post(wrong))
        .with_state(webhooks().boxed());
    assert_mistake(mx(), app, &["with 204", "return `Receipt`"]).await;
}

#[tokio::test]
async fn a_layer_that_is_not_reached_answers_404() {
    let expected = [
        "router answers 404",
        "`route_layer`",
        "nested router",
        r#"`.layer(webhooks.at("/admin/webhooks"))`"#,
    ];
    assert_mistake(mx(), own().route_layer(webhooks().at(PATH)), &expected).await;
    let nested = own().nest("/api", own().layer(webhooks().at(PATH)));
    assert_mistake(mx(), nested.clone(), &expected).await;
    let expected = ["router answers 404", "nested router"];
    assert_mistake(at("/api/admin/webhooks"), nested, &expected).await;
    assert_mistake(mx(), own(), &expected).await;
}

#[tokio::test]
async fn a_trailing_slash_is_another_path() {
    let expected = ["receives deliveries at `/admin/webhooks`", "trailing slash"];
    let slash = || at("/admin/webhooks/");
    assert_mistake(slash(), own().layer(webhooks().at(PATH)), &expected).await;
    let route = own().route_service(PATH, webhooks());
    assert_mistake(slash(), route, &expected).await;
    let expected = [
        "receives deliveries at `/admin/webhooks/`",
        "trailing slash",
    ];
    let app = with_fallback().layer(webhooks().at("/admin/webhooks/"));
    assert_mistake(mx(), app, &expected).await;
}

#[tokio::test]
async fn a_prefix_of_a_nested_router_is_part_of_the_path() {
    let missing = own().nest("/api", own()).layer(webhooks().at(PATH));
    let expected = [
        "receives deliveries at `/admin/webhooks`",
        "delivers to `/api/admin/webhooks`",
        "prefix `/api` is missing",
    ];
    assert_mistake(at("/api/admin/webhooks"), missing, &expected).await;
    let twice = own().nest(
        "/api",
        with_fallback().layer(webhooks().at("/api/admin/webhooks")),
    );
    let expected = [
        "receives deliveries at `/api/api/admin/webhooks`",
        "prefix `/api` is there twice",
    ];
    assert_mistake(at("/api/admin/webhooks"), twice, &expected).await;
}

#[tokio::test]
async fn a_route_of_another_method_answers_405() {
    let app = Router::new()
        .route(PATH, get(handler))
        .with_state(webhooks().boxed());
    assert_mistake(mx(), app, &["405", "as a handler with `post`"]).await;
}

#[tokio::test]
async fn credentials_that_are_not_checked_are_found() {
    let open = |credentials| own().layer(JobWebhook::new(credentials, JobRouter::new()).at(PATH));
    let unauthenticated = open(Credentials::unauthenticated());
    let expected = [
        "no credentials are needed",
        "`Credentials::unauthenticated()`",
    ];
    assert_mistake(mx(), unauthenticated.clone(), &expected).await;
    // It says so itself that none are needed.
    Mx::new(PATH).check_mount(unauthenticated).await.unwrap();
    let any = Credentials::verify(|head| {
        let is_there = head.headers.contains_key("authorization");
        async move { is_there }
    });
    let expected = ["any credentials are accepted", "`Credentials::verify`"];
    assert_mistake(mx(), open(any.clone()), &expected).await;
    let mx = Mx::new(PATH).with_bearer("token");
    assert_mistake(mx, open(any), &expected).await;
}

#[tokio::test]
async fn credentials_that_are_refused_are_found() {
    let app = || own().layer(webhooks().at(PATH));
    let wrong = Mx::new(PATH).with_basic("mx", "other");
    assert_mistake(wrong, app(), &["refuses the credentials of this `Mx`"]).await;
    assert_mistake(Mx::new(PATH), app(), &["has none: add `with_basic`"]).await;
    let login = from_fn(|_: Request, _: Next| async { StatusCode::FORBIDDEN });
    let expected = ["in front of the mount refuses the credentials with 403"];
    assert_mistake(mx(), app().layer(login), &expected).await;
}

#[tokio::test]
async fn a_body_limit_in_front_is_found() {
    let limited = own()
        .layer(webhooks().at(PATH))
        .layer(RequestBodyLimitLayer::new(1_024));
    let expected = ["in front of the mount", "8 KiB with 413", "64 KiB"];
    assert_mistake(mx(), limited, &expected).await;
    // Neither says how long the body was.
    let while_reading = |body: Body| Body::new(http_body_util::Limited::new(body, 1_024));
    let app = own().layer(webhooks().at(PATH));
    let app = app.layer(map_request(move |request: Request| async move {
        request.map(while_reading)
    }));
    let expected = ["8 KiB", "A layer in front that limits the body"];
    assert_mistake(mx(), app, &expected).await;
    let breaks = || {
        let frames = [Ok(Frame::data("{\"job\"".into())), Err("cut off".into())];
        Body::new(Frames::new(frames))
    };
    let app = own().layer(webhooks().at(PATH));
    let app = app.layer(map_request(move |request: Request| async move {
        request.map(|_| breaks())
    }));
    assert_mistake(mx(), app, &["8 KiB is cut off in front of the mount"]).await;
}

#[tokio::test]
async fn the_limit_of_the_mount_itself_is_found() {
    let small = own().layer(webhooks().with_body_limit(1_024).at(PATH));
    let expected = ["the mount refuses a body of 8 KiB", "`with_body_limit`"];
    assert_mistake(mx(), small, &expected).await;
    let route = post(handler).layer(DefaultBodyLimit::max(1_024));
    let extractor = Router::new()
        .route(PATH, route)
        .with_state(webhooks().boxed());
    assert_mistake(mx(), extractor, &["`DefaultBodyLimit`"]).await;
}

#[tokio::test]
async fn a_mount_that_takes_other_requests_is_found() {
    let all = own().fallback_service(webhooks());
    let expected = [
        "on every path",
        r#"`.route_service("/admin/webhooks", webhooks)`"#,
    ];
    assert_mistake(mx(), all, &expected).await;
    let error = mx().check_mount(webhooks()).await;
    assert!(sentences(error).contains("on every path"));
    let any = Router::new()
        .route(PATH, any(handler))
        .with_state(webhooks().boxed());
    assert_mistake(mx(), any, &["`GET /admin/webhooks` is received", "`post`"]).await;
}

#[tokio::test]
async fn a_layer_that_changes_the_body_or_the_answer_is_found() {
    let taken = webhooks().on_undecodable(|_| async { Ok::<_, Infallible>(()) });
    for webhooks in [webhooks(), taken] {
        for body in ["{\"job\"", "{}"] {
            let app = own().layer(webhooks.clone().at(PATH));
            let app = app.layer(map_request(move |request: Request| async move {
                request.map(|_| Body::from(body))
            }));
            assert_mistake(mx(), app, &["does not arrive as MX sends it"]).await;
        }
    }
    let answer = own().layer(webhooks().at(PATH)).layer(from_fn(
        |request: Request, next: Next| async move {
            let response = next.run(request).await;
            let is_ours = response.extensions().get::<Receipt>().is_some();
            let mut response = response.map(|_| Body::empty());
            if is_ours {
                *response.status_mut() = StatusCode::BAD_GATEWAY;
            }
            response.into_response()
        },
    ));
    assert_mistake(mx(), answer, &["changes the answer 204 to 502"]).await;
}

#[tokio::test]
async fn a_layer_that_turns_errors_into_receipts_is_found() {
    let hides = |error: StatusCode| {
        from_fn(move |request: Request, next: Next| async move {
            let mut response = next.run(request).await;
            if response.status() == error {
                *response.status_mut() = StatusCode::OK;
            }
            response
        })
    };
    let fails = JobRouter::new().on_unhandled(|_| async { Err("a new status") });
    let fails = JobWebhook::new(credentials(), fails);
    for (webhooks, error) in [
        (fails, StatusCode::INTERNAL_SERVER_ERROR),
        (webhooks(), StatusCode::UNAUTHORIZED),
    ] {
        let app = own().layer(webhooks.at(PATH)).layer(hides(error));
        let expected = ["an error to 200", "takes for a receipt", "can be lost"];
        assert_mistake(mx(), app, &expected).await;
    }
}

#[tokio::test]
async fn another_refusal_is_told_as_it_is() {
    let background = Background::new();
    assert_eq!(background.drain(async {}).await, 0);
    let app = own().layer(webhooks().with_background(background).at(PATH));
    let expected = ["the mount is reached", "is refused: ", "shutting down"];
    assert_mistake(mx(), app, &expected).await;
}

#[tokio::test(start_paused = true)]
async fn an_application_without_an_answer_is_found() {
    let hangs =
        service_fn(|_: http::Request<Body>| pending::<Result<Response<Body>, Infallible>>());
    let mx = mx()
        .with_patience(Duration::from_secs(1))
        .with_body_type::<Body>();
    let printed = sentences(mx.check_mount(hangs).await);
    assert!(
        printed.ends_with("has no answer: no answer in time"),
        "{printed}"
    );
    let breaks =
        service_fn(|_: http::Request<Body>| async { Err::<Response<Body>, _>("connection reset") });
    let printed = sentences(mx.check_mount(breaks).await);
    assert!(printed.ends_with("failed: connection reset"), "{printed}");
}
