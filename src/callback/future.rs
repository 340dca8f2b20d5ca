//! The response future of services of events.

use std::fmt;
use std::pin::Pin;
use std::task::{Context, Poll};

use crate::error::{Error, Receipt};

/// The response future of this crate's services of events.
///
/// It is a boxed, running callback.
///
/// # Cancellation
///
/// Dropping it cancels the callback. With [`Background::run`](crate::Background::run), the callback
/// continues.
#[must_use = "futures do nothing unless polled"]
pub struct JobFuture(State);

enum State {
    Running(Pin<Box<dyn Future<Output = Result<Receipt, Error>> + Send>>),
    /// There is no callback to run.
    Ready(Receipt),
}

impl JobFuture {
    #[inline]
    pub(crate) fn new(
        callback: impl Future<Output = Result<Receipt, Error>> + Send + 'static,
    ) -> Self {
        Self(State::Running(Box::pin(callback)))
    }

    pub(crate) fn ready(receipt: Receipt) -> Self {
        Self(State::Ready(receipt))
    }
}

impl Future for JobFuture {
    type Output = Result<Receipt, Error>;

    #[inline]
    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        match &mut self.0 {
            State::Running(callback) => callback.as_mut().poll(context),
            State::Ready(receipt) => Poll::Ready(Ok(*receipt)),
        }
    }
}

impl fmt::Debug for JobFuture {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("JobFuture").finish_non_exhaustive()
    }
}
