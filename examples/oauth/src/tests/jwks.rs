//! Form b, with an issuer that a test can make slow, wrong and malicious.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use axum::extract::State;
use axum::response::{IntoResponse as _, Redirect, Response};
use axum::routing::get;
use jsonwebtoken::{Algorithm, EncodingKey, Header, encode};
use serde_json::{Value, json};
use tokio::time::{Instant, sleep};

use super::signer::{Signer, claims, forged, variants};
use super::*;

const ISSUER: &str = "https://issuer.example";

/// What the issuer answers.
#[derive(Clone)]
enum Says {
    Text(String),
    /// Answers with this status, and with the keys of an earlier answer.
    Status(u16),
    Redirect,
    /// Answers with the text after this time.
    Slowly(Duration, String),
    /// Sends the head and never the body.
    HeadAlone,
}

#[derive(Clone)]
struct Stub {
    says: Arc<Mutex<Says>>,
    published: String,
    fetches: Arc<AtomicUsize>,
    address: SocketAddr,
}

impl Stub {
    async fn start(keys: &[Value]) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let stub = Self {
            says: Arc::new(Mutex::new(set(keys))),
            published: text(keys),
            fetches: Arc::default(),
            address: listener.local_addr().unwrap(),
        };
        let other = stub.clone();
        let routes = Router::new()
            .route("/jwks", get(answer))
            .route(
                "/elsewhere",
                get(async move || other.fetches.fetch_add(100, Ordering::SeqCst).to_string()),
            )
            .with_state(stub.clone());
        tokio::spawn(async move { axum::serve(listener, routes).await });
        stub
    }

    fn say(&self, says: Says) {
        *self.says.lock().unwrap() = says;
    }

    fn fetches(&self) -> usize {
        self.fetches.load(Ordering::SeqCst)
    }

    fn app(&self, limits: Limits) -> Router {
        let url = format!("http://{}/jwks", self.address);
        jwks(&Jwks::new(&url, expected(ISSUER), limits).unwrap())
    }
}

async fn answer(State(stub): State<Stub>) -> Response {
    stub.fetches.fetch_add(1, Ordering::SeqCst);
    let says = stub.says.lock().unwrap().clone();
    match says {
        Says::Text(text) => text.into_response(),
        Says::Status(status) => {
            let status = axum::http::StatusCode::from_u16(status).unwrap();
            (status, stub.published).into_response()
        }
        Says::Redirect => Redirect::temporary("/elsewhere").into_response(),
        Says::Slowly(time, text) => {
            sleep(time).await;
            text.into_response()
        }
        Says::HeadAlone => {
            let (sender, body) =
                http_body_util::channel::Channel::<axum::body::Bytes, std::io::Error>::new(1);
            std::mem::forget(sender);
            Body::new(body).into_response()
        }
    }
}

fn text(keys: &[Value]) -> String {
    json!({"keys": keys}).to_string()
}

fn set(keys: &[Value]) -> Says {
    Says::Text(text(keys))
}

fn quick() -> Limits {
    Limits {
        time_to_live: Duration::from_millis(400),
        interval: Duration::from_millis(200),
    }
}

fn ec(kid: &'static str) -> Signer {
    Signer::new(kid, Algorithm::ES256)
}

#[tokio::test]
async fn tokens_of_every_accepted_algorithm_are_verified() {
    let rsa = Signer::new("rsa", Algorithm::RS256);
    let mut of_any = rsa.jwk();
    of_any.as_object_mut().unwrap().remove("alg");
    let pss = Signer::new("pss", Algorithm::PS256);
    let (p256, p384) = (ec("p256"), Signer::new("p384", Algorithm::ES384));
    let ed = Signer::new("ed", Algorithm::EdDSA);
    let keys = [of_any, pss.jwk(), p256.jwk(), p384.jwk(), ed.jwk()];
    let stub = Stub::start(&keys).await;
    let app = stub.app(Limits::default());
    let claims = claims(ISSUER);
    for (name, signer, expected) in [
        ("RS256", &rsa, 204),
        ("PS256", &rsa.with_algorithm(Algorithm::PS256), 204),
        ("PS256", &pss, 204),
        ("ES256", &p256, 204),
        ("ES384", &p384, 204),
        ("EdDSA", &ed, 204),
        (
            "the key is for PS256 only",
            &pss.with_algorithm(Algorithm::RS256),
            401,
        ),
        (
            "not on the list",
            &rsa.with_algorithm(Algorithm::RS384),
            401,
        ),
        ("another key of that name", &ec("p256"), 401),
        ("an unknown name", &ec("other"), 401),
    ] {
        assert_eq!(
            status(&app, &signer.sign(&claims)).await,
            expected,
            "{name}"
        );
    }
    assert_eq!(stub.fetches(), 1);
}

