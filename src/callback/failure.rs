//! What a hook is told of a delivery that failed.

use std::fmt;
use std::sync::Arc;

use crate::error::{Error, ErrorKind, Receipt};
use crate::job::Job;
use crate::util::catch_panic::{CatchDrop, catch};

/// A delivery that failed, for the hooks that report it.
///
/// What `on_error` of the layer and the terminal service gets, for a failure of any stage,
/// and what [`AcknowledgeFirstLayer`](crate::acknowledge_first::AcknowledgeFirstLayer) reports to.
#[derive(Clone, Copy)]
pub struct Failure<'a> {
    error: &'a Error,
    job: Option<&'a Job>,
}

impl<'a> Failure<'a> {
    /// What went wrong; its kind says at which stage.
    #[must_use]
    pub fn error(&self) -> &'a Error {
        self.error
    }

    /// The job, if it went wrong after the body was decoded.
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
