//! The results of a delivery: [`Error`] if it was refused, [`Receipt`] if it was acknowledged.
//!
//! There is one opaque error type, with a kind. This module uses `util` and `background`.

mod cause;
mod kind;
mod permanent;
mod receipt;

use std::borrow::Cow;
use std::error::Error as StdError;
use std::fmt;
use std::sync::Arc;

use tower::BoxError;

use crate::background::NoPermit;
use crate::util::catch_panic::{CatchDrop, catch};
#[cfg(any(feature = "postgres", all(feature = "tokio", feature = "tracing")))]
pub(crate) use cause::Causes;
pub use kind::ErrorKind;
pub use permanent::Permanent;
pub use receipt::Receipt;

/// The reason why a delivery was not acknowledged.
///
/// All stages, from the credentials to the callback, share this opaque type. Its
/// [kind](Error::kind) decides the answer.
///
/// The error is in the extensions of each refusal's response, where outer layers can log or count
/// it. It is also the extractor's rejection, and the error of a [`JobRouter`](crate::JobRouter).
/// The sender sees none of it.
///
/// `Display` names the reason and, for an invalid job, the field. It contains nothing of the
/// payload, the headers or the credentials. `{:#}` appends the chain of causes: the error that a
/// callback returned is the [`source`](StdError::source), and prints whatever the application made
/// it print. Control characters of causes are escaped, so that a cause stays on its line. The cause
/// of a body that could not be read is left out, because it could repeat the body.
///
/// # Example
///
/// ```
/// use mx_job_webhook::Error;
///
/// let error = Error::from(tower::BoxError::from("the database is down"));
/// assert_eq!(error.to_string(), "the callback failed");
/// assert_eq!(format!("{error:#}"), "the callback failed: the database is down");
/// ```
#[derive(Clone)]
pub struct Error(Arc<Inner>);

struct Inner {
    kind: ErrorKind,
    field: Option<&'static str>,
    reason: Option<Cow<'static, str>>,
    challenges: Challenges,
    closes: bool,
    source: Option<CatchDrop<BoxError>>,
}

impl Error {
    /// Returns the kind of error, which decides the answer.
    #[must_use]
    pub fn kind(&self) -> ErrorKind {
        self.0.kind
    }

    /// Returns the documented field at fault, for [`ErrorKind::InvalidJob`].
    #[must_use]
    pub fn field(&self) -> Option<&'static str> {
        self.0.field
    }

    /// Returns whether the callback failed permanently, by [`Permanent`].
    #[must_use]
    pub fn is_permanent(&self) -> bool {
        // If `source()` of an application's error panics, the failure is not permanent.
        catch(|| chain(self).any(Permanent::is)).unwrap_or(false)
    }

    pub(crate) fn new(kind: ErrorKind) -> Self {
        Self::build(kind, None, None, None)
    }

    pub(crate) fn with_source(kind: ErrorKind, source: BoxError) -> Self {
        Self::build(kind, None, None, Some(source))
    }

    pub(crate) fn not_json(reason: &'static str) -> Self {
        Self::build(ErrorKind::NotJson, None, Some(reason.into()), None)
    }

    /// Keeps only the position, because the error of `serde_json` may repeat the payload.
    pub(crate) fn not_json_at(line: usize, column: usize) -> Self {
        let reason = format!("syntax error at line {line} column {column}");
        Self::build(ErrorKind::NotJson, None, Some(reason.into()), None)
    }

    pub(crate) fn no_job(reason: &'static str) -> Self {
        Self::build(ErrorKind::NoJob, None, Some(reason.into()), None)
    }

    pub(crate) fn invalid_job(field: &'static str, reason: &'static str) -> Self {
        Self::build(
            ErrorKind::InvalidJob,
            Some(field),
            Some(reason.into()),
            None,
        )
    }

    pub(crate) fn unauthorized(challenges: Challenges) -> Self {
        Self(Arc::new(Inner {
            kind: ErrorKind::Unauthorized,
            field: None,
            reason: None,
            challenges,
            closes: false,
            source: None,
        }))
    }

    pub(crate) fn invalid_token(source: BoxError) -> Self {
        let reason = "the bearer token is invalid or expired";
        let mut error = Self::build(
            ErrorKind::Unauthorized,
            None,
            Some(reason.into()),
            Some(source),
        );
        if let Some(inner) = Arc::get_mut(&mut error.0) {
            inner.challenges.invalid_token = true;
        }
        error
    }

    /// Sets the schemes that a 401 offers. Call it before the error is cloned.
    pub(crate) fn that_offers(mut self, challenges: Challenges) -> Self {
        if let Some(inner) = Arc::get_mut(&mut self.0) {
            let invalid_token = inner.challenges.invalid_token;
            inner.challenges = Challenges {
                invalid_token,
                ..challenges
            };
        }
        self
    }

    /// Makes the answer close the connection. Call it before the error is cloned.
    pub(crate) fn that_closes(mut self) -> Self {
        if let Some(inner) = Arc::get_mut(&mut self.0) {
            inner.closes = true;
        }
        self
    }

    pub(crate) fn closes(&self) -> bool {
        self.0.closes
    }

    pub(crate) fn challenges(&self) -> Challenges {
        self.0.challenges
    }

    fn build(
        kind: ErrorKind,
        field: Option<&'static str>,
        reason: Option<Cow<'static, str>>,
        source: Option<BoxError>,
    ) -> Self {
        Self(Arc::new(Inner {
            kind,
            field,
            reason,
            challenges: Challenges::default(),
            closes: false,
            source: source.map(CatchDrop::new),
        }))
    }
}