#[tokio::test]
async fn the_claims_of_a_token_decide() {
    let signer = ec("a");
    let app = Stub::start(&[signer.jwk()]).await.app(Limits::default());
    for (name, claims, is_accepted) in variants(ISSUER) {
        let status = status(&app, &signer.sign(&claims)).await;
        assert_eq!(status, if is_accepted { 204 } else { 401 }, "{name}");
    }
}

#[tokio::test]
async fn no_public_key_verifies_an_hmac_and_no_header_brings_a_key() {
    let (rsa, evil) = (Signer::new("rsa", Algorithm::RS256), ec("evil"));
    let secret = b"a secret that an issuer should not publish";
    let oct = json!({"kty": "oct", "kid": "oct", "alg": "HS256", "k": "YSBzZWNyZXQgdGhhdCBhbiBpc3N1ZXIgc2hvdWxkIG5vdCBwdWJsaXNo"});
    let stub = Stub::start(&[rsa.jwk(), oct]).await;
    let app = stub.app(Limits::default());
    let claims = claims(ISSUER);
    let right = rsa.sign(&claims);
    assert_eq!(status(&app, &right).await, 204);
    let (signed, signature) = right.rsplit_once('.').unwrap();

    let hmac = |kid: &str, key: &[u8]| {
        let mut header = Header::new(Algorithm::HS256);
        header.kid = Some(kid.to_owned());
        encode(&header, &claims, &EncodingKey::from_secret(key)).unwrap()
    };
    let jwk = rsa.jwk();
    let jwk_text = jwk.to_string();
    let n = jwk["n"].as_str().unwrap();
    let none = |alg: &str| forged(&json!({"alg": alg, "kid": "rsa"}), &claims, "");
    let jku = format!("http://{}/elsewhere", stub.address);
    let own_jwk = || serde_json::from_value(evil.jwk()).ok();
    let tokens = [
        ("HMAC by the modulus", hmac("rsa", n.as_bytes())),
        ("HMAC by the JWK", hmac("rsa", jwk_text.as_bytes())),
        ("HMAC by nothing", hmac("rsa", b"")),
        ("HMAC by a published secret", hmac("oct", secret)),
        ("none", none("none")),
        ("None", none("None")),
        ("an empty algorithm", none("")),
        ("no signature", format!("{signed}.")),
        (
            "the claims of another token",
            forged(
                &json!({"alg": "RS256", "kid": "rsa"}),
                &claims,
                &signature[1..],
            ),
        ),
        (
            "ES256 by an RSA key",
            forged(&json!({"alg": "ES256", "kid": "rsa"}), &claims, signature),
        ),
        (
            "EdDSA by an RSA key",
            forged(&json!({"alg": "EdDSA", "kid": "rsa"}), &claims, signature),
        ),
        (
            "zeros for ES256",
            forged(
                &json!({"alg": "ES256", "kid": "rsa"}),
                &claims,
                &"A".repeat(86),
            ),
        ),
        (
            "its own key",
            evil.sign_with(|header| header.jwk = own_jwk(), &claims),
        ),
        (
            "its own key, by our name",
            evil.sign_with(
                |header| {
                    header.jwk = own_jwk();
                    header.kid = Some("rsa".to_owned());
                },
                &claims,
            ),
        ),
        (
            "its own URL",
            evil.sign_with(|header| header.jku = Some(jku.clone()), &claims),
        ),
        (
            "its own certificate's URL",
            evil.sign_with(|header| header.x5u = Some(jku.clone()), &claims),
        ),
        (
            "its own certificate",
            evil.sign_with(|header| header.x5c = Some(vec!["AAAA".to_owned()]), &claims),
        ),
        (
            "critical extensions",
            rsa.sign_with(|header| header.crit = Some(vec!["exp".to_owned()]), &claims),
        ),
        (
            "no name of a key",
            rsa.sign_with(|header| header.kid = None, &claims),
        ),
        (
            "an empty name",
            rsa.sign_with(|header| header.kid = Some(String::new()), &claims),
        ),
        (
            "a path",
            rsa.sign_with(
                |header| header.kid = Some("../../../dev/null".to_owned()),
                &claims,
            ),
        ),
        (
            "a query",
            rsa.sign_with(
                |header| header.kid = Some("' or '1'='1".to_owned()),
                &claims,
            ),
        ),
        (
            "a name in another case",
            rsa.sign_with(|header| header.kid = Some("RSA".to_owned()), &claims),
        ),
        (
            "a name with a zero",
            rsa.sign_with(|header| header.kid = Some("rsa\0".to_owned()), &claims),
        ),
        (
            "a long name",
            rsa.sign_with(|header| header.kid = Some("a".repeat(4_000)), &claims),
        ),
        (
            "a name that is a number",
            forged(&json!({"alg": "RS256", "kid": 1}), &claims, signature),
        ),
        (
            "a huge token",
            rsa.sign(&json!({"iss": "a".repeat(50_000)})),
        ),
        ("garbage", "a.b.c".to_owned()),
        ("dots", "...".to_owned()),
        ("one part", "a".to_owned()),
    ];
    for (name, token) in tokens {
        assert_eq!(status(&app, &token).await, 401, "{name}");
    }
    assert_eq!(stub.fetches(), 1, "a token makes no other requests");

    let right = format!("Bearer {right}");
    let refused = (401, PLAIN.to_owned());
    assert_eq!(deliver(&app, &[&right, &right]).await, refused);
    assert_eq!(deliver(&app, &[]).await, refused);
}

