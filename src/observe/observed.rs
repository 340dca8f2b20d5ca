//! The future of a delivery whose callback has started.

use std::pin::Pin;
use std::task::{Context, Poll, ready};

use super::observation::Instrumented;
use super::{Entered, Observation};
use crate::callback::JobFuture;
use crate::error::{Error, Receipt};
use crate::util::catch_panic::catch;

/// A callback that reports its outcome, or that it was dropped before its end.
pub(crate) struct Observed {
    // Dropped before the observation, which therefore covers the callback's destructors.
    callback: Instrumented,
    observation: Observation,
}

impl Observed {
    pub(crate) fn new(callback: JobFuture, mut observation: Observation) -> Self {
        Self {
            callback: observation.calling(callback),
            observation,
        }
    }

    /// Reports the answer of a delivery whose callback continues.
    pub(crate) fn answer(&mut self, error: &Error) -> Entered {
        self.observation.answer(error);
        self.observation.enter()
    }
}

impl Future for Observed {
    type Output = Result<Receipt, Error>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        let outcome = ready!(Pin::new(&mut self.callback).poll(context));
        // A panic of a recorder or subscriber is not the callback's.
        let _ = catch(|| self.observation.end(&outcome));
        Poll::Ready(outcome)
    }
}
