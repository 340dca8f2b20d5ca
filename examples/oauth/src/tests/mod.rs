//! Tests over real sockets. The crate `oauth2` plays MX's side of OAuth.

mod jwks;
mod mx;
mod oidc_provider;
mod own;
mod signer;

use std::net::SocketAddr;

use axum::body::Body;
use axum::http::Request;
use tower::ServiceExt as _;

use super::*;
use mx::INVALID_TOKEN;

const AUDIENCE: &str = "https://app.example/webhooks";
const CLIENT: &str = "mx";
const SECRET: &str = "0123456789abcdef0123456789abcdef";

const PLAIN: &str = r#"Bearer realm="webhooks""#;

fn expected(issuer: &str) -> Expected {
    Expected {
        issuer: issuer.to_owned(),
        audience: AUDIENCE.to_owned(),
        client_id: CLIENT.to_owned(),
        leeway: 30,
    }
}

async fn serve(app: Router) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move { axum::serve(listener, app).await });
    address
}

/// Delivers with these headers, and returns the status and the challenge.
async fn deliver(app: &Router, authorization: &[&str]) -> (u16, String) {
    let mut delivery = Request::post("/admin/webhooks").header("content-type", "application/json");
    for value in authorization {
        delivery = delivery.header("authorization", *value);
    }
    let body = Body::from(include_str!("../../../../tests/fixtures/completed.json"));
    let answer = app
        .clone()
        .oneshot(delivery.body(body).unwrap())
        .await
        .unwrap();
    let challenge = answer.headers().get("www-authenticate");
    let challenge = challenge.map(|challenge| challenge.to_str().unwrap().to_owned());
    (answer.status().as_u16(), challenge.unwrap_or_default())
}

/// Returns the status of a delivery with this token. A 401 has to say that the token is invalid.
async fn status(app: &Router, token: &str) -> u16 {
    let (status, challenge) = deliver(app, &[&format!("Bearer {token}")]).await;
    assert_eq!(
        status == 401,
        challenge == INVALID_TOKEN,
        "{status} {challenge}"
    );
    status
}
