//! Accepted and refused credentials.

use std::error::Error as _;
use std::pin::pin;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::task::{Context, Waker};

use axum::body::Body;
use http::{HeaderValue, Request};
use mx_job_webhook::credentials::InvalidToken;
use mx_job_webhook::{Credentials, Error, JobRouter, JobWebhook};
use tower::{BoxError, ServiceExt as _};

use crate::support::{Log, PATH, SAMPLE, Settings, delivery, jobs, mounts, no_callbacks, send};

fn request(authorization: &[&[u8]]) -> Request<Body> {
    let mut request = delivery(SAMPLE);
    request.headers_mut().remove("authorization");
    for value in authorization {
        request
            .headers_mut()
            .append("authorization", HeaderValue::from_bytes(value).unwrap());
    }
    request
}

async fn accepts(credentials: Credentials, authorization: &[&[u8]]) -> bool {
    let mut settings = Settings::new(no_callbacks());
    settings.credentials = credentials;
    let mut answers = Vec::new();
    for (_, app) in mounts(&settings) {
        answers.push(send(app, request(authorization)).await.0.status.as_u16());
    }
    answers.dedup();
    match answers[..] {
        [204] => true,
        [401] => false,
        _ => panic!("the mounts disagree or give another answer: {answers:?}"),
    }
}

#[tokio::test]
async fn basic_credentials_are_compared_exactly() {
    let cases: [(&str, &[&[u8]], bool); 25] = [
        ("the exact header", &[b"Basic bXg6c2VjcmV0"], true),
        ("the scheme in another case", &[b"bAsIc bXg6c2VjcmV0"], true),
        ("several spaces", &[b"Basic   bXg6c2VjcmV0"], true),
        ("no header", &[], false),
        ("an empty header", &[b""], false),
        ("the scheme alone", &[b"Basic"], false),
        ("the scheme and a space", &[b"Basic "], false),
        ("another password", &[b"Basic bXg6U2VjcmV0"], false),
        ("another user", &[b"Basic bW06c2VjcmV0"], false),
        ("a prefix of it", &[b"Basic bXg6c2Vj"], false),
        ("more than it", &[b"Basic bXg6c2VjcmV0AAAA"], false),
        ("no colon", &[b"Basic bXhzZWNyZXQ="], false),
        ("a colon alone", &[b"Basic Og=="], false),
        ("not base64", &[b"Basic !!!!"], false),
        ("base64 without its padding", &[b"Basic bXg6c2VjcmV"], false),
        (
            "not base64: the credentials themselves",
            &[b"Basic mx:secret"],
            false,
        ),
        ("not ASCII", &[b"Basic \xff\xfe"], false),
        (
            "not ASCII in the scheme",
            &[b"\xc3\xa9 bXg6c2VjcmV0"],
            false,
        ),
        ("another scheme", &[b"Bearer bXg6c2VjcmV0"], false),
        ("an unknown scheme", &[b"Digest bXg6c2VjcmV0"], false),
        ("no scheme", &[b"bXg6c2VjcmV0"], false),
        (
            "two credentials in one header",
            &[b"Basic bXg6c2VjcmV0, Basic bXg6c2VjcmV0"],
            false,
        ),
        (
            "two headers, both right",
            &[b"Basic bXg6c2VjcmV0", b"Basic bXg6c2VjcmV0"],
            false,
        ),
        (
            "two headers, the first right",
            &[b"Basic bXg6c2VjcmV0", b"Basic eA=="],
            false,
        ),
        (
            "two headers, the last right",
            &[b"Basic eA==", b"Basic bXg6c2VjcmV0"],
            false,
        ),
    ];
    let credentials = Credentials::basic("mx", "secret").unwrap();
    for (name, authorization, expected) in cases {
        assert_eq!(
            accepts(credentials.clone(), authorization).await,
            expected,
            "{name}"
        );
    }
}

