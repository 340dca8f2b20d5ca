//! Form a: the token route and the tokens.

use std::convert::Infallible;
use std::time::{Duration, Instant};

use axum::body::{Bytes, to_bytes};
use axum::response::Response;
use http_body_util::channel::Channel;
use jsonwebtoken::{Algorithm, EncodingKey, Header, encode};
use oauth2::RequestTokenError;
use serde_json::{Value, json};

use super::mx::Mx;
use super::signer::{claims, forged, variants};
use super::*;

const KEY: &str = "a key of this test that has enough characters";
const ISSUER: &str = "https://app.example";

fn issuer() -> Issuer {
    Issuer::new(expected(ISSUER), SECRET, KEY, LIFETIME).unwrap()
}

fn sign(algorithm: Algorithm, key: &str, claims: &Value) -> String {
    let key = EncodingKey::from_secret(key.as_bytes());
    encode(&Header::new(algorithm), claims, &key).unwrap()
}

/// Posts a form to the token route.
async fn ask(authorization: &[&str], form: &str) -> Response {
    let mut request = Request::post("/oauth/token").header(
        "content-type",
        "application/x-www-form-urlencoded; charset=UTF-8",
    );
    for value in authorization {
        request = request.header("authorization", *value);
    }
    let request = request.body(Body::from(form.to_owned())).unwrap();
    own(&issuer()).oneshot(request).await.unwrap()
}

async fn json_of(answer: Response) -> Value {
    let body = to_bytes(answer.into_body(), 10_000).await.unwrap();
    serde_json::from_slice(&body).unwrap()
}

