//! The guard of a claim: it releases or commits the claim, even if the delivery is dropped.

use std::sync::Arc;
use std::task::{Context, Waker};

use super::layer::Options;
use crate::background::{Background, BackgroundTask};
use crate::error::Error;
use crate::event::{FencingToken, JobEvent};
use crate::ledger::{Claim, EventName, Ledger};
use crate::util::catch_panic::{CatchPanic, Panicked};
use crate::util::deadline::Instant;

/// An event, and its claim once it is granted.
///
/// A guard that is dropped before the callback has succeeded releases the claim. One that is
/// dropped after that commits it.
pub(super) struct ClaimGuard<L: Ledger> {
    pub(super) options: Arc<Options<L>>,
    event: EventName,
    state: State,
    /// Runs the calls that the drop of the guard leaves to do.
    background: Option<Background>,
}

#[derive(Clone, Copy)]
enum State {
    /// Nothing is left to do: the event is not claimed yet, or it is settled or released.
    Done,
    Claimed(FencingToken),
    Succeeded(FencingToken),
}

impl<L: Ledger> ClaimGuard<L> {
    pub(super) fn new(options: Arc<Options<L>>, event: &JobEvent) -> Self {
        Self {
            options,
            event: EventName::of(event),
            state: State::Done,
            background: Background::of_current_callback(),
        }
    }

    /// Claims the event. If this future is dropped, the ledger may hold a claim without a guard
    /// until its lease expires.
    pub(super) async fn claim(&mut self) -> Result<Claim, Error> {
        let lease = self.options.lease;
        let claim = self.options.ledger.claim(&self.event, lease).await?;
        if let Claim::Granted(token) = claim {
            self.state = State::Claimed(token);
        }
        Ok(claim)
    }

    /// Settles the event, in as many attempts as the time allows.
    ///
    /// From here on the claim is not released, because the callback has succeeded, and a release
    /// would make it run again at once. If all attempts fail, the drop of the guard makes more.
    pub(super) async fn commit(&mut self) -> Result<(), Error> {
        let State::Claimed(token) = self.state else {
            return Ok(());
        };
        self.state = State::Succeeded(token);
        let started = Instant::now();
        let ledger = &self.options.ledger;
        if let Err(error) = ledger.commit(&self.event, token).await {
            // Boxed, so that the future of each delivery stays small.
            let again = Box::pin(ledger.commit_again(&self.event, token, started)).await;
            // The first error has the cause. The last one may only say that the time was up.
            again.map_err(|_| error)?;
        }
        self.state = State::Done;
        // `Commit::Overtaken` counts as settled: another delivery has settled the event first, and
        // this callback has succeeded too, so the delivery is acknowledged.
        Ok(())
    }

    /// Releases the claim. If that fails, the drop of the guard tries once more.
    pub(super) async fn release(&mut self) {
        if let State::Claimed(token) = self.state {
            let released = self.options.ledger.release(&self.event, token).await;
            if released.is_ok() {
                self.state = State::Done;
            }
        }
    }
}

impl<L: Ledger> Drop for ClaimGuard<L> {
    fn drop(&mut self) {
        if let State::Done = self.state {
            return;
        }
        let (options, event) = (self.options.clone(), self.event.clone());
        let end = end_claim(options, event, self.state);
        // A panic may be unwinding, and an uncaught second one would end the process.
        let end = CatchPanic::start(|| end, |()| ());
        let mut end = Box::pin(async {
            let _: Result<(), Panicked> = end.await;
        });
        // A ledger in memory answers the first poll, and needs no task.
        let context = &mut Context::from_waker(Waker::noop());
        if end.as_mut().poll(context).is_pending() {
            let background = self.background.take().unwrap_or_default();
            background.spawn(BackgroundTask::new(end));
        }
    }
}

/// Releases or commits a claim.
///
/// A release is tried once, because the claim expires anyway. A commit is retried until it succeeds
/// or the lease expires.
async fn end_claim<L: Ledger>(options: Arc<Options<L>>, event: EventName, state: State) {
    let token = match state {
        State::Done => return,
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
