//! tower's readiness contract for both the inner service and the callbacks.

use std::convert::Infallible;
use std::future::{Ready, ready};
use std::sync::Arc;
use std::task::{Context, Poll};
#[cfg(feature = "tokio")]
use std::time::Duration;

use axum::body::Body;
use http::{Request, Response};
use mx_job_webhook::{Error, ErrorKind, JobEvent, JobRouter, JobWebhook, Receipt};
use tokio::sync::Semaphore;
use tower::{BoxError, Layer as _, Service, ServiceBuilder, ServiceExt as _, service_fn};

use crate::support::{
    Log, PATH, SAMPLE, Settings, credentials, delivery, jobs, mounts, no_callbacks, send,
};

/// Panics if it is called without having been ready; a clone is not ready.
struct Strict<R> {
    ready: bool,
    response: fn() -> R,
}

impl<R> Strict<R> {
    fn new(response: fn() -> R) -> Self {
        Self {
            ready: false,
            response,
        }
    }
}

impl<R> Clone for Strict<R> {
    fn clone(&self) -> Self {
        Self::new(self.response)
    }
}

impl<Q, R> Service<Q> for Strict<R> {
    type Response = R;
    type Error = Infallible;
    type Future = Ready<Result<R, Infallible>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        self.ready = true;
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, _: Q) -> Self::Future {
        assert!(self.ready, "called without having been ready");
        self.ready = false;
        ready(Ok((self.response)()))
    }
}

async fn ready_call<S>(service: &mut S, request: Request<Body>) -> Response<Body>
where
    S: Service<Request<Body>, Response = Response<Body>, Error = Infallible>,
{
    service.ready().await.unwrap().call(request).await.unwrap()
}

fn not_ours() -> Request<Body> {
    Request::get("/accounts").body(Body::empty()).unwrap()
}

fn response() -> Response<Body> {
    Response::new(Body::from("within"))
}

#[tokio::test]
async fn the_inner_service_is_ready_before_every_call() {
    let layer = JobWebhook::new(credentials(), JobRouter::new()).at(PATH);
    for permits in [1, 2] {
        let within = ServiceBuilder::new()
            .concurrency_limit(permits)
            .service(Strict::new(response));
        let mut service = layer.layer(within);
        for round in 0..3 {
            let response = ready_call(&mut service, not_ours()).await;
            assert_eq!(response.status(), 200, "{round}");
            let response = ready_call(&mut service, delivery(SAMPLE)).await;
            assert_eq!(response.status(), 204, "{round}");
            // A clone must become ready itself, and one permit suffices for both.
            let mut clone = service.clone();
            drop(service);
            let response = ready_call(&mut clone, not_ours()).await;
            assert_eq!(response.status(), 200, "{round}");
            service = clone;
        }
    }
}

#[tokio::test]
async fn the_callbacks_are_ready_before_every_delivery() {
    let strict = Strict::new(|| Receipt::Handled);
    let limited = ServiceBuilder::new()
        .concurrency_limit(1)
        .service(strict.clone());
    for service in [jobs(strict), jobs(limited)] {
        for (mount, app) in mounts(&Settings::new(service)) {
            for round in 0..3 {
                let (head, _) = send(app.clone(), delivery(SAMPLE)).await;
                assert_eq!(head.status, 204, "{mount} {round}");
            }
        }
    }
}

/// Never ready: every caller waits forever.
#[derive(Clone)]
struct NeverReady;

impl Service<Request<Body>> for NeverReady {
    type Response = Response<Body>;
    type Error = &'static str;
    type Future = Ready<Result<Self::Response, Self::Error>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        Poll::Pending
    }

    fn call(&mut self, _: Request<Body>) -> Self::Future {
        unreachable!()
    }
}

