//! A refused request's body is discarded before the answer is sent, or the connection closes.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll};
#[cfg(feature = "tokio")]
use std::time::Duration;

use axum::body::{Body, Bytes};
use http::{Request, Version};
use http_body::{Frame, SizeHint};
use mx_job_webhook::{Credentials, JobRouter, JobWebhook};
use tokio::task::JoinSet;
use tower::{BoxError, ServiceExt as _};

use crate::support::{
    App, Frames, PATH, SAMPLE, Settings, credentials, delivery, jobs, mounts, no_callbacks, send,
};

/// The default of `with_discard_limit`.
const LIMIT: usize = 8 * 1024 * 1024;

const POLLS_A_FRAME: usize = if cfg!(feature = "tokio") { 2 } else { 1 };

/// A body that counts the frames taken from it and may announce its length.
struct Counted {
    frames: usize,
    size: usize,
    announced: bool,
    taken: Arc<AtomicUsize>,
}

impl http_body::Body for Counted {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        if self.frames == 0 {
            return Poll::Ready(None);
        }
        // Every other poll is pending; without a timer the code does not wait.
        let polls = self.taken.fetch_add(1, Ordering::SeqCst);
        if cfg!(feature = "tokio") && polls % 2 == 0 {
            context.waker().wake_by_ref();
            return Poll::Pending;
        }
        self.frames -= 1;
        Poll::Ready(Some(Ok(Frame::data(vec![b'x'; self.size].into()))))
    }

    fn size_hint(&self) -> SizeHint {
        if self.announced {
            SizeHint::with_exact((self.frames * self.size) as u64)
        } else {
            SizeHint::default()
        }
    }
}

struct Row {
    case: &'static str,
    request: fn(Body) -> Request<Body>,
    frames: usize,
    size: usize,
    announced: bool,
    status: u16,
    /// Whether the body is read to its end, so that the connection stays open.
    read: bool,
}

fn stranger(body: Body) -> Request<Body> {
    Request::post(PATH).body(body).unwrap()
}

fn wrong_type(body: Body) -> Request<Body> {
    let mut request = delivery(body);
    let headers = request.headers_mut();
    headers.insert("content-type", "text/plain".parse().unwrap());
    request
}

fn encoded(body: Body) -> Request<Body> {
    let mut request = delivery(body);
    let headers = request.headers_mut();
    headers.insert("content-encoding", "gzip".parse().unwrap());
    request
}

fn says_too_much(body: Body) -> Request<Body> {
    let mut request = delivery(body);
    let headers = request.headers_mut();
    headers.insert("content-length", "100000".parse().unwrap());
    request
}

fn awaits_continue(body: Body) -> Request<Body> {
    let mut request = stranger(body);
    let headers = request.headers_mut();
    headers.insert("expect", "100-Continue".parse().unwrap());
    request
}

const ROWS: [Row; 10] = [
    Row {
        case: "no credentials",
        request: stranger,
        frames: 4,
        size: 15_000,
        announced: false,
        status: 401,
        read: true,
    },
    Row {
        case: "exactly the limit",
        request: stranger,
        frames: 64,
        size: LIMIT / 64,
        announced: false,
        status: 401,
        read: true,
    },
    Row {
        case: "exactly the limit, announced",
        request: stranger,
        frames: 64,
        size: LIMIT / 64,
        announced: true,
        status: 401,
        read: true,
    },
    Row {
        case: "more than the limit",
        request: stranger,
        frames: 70,
        size: LIMIT / 64,
        announced: false,
        status: 401,
        read: false,
    },
    Row {
        case: "more than the limit, announced",
        request: stranger,
        frames: 65,
        size: LIMIT / 64,
        announced: true,
        status: 401,
        read: false,
    },
    Row {
        case: "empty frames without end",
        request: stranger,
        frames: 2 * LIMIT,
        size: 0,
        announced: false,
        status: 401,
        read: false,
    },
    Row {
        case: "another type",
        request: wrong_type,
        frames: 4,
        size: 15_000,
        announced: true,
        status: 415,
        read: true,
    },
    Row {
        case: "a content coding",
        request: encoded,
        frames: 1,
        size: 500,
        announced: true,
        status: 415,
        read: true,
    },
    Row {
        case: "too large, and says so",
        request: says_too_much,
        frames: 10,
        size: 10_000,
        announced: true,
        status: 413,
        read: true,
    },
    Row {
        case: "too large, and does not say so",
        request: delivery,
        frames: 10,
        size: 10_000,
        announced: false,
        status: 413,
        read: true,
    },
];

