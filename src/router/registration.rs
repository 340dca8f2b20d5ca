//! The methods that register callbacks, for callbacks of either signature.

use std::sync::Arc;

use super::{JobRouter, NoState, Unhandled, WithState};
use crate::callback::{Callback, CallbackFuture, Erased, StateCallback, erase};
use crate::{DeadLetter, JobEvent, Receipt, Status};

/// The methods `on_*`, for callbacks of one signature: what a callback for a job has to be, what
/// one for the unhandled, the function that makes either take the event alone, and how the examples
/// make a router and begin a callback.
macro_rules! registration {
    ([$($job:tt)+] [$($unhandled:tt)+] [$($dead:tt)+] $adapt:path [$new:literal] [$takes:literal]) => {
        registration!(on_denied, Denied, [$($job)+],
            $new, $takes, "ask for other credentials",
            "Registers the callback for DENIED: the bank refused the credentials.");
        registration!(on_prevented, Prevented, [$($job)+],
            $new, $takes, "no try before the credentials change",
            "Registers the callback for PREVENTED: logins are blocked for now.");
        registration!(on_halted, Halted, [$($job)+],
            $new, $takes, "try again later",
            "Registers the callback for HALTED: the job failed for another reason.");
        registration!(on_completed, Completed, [$($job)+],
            $new, $takes, "read the accounts",
            "Registers the callback for COMPLETED: the accounts can be read.");
        registration!(on_challenged, Challenged, [$($job)+],
            $new, $takes, "ask the user the question",
            "Registers the callback for CHALLENGED: the bank asks the user something.");

        /// Registers the callback for any status, in MX's table or not.
        ///
        /// For `Status::from("AUTHENTICATED")`, say, or for `Status::Received` of a job that was
        /// polled. A name and an integer outside the table are two statuses.
        ///
        /// # Panics
        ///
        /// If the status has a callback already.
        ///
        /// # Example
        ///
        /// ```
        /// use mx_job_webhook::{JobEvent, JobRouter, Receipt, Status};
        ///
        /// # #[tokio::main(flavor = "current_thread")]
        /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
        #[doc = concat!("let jobs = ", $new)]
        #[doc = concat!("    .on_status(Status::from(\"AUTHENTICATED\"), |", $takes, "event| async move {")]
        ///         println!("{} is let in", event.guid);
        ///     });
        /// let event = JobEvent::decode(r#"{"job": {"guid": "JOB-1", "status_name": "AUTHENTICATED"}}"#)?;
        /// assert_eq!(jobs.call(event).await?, Receipt::Handled);
        /// # Ok(()) }
        /// ```
        #[must_use]
        #[track_caller]
        pub fn on_status<F, Fut>(self, status: Status, callback: F) -> Self
        where
            F: $($job)+,
            Fut: CallbackFuture,
        {
            let callback = erase($adapt(&self.state, callback), Receipt::Handled);
            self.route(status, callback)
        }

        /// Registers the callback for all that has none; it is told why.
        ///
        /// It takes an [`Unhandled`], which tells a status that nobody wants from one that MX
        /// may have invented. Without it, both are acknowledged in silence.
        ///
        /// # Panics
        ///
        /// If it is registered already.
        ///
        /// # Example
        ///
        /// ```
        /// use mx_job_webhook::{JobEvent, JobRouter, Receipt, Unhandled};
        ///
        /// # #[tokio::main(flavor = "current_thread")]
        /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
        #[doc = concat!("let jobs = ", $new, ".on_unhandled(|", $takes, "unhandled: Unhandled| async move {")]
        ///     match unhandled {
        ///         Unhandled::UnknownStatus(event) => Err(format!("what is {}?", event.status)),
        ///         _ => Ok(()), // nobody wants it
        ///     }
        /// });
        /// let new = JobEvent::decode(r#"{"job": {"guid": "JOB-1", "status_name": "SUSPENDED"}}"#)?;
        /// assert!(jobs.call(new).await.is_err()); // MX delivers it again, while somebody finds out.
        /// let known = JobEvent::decode(r#"{"job": {"guid": "JOB-1", "status_name": "RECEIVED"}}"#)?;
        /// assert_eq!(jobs.call(known).await?, Receipt::Unhandled);
        /// # Ok(()) }
        /// ```
        #[must_use]
        #[track_caller]
        pub fn on_unhandled<F, Fut>(self, callback: F) -> Self
        where
            F: $($unhandled)+,
            Fut: CallbackFuture,
        {
            let callback = erase($adapt(&self.state, callback), Receipt::Unhandled);
            self.route_unhandled(callback)
        }

        /// Registers who takes the events that a callback failed for good.
        ///
        /// See [`Permanent`](crate::Permanent). If it succeeds the delivery is acknowledged; if it
        /// fails, the answer is 500. Each delivery then costs a copy of its event.
        ///
        /// # Panics
        ///
        /// If it is registered already.
        ///
        /// # Example
        ///
        /// ```
        /// use mx_job_webhook::{JobEvent, JobRouter, Permanent, Receipt};
        ///
        /// # #[tokio::main(flavor = "current_thread")]
        /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
        #[doc = concat!("let jobs = ", $new)]
        #[doc = concat!("    .on_denied(|", $takes, "_event| async { Err(Permanent::new(\"no such user\")) })")]
        #[doc = concat!("    .on_dead_letter(|", $takes, "letter| async move { println!(\"keep {letter:?}\") });")]
        /// let event = JobEvent::decode(r#"{"job": {"guid": "JOB-1", "status_name": "DENIED"}}"#)?;
        /// assert_eq!(jobs.call(event).await?, Receipt::DeadLettered);
        /// # Ok(()) }
        /// ```
        #[must_use]
        #[track_caller]
        pub fn on_dead_letter<F, Fut>(self, hook: F) -> Self
        where
            F: $($dead)+,
            Fut: CallbackFuture,
        {
            let hook = erase($adapt(&self.state, hook), Receipt::DeadLettered);
            self.route_dead_letter(hook)
        }
    };
    (
        $name:ident, $status:ident, [$($job:tt)+], $new:literal, $takes:literal, $act:literal,
        $doc:literal
    ) => {
        #[doc = $doc]
        ///
        /// # Panics
        ///
        /// If the status has a callback already.
        ///
        /// # Example
        ///
        /// ```
        /// use mx_job_webhook::{JobRouter, Status};
        ///
        #[doc = concat!("let jobs = ", $new, ".", stringify!($name), "(|", $takes, "event| async move {")]
        #[doc = concat!("    println!(\"", $act, ": {:?}\", event.member_guid);")]
        /// });
        #[doc = concat!("assert!(jobs.handles(&Status::", stringify!($status), "));")]
        /// ```
        #[must_use]
        #[track_caller]
        pub fn $name<F, Fut>(self, callback: F) -> Self
        where
            F: $($job)+,
            Fut: CallbackFuture,
        {
            self.on_status(Status::$status, callback)
        }
    };
}

