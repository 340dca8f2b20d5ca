//! Form a: the application issues the tokens itself, and verifies them with the same key.
//!
//! The key is a secret of this application alone, so HMAC is enough. Replicas share it. A token cannot
//! be revoked, and is therefore short-lived; after a change of the key, MX fetches another.

use std::future::ready;
use std::sync::Arc;
use std::time::Duration;

use axum::Json;
use axum::body::to_bytes;
use axum::extract::{Request, State};
use axum::http::header::{
    AUTHORIZATION, CACHE_CONTROL, CONTENT_TYPE, HeaderMap, PRAGMA, WWW_AUTHENTICATE,
};
use axum::http::{HeaderValue, StatusCode};
use axum::response::{IntoResponse, Response};
use axum::routing::{MethodRouter, post};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use jsonwebtoken::{Algorithm, DecodingKey, EncodingKey, Header, encode, get_current_timestamp};
use mx_job_webhook::Credentials;
use mx_job_webhook::credentials::bearer_token;
use serde::Serialize;
use serde_json::json;
use sha2::{Digest as _, Sha256};
use subtle::{Choice, ConstantTimeEq as _};
use tokio::time::timeout;

use super::claims::Expected;

/// The seconds for which a token is valid.
pub(super) const LIFETIME: u64 = 300;

/// The limits of a token request, which has about 150 bytes.
const BODY_LIMIT: usize = 4 * 1024;
const BODY_TIMEOUT: Duration = Duration::from_secs(5);

/// The fewest characters of a secret and of a key.
const SHORTEST: usize = 32;

#[derive(Clone)]
pub(super) struct Issuer(Arc<Inner>);

struct Inner {
    expected: Expected,
    client_id: Hash,
    client_secret: Hash,
    signing: EncodingKey,
    verifying: DecodingKey,
    lifetime: u64,
}

/// The claims of a token.
#[derive(Serialize)]
struct Claims<'a> {
    iss: &'a str,
    aud: &'a str,
    sub: &'a str,
    client_id: &'a str,
    iat: u64,
    exp: u64,
}

impl Issuer {
    /// Fails if the client's id or secret, or the key, is too weak.
    pub(super) fn new(
        expected: Expected,
        client_secret: &str,
        signing_key: &str,
        lifetime: u64,
    ) -> Result<Self, &'static str> {
        if client_secret.len() < SHORTEST || signing_key.len() < SHORTEST {
            return Err("the client's secret and the signing key need at least 32 characters");
        }
        if client_secret == signing_key {
            // MX could sign tokens of any lifetime.
            return Err("the signing key must not be the client's secret");
        }
        // RFC 6749, section 2.3.1, has both form-encoded before Basic, which many clients omit. These
        // characters are the same either way.
        let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-._".contains(&byte);
        if !expected
            .client_id
            .bytes()
            .chain(client_secret.bytes())
            .all(is_plain)
        {
            return Err("the client's id and secret consist of letters, digits and -._");
        }
        Ok(Self(Arc::new(Inner {
            client_id: hash(&expected.client_id),
            client_secret: hash(client_secret),
            signing: EncodingKey::from_secret(signing_key.as_bytes()),
            verifying: DecodingKey::from_secret(signing_key.as_bytes()),
            lifetime,
            expected,
        })))
    }

    /// Accepts the tokens of this issuer.
    pub(super) fn credentials(&self) -> Credentials {
        let Self(issuer) = self.clone();
        Credentials::verify(move |head| {
            let check = |token| {
                let expected = &issuer.expected;
                expected.check(token, &issuer.verifying, Algorithm::HS256)
            };
            ready(bearer_token(head).map_or(Ok(false), |token| check(token).map(|()| true)))
        })
    }

    /// Returns the token route: RFC 6749, section 4.4.
    pub(super) fn route<S: Clone + Send + Sync + 'static>(&self) -> MethodRouter<S> {
        post(token).with_state(self.clone())
    }

    /// Answers a token request that was read.
    fn grant(&self, headers: &HeaderMap, form: &Form) -> Result<Response, Refusal> {
        let issuer = &self.0;
        let (id, secret) = client(headers, form)?;
        // `&` compares both, so the time does not tell which of them is wrong.
        if !bool::from(same(&id, &issuer.client_id) & same(&secret, &issuer.client_secret)) {
            return Err(Refusal::InvalidClient);
        }
        match form.value("grant_type")? {
            Some("client_credentials") => {}
            Some(_) => return Err(Refusal::UnsupportedGrantType),
            None => return Err(Refusal::InvalidRequest("grant_type is missing")),
        }
        if form.value("scope")?.is_some() {
            return Err(Refusal::InvalidScope);
        }
        let Expected {
            issuer: iss,
            audience: aud,
            client_id,
            ..
        } = &issuer.expected;
        let iat = get_current_timestamp();
        let claims = Claims {
            iss,
            aud,
            sub: client_id,
            client_id,
            iat,
            exp: iat + issuer.lifetime,
        };
        let header = Header::new(Algorithm::HS256);
        let token = encode(&header, &claims, &issuer.signing).map_err(|_| Refusal::ServerError)?;
        let answer = json!({
            "access_token": token,
            "token_type": "Bearer",
            "expires_in": issuer.lifetime,
        });
        Ok(Json(answer).into_response())
    }
}

