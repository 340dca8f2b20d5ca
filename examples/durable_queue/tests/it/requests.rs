//! Requests to the pages, without a browser.

use std::time::Duration;

use axum::Router;
use axum::body::{Body, to_bytes};
use http::{Method, Request, StatusCode};
use mx_job_webhook::Status;
use mx_job_webhook::dead_letters::{LetterFilter, LetterKind};
use mx_job_webhook::queue::JobQueue;
use sqlx::PgPool;
use sqlx::postgres::PgPoolOptions;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::oneshot;
use tokio::time::timeout;
use tower::ServiceExt as _;

use crate::admin;
use crate::pages::{A, B, PASSWORD, Pages, body, router};

/// `ops:secret`
const BASIC: &str = "Basic b3BzOnNlY3JldA==";
const FORM: &str = "application/x-www-form-urlencoded";
const HOSTILE: &str = r#"</td><script>alert(1)</script>"'&amp;"#;

/// A pool that is not connected to a server.
fn nowhere() -> PgPool {
    PgPoolOptions::new()
        .acquire_timeout(Duration::from_millis(100))
        .connect_lazy("postgres://user@127.0.0.1:9/none")
        .unwrap()
}

/// Returns a queue whose database cannot be reached.
fn unreachable() -> JobQueue {
    JobQueue::postgres(nowhere())
}

/// Returns a request that an operator's browser sends.
fn request(method: Method, path: &str) -> http::request::Builder {
    Request::builder()
        .method(method)
        .uri(path)
        .header("host", "127.0.0.1:3001")
        .header("authorization", BASIC)
}

/// Returns a form of the page itself.
fn form(path: &str, fields: &[(&str, &str)]) -> Request<Body> {
    let fields = serde_urlencoded::to_string(fields).unwrap();
    request(Method::POST, path)
        .header("content-type", FORM)
        .header("origin", "http://127.0.0.1:3001")
        .header("sec-fetch-site", "same-origin")
        .body(Body::from(fields))
        .unwrap()
}

struct Answer {
    status: StatusCode,
    headers: http::HeaderMap,
    text: String,
}

impl Answer {
    fn header(&self, name: &str) -> &str {
        self.headers
            .get(name)
            .map_or("", |value| value.to_str().unwrap())
    }
}

async fn answer(pages: Router, request: Request<Body>) -> Answer {
    let (head, body) = pages.oneshot(request).await.unwrap().into_parts();
    let body = to_bytes(body, usize::MAX).await.unwrap();
    Answer {
        status: head.status,
        headers: head.headers,
        text: String::from_utf8_lossy(&body).into_owned(),
    }
}

async fn get(pages: &Pages, path: &str) -> Answer {
    let request = request(Method::GET, path).body(Body::empty()).unwrap();
    answer(pages.router(), request).await
}

async fn post(pages: &Pages, path: &str, fields: &[(&str, &str)]) -> Answer {
    answer(pages.router(), form(path, fields)).await
}