#[tokio::test]
async fn basic_accepts_utf_8_and_colons_in_the_password() {
    let credentials = Credentials::basic("mx", "a:b:é").unwrap();
    assert!(accepts(credentials.clone(), &[b"Basic bXg6YTpiOsOp"]).await);
    // The same password in Latin-1.
    assert!(!accepts(credentials, &[b"Basic bXg6YTpiOuk="]).await);
}

#[tokio::test]
async fn bearer_tokens_are_compared_exactly() {
    let cases: [(&str, &[&[u8]], bool); 9] = [
        ("the exact token", &[b"Bearer tok.en-1"], true),
        ("white space at the end", &[b"Bearer tok.en-1 \t"], true),
        ("several spaces", &[b"Bearer   tok.en-1"], true),
        ("a tab in front", &[b"Bearer \ttok.en-1"], false),
        ("the scheme in another case", &[b"BEARER tok.en-1"], true),
        ("the token in another case", &[b"Bearer Tok.en-1"], false),
        ("another token", &[b"Bearer token"], false),
        ("as Basic", &[b"Basic tok.en-1"], false),
        (
            "two headers",
            &[b"Bearer tok.en-1", b"Bearer tok.en-1"],
            false,
        ),
    ];
    for (name, authorization, expected) in cases {
        let credentials = Credentials::bearer("tok.en-1").unwrap();
        assert_eq!(
            accepts(credentials, authorization).await,
            expected,
            "{name}"
        );
    }
}

/// Both settings of a rotation can have the same password, before it is replaced.
#[tokio::test]
async fn credentials_that_are_named_twice_are_accepted() {
    let basic = || Credentials::basic("mx", "secret").unwrap();
    assert!(accepts(basic().or(basic()), &[b"Basic bXg6c2VjcmV0"]).await);
}

#[tokio::test]
async fn several_credentials_are_accepted_at_once() {
    let credentials = Credentials::basic("mx", "new")
        .unwrap()
        .or(Credentials::basic("mx", "old").unwrap())
        .or(Credentials::bearer("token").unwrap());
    for authorization in [&b"Basic bXg6bmV3"[..], b"Basic bXg6b2xk", b"Bearer token"] {
        assert!(
            accepts(credentials.clone(), &[authorization]).await,
            "{authorization:?}"
        );
    }
    for authorization in [&b"Basic token"[..], b"Bearer bXg6bmV3", b"Basic bXg6b2xl"] {
        assert!(
            !accepts(credentials.clone(), &[authorization]).await,
            "{authorization:?}"
        );
    }
}

#[tokio::test]
async fn anyone_accepts_every_sender_but_refuses_two_authorization_headers() {
    let anyone = Credentials::unauthenticated();
    assert!(accepts(anyone.clone(), &[]).await);
    assert!(accepts(anyone.clone(), &[b"Basic !!!!"]).await);
    assert!(!accepts(anyone, &[b"Basic eA==", b"Basic eA=="]).await);
}

/// The credentials are replaced concurrently by others of another scheme.
#[test]
fn a_refusal_offers_the_scheme_that_was_checked() {
    use std::sync::atomic::{AtomicBool, Ordering};
    use tower::ServiceExt as _;

    let bearer = Credentials::bearer("a-token").unwrap();
    let anyone = Credentials::unauthenticated();
    let (replaceable, handle) = bearer.clone().replaceable();
    let endpoint = JobWebhook::new(replaceable, JobRouter::new());
    let done = AtomicBool::new(false);
    /// Also stops the other thread if an assertion fails.
    struct Ends<'a>(&'a AtomicBool);
    impl Drop for Ends<'_> {
        fn drop(&mut self) {
            self.0.store(true, Ordering::Relaxed);
        }
    }
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !done.load(Ordering::Relaxed) {
                handle.replace(anyone.clone());
                handle.replace(bearer.clone());
            }
        });
        let _ends = Ends(&done);
        let runtime = tokio::runtime::Builder::new_current_thread()
            .build()
            .unwrap();
        let mut refused = 0;
        for _ in 0..20_000 {
            let stranger = Request::post("/").body(Body::empty()).unwrap();
            let answer = runtime
                .block_on(endpoint.clone().oneshot(stranger))
                .unwrap();
            if answer.status() == 401 {
                refused += 1;
                assert_eq!(
                    answer.headers()["www-authenticate"],
                    r#"Bearer realm="webhooks""#
                );
            }
        }
        assert!(refused > 0);
    });
}

