//! What a hook is told of a delivery that failed.

use std::fmt;
use std::sync::Arc;

use crate::panic::{CatchDrop, catch};
use crate::{Error, ErrorKind, Job, Receipt};

/// A delivery that failed, for the hooks that report it.
///
/// What `on_error` of the layer and the terminal service gets, for a failure of any stage,
/// and what [`AcknowledgeFirstLayer`](crate::AcknowledgeFirstLayer) reports to.
///
/// # Example
///
/// ```
/// use mx_job_webhook::{Credentials, ErrorKind, JobRouter, JobWebhookEndpoint};
/// # use axum::body::Body; use http::Request; use tower::ServiceExt;
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let (sender, failures) = std::sync::mpsc::channel();
/// let jobs = JobRouter::new().on_completed(|_| async { Err("the database is down") });
/// let endpoint = JobWebhookEndpoint::new(Credentials::unauthenticated(), jobs)
///     .on_error(move |failure| {
///         let guid = failure.job().map(|job| job.guid.clone());
///         let _ = sender.send((failure.error().kind(), guid));
///     });
///
/// let request = Request::post("/").header("content-type", "application/json");
/// let request = request.body(Body::from(r#"{"job": {"guid": "JOB-1", "status": 6}}"#))?;
/// assert_eq!(endpoint.oneshot(request).await?.status(), 500);
/// assert_eq!(failures.try_recv()?, (ErrorKind::CallbackFailed, Some("JOB-1".parse()?)));
/// # Ok(()) }
/// ```
#[derive(Clone, Copy)]
pub struct Failure<'a> {
    error: &'a Error,
    job: Option<&'a Job>,
}

impl<'a> Failure<'a> {
    /// What went wrong; its kind says at which stage.
    ///
    /// # Example
    ///
    /// ```
    /// use mx_job_webhook::{Credentials, ErrorKind, Failure, JobRouter, JobWebhookEndpoint};
    /// # use axum::body::Body; use http::Request; use tower::ServiceExt;
    ///
    /// /// Somebody to wake up for, and not a stranger at the door.
    /// fn is_ours(failure: Failure<'_>) -> bool {
    ///     matches!(failure.error().kind(), ErrorKind::CallbackFailed | ErrorKind::LedgerUnavailable)
    /// }
    ///
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// let (sender, alarms) = std::sync::mpsc::channel();
    /// let endpoint = JobWebhookEndpoint::new(Credentials::bearer("a-token")?, JobRouter::new())
    ///     .on_error(move |failure| sender.send(is_ours(failure)).unwrap_or_default());
    /// endpoint.oneshot(Request::post("/").body(Body::empty())?).await?;
    /// assert!(!alarms.try_recv()?);
    /// # Ok(()) }
    /// ```
    #[must_use]
    pub fn error(&self) -> &'a Error {
        self.error
    }

    /// The job, if it went wrong after the body was decoded.
    ///
    /// # Example
    ///
    /// ```
    /// use mx_job_webhook::{Credentials, JobRouter, JobWebhookEndpoint};
    /// # use axum::body::Body; use http::Request; use tower::ServiceExt;
    ///
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// let (sender, jobs) = std::sync::mpsc::channel();
    /// let endpoint = JobWebhookEndpoint::new(Credentials::bearer("a-token")?, JobRouter::new())
    ///     .on_error(move |failure| sender.send(failure.job().cloned()).unwrap_or_default());
    /// endpoint.oneshot(Request::post("/").body(Body::empty())?).await?;
    /// assert_eq!(jobs.try_recv()?, None); // Nothing was read for a stranger.
    /// # Ok(()) }
    /// ```
    #[must_use]
    pub fn job(&self) -> Option<&'a Job> {
        self.job
    }
}

impl fmt::Debug for Failure<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Failure")
            .field("error", self.error)
            .field("job", &self.job)
            .finish()
    }
}

/// A hook that is told of failures.
#[derive(Clone)]
pub(crate) struct FailureHook(CatchDrop<Arc<Hook>>);

type Hook = dyn Fn(Failure<'_>) + Send + Sync;

impl FailureHook {
    pub(crate) fn new(hook: impl Fn(Failure<'_>) + Send + Sync + 'static) -> Self {
        Self(CatchDrop::new(Arc::new(hook)))
    }

    /// Whoever reports must not change what is answered: a hook that panics has said enough.
    pub(crate) fn report(&self, error: &Error, job: Option<&Job>) {
        let _ = catch(|| (self.0)(Failure { error, job }));
    }
}

/// Reports how a delivery's callback ends, also when it is dropped before its end: the runtime shut
/// down, or there was none to hand it to.
///
/// The destructor speaks, so keep it behind what may not come to its end.
pub(crate) struct ReportEnd(Option<Box<(FailureHook, Option<Job>)>>);

impl ReportEnd {
    /// Reports to this hook, if there is one. It keeps a job only then.
    pub(crate) fn new(hook: Option<&FailureHook>, job: Option<&Job>) -> Self {
        Self(hook.map(|hook| Box::new((hook.clone(), job.cloned()))))
    }

    /// Reports an outcome that is a failure.
    pub(crate) fn ended(mut self, outcome: &Result<Receipt, Error>) {
        let told = self.0.take();
        if let (Some(told), Err(error)) = (told, outcome) {
            told.0.report(error, told.1.as_ref());
        }
    }

    pub(crate) fn say_nothing(mut self) {
        self.0 = None;
    }
}

impl Drop for ReportEnd {
    fn drop(&mut self) {
        if let Some(told) = self.0.take() {
            let error = Error::new(ErrorKind::CallbackCancelled);
            told.0.report(&error, told.1.as_ref());
        }
    }
}
