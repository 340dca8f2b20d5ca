//! Bodies with every split into frames, every length and every pace.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll, Waker};

use axum::body::{Body, Bytes};
use http::{HeaderMap, Request};
use http_body::Frame;
use mx_job_webhook::{Error, ErrorKind, JobRouter};
use tower::ServiceExt as _;

use crate::support::{
    Frames, Jobs, Log, SAMPLE, Settings, delivery, jobs, mounts, no_callbacks, send,
};

/// A service that logs the body of each event.
fn logging(log: &Log) -> Jobs {
    let log = log.clone();
    jobs(JobRouter::new().on_completed(move |event| {
        log.push(std::str::from_utf8(event.body()).unwrap());
        async {}
    }))
}

async fn statuses(settings: Settings, request: impl Fn() -> Request<Body>) -> Vec<u16> {
    let mut statuses = Vec::new();
    for (_, app) in mounts(&settings) {
        statuses.push(send(app, request()).await.0.status.as_u16());
    }
    statuses
}

#[tokio::test]
async fn every_split_into_frames_gives_the_same_body() {
    let sample = SAMPLE.as_bytes();
    let splits: Vec<Vec<&'static [u8]>> = vec![
        vec![sample],
        sample.chunks(1).collect(),
        sample.chunks(2).collect(),
        sample.chunks(100).collect(),
        vec![&sample[..1], &sample[1..]],
        vec![b"", sample, b""],
        vec![&sample[..9], b"", b"", &sample[9..]],
    ];
    for frames in splits {
        let log = Log::default();
        let answers = statuses(Settings::new(logging(&log)), || {
            delivery(Frames::of_data(frames.clone()))
        });
        assert!(
            answers.await.iter().all(|&status| status == 204),
            "{} frames",
            frames.len()
        );
        assert!(
            log.entries().iter().all(|body| body == SAMPLE),
            "{} frames",
            frames.len()
        );
        assert!(log.entries().len() >= 3);
    }
}

#[tokio::test]
async fn trailers_are_ignored() {
    let body = || {
        let trailers = HeaderMap::from_iter([(http::header::ETAG, "x".parse().unwrap())]);
        Frames::new([
            Ok(Frame::data(Bytes::from_static(SAMPLE.as_bytes()))),
            Ok(Frame::trailers(trailers)),
        ])
    };
    let answers = statuses(Settings::new(no_callbacks()), || delivery(body())).await;
    assert!(answers.iter().all(|&status| status == 204), "{answers:?}");
}

/// Endless trailers after a complete delivery.
struct EndlessTrailers(Option<Bytes>);

impl http_body::Body for EndlessTrailers {
    type Data = Bytes;
    type Error = std::convert::Infallible;

    fn poll_frame(
        mut self: std::pin::Pin<&mut Self>,
        _: &mut std::task::Context<'_>,
    ) -> std::task::Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
        let frame = match self.0.take() {
            Some(data) => Frame::data(data),
            None => Frame::trailers(HeaderMap::new()),
        };
        std::task::Poll::Ready(Some(Ok(frame)))
    }
}

#[tokio::test]
async fn a_body_ends_at_its_trailers() {
    for (mount, app) in mounts(&Settings::new(no_callbacks())) {
        let body = EndlessTrailers(Some(Bytes::from_static(SAMPLE.as_bytes())));
        let (head, _) = send(app, delivery(Body::new(body))).await;
        assert_eq!(head.status.as_u16(), 204, "{mount}");
    }
}

/// MX's documentation shows a length that differs from the body's; the body is not cut to it.
#[tokio::test]
async fn a_wrong_length_within_the_limit_is_ignored() {
    for length in ["0", "231", "65536"] {
        for (mount, app) in mounts(&Settings::new(no_callbacks())) {
            let mut request = delivery(SAMPLE);
            let length = length.parse().unwrap();
            request.headers_mut().insert("content-length", length);
            let (head, _) = send(app, request).await;
            assert_eq!(head.status.as_u16(), 204, "{mount}");
        }
    }
}

#[tokio::test]
async fn the_limit_is_the_greatest_accepted_length() {
    for (limit, status) in [(SAMPLE.len(), 204), (SAMPLE.len() - 1, 413), (0, 413)] {
        for chunk in [1, 64, SAMPLE.len()] {
            let mut settings = Settings::new(no_callbacks());
            settings.body_limit = Some(limit);
            let answers = statuses(settings, || {
                delivery(Frames::of_data(SAMPLE.as_bytes().chunks(chunk)))
            });
            let answers = answers.await;
            assert!(
                answers.iter().all(|&answer| answer == status),
                "{limit} {chunk}: {answers:?}"
            );
        }
    }
}