#[test]
fn a_delivery_does_not_wait_for_the_inner_service() {
    let layer = JobWebhook::new(credentials(), JobRouter::new()).at(PATH);
    let context = &mut Context::from_waker(std::task::Waker::noop());
    let mut service = layer.layer(NeverReady);
    assert!(Service::<Request<Body>>::poll_ready(&mut service, context).is_ready());
    let mut delivered = Box::pin(service.call(delivery(SAMPLE)));
    let Poll::Ready(answer) = delivered.as_mut().poll(context) else {
        panic!("the delivery waits");
    };
    assert_eq!(answer.unwrap().status(), 204);
    let mut other = Box::pin(service.call(not_ours()));
    assert!(other.as_mut().poll(context).is_pending());
}

#[tokio::test]
async fn a_delivery_holds_no_permit_of_the_inner_service() {
    let layer = JobWebhook::new(credentials(), JobRouter::new()).at(PATH);
    let within = ServiceBuilder::new()
        .concurrency_limit(1)
        .service(Strict::new(response));
    let service = layer.layer(within);
    // Keep-alive connections behave this way.
    let mut kept: Vec<_> = (0..3).map(|_| service.clone()).collect();
    for service in &mut kept {
        assert_eq!(ready_call(service, delivery(SAMPLE)).await.status(), 204);
        tower::ServiceExt::<Request<Body>>::ready(service)
            .await
            .unwrap();
    }
    let mut another = service.clone();
    assert_eq!(ready_call(&mut another, not_ours()).await.status(), 200);
}

#[tokio::test]
async fn another_request_waits_for_the_inner_service_and_is_woken() {
    let gate = Arc::new(Semaphore::new(0));
    let opened = gate.clone();
    let slow = tower::service_fn(move |_: Request<Body>| {
        let opened = opened.clone();
        async move {
            opened.acquire().await.unwrap().forget();
            Ok::<_, Infallible>(response())
        }
    });
    let within = ServiceBuilder::new().concurrency_limit(1).service(slow);
    let service = JobWebhook::new(credentials(), JobRouter::new())
        .at(PATH)
        .layer(within);
    let calls: Vec<_> = (0..3)
        .map(|_| {
            let mut service = service.clone();
            tokio::spawn(async move { ready_call(&mut service, not_ours()).await })
        })
        .collect();
    // A request that is cancelled while waiting leaves no reservation.
    let mut left = service.clone();
    drop(left.call(not_ours()));
    gate.add_permits(3);
    for call in calls {
        assert_eq!(call.await.unwrap().status(), 200);
    }
    gate.add_permits(1);
    assert_eq!(ready_call(&mut left, not_ours()).await.status(), 200);
}

/// A service that fails in `poll_ready` and in `call`.
#[derive(Clone)]
struct BrokenWithin;

impl Service<Request<Body>> for BrokenWithin {
    type Response = Response<Body>;
    type Error = &'static str;
    type Future = Ready<Result<Self::Response, Self::Error>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        Poll::Ready(Err("broken"))
    }

    fn call(&mut self, _: Request<Body>) -> Self::Future {
        unreachable!()
    }
}

#[tokio::test]
async fn a_failed_inner_service_fails_no_delivery() {
    let layer = JobWebhook::new(credentials(), JobRouter::new()).at(PATH);
    let service = layer.layer(BrokenWithin);
    let answer = service.clone().oneshot(delivery(SAMPLE)).await.unwrap();
    assert_eq!(answer.status(), 204);
    assert_eq!(service.oneshot(not_ours()).await.unwrap_err(), "broken");
}

#[tokio::test]
async fn errors_of_the_inner_service_keep_their_type() {
    let within = tower::service_fn(|_: Request<Body>| async { Err::<Response<Body>, _>(7_u8) });
    let layer = JobWebhook::new(credentials(), JobRouter::new()).at(PATH);
    assert_eq!(
        layer.layer(within).oneshot(not_ours()).await.unwrap_err(),
        7
    );
}

