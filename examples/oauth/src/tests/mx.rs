//! MX, with the crate `oauth2` as its client: fetches a token, uses it until it is refused as invalid,
//! and fetches another.

use std::io;
use std::net::SocketAddr;

use axum::body::Body;
use axum::http::{Method, Request};
use http_body_util::BodyExt as _;
use hyper_util::client::legacy::Client;
use hyper_util::rt::TokioExecutor;
use oauth2::basic::{BasicClient, BasicRequestTokenError};
use oauth2::{
    AuthType, ClientId, ClientSecret, HttpRequest, HttpResponse, TokenResponse as _, TokenUrl,
};

pub(super) const INVALID_TOKEN: &str = r#"Bearer realm="webhooks", error="invalid_token""#;

pub(super) struct Mx {
    token_url: String,
    client_id: String,
    client_secret: String,
    auth_type: AuthType,
    token: Option<String>,
    pub(super) fetches: u32,
}

impl Mx {
    pub(super) fn new(token_url: String, client_id: &str, client_secret: &str) -> Self {
        Self {
            token_url,
            client_id: client_id.to_owned(),
            client_secret: client_secret.to_owned(),
            auth_type: AuthType::BasicAuth,
            token: None,
            fetches: 0,
        }
    }

    /// Sends the secret in the form, and not as Basic.
    pub(super) fn with_the_secret_in_the_form(mut self) -> Self {
        self.auth_type = AuthType::RequestBody;
        self
    }

    pub(super) async fn fetch(&mut self) -> Result<String, BasicRequestTokenError<io::Error>> {
        let client = BasicClient::new(ClientId::new(self.client_id.clone()))
            .set_client_secret(ClientSecret::new(self.client_secret.clone()))
            .set_auth_type(self.auth_type.clone())
            .set_token_uri(TokenUrl::new(self.token_url.clone()).unwrap());
        self.fetches += 1;
        let answer = client
            .exchange_client_credentials()
            .request_async(&http)
            .await?;
        let token = answer.access_token().secret().clone();
        self.token = Some(token.clone());
        Ok(token)
    }

    /// Delivers once, and a second time if the token is refused as invalid.
    pub(super) async fn deliver(&mut self, server: SocketAddr) -> u16 {
        for _ in 0..2 {
            if self.token.is_none() {
                self.fetch().await.unwrap();
            }
            let (status, challenge) = self.attempt(server).await;
            if status != 401 || challenge != INVALID_TOKEN {
                return status;
            }
            self.token = None;
        }
        401
    }

    /// Delivers once, with the token that it has.
    pub(super) async fn attempt(&self, server: SocketAddr) -> (u16, String) {
        let body = include_str!("../../../../tests/fixtures/completed.json");
        let token = self.token.as_deref().unwrap();
        let request = Request::post(format!("http://{server}/admin/webhooks"))
            .header("authorization", format!("Bearer {token}"))
            .header("content-type", "application/json")
            .body(body.into())
            .unwrap();
        let answer = http(request).await.unwrap();
        let challenge = answer.headers().get("www-authenticate");
        let challenge = challenge.map(|challenge| challenge.to_str().unwrap().to_owned());
        (answer.status().as_u16(), challenge.unwrap_or_default())
    }
}

/// Sends a request over a connection of its own.
pub(super) async fn http(request: HttpRequest) -> Result<HttpResponse, io::Error> {
    assert_eq!(request.method(), Method::POST);
    let client = Client::builder(TokioExecutor::new()).build_http::<Body>();
    let answer = client
        .request(request.map(Body::from))
        .await
        .map_err(io::Error::other)?;
    let (head, body) = answer.into_parts();
    let body = body.collect().await.map_err(io::Error::other)?.to_bytes();
    Ok(HttpResponse::from_parts(head, body.to_vec()))
}
