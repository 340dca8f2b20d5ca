//! Requests, by a name that lets the compiler explain a mistake.

use http::Request;
use http_body::Body;
use tower::BoxError;

/// An [`http::Request`] with any body.
///
/// Implemented for `http::Request<B>` alone. With it, the compiler explains why `axum::serve` does not
/// take the service as it is: a server calls what it is given with connections.
#[diagnostic::on_unimplemented(
    message = "the service takes HTTP requests, and not `{Self}`",
    label = "a server calls this with connections",
    note = "make a service for connections of it: `axum::ServiceExt::<axum::extract::Request>::into_make_service(app)`",
    note = "or add the layer to a router, which `axum::serve` takes: `Router::new().layer(webhooks.at(path))`"
)]
pub trait HttpRequest: sealed::Sealed {
    /// The body of the request.
    type Body: Body<Error: Into<BoxError>>;

    /// The response to the request.
    type Response<T>;

    #[doc(hidden)]
    fn into_request(self) -> Request<Self::Body>;
}

impl<B: Body<Error: Into<BoxError>>> HttpRequest for Request<B> {
    type Body = B;
    type Response<T> = http::Response<T>;

    #[inline]
    fn into_request(self) -> Self {
        self
    }
}

mod sealed {
    pub trait Sealed {}

    impl<B> Sealed for http::Request<B> {}
}
