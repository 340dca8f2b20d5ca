//! What can go wrong with a delivery: one opaque error with a kind.

use std::borrow::Cow;
use std::error::Error as StdError;
use std::fmt;
use std::sync::Arc;

use tower::BoxError;

use crate::Permanent;
use crate::credentials::Challenges;

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
///
/// # Example
///
/// ```
/// use mx_job_webhook::{ErrorKind, Job};
///
/// let error = Job::decode(br#"{"job": {"guid": null, "status": 6}}"#).unwrap_err();
/// assert_eq!(error.kind(), ErrorKind::InvalidJob);
/// assert_eq!(error.field(), Some("guid"));
/// assert_eq!(error.to_string(), "invalid job: `guid` is not a string that names something");
/// ```
#[derive(Clone)]
pub struct Error(Arc<Inner>);

struct Inner {
    kind: ErrorKind,
    field: Option<&'static str>,
    reason: Option<Cow<'static, str>>,
    challenges: Challenges,
    source: Option<BoxError>,
}

/// What kind of thing went wrong, and so what the answer is.
///
/// # Example
///
/// ```
/// use mx_job_webhook::ErrorKind;
///
/// assert!(ErrorKind::OtherWebhook.is_undecodable());
/// assert!(!ErrorKind::Unauthorized.is_undecodable());
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ErrorKind {
    /// Another method than POST came to the terminal service. Answered 405.
    MethodNotAllowed,
    /// The credentials are missing, malformed or wrong. Answered 401.
    Unauthorized,
    /// A closure that checks credentials failed or panicked. Answered 503.
    AuthenticationUnavailable,
    /// The content type is not JSON. Answered 415.
    UnsupportedMediaType,
    /// The body is longer than the limit, or says it will be. Answered 413.
    BodyTooLarge,
    /// The body broke off. Answered 400.
    BodyInterrupted,
    /// The body came too slowly. Answered 408.
    ReadTimeout,
    /// The body is not UTF-8, or not one JSON document. Answered 422.
    NotJson,
    /// Another kind of MX webhook, which has no `job`. Answered 422.
    OtherWebhook,
    /// JSON without an object `job` at its root. Answered 422.
    NoJob,
    /// A job without a usable `guid` or status, or with a field twice. Answered 422.
    InvalidJob,
    /// The callback returned an error. Answered 500.
    CallbackFailed,
    /// The callback panicked. Answered 500.
    CallbackPanicked,
    /// The callback was acknowledged first, and cut short before its end.
    CallbackCancelled,
    /// The service around the callbacks refused, for now. Answered 503.
    Overloaded,
    /// A timeout around the callbacks passed. Answered 503.
    TimedOut,
    /// The answer deadline passed; a callback that started runs on. Answered 503.
    AnswerDeadline,
    /// An earlier delivery of the same event is still under way. Answered 503.
    InFlight,
    /// The ledger could not be asked, or not be told. Answered 503.
    LedgerUnavailable,
    /// The application is shutting down. Answered 503.
    ShuttingDown,
}

impl ErrorKind {
    /// Whether the body was at fault, so that the same bytes would fail again.
    ///
    /// True for [`NotJson`](Self::NotJson), [`OtherWebhook`](Self::OtherWebhook),
    /// [`NoJob`](Self::NoJob) and [`InvalidJob`](Self::InvalidJob): what the hook
    /// `on_undecodable` is called for.
    #[must_use]
    pub fn is_undecodable(self) -> bool {
        matches!(
            self,
            Self::NotJson | Self::OtherWebhook | Self::NoJob | Self::InvalidJob
        )
    }

    /// Whether it says how callbacks went. The other kinds say that none was called, which from
    /// within one is something that the application did, and no reason to answer by.
    fn is_of_callbacks(self) -> bool {
        matches!(
            self,
            Self::CallbackFailed
                | Self::CallbackPanicked
                | Self::CallbackCancelled
                | Self::Overloaded
                | Self::TimedOut
                | Self::AnswerDeadline
                | Self::InFlight
                | Self::LedgerUnavailable
                | Self::ShuttingDown
        )
    }

