//! An attack on what new users ran into: a shared URL, the log of causes, receipts, the extractor with a mount in its
//! state, and the testing kit.

use std::convert::Infallible;
use std::error::Error as StdError;
use std::fmt;
use std::future::pending;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::extract::State;
use axum::middleware::{Next, from_fn, map_response};
use axum::response::{IntoResponse as _, Response};
use axum::routing::post;
use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Request, StatusCode};
use http_body::Frame;
use mx_job_webhook::mount::JobEventRejection;
use mx_job_webhook::testing::{Mx, Sample};
use mx_job_webhook::{
    Background, Credentials, Error, JobEvent, JobRouter, JobWebhook, Permanent, Receipt,
};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tower::limit::GlobalConcurrencyLimitLayer;
use tower::{BoxError, Layer as _, ServiceExt as _};

use crate::observability::capture::{Capture, DELIVERY};
use crate::support::{BASIC, Frames, PATH, SAMPLE, credentials, delivery, panic_quietly};

const BALANCE: &str = r#"{"type": "BALANCE", "account_guid": "ACT-1"}"#;

fn webhooks() -> JobWebhook<JobRouter> {
    JobWebhook::new(credentials(), JobRouter::new().on_completed(|_| async {}))
}

fn mx() -> Mx {
    Mx::new(PATH).with_basic("mx", "secret")
}

/// The handler of the README's table.
async fn handler(State(webhooks): State<JobWebhook>, event: JobEvent) -> Result<Receipt, Error> {
    webhooks.run(event).await
}

fn deliveries(capture: &Capture) -> Vec<(String, f64)> {
    let metrics = capture.metrics().into_iter();
    metrics
        .filter(|(name, _)| name.starts_with("mx_job_webhook_deliveries_total"))
        .collect()
}

// What is printed of an error.

/// An error whose `Display` says that it cannot be printed.
#[derive(Debug)]
struct Unprintable;

impl fmt::Display for Unprintable {
    fn fmt(&self, _: &mut fmt::Formatter<'_>) -> fmt::Result {
        Err(fmt::Error)
    }
}

impl StdError for Unprintable {}

/// "`Err` and a panic are answered 503, because the credentials could not be checked." (`Credentials::verify`), and "`on_error`
/// is called for refusals": once.
#[test]
fn a_check_whose_error_cannot_be_printed_is_answered_503_and_reported_once() {
    let capture = Capture::default();
    let reports = Arc::new(Mutex::new(Vec::new()));
    let told = reports.clone();
    let verify = Credentials::verify(|_| async { Err::<bool, _>(Unprintable) });
    let endpoint = JobWebhook::new(verify, JobRouter::new())
        .on_error(move |failure| told.lock().unwrap().push(failure.error().kind().name()));
    let answer = capture.run(endpoint.oneshot(delivery(SAMPLE))).unwrap();
    assert_eq!(
        (answer.status().as_u16(), &**reports.lock().unwrap()),
        (503, &["authentication_unavailable"][..])
    );
}

/// "Every delivery has one outcome. Its name is the same in spans, log lines and metrics" (observability).
#[test]
fn a_callback_whose_error_cannot_be_printed_has_failed_in_the_metrics_too() {
    let capture = Capture::default();
    let jobs = JobRouter::new().on_completed(|_| async { Err(Unprintable) });
    let endpoint = JobWebhook::new(credentials(), jobs);
    let answer = capture.run(endpoint.oneshot(delivery(SAMPLE))).unwrap();
    let name = answer.extensions().get::<Error>().unwrap().kind().name();
    assert_eq!((answer.status().as_u16(), name), (500, "callback_failed"));
    let expected =
        "mx_job_webhook_deliveries_total{status=completed,outcome=callback_failed,source=webhook}";
    assert_eq!(deliveries(&capture), [(expected.to_owned(), 1.0)]);
}