#[tokio::test]
async fn busy_callbacks_delay_only_deliveries() {
    let (log, gate) = (Log::default(), Arc::new(Semaphore::new(0)));
    let (seen, opened) = (log.clone(), gate.clone());
    let router = JobRouter::new().on_completed(move |_| {
        let (seen, opened) = (seen.clone(), opened.clone());
        async move {
            seen.push("started");
            opened.acquire().await.unwrap().forget();
        }
    });
    let limited = ServiceBuilder::new().concurrency_limit(1).service(router);
    let app = tower::util::BoxCloneSyncService::new(
        JobWebhook::new(credentials(), limited)
            .at(PATH)
            .layer(Strict::new(response)),
    );
    let deliver = || tokio::spawn(send(app.clone(), delivery(SAMPLE)));
    let deliveries = [deliver(), deliver()];
    while log.entries().is_empty() {
        tokio::task::yield_now().await;
    }
    for _ in 0..10 {
        assert_eq!(send(app.clone(), not_ours()).await.0.status, 200);
    }
    assert_eq!(log.entries().len(), 1, "the second waits for the first");
    gate.add_permits(2);
    for delivery in deliveries {
        assert_eq!(delivery.await.unwrap().0.status, 204);
    }
    assert_eq!(log.entries().len(), 2);
}

#[tokio::test]
async fn a_failed_event_service_is_answered_503_before_its_call_and_500_after() {
    #[derive(Clone)]
    struct Broken {
        before: bool,
    }

    impl Service<JobEvent> for Broken {
        type Response = Receipt;
        type Error = &'static str;
        type Future = Ready<Result<Receipt, &'static str>>;

        fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), &'static str>> {
            Poll::Ready(if self.before {
                Err("no worker")
            } else {
                Ok(())
            })
        }

        fn call(&mut self, _: JobEvent) -> Self::Future {
            ready(Err("the worker went away"))
        }
    }

    for (before, status, kind) in [
        (true, 503, ErrorKind::Overloaded),
        (false, 500, ErrorKind::CallbackFailed),
    ] {
        for (mount, app) in mounts(&Settings::new(jobs(Broken { before }))) {
            if mount == "the extractor" && before {
                continue; // the application's handler awaits readiness itself
            }
            let (head, _) = send(app, delivery(SAMPLE)).await;
            assert_eq!(head.status.as_u16(), status, "{mount}");
            assert_eq!(
                head.extensions.get::<Error>().unwrap().kind(),
                kind,
                "{mount}"
            );
        }
    }
}

/// Panics at the configured step.
struct Panics(&'static str);

impl Clone for Panics {
    fn clone(&self) -> Self {
        assert!(self.0 != "clone", "on purpose");
        Self(self.0)
    }
}

impl Service<JobEvent> for Panics {
    type Response = ();
    type Error = BoxError;
    type Future = Ready<Result<(), BoxError>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        assert!(self.0 != "poll_ready", "on purpose");
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, _: JobEvent) -> Self::Future {
        assert!(self.0 != "call", "on purpose");
        ready(Ok(()))
    }
}

#[tokio::test]
async fn panicking_middleware_fails_only_one_delivery() {
    for (place, status) in [
        ("clone", 500),
        ("poll_ready", 500),
        ("call", 500),
        ("nowhere", 204),
    ] {
        let layer = JobWebhook::new(credentials(), Panics(place)).at(PATH);
        let mut service = layer.layer(Strict::new(response));
        for _ in 0..2 {
            let answer = ready_call(&mut service, delivery(SAMPLE)).await;
            assert_eq!(answer.status().as_u16(), status, "{place}");
            let answer = ready_call(&mut service, not_ours()).await;
            assert_eq!(answer.status().as_u16(), 200, "{place}");
        }
    }
}