    fn text(self) -> &'static str {
        match self {
            Self::MethodNotAllowed => "method not allowed",
            Self::Unauthorized => "unauthorized",
            Self::AuthenticationUnavailable => "the credentials could not be checked",
            Self::UnsupportedMediaType => "the content type is not JSON",
            Self::BodyTooLarge => "the body is too large",
            Self::BodyInterrupted => "the body broke off",
            Self::ReadTimeout => "the body came too slowly",
            Self::NotJson => "not JSON",
            Self::OtherWebhook => "another kind of MX webhook",
            Self::NoJob => "not a job webhook",
            Self::InvalidJob => "invalid job",
            Self::CallbackFailed => "the callback failed",
            Self::CallbackPanicked => "the callback panicked",
            Self::CallbackCancelled => "the callback was cut short",
            Self::Overloaded => "overloaded",
            Self::TimedOut => "the callback timed out",
            Self::AnswerDeadline => "the answer deadline passed",
            Self::InFlight => "an earlier delivery of the event is still under way",
            Self::LedgerUnavailable => "the ledger is unavailable",
            Self::ShuttingDown => "shutting down",
        }
    }
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
        chain(self).any(Permanent::is)
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
            source: None,
        }))
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
            source,
        }))
    }
}

/// Reads what a `Service<JobEvent>` failed with.
///
/// Finds, however deep in the chain of sources, an [`Error`] of this crate that says how
/// callbacks went, and tower's own refusals: `Overloaded` of `load_shed` and, with the
/// feature `tokio`, `Elapsed` of `timeout`. Anything else is a callback that failed.
///
/// # Example
///
/// ```
/// use mx_job_webhook::{Error, ErrorKind};
/// use tower::{BoxError, load_shed::error::Overloaded};
///
/// let error = Error::from(BoxError::from(Overloaded::new()));
/// assert_eq!(error.kind(), ErrorKind::Overloaded);
/// ```
impl From<BoxError> for Error {
    fn from(error: BoxError) -> Self {
        match recognise(&*error) {
            Some(Ok(own)) => own,
            Some(Err(kind)) => Self::with_source(kind, error),
            None => Self::with_source(ErrorKind::CallbackFailed, error),
        }
    }
}

impl Error {
    /// Reads what a `Service<JobEvent>` failed with before it took the event: whatever
    /// the reason, no callback started, and another attempt may find it ready.
    pub(crate) fn from_readiness(error: BoxError) -> Self {
        match recognise(&*error) {
            Some(Ok(own)) => own,
            Some(Err(kind)) => Self::with_source(kind, error),
            None => Self::with_source(ErrorKind::Overloaded, error),
        }
    }
}

/// An error of ours, or the kind of one of tower's, anywhere in a chain of sources.
fn recognise(error: &(dyn StdError + 'static)) -> Option<Result<Error, ErrorKind>> {
    chain(error).find_map(|error| {
        if let Some(own) = error.downcast_ref::<Error>() {
            return own.kind().is_of_callbacks().then(|| Ok(own.clone()));
        }
        if error.is::<tower::load_shed::error::Overloaded>() {
            return Some(Err(ErrorKind::Overloaded));
        }
        #[cfg(feature = "tokio")]
        if error.is::<tower::timeout::error::Elapsed>() {
            return Some(Err(ErrorKind::TimedOut));
        }
        None
    })
}

/// An error, its source, the source's source, and so on.
pub(crate) fn chain<'a>(
    error: &'a (dyn StdError + 'static),
) -> impl Iterator<Item = &'a (dyn StdError + 'static)> {
    std::iter::successors(Some(error), |&error| error.source())
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
            .field("source", &self.0.source)
            .finish()
    }
}

impl StdError for Error {
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        self.0
            .source
            .as_deref()
            .map(|source| source as &(dyn StdError + 'static))
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