/// The schemes that a 401 offers in `WWW-Authenticate`, and the error that it names there.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Challenges {
    pub(crate) basic: bool,
    pub(crate) bearer: bool,
    /// Whether the bearer token in the request is invalid.
    pub(crate) invalid_token: bool,
}

impl From<NoPermit> for Error {
    fn from(reason: NoPermit) -> Self {
        Self::new(match reason {
            NoPermit::AllTaken => ErrorKind::Overloaded,
            NoPermit::Closed => ErrorKind::ShuttingDown,
        })
    }
}

/// Converts the error of a `Service<JobEvent>`.
///
/// The chain of sources is searched for an [`Error`] of a callback, and for two errors of tower:
/// `Overloaded` of `load_shed` and, with the feature `tokio`, `Elapsed` of `timeout`. The first of
/// these determines the kind. Without one, the kind is
/// [`CallbackFailed`](ErrorKind::CallbackFailed).
///
/// An [`Error`] of this crate that is not wrapped stays as it is. Otherwise the whole chain becomes
/// the source, so that a [`Permanent`] around an [`Error`] counts.
impl From<BoxError> for Error {
    fn from(error: BoxError) -> Self {
        Self::recognise(error, ErrorKind::CallbackFailed)
    }
}

impl Error {
    /// Converts the error of a `Service<JobEvent>` that did not become ready.
    ///
    /// No callback has started, and the service may be ready for the next attempt. The kind
    /// therefore defaults to `Overloaded`.
    pub(crate) fn from_readiness(error: BoxError) -> Self {
        Self::recognise(error, ErrorKind::Overloaded)
    }

    fn recognise(error: BoxError, default: ErrorKind) -> Self {
        let error = match error.downcast::<Self>() {
            Ok(own) if own.kind().is_of_callbacks() => return *own,
            Ok(other) => other,
            Err(error) => error,
        };
        // `source()` is code of the application, which may panic.
        let kind = catch(|| chain(&*error).find_map(known_kind)).unwrap_or_default();
        Self::with_source(kind.unwrap_or(default), error)
    }
}

