//! The methods that register callbacks.

use std::sync::Arc;
use std::time::Duration;

use super::{DeadLetter, JobRouter, Unhandled};
use crate::callback::{BoxedCallback, Callback, CallbackFuture, box_callback};
use crate::error::Receipt;
use crate::event::JobEvent;
use crate::job::Status;

/// Registration of callbacks.
impl JobRouter {
    /// Registers the callback for DENIED: the bank refused the credentials.
    ///
    /// # Panics
    ///
    /// If the status has a callback already.
    #[must_use]
    #[track_caller]
    pub fn on_denied<F, Fut>(self, callback: F) -> Self
    where
        F: Callback<JobEvent, Fut>,
        Fut: CallbackFuture,
    {
        self.on_status(Status::Denied, callback)
    }

    /// Registers the callback for PREVENTED: MX blocks further logins.
    ///
    /// The block lasts until the credentials change.
    ///
    /// # Panics
    ///
    /// If the status has a callback already.
    #[must_use]
    #[track_caller]
    pub fn on_prevented<F, Fut>(self, callback: F) -> Self
    where
        F: Callback<JobEvent, Fut>,
        Fut: CallbackFuture,
    {
        self.on_status(Status::Prevented, callback)
    }

    /// Registers the callback for HALTED: the job failed for another reason.
    ///
    /// # Panics
    ///
    /// If the status has a callback already.
    #[must_use]
    #[track_caller]
    pub fn on_halted<F, Fut>(self, callback: F) -> Self
    where
        F: Callback<JobEvent, Fut>,
        Fut: CallbackFuture,
    {
        self.on_status(Status::Halted, callback)
    }

    /// Registers the callback for COMPLETED: the accounts can be read.
    ///
    /// # Panics
    ///
    /// If the status has a callback already.
    #[must_use]
    #[track_caller]
    pub fn on_completed<F, Fut>(self, callback: F) -> Self
    where
        F: Callback<JobEvent, Fut>,
        Fut: CallbackFuture,
    {
        self.on_status(Status::Completed, callback)
    }

    /// Registers the callback for CHALLENGED: the bank asks the user a question.
    ///
    /// # Panics
    ///
    /// If the status has a callback already.
    #[must_use]
    #[track_caller]
    pub fn on_challenged<F, Fut>(self, callback: F) -> Self
    where
        F: Callback<JobEvent, Fut>,
        Fut: CallbackFuture,
    {
        self.on_status(Status::Challenged, callback)
    }

    /// Registers the callback for any status, in MX's table or not.
    ///
    /// Examples are `Status::from("AUTHENTICATED")`, and `Status::Received` of a polled job.
    /// Outside of MX's table, a name and an integer are two different statuses.
    ///
    /// # Panics
    ///
    /// If the status has a callback already.
    #[must_use]
    #[track_caller]
    pub fn on_status<F, Fut>(self, status: Status, callback: F) -> Self
    where
        F: Callback<JobEvent, Fut>,
        Fut: CallbackFuture,
    {
        self.route(status, box_callback(callback, Receipt::Handled))
    }

    /// Registers one callback for several statuses.
    ///
    /// # Panics
    ///
    /// If one of the statuses has a callback already, or is named twice.
    ///
    /// # Example
    ///
    /// ```
    /// use mx_job_webhook::{JobRouter, Status};
    ///
    /// let jobs = JobRouter::new().on_statuses(
    ///     [Status::Denied, Status::Prevented, Status::Halted],
    ///     |event| async move { println!("{} has failed: {}", event.guid, event.status) },
    /// );
    /// assert!(jobs.handles(&Status::Denied) && !jobs.handles(&Status::Completed));
    /// ```
    #[must_use]
    #[track_caller]
    pub fn on_statuses<F, Fut>(
        mut self,
        statuses: impl IntoIterator<Item = Status>,
        callback: F,
    ) -> Self
    where
        F: Callback<JobEvent, Fut>,
        Fut: CallbackFuture,
    {
        let callback = box_callback(callback, Receipt::Handled);
        for status in statuses {
            self = self.route(status, callback.clone());
        }
        self
    }