/// "Spans, log lines and metrics contain … no header and no credential." (observability)
#[test]
fn the_log_does_not_repeat_a_token_that_the_check_of_it_could_not_verify() {
    let capture = Capture::default();
    let verify = Credentials::verify(|head| {
        let token = head.headers["authorization"]
            .to_str()
            .unwrap_or_default()
            .to_owned();
        async move { Err::<bool, _>(format!("no answer to GET /introspect?token={token}")) }
    });
    let endpoint = JobWebhook::new(verify, JobRouter::new());
    let answer = capture.run(endpoint.oneshot(delivery(SAMPLE))).unwrap();
    assert_eq!(answer.status(), 503);
    assert!(!capture.text().contains("bXg6"), "{:?}", capture.events());
}

/// "They do contain the text of the error that a callback returned, with its causes. … Control characters in it are escaped."
/// (observability, "Data that is never recorded")
#[test]
fn the_log_contains_the_error_that_a_callback_returned_on_one_line() {
    let capture = Capture::default();
    let jobs = JobRouter::new().on_completed(|_| async { Err("no account\nINFO a fake line") });
    let endpoint = JobWebhook::new(credentials(), jobs);
    let answer = capture.run(endpoint.oneshot(delivery(SAMPLE))).unwrap();
    assert_eq!(answer.status(), 500);
    let message = "delivery failed: the callback failed: no account\\nINFO a fake line";
    let events = capture.own_events();
    assert!(
        events.iter().any(|event| event.message() == message),
        "{events:?}"
    );
}

/// "No `Debug`, error or answer of this crate shows a credential, a user's id or a body." (README), and "A `Failure` contains
/// no payload. The error of a callback prints what the application put into it." (`on_error`) No callback has run here.
#[tokio::test]
async fn the_readmes_on_error_prints_no_body_that_broke_off() {
    let printed = Arc::new(Mutex::new(String::new()));
    let print = printed.clone();
    let endpoint = webhooks().on_error(move |failure| {
        *print.lock().unwrap() = format!("not acknowledged: {:#}", failure.error());
    });
    let body = Frames::new([Err(BoxError::from(
        "unexpected end in `{\"user_guid\": \"USR-7\"`",
    ))]);
    let answer = endpoint.oneshot(delivery(body)).await.unwrap();
    assert_eq!(answer.status(), 400);
    let printed = printed.lock().unwrap();
    assert!(!printed.contains("USR-7"), "{printed}");
}

/// "Control characters of causes are escaped, so that a cause stays on its line." (`Error`) The Unicode line separators end
/// a line too, for JSON viewers and Python's `splitlines`, and an override of the direction rewrites the rest of the line.
#[test]
fn a_cause_stays_on_its_line_by_unicodes_rules_too() {
    let cause = "no\u{2028}INFO a fake line\u{2029}and \u{202e}backwards";
    let printed = format!("{:#}", Error::from(BoxError::from(cause)));
    for character in ['\u{2028}', '\u{2029}', '\u{202e}'] {
        assert!(!printed.contains(character), "{printed:?}");
    }
}

/// An error that is its own source, and one whose `source` panics.
#[derive(Debug)]
struct Endless(bool);

impl fmt::Display for Endless {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("again")
    }
}

impl StdError for Endless {
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        if self.0 {
            panic_quietly();
        }
        Some(self)
    }
}

/// "`{:#}` appends the chain of causes" (`Error`), and "a panic ends one delivery": a chain without an end has one here.
#[test]
fn a_chain_that_leads_back_to_itself_or_panics_ends() {
    let endless = format!("{:#}", Error::from(BoxError::from(Endless(false))));
    assert!(endless.len() < 1_000, "{endless}");
    let panics = format!("{:#}", Error::from(BoxError::from(Endless(true))));
    assert!(panics.starts_with("the callback failed"), "{panics}");
    let permanent = Error::from(BoxError::from(Permanent::new("no such member")));
    assert!(format!("{permanent:#}").contains("no such member"));
}

