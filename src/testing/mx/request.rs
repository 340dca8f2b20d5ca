//! The requests that the stand-in sends: their head, and their credentials.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use http::header::{ACCEPT, AUTHORIZATION, CONTENT_LENGTH, CONTENT_TYPE, HeaderName};
use http::{HeaderValue, Method, Request};

use super::{Mx, Sample};

/// Credentials and headers.
impl<B> Mx<B> {
    /// Sets the user and password that it sends, by HTTP Basic.
    #[must_use]
    pub fn with_basic(self, user: &str, password: &str) -> Self {
        let token = STANDARD.encode(format!("{user}:{password}"));
        self.with_authorization(&format!("Basic {token}"))
    }

    /// Sets the bearer token that it sends.
    ///
    /// # Panics
    ///
    /// If the token is not a valid header value.
    #[must_use]
    #[track_caller]
    pub fn with_bearer(self, token: &str) -> Self {
        self.with_authorization(&format!("Bearer {token}"))
    }

    #[track_caller]
    fn with_authorization(mut self, value: &str) -> Self {
        let Ok(mut value) = HeaderValue::from_str(value) else {
            panic!("the credentials are not a valid header value");
        };
        value.set_sensitive(true);
        self.headers.insert(AUTHORIZATION, value);
        self
    }

    /// Adds a header, such as one that a proxy would set.
    ///
    /// # Panics
    ///
    /// If the name or the value is not valid in a header.
    #[must_use]
    #[track_caller]
    pub fn with_header(mut self, name: &str, value: &str) -> Self {
        let (Ok(name), Ok(value)) = (name.parse::<HeaderName>(), value.parse()) else {
            panic!("{name:?} and its value are not a valid header");
        };
        self.headers.insert(name, value);
        self
    }
}

/// Requests for tests that call the application themselves.
impl<B: From<Bytes>> Mx<B> {
    /// Returns the request that delivers a sample, with the credentials.
    #[must_use]
    pub fn request(&self, sample: &Sample) -> Request<B> {
        self.request_with_body(sample.body())
    }

    /// Returns the request with another body, such as one of MX's other webhooks.
    #[must_use]
    pub fn request_with_body(&self, body: impl Into<Bytes>) -> Request<B> {
        let body = body.into();
        let length = body.len().into();
        let mut request = Request::new(B::from(body));
        *request.method_mut() = Method::POST;
        *request.uri_mut() = self.uri.clone();
        let headers = request.headers_mut();
        let json = const { HeaderValue::from_static("application/json; charset=utf-8") };
        headers.insert(CONTENT_TYPE, json);
        headers.insert(
            ACCEPT,
            const { HeaderValue::from_static("application/json") },
        );
        headers.insert(CONTENT_LENGTH, length);
        headers.extend(self.headers.clone());
        request
    }
}
