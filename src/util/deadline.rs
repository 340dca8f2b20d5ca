//! The clock, and how long something may take where there is a timer to tell.

use std::task::{Context, Poll};

#[cfg(feature = "tokio")]
use crate::util::catch_panic::{Panicked, catch};

/// tokio's clock stands still where a test says so.
#[cfg(not(feature = "tokio"))]
pub(crate) use std::time::Instant;
#[cfg(feature = "tokio")]
pub(crate) use tokio::time::Instant;

/// A time limit, or none.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Timeout(#[cfg(feature = "tokio")] pub(crate) Option<std::time::Duration>);

impl Timeout {
    pub(crate) const READ: Self = Self::seconds(10);
    pub(crate) const DISCARD: Self = Self::seconds(2);
    pub(crate) const LEDGER: Self = Self::seconds(5);
    #[cfg(feature = "tokio")]
    pub(crate) const NONE: Self = Self(None);
    #[cfg(not(feature = "tokio"))]
    pub(crate) const NONE: Self = Self();

    /// This limit, where there are timers.
    #[cfg(feature = "tokio")]
    pub(crate) const fn of(limit: std::time::Duration) -> Self {
        Self(Some(limit))
    }

    #[cfg(not(feature = "tokio"))]
    pub(crate) const fn of(_: std::time::Duration) -> Self {
        Self()
    }

    #[cfg(feature = "tokio")]
    pub(crate) const fn limit(self) -> Option<std::time::Duration> {
        self.0
    }

    #[cfg(not(feature = "tokio"))]
    pub(crate) const fn limit(self) -> Option<std::time::Duration> {
        None
    }

    #[cfg(feature = "tokio")]
    const fn seconds(seconds: u64) -> Self {
        Self(Some(std::time::Duration::from_secs(seconds)))
    }

    #[cfg(not(feature = "tokio"))]
    const fn seconds(_: u64) -> Self {
        Self()
    }
}

/// A timer that starts when something has to be waited for: a delivery that never waits has none.
///
/// Outside of a tokio runtime, and within one whose timers are disabled, there is no timer, and
/// without a timer no deadline. A timer belongs to the runtime that it was started on.
#[derive(Default)]
pub(crate) struct Deadline(State);

#[cfg(feature = "tokio")]
type Sleep = std::pin::Pin<Box<tokio::task::coop::Unconstrained<tokio::time::Sleep>>>;

#[derive(Default)]
enum State {
    #[default]
    NotStarted,
    /// Outside of a runtime; within one, a later poll may start it.
    NoRuntime,
    #[cfg(feature = "tokio")]
    NoTimer,
    #[cfg(feature = "tokio")]
    Running(Sleep),
}

impl Deadline {
    /// Ready when the time has passed.
    ///
    /// Whatever is bounded has been polled before, and may have used up the task's budget. A
    /// timer that went by the budget would then never fire, so this one does not.
    #[cfg(feature = "tokio")]
    pub(crate) fn poll(&mut self, timeout: Timeout, context: &mut Context<'_>) -> Poll<()> {
        let Some(timeout) = timeout.0 else {
            return Poll::Pending;
        };
        if matches!(self.0, State::NotStarted | State::NoRuntime) {
            self.0 = start(timeout);
        }
        match &mut self.0 {
            // Handed over to another runtime, it may outlive its own, and tokio says so by a panic.
            State::Running(sleep) => match catch(|| sleep.as_mut().poll(context)) {
                Ok(poll) => poll,
                Err(Panicked) => {
                    self.0 = State::NoTimer;
                    Poll::Pending
                }
            },
            State::NotStarted | State::NoRuntime | State::NoTimer => Poll::Pending,
        }
    }

    #[cfg(not(feature = "tokio"))]
    pub(crate) fn poll(&mut self, _: Timeout, _: &mut Context<'_>) -> Poll<()> {
        self.0 = State::NoRuntime;
        Poll::Pending
    }

    /// Whether the last poll found no timer, so that nothing wakes this task in time.
    pub(crate) fn has_no_timer(&self) -> bool {
        match self.0 {
            State::NoRuntime => true,
            #[cfg(feature = "tokio")]
            State::NoTimer => true,
            _ => false,
        }
    }
}

#[cfg(feature = "tokio")]
fn start(timeout: std::time::Duration) -> State {
    if tokio::runtime::Handle::try_current().is_err() {
        return State::NoRuntime;
    }
    // tokio says that timers are disabled by a panic, and in no other way.
    match catch(|| tokio::time::sleep(timeout)) {
        Ok(sleep) => State::Running(Box::pin(tokio::task::coop::unconstrained(sleep))),
        Err(Panicked) => State::NoTimer,
    }
}