// A shared URL.

/// "A body is undecodable if it has no object `job` at its root, and no `type` or `action` either (`no_job`)." (answers) This
/// one has a `type`.
#[tokio::test]
async fn another_webhook_whose_job_is_null_is_taken() {
    let endpoint = webhooks().on_other_webhook(|_| async {});
    let body = r#"{"type": "BALANCE", "account_guid": "ACT-1", "job": null}"#;
    let answer = endpoint.oneshot(delivery(body)).await.unwrap();
    let error = answer.extensions().get::<Error>().map(ToString::to_string);
    assert_eq!((answer.status().as_u16(), error), (204, None));
}

/// "A body that this release cannot read, or another of MX's webhooks that nothing takes." (the alert `MxWebhooksUndecodable`
/// of `going_live`) The issue: "a good BALANCE counts as undecodable, and the shipped alert on that never clears".
#[test]
fn a_balance_that_a_handler_of_ones_own_takes_does_not_raise_the_alert() {
    async fn own(
        State(webhooks): State<JobWebhook>,
        event: Result<JobEvent, JobEventRejection>,
    ) -> Response {
        let rejection = match event {
            Ok(event) => return webhooks.run(event).await.into_response(),
            Err(rejection) => rejection,
        };
        match rejection.into_other_webhook() {
            Ok(_stored) => Receipt::OtherWebhook.into_response(),
            Err(rejection) => rejection.into_response(),
        }
    }
    let app = Router::new()
        .route(PATH, post(own))
        .with_state(webhooks().boxed());
    let capture = Capture::default();
    let answer = capture.run(app.oneshot(delivery(BALANCE))).unwrap();
    assert_eq!(answer.status(), 204);
    let counted = deliveries(&capture);
    let raises = Selector::all("MxWebhooksUndecodable");
    assert_eq!(raises[0].sum(&counted), 0.0, "{counted:?}");
}

/// A selector of a metric in a query, with its matchers: label, operator, value.
struct Selector(Vec<(String, String, String)>);

impl Selector {
    /// Returns the selectors of an alert's expression.
    fn all(alert: &str) -> Vec<Self> {
        let guide = include_str!("../../../src/docs/going_live.md");
        let (_, rule) = guide.split_once(&format!("alert: {alert}\n")).unwrap();
        let (expression, _) = rule.split_once("labels:").unwrap();
        let selectors = expression.split("mx_job_webhook_deliveries_total{").skip(1);
        selectors
            .map(|selector| {
                let (matchers, _) = selector.split_once('}').unwrap();
                Self(matchers.split(", ").map(matcher).collect())
            })
            .collect()
    }

    fn sum(&self, counted: &[(String, f64)]) -> f64 {
        let matching = counted.iter().filter(|(series, _)| self.matches(series));
        matching.map(|(_, count)| count).sum()
    }

    fn matches(&self, series: &str) -> bool {
        self.0.iter().all(|(label, operator, value)| {
            let (_, labels) = series.split_once('{').unwrap();
            let labels = labels.trim_end_matches('}').split(',');
            let mut own = labels.filter_map(|own| own.strip_prefix(&format!("{label}=")));
            let own = own.next().unwrap_or_default();
            let is_one = value.split('|').any(|one| match one.strip_suffix(".*") {
                Some(start) if operator.ends_with('~') => own.starts_with(start),
                _ => own == one,
            });
            is_one != operator.starts_with('!')
        })
    }
}

fn matcher(text: &str) -> (String, String, String) {
    let start = text.find(['=', '!']).unwrap();
    let (label, rest) = text.split_at(start);
    let (operator, value) = rest.split_once('"').unwrap();
    (
        label.to_owned(),
        operator.to_owned(),
        value.trim_end_matches('"').to_owned(),
    )
}

