//! The results of closures that check credentials.

use tower::BoxError;

use crate::util::never::Never;

/// The output of a closure's future, for [`Credentials::verify`](crate::Credentials::verify).
///
/// It is a `bool`, or a `Result<bool, E>` whose `E` says why the credentials could not be checked.
#[diagnostic::on_unimplemented(
    message = "a closure that checks credentials must return a future of `bool` or `Result<bool, E>`, not of `{Self}`",
    label = "this closure's future returns `{Self}`"
)]
pub trait Verdict {
    /// Returns whether the sender is accepted.
    ///
    /// # Errors
    ///
    /// The closure's own error: the credentials could not be checked.
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
