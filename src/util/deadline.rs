//! Deadlines, and the clock that they go by.

use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::runtime::Handle;
use tokio::task::coop::{Unconstrained, unconstrained};
use tokio::time::{Sleep, sleep};

use crate::util::catch_panic::{Panicked, catch};

/// tokio's clock, which tests can pause.
pub(crate) use tokio::time::Instant;

/// A time limit, or none.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Timeout(pub(crate) Option<Duration>);

impl Timeout {
    pub(crate) const READ: Self = Self::of(Duration::from_secs(10));
    pub(crate) const DISCARD: Self = Self::of(Duration::from_secs(2));
    pub(crate) const LEDGER: Self = Self::of(Duration::from_secs(5));
    pub(crate) const NONE: Self = Self(None);

    pub(crate) const fn of(limit: Duration) -> Self {
        Self(Some(limit))
    }

    pub(crate) const fn limit(self) -> Option<Duration> {
        self.0
    }
}

/// A deadline whose timer starts at the first poll, so that a delivery that never waits has none.
///
/// Outside of a tokio runtime, and in one whose timers are disabled, there is no timer, and the
/// deadline never passes. A timer belongs to the runtime that it was started on.
#[derive(Default)]
pub(crate) struct Deadline(State);

#[derive(Default)]
enum State {
    #[default]
    NotStarted,
    /// The last poll was outside of a runtime. A later poll within one starts the timer.
    NoRuntime,
    NoTimer,
    Running(Timer),
}

type Timer = Pin<Box<Unconstrained<Sleep>>>;

impl Deadline {
    /// Returns ready once the time has passed.
    ///
    /// The code that is bounded has been polled before, and may have used up the task's budget. A
    /// timer that respects the budget would then never fire, so this one ignores it.
    pub(crate) fn poll(&mut self, timeout: Timeout, context: &mut Context<'_>) -> Poll<()> {
        let Some(limit) = timeout.limit() else {
            return Poll::Pending;
        };
        if matches!(self.0, State::NotStarted | State::NoRuntime) {
            self.0 = start(limit);
        }
        let State::Running(timer) = &mut self.0 else {
            return Poll::Pending;
        };
        // A future that was handed to another runtime can outlive the timer's own. tokio then
        // panics.
        match catch(|| timer.as_mut().poll(context)) {
            Ok(poll) => poll,
            Err(Panicked) => {
                self.0 = State::NoTimer;
                Poll::Pending
            }
        }
    }

    /// Returns whether the last poll found no timer, so that no timer wakes this task.
    pub(crate) fn has_no_timer(&self) -> bool {
        matches!(self.0, State::NoRuntime | State::NoTimer)
    }
}

fn start(limit: Duration) -> State {
    if Handle::try_current().is_err() {
        return State::NoRuntime;
    }
    // If timers are disabled, tokio panics. It offers no other way to find out.
    match catch(|| sleep(limit)) {
        Ok(timer) => State::Running(Box::pin(unconstrained(timer))),
        Err(Panicked) => State::NoTimer,
    }
}