#[tokio::test]
async fn keys_for_other_uses_are_ignored() {
    let good = ec("good");
    let with = |kid, changes: Value| {
        let signer = ec(kid);
        let mut jwk = signer.jwk();
        for (name, value) in changes.as_object().unwrap() {
            jwk[name] = value.clone();
        }
        (kid, signer, jwk)
    };
    let others = [
        with("encrypts", json!({"use": "enc"})),
        with("signs", json!({"key_ops": ["sign"]})),
        with("of another algorithm", json!({"alg": "RS256"})),
        with("of an unknown algorithm", json!({"alg": "ML-DSA-44"})),
        with("of another curve", json!({"crv": "P-384"})),
        with("of an unknown curve", json!({"crv": "secp256k1"})),
        with("of an unknown type", json!({"kty": "AKP"})),
        with("broken", json!({"x": "!"})),
        with("not on the curve", json!({"x": "AAAA"})),
        with("of two types", json!({"kty": "oct", "k": "AAAA"})),
    ];
    let mut keys: Vec<_> = others.iter().map(|(.., jwk)| jwk.clone()).collect();
    keys.extend([
        json!(null),
        json!([]),
        json!({}),
        json!("x"),
        json!({"kty": "EC"}),
    ]);
    // 512 bits.
    keys.push(
        json!({"kty": "RSA", "kid": "short", "alg": "RS256", "e": "AQAB", "n": "u".repeat(86)}),
    );
    keys.push(good.jwk());
    let app = Stub::start(&keys).await.app(Limits::default());
    let claims = claims(ISSUER);
    assert_eq!(status(&app, &good.sign(&claims)).await, 204);
    for (name, signer, _) in &others {
        assert_eq!(status(&app, &signer.sign(&claims)).await, 401, "{name}");
    }
    let short = forged(
        &json!({"alg": "RS256", "kid": "short"}),
        &claims,
        &"A".repeat(86),
    );
    assert_eq!(status(&app, &short).await, 401);
}