// One row takes the two seconds of the discard timeout, so each case has its own thread.
#[tokio::test(flavor = "multi_thread", worker_threads = 12)]
async fn a_refused_body_is_read_to_its_end_or_the_connection_closes() {
    let mut settings = Settings::new(no_callbacks());
    settings.body_limit = Some(64 * 1024);
    for row in &ROWS {
        let mut cases = JoinSet::new();
        for (mount, app) in mounts(&settings) {
            for version in [Version::HTTP_10, Version::HTTP_11, Version::HTTP_2] {
                cases.spawn(assert_refused(row, mount, app.clone(), version));
            }
        }
        while let Some(case) = cases.join_next().await {
            case.unwrap();
        }
    }
}

async fn assert_refused(row: &Row, mount: &str, app: App, version: Version) {
    let taken = Arc::new(AtomicUsize::new(0));
    let body = Counted {
        frames: row.frames,
        size: row.size,
        announced: row.announced,
        taken: taken.clone(),
    };
    let mut request = (row.request)(Body::new(body));
    *request.version_mut() = version;
    let (head, _) = send(app, request).await;
    let case = format!("{}, {mount}, {version:?}", row.case);
    assert_eq!(head.status.as_u16(), row.status, "{case}");
    let polls = taken.load(Ordering::SeqCst);
    assert_eq!(
        polls == POLLS_A_FRAME * row.frames,
        row.read,
        "{case}: {polls} polls"
    );
    let closes = !row.read && version != Version::HTTP_2;
    let connection = head.headers.get("connection");
    assert_eq!(connection.is_some_and(|it| it == "close"), closes, "{case}");
}

#[tokio::test]
async fn a_body_announced_as_too_long_is_not_read() {
    let taken = Arc::new(AtomicUsize::new(0));
    let body = Counted {
        frames: 2,
        size: LIMIT,
        announced: true,
        taken: taken.clone(),
    };
    let endpoint = JobWebhook::new(credentials(), JobRouter::new());
    let answer = endpoint.oneshot(stranger(Body::new(body))).await.unwrap();
    assert_eq!(answer.headers()["connection"], "close");
    assert_eq!(taken.load(Ordering::SeqCst), 0);
}

#[tokio::test]
async fn a_sender_that_expects_100_continue_is_not_asked_for_the_body() {
    for (mount, app) in mounts(&Settings::new(no_callbacks())) {
        let taken = Arc::new(AtomicUsize::new(0));
        let body = Counted {
            frames: 1,
            size: 100,
            announced: true,
            taken: taken.clone(),
        };
        let (head, _) = send(app, awaits_continue(Body::new(body))).await;
        assert_eq!(head.status, 401, "{mount}");
        assert_eq!(head.headers["connection"], "close", "{mount}");
        assert_eq!(taken.load(Ordering::SeqCst), 0, "{mount}");
    }
}

#[tokio::test]
async fn a_missing_body_keeps_the_connection_open() {
    for (mount, app) in mounts(&Settings::new(no_callbacks())) {
        let (head, _) = send(app, awaits_continue(Body::empty())).await;
        assert_eq!(head.status, 401, "{mount}");
        assert!(!head.headers.contains_key("connection"), "{mount}");
    }
}

#[tokio::test]
async fn a_body_of_an_accepted_length_is_discarded_whatever_the_discard_limit_is() {
    for (length, closes) in [(5, false), (10, false), (11, true)] {
        let endpoint = JobWebhook::new(credentials(), JobRouter::new())
            .with_body_limit(10)
            .with_discard_limit(4);
        let frame = Frame::data(Bytes::from(vec![b'x'; length]));
        let body = Frames::new([Ok(frame)]).into();
        let headers = endpoint
            .oneshot(stranger(body))
            .await
            .unwrap()
            .into_parts()
            .0
            .headers;
        assert_eq!(headers.contains_key("connection"), closes, "{length}");
    }
}

#[tokio::test]
async fn discarding_can_be_disabled_and_has_its_own_limit() {
    for (limit, length, closes) in [(0, 1, true), (0, 0, false), (10, 10, false), (10, 11, true)] {
        let endpoint = JobWebhook::new(credentials(), JobRouter::new())
            .with_body_limit(5)
            .with_discard_limit(limit);
        let frame = Bytes::from(vec![b'x'; length]);
        let frames = (length > 0).then(|| Ok(Frame::data(frame)));
        let answer = endpoint.oneshot(stranger(Frames::new(frames).into())).await;
        let headers = answer.unwrap().into_parts().0.headers;
        // A body of unknown length must be read to find out that it is empty.
        let closes = closes || (limit == 0 && length == 0);
        assert_eq!(
            headers.contains_key("connection"),
            closes,
            "{limit} {length}"
        );
    }
}