/// "More than half fail. The cause is the code or a dependency, not one member." (the alert `MxWebhooksFail` of `going_live`) Here
/// every job fails, while the same URL takes the balances of each account.
#[test]
fn the_alert_on_failures_fires_although_other_webhooks_share_the_url() {
    let capture = Capture::default();
    let jobs = JobRouter::new().on_completed(|_| async { Err("the database is down") });
    let app = JobWebhook::new(credentials(), jobs)
        .at(PATH)
        .pass_on_other_webhooks()
        .layer(Router::new().route(PATH, post(|| async {})));
    capture.run(async {
        for _ in 0..10 {
            let answer = app.clone().oneshot(delivery(SAMPLE)).await.unwrap();
            assert_eq!(answer.status(), 500);
            for _ in 0..3 {
                let answer = app.clone().oneshot(delivery(BALANCE)).await.unwrap();
                assert_eq!(answer.status(), 200);
            }
        }
    });
    let counted = deliveries(&capture);
    let undecodable = Selector::all("MxWebhooksUndecodable");
    assert_eq!(undecodable[0].sum(&counted), 0.0, "{counted:?}");
    let fail = Selector::all("MxWebhooksFail");
    let share = fail[0].sum(&counted) / fail[1].sum(&counted);
    assert!(
        share > 0.5,
        "all jobs fail, and the alert sees {share}: {counted:?}"
    );
}

/// "It reaches your own route for the path with its method, URI, headers and body as MX sent them. Only `Authorization` is
/// removed, and trailers are dropped." On one connection: chunked with a trailer, `Expect: 100-continue`, a byte order mark,
/// and a job between them.
#[tokio::test]
async fn what_is_passed_on_arrives_byte_for_byte_from_a_real_connection() {
    async fn echo(headers: HeaderMap, body: Bytes) -> (StatusCode, Vec<u8>) {
        assert!(!headers.contains_key("authorization"));
        (StatusCode::ACCEPTED, body.to_vec())
    }
    let app = Router::new()
        .route(PATH, post(echo))
        .layer(webhooks().at(PATH).pass_on_other_webhooks());
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let server = tokio::spawn(async move { axum::serve(listener, app).await });
    let mut stream = TcpStream::connect(address).await.unwrap();
    let head = format!(
        "POST {PATH}?a=%20 HTTP/1.1\r\nhost: mx\r\nauthorization: {BASIC}\r\ncontent-type: application/json\r\n"
    );
    let bom = format!(
        "\u{feff} {{\"typ\\u0065\": \"\\ud83d\", \"type\": 1, \"deep\": {}1{}}}\r\n",
        "[".repeat(9_000),
        "]".repeat(9_000)
    );
    let chunked = format!(
        "{head}transfer-encoding: chunked\r\ntrailer: x-sum\r\n\r\n5\r\n{}\r\n{:x}\r\n{}\r\n0\r\nx-sum: 1\r\n\r\n",
        &BALANCE[..5],
        BALANCE.len() - 5,
        &BALANCE[5..]
    );
    let plain = |body: &str, more: &str| {
        format!("{head}{more}content-length: {}\r\n\r\n{body}", body.len())
    };
    let requests = [
        (chunked, "202", Some(BALANCE)),
        (plain(SAMPLE, ""), "204", None),
        (
            plain(BALANCE, "expect: 100-continue\r\n"),
            "202",
            Some(BALANCE),
        ),
        (plain(&bom, ""), "202", Some(&*bom)),
    ];
    for (request, status, body) in requests {
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut answer = Vec::new();
        while !String::from_utf8_lossy(&answer).ends_with("\r\n\r\n") {
            answer.push(stream.read_u8().await.unwrap());
            if answer.ends_with(b"100 Continue\r\n\r\n") {
                answer.clear();
            }
        }
        let answer = String::from_utf8(answer).unwrap().to_lowercase();
        assert!(
            answer.starts_with(&format!("http/1.1 {status}")),
            "{answer}"
        );
        assert!(!answer.contains("connection: close"), "{answer}");
        let mut passed = vec![0; body.map_or(0, str::len)];
        stream.read_exact(&mut passed).await.unwrap();
        assert_eq!(passed, body.unwrap_or_default().as_bytes());
    }
    server.abort();
}