#[test]
fn credentials_that_protect_nothing_or_cannot_be_sent_are_refused_when_built() {
    let basic = [
        ("", ""),
        ("mx", ""),
        ("", "secret"),
        ("m:x", "secret"),
        ("mx", "sec\nret"),
        ("m\0x", "secret"),
        ("mx", "\u{7f}"),
    ];
    for (user, password) in basic {
        assert!(
            Credentials::basic(user, password).is_err(),
            "{user:?} {password:?}"
        );
    }
    for token in ["", " ", "a b", "tökén", "a\n", "a\0"] {
        assert!(Credentials::bearer(token).is_err(), "{token:?}");
    }
}

#[test]
fn anyone_cannot_be_combined_with_other_credentials() {
    for (left, right) in [
        (
            Credentials::unauthenticated(),
            Credentials::bearer("x").unwrap(),
        ),
        (
            Credentials::bearer("x").unwrap(),
            Credentials::unauthenticated(),
        ),
    ] {
        let combined = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| left.or(right)));
        assert!(combined.is_err());
    }
}

#[test]
fn printed_values_contain_no_secret() {
    let credentials = Credentials::basic("mx-user", "hunter2")
        .unwrap()
        .or(Credentials::bearer("hunter2-token").unwrap());
    let layer = mx_job_webhook::JobWebhook::new(credentials.clone(), no_callbacks()).at(PATH);
    let printed = format!(
        "{credentials:?} {layer:?} {:?}",
        Credentials::basic("hunter2", "")
    );
    for secret in ["hunter2", "mx-user", "aHVudGVy", "bXgtdXNlcg"] {
        assert!(!printed.contains(secret), "{printed}");
    }
}

#[tokio::test]
async fn a_closure_decides_by_the_requests_head() {
    let by_header = || {
        Credentials::verify(|head| {
            let subject = head.headers.get("x-client-cert").cloned();
            async move {
                tokio::task::yield_now().await;
                subject.is_some_and(|subject| subject == "CN=mx")
            }
        })
    };
    for (subject, status) in [(Some("CN=mx"), 204), (Some("CN=eve"), 401), (None, 401)] {
        let mut settings = Settings::new(no_callbacks());
        settings.credentials = by_header();
        for (mount, app) in mounts(&settings) {
            let mut request = request(&[]);
            if let Some(subject) = subject {
                request
                    .headers_mut()
                    .insert("x-client-cert", subject.parse().unwrap());
            }
            let (head, _) = send(app, request).await;
            assert_eq!(head.status.as_u16(), status, "{subject:?} {mount}");
        }
    }
}

#[tokio::test]
async fn a_closure_runs_only_if_no_secret_matched_and_the_header_is_not_ambiguous() {
    let asked = Arc::new(AtomicUsize::new(0));
    let count = asked.clone();
    let credentials = Credentials::basic("mx", "secret")
        .unwrap()
        .or(Credentials::verify(move |_| {
            count.fetch_add(1, Ordering::Relaxed);
            async { true }
        }));
    assert!(accepts(credentials.clone(), &[b"Basic bXg6c2VjcmV0"]).await);
    assert!(!accepts(credentials.clone(), &[b"Bearer a", b"Bearer b"]).await);
    assert_eq!(asked.load(Ordering::Relaxed), 0);
    assert!(accepts(credentials, &[b"Bearer a"]).await);
    assert!(asked.load(Ordering::Relaxed) > 0);
}

