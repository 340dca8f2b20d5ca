//! The future of a delivery whose callback has started, seen to its end by whoever polls it.

use std::pin::Pin;
use std::task::{Context, Poll, ready};

use super::delivery::Within;
use super::{Entered, Observation};
use crate::background::Delivery;
use crate::panic::catch;
use crate::{Error, Receipt};

/// A delivery that tells how it ended: with an outcome, or dropped before.
pub(crate) struct Observed {
    // Dropped first: what the callback's destructors do is seen.
    delivery: Within,
    observation: Observation,
}

impl Observed {
    pub(crate) fn new(delivery: Delivery, mut observation: Observation) -> Self {
        Self {
            delivery: observation.calling(delivery),
            observation,
        }
    }

    /// The sender is told this, and the callback goes on.
    pub(crate) fn answer(&mut self, error: &Error) -> Entered {
        self.observation.answer(error);
        self.observation.enter()
    }
}

impl Future for Observed {
    type Output = Result<Receipt, Error>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        let outcome = ready!(Pin::new(&mut self.delivery).poll(context));
        // A recorder or subscriber that panics is no panic of the callback.
        let _ = catch(|| self.observation.end(&outcome));
        Poll::Ready(outcome)
    }
}
