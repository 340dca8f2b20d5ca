//! One request: the head that MX sends, and who it says it is.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use http::header::{ACCEPT, AUTHORIZATION, CONTENT_LENGTH, CONTENT_TYPE, HeaderName};
use http::{HeaderValue, Method, Request};

use super::{Mx, Sample};

/// Who it says it is.
impl<B> Mx<B> {
    /// Sends this user and password, by HTTP Basic.
    #[must_use]
    pub fn with_basic(self, user: &str, password: &str) -> Self {
        let token = STANDARD.encode(format!("{user}:{password}"));
        self.with_authorization(&format!("Basic {token}"))
    }

    /// Sends this bearer token.
    ///
    /// # Panics
    ///
    /// If no header can hold it.
    #[must_use]
    #[track_caller]
    pub fn with_bearer(self, token: &str) -> Self {
        self.with_authorization(&format!("Bearer {token}"))
    }

    #[track_caller]
    fn with_authorization(mut self, value: &str) -> Self {
        let Ok(mut value) = HeaderValue::from_str(value) else {
            panic!("no header can hold the credentials");
        };
        value.set_sensitive(true);
        self.headers.insert(AUTHORIZATION, value);
        self
    }

    /// Sends a header besides, such as one that a proxy would set.
    ///
    /// # Panics
    ///
    /// If that is no header.
    #[must_use]
    #[track_caller]
    pub fn with_header(mut self, name: &str, value: &str) -> Self {
        let (Ok(name), Ok(value)) = (name.parse::<HeaderName>(), value.parse()) else {
            panic!("{name:?} and its value are no header");
        };
        self.headers.insert(name, value);
        self
    }
}

/// Requests for an application that the test calls by itself.
impl<B: From<Bytes>> Mx<B> {
    /// The request that brings a sample, credentials and all.
    #[must_use]
    pub fn request(&self, sample: &Sample) -> Request<B> {
        self.request_with_body(sample.body())
    }

    /// The request with any other body, such as one of MX's other webhooks.
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