#[tokio::test]
async fn a_malformed_header_is_refused_without_asking_a_closure() {
    let yes = Credentials::verify(|_| async { true });
    let credentials = Credentials::basic("mx", "secret").unwrap().or(yes);
    let cases: [(&[u8], bool); 8] = [
        (b"Basic \xff\xfe", false),
        (b"Custom \xff", false),
        (b"Basic !!!!", false),
        (b"Basic", true),
        (b"basic bXg=", false),
        (b"Basic bXg6eA==", true),
        (b"Bearer token", true),
        (b"Signature keyId=1", true),
    ];
    for (authorization, accepted) in cases {
        let name = String::from_utf8_lossy(authorization);
        let outcome = accepts(credentials.clone(), &[authorization]).await;
        assert_eq!(outcome, accepted, "{name}");
    }
}

#[tokio::test]
async fn one_accepting_closure_suffices_and_a_failing_closure_does_not_accept() {
    let yes = || Credentials::verify(|_| async { true });
    let no = || Credentials::verify(|_| async { false });
    let hanging = || Credentials::verify(|_| std::future::pending::<bool>());
    let failing = || Credentials::verify(|_| async { Err::<bool, _>("down") });
    let panicking = || Credentials::verify(|_| async { panics() });
    let panicking_at_once =
        || Credentials::verify(|_| -> std::future::Ready<bool> { panic!("on purpose") });
    let cases = [
        ("no, yes", no().or(yes()), 204),
        ("hangs, yes", hanging().or(yes()), 204),
        ("yes, hangs", yes().or(hanging()), 204),
        ("fails, yes", failing().or(yes()), 204),
        ("panics, yes", panicking().or(yes()), 204),
        ("no, no", no().or(no()), 401),
        ("fails", failing(), 503),
        ("fails, no", failing().or(no()), 503),
        ("panics", panicking(), 503),
        ("panics at once", panicking_at_once(), 503),
    ];
    for (name, credentials, status) in cases {
        let mut settings = Settings::new(no_callbacks());
        settings.credentials = credentials;
        for (mount, app) in mounts(&settings) {
            let (head, _) = send(app, request(&[])).await;
            assert_eq!(head.status.as_u16(), status, "{name} ({mount})");
        }
    }
}

fn panics() -> bool {
    panic!("on purpose")
}

/// A body that must not be polled.
struct Untouchable;

impl http_body::Body for Untouchable {
    type Data = axum::body::Bytes;
    type Error = std::convert::Infallible;

    fn poll_frame(
        self: std::pin::Pin<&mut Self>,
        _: &mut std::task::Context<'_>,
    ) -> std::task::Poll<Option<Result<http_body::Frame<Self::Data>, Self::Error>>> {
        panic!("the body was read before authentication")
    }
}

#[tokio::test(start_paused = true)]
async fn a_body_is_read_only_after_authentication() {
    let slowly_no = Credentials::verify(|_| async {
        tokio::time::sleep(std::time::Duration::from_secs(1)).await;
        false
    });
    for credentials in [Credentials::basic("mx", "other").unwrap(), slowly_no] {
        let mut settings = Settings::new(no_callbacks());
        settings.credentials = credentials;
        for (mount, app) in mounts(&settings) {
            let request = delivery(Body::new(Untouchable));
            let (head, _) = send(app, request).await;
            assert_eq!(head.status.as_u16(), 401, "{mount}");
        }
    }
}