/// A delivery "makes it ready before it passes a webhook on" (`PassOnService`): whenever it is dropped, no permit is lost, and
/// it is counted once.
#[test]
fn a_webhook_that_is_dropped_on_its_way_keeps_no_permit_and_counts_once() {
    for polls in 1..=4 {
        let capture = Capture::default();
        let background = Background::new().with_capacity(1);
        let permits = Arc::new(Semaphore::new(1));
        let limit = GlobalConcurrencyLimitLayer::with_semaphore(permits.clone());
        let hangs = tower::service_fn(|_: Request<Body>| pending::<Result<Response, Infallible>>());
        let app = webhooks()
            .with_background(background.clone())
            .at(PATH)
            .pass_on_other_webhooks()
            .layer(limit.layer(hangs));
        capture.run(async {
            let mut taken = permits.clone().try_acquire_owned().ok();
            let (sender, body) = tokio::sync::mpsc::channel::<Bytes>(1);
            let mut sender = Some(sender);
            let body = Body::new(Channel(body));
            let mut answer = Box::pin(app.oneshot(delivery(body)));
            for poll in 0..polls {
                let mut context = Context::from_waker(Waker::noop());
                assert!(answer.as_mut().poll(&mut context).is_pending());
                let send = |part: &'static str| {
                    let frame = Bytes::from_static(part.as_bytes());
                    sender.as_ref().unwrap().try_send(frame).unwrap();
                };
                match poll {
                    0 => send(&BALANCE[..9]),
                    // The body ends, and the service within is not ready.
                    1 => {
                        send(&BALANCE[9..]);
                        sender = None;
                    }
                    _ => taken = None,
                }
            }
            drop(answer);
            drop((taken, sender));
        });
        assert_eq!(permits.available_permits(), 1, "{polls}");
        assert_eq!(background.running(), 0, "{polls}");
        let counts: f64 = deliveries(&capture).iter().map(|(_, count)| count).sum();
        assert_eq!(counts, 1.0, "{polls}: {:?}", deliveries(&capture));
        let in_flight = capture.metrics()["mx_job_webhook_deliveries_in_flight{}"];
        assert_eq!(in_flight, 0.0, "{polls}");
    }
}

/// A body of two frames, which the test sends.
struct Channel(tokio::sync::mpsc::Receiver<Bytes>);

impl http_body::Body for Channel {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: std::pin::Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        let received = self.0.poll_recv(context);
        received.map(|bytes| bytes.map(|bytes| Ok(Frame::data(bytes))))
    }
}

// The extractor.

/// The issue: "`on_other_webhook` for every mount". "All mounts answer by this table: the layer, the terminal service, the
/// extractor … `on_other_webhook` took another of MX's webhooks: 204 … and `on_other_webhook` is not set: 422" (answers).
#[tokio::test]
async fn the_hook_of_the_mount_in_the_state_takes_other_webhooks() {
    let webhooks = webhooks().on_other_webhook(|_| async {});
    let app = Router::new()
        .route(PATH, post(handler))
        .with_state(webhooks.boxed());
    let answer = app.oneshot(delivery(BALANCE)).await.unwrap();
    let error = answer.extensions().get::<Error>().map(ToString::to_string);
    assert_eq!((answer.status().as_u16(), error), (204, None));
}

