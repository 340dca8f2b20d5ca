//! `IntoResponse` of axum for errors and receipts.

use axum_core::body::Body;
use axum_core::response::{IntoResponse, Response};

use crate::error::{Error, Receipt};
use crate::pipeline::respond;

/// Returns the response of the [answer table](crate::guide::answers), with an empty body.
impl IntoResponse for Error {
    fn into_response(self) -> Response {
        respond::<Body>(Err(self))
    }
}

/// Returns 204 with an empty body. The receipt is in the response's extensions.
impl IntoResponse for Receipt {
    fn into_response(self) -> Response {
        respond::<Body>(Ok(self))
    }
}