#[tokio::test]
async fn replacing_credentials_takes_effect_in_every_mount() {
    let secret = |password| Credentials::basic("mx", password).unwrap();
    let (credentials, handle) = secret("secret").replaceable();
    let mut settings = Settings::new(no_callbacks());
    settings.credentials = credentials.clone();
    let apps = mounts(&settings);
    let answers = async || {
        let mut answers = Vec::new();
        for (_, app) in &apps {
            let (head, _) = send(app.clone(), delivery(SAMPLE)).await;
            answers.push(head.status.as_u16());
        }
        answers.dedup();
        answers
    };
    assert_eq!(answers().await, [204]);
    handle.clone().replace(secret("another"));
    assert_eq!(answers().await, [401]);
    handle.replace(secret("another").or(secret("secret")));
    assert_eq!(answers().await, [204]);
    handle.replace(Credentials::bearer("token").unwrap());
    let (_, app) = apps[0].clone();
    let (head, _) = send(app, delivery(SAMPLE)).await;
    assert_eq!(
        head.headers["www-authenticate"],
        r#"Bearer realm="webhooks""#
    );
    let printed = format!("{handle:?} {credentials:?}");
    assert!(
        !printed.contains("secret") && printed.contains("bearer: 1"),
        "{printed}"
    );
}

#[test]
fn replaceable_credentials_are_neither_combined_nor_nested() {
    let replaceable = || Credentials::basic("mx", "secret").unwrap().replaceable();
    let plain = || Credentials::bearer("token").unwrap();
    let mistakes: [fn(Credentials, Credentials); 4] = [
        |replaceable, plain| drop(replaceable.or(plain)),
        |replaceable, plain| drop(plain.or(replaceable)),
        |replaceable, _| drop(replaceable.replaceable()),
        |replaceable, plain| plain.replaceable().1.replace(replaceable),
    ];
    for mistake in mistakes {
        let made = std::panic::catch_unwind(|| mistake(replaceable().0, plain()));
        assert!(made.is_err());
    }
}

/// Replaces the credentials two thousand times during requests of three threads: each request is
/// checked against one complete set, and every set accepts it.
#[test]
fn each_request_is_checked_against_one_complete_set_of_credentials() {
    use std::sync::atomic::AtomicBool;

    let set = |other: &str| {
        let other = Credentials::basic("mx", other).unwrap();
        Credentials::basic("mx", "secret").unwrap().or(other)
    };
    let (credentials, handle) = set("first").replaceable();
    let endpoint = mx_job_webhook::JobWebhook::new(credentials, mx_job_webhook::JobRouter::new());
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        for _ in 0..3 {
            scope.spawn(|| {
                let runtime = tokio::runtime::Builder::new_current_thread()
                    .build()
                    .unwrap();
                while !done.load(Ordering::Relaxed) {
                    let answer = tower::ServiceExt::oneshot(endpoint.clone(), delivery(SAMPLE));
                    assert_eq!(runtime.block_on(answer).unwrap().status(), 204);
                }
            });
        }
        for number in 0..2_000 {
            handle.replace(set(&number.to_string()));
        }
        done.store(true, Ordering::Relaxed);
    });
}

#[test]
fn a_bearer_token_can_contain_the_characters_of_real_tokens() {
    for token in ["mF_9.B5f-4.1JqM", "a+b/c==", "~!#$%&'*"] {
        assert!(Credentials::bearer(token).is_ok(), "{token}");
    }
}

#[test]
fn an_error_of_credentials_names_the_mistake_and_not_the_secret() {
    let cases = [
        (Credentials::basic("mx", ""), "empty"),
        (Credentials::basic("m:hunter2", "hunter2"), "colon"),
        (Credentials::basic("mx", "hunter2\n"), "control character"),
        (Credentials::bearer(""), "empty"),
        (Credentials::bearer("hunter2 hunter2"), "ASCII"),
    ];
    for (credentials, mistake) in cases {
        let error = credentials.unwrap_err();
        assert!(error.to_string().contains(mistake), "{error}");
        assert!(!format!("{error} {error:?}").contains("hunter2"), "{error}");
    }
}