/// "The closures of `Credentials::verify` and of `on_error` run inside the span too. With the extractor, `verify` does not."
/// (observability)
#[test]
fn the_hook_for_errors_of_an_extractors_mount_runs_inside_the_span_of_the_refusal() {
    let capture = Capture::default();
    let verify = Credentials::verify(|_| async {
        tracing::warn!(target: "application", "checked");
        false
    });
    let webhooks = JobWebhook::new(verify, JobRouter::new())
        .on_error(|_| tracing::warn!(target: "application", "refused"));
    let app = Router::new()
        .route(PATH, post(handler))
        .with_state(webhooks.boxed());
    let mut stranger = delivery(SAMPLE);
    let wrong = HeaderValue::from_static("Basic eDp5");
    stranger.headers_mut().insert("authorization", wrong);
    let answer = capture.run(app.oneshot(stranger)).unwrap();
    assert_eq!(answer.status(), 401);
    let events = capture.events();
    let of_closures: Vec<_> = events
        .iter()
        .filter(|event| event.target == "application")
        .map(|event| (event.message(), &*event.within))
        .collect();
    let expected = [("checked", &[][..]), ("refused", &[DELIVERY])];
    assert_eq!(of_closures, expected, "{events:?}");
}

// The transcript.

/// "Returns the receipts of the acknowledged attempts." (`Transcript::receipts`) MX sees a 502 here.
#[tokio::test]
async fn a_receipt_whose_answer_was_changed_is_not_one_of_an_acknowledged_attempt() {
    let app = Router::new().layer(webhooks().at(PATH)).layer(map_response(
        |mut response: Response| async {
            *response.status_mut() = StatusCode::BAD_GATEWAY;
            response
        },
    ));
    let transcript = mx().with_retries(0).deliver(app, Sample::completed()).await;
    assert!(!transcript.all_acknowledged());
    assert_eq!(transcript.receipts(), [], "{transcript}");
}

/// "`Display` prints one line for each attempt" (`Transcript`).
#[tokio::test]
async fn a_broken_connection_is_one_line_of_the_transcript() {
    let breaks = tower::service_fn(|_: Request<Body>| async {
        Err::<Response, _>(
            "connection reset\n      0.0 s  JOB-1 COMPLETED, attempt 1: 204 (handled)",
        )
    });
    let mx = mx().with_retries(0).with_body_type::<Body>();
    let transcript = mx.deliver(breaks, Sample::completed()).await;
    assert_eq!(transcript.to_string().lines().count(), 1, "{transcript}");
}

// The check of the mount.

/// "It finds that … deliveries are accepted on other paths or by other methods." (`Mx::check_mount`)
#[tokio::test]
async fn a_mount_on_each_path_below_a_prefix_is_found() {
    let app = Router::new().nest_service("/admin", webhooks());
    let mut elsewhere = delivery(SAMPLE);
    *elsewhere.uri_mut() = "/admin/anything".parse().unwrap();
    let answer = app.clone().oneshot(elsewhere).await.unwrap();
    assert_eq!(answer.status(), 204, "it accepts other paths");
    assert!(mx().check_mount(app).await.is_err(), "and nobody says so");
}

/// The same, by another method.
#[tokio::test]
async fn a_handler_that_takes_put_too_is_found() {
    let app = Router::new()
        .route(PATH, post(handler).put(handler))
        .with_state(webhooks().boxed());
    let mut put = delivery(SAMPLE);
    *put.method_mut() = http::Method::PUT;
    let answer = app.clone().oneshot(put).await.unwrap();
    assert_eq!(answer.status(), 204, "it accepts PUT");
    assert!(mx().check_mount(app).await.is_err(), "and nobody says so");
}

/// "It finds that … the credentials of this `Mx` are refused, or those of any sender are accepted". A layer in front wants a
/// header that is no secret, as a proxy sets it.
#[tokio::test]
async fn a_mount_that_accepts_any_sender_is_found_behind_a_layer_that_wants_a_header() {
    let open = JobWebhook::new(Credentials::unauthenticated(), JobRouter::new());
    let tenant = from_fn(|request: Request<Body>, next: Next| async move {
        match request.headers().contains_key("x-tenant") {
            true => next.run(request).await,
            false => StatusCode::BAD_REQUEST.into_response(),
        }
    });
    let app = Router::new().layer(open.at(PATH)).layer(tenant);
    let mx = mx().with_header("x-tenant", "acme");
    assert!(mx.check_mount(app).await.is_err());
}