/// Registration of callbacks that take the event alone.
impl JobRouter {
    registration!(
        [Callback<JobEvent, Fut>] [Callback<Unhandled, Fut>] [Callback<DeadLetter, Fut>] take_event
        ["JobRouter::new()"] [""]
    );
}

fn take_event<F>(_: &NoState, callback: F) -> F {
    callback
}

/// Registration of callbacks that take the application's state, then the event.
impl<App: Clone + Send + Sync + 'static> JobRouter<WithState<App>> {
    registration!(
        [StateCallback<App, JobEvent, Fut>] [StateCallback<App, Unhandled, Fut>]
        [StateCallback<App, DeadLetter, Fut>] take_state
        ["JobRouter::with_state(\"app\")"] ["_app, "]
    );
}

fn take_state<App, Event, F, Fut>(
    state: &WithState<App>,
    callback: F,
) -> impl Fn(Event) -> Fut + Send + Sync + 'static
where
    App: Clone + Send + Sync + 'static,
    F: StateCallback<App, Event, Fut>,
{
    let app = state.0.clone();
    move |event| callback(app.clone(), event)
}

/// What either signature comes to.
impl<S> JobRouter<S> {
    #[track_caller]
    fn route(mut self, status: Status, callback: Erased<JobEvent>) -> Self {
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
    fn route_unhandled(mut self, callback: Erased<Unhandled>) -> Self {
        let routes = Arc::make_mut(&mut self.routes);
        assert!(
            routes.unhandled.is_none(),
            "a callback for the unhandled is registered already"
        );
        routes.unhandled = Some(callback);
        self
    }

    #[track_caller]
    fn route_dead_letter(mut self, hook: Erased<DeadLetter>) -> Self {
        let routes = Arc::make_mut(&mut self.routes);
        assert!(
            routes.dead_letter.is_none(),
            "a hook for dead letters is registered already"
        );
        routes.dead_letter = Some(hook);
        self
    }
}
