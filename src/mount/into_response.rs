//! Errors and receipts as responses of axum.

use axum_core::body::Body;
use axum_core::response::{IntoResponse, Response};

use crate::error::{Error, Receipt};
use crate::pipeline::respond;

/// The response of the answer table, with an empty body.
impl IntoResponse for Error {
    fn into_response(self) -> Response {
        respond::<Body>(Err(self))
    }
}

/// 204 with an empty body.
impl IntoResponse for Receipt {
    fn into_response(self) -> Response {
        respond::<Body>(Ok(self))
    }
}
