//! MX's other webhooks on the same URL: taken by a hook, or passed on to the service within.

use std::convert::Infallible;
use std::future::{Ready, ready};
use std::task::{Context, Poll};

use axum::Router;
use axum::body::Body;
use axum::routing::post;
use bytes::Bytes;
use http::{Request, Response, Version};
use http_body_util::BodyExt as _;
use mx_job_webhook::event::OtherWebhook;
use mx_job_webhook::{Error, ErrorKind, JobRouter, JobWebhook};
use tower::{Layer as _, Service, ServiceExt as _, service_fn};

use crate::support::{BASIC, Log, PATH, SAMPLE, credentials, delivery};

/// The shapes that MX documents.
const WEBHOOKS: [(&str, Option<&str>, Option<&str>); 4] = [
    (
        " {\"type\":\"AGGREGATION\", \"action\":\"member_data_updated\",\r\n\"n\": 1.50} ",
        Some("AGGREGATION"),
        Some("member_data_updated"),
    ),
    (
        r#"{"type":"BALANCE","balance":12.0}"#,
        Some("BALANCE"),
        None,
    ),
    (
        r#"{"type":"initial_data_ready","member_guid":"MBR-1"}"#,
        Some("initial_data_ready"),
        None,
    ),
    (
        r#"{"action":"UPDATED","micro_deposit":{"guid":"MIC-1","status":6,"status_name":"COMPLETED"}}"#,
        None,
        Some("UPDATED"),
    ),
];

fn webhooks() -> JobWebhook<JobRouter> {
    JobWebhook::new(credentials(), JobRouter::new())
}

#[tokio::test]
async fn the_hook_takes_each_of_them_with_its_kind_body_headers_and_extensions() {
    for (body, type_name, action) in WEBHOOKS {
        let log = Log::default();
        let taken = log.clone();
        let endpoint = webhooks()
            .on_undecodable(|_| async { panic!("it is another webhook") })
            .on_other_webhook(move |webhook: OtherWebhook| {
                assert_eq!((webhook.type_name(), webhook.action()), (type_name, action));
                assert!(!webhook.headers().contains_key("authorization"));
                assert!(webhook.headers().contains_key("content-type"));
                assert_eq!(webhook.extensions().get::<u8>(), Some(&7));
                taken.push(String::from_utf8(webhook.body().to_vec()).unwrap());
                async {}
            });
        let mut request = delivery(body);
        request.extensions_mut().insert(7_u8);
        assert_eq!(endpoint.oneshot(request).await.unwrap().status(), 204);
        assert_eq!(log.entries(), [body]);
    }
}

#[tokio::test]
async fn without_a_hook_they_are_refused_and_an_error_of_the_hook_is_answered_500() {
    let answer = webhooks().oneshot(delivery(WEBHOOKS[0].0)).await.unwrap();
    assert_eq!(answer.status(), 422);
    let error = answer.extensions().get::<Error>().unwrap();
    assert_eq!(error.kind(), ErrorKind::UnexpectedWebhook);
    let fails = webhooks().on_other_webhook(|_| async { Err("the table is full") });
    let answer = fails.oneshot(delivery(WEBHOOKS[0].0)).await.unwrap();
    assert_eq!(answer.status(), 500);
}

#[tokio::test]
async fn a_route_of_the_application_answers_what_is_passed_on() {
    async fn other(request: Request<Body>) -> (http::StatusCode, String) {
        let (head, body) = request.into_parts();
        let body = axum::body::to_bytes(body, usize::MAX).await.unwrap();
        let authorization = head.headers.get("authorization");
        let seen = format!(
            "{} {} {authorization:?} {:?} {:?} {}",
            head.method,
            head.uri,
            head.headers["x-custom"],
            head.extensions.get::<u8>(),
            String::from_utf8(body.to_vec()).unwrap()
        );
        (http::StatusCode::IM_A_TEAPOT, seen)
    }
    let app = Router::new()
        .route(PATH, post(other))
        .layer(webhooks().at(PATH).pass_on_other_webhooks());
    for (body, ..) in WEBHOOKS {
        let mut request = delivery(body);
        *request.uri_mut() = format!("{PATH}?a=b%20c").parse().unwrap();
        request.extensions_mut().insert(7_u8);
        let custom = "\u{e4}".parse().unwrap();
        request.headers_mut().insert("x-custom", custom);
        let answer = app.clone().oneshot(request).await.unwrap();
        assert_eq!(answer.status(), 418);
        let seen = axum::body::to_bytes(answer.into_body(), usize::MAX).await;
        assert_eq!(
            String::from_utf8(seen.unwrap().to_vec()).unwrap(),
            format!(
                "POST {PATH}?a=b%20c None {custom:?} Some(7) {body}",
                custom = http::HeaderValue::from_str("\u{e4}").unwrap()
            )
        );
    }
}

