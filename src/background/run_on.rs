//! The future of a callback, which outlives whoever awaited it.

use std::fmt;
use std::pin::Pin;
use std::task::{Context, Poll};

use super::{BackgroundTask, Delivery, Place};
use crate::observe::{Entered, Observation, Observed};
use crate::panic::drop_caught;
use crate::{Error, Receipt};

/// The outcome of a callback, which runs on if it is not waited for.
///
/// When the sender hangs up, the web server drops the future that answers it, and with
/// it everything that future awaits. Dropping this future hands the rest of the callback
/// to the runtime of its [`Background`](crate::Background) instead, where it finishes; its
/// outcome goes nowhere.
///
/// # Cancellation
///
/// That takes a runtime to hand it to: with the feature `tokio` a drop within a runtime
/// that is not shutting down, or else
/// [`Background::with_spawn`](crate::Background::with_spawn). Where there is none, dropping
/// it cancels the callback.
///
/// Returned by [`JobRouter::call`](crate::JobRouter::call).
///
/// # Example
///
/// ```
/// use mx_job_webhook::{Job, JobEvent, JobRouter, Status};
/// use std::time::Duration;
/// use tokio::{sync::mpsc, time::{sleep, timeout}};
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let (sender, mut finished) = mpsc::unbounded_channel();
/// let jobs = JobRouter::new().on_completed(move |event| {
///     let sender = sender.clone();
///     async move {
///         sleep(Duration::from_millis(300)).await; // The sender hangs up here.
///         sender.send(event.into_job().guid)
///     }
/// });
/// let event = JobEvent::from(Job::new("JOB-1".parse()?, Status::Completed));
/// assert!(timeout(Duration::from_millis(1), jobs.call(event)).await.is_err());
/// drop(jobs);
/// let guid = finished.recv().await; // `None` without the feature `tokio`
/// assert_eq!(guid.is_some(), cfg!(feature = "tokio"));
/// # Ok(()) }
/// ```
#[must_use = "the outcome says what to answer"]
pub struct RunOn(State);

enum State {
    Running(Running),
    Settled(Result<Receipt, Error>),
    /// The outcome was given, or the rest of the callback handed over.
    Gone,
}

impl RunOn {
    pub(crate) fn running(delivery: Delivery, place: Place, observation: Observation) -> Self {
        let delivery = Observed::new(delivery, observation);
        Self(State::Running(Running { delivery, place }))
    }

    pub(crate) fn settled(outcome: Result<Receipt, Error>) -> Self {
        Self(State::Settled(outcome))
    }

    /// The sender is told this, though the callback is under way and will run on.
    pub(crate) fn answer(&mut self, error: &Error) -> Option<Entered> {
        match &mut self.0 {
            State::Running(running) => Some(running.delivery.answer(error)),
            State::Settled(_) | State::Gone => None,
        }
    }

    fn take(&mut self) -> State {
        std::mem::replace(&mut self.0, State::Gone)
    }
}

impl Future for RunOn {
    type Output = Result<Receipt, Error>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        match self.take() {
            // It leaves its place before it is polled, so that one that unwinds is not handed over.
            State::Running(mut running) => {
                let polled = running.poll(context);
                if polled.is_pending() {
                    self.0 = State::Running(running);
                }
                polled
            }
            State::Settled(outcome) => Poll::Ready(outcome),
            State::Gone => panic!("`RunOn` was polled after it was ready"),
        }
    }
}

impl Drop for RunOn {
    fn drop(&mut self) {
        if let State::Running(running) = self.take() {
            running.hand_over();
        }
    }
}

/// A callback in its place, which is free when nothing of the callback is left: the destructors of
/// what it held and of what it returned may take their time.
pub(crate) struct Running {
    // Dropped first.
    delivery: Observed,
    place: Place,
}

impl Running {
    pub(crate) fn new(delivery: Observed, place: Place) -> Self {
        Self { delivery, place }
    }

    fn poll(&mut self, context: &mut Context<'_>) -> Poll<Result<Receipt, Error>> {
        let _entered = self.place.enter();
        Pin::new(&mut self.delivery).poll(context)
    }

    /// Hands the rest to the runtime, or cancels it where there is none.
    pub(crate) fn hand_over(self) {
        let background = self.place.background().clone();
        background.spawn_task(BackgroundTask::new(Box::pin(self)));
    }
}

/// A callback whose outcome is dropped: its delivery was answered, or its sender left.
impl Future for Running {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<()> {
        Running::poll(&mut self, context).map(|outcome| {
            let _ = drop_caught(outcome);
        })
    }
}

impl fmt::Debug for RunOn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RunOn").finish_non_exhaustive()
    }
}
