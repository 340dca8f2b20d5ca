//! A body that is no job.

use std::fmt;

use bytes::Bytes;
use http::{Extensions, HeaderMap};

use crate::error::Error;
use crate::util::catch_panic::CatchDrop;

/// A body that could not be decoded, with the reason and all that came with it.
///
/// What the hook `on_undecodable` is given, and the extractor's rejection holds. It is
/// authenticated: the sender's credentials were right.
///
/// `Debug` shows the reason and the size of the body, not the body.
#[derive(Clone)]
pub struct Undecodable {
    error: Error,
    // These are the application's, and can panic when they are dropped, wherever that is.
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

    /// Why it could not be decoded; names the field and repeats none of the payload.
    #[must_use]
    pub fn error(&self) -> &Error {
        &self.error
    }

    /// The body as it was received.
    #[must_use]
    pub fn body(&self) -> &Bytes {
        &self.body
    }

    /// The headers of the request, without `Authorization`.
    #[must_use]
    pub fn headers(&self) -> &HeaderMap {
        &self.headers
    }

    /// The extensions of the request.
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