#[tokio::test]
async fn the_limit_defaults_to_64_kib() {
    for (length, expected) in [(65_536, 204), (65_537, 413), (3_000_000, 413)] {
        for (mount, app) in mounts(&Settings::new(no_callbacks())) {
            let padding = " ".repeat(length - SAMPLE.len());
            let (head, _) = send(app, delivery(format!("{SAMPLE}{padding}"))).await;
            assert_eq!(head.status.as_u16(), expected, "{length} {mount}");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn an_announced_length_can_refuse_a_body_without_an_allocation() {
    for (mount, app) in mounts(&Settings::new(no_callbacks())) {
        let mut request = delivery(Frames::of_data([]).then_pending());
        request
            .headers_mut()
            .insert("content-length", "100000000000".parse().unwrap());
        let (head, _) = send(app, request).await;
        assert_eq!(head.status.as_u16(), 413, "{mount}");
    }
}

/// Endless empty frames, which a byte limit alone would not stop.
struct EmptyFrames;

impl http_body::Body for EmptyFrames {
    type Data = Bytes;
    type Error = std::convert::Infallible;

    fn poll_frame(
        self: std::pin::Pin<&mut Self>,
        _: &mut std::task::Context<'_>,
    ) -> std::task::Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
        std::task::Poll::Ready(Some(Ok(Frame::data(Bytes::new()))))
    }
}

#[tokio::test]
async fn endless_empty_frames_are_refused() {
    for (mount, app) in mounts(&Settings::new(no_callbacks())) {
        let (head, _) = send(app, delivery(Body::new(EmptyFrames))).await;
        assert_eq!(head.status.as_u16(), 413, "{mount}");
    }
}

/// A body of endless frames of one byte, each ready at once, that counts them.
struct AlwaysReady(Arc<AtomicUsize>);

impl http_body::Body for AlwaysReady {
    type Data = Bytes;
    type Error = std::convert::Infallible;

    fn poll_frame(
        self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
        self.0.fetch_add(1, Ordering::SeqCst);
        Poll::Ready(Some(Ok(Frame::data(Bytes::from_static(b" ")))))
    }
}

/// Otherwise a deadline could not fire, and other tasks of the thread would wait.
#[test]
fn a_body_that_is_always_ready_lets_other_tasks_run() {
    for (mount, app) in mounts(&Settings::new(no_callbacks())) {
        let frames = Arc::new(AtomicUsize::new(0));
        let body = Body::new(AlwaysReady(frames.clone()));
        let mut answer = Box::pin(app.oneshot(delivery(body)));
        let context = &mut Context::from_waker(Waker::noop());
        for polls in 1..=3 {
            assert!(answer.as_mut().poll(context).is_pending(), "{mount}");
            assert!(frames.load(Ordering::SeqCst) <= polls * 1_000, "{mount}");
        }
    }
}

#[tokio::test]
async fn an_outer_body_limit_is_reported_as_body_too_large() {
    for (mount, app) in mounts(&Settings::new(no_callbacks())) {
        let limited = http_body_util::Limited::new(Body::from(SAMPLE), 10);
        let (head, _) = send(app, delivery(Body::new(limited))).await;
        assert_eq!(head.status.as_u16(), 413, "{mount}");
        let error = head.extensions.get::<Error>().unwrap();
        assert_eq!(error.kind(), ErrorKind::BodyTooLarge, "{mount}");
    }
}

#[cfg(feature = "tokio")]
mod slow {
    use std::time::Duration;

    use mx_job_webhook::JobWebhook;
    use tokio::time::Instant;
    use tower::{Layer as _, service_fn};

    use super::*;
    use crate::support::{PATH, credentials};

    fn stalled() -> Request<Body> {
        delivery(Frames::of_data([&b"{"[..]]).then_pending())
    }

    #[tokio::test(start_paused = true)]
    async fn the_read_timeout_defaults_to_ten_seconds() {
        for (mount, app) in mounts(&Settings::new(no_callbacks())) {
            let start = Instant::now();
            let (head, _) = send(app, stalled()).await;
            assert_eq!(head.status.as_u16(), 408, "{mount}");
            assert_eq!(start.elapsed().as_secs(), 10, "{mount}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn the_read_timeout_can_be_set_and_disabled() {
        let endpoint = JobWebhook::new(credentials(), JobRouter::new());
        let start = Instant::now();
        let short = endpoint.clone().with_read_timeout(Duration::from_secs(2));
        assert_eq!(short.oneshot(stalled()).await.unwrap().status(), 408);
        assert_eq!(start.elapsed().as_secs(), 2);

        let never = endpoint.with_read_timeout(None).oneshot(stalled());
        assert!(
            tokio::time::timeout(Duration::from_secs(86_400), never)
                .await
                .is_err()
        );

        let inner = service_fn(|_: Request<Body>| async {
            Ok::<_, std::convert::Infallible>(http::Response::new(Body::empty()))
        });
        let layer = JobWebhook::new(credentials(), JobRouter::new())
            .with_read_timeout(Duration::from_secs(3))
            .at(PATH);
        let start = Instant::now();
        assert_eq!(
            layer
                .layer(inner)
                .oneshot(stalled())
                .await
                .unwrap()
                .status(),
            408
        );
        assert_eq!(start.elapsed().as_secs(), 3);
    }

    /// One byte a second is too slow, even if it arrives steadily.
    #[tokio::test(start_paused = true)]
    async fn the_read_timeout_covers_the_whole_body() {
        let (sender, receiver) = tokio::sync::mpsc::channel::<u8>(1);
        let drip = tokio::spawn(async move {
            while sender.send(b' ').await.is_ok() {
                tokio::time::sleep(Duration::from_secs(1)).await;
            }
        });
        let body = Body::new(Drip(receiver));
        let start = Instant::now();
        let endpoint = JobWebhook::new(credentials(), JobRouter::new());
        assert_eq!(
            endpoint.oneshot(delivery(body)).await.unwrap().status(),
            408
        );
        assert_eq!(start.elapsed().as_secs(), 10);
        drip.await.unwrap();
    }

    struct Drip(tokio::sync::mpsc::Receiver<u8>);

    impl http_body::Body for Drip {
        type Data = Bytes;
        type Error = std::convert::Infallible;

        fn poll_frame(
            mut self: std::pin::Pin<&mut Self>,
            context: &mut std::task::Context<'_>,
        ) -> std::task::Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
            let byte = std::task::ready!(self.0.poll_recv(context));
            std::task::Poll::Ready(byte.map(|byte| Ok(Frame::data(Bytes::from(vec![byte])))))
        }
    }

    #[test]
    fn without_a_tokio_runtime_the_read_timeout_is_disabled_and_does_not_panic() {
        let endpoint = JobWebhook::new(credentials(), JobRouter::new());
        let mut response = Box::pin(endpoint.oneshot(stalled()));
        let context = &mut std::task::Context::from_waker(std::task::Waker::noop());
        assert!(response.as_mut().poll(context).is_pending());
    }
}

#[cfg(feature = "axum")]
#[tokio::test]
async fn a_lower_limit_of_axum_holds_for_the_extractor() {
    use axum::extract::DefaultBodyLimit;

    let app = axum::Router::new()
        .merge(crate::support::extractor_routes(&Settings::new(
            no_callbacks(),
        )))
        .layer(DefaultBodyLimit::max(SAMPLE.len()));
    for (body, status) in [(SAMPLE.to_owned(), 204), (format!("{SAMPLE} "), 413)] {
        let (head, _) = send(crate::support::App::new(app.clone()), delivery(body)).await;
        assert_eq!(head.status.as_u16(), status);
    }
}

#[cfg(feature = "axum")]
#[tokio::test]
async fn the_extractor_accepts_any_length_if_both_limits_are_disabled() {
    use axum::extract::DefaultBodyLimit;
    use mx_job_webhook::{JobEvent, JobWebhook};
    use tower::ServiceExt as _;

    async fn handler(event: JobEvent) -> String {
        event.guid.to_string()
    }

    let route = axum::routing::post(handler).layer(DefaultBodyLimit::disable());
    let webhooks = JobWebhook::new(crate::support::credentials(), JobRouter::new());
    let webhooks = webhooks.with_body_limit(usize::MAX);
    let app = axum::Router::new()
        .route(crate::support::PATH, route)
        .with_state(webhooks.boxed());
    let body = format!("{SAMPLE}{}", " ".repeat(3_000_000));
    let answer = app.oneshot(delivery(body)).await.unwrap();
    assert_eq!(answer.status(), 200);
}