#[test]
fn printing_credentials_shows_how_many_there_are_of_each_kind() {
    let anyone = Credentials::unauthenticated();
    assert_eq!(format!("{anyone:?}"), "Credentials(unauthenticated)");
    let all = Credentials::basic("mx", "secret")
        .unwrap()
        .or(Credentials::bearer("a-token").unwrap())
        .or(Credentials::verify(|_| async { true }));
    let printed = format!("{all:?}");
    assert_eq!(printed, "Credentials { basic: 1, bearer: 1, closures: 1 }");
}

#[test]
fn a_verdict_is_a_bool_or_an_error() {
    use mx_job_webhook::credentials::Verdict;

    assert!(true.into_result().unwrap());
    assert!(!false.into_result().unwrap());
    assert!(Ok::<_, std::fmt::Error>(true).into_result().unwrap());
    assert!(!Ok::<_, std::fmt::Error>(false).into_result().unwrap());
    let error = Err::<bool, _>("the key server is down").into_result();
    assert_eq!(error.unwrap_err().to_string(), "the key server is down");
}

/// RFC 6750, section 2.1: `"Bearer" 1*SP b64token`.
#[test]
fn the_bearer_token_of_a_head_is_read_by_its_grammar() {
    use mx_job_webhook::credentials::bearer_token;

    let cases: [(&[&[u8]], Option<&str>); 31] = [
        (&[b"Bearer mF_9.B5f-4.1JqM"], Some("mF_9.B5f-4.1JqM")),
        (&[b"bearer a"], Some("a")),
        (&[b"BEARER a"], Some("a")),
        (&[b"Bearer   a"], Some("a")),
        (&[b"Bearer a  "], Some("a")),
        (&[b"Bearer a \t"], Some("a")),
        (&[b"Bearer -._~+/aZ09=="], Some("-._~+/aZ09==")),
        (&[b"Bearer a============"], Some("a============")),
        (&[], None),
        (&[b""], None),
        (&[b"Bearer"], None),
        (&[b"Bearer "], None),
        (&[b"Bearer ="], None),
        (&[b"Bearer a=b"], None),
        (&[b"Bearer a b"], None),
        (&[b"Bearer a, Bearer a"], None),
        (&[b"Bearer a,b"], None),
        (&[b"Bearer \"a\""], None),
        (&[b"Bearer token=a"], None),
        (&[b"Bearer a:b"], None),
        (&[b"Bearer a%20"], None),
        (&[b"Bearer \xc3\xa9"], None),
        (&[b"Bearer \xff"], None),
        (&[b"Bearer\ta"], None),
        (&[b"Bearer \ta"], None),
        (&[b" Bearer a"], None),
        (&[b"Basic bXg6c2VjcmV0"], None),
        (&[b"BearerX a"], None),
        (&[b"DPoP a"], None),
        (&[b"Bearer a", b"Bearer a"], None),
        (&[b"Bearer a", b"Basic bXg6c2VjcmV0"], None),
    ];
    for (authorization, expected) in cases {
        let (head, _) = request(authorization).into_parts();
        assert_eq!(bearer_token(&head), expected, "{authorization:?}");
    }
    let long = format!("Bearer {}", "a".repeat(60_000));
    let (head, _) = request(&[long.as_bytes()]).into_parts();
    assert_eq!(bearer_token(&head).map(str::len), Some(60_000));
}