/// The issue: "it sends what is refused, what is not ours and what is a delivery, and says which mistake it sees (answered by
/// somebody else; …)". A layer that answers each error with 200 makes a receipt of each failure.
#[tokio::test]
async fn a_layer_that_makes_receipts_of_refusals_is_found() {
    let jobs = JobRouter::new().on_completed(|_| async { Err("the database is down") });
    let app = Router::new()
        .layer(JobWebhook::new(credentials(), jobs).at(PATH))
        .layer(map_response(|mut response: Response| async {
            if !response.status().is_success() {
                *response.status_mut() = StatusCode::OK;
            }
            response
        }));
    let answer = app.clone().oneshot(delivery(SAMPLE)).await.unwrap();
    assert_eq!(answer.status(), 200, "the event is lost");
    let transcript = mx().deliver(app.clone(), Sample::completed()).await;
    assert!(!transcript.all_acknowledged());
    assert!(mx().check_mount(app).await.is_err(), "and nobody says so");
}

/// "No callback is registered for it, so only `on_unhandled` runs, and its failure does not count." (`Mx::check_mount`)
#[tokio::test(start_paused = true)]
async fn an_on_unhandled_that_takes_longer_than_the_answer_deadline_does_not_count() {
    let jobs = JobRouter::new().on_unhandled(|_| tokio::time::sleep(Duration::from_secs(10)));
    let webhooks =
        JobWebhook::new(credentials(), jobs).with_answer_deadline(Duration::from_secs(5));
    let app = Router::new().layer(webhooks.at(PATH));
    assert_eq!(
        mx().check_mount(app)
            .await
            .map_err(|error| error.to_string()),
        Ok(())
    );
}

/// "The `Background`, the answer deadline and the hook `on_error` hold as for a delivery to a mount." (`JobWebhook::run`) Each
/// failure of an extractor's handler is reported once: a refusal, a failed callback, and a deadline with its late end.
#[tokio::test(start_paused = true)]
async fn a_handler_reports_each_failure_once() {
    let reports = Arc::new(Mutex::new(Vec::new()));
    let calls = Arc::new(AtomicU32::new(0));
    let (told, counter) = (reports.clone(), calls.clone());
    let jobs = JobRouter::new()
        .on_completed(|_| async { Err("no") })
        .on_halted(move |_| {
            counter.fetch_add(1, Ordering::SeqCst);
            tokio::time::sleep(Duration::from_secs(9))
        });
    let background = Background::new();
    let webhooks = JobWebhook::new(credentials(), jobs)
        .with_background(background.clone())
        .with_answer_deadline(Duration::from_secs(1))
        .on_error(move |failure| told.lock().unwrap().push(failure.error().kind().name()));
    let app = Router::new()
        .route(PATH, post(handler))
        .with_state(webhooks.boxed());
    let halted = crate::support::sample_with_status(9, "HALTED");
    for (body, status) in [("{", 422), (BALANCE, 422), (SAMPLE, 500), (&*halted, 503)] {
        let answer = app.clone().oneshot(delivery(body.to_owned())).await;
        assert_eq!(answer.unwrap().status(), status);
    }
    assert_eq!(background.drain(pending::<()>()).await, 0);
    assert_eq!(calls.load(Ordering::SeqCst), 1);
    assert_eq!(
        *reports.lock().unwrap(),
        [
            "not_json",
            "unexpected_webhook",
            "callback_failed",
            "answer_deadline"
        ]
    );
}