#[cfg(feature = "tokio")]
#[tokio::test(start_paused = true)]
async fn towers_own_middleware_composes_between_decode_and_callback() {
    let slow = || {
        JobRouter::new()
            .on_completed(|_| tokio::time::sleep(Duration::from_secs(5)))
            .on_halted(|_| async {})
    };
    let service = ServiceBuilder::new()
        .load_shed()
        .concurrency_limit(1)
        .timeout(Duration::from_secs(10))
        .service(slow());
    let app = || mounts(&Settings::new(jobs(service.clone()))).remove(0).1;
    let first = tokio::spawn(send(app(), delivery(SAMPLE)));
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert_eq!(send(app(), delivery(SAMPLE)).await.0.status, 503, "shed");
    assert_eq!(first.await.unwrap().0.status, 204);
    assert_eq!(
        send(app(), delivery(SAMPLE)).await.0.status,
        204,
        "the slot is free again"
    );

    // The buffer is full: one runs, one waits inside, and the next is refused.
    let full = ServiceBuilder::new()
        .load_shed()
        .buffer(1)
        .concurrency_limit(1)
        .service(slow());
    let app = mounts(&Settings::new(jobs(full))).remove(0).1;
    let mut accepted = Vec::new();
    for _ in 0..3 {
        accepted.push(tokio::spawn(send(app.clone(), delivery(SAMPLE))));
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    let (refused, _) = send(app, delivery(SAMPLE)).await;
    assert_eq!(refused.status, 503, "the buffer is full");
    assert_eq!(refused.headers["retry-after"], "30");
    for delivery in accepted {
        let (head, _) = delivery.await.unwrap();
        assert!(head.status == 204 || head.status == 503, "{}", head.status);
    }

    let buffered = ServiceBuilder::new().buffer(4).service(slow());
    let app = mounts(&Settings::new(jobs(buffered))).remove(0).1;
    assert_eq!(send(app, delivery(SAMPLE)).await.0.status, 204);
}

#[tokio::test]
async fn other_requests_pass_through_unchanged() {
    let seen = Log::default();
    let log = seen.clone();
    let echo = tower::service_fn(move |request: Request<Body>| {
        let log = log.clone();
        async move {
            let (head, body) = request.into_parts();
            let body = axum::body::to_bytes(body, 1 << 20).await.unwrap();
            log.push(format!(
                "{} {} {:?} {}",
                head.method,
                head.uri,
                head.headers,
                body.len()
            ));
            assert_eq!(head.extensions.get::<u8>(), Some(&5));
            Ok::<_, Infallible>(
                Response::builder()
                    .status(299)
                    .body(Body::from(body))
                    .unwrap(),
            )
        }
    });
    let layer = JobWebhook::new(credentials(), no_callbacks()).at(PATH);
    let cases = [
        ("GET", PATH),
        ("PUT", PATH),
        ("POST", "/other"),
        ("POST", "/admin/webhooks/"),
    ];
    for (method, path) in cases {
        let big = "x".repeat(200_000); // larger than a webhook may be
        let request = Request::builder()
            .method(method)
            .uri(path)
            .header("authorization", "Basic untouched")
            .extension(5_u8)
            .body(Body::from(big.clone()))
            .unwrap();
        let response = layer.layer(echo.clone()).oneshot(request).await.unwrap();
        assert_eq!(response.status().as_u16(), 299);
        let body = axum::body::to_bytes(response.into_body(), 1 << 20)
            .await
            .unwrap();
        assert_eq!(body, big);
        let entry = seen.entries().pop().unwrap();
        assert!(
            entry.contains("Basic untouched") && entry.starts_with(method),
            "{entry}"
        );
    }
}

/// `JobWebhookService`: if the service that the layer wraps is not ready, "the request keeps that instance and leaves a clone in its place".
/// A place that an instance has begun to wait for is not kept from the others.
#[tokio::test(start_paused = true)]
async fn a_request_that_waits_keeps_the_instance_that_waits() {
    let within = service_fn(|_: Request<Body>| async {
        tokio::time::sleep(std::time::Duration::from_secs(1)).await;
        Ok::<_, Infallible>(Response::new(Body::empty()))
    });
    let within = ServiceBuilder::new().concurrency_limit(1).service(within);
    let mut app = JobWebhook::new(credentials(), JobRouter::new())
        .at(PATH)
        .layer(within);
    let page = || Request::get("/accounts").body(Body::empty()).unwrap();
    let (first, second) = (app.call(page()), app.call(page()));
    let both = async { tokio::join!(first, second) };
    let both = tokio::time::timeout(std::time::Duration::from_secs(10), both).await;
    assert!(both.is_ok(), "the second one waits for ever");
}
