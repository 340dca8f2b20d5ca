//! Ledgers: one that errs as networks do, and three that are wrong.

use std::time::Duration;

use mx_job_webhook::{Claim, Commit, EventName, FencingToken, Ledger, MemoryLedger};

use super::world::World;

/// How a ledger can be wrong so that the simulation has to see it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Broken {
    /// Remembers an event before its callback has succeeded.
    CommitsBeforeSuccess,
    /// Says of an event that is under way that it was handled.
    AcknowledgesInFlight,
    /// Keeps the claim of a callback that failed or panicked.
    NeverReleases,
}

/// The ledger under test, behind a network that fails now and then.
pub(crate) struct Unreliable {
    pub(crate) ledger: MemoryLedger,
    pub(crate) world: World,
    pub(crate) broken: Option<Broken>,
}

impl Unreliable {
    /// The network on the way there: slow, or down.
    async fn reach(&self) -> Result<(), &'static str> {
        let delay = self.world.draw(|random| match random.u8(..10) {
            0..7 => 0,
            _ => random.u64(1..500),
        });
        if delay > 0 {
            tokio::time::sleep(Duration::from_millis(delay)).await;
        }
        if self.world.ledger_errs() {
            return Err("the ledger is down");
        }
        Ok(())
    }
}

impl Ledger for Unreliable {
    type Error = &'static str;

    async fn claim(&self, event: &EventName, lease: Duration) -> Result<Claim, Self::Error> {
        self.reach().await?;
        let Ok(claim) = self.ledger.claim(event, lease).await;
        match (self.broken, claim) {
            (Some(Broken::CommitsBeforeSuccess), Claim::Granted(token)) => {
                let Ok(_) = self.ledger.commit(event, token).await;
            }
            (Some(Broken::AcknowledgesInFlight), Claim::InFlight) => return Ok(Claim::Settled),
            _ => {}
        }
        Ok(claim)
    }

    async fn commit(&self, event: &EventName, token: FencingToken) -> Result<Commit, Self::Error> {
        self.reach().await?;
        let Ok(commit) = self.ledger.commit(event, token).await;
        if commit == Commit::Settled {
            self.world.committed(event);
        }
        Ok(commit)
    }

    async fn release(&self, event: &EventName, token: FencingToken) -> Result<(), Self::Error> {
        self.reach().await?;
        if self.broken != Some(Broken::NeverReleases) {
            let Ok(()) = self.ledger.release(event, token).await;
        }
        Ok(())
    }
}