/// The fields of a button of one letter, without a filter.
fn named(name: &str) -> [(&str, &str); 4] {
    [("status", ""), ("kind", ""), ("after", ""), ("name", name)]
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs PostgreSQL: set MX_TEST_POSTGRES_URL"]
async fn nothing_is_served_without_the_password() {
    let paths = [
        (Method::GET, "/"),
        (Method::GET, "/api/v1/queues"),
        (Method::GET, "/board.js"),
        (Method::GET, "/dead-letters"),
        (
            Method::GET,
            "/dead-letters/body?name=A+COMPLETED+1471281218",
        ),
        (Method::GET, "/dead-letters/style.css"),
        (Method::POST, "/dead-letters/discard"),
        (Method::POST, "/dead-letters/replay"),
        (Method::POST, "/dead-letters/replay-all"),
    ];
    let credentials: [&[&str]; 8] = [
        &[],
        &["Basic b3BzOndyb25n"],
        &["Basic"],
        &["Basic "],
        &["b3BzOnNlY3JldA=="],
        &["Bearer b3BzOnNlY3JldA=="],
        &["Basic b3BzOnNlY3JldA==="],
        &[BASIC, BASIC],
    ];
    let pages = Pages::three().await;
    for (method, path) in &paths {
        for credentials in credentials {
            let mut request = form(path, &named(A));
            *request.method_mut() = method.clone();
            request.headers_mut().remove("authorization");
            for value in credentials {
                let value = value.parse().unwrap();
                request.headers_mut().append("authorization", value);
            }
            let answer = answer(pages.router(), request).await;
            assert_eq!(
                answer.status,
                StatusCode::UNAUTHORIZED,
                "{path} {credentials:?}"
            );
            assert!(
                answer
                    .header("www-authenticate")
                    .starts_with("Basic realm=")
            );
            assert_eq!(answer.text, "", "{path}");
        }
    }
    assert_eq!(pages.left().await, ["A", "B", "undecodable"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs PostgreSQL: set MX_TEST_POSTGRES_URL"]
async fn names_of_other_machines_are_refused() {
    let cases = [
        ("127.0.0.1:3001", true),
        ("localhost:3001", true),
        ("LOCALHOST", true),
        ("[::1]:3001", true),
        ("evil.example:3001", false),
        ("localhost.evil.example:3001", false),
        ("127.0.0.1.evil.example", false),
        ("localhost@evil.example", false),
        ("evil@localhost", false),
        ("[::2]:3001", false),
        ("0.0.0.0:3001", false),
        ("", false),
    ];
    let pages = Pages::three().await;
    for (host, passes) in cases {
        let mut request = request(Method::GET, "/dead-letters")
            .body(Body::empty())
            .unwrap();
        request.headers_mut().insert("host", host.parse().unwrap());
        let answer = answer(pages.router(), request).await;
        let expected = if passes {
            StatusCode::OK
        } else {
            StatusCode::MISDIRECTED_REQUEST
        };
        assert_eq!(answer.status, expected, "{host}");
        assert_eq!(answer.text.contains("the bank"), passes, "{host}");
    }
    let mut request = request(Method::GET, "/dead-letters")
        .body(Body::empty())
        .unwrap();
    request.headers_mut().remove("host");
    let without = answer(pages.router(), request).await;
    assert_eq!(without.status, StatusCode::MISDIRECTED_REQUEST);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs PostgreSQL: set MX_TEST_POSTGRES_URL"]
async fn forms_of_other_sites_do_nothing() {
    let same = "http://127.0.0.1:3001";
    let cases: [(&str, Option<&str>, Option<&str>, bool); 9] = [
        ("this page", Some(same), Some("same-origin"), true),
        ("this page in an old browser", Some(same), None, true),
        ("curl", None, None, true),
        (
            "another site",
            Some("http://evil.example"),
            Some("cross-site"),
            false,
        ),
        (
            "another site that hides",
            Some("null"),
            Some("cross-site"),
            false,
        ),
        ("another site that hides, old", Some("null"), None, false),
        (
            "another site, old",
            Some("http://evil.example"),
            None,
            false,
        ),
        (
            "another port",
            Some("http://127.0.0.1:3000"),
            Some("same-site"),
            false,
        ),
        (
            "another port, old",
            Some("http://127.0.0.1:3000"),
            None,
            false,
        ),
    ];
    let pages = Pages::three().await;
    for (case, origin, site, passes) in cases {
        for path in ["replay", "discard", "replay-all"] {
            // Those that pass concern a letter that does not exist.
            let mut fields = named(A);
            if passes {
                fields[0] = ("status", "HALTED");
                fields[3] = ("name", "none");
            }
            let mut request = form(&format!("/dead-letters/{path}"), &fields);
            for (name, value) in [("origin", origin), ("sec-fetch-site", site)] {
                request.headers_mut().remove(name);
                if let Some(value) = value {
                    request.headers_mut().insert(name, value.parse().unwrap());
                }
            }
            let answer = answer(pages.router(), request).await;
            let expected = if passes {
                StatusCode::SEE_OTHER
            } else {
                StatusCode::FORBIDDEN
            };
            assert_eq!(answer.status, expected, "{case}: {path}");
        }
    }
    assert_eq!(pages.left().await, ["A", "B", "undecodable"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs PostgreSQL: set MX_TEST_POSTGRES_URL"]
async fn only_a_whole_form_does_something() {
    let pages = Pages::three().await;
    for path in ["replay", "discard", "replay-all"] {
        let path = format!("/dead-letters/{path}");
        let query = format!("{path}?name=A&status=&kind=&after=");
        assert_eq!(
            get(&pages, &query).await.status,
            StatusCode::METHOD_NOT_ALLOWED
        );
        // A form that was cut off must not select more letters than its page showed.
        let cut = post(&pages, &path, &[("status", "DENIED")]).await;
        assert_eq!(cut.status, StatusCode::UNPROCESSABLE_ENTITY);
    }
    let unknown = [("status", ""), ("kind", "unknown")];
    let unknown = post(&pages, "/dead-letters/replay-all", &unknown).await;
    assert_eq!(unknown.status, StatusCode::BAD_REQUEST);
    assert_eq!(pages.left().await, ["A", "B", "undecodable"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs PostgreSQL: set MX_TEST_POSTGRES_URL"]
async fn a_letter_is_replayed_or_discarded_once() {
    let pages = Pages::three().await;
    let replayed = post(&pages, "/dead-letters/replay", &named(A)).await;
    assert_eq!(replayed.status, StatusCode::SEE_OTHER);
    assert_eq!(replayed.header("location"), "/dead-letters?replayed=1");
    let told = get(&pages, replayed.header("location")).await.text;
    assert!(told.contains("Returned to the queue: 1"), "{told}");
    assert_eq!(pages.left().await, ["B", "undecodable"]);
    assert_eq!(pages.waiting().await, ["A"]);
    let again = post(&pages, "/dead-letters/replay", &named(A)).await;
    assert_eq!(again.header("location"), "/dead-letters?replayed=0");

    // The button returns to its page.
    let filtered = [
        ("status", "DENIED"),
        ("kind", "event"),
        ("after", "50"),
        ("name", B),
    ];
    let discarded = post(&pages, "/dead-letters/discard", &filtered).await;
    let location = "/dead-letters?status=DENIED&kind=event&after=50&discarded=1";
    assert_eq!(discarded.header("location"), location);
    assert_eq!(pages.left().await, ["undecodable"]);
    assert_eq!(pages.waiting().await, ["A"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs PostgreSQL: set MX_TEST_POSTGRES_URL"]
async fn a_body_that_cannot_be_decoded_stays_and_the_page_says_so() {
    let pages = Pages::three().await;
    let letters = pages.letters().await;
    let kind = LetterKind::Undecodable;
    let letter = letters.iter().find(|letter| letter.kind() == kind).unwrap();
    let replayed = post(&pages, "/dead-letters/replay", &named(letter.name())).await;
    assert_eq!(replayed.status, StatusCode::SEE_OTHER);
    let location = replayed.header("location");
    assert_eq!(location, "/dead-letters?undecodable=1");
    let told = get(&pages, location).await.text;
    let message = "Kept, because the body cannot be decoded: 1";
    assert!(told.contains(message), "{told}");
    assert_eq!(pages.left().await.len(), 3);

    let all = [("status", ""), ("kind", "")];
    let replayed = post(&pages, "/dead-letters/replay-all", &all).await;
    let location = replayed.header("location");
    assert_eq!(location, "/dead-letters?replayed=2&undecodable=1");
    let told = get(&pages, location).await.text;
    assert!(told.contains("Returned to the queue: 2"), "{told}");
    assert!(told.contains(message), "{told}");
    assert_eq!(pages.waiting().await, ["A", "B"]);
    assert_eq!(pages.left().await, ["undecodable"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs PostgreSQL: set MX_TEST_POSTGRES_URL"]
async fn replay_all_replays_what_the_filter_shows() {
    let pages = Pages::three().await;
    let cases: [(&str, &str, &[&str]); 5] = [
        ("", "", &["A", "B", "undecodable"]),
        ("denied", "", &["B"]),
        ("8", "", &["B"]),
        ("", "undecodable", &["undecodable"]),
        ("COMPLETED", "undecodable", &[]),
    ];
    for (status, kind, expected) in cases {
        let path = format!("/dead-letters?status={status}&kind={kind}");
        let shown = get(&pages, &path).await.text;
        for name in ["A", "B", "undecodable"] {
            let is_shown = shown.contains(&format!(r#"<td class="name">{name} "#));
            assert_eq!(is_shown, expected.contains(&name), "{status} {kind} {name}");
        }
    }
    let replays: [(&str, &str, &[&str]); 4] = [
        ("COMPLETED", "undecodable", &[]),
        ("", "other_webhook", &[]),
        ("denied", "", &["B"]),
        ("", "event", &["A", "B"]),
    ];
    for (status, kind, waiting) in replays {
        let fields = [("status", status), ("kind", kind)];
        post(&pages, "/dead-letters/replay-all", &fields).await;
        assert_eq!(pages.waiting().await, waiting, "{status} {kind}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs PostgreSQL: set MX_TEST_POSTGRES_URL"]
async fn pages_follow_each_other_and_keep_the_filter() {
    let guids: Vec<_> = (0..120).map(|index| format!("JOB-{index}")).collect();
    let mut letters: Vec<_> = guids.iter().map(|guid| (&**guid, "DENIED", "no")).collect();
    letters.push(("other", "COMPLETED", "no"));
    let pages = Pages::with(&letters).await;
    let mut path = "/dead-letters?status=DENIED".to_owned();
    let mut names = Vec::new();
    loop {
        let page = get(&pages, &path).await.text;
        let cells = page.split(r#"<td class="name">"#).skip(1);
        names.extend(cells.map(|cell| cell.split('<').next().unwrap().to_owned()));
        let Some((before, _)) = page.split_once("\">Next page") else {
            break;
        };
        path = before.rsplit('"').next().unwrap().replace("&amp;", "&");
    }
    let all = LetterFilter::new()
        .with_status(Status::Denied)
        .with_limit(1000);
    let all = pages.queue.dead_letters(&all).await.unwrap();
    let all: Vec<_> = all.letters().iter().map(|letter| letter.name()).collect();
    assert_eq!(names.len(), 120);
    assert_eq!(names, all);
    assert_eq!(
        get(&pages, "/dead-letters?after=x").await.status,
        StatusCode::BAD_REQUEST
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs PostgreSQL: set MX_TEST_POSTGRES_URL"]
async fn a_hostile_letter_is_text() {
    let error = format!("{HOSTILE}\n\u{202e}reversed");
    let pages = Pages::with(&[(HOSTILE, HOSTILE, &error)]).await;
    let filter = serde_urlencoded::to_string([("status", HOSTILE)]).unwrap();
    for path in [
        "/dead-letters".to_owned(),
        format!("/dead-letters?{filter}"),
    ] {
        let page = get(&pages, &path).await;
        assert_eq!(page.status, StatusCode::OK);
        assert!(
            !page.text.to_lowercase().contains("<script"),
            "{}",
            page.text
        );
        assert!(page.text.contains("&lt;script&gt;"), "{}", page.text);
        assert!(!page.text.contains(r#""'&amp;"#), "{}", page.text);
    }
    // Its link and its buttons name it exactly.
    let page = get(&pages, "/dead-letters").await.text;
    let link = page
        .split(r#"<a href="/dead-letters/body?"#)
        .nth(1)
        .unwrap();
    let link = format!("/dead-letters/body?{}", link.split('"').next().unwrap());
    assert_eq!(get(&pages, &link).await.text, body(HOSTILE, HOSTILE));
    let letters = pages.letters().await;
    let back = [
        ("status", HOSTILE),
        ("kind", ""),
        ("after", "\r\nx: y"),
        ("name", letters[0].name()),
    ];
    let discarded = post(&pages, "/dead-letters/discard", &back).await;
    assert_eq!(discarded.status, StatusCode::SEE_OTHER);
    assert!(discarded.headers.get("x").is_none());
    assert!(pages.left().await.is_empty());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs PostgreSQL: set MX_TEST_POSTGRES_URL"]
async fn a_body_is_shown_on_demand_only() {
    let pages = Pages::three().await;
    let page = get(&pages, "/dead-letters").await.text;
    assert!(!page.contains("USR-"), "{page}");
    let shown = get(&pages, "/dead-letters/body?name=A+COMPLETED+1471281218").await;
    let expected = (StatusCode::OK, body("A", "COMPLETED"));
    assert_eq!((shown.status, shown.text.clone()), expected);
    for (header, expected) in [
        ("content-type", "text/plain; charset=utf-8"),
        ("content-disposition", "inline"),
        ("x-content-type-options", "nosniff"),
        ("cache-control", "no-store"),
    ] {
        assert_eq!(shown.header(header), expected);
    }
    assert!(shown.header("content-security-policy").contains("sandbox"));
    let missing = get(&pages, "/dead-letters/body?name=Z").await;
    assert_eq!(missing.status, StatusCode::NOT_FOUND);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs PostgreSQL: set MX_TEST_POSTGRES_URL"]
async fn every_answer_has_the_policies() {
    let pages = Pages::three().await;
    let mut refused = form("/dead-letters/replay", &named("A"));
    refused
        .headers_mut()
        .insert("sec-fetch-site", "cross-site".parse().unwrap());
    refused
        .headers_mut()
        .insert("origin", "null".parse().unwrap());
    let unauthorized = Request::get("/dead-letters").header("host", "localhost");
    let unavailable = request(Method::GET, "/dead-letters").body(Body::empty());
    let broken = router(&unreachable(), &nowhere());
    let unavailable = answer(broken, unavailable.unwrap()).await;
    assert_eq!(unavailable.status, StatusCode::SERVICE_UNAVAILABLE);
    assert_eq!(
        unavailable.header("content-type"),
        "text/plain; charset=utf-8"
    );
    assert!(unavailable.text.contains("the queue cannot be reached"));
    for answer in [
        get(&pages, "/").await,
        get(&pages, "/queues/mx-jobs").await,
        get(&pages, "/board.js").await,
        get(&pages, "/api/v1/none").await,
        get(&pages, "/dead-letters").await,
        get(&pages, "/dead-letters/body?name=A+COMPLETED+1471281218").await,
        post(&pages, "/dead-letters/replay", &named("A")).await,
        unavailable,
        answer(pages.router(), refused).await,
        answer(pages.router(), unauthorized.body(Body::empty()).unwrap()).await,
    ] {
        let policy = answer.header("content-security-policy");
        assert!(policy.starts_with("default-src 'none'"), "{policy}");
        assert!(policy.contains("frame-ancestors 'none'"), "{policy}");
        // Scripts have no such exception, not even those of the board.
        let scripts = policy
            .split(';')
            .find(|part| part.trim().starts_with("script-src"));
        assert!(
            !scripts.is_some_and(|scripts| scripts.contains("unsafe-inline")),
            "{policy}"
        );
        assert_eq!(answer.header("x-frame-options"), "DENY");
        assert_eq!(answer.header("x-content-type-options"), "nosniff");
        assert_eq!(answer.header("referrer-policy"), "same-origin");
        assert_eq!(answer.header("cache-control"), "no-store");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs PostgreSQL: set MX_TEST_POSTGRES_URL"]
async fn the_board_cannot_write() {
    let pages = Pages::three().await;
    for path in ["/api/v1/tasks", "/api/v1/queues/mx-jobs/tasks"] {
        for method in [Method::PUT, Method::POST, Method::DELETE] {
            let request = request(method, path).header("content-type", "application/json");
            let answer = answer(pages.router(), request.body(Body::from("{}")).unwrap()).await;
            assert_eq!(answer.status, StatusCode::METHOD_NOT_ALLOWED, "{path}");
        }
    }
    // Its page has no script of its own, as the policy demands, and needs no other origin.
    let page = get(&pages, "/queues/mx-jobs").await.text;
    assert!(
        page.contains(r#"<script type="module" src="/board.js"></script>"#),
        "{page}"
    );
    assert_eq!(page.matches("<script").count(), 1);
    assert!(!page.contains("://"), "{page}");
    let script = get(&pages, "/board.js").await;
    assert!(script.text.contains("wasm"), "{}", script.text);
    assert_eq!(script.header("content-type"), "text/javascript");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs PostgreSQL: set MX_TEST_POSTGRES_URL"]
async fn the_listener_is_for_this_machine_and_needs_a_password() {
    let cases = [
        ("0.0.0.0:0", "secret", "0.0.0.0"),
        ("[::]:0", "secret", "no loopback address"),
        ("127.0.0.1:0", "", "ADMIN_PASSWORD"),
        ("127.0.0.1:0", "a\nb", "ADMIN_PASSWORD"),
    ];
    for (address, password, expected) in cases {
        let Ok(listener) = TcpListener::bind(address).await else {
            continue; // A machine without IPv6.
        };
        let served = admin::serve(listener, unreachable(), nowhere(), password, async {}).await;
        let error = served.unwrap_err().to_string();
        assert!(error.contains(expected), "{error}");
    }
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let served = admin::serve(listener, unreachable(), nowhere(), PASSWORD, async {}).await;
    served.unwrap();
    // The environment of tests has no `ADMIN_PASSWORD`.
    admin::run(unreachable(), async {}).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs PostgreSQL: set MX_TEST_POSTGRES_URL"]
async fn a_board_that_is_open_does_not_delay_a_shutdown() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let (stop, stopped) = oneshot::channel();
    let stopped = async { stopped.await.unwrap() };
    let served = admin::serve(listener, unreachable(), nowhere(), PASSWORD, stopped);
    let open = async {
        let mut board = TcpStream::connect(address).await.unwrap();
        let request = format!(
            "GET /api/v1/events HTTP/1.1\r\nhost: {address}\r\nauthorization: {BASIC}\r\n\r\n"
        );
        board.write_all(request.as_bytes()).await.unwrap();
        let mut head = [0; 15];
        board.read_exact(&mut head).await.unwrap();
        assert_eq!(&head, b"HTTP/1.1 200 OK");
        stop.send(()).unwrap();
        let mut rest = String::new();
        board.read_to_string(&mut rest).await.unwrap();
        assert!(rest.contains("text/event-stream"), "{rest}");
    };
    let both = async { tokio::join!(served, open) };
    let (served, ()) = timeout(Duration::from_secs(10), both).await.unwrap();
    served.unwrap();
}
