//! Ledgers: one with network failures and hangs, and some with faults.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use mx_job_webhook::event::FencingToken;
use mx_job_webhook::ledger::{Claim, Commit, EventName, Ledger, MemoryLedger};
use tokio::sync::watch;

use super::world::World;

/// The faults of a ledger that the simulation must detect.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Broken {
    /// Remembers an event before its callback has succeeded.
    CommitsBeforeSuccess,
    /// Reports an event in flight as already handled.
    AcknowledgesInFlight,
    /// Keeps the claim after its callback failed or panicked.
    NeverReleases,
    /// Reports an event as settled and forgets it.
    NeverCommits,
    /// Forgets the success of a callback whose claim was taken over.
    ForgetsTheOvertaken,
}

/// No call reaches the ledger later.
pub(crate) const DELAY: Duration = Duration::from_millis(500);

/// The ledger under test, behind a network that sometimes fails or loses an answer.
pub(crate) struct Unreliable {
    pub(crate) ledger: MemoryLedger,
    pub(crate) world: World,
    pub(crate) broken: Option<Broken>,
    pub(crate) alive: Arc<watch::Sender<bool>>,
    /// The last claims that were granted.
    pub(crate) granted: Mutex<HashMap<EventName, FencingToken>>,
}

impl Unreliable {
    /// Sends a request over the network, which may be slow or down.
    async fn reach(&self, event: &EventName) -> Result<(), &'static str> {
        if !*self.alive.borrow() {
            return Err("the process was killed");
        }
        let longest = DELAY.as_millis() as u64;
        let delay = self.world.draw(|random| match random.u8(..10) {
            0..7 => 0,
            _ => random.u64(1..longest),
        });
        if delay > 0 {
            tokio::time::sleep(Duration::from_millis(delay)).await;
        }
        if self.world.ledger_errs(event) {
            return Err("the ledger is down");
        }
        Ok(())
    }

    /// Returns an answer over the network: the call takes effect, but its answer may be lost.
    async fn lose_the_answer(&self, event: &EventName) {
        if self.world.ledger_errs(event) {
            std::future::pending::<()>().await;
        }
    }
}

impl Ledger for Unreliable {
    type Error = &'static str;

    async fn claim(&self, event: &EventName, lease: Duration) -> Result<Claim, Self::Error> {
        self.reach(event).await?;
        let Ok(claim) = self.ledger.claim(event, lease).await;
        if let Claim::Granted(token) = claim {
            self.granted.lock().unwrap().insert(event.clone(), token);
            self.world.claimed(event);
        }
        self.lose_the_answer(event).await;
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
        self.reach(event).await?;
        if self.broken == Some(Broken::NeverCommits) {
            let Ok(()) = self.ledger.release(event, token).await;
            self.world.committed(event);
            return Ok(Commit::Settled);
        }
        let last = self.granted.lock().unwrap().get(event).copied();
        let overtaken = self.broken == Some(Broken::ForgetsTheOvertaken) && last > Some(token);
        let commit = if overtaken {
            Commit::Overtaken
        } else {
            let Ok(commit) = self.ledger.commit(event, token).await;
            commit
        };
        match commit {
            Commit::Settled => self.world.committed(event),
            _ => self.world.overtaken(event),
        }
        self.lose_the_answer(event).await;
        Ok(commit)
    }

    async fn release(&self, event: &EventName, token: FencingToken) -> Result<(), Self::Error> {
        self.reach(event).await?;
        if self.broken != Some(Broken::NeverReleases) {
            let Ok(()) = self.ledger.release(event, token).await;
        }
        self.lose_the_answer(event).await;
        Ok(())
    }
}
