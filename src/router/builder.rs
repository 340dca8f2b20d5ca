//! The builder of a router whose callbacks share state.

use std::fmt;
use std::time::Duration;

use super::{DeadLetter, JobRouter, Unhandled};
use crate::callback::{CallbackFuture, StateCallback, box_callback, with_state};
use crate::error::Receipt;
use crate::event::JobEvent;
use crate::job::Status;

/// A builder of a [`JobRouter`] whose callbacks take state.
///
/// A callback takes a clone of the state as its first argument, and the event as its second.
///
/// [`JobRouter::with_state`] returns it. Its methods do what the methods of the same name of
/// `JobRouter` do. Finish with [`build`](Self::build).
#[must_use = "a builder does nothing until `build` is called"]
#[derive(Clone)]
pub struct JobRouterBuilder<App> {
    app: App,
    router: JobRouter,
}

impl<App: Clone + Send + Sync + 'static> JobRouterBuilder<App> {
    pub(super) fn new(app: App) -> Self {
        Self {
            app,
            router: JobRouter::new(),
        }
    }

    /// Returns whether a callback is registered for the status.
    #[must_use]
    pub fn handles(&self, status: &Status) -> bool {
        self.router.handles(status)
    }

    /// Returns the router.
    #[must_use]
    pub fn build(self) -> JobRouter {
        self.router
    }

    /// Registers the callback for DENIED: the bank refused the credentials.
    ///
    /// # Panics
    ///
    /// If the status has a callback already.
    #[track_caller]
    pub fn on_denied<F, Fut>(self, callback: F) -> Self
    where
        F: StateCallback<App, JobEvent, Fut>,
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
    #[track_caller]
    pub fn on_prevented<F, Fut>(self, callback: F) -> Self
    where
        F: StateCallback<App, JobEvent, Fut>,
        Fut: CallbackFuture,
    {
        self.on_status(Status::Prevented, callback)
    }

    /// Registers the callback for HALTED: the job failed for another reason.
    ///
    /// # Panics
    ///
    /// If the status has a callback already.
    #[track_caller]
    pub fn on_halted<F, Fut>(self, callback: F) -> Self
    where
        F: StateCallback<App, JobEvent, Fut>,
        Fut: CallbackFuture,
    {
        self.on_status(Status::Halted, callback)
    }

    /// Registers the callback for COMPLETED: the accounts can be read.
    ///
    /// # Panics
    ///
    /// If the status has a callback already.
    #[track_caller]
    pub fn on_completed<F, Fut>(self, callback: F) -> Self
    where
        F: StateCallback<App, JobEvent, Fut>,
        Fut: CallbackFuture,
    {
        self.on_status(Status::Completed, callback)
    }

    /// Registers the callback for CHALLENGED: the bank asks the user a question.
    ///
    /// # Panics
    ///
    /// If the status has a callback already.
    #[track_caller]
    pub fn on_challenged<F, Fut>(self, callback: F) -> Self
    where
        F: StateCallback<App, JobEvent, Fut>,
        Fut: CallbackFuture,
    {
        self.on_status(Status::Challenged, callback)
    }

    /// Registers the callback for any status, in MX's table or not.
    ///
    /// # Panics
    ///
    /// If the status has a callback already.
    #[track_caller]
    pub fn on_status<F, Fut>(mut self, status: Status, callback: F) -> Self
    where
        F: StateCallback<App, JobEvent, Fut>,
        Fut: CallbackFuture,
    {
        let callback = box_callback(with_state(self.app.clone(), callback), Receipt::Handled);
        self.router = self.router.route(status, callback);
        self
    }

    /// Registers one callback for several statuses.
    ///
    /// # Panics
    ///
    /// If one of the statuses has a callback already, or is named twice.
    #[track_caller]
    pub fn on_statuses<F, Fut>(
        mut self,
        statuses: impl IntoIterator<Item = Status>,
        callback: F,
    ) -> Self
    where
        F: StateCallback<App, JobEvent, Fut>,
        Fut: CallbackFuture,
    {
        self.router = self
            .router
            .on_statuses(statuses, with_state(self.app.clone(), callback));
        self
    }

    /// Registers the callback for every status that has none.
    ///
    /// # Panics
    ///
    /// If it is registered already.
    #[track_caller]
    pub fn on_unhandled<F, Fut>(mut self, callback: F) -> Self
    where
        F: StateCallback<App, Unhandled, Fut>,
        Fut: CallbackFuture,
    {
        let callback = box_callback(with_state(self.app.clone(), callback), Receipt::Unhandled);
        self.router = self.router.route_unhandled(callback);
        self
    }

    /// Registers the hook for events whose callback fails permanently.
    ///
    /// # Panics
    ///
    /// If it is registered already.
    #[track_caller]
    pub fn on_dead_letter<F, Fut>(mut self, hook: F) -> Self
    where
        F: StateCallback<App, DeadLetter, Fut>,
        Fut: CallbackFuture,
    {
        let hook = box_callback(with_state(self.app.clone(), hook), Receipt::DeadLettered);
        self.router = self.router.route_dead_letter(hook);
        self
    }

    /// Sets the age from which on each failure of an event's callback counts as permanent.
    pub fn with_dead_letters_after(mut self, age: Duration) -> Self {
        self.router = self.router.with_dead_letters_after(age);
        self
    }
}

/// Prints the statuses that have a callback, and nothing of the state.
impl<App> fmt::Debug for JobRouterBuilder<App> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("JobRouterBuilder")
            .field("router", &self.router)
            .finish_non_exhaustive()
    }
}
