//! What can go wrong with a delivery: one opaque error with a kind.

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
pub use kind::ErrorKind;
pub use permanent::Permanent;
pub use receipt::Receipt;

/// Why a delivery was not acknowledged.
///
/// One opaque type for every stage, from the credentials to the callback: what differs
/// is its [kind](Error::kind), which decides the answer. It is no enum, so that a stage
/// can say more later without breaking anyone who matches on it.
///
/// It is found in the extensions of every refusal's response, for outer layers that log or
/// count, as the extractor's rejection, and as the error of a
/// [`JobRouter`](crate::JobRouter). The sender is told none of it.
///
/// What it prints names the stage, the field and the reason. It never repeats any of the
/// payload, a header or a credential. The error that a callback returned is kept as
/// [`source`](StdError::source) and prints what the application made it print.
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
    /// What kind of thing went wrong.
    #[must_use]
    pub fn kind(&self) -> ErrorKind {
        self.0.kind
    }

    /// The documented field at fault, for [`ErrorKind::InvalidJob`].
    #[must_use]
    pub fn field(&self) -> Option<&'static str> {
        self.0.field
    }

    /// Whether the callback said that no retry will mend it, by [`Permanent`].
    #[must_use]
    pub fn is_permanent(&self) -> bool {
        // An error of the application's that panics over its source has not said so.
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

    /// Only the place: what `serde_json` prints can repeat what it read.
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

    /// Says that the answer closes the connection. Call it before the error is cloned.
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

/// The schemes that a 401 offers in `WWW-Authenticate`.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Challenges {
    pub(crate) basic: bool,
    pub(crate) bearer: bool,
}

impl From<NoPermit> for Error {
    fn from(reason: NoPermit) -> Self {
        Self::new(match reason {
            NoPermit::AllTaken => ErrorKind::Overloaded,
            NoPermit::Closed => ErrorKind::ShuttingDown,
        })
    }
}

/// Reads what a `Service<JobEvent>` failed with.
///
/// Finds, however deep in the chain of sources, an [`Error`] of this crate that says how
/// callbacks went, and tower's own refusals: `Overloaded` of `load_shed` and, with the
/// feature `tokio`, `Elapsed` of `timeout`. Anything else is a callback that failed.
///
/// An [`Error`] of this crate stays as it is. One that was wrapped in another error gives the
/// new one its kind, and the whole chain is its source: a [`Permanent`] around it counts.
impl From<BoxError> for Error {
    fn from(error: BoxError) -> Self {
        Self::read(error, ErrorKind::CallbackFailed)
    }
}

impl Error {
    /// Reads what a `Service<JobEvent>` failed with before it took the event: whatever
    /// the reason, no callback started, and another attempt may find it ready.
    pub(crate) fn from_readiness(error: BoxError) -> Self {
        Self::read(error, ErrorKind::Overloaded)
    }

    fn read(error: BoxError, unless_recognised: ErrorKind) -> Self {
        let error = match error.downcast::<Self>() {
            Ok(own) if own.kind().is_of_callbacks() => return *own,
            Ok(other) => other,
            Err(error) => error,
        };
        // The application's errors say what their sources are, and may panic over it.
        let kind = catch(|| chain(&*error).find_map(recognise)).unwrap_or_default();
        Self::with_source(kind.unwrap_or(unless_recognised), error)
    }
}

/// The kind of an error of ours, or of one of tower's.
fn recognise(error: &(dyn StdError + 'static)) -> Option<ErrorKind> {
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

/// An error, its source, the source's source, and so on.
pub(crate) fn chain<'a>(
    error: &'a (dyn StdError + 'static),
) -> impl Iterator<Item = &'a (dyn StdError + 'static)> {
    /// Deeper than real chains are; it ends one that leads back to itself.
    const DEEPEST: usize = 128;
    std::iter::successors(Some(error), |&error| error.source()).take(DEEPEST)
}

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
        Ok(())
    }
}

impl fmt::Debug for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Error")
            .field("kind", &self.0.kind)
            .field("field", &self.0.field)
            .field("reason", &self.0.reason)
            .field("source", &self.0.source.as_deref())
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
    fn what_a_service_failed_with_is_recognised_however_deep() {
        let overloaded = || BoxError::from(tower::load_shed::error::Overloaded::new());
        let own = || BoxError::from(Error::new(ErrorKind::CallbackPanicked));
        let refused = BoxError::from(Error::new(ErrorKind::Unauthorized));
        let cases: [(&str, BoxError, ErrorKind); 6] = [
            (
                "no outcome of a callback",
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
    fn a_service_that_never_became_ready_is_overloaded_unless_it_says_otherwise() {
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
