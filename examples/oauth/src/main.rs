//! How do I authenticate MX by OAuth 2?
//!
//! You give MX a client id and a secret. MX fetches a bearer token from your token URL, sends it with
//! its deliveries until it expires, and fetches another. Both forms of this need:
//!
//! ```text
//! export OAUTH_ISSUER=http://127.0.0.1:3000 OAUTH_AUDIENCE=http://127.0.0.1:3000/admin/webhooks
//! export OAUTH_CLIENT_ID=mx
//! ```
//!
//! **a. The application is its own issuer** (`issuer.rs`). Replicas share the key.
//!
//! ```text
//! export OAUTH_CLIENT_SECRET=$(openssl rand -hex 32) OAUTH_SIGNING_KEY=$(openssl rand -hex 32)
//! cargo run -p oauth -- own
//! ```
//!
//! In a terminal with the same variables, fetch a token, with the secret in a header or in the form:
//!
//! ```text
//! curl -s http://127.0.0.1:3000/oauth/token -d grant_type=client_credentials \
//!     -u "$OAUTH_CLIENT_ID:$OAUTH_CLIENT_SECRET"
//! curl -s http://127.0.0.1:3000/oauth/token -d grant_type=client_credentials \
//!     -d "client_id=$OAUTH_CLIENT_ID" -d "client_secret=$OAUTH_CLIENT_SECRET"
//! ```
//!
//! Put the `access_token` of the answer into `TOKEN`, and deliver something. After five and a half minutes the
//! answer is 401, and its `WWW-Authenticate` says `error="invalid_token"`:
//!
//! ```text
//! curl -i -H "authorization: Bearer $TOKEN" -H 'content-type: application/json' \
//!     --data @tests/fixtures/completed.json http://127.0.0.1:3000/admin/webhooks
//! ```
//!
//! **b. You have an authorization server** (`jwks.rs`): Keycloak, Auth0, or the `oidc-provider` of this
//! example's tests. There, MX is a client with the client-credentials grant. `OAUTH_ISSUER` is the
//! server's `issuer`, `OAUTH_AUDIENCE` the API for which it issues JWTs, and `OAUTH_JWKS_URL` its
//! `jwks_uri`; its `/.well-known/openid-configuration` lists them. The delivery is the same as above:
//!
//! ```text
//! export OAUTH_ISSUER=https://issuer.example OAUTH_JWKS_URL=https://issuer.example/jwks
//! cargo run -p oauth -- jwks
//! curl -s https://issuer.example/token -d grant_type=client_credentials \
//!     -u "$OAUTH_CLIENT_ID:$OAUTH_CLIENT_SECRET" -d "resource=$OAUTH_AUDIENCE"
//! ```
//!
//! Serve either form behind TLS: tokens and secrets are sent as they are.

#![allow(clippy::print_stdout, reason = "the example prints what happens")]
#![cfg_attr(test, allow(clippy::unwrap_used, reason = "a panic fails the test"))]

mod claims;
mod issuer;
mod jwks;
#[cfg(test)]
mod tests;

use std::env;
use std::error::Error;

use axum::Router;
use mx_job_webhook::{Credentials, JobRouter, JobWebhook};
use tokio::net::TcpListener;

use claims::Expected;
use issuer::{Issuer, LIFETIME};
use jwks::{Jwks, Limits};

type BoxError = Box<dyn Error + Send + Sync>;

/// Adds the webhooks to an application. The rest of it does not depend on OAuth.
fn app(routes: Router, credentials: Credentials) -> Router {
    let jobs = JobRouter::new()
        .on_completed(|event| async move { println!("completed {}", event.guid) })
        .on_unhandled(|unhandled| async move { println!("{} unhandled", unhandled.status) });
    let webhooks = JobWebhook::new(credentials, jobs)
        .on_error(|failure| println!("not acknowledged: {}", with_causes(failure.error())));
    routes.layer(webhooks.at("/admin/webhooks"))
}

/// Form a.
fn own(issuer: &Issuer) -> Router {
    let routes = Router::new().route("/oauth/token", issuer.route());
    app(routes, issuer.credentials())
}

/// Form b.
fn jwks(jwks: &Jwks) -> Router {
    app(Router::new(), jwks.credentials())
}

/// Why a token is invalid, or why the issuer's keys cannot be had. The sender sees none of it.
fn with_causes(error: &dyn Error) -> String {
    let causes = std::iter::successors(error.source(), |&cause| cause.source());
    causes.fold(error.to_string(), |text, cause| format!("{text}: {cause}"))
}

/// Reads an environment variable, without which the example does not start.
fn setting(name: &str) -> Result<String, BoxError> {
    let value = env::var(name).map_err(|error| format!("{name}: {error}"))?;
    match value.is_empty() {
        true => Err(format!("{name} is empty").into()),
        false => Ok(value),
    }
}

#[tokio::main]
async fn main() -> Result<(), BoxError> {
    let form = env::args().nth(1).unwrap_or_default();
    if !["own", "jwks"].contains(&&*form) {
        return Err("the argument is `own` or `jwks`".into());
    }
    let expected = Expected {
        issuer: setting("OAUTH_ISSUER")?,
        audience: setting("OAUTH_AUDIENCE")?,
        client_id: setting("OAUTH_CLIENT_ID")?,
        leeway: 30,
    };
    let app = if form == "own" {
        let (secret, key) = (
            setting("OAUTH_CLIENT_SECRET")?,
            setting("OAUTH_SIGNING_KEY")?,
        );
        own(&Issuer::new(expected, &secret, &key, LIFETIME)?)
    } else {
        let url = setting("OAUTH_JWKS_URL")?;
        jwks(&Jwks::new(&url, expected, Limits::default())?)
    };
    let address = env::var("ADDR").unwrap_or_else(|_| "127.0.0.1:3000".to_owned());
    let listener = TcpListener::bind(address).await?;
    println!("listening on http://{}", listener.local_addr()?);
    Ok(axum::serve(listener, app).await?)
}