#[tokio::test]
async fn nothing_else_is_passed_on() {
    let log = Log::default();
    let seen = log.clone();
    let inner = tower::service_fn(move |request: Request<Body>| {
        seen.push(format!("{} {}", request.method(), request.uri()));
        ready(Ok::<_, Infallible>(Response::new(Body::empty())))
    });
    let app = webhooks().at(PATH).pass_on_other_webhooks().layer(inner);
    let without_credentials = || {
        let mut request = delivery(WEBHOOKS[0].0);
        request.headers_mut().remove("authorization");
        request
    };
    let cases = [
        ("a job", delivery(SAMPLE), 204),
        ("no credentials", without_credentials(), 401),
        ("no JSON", delivery("{"), 422),
        ("neither type nor action", delivery("{}"), 422),
        (
            "a job without a guid",
            delivery(r#"{"type":"BALANCE","job":{"status":6}}"#),
            422,
        ),
        (
            "too long",
            delivery(format!(r#"{{"type":"{}"}}"#, "x".repeat(70_000))),
            413,
        ),
    ];
    for (name, request, status) in cases {
        let answer = app.clone().oneshot(request).await.unwrap();
        assert_eq!(answer.status(), status, "{name}");
    }
    assert!(log.entries().is_empty(), "{:?}", log.entries());
    for (method, path) in [("GET", PATH), ("POST", "/accounts")] {
        let request = Request::builder()
            .method(method)
            .uri(path)
            .body(Body::empty());
        let answer = app.clone().oneshot(request.unwrap()).await.unwrap();
        assert_eq!(answer.status(), 200);
    }
    assert_eq!(
        log.entries(),
        [format!("GET {PATH}"), "POST /accounts".to_owned()]
    );
}

#[test]
#[should_panic(expected = "either passed on, or taken by `on_other_webhook`")]
fn a_hook_that_would_never_be_called_is_refused() {
    let _ = webhooks()
        .on_other_webhook(|_| async {})
        .at(PATH)
        .pass_on_other_webhooks();
}

/// A service that is ready at its third poll, and fails a call before that.
#[derive(Default)]
struct Reluctant(u32);

impl Clone for Reluctant {
    fn clone(&self) -> Self {
        Self::default()
    }
}

impl<B: Into<Bytes>> Service<Request<B>> for Reluctant {
    type Response = Response<Bytes>;
    type Error = &'static str;
    type Future = Ready<Result<Response<Bytes>, &'static str>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), &'static str>> {
        self.0 += 1;
        if self.0 < 3 {
            context.waker().wake_by_ref();
            return Poll::Pending;
        }
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        assert!(self.0 >= 3, "it was called before it was ready");
        ready(Ok(Response::new(request.into_body().into())))
    }
}

/// A body of a hyper application.
struct Full(Option<Bytes>);

impl From<Bytes> for Full {
    fn from(bytes: Bytes) -> Self {
        Self(Some(bytes))
    }
}

impl From<Full> for Bytes {
    fn from(body: Full) -> Self {
        body.0.unwrap_or_default()
    }
}

impl http_body::Body for Full {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: std::pin::Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<http_body::Frame<Bytes>, Infallible>>> {
        Poll::Ready(self.0.take().map(|bytes| Ok(http_body::Frame::data(bytes))))
    }
}

#[tokio::test]
async fn the_service_within_is_made_ready_first() {
    let app = webhooks()
        .at(PATH)
        .pass_on_other_webhooks()
        .layer(Reluctant::default());
    for _ in 0..2 {
        let request = Request::post(PATH)
            .header("authorization", BASIC)
            .header("content-type", "application/json")
            .body(Full::from(Bytes::from(WEBHOOKS[0].0)))
            .unwrap();
        let answer = app.clone().oneshot(request).await.unwrap();
        assert_eq!(answer.body(), WEBHOOKS[0].0);
    }
}

#[tokio::test]
async fn what_is_passed_on_has_its_http_version() {
    let within = service_fn(|request: Request<Body>| async move {
        let version = format!("{:?}", request.version());
        Ok::<_, Infallible>(Response::new(Body::from(version)))
    });
    let app = JobWebhook::new(credentials(), JobRouter::new())
        .at(PATH)
        .pass_on_other_webhooks()
        .layer(within);
    let mut request = delivery(r#"{"type":"BALANCE"}"#);
    *request.version_mut() = Version::HTTP_2;
    let answer = app.oneshot(request).await.unwrap();
    let body = answer.into_body().collect().await.unwrap().to_bytes();
    assert_eq!(body, "HTTP/2.0");
}
