//! A claim that comes to its end, whatever happens to whoever holds it.

use std::sync::Arc;
use std::task::{Context, Poll, Waker};

use super::{Commit, EventName, FencingToken, Ledger};
use crate::panic::catch;
use crate::{Background, BackgroundTask};

/// Dropped before its callback has succeeded, the claim is released; after, it is committed.
pub(crate) struct Held<L: Ledger> {
    claimed: Option<Claimed<L>>,
    succeeded: bool,
    background: Background,
}

struct Claimed<L> {
    ledger: Arc<L>,
    event: EventName,
    token: FencingToken,
}

impl<L: Ledger> Held<L> {
    pub(crate) fn new(
        ledger: Arc<L>,
        event: EventName,
        token: FencingToken,
        background: Background,
    ) -> Self {
        Self {
            claimed: Some(Claimed {
                ledger,
                event,
                token,
            }),
            succeeded: false,
            background,
        }
    }

    /// Settles the event; tried a second time if the first fails. From here on it is not
    /// released: the callback has succeeded, and a release would have it run again at once.
    pub(crate) async fn commit(mut self) -> Result<Commit, L::Error> {
        self.succeeded = true;
        let Some(claimed) = &self.claimed else {
            return Ok(Commit::Overtaken);
        };
        let first = claimed.commit().await.ok();
        let outcome = match first {
            Some(commit) => Ok(commit),
            None => claimed.commit().await,
        };
        self.claimed = None;
        outcome
    }

    /// Releases the claim, and waits until it is. What fails is tried once more when this is
    /// dropped; after that, the lease ends by itself.
    pub(crate) async fn release(mut self) {
        if let Some(claimed) = &self.claimed {
            let released = claimed.release().await;
            if released.is_ok() {
                self.claimed = None;
            }
        }
    }
}

impl<L: Ledger> Claimed<L> {
    fn commit(&self) -> impl Future<Output = Result<Commit, L::Error>> + Send {
        self.ledger.commit(&self.event, self.token)
    }

    fn release(&self) -> impl Future<Output = Result<(), L::Error>> + Send {
        self.ledger.release(&self.event, self.token)
    }
}

impl<L: Ledger> Drop for Held<L> {
    fn drop(&mut self) {
        let Some(claimed) = self.claimed.take() else {
            return;
        };
        let succeeded = self.succeeded;
        let mut end = Box::pin(async move {
            if succeeded {
                let _ = claimed.commit().await;
            } else {
                let _ = claimed.release().await;
            }
        });
        // A ledger in memory is done at once. This may be the unwinding of a panic, where a
        // second one would end the process.
        let context = &mut Context::from_waker(Waker::noop());
        if let Ok(Poll::Pending) = catch(|| end.as_mut().poll(context)) {
            self.background.spawn(BackgroundTask::new(end));
        }
    }
}