/// RFC 6750, section 3.1: the challenge names the error, but only if the request has a token.
#[tokio::test]
async fn a_refusal_says_whether_the_token_is_invalid() {
    use mx_job_webhook::{Error, ErrorKind};
    use tower::BoxError;

    const BASIC: &str = r#"Basic realm="webhooks", charset="UTF-8""#;
    const PLAIN: &str = r#"Bearer realm="webhooks""#;
    const INVALID: &str = r#"Bearer realm="webhooks", error="invalid_token""#;
    type Says = fn() -> Result<bool, BoxError>;
    const YES: Says = || Ok(true);
    const NO: Says = || Ok(false);
    const EXPIRED: Says = || Err(InvalidToken::new("expired").into());
    const DOWN: Says = || Err("down".into());
    const WITH_CONTEXT: Says = || {
        let error = anyhow::Error::from(InvalidToken::new("expired"));
        Err(error.context("of MX").into())
    };
    const BY_ANYHOW: Says = || Err(anyhow::Error::from(InvalidToken::new("expired")).into());
    const WRAPPED: Says = || Err(std::io::Error::other(InvalidToken::new("expired")).into());
    /// Its `source` is code of the application.
    #[derive(Debug)]
    struct Panics;
    impl std::fmt::Display for Panics {
        fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
            f.write_str("panics")
        }
    }
    impl std::error::Error for Panics {
        fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
            panic!("on purpose")
        }
    }
    const PANICS: Says = || Err(Panics.into());

    let at_once = |says: Says| Credentials::verify(move |_| std::future::ready(says()));
    let later = |says: Says| {
        Credentials::verify(move |_| async move {
            tokio::task::yield_now().await;
            says()
        })
    };
    let expired = || at_once(EXPIRED);
    let basic = || Credentials::basic("mx", "secret").unwrap();
    let token: &[&[u8]] = &[b"Bearer a.b.c"];
    let (wrong, right): (&[&[u8]], &[&[u8]]) = (&[b"Basic bXg6Z3Vlc3M="], &[b"Basic bXg6c2VjcmV0"]);
    type Case<'a> = (&'a str, Credentials, &'a [&'a [u8]], u16, &'a [&'a str]);
    let cases: Vec<Case<'_>> = vec![
        ("a token", expired(), token, 401, &[INVALID]),
        (
            "with context",
            at_once(WITH_CONTEXT),
            token,
            401,
            &[INVALID],
        ),
        ("by anyhow", at_once(BY_ANYHOW), token, 401, &[INVALID]),
        ("wrapped", at_once(WRAPPED), token, 401, &[INVALID]),
        ("no header", expired(), &[], 401, &[PLAIN]),
        ("Basic", expired(), wrong, 401, &[PLAIN]),
        ("no token68", expired(), &[b"Bearer a b"], 401, &[PLAIN]),
        (
            "two headers",
            expired(),
            &[b"Bearer a", b"Bearer a"],
            401,
            &[PLAIN],
        ),
        ("accepted", at_once(YES), token, 204, &[]),
        ("false", at_once(NO), token, 401, &[PLAIN]),
        (
            "or Basic",
            basic().or(expired()),
            token,
            401,
            &[BASIC, INVALID],
        ),
        (
            "or Basic, no token",
            basic().or(expired()),
            &[],
            401,
            &[BASIC, PLAIN],
        ),
        (
            "or Basic, wrong",
            basic().or(expired()),
            wrong,
            401,
            &[BASIC, PLAIN],
        ),
        ("or Basic, right", basic().or(expired()), right, 204, &[]),
        (
            "the first of two",
            expired().or(at_once(NO)),
            token,
            401,
            &[INVALID],
        ),
        (
            "the last of two",
            at_once(NO).or(expired()),
            token,
            401,
            &[INVALID],
        ),
        (
            "both",
            expired().or(later(WITH_CONTEXT)),
            token,
            401,
            &[INVALID],
        ),
        (
            "then refused",
            expired().or(later(NO)),
            token,
            401,
            &[INVALID],
        ),
        (
            "after refused",
            at_once(NO).or(later(EXPIRED)),
            token,
            401,
            &[INVALID],
        ),
        ("or accepted", expired().or(at_once(YES)), token, 204, &[]),
        ("then accepted", expired().or(later(YES)), token, 204, &[]),
        ("or fails", expired().or(at_once(DOWN)), token, 503, &[]),
        (
            "fails, or expired",
            at_once(DOWN).or(expired()),
            token,
            503,
            &[],
        ),
        ("then fails", expired().or(later(DOWN)), token, 503, &[]),
        (
            "after a failure",
            at_once(DOWN).or(later(EXPIRED)),
            token,
            503,
            &[],
        ),
        (
            "fails, no token",
            at_once(DOWN).or(later(EXPIRED)),
            &[],
            503,
            &[],
        ),
        ("its source panics", at_once(PANICS), token, 503, &[]),
        (
            "replaceable",
            expired().replaceable().0,
            token,
            401,
            &[INVALID],
        ),
    ];
    for (name, credentials, authorization, status, challenges) in cases {
        let mut settings = Settings::new(no_callbacks());
        settings.credentials = credentials;
        for (mount, app) in mounts(&settings) {
            let (head, _) = send(app, request(authorization)).await;
            assert_eq!(head.status.as_u16(), status, "{name} ({mount})");
            let offered: Vec<_> = head.headers.get_all("www-authenticate").iter().collect();
            assert_eq!(offered, challenges, "{name} ({mount})");
            if status != 401 {
                continue;
            }
            let error = head.extensions.get::<Error>().unwrap();
            assert_eq!(error.kind(), ErrorKind::Unauthorized, "{name} ({mount})");
            let mut chain = vec![error.to_string()];
            let mut source = std::error::Error::source(error);
            while let Some(cause) = source {
                chain.push(cause.to_string());
                source = cause.source();
            }
            if challenges.contains(&INVALID) {
                let text = "unauthorized: the bearer token is invalid or expired";
                assert_eq!(chain[0], text, "{name} ({mount})");
                assert_eq!(chain.last().unwrap(), "expired", "{name} ({mount})");
            } else {
                assert_eq!(chain, ["unauthorized"], "{name} ({mount})");
            }
        }
    }
}

