//! The checks and the headers of every request to the admin listener.

use axum::Router;
use axum::extract::{Request, State};
use axum::http::header::{
    AUTHORIZATION, CACHE_CONTROL, HOST, REFERRER_POLICY, WWW_AUTHENTICATE, X_CONTENT_TYPE_OPTIONS,
    X_FRAME_OPTIONS,
};
use axum::http::uri::Authority;
use axum::http::{HeaderMap, HeaderName, HeaderValue, StatusCode};
use axum::middleware::{Next, from_fn, from_fn_with_state, map_response};
use axum::response::{IntoResponse as _, Response};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use constant_time_eq::constant_time_eq;
use mx_job_webhook::Credentials;
use mx_job_webhook::credentials::CredentialsError;
use tower_http::csrf::CsrfLayer;

/// The user whose password is `ADMIN_PASSWORD`.
const USER: &str = "ops";

/// The password, as a browser sends it.
#[derive(Clone)]
pub(super) struct Password(Vec<u8>);

impl Password {
    /// Takes the password that opens the pages.
    pub(super) fn new(password: &str) -> Result<Self, CredentialsError> {
        // It has to be a password that a browser can send, and not an empty one.
        Credentials::basic(USER, password)?;
        let token = STANDARD.encode(format!("{USER}:{password}"));
        Ok(Self(token.into_bytes()))
    }

    /// Returns whether the only `Authorization` header has the user and the password.
    fn opens(&self, headers: &HeaderMap) -> bool {
        let mut values = headers.get_all(AUTHORIZATION).iter();
        let (Some(value), None) = (values.next(), values.next()) else {
            return false;
        };
        value
            .as_bytes()
            .split_at_checked(6)
            .is_some_and(|(scheme, token)| {
                scheme.eq_ignore_ascii_case(b"Basic ") && constant_time_eq(token, &self.0)
            })
    }
}

/// Refuses requests for other hosts, requests without the password, and forms of other sites, in this order.
pub(super) fn guard(pages: Router, password: Password) -> Router {
    pages
        .layer(CsrfLayer::new())
        .layer(from_fn_with_state(password, authenticate))
        .layer(from_fn(check_host))
        .layer(map_response(add_headers))
}

/// Refuses requests for other hosts.
///
/// A site can let its own name point to this machine (DNS rebinding). A browser then takes these pages for
/// the site's own, but it still sends the site's name. Any port passes, because a tunnel may use another port.
async fn check_host(request: Request, next: Next) -> Response {
    let mut hosts = request.headers().get_all(HOST).iter();
    let host = match (request.uri().authority(), hosts.next(), hosts.next()) {
        (Some(authority), _, None) => Some(authority.clone()),
        (None, Some(host), None) => Authority::try_from(host.as_bytes()).ok(),
        _ => None,
    };
    let is_here = host.is_some_and(|host| {
        !host.as_str().contains('@')
            && ["localhost", "127.0.0.1", "[::1]"]
                .iter()
                .any(|name| host.host().eq_ignore_ascii_case(name))
    });
    if !is_here {
        let refusal = "the host must be localhost, 127.0.0.1 or [::1]\n";
        return (StatusCode::MISDIRECTED_REQUEST, refusal).into_response();
    }
    next.run(request).await
}

async fn authenticate(State(password): State<Password>, request: Request, next: Next) -> Response {
    if !password.opens(request.headers()) {
        let challenge = r#"Basic realm="MX job webhooks", charset="UTF-8""#;
        return (StatusCode::UNAUTHORIZED, [(WWW_AUTHENTICATE, challenge)]).into_response();
    }
    next.run(request).await
}

/// Adds the headers of all pages and refusals. A page may have its own policies.
async fn add_headers(mut response: Response) -> Response {
    let headers = response.headers_mut();
    for (name, value) in [
        (X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (X_FRAME_OPTIONS, "DENY"),
        // With `no-referrer`, a browser would hide the origin of this page's own forms.
        (REFERRER_POLICY, "same-origin"),
        (
            HeaderName::from_static("cross-origin-resource-policy"),
            "same-origin",
        ),
        (
            HeaderName::from_static("cross-origin-opener-policy"),
            "same-origin",
        ),
    ] {
        headers.insert(name, HeaderValue::from_static(value));
    }
    for (name, value) in [
        (
            axum::http::header::CONTENT_SECURITY_POLICY,
            "default-src 'none'; style-src 'self'; form-action 'self'; base-uri 'none'; \
             frame-ancestors 'none'",
        ),
        (CACHE_CONTROL, "no-store"),
    ] {
        headers
            .entry(name)
            .or_insert(HeaderValue::from_static(value));
    }
    response
}