/// Returns the kind of this crate's own errors, and of tower's.
fn known_kind(error: &(dyn StdError + 'static)) -> Option<ErrorKind> {
    if let Some(own) = error.downcast_ref::<Error>() {
        return Some(own.kind()).filter(|kind| kind.is_of_callbacks());
    }
    if error.is::<tower::load_shed::error::Overloaded>() {
        return Some(ErrorKind::Overloaded);
    }
    #[cfg(feature = "tokio")]
    if error.is::<tower::timeout::error::Elapsed>() {
        return Some(ErrorKind::TimedOut);
    }
    None
}

/// Returns an error and its chain of sources.
pub(crate) fn chain<'a>(
    error: &'a (dyn StdError + 'static),
) -> impl Iterator<Item = &'a (dyn StdError + 'static)> {
    std::iter::successors(Some(error), |&error| error.source()).take(MAX_CAUSES)
}

/// Longer than real chains. It ends a chain that leads back to itself.
const MAX_CAUSES: usize = 128;

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.0.kind.text())?;
        if self.0.field.is_some() || self.0.reason.is_some() {
            f.write_str(":")?;
        }
        if let Some(field) = self.0.field {
            write!(f, " `{field}`")?;
        }
        if let Some(reason) = &self.0.reason {
            write!(f, " {reason}")?;
        }
        if f.alternate() && !self.0.kind.is_of_bodies() {
            let reason = self.0.reason.as_deref().unwrap_or_default();
            cause::write_causes(self.source(), reason.to_owned(), f)?;
        }
        Ok(())
    }
}

/// Shows the texts of the causes. Their own `Debug` can show more than an application may log, such as the row that a
/// database has refused.
impl fmt::Debug for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let source = self.source().filter(|_| !self.0.kind.is_of_bodies());
        let source = source.map(|source| {
            let mut text = String::new();
            let _ = cause::write_causes(Some(source), String::new(), &mut text);
            text.trim_start_matches(": ").to_owned()
        });
        f.debug_struct("Error")
            .field("kind", &self.0.kind)
            .field("field", &self.0.field)
            .field("reason", &self.0.reason)
            .field("source", &source)
            .finish()
    }
}

impl StdError for Error {
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        self.0
            .source
            .as_deref()
            .map(|source| &**source as &(dyn StdError + 'static))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug)]
    struct Wrapped(BoxError);

    impl fmt::Display for Wrapped {
        fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("wrapped")
        }
    }

    impl StdError for Wrapped {
        fn source(&self) -> Option<&(dyn StdError + 'static)> {
            Some(&*self.0)
        }
    }

    #[test]
    fn known_errors_are_recognised_at_any_depth() {
        let overloaded = || BoxError::from(tower::load_shed::error::Overloaded::new());
        let own = || BoxError::from(Error::new(ErrorKind::CallbackPanicked));
        let refused = BoxError::from(Error::new(ErrorKind::Unauthorized));
        let cases: [(&str, BoxError, ErrorKind); 6] = [
            (
                "a kind that is not of callbacks",
                refused,
                ErrorKind::CallbackFailed,
            ),
            ("load_shed", overloaded(), ErrorKind::Overloaded),
            (
                "load_shed, wrapped",
                Wrapped(overloaded()).into(),
                ErrorKind::Overloaded,
            ),
            ("ours", own(), ErrorKind::CallbackPanicked),
            (
                "ours, wrapped",
                Wrapped(own()).into(),
                ErrorKind::CallbackPanicked,
            ),
            ("anything else", "no".into(), ErrorKind::CallbackFailed),
        ];
        for (name, error, kind) in cases {
            assert_eq!(Error::from(error).kind(), kind, "{name}");
        }
    }

    #[test]
    fn an_unknown_error_of_readiness_means_overloaded() {
        assert_eq!(
            Error::from_readiness("worker gone".into()).kind(),
            ErrorKind::Overloaded
        );
        let own = BoxError::from(Error::new(ErrorKind::TimedOut));
        assert_eq!(Error::from_readiness(own).kind(), ErrorKind::TimedOut);
    }

    #[test]
    fn the_source_of_a_failed_callback_is_kept() {
        let error = Error::from(BoxError::from("the database is down"));
        assert_eq!(error.to_string(), "the callback failed");
        assert_eq!(error.source().unwrap().to_string(), "the database is down");
    }
}