    /// Registers the callback for every status that has none.
    ///
    /// It takes an [`Unhandled`], which distinguishes a status that the application does not use
    /// from a status that is new at MX. Without this callback, both kinds of events are
    /// acknowledged.
    ///
    /// # Panics
    ///
    /// If it is registered already.
    #[must_use]
    #[track_caller]
    pub fn on_unhandled<F, Fut>(self, callback: F) -> Self
    where
        F: Callback<Unhandled, Fut>,
        Fut: CallbackFuture,
    {
        self.route_unhandled(box_callback(callback, Receipt::Unhandled))
    }

    /// Registers the hook for events whose callback fails permanently.
    ///
    /// See [`Permanent`](crate::Permanent). If the hook succeeds, the delivery is acknowledged. If
    /// it fails, the answer is 500. With a hook, each delivery costs a copy of its event. After any
    /// other failure, MX's retries come first:
    /// [`with_dead_letters_after`](Self::with_dead_letters_after) bounds them.
    ///
    /// With the feature `postgres`, `PostgresDeadLetters` in the module `dead_letters` has a hook that
    /// keeps the events.
    ///
    /// # Panics
    ///
    /// If it is registered already.
    #[must_use]
    #[track_caller]
    pub fn on_dead_letter<F, Fut>(self, hook: F) -> Self
    where
        F: Callback<DeadLetter, Fut>,
        Fut: CallbackFuture,
    {
        self.route_dead_letter(box_callback(hook, Receipt::DeadLettered))
    }

    /// Sets the age from which on each failure of an event's callback counts as permanent.
    ///
    /// The hook [`on_dead_letter`](JobRouter::on_dead_letter) then receives events whose callback fails
    /// again and again, before MX gives them up. MX delivers up to 12 times in about 24 hours, and
    /// sends no number of the retry. So the age is the time since the job's `updated_at`, by this
    /// machine's clock: 20 hours leave most of the retries, and some time for the last ones. An event
    /// without a readable `updated_at` has no age. Without the hook, this has no effect. Defaults to
    /// no age.
    ///
    /// Errors that say nothing about the event, such as a database that is down, count too.
    ///
    /// # Example
    ///
    /// ```
    /// use std::time::Duration;
    /// use mx_job_webhook::job::Timestamp;
    /// use mx_job_webhook::{Background, Job, JobRouter, Receipt, Status};
    ///
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// let jobs = JobRouter::new()
    ///     .on_completed(|_| async { Err("the bank's page has changed") })
    ///     .on_dead_letter(|letter| async move { println!("keep {}", letter.event().guid) })
    ///     .with_dead_letters_after(Duration::from_secs(20 * 60 * 60));
    ///
    /// let mut job = Job::new("JOB-1".parse()?, Status::Completed);
    /// job.updated_at = Some(Timestamp::from_unix_seconds(1_471_281_212)); // years ago
    /// let outcome = Background::new().run(jobs, job.into()).await?;
    /// assert_eq!(outcome, Receipt::DeadLettered);
    /// # Ok(()) }
    /// ```
    #[must_use]
    pub fn with_dead_letters_after(mut self, age: Duration) -> Self {
        Arc::make_mut(&mut self.routes).dead_letters_after = Some(age);
        self
    }

    #[track_caller]
    pub(super) fn route(mut self, status: Status, callback: BoxedCallback<JobEvent>) -> Self {
        assert!(
            !self.handles(&status),
            "a callback for {status} is registered already"
        );
        let routes = Arc::make_mut(&mut self.routes);
        match status.index() {
            Some(index) => routes.known[index] = Some(callback),
            None => routes.other.push((status, callback)),
        }
        self
    }

    #[track_caller]
    pub(super) fn route_unhandled(mut self, callback: BoxedCallback<Unhandled>) -> Self {
        let routes = Arc::make_mut(&mut self.routes);
        assert!(
            routes.unhandled.is_none(),
            "a callback for unhandled events is registered already"
        );
        routes.unhandled = Some(callback);
        self
    }

    #[track_caller]
    pub(super) fn route_dead_letter(mut self, hook: BoxedCallback<DeadLetter>) -> Self {
        let routes = Arc::make_mut(&mut self.routes);
        assert!(
            routes.dead_letter.is_none(),
            "a hook for dead letters is registered already"
        );
        routes.dead_letter = Some(hook);
        self
    }
}