async fn token(State(issuer): State<Issuer>, request: Request) -> Response {
    let (head, body) = request.into_parts();
    let body = timeout(BODY_TIMEOUT, to_bytes(body, BODY_LIMIT)).await;
    let outcome = match body {
        Ok(Ok(body)) => {
            Form::read(&head.headers, &body).and_then(|form| issuer.grant(&head.headers, &form))
        }
        _ => Err(Refusal::InvalidRequest("the body is too long or too slow")),
    };
    let mut answer = outcome.unwrap_or_else(Refusal::into_response);
    let headers = answer.headers_mut();
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    headers.insert(PRAGMA, HeaderValue::from_static("no-cache"));
    answer
}

/// The fields of a token request.
struct Form(Vec<(String, String)>);

impl Form {
    fn read(headers: &HeaderMap, body: &[u8]) -> Result<Self, Refusal> {
        let kind = headers.get(CONTENT_TYPE).map(HeaderValue::as_bytes);
        let kind = kind.and_then(|kind| kind.split(|&byte| byte == b';').next());
        let is_form = kind.is_some_and(|kind| {
            let form = b"application/x-www-form-urlencoded";
            kind.trim_ascii().eq_ignore_ascii_case(form)
        });
        if !is_form {
            return Err(Refusal::InvalidRequest("the body is not form-encoded"));
        }
        Ok(Self(form_urlencoded::parse(body).into_owned().collect()))
    }

    /// Returns the value of a field. An empty one counts as omitted (RFC 6749, section 3.2).
    fn value(&self, name: &str) -> Result<Option<&str>, Refusal> {
        let mut values = self.0.iter().filter(|(field, _)| field == name);
        match (values.next(), values.next()) {
            (_, Some(_)) => Err(Refusal::InvalidRequest("a field is repeated")),
            (value, None) => Ok(value
                .map(|(_, value)| &**value)
                .filter(|value| !value.is_empty())),
        }
    }
}

/// Returns the client's id and secret: from the `Authorization` header, or from the form.
fn client(headers: &HeaderMap, form: &Form) -> Result<(Hash, Hash), Refusal> {
    let (id, secret) = (form.value("client_id")?, form.value("client_secret")?);
    let mut headers = headers.get_all(AUTHORIZATION).iter();
    match (headers.next(), headers.next(), id, secret) {
        (Some(_), Some(_), ..) | (Some(_), None, _, Some(_)) => {
            Err(Refusal::InvalidRequest("the client authenticates twice"))
        }
        (Some(header), None, _, None) => basic(header).ok_or(Refusal::InvalidClient),
        (None, _, Some(id), Some(secret)) => Ok((hash(id), hash(secret))),
        _ => Err(Refusal::InvalidClient),
    }
}

fn basic(header: &HeaderValue) -> Option<(Hash, Hash)> {
    let (scheme, token) = header.to_str().ok()?.split_once(' ')?;
    let pair = STANDARD.decode(token.trim_start_matches(' ')).ok()?;
    let (id, secret) = std::str::from_utf8(&pair).ok()?.split_once(':')?;
    let is_basic = scheme.eq_ignore_ascii_case("basic");
    is_basic.then(|| (hash(id), hash(secret)))
}

/// Hashes are equally long, so comparing them does not tell the length of a secret.
type Hash = [u8; 32];

fn hash(text: &str) -> Hash {
    Sha256::digest(text.as_bytes()).into()
}

fn same(left: &Hash, right: &Hash) -> Choice {
    left.ct_eq(right)
}

/// The errors of RFC 6749, section 5.2.
enum Refusal {
    InvalidRequest(&'static str),
    InvalidClient,
    UnsupportedGrantType,
    /// This issuer has no scopes. MX would show an error when it is set up, rather than get less than
    /// it asked for.
    InvalidScope,
    ServerError,
}

impl IntoResponse for Refusal {
    fn into_response(self) -> Response {
        let (status, error) = match self {
            Self::InvalidRequest(_) => (StatusCode::BAD_REQUEST, "invalid_request"),
            Self::InvalidClient => (StatusCode::UNAUTHORIZED, "invalid_client"),
            Self::UnsupportedGrantType => (StatusCode::BAD_REQUEST, "unsupported_grant_type"),
            Self::InvalidScope => (StatusCode::BAD_REQUEST, "invalid_scope"),
            Self::ServerError => (StatusCode::INTERNAL_SERVER_ERROR, "server_error"),
        };
        let answer = match self {
            Self::InvalidRequest(why) => json!({"error": error, "error_description": why}),
            _ => json!({"error": error}),
        };
        let mut answer = (status, Json(answer)).into_response();
        if status == StatusCode::UNAUTHORIZED {
            let challenge = HeaderValue::from_static(r#"Basic realm="tokens""#);
            answer.headers_mut().insert(WWW_AUTHENTICATE, challenge);
        }
        answer
    }
}