#[tokio::test]
async fn another_method_is_refused_like_any_other_request() {
    let endpoint = JobWebhook::new(credentials(), JobRouter::new());
    for (frames, closes) in [(64, false), (65, true)] {
        let taken = Arc::new(AtomicUsize::new(0));
        let body = Counted {
            frames,
            size: LIMIT / 64,
            announced: false,
            taken: taken.clone(),
        };
        let mut request = stranger(Body::new(body));
        *request.method_mut() = http::Method::PUT;
        let answer = endpoint.clone().oneshot(request).await.unwrap();
        assert_eq!(answer.status(), 405);
        assert_eq!(
            answer.headers().contains_key("connection"),
            closes,
            "{frames}"
        );
    }
}

#[tokio::test]
async fn a_body_is_discarded_if_the_credentials_cannot_be_checked() {
    for (verdict, status) in [(Ok(false), 401), (Err("down"), 503)] {
        let mut settings = Settings::new(no_callbacks());
        settings.credentials = Credentials::verify(move |_| async move { verdict });
        for (mount, app) in mounts(&settings) {
            let taken = Arc::new(AtomicUsize::new(0));
            let body = Counted {
                frames: 4,
                size: 15_000,
                announced: true,
                taken: taken.clone(),
            };
            let (head, _) = send(app, stranger(Body::new(body))).await;
            assert_eq!(head.status.as_u16(), status, "{mount}");
            assert_eq!(taken.load(Ordering::SeqCst), POLLS_A_FRAME * 4, "{mount}");
            assert!(!head.headers.contains_key("connection"), "{mount}");
        }
    }
}

#[tokio::test]
async fn an_interrupted_body_closes_the_connection() {
    for (mount, app) in mounts(&Settings::new(no_callbacks())) {
        for authenticated in [true, false] {
            let broken = Frames::new([Ok(Frame::data("{".into())), Err("reset".into())]);
            let mut request = delivery(broken);
            if !authenticated {
                request.headers_mut().remove("authorization");
            }
            let (head, _) = send(app.clone(), request).await;
            let expected = if authenticated { 400 } else { 401 };
            assert_eq!(head.status, expected, "{mount}");
            assert_eq!(head.headers["connection"], "close", "{mount}");
        }
    }
}

/// HTTP/2 ends one stream, and has no header `Connection` (RFC 9113, section 8.2.2).
#[tokio::test]
async fn an_interrupted_body_of_http_2_closes_no_connection() {
    for (mount, app) in mounts(&Settings::new(no_callbacks())) {
        for authenticated in [true, false] {
            let broken = Frames::new([Ok(Frame::data("{".into())), Err("reset".into())]);
            let mut request = delivery(broken);
            *request.version_mut() = Version::HTTP_2;
            if !authenticated {
                request.headers_mut().remove("authorization");
            }
            let (head, _) = send(app.clone(), request).await;
            assert!(head.status.is_client_error(), "{mount}");
            assert!(!head.headers.contains_key("connection"), "{mount}");
        }
    }
}

#[cfg(feature = "tokio")]
#[tokio::test(start_paused = true)]
async fn a_slow_body_closes_the_connection() {
    let started = tokio::time::Instant::now;
    let stalls = || Frames::of_data([&b"{"[..]]).then_pending();
    for (mount, app) in mounts(&Settings::new(no_callbacks())) {
        for (request, status, seconds) in [
            (delivery(stalls()), 408, 10),
            (stranger(stalls().into()), 401, 2),
        ] {
            let start = started();
            let (head, _) = send(app.clone(), request).await;
            assert_eq!(head.status, status, "{mount}");
            assert_eq!(head.headers["connection"], "close", "{mount}");
            assert_eq!(start.elapsed().as_secs(), seconds, "{mount}");
        }
    }
    // This is within the read timeout, most of which a closure may have used.
    let slow = Credentials::verify(|_| async {
        tokio::time::sleep(Duration::from_millis(9_500)).await;
        false
    });
    let endpoint = JobWebhook::new(slow, JobRouter::new());
    let start = started();
    let answer = endpoint.oneshot(stranger(stalls().into())).await.unwrap();
    assert_eq!(
        (answer.status().as_u16(), start.elapsed().as_secs()),
        (401, 10)
    );
}

#[tokio::test]
async fn discarding_takes_no_permit_of_a_callback() {
    let full = mx_job_webhook::Background::new().with_capacity(0);
    let endpoint = JobWebhook::new(credentials(), JobRouter::new()).with_background(full);
    let answer = endpoint.oneshot(stranger(SAMPLE.into())).await.unwrap();
    assert_eq!(answer.status(), 401);
}

#[tokio::test]
async fn an_encoded_body_is_answered_with_the_accepted_encoding_and_runs_no_hook() {
    let settings = Settings {
        on_undecodable: Some(Ok(())),
        ..Settings::new(jobs(JobRouter::new()))
    };
    for (mount, app) in mounts(&settings) {
        let (head, _) = send(app, encoded(SAMPLE.into())).await;
        assert_eq!(head.status, 415, "{mount}");
        assert_eq!(head.headers["accept-encoding"], "identity", "{mount}");
    }
}
