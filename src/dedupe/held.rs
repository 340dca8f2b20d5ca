//! A claim that is given back, whatever happens to whoever holds it.

use std::sync::Arc;
use std::task::{Context, Poll, Waker};

use super::{Commit, EventName, FencingToken, Ledger};
use crate::BackgroundTask;
use crate::panic::catch;

pub(crate) struct Held<L: Ledger>(Option<Claimed<L>>);

struct Claimed<L> {
    ledger: Arc<L>,
    event: EventName,
    token: FencingToken,
}

impl<L: Ledger> Held<L> {
    pub(crate) fn new(ledger: Arc<L>, event: EventName, token: FencingToken) -> Self {
        Self(Some(Claimed {
            ledger,
            event,
            token,
        }))
    }

    /// Settles the event. From here on it is not released, whether or not the commit comes to
    /// its end: the callback has succeeded, and a release would have it run again at once.
    pub(crate) async fn commit(mut self) -> Result<Commit, L::Error> {
        match self.0.take() {
            Some(claimed) => claimed.ledger.commit(&claimed.event, claimed.token).await,
            None => Ok(Commit::Overtaken),
        }
    }

    /// Releases the claim, and waits until it is. What fails is tried once more when this is
    /// dropped; after that, the lease ends by itself.
    pub(crate) async fn release(mut self) {
        if let Some(claimed) = &self.0 {
            let released = claimed.ledger.release(&claimed.event, claimed.token).await;
            if released.is_ok() {
                self.0 = None;
            }
        }
    }
}

impl<L: Ledger> Drop for Held<L> {
    fn drop(&mut self) {
        let Some(claimed) = self.0.take() else { return };
        let mut release = Box::pin(async move {
            let _ = claimed.ledger.release(&claimed.event, claimed.token).await;
        });
        // A ledger in memory is done at once. This may be the unwinding of a panic, where a
        // second one would end the process.
        let context = &mut Context::from_waker(Waker::noop());
        if let Ok(Poll::Pending) = catch(|| release.as_mut().poll(context)) {
            BackgroundTask::new(release).spawn_uncounted();
        }
    }
}