#[tokio::test]
async fn mx_fetches_a_token_uses_it_until_it_expires_and_repeats() {
    let expected = Expected {
        leeway: 0,
        ..expected(ISSUER)
    };
    let issuer = Issuer::new(expected, SECRET, KEY, 2).unwrap();
    let server = serve(own(&issuer)).await;
    let url = format!("http://{server}/oauth/token");
    let by_header = Mx::new(url.clone(), CLIENT, SECRET);
    let by_form = Mx::new(url, CLIENT, SECRET).with_the_secret_in_the_form();
    for mut mx in [by_header, by_form] {
        for _ in 0..5 {
            assert_eq!(mx.deliver(server).await, 204);
        }
        assert_eq!(mx.fetches, 1);
        let patience = Instant::now() + Duration::from_secs(10);
        while mx.attempt(server).await.0 == 204 {
            assert!(Instant::now() < patience, "the token does not expire");
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        assert_eq!(mx.attempt(server).await, (401, INVALID_TOKEN.to_owned()));
        assert_eq!(mx.deliver(server).await, 204);
        assert_eq!(mx.fetches, 2);
    }
}

#[tokio::test]
async fn a_client_that_is_not_mx_gets_no_token() {
    let server = serve(own(&issuer())).await;
    let url = format!("http://{server}/oauth/token");
    for (id, secret) in [(CLIENT, "guess"), ("other", SECRET), (CLIENT, &SECRET[1..])] {
        let by_header = Mx::new(url.clone(), id, secret);
        let by_form = Mx::new(url.clone(), id, secret).with_the_secret_in_the_form();
        for mut mx in [by_header, by_form] {
            let Err(RequestTokenError::ServerResponse(error)) = mx.fetch().await else {
                panic!("{id} {secret} is not refused by RFC 6749");
            };
            assert_eq!(error.error().as_ref(), "invalid_client");
        }
    }
}

#[tokio::test]
async fn a_token_request_is_answered_as_rfc_6749_says() {
    let grant = "grant_type=client_credentials";
    let in_form = format!("{grant}&client_id={CLIENT}&client_secret={SECRET}");
    let basic = "Basic bXg6MDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3ODlhYmNkZWY=";
    let guess = "Basic bXg6Z3Vlc3M=";
    let cases: &[(&str, &[&str], &str, u16, &str)] = &[
        ("by header", &[basic], grant, 200, ""),
        (
            "by header, in another case",
            &[&basic.replace("Basic", "bAsIc")],
            grant,
            200,
            "",
        ),
        (
            "by header, with the id in the form",
            &[basic],
            &format!("{grant}&client_id=mx"),
            200,
            "",
        ),
        ("by form", &[], &in_form, 200, ""),
        (
            "an empty field is an omitted one",
            &[basic],
            &format!("{grant}&scope="),
            200,
            "",
        ),
        (
            "unknown fields",
            &[basic],
            &format!("{grant}&resource=x&a=1&a=2"),
            200,
            "",
        ),
        ("no client", &[], grant, 401, "invalid_client"),
        ("wrong secret", &[guess], grant, 401, "invalid_client"),
        (
            "another scheme",
            &["Bearer a"],
            grant,
            401,
            "invalid_client",
        ),
        ("not Base64", &["Basic !!!"], grant, 401, "invalid_client"),
        ("not UTF-8", &["Basic //8="], grant, 401, "invalid_client"),
        ("no colon", &["Basic bXg="], grant, 401, "invalid_client"),
        (
            "no secret",
            &[],
            &format!("{grant}&client_id=mx"),
            401,
            "invalid_client",
        ),
        (
            "an empty secret",
            &["Basic bXg6"],
            grant,
            401,
            "invalid_client",
        ),
        (
            "a wrong client asks for another grant",
            &[guess],
            "grant_type=x",
            401,
            "invalid_client",
        ),
        (
            "twice: header and form",
            &[basic],
            &in_form,
            400,
            "invalid_request",
        ),
        (
            "two headers",
            &[basic, basic],
            grant,
            400,
            "invalid_request",
        ),
        ("no grant type", &[basic], "", 400, "invalid_request"),
        (
            "an empty grant type",
            &[basic],
            "grant_type=",
            400,
            "invalid_request",
        ),
        (
            "two grant types",
            &[basic],
            &format!("{grant}&{grant}"),
            400,
            "invalid_request",
        ),
        (
            "two secrets",
            &[],
            &format!("{in_form}&client_secret=x"),
            400,
            "invalid_request",
        ),
        (
            "another grant type",
            &[basic],
            "grant_type=password",
            400,
            "unsupported_grant_type",
        ),
        (
            "a scope",
            &[basic],
            &format!("{grant}&scope=all"),
            400,
            "invalid_scope",
        ),
        (
            "too long",
            &[basic],
            &format!("{grant}&a={}", "a".repeat(5_000)),
            400,
            "invalid_request",
        ),
    ];
    for (name, authorization, form, status, error) in cases {
        let answer = ask(authorization, form).await;
        let headers = answer.headers().clone();
        assert_eq!(answer.status().as_u16(), *status, "{name}");
        assert_eq!(headers["cache-control"], "no-store", "{name}");
        assert_eq!(headers["content-type"], "application/json", "{name}");
        assert_eq!(
            headers.contains_key("www-authenticate"),
            *status == 401,
            "{name}"
        );
        let answer = json_of(answer).await;
        if *status == 200 {
            assert_eq!(answer["token_type"], "Bearer", "{name}");
            assert_eq!(answer["expires_in"], 300, "{name}");
            let token = answer["access_token"].as_str().unwrap();
            assert_eq!(self::status(&own(&issuer()), token).await, 204, "{name}");
        } else {
            assert_eq!(answer["error"], *error, "{name}");
            assert!(!answer.to_string().contains(SECRET), "{name}");
        }
    }
}

#[tokio::test]
async fn the_token_route_takes_forms_by_post_only() {
    let app = own(&issuer());
    for (method, kind, status) in [
        ("GET", "application/x-www-form-urlencoded", 405),
        ("PUT", "application/x-www-form-urlencoded", 405),
        ("POST", "application/json", 400),
        ("POST", "application/x-www-form-urlencodedx", 400),
        ("POST", "", 400),
    ] {
        // A query is no form.
        let request = Request::builder()
            .method(method)
            .uri(format!(
                "/oauth/token?grant_type=client_credentials&client_secret={SECRET}"
            ))
            .header("content-type", kind)
            .body(Body::from("grant_type=client_credentials"))
            .unwrap();
        let answer = app.clone().oneshot(request).await.unwrap();
        assert_eq!(answer.status().as_u16(), status, "{method} {kind}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_token_request_that_never_ends_is_refused() {
    // The sender is kept, and sends nothing.
    let (_sender, body) = Channel::<Bytes, Infallible>::new(1);
    let request = Request::post("/oauth/token")
        .header("content-type", "application/x-www-form-urlencoded")
        .body(Body::new(body))
        .unwrap();
    let start = tokio::time::Instant::now();
    let answer = own(&issuer()).oneshot(request).await.unwrap();
    assert_eq!(answer.status(), 400);
    assert!(start.elapsed() < Duration::from_secs(10));
}

#[tokio::test]
async fn the_claims_of_a_token_decide() {
    let app = own(&issuer());
    for (name, claims, is_accepted) in variants(ISSUER) {
        let token = sign(Algorithm::HS256, KEY, &claims);
        let status = status(&app, &token).await;
        assert_eq!(status, if is_accepted { 204 } else { 401 }, "{name}");
    }
}

#[tokio::test]
async fn a_token_that_is_not_signed_by_the_key_is_refused() {
    let app = own(&issuer());
    let claims = claims(ISSUER);
    let right = sign(Algorithm::HS256, KEY, &claims);
    assert_eq!(status(&app, &right).await, 204);
    let (signed, signature) = right.rsplit_once('.').unwrap();
    let mut with_crit = Header::new(Algorithm::HS256);
    with_crit.crit = Some(vec!["b64".to_owned()]);
    let with_crit = encode(
        &with_crit,
        &claims,
        &EncodingKey::from_secret(KEY.as_bytes()),
    );
    let huge = json!({"iss": "a".repeat(20_000)});
    let tokens = [
        ("another key", sign(Algorithm::HS256, SECRET, &claims)),
        ("another algorithm", sign(Algorithm::HS512, KEY, &claims)),
        ("no algorithm", forged(&json!({"alg": "none"}), &claims, "")),
        (
            "no algorithm, in capitals",
            forged(&json!({"alg": "NONE"}), &claims, "a"),
        ),
        ("no signature", format!("{signed}.")),
        ("no dot", signed.to_owned()),
        ("a shorter signature", right[..right.len() - 1].to_owned()),
        ("a longer signature", format!("{right}A")),
        ("padding", format!("{right}=")),
        (
            "other claims",
            forged(&json!({"alg": "HS256"}), &claims, signature),
        ),
        (
            "RS256 by the header",
            forged(&json!({"alg": "RS256"}), &claims, signature),
        ),
        ("critical extensions", with_crit.unwrap()),
        ("garbage", "a.b.c".to_owned()),
        ("dots", "...".to_owned()),
        ("huge", sign(Algorithm::HS256, KEY, &huge)),
        ("a letter", "a".to_owned()),
    ];
    for (name, token) in tokens {
        assert_eq!(status(&app, &token).await, 401, "{name}");
    }
}

#[tokio::test]
async fn a_request_without_one_token_is_not_told_that_its_token_is_invalid() {
    let app = own(&issuer());
    let right = format!("Bearer {}", sign(Algorithm::HS256, KEY, &claims(ISSUER)));
    let refused = (401, PLAIN.to_owned());
    assert_eq!(deliver(&app, &[]).await, refused);
    assert_eq!(deliver(&app, &["Basic bXg6c2VjcmV0"]).await, refused);
    assert_eq!(deliver(&app, &[&right, &right]).await, refused);
    assert_eq!(
        deliver(&app, &[&right, "Basic bXg6c2VjcmV0"]).await,
        refused
    );
    assert_eq!(deliver(&app, &[&format!("{right} {right}")]).await, refused);
    assert_eq!(deliver(&app, &[&right]).await, (204, String::new()));
}

#[test]
fn weak_secrets_are_refused_at_the_start() {
    let new = |secret: &str, key: &str| Issuer::new(expected(ISSUER), secret, key, LIFETIME);
    assert!(new(SECRET, KEY).is_ok());
    for (secret, key) in [
        (&SECRET[1..], KEY),
        (SECRET, &KEY[..31]),
        ("", ""),
        (SECRET, SECRET),
        ("a secret with spaces, which has enough characters", KEY),
        ("0123456789abcdef0123456789abcde:", KEY),
    ] {
        assert!(new(secret, key).is_err(), "{secret} {key}");
    }
}