/// "`Debug` prints no credential." (`Mx`)
#[test]
fn the_debug_of_a_sender_prints_no_password_of_its_url() {
    let printed = format!("{:?}", Mx::new("https://mx:s3cr3t@example.com/webhooks"));
    assert!(!printed.contains("s3cr3t"), "{printed}");
}

/// "`Mx` therefore holds the clock still for the first 500 ms of real time of each attempt, so a callback may use a local
/// database. A longer wait for a socket ends in `Answer::TimedOut`." This wait is one of 20 ms, after a pause of 10 ms.
#[tokio::test(start_paused = true)]
async fn a_callback_uses_a_socket_after_a_short_pause() {
    let database = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = database.local_addr().unwrap();
    std::thread::spawn(move || {
        while let Ok((mut stream, _)) = database.accept() {
            std::thread::sleep(Duration::from_millis(20));
            let _ = std::io::Write::write_all(&mut stream, b"row");
        }
    });
    let jobs = JobRouter::new().on_completed(move |_| async move {
        tokio::time::sleep(Duration::from_millis(10)).await;
        let mut row = String::new();
        let mut stream = TcpStream::connect(address).await?;
        stream.read_to_string(&mut row).await.map(drop)
    });
    let app = Router::new().layer(JobWebhook::new(credentials(), jobs).at(PATH));
    let transcript = mx().with_retries(0).deliver(app, Sample::completed()).await;
    assert_eq!(transcript.receipts(), [Receipt::Handled], "{transcript}");
}

/// "A `JobRouter` that is called within a delivery belongs to that delivery. Nothing is recorded twice." and "a log has one line
/// for each delivery" (observability). A callback passes its event on to another mount's callbacks, which are too slow.
#[test]
fn an_event_that_a_callback_runs_by_another_mount_has_no_log_line_of_its_own() {
    let capture = Capture::default();
    let background = Background::new();
    let slow = JobRouter::new().on_completed(|_| tokio::time::sleep(Duration::from_secs(2)));
    let inner = JobWebhook::new(credentials(), slow)
        .with_background(background.clone())
        .with_answer_deadline(Duration::from_secs(1));
    let outer = JobRouter::new().on_completed(move |event| {
        let inner = inner.clone();
        async move { inner.run(event).await.map(drop) }
    });
    let endpoint = JobWebhook::new(credentials(), outer).with_background(background.clone());
    capture.run(async {
        let answer = endpoint.oneshot(delivery(SAMPLE)).await.unwrap();
        assert_eq!(answer.status(), 500);
        assert_eq!(background.drain(pending::<()>()).await, 0);
    });
    assert_eq!(deliveries(&capture).len(), 1, "{:?}", deliveries(&capture));
    let events = capture.own_events();
    assert!(
        events.iter().all(|event| event.within == [DELIVERY]),
        "{events:?}"
    );
}

/// A right mount that passes other webhooks on, with tower-http's layers and a layer of its own around it, passes the check.
#[tokio::test]
async fn a_shared_url_behind_ordinary_layers_is_a_right_mount() {
    let app = Router::new()
        .route(PATH, post(|| async { "another webhook" }))
        .fallback(|| async { "a page" })
        .layer(webhooks().at(PATH).pass_on_other_webhooks())
        .layer(tower_http::trace::TraceLayer::new_for_http())
        .layer(from_fn(|request: Request<Body>, next: Next| async move {
            let mut response = next.run(request).await;
            let id = HeaderValue::from_static("1");
            response.headers_mut().insert("x-request-id", id);
            response
        }));
    mx().check_mount(app).await.unwrap();
}

/// "`{:#}` appends the chain of causes" (`Error`): each once. axum's error, which every body of axum fails with, prints its source
/// as its own text.
#[test]
fn a_cause_that_prints_its_own_cause_is_printed_once() {
    let inner = BoxError::from("connection reset");
    let printed = format!("{:#}", Error::from(BoxError::from(axum::Error::new(inner))));
    assert_eq!(printed, "the callback failed: connection reset");
}