#[tokio::test]
async fn rotated_keys_are_found_and_withdrawn_keys_are_refused() {
    let (old, new) = (ec("old"), ec("new"));
    let stub = Stub::start(&[old.jwk()]).await;
    let app = stub.app(quick());
    let [by_old, by_new] = [&old, &new].map(|signer| signer.sign(&claims(ISSUER)));
    assert_eq!(status(&app, &by_old).await, 204);
    stub.say(set(&[new.jwk()]));
    assert_eq!(status(&app, &by_new).await, 401, "within the interval");
    assert_eq!(status(&app, &by_old).await, 204, "within the time to live");
    sleep(quick().interval).await;
    assert_eq!(status(&app, &by_new).await, 204);
    assert_eq!(status(&app, &by_old).await, 401);
    assert_eq!(stub.fetches(), 2);

    // Without an unknown key, too, a withdrawn key is refused after the time to live.
    stub.say(set(&[old.jwk()]));
    sleep(quick().time_to_live).await;
    assert_eq!(status(&app, &by_new).await, 401);
}

#[tokio::test]
async fn strangers_cannot_make_the_application_fetch_often() {
    let (good, evil) = (ec("good"), ec("evil"));
    let stub = Stub::start(&[good.jwk()]).await;
    let app = stub.app(Limits::default());
    let claims = claims(ISSUER);
    let mut tasks = Vec::new();
    for number in 0..200 {
        let (app, kid) = (app.clone(), format!("{number}"));
        let token = evil.sign_with(|header| header.kid = Some(kid), &claims);
        tasks.push(tokio::spawn(async move { status(&app, &token).await }));
    }
    for task in tasks {
        assert_eq!(task.await.unwrap(), 401);
    }
    assert_eq!(status(&app, &good.sign(&claims)).await, 204);
    assert_eq!(stub.fetches(), 1);

    // The same while the issuer is down: one fetch, and then 503 at once.
    let stub = Stub::start(&[]).await;
    stub.say(Says::Status(500));
    let app = stub.app(Limits::default());
    for _ in 0..50 {
        assert_eq!(status(&app, &evil.sign(&claims)).await, 503);
    }
    assert_eq!(stub.fetches(), 1);
}

#[tokio::test]
async fn requests_wait_for_one_fetch() {
    let good = ec("good");
    let stub = Stub::start(&[]).await;
    stub.say(Says::Slowly(
        Duration::from_millis(300),
        text(&[good.jwk()]),
    ));
    let app = stub.app(Limits::default());
    let mut tasks = Vec::new();
    for _ in 0..50 {
        let (app, token) = (app.clone(), good.sign(&claims(ISSUER)));
        tasks.push(tokio::spawn(async move { status(&app, &token).await }));
    }
    for task in tasks {
        assert_eq!(task.await.unwrap(), 204);
    }
    assert_eq!(stub.fetches(), 1);
}

#[tokio::test]
async fn a_sender_that_hangs_up_does_not_cancel_the_fetch() {
    let good = ec("good");
    let stub = Stub::start(&[]).await;
    stub.say(Says::Slowly(
        Duration::from_millis(300),
        text(&[good.jwk()]),
    ));
    let app = stub.app(Limits::default());
    let token = good.sign(&claims(ISSUER));
    let hangs_up = tokio::time::timeout(Duration::from_millis(100), status(&app, &token)).await;
    assert!(hangs_up.is_err());
    assert_eq!(status(&app, &token).await, 204);
    assert_eq!(stub.fetches(), 1);
}

