//! What a closure that checks credentials says.

use tower::BoxError;

use crate::util::never::Never;

/// What a closure given to [`Credentials::verify`](crate::Credentials::verify) may end in.
///
/// `bool`, or `Result<bool, E>` where `E` says why it could not be told.
#[diagnostic::on_unimplemented(
    message = "a closure that checks credentials ends in `bool` or `Result<bool, E>`, not `{Self}`",
    label = "this closure ends in `{Self}`"
)]
pub trait Verdict {
    /// Whether the sender is accepted.
    ///
    /// # Errors
    ///
    /// The closure's own: it could not be told.
    fn into_result(self) -> Result<bool, BoxError>;
}

impl Verdict for bool {
    fn into_result(self) -> Result<bool, BoxError> {
        Ok(self)
    }
}

impl Verdict for Never {
    fn into_result(self) -> Result<bool, BoxError> {
        self
    }
}

impl<E: Into<BoxError>> Verdict for Result<bool, E> {
    fn into_result(self) -> Result<bool, BoxError> {
        self.map_err(Into::into)
    }
}
