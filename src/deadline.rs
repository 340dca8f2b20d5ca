//! The clock, and how long something may take where there is a timer to tell.

use std::task::{Context, Poll};

/// tokio's clock stands still where a test says so.
#[cfg(not(feature = "tokio"))]
pub(crate) use std::time::Instant;
#[cfg(feature = "tokio")]
pub(crate) use tokio::time::Instant;

/// A time limit, or none.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Timeout(#[cfg(feature = "tokio")] pub(crate) Option<std::time::Duration>);

impl Timeout {
    #[cfg(feature = "tokio")]
    pub(crate) const READ: Self = Self(Some(std::time::Duration::from_secs(10)));
    #[cfg(feature = "tokio")]
    pub(crate) const LEDGER: Self = Self(Some(std::time::Duration::from_secs(5)));
    #[cfg(feature = "tokio")]
    pub(crate) const NONE: Self = Self(None);
    #[cfg(not(feature = "tokio"))]
    pub(crate) const READ: Self = Self();
    #[cfg(not(feature = "tokio"))]
    pub(crate) const LEDGER: Self = Self();
    #[cfg(not(feature = "tokio"))]
    pub(crate) const NONE: Self = Self();
}

/// A timer that starts when something has to be waited for: a delivery that never waits has none.
#[derive(Default)]
pub(crate) struct Deadline {
    #[cfg(feature = "tokio")]
    sleep: Option<std::pin::Pin<Box<tokio::time::Sleep>>>,
}

impl Deadline {
    /// Ready when the time is over.
    #[cfg(feature = "tokio")]
    pub(crate) fn poll(&mut self, timeout: Timeout, context: &mut Context<'_>) -> Poll<()> {
        let Some(timeout) = timeout.0 else {
            return Poll::Pending;
        };
        // Outside of a tokio runtime there is no timer, and without a timer no deadline.
        if self.sleep.is_none() && tokio::runtime::Handle::try_current().is_err() {
            return Poll::Pending;
        }
        let sleep = self
            .sleep
            .get_or_insert_with(|| Box::pin(tokio::time::sleep(timeout)));
        sleep.as_mut().poll(context)
    }

    #[cfg(not(feature = "tokio"))]
    pub(crate) fn poll(&mut self, _: Timeout, _: &mut Context<'_>) -> Poll<()> {
        Poll::Pending
    }
}
