//! The deadlines of a build without the feature `tokio`: there is no timer, so none ever passes.

use std::task::{Context, Poll};
use std::time::Duration;

pub(crate) use std::time::Instant;

/// A time limit, which is ignored.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Timeout;

impl Timeout {
    pub(crate) const READ: Self = Self;
    pub(crate) const DISCARD: Self = Self;
    pub(crate) const LEDGER: Self = Self;
    pub(crate) const NONE: Self = Self;

    pub(crate) const fn of(_: Duration) -> Self {
        Self
    }

    pub(crate) const fn limit(self) -> Option<Duration> {
        None
    }
}

/// A deadline that never passes.
#[derive(Default)]
pub(crate) struct Deadline {
    polled: bool,
}

impl Deadline {
    pub(crate) fn poll(&mut self, _: Timeout, _: &mut Context<'_>) -> Poll<()> {
        self.polled = true;
        Poll::Pending
    }

    /// Returns whether the deadline was polled, since every poll finds no timer.
    pub(crate) fn has_no_timer(&self) -> bool {
        self.polled
    }
}
