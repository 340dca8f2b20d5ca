//! The argument of the hooks that report failed deliveries.

use std::fmt;
use std::sync::Arc;

use crate::error::{Error, ErrorKind, Receipt};
use crate::job::Job;
use crate::util::catch_panic::{CatchDrop, catch};

/// A failed delivery, as the hooks that report failures receive it.
///
/// The hooks are [`JobWebhook::on_error`](crate::JobWebhook::on_error), for failures at any stage,
/// and the hook of [`AcknowledgeFirstLayer`](crate::acknowledge_first::AcknowledgeFirstLayer).
#[derive(Clone, Copy)]
pub struct Failure<'a> {
    error: &'a Error,
    job: Option<&'a Job>,
}

impl<'a> Failure<'a> {
    /// Returns the error. Its kind says at which stage the delivery failed.
    #[must_use]
    pub fn error(&self) -> &'a Error {
        self.error
    }

    /// Returns the job, if the delivery failed after its body was decoded.
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

/// A hook that reports failures.
#[derive(Clone)]
pub(crate) struct FailureHook(CatchDrop<Arc<Hook>>);

type Hook = dyn Fn(Failure<'_>) + Send + Sync;

impl FailureHook {
    pub(crate) fn new(hook: impl Fn(Failure<'_>) + Send + Sync + 'static) -> Self {
        Self(CatchDrop::new(Arc::new(hook)))
    }

    /// Calls the hook. A panic of the hook is caught, so that it does not change the answer.
    pub(crate) fn report(&self, error: &Error, job: Option<&Job>) {
        let _ = catch(|| (self.0)(Failure { error, job }));
    }
}

/// Reports a callback that fails, or that is dropped before its end.
///
/// A callback is dropped early if the runtime shuts down, or if there is no runtime to hand it to.
/// The destructor makes that report, so it has to run after that of the callback's future.
pub(crate) struct ReportEnd(Option<Box<Report>>);

struct Report {
    hook: FailureHook,
    job: Option<Job>,
}

impl ReportEnd {
    /// Reports to this hook. Without a hook, nothing is reported and the job is not cloned.
    pub(crate) fn new(hook: Option<&FailureHook>, job: Option<&Job>) -> Self {
        let report = |hook: &FailureHook| Report {
            hook: hook.clone(),
            job: job.cloned(),
        };
        Self(hook.map(|hook| Box::new(report(hook))))
    }

    /// Reports the outcome if it is a failure.
    pub(crate) fn ended(mut self, outcome: &Result<Receipt, Error>) {
        let report = self.0.take();
        if let (Some(report), Err(error)) = (report, outcome) {
            report.send(error);
        }
    }

    /// Drops the report unsent.
    pub(crate) fn cancel(mut self) {
        self.0 = None;
    }
}

impl Drop for ReportEnd {
    fn drop(&mut self) {
        if let Some(report) = self.0.take() {
            report.send(&Error::new(ErrorKind::CallbackCancelled));
        }
    }
}

impl Report {
    fn send(&self, error: &Error) {
        self.hook.report(error, self.job.as_ref());
    }
}
