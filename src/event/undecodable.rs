//! Bodies that cannot be decoded.

use std::fmt;

use bytes::Bytes;
use http::{Extensions, HeaderMap};

use crate::error::Error;
use crate::util::catch_panic::CatchDrop;

/// A body that could not be decoded, with the reason, the headers and the extensions.
///
/// The hook `on_undecodable` takes it as its argument, and the extractor's rejection contains it.
/// The request was authenticated.
///
/// `Debug` shows the reason and the length of the body.
#[derive(Clone)]
pub struct Undecodable {
    error: Error,
    // These can contain values of the application, whose destructors can panic.
    body: CatchDrop<Bytes>,
    headers: CatchDrop<HeaderMap>,
    extensions: CatchDrop<Extensions>,
}

impl Undecodable {
    pub(crate) fn new(
        error: Error,
        body: Bytes,
        headers: HeaderMap,
        extensions: Extensions,
    ) -> Self {
        Self {
            error,
            body: CatchDrop::new(body),
            headers: CatchDrop::new(headers),
            extensions: CatchDrop::new(extensions),
        }
    }

    /// Returns the reason. It names the field at fault, and contains nothing of the payload.
    #[must_use]
    pub fn error(&self) -> &Error {
        &self.error
    }

    /// Returns the body as it was received.
    #[must_use]
    pub fn body(&self) -> &Bytes {
        &self.body
    }

    /// Returns the headers of the request, without `Authorization`.
    #[must_use]
    pub fn headers(&self) -> &HeaderMap {
        &self.headers
    }

    /// Returns the extensions of the request.
    #[must_use]
    pub fn extensions(&self) -> &Extensions {
        &self.extensions
    }
}

impl fmt::Debug for Undecodable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Undecodable")
            .field("error", &self.error)
            .field("body", &format_args!("{} bytes", self.body.len()))
            .finish_non_exhaustive()
    }
}
