//! The methods that register callbacks.

use std::sync::Arc;

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
    /// it fails, the answer is 500. With a hook, each delivery costs a copy of its event.
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
