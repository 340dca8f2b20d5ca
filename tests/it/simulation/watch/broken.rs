//! The store behind a network with faults, and watches that the simulation must find.

use std::pin::pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use mx_job_webhook::job::JobGuid;
use mx_job_webhook::watch::{
    Counts, Due, MemoryWatchStore, Replaced, SettledEvent, Stored, Update, Wake, WatchStore,
};
use tokio::time::sleep;

use super::replica::Life;
use super::world::World;

/// The faults of a watch that the simulation must detect.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Broken {
    /// Forgets what was heard of a job that nobody expected.
    ForgetsTheLookBack,
    /// Hears of an event while its callback still runs.
    HearsBeforeSuccess,
    /// Gives an entry that was claimed to another one too.
    LosesTheLease,
    /// Forgets that an entry is due.
    DropsWhatIsDue,
}

/// One in how many steps of a call kills the process. Changes are rare and matter most.
const CHANGING: u32 = 40;
const LOADING: u32 = 200;
const CLAIMING: u32 = 2_000;

/// The store as one replica reaches it.
#[derive(Clone)]
pub(crate) struct Unreliable {
    pub(crate) store: MemoryWatchStore,
    pub(crate) world: World,
    pub(crate) replica: usize,
    pub(crate) life: Arc<Life>,
}

impl Unreliable {
    fn is(&self, broken: Broken) -> bool {
        self.world.broken() == Some(broken)
    }

    /// Sends a request over the network, which may be slow or down.
    async fn reach(&self, deadly: u32) -> Result<(), &'static str> {
        self.step(deadly).await;
        let delay = self.world.calm_or(0, |random| match random.u8(..20) {
            0..14 => 0,
            14..19 => random.u64(1..500),
            _ => random.u64(1..4_000),
        });
        if delay > 0 {
            sleep(Duration::from_millis(delay)).await;
        }
        self.fault("the store is down").await?;
        self.step(deadly).await;
        Ok(())
    }

    /// Returns an answer over the network. The call has taken effect, but its answer can be lost.
    async fn answer<T>(&self, deadly: u32, answer: T) -> Result<T, &'static str> {
        self.step(deadly).await;
        self.fault("the answer was lost").await?;
        Ok(answer)
    }

    async fn fault(&self, error: &'static str) -> Result<(), &'static str> {
        match self.world.store_errs() {
            None => Ok(()),
            Some(true) => std::future::pending().await,
            Some(false) => Err(error),
        }
    }

    /// A step at which the process can die, once in so many times.
    async fn step(&self, deadly: u32) {
        if self.world.dies(self.replica, &self.life, deadly) || self.life.is_over() {
            std::future::pending::<()>().await;
        }
    }
}

impl WatchStore for Unreliable {
    type Error = &'static str;

    async fn load(&self, jobs: &[JobGuid]) -> Result<Vec<(JobGuid, Stored)>, Self::Error> {
        self.reach(LOADING).await?;
        let loaded = self.store.load(jobs).await.map_err(|_| "full")?;
        self.answer(LOADING, loaded).await
    }

    async fn replace(
        &self,
        job: &JobGuid,
        expected: Option<u64>,
        mut update: Update<'_>,
    ) -> Result<Replaced, Self::Error> {
        self.reach(CHANGING).await?;
        if self.is(Broken::DropsWhatIsDue) {
            update.due = match update.due {
                Due::In(_) => Due::Never,
                other => other,
            };
        }
        let replaced = self.store.replace(job, expected, update).await;
        self.answer(CHANGING, replaced.map_err(|_| "full")?).await
    }

    async fn claim_due(
        &self,
        limit: usize,
        lease: Duration,
    ) -> Result<Vec<(JobGuid, Stored)>, Self::Error> {
        self.reach(CLAIMING).await?;
        let lease = match self.is(Broken::LosesTheLease) {
            true => Duration::ZERO,
            false => lease,
        };
        let claimed = self.store.claim_due(limit, lease).await;
        let claimed = claimed.map_err(|_| "full")?;
        let deadly = match claimed.is_empty() {
            true => CLAIMING,
            false => CHANGING,
        };
        self.answer(deadly, claimed).await
    }

    async fn count(&self) -> Result<Counts, Self::Error> {
        self.reach(LOADING).await?;
        let counts = self.store.count().await.map_err(|_| "full")?;
        self.answer(LOADING, counts).await
    }

    async fn listen(&self, wake: Wake) -> Result<(), Self::Error> {
        self.reach(LOADING).await?;
        // The connection breaks at some time, and what happens until it is open again is missed.
        let breaks = self.world.calm_or(u64::MAX, |random| random.u64(..60_000));
        let listening = self.store.listen(wake);
        match tokio::time::timeout(Duration::from_millis(breaks), listening).await {
            Ok(_) => Ok(()),
            Err(_) => Err("the connection broke"),
        }
    }

    fn record_unexpected(&self, event: SettledEvent, look_back: Duration) -> Option<SettledEvent> {
        if self.is(Broken::ForgetsTheLookBack) {
            // The store in memory answers at once.
            let jobs = [event.heard()?.guid.clone()];
            let mut load = pin!(self.store.load(&jobs));
            let loaded = load.as_mut().poll(&mut Context::from_waker(Waker::noop()));
            let is_known = matches!(loaded, Poll::Ready(Ok(loaded)) if !loaded.is_empty());
            return is_known.then_some(event);
        }
        // Both ways have to be right.
        if self.world.draw(|random| random.u8(..3)) == 0 {
            return Some(event);
        }
        self.store.record_unexpected(event, look_back)
    }
}