#[test]
fn an_invalid_token_says_so_and_keeps_its_cause() {
    let error = InvalidToken::new("the signature is of another key");
    let mark = std::error::Error::source(&error).unwrap();
    for error in [&error as &dyn std::error::Error, mark] {
        assert_eq!(error.to_string(), "the bearer token is invalid or expired");
    }
    let cause = mark.source().unwrap().to_string();
    assert_eq!(cause, "the signature is of another key");
}

/// `Credentials::verify`: an event that a closure has accepted has no credentials either, however it is mounted.
#[tokio::test]
async fn an_event_that_a_closure_has_accepted_has_no_credentials() {
    let log = Log::default();
    let noted = log.clone();
    let callback = JobRouter::new().on_completed(move |event| {
        noted.push(event.headers().contains_key("authorization").to_string());
        async {}
    });
    let mut settings = Settings::new(jobs(callback));
    settings.credentials = Credentials::verify(|_| async { true });
    let mounts = mounts(&settings);
    let expected = vec!["false"; mounts.len()];
    for (_, app) in mounts {
        assert_eq!(send(app, delivery(SAMPLE)).await.0.status, 204);
    }
    assert_eq!(log.entries(), expected);
}

/// What a check of credentials says could repeat a token, also within an error of the application.
#[test]
fn an_error_that_contains_one_of_a_check_of_credentials_prints_no_cause() {
    let seen = Arc::new(Mutex::new(None));
    let tell = seen.clone();
    let credentials = Credentials::verify(|_| async { Err::<bool, _>("token s3cret") });
    let webhooks = JobWebhook::new(credentials, JobRouter::new())
        .on_error(move |failure| *tell.lock().unwrap() = Some(failure.error().clone()));
    let context = &mut Context::from_waker(Waker::noop());
    let mut answer = pin!(webhooks.oneshot(delivery(SAMPLE)));
    assert!(answer.as_mut().poll(context).is_ready());
    let error = seen.lock().unwrap().take().unwrap();
    assert!(error.source().is_some());
    let outer = Error::from(BoxError::from(error));
    let printed = format!("{outer:#} {outer:?}");
    assert!(!printed.contains("s3cret"), "{printed}");
}
