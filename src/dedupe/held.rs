//! A claim that comes to its end, whatever happens to whoever holds it.

use std::sync::Arc;
use std::task::{Context, Waker};

use super::layer::Options;
use super::{Claim, EventName, FencingToken, Ledger};
use crate::deadline::Instant;
use crate::panic::{CatchPanic, Panicked};
use crate::{BackgroundTask, Error};

/// An event, and the claim on it once there is one.
///
/// Dropped before the callback has succeeded, the claim is released; after, it is committed.
pub(super) struct Held<L: Ledger> {
    pub(super) options: Arc<Options<L>>,
    event: EventName,
    claim: State,
}

#[derive(Clone, Copy)]
enum State {
    /// Not claimed yet, or settled, or given back: nothing is left to do.
    None,
    Claimed(FencingToken),
    Succeeded(FencingToken),
}

impl<L: Ledger> Held<L> {
    pub(super) fn new(options: Arc<Options<L>>, event: EventName) -> Self {
        Self {
            options,
            event,
            claim: State::None,
        }
    }

    /// Claims the event. Dropped on the way, it may leave a claim that no delivery knows of: the
    /// lease ends it.
    pub(super) async fn claim(&mut self) -> Result<Claim, Error> {
        let lease = self.options.lease;
        let claim = self.options.ledger.claim(&self.event, lease).await?;
        if let Claim::Granted(token) = claim {
            self.claim = State::Claimed(token);
        }
        Ok(claim)
    }

    /// Settles the event, in as many attempts as there is time for. From here on it is not released: the
    /// callback has succeeded, and a release would have it run again at once. If all attempts fail, further ones
    /// follow when this is dropped.
    pub(super) async fn commit(&mut self) -> Result<(), Error> {
        let State::Claimed(token) = self.claim else {
            return Ok(());
        };
        self.claim = State::Succeeded(token);
        let started = Instant::now();
        let ledger = &self.options.ledger;
        if let Err(error) = ledger.commit(&self.event, token).await {
            // Boxed, so that no delivery has to carry it.
            let again = Box::pin(ledger.commit_again(&self.event, token, started)).await;
            // The first failure says why; the last may only say that time was up.
            again.map_err(|_| error)?;
        }
        self.claim = State::None;
        // Another delivery's success may stand first; this callback has succeeded too, as a 2xx says.
        Ok(())
    }

    /// Releases the claim, and waits until it is. If that fails, another attempt follows when this is dropped.
    pub(super) async fn release(&mut self) {
        if let State::Claimed(token) = self.claim {
            let released = self.options.ledger.release(&self.event, token).await;
            if released.is_ok() {
                self.claim = State::None;
            }
        }
    }
}

impl<L: Ledger> Drop for Held<L> {
    fn drop(&mut self) {
        if let State::None = self.claim {
            return;
        }
        let (options, event) = (self.options.clone(), self.event.clone());
        let end = end(options, event, self.claim);
        // This may be the unwinding of a panic, where a second one would end the process.
        let end = CatchPanic::start(|| end, |()| ());
        let mut end = Box::pin(async {
            let _: Result<(), Panicked> = end.await;
        });
        // A ledger in memory is done at once.
        let context = &mut Context::from_waker(Waker::noop());
        if end.as_mut().poll(context).is_pending() {
            self.options.background.spawn(BackgroundTask::new(end));
        }
    }
}

/// Tells the ledger. A release is tried once, since the lease ends it too; a commit until the ledger has it or
/// the lease has expired.
async fn end<L: Ledger>(options: Arc<Options<L>>, event: EventName, claim: State) {
    let token = match claim {
        State::None => return,
        State::Claimed(token) => {
            let _ = options.ledger.release(&event, token).await;
            return;
        }
        State::Succeeded(token) => token,
    };
    options
        .ledger
        .commit_until(&event, token, options.lease)
        .await;
}