/// It must not be a yes, and not a 401, upon which MX would drop a token that is right.
#[tokio::test]
async fn without_the_issuers_keys_the_answer_is_503() {
    let good = ec("good");
    let token = good.sign(&claims(ISSUER));
    let thousand: Vec<_> = (0..1_000).map(|_| good.jwk()).collect();
    let mut encrypts = good.jwk();
    encrypts["use"] = "enc".into();
    let stub = Stub::start(&[good.jwk()]).await;
    for (name, says) in [
        ("an error", Says::Status(500)),
        ("no such page", Says::Status(404)),
        ("another answer", Says::Status(203)),
        ("a redirect", Says::Redirect),
        ("an empty page", Says::Text(String::new())),
        ("HTML", Says::Text("<html>maintenance</html>".to_owned())),
        ("no keys", Says::Text("{}".to_owned())),
        (
            "keys that are no list",
            Says::Text(r#"{"keys": {}}"#.to_owned()),
        ),
        ("an empty list", set(&[])),
        ("no key for signatures", set(&[encrypts])),
        ("a thousand keys", set(&thousand)),
        (
            "deep",
            Says::Text(format!(r#"{{"keys": {}"#, "[".repeat(60_000))),
        ),
        (
            "a key that is cut off",
            Says::Text(text(&[good.jwk()])[..80].to_owned()),
        ),
    ] {
        stub.say(says);
        assert_eq!(
            status(&stub.app(Limits::default()), &token).await,
            503,
            "{name}"
        );
    }
    assert_eq!(stub.fetches(), 13, "no redirect is followed");
    stub.say(set(&thousand[..100]));
    assert_eq!(
        status(&stub.app(Limits::default()), &token).await,
        204,
        "a hundred keys"
    );
}

#[tokio::test]
async fn the_issuer_is_not_asked_for_a_token_that_no_key_can_verify() {
    let stub = Stub::start(&[ec("a").jwk()]).await;
    let app = stub.app(Limits::default());
    assert_eq!(deliver(&app, &[]).await, (401, PLAIN.to_owned()));
    let claims = claims(ISSUER);
    for header in [
        json!({"alg": "HS256", "kid": "a"}),
        json!({"alg": "RS512", "kid": "a"}),
        json!({"alg": "none", "kid": "a"}),
        json!({"alg": "ES256"}),
        json!({"kid": "a"}),
    ] {
        assert_eq!(
            status(&app, &forged(&header, &claims, "AAAA")).await,
            401,
            "{header}"
        );
    }
    assert_eq!(status(&app, "garbage").await, 401);
    assert_eq!(stub.fetches(), 0);
}

#[tokio::test]
async fn an_issuer_that_hangs_is_an_issuer_that_is_down() {
    let good = ec("good");
    let token = good.sign(&claims(ISSUER));
    let minute = Duration::from_secs(60);
    for says in [Says::Slowly(minute, text(&[good.jwk()])), Says::HeadAlone] {
        let stub = Stub::start(&[]).await;
        stub.say(says);
        let app = stub.app(Limits::default());
        let start = Instant::now();
        let answers = [(); 3].map(|()| {
            let (app, token) = (app.clone(), token.clone());
            tokio::spawn(async move { status(&app, &token).await })
        });
        for answer in answers {
            assert_eq!(answer.await.unwrap(), 503);
        }
        let took = start.elapsed();
        assert!(took < Duration::from_secs(5), "the waits add up: {took:?}");
        assert_eq!(stub.fetches(), 1);
    }
}

#[tokio::test]
async fn keys_are_used_while_the_issuer_is_down_but_only_for_their_time_to_live() {
    let (good, other) = (ec("good"), ec("other"));
    let stub = Stub::start(&[good.jwk()]).await;
    let app = stub.app(quick());
    let [known, unknown] = [&good, &other].map(|signer| signer.sign(&claims(ISSUER)));
    assert_eq!(status(&app, &known).await, 204);
    stub.say(Says::Status(500));
    sleep(quick().interval).await;
    assert_eq!(status(&app, &unknown).await, 503);
    assert_eq!(status(&app, &known).await, 204);
    sleep(quick().time_to_live).await;
    assert_eq!(status(&app, &known).await, 503);
    stub.say(set(&[good.jwk()]));
    assert_eq!(status(&app, &known).await, 503, "within the interval");
    sleep(quick().interval).await;
    assert_eq!(status(&app, &known).await, 204);
    assert_eq!(status(&app, &unknown).await, 401);
}

#[tokio::test]
async fn an_issuer_that_refuses_connections_is_down() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}/jwks", listener.local_addr().unwrap());
    drop(listener);
    let app = jwks(&Jwks::new(&url, expected(ISSUER), Limits::default()).unwrap());
    assert_eq!(status(&app, &ec("a").sign(&claims(ISSUER))).await, 503);
}

#[test]
fn keys_come_over_https_or_from_this_machine() {
    let new = |url| Jwks::new(url, expected(ISSUER), Limits::default());
    for url in [
        "https://issuer.example/jwks",
        "http://localhost:1/jwks",
        "http://[::1]:1/",
    ] {
        assert!(new(url).is_ok(), "{url}");
    }
    for url in [
        "http://issuer.example/jwks",
        "http://localhost.evil.example/jwks",
        "http://localhost@evil.example/jwks",
        "ftp://localhost/jwks",
        "file:///etc/passwd",
        "/jwks",
        "localhost/jwks",
        "",
    ] {
        assert!(new(url).is_err(), "{url}");
    }
}
