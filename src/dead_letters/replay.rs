//! Running letters once more.

use std::future::poll_fn;
use std::time::Duration;

use bytes::Bytes;
use sqlx::Row as _;
use tokio::time::sleep;

use super::read::number;
use super::{LetterFilter, PostgresDeadLetters, ReplayError, key};
use crate::background::Tracked;
use crate::callback::{EventService, poll_ready};
use crate::error::Receipt;
use crate::event::{JobEvent, Source};
use crate::ledger::lease::micros;
use crate::util::catch_panic::CatchDrop;
use crate::util::until::while_repeating;

/// No letter has this revision.
const NO_REVISION: i64 = -1;

/// How soon a lease is extended at the soonest, however short it is.
const SHORTEST_PAUSE: Duration = Duration::from_millis(100);

impl PostgresDeadLetters {
    /// Runs the event of a letter now, through this service of events.
    ///
    /// If the callback succeeds, the letter is deleted. If it fails, the letter stays, with the new
    /// error and one try more. The same holds for a body that cannot be decoded, and for a receipt
    /// that does not say that the callback has succeeded: see [`ReplayError::receipt`]. A letter that
    /// MX's delivery keeps again while it is replayed stays.
    ///
    /// `jobs` is a [`JobRouter`](crate::JobRouter), or tower middleware around one, **without a
    /// `DedupeLayer`**: see the [module's page](super#replays). `name` is that of
    /// [`Letter::name`](super::Letter::name). The text of the
    /// [`EventName`](crate::ledger::EventName) is accepted too.
    ///
    /// One process at a time replays a letter. Panics are caught, and the event is observed, as
    /// [`Background::run`](crate::Background::run) does. The callback has to be idempotent, because
    /// it may have had a part of its effect before.
    ///
    /// # Errors
    ///
    /// See [`ReplayError`]. If the callback fails and the database too, the error is that of the
    /// callback, and the letter has the error from before.
    ///
    /// # Cancellation
    ///
    /// If the future is dropped before the service is ready, nothing has happened. Later, the replay
    /// continues on the runtime: see [`with_background`](Self::with_background). If the process
    /// dies, the letter can be replayed again when the
    /// [lease](Self::with_replay_lease) has expired.
    pub async fn replay<S>(&self, name: &str, jobs: S) -> Result<Receipt, ReplayError>
    where
        S: EventService + Send + 'static,
    {
        self.replay_after(name, jobs, None).await
    }

    /// Runs the events of all letters that match, in the order in which they failed.
    ///
    /// A failure does not stop the others. Each letter that matches when this begins is run at most
    /// once. The filter's limit and cursor are those of a page, and are ignored.
    ///
    /// # Errors
    ///
    /// The database's error. Letters that were replayed before stay replayed.
    ///
    /// # Cancellation
    ///
    /// If the future is dropped, the replay that is running continues, and no other one begins.
    pub async fn replay_all<S>(
        &self,
        filter: &LetterFilter,
        jobs: S,
    ) -> Result<Replayed, sqlx::Error>
    where
        S: EventService + Clone + Send + 'static,
    {
        let mut replayed = Replayed::default();
        let (mut after, mut until) = (None, None);
        loop {
            let (begun, letters) = self.oldest(filter, after.as_ref(), until).await?;
            let Some(last) = letters.last().cloned() else {
                return Ok(replayed);
            };
            for letter in &letters {
                let outcome = self.replay_after(letter.name(), jobs.clone(), Some(begun));
                match outcome.await {
                    Ok(_) => replayed.succeeded += 1,
                    Err(error) if error.is_not_found() || error.is_in_progress() => {
                        replayed.skipped += 1;
                    }
                    Err(error) => match error.into_database() {
                        Some(error) => return Err(error),
                        None => replayed.failed += 1,
                    },
                }
            }
            (after, until) = (Some(last), Some(begun));
        }
    }

    /// Replays a letter. If it stays, its failure is later than `begun`, in µs.
    async fn replay_after<S>(
        &self,
        name: &str,
        jobs: S,
        begun: Option<i64>,
    ) -> Result<Receipt, ReplayError>
    where
        S: EventService + Send + 'static,
    {
        let key = key::find(name).ok_or_else(ReplayError::not_found)?;
        let mut jobs = CatchDrop::new(jobs);
        let ready = poll_fn(|context| poll_ready(&mut *jobs, context)).await;
        ready.map_err(ReplayError::failed)?;
        let permit = self.background.acquire();
        let permit = permit.map_err(|reason| ReplayError::failed(reason.into()))?;
        let replay = Replay {
            store: self.clone(),
            key,
            begun,
        };
        // What follows belongs together, so a caller that leaves does not stop it.
        Tracked::new(Box::pin(replay.run(jobs)), permit).await
    }
}

/// The counts of [`PostgresDeadLetters::replay_all`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Replayed {
    succeeded: u64,
    failed: u64,
    skipped: u64,
}

impl Replayed {
    /// Adds the counts of other letters.
    #[cfg(feature = "queue")]
    pub(crate) fn add(&mut self, other: Self) {
        self.succeeded += other.succeeded;
        self.failed += other.failed;
        self.skipped += other.skipped;
    }

    #[cfg(feature = "queue")]
    pub(crate) fn of(succeeded: u64, failed: u64) -> Self {
        Self {
            succeeded,
            failed,
            skipped: 0,
        }
    }

    /// Returns how many letters were replayed with success, and are gone.
    ///
    /// Of a `JobQueue`, these are the letters that were returned to the queue. Their callbacks run later.
    #[must_use]
    pub fn succeeded(&self) -> u64 {
        self.succeeded
    }

    /// Returns how many letters were replayed without success, and stay.
    #[must_use]
    pub fn failed(&self) -> u64 {
        self.failed
    }

    /// Returns how many letters another process was replaying, or had deleted meanwhile.
    #[must_use]
    pub fn skipped(&self) -> u64 {
        self.skipped
    }
}

/// A letter that is replayed.
struct Replay {
    store: PostgresDeadLetters,
    key: String,
    begun: Option<i64>,
}

/// The claim on a letter, and what it was then.
struct Claim {
    fence: i64,
    revision: i64,
    body: Bytes,
}

impl Replay {
    async fn run<S>(self, jobs: CatchDrop<S>) -> Result<Receipt, ReplayError>
    where
        S: EventService + Send + 'static,
    {
        let claim = self.claim().await?;
        match self.call(jobs, &claim).await {
            Ok(receipt) => {
                let settled = self.settle(&claim).await;
                settled.map_err(ReplayError::not_deleted)?;
                Ok(receipt)
            }
            Err(error) => {
                // If this fails, the lease expires.
                let _ = self
                    .release(&claim, claim.revision, error.letter_text())
                    .await;
                Err(error)
            }
        }
    }

    async fn call<S>(&self, jobs: CatchDrop<S>, claim: &Claim) -> Result<Receipt, ReplayError>
    where
        S: EventService + Send + 'static,
    {
        let event = JobEvent::decode(claim.body.clone());
        let mut event = event.map_err(ReplayError::undecodable)?;
        event.set_source(Source::Replay);
        let run = self.store.background.run(jobs.into_inner(), event);
        // The letter stays claimed while its callback runs.
        let outcome = while_repeating(run, || self.extend(claim)).await;
        match outcome.map_err(ReplayError::failed)? {
            receipt @ (Receipt::Handled | Receipt::Unhandled | Receipt::Queued) => Ok(receipt),
            receipt => Err(ReplayError::not_handled(receipt)),
        }
    }

    async fn claim(&self) -> Result<Claim, ReplayError> {
        let statement = self
            .store
            .statement("letter_claim", include_str!("sql/letter_claim.sql"))
            .bind(&self.key)
            .bind(micros(self.store.lease));
        let row = self.store.run_for_one(statement).await;
        let row = row.map_err(ReplayError::database)?;
        let exists: bool = row.try_get(1).map_err(ReplayError::database)?;
        let claim = || {
            let fence: Option<i64> = row.try_get(2)?;
            let Some(fence) = fence else { return Ok(None) };
            Ok(Some(Claim {
                fence,
                revision: row.try_get(3)?,
                body: row.try_get::<Vec<u8>, _>(4)?.into(),
            }))
        };
        match claim().map_err(ReplayError::database)? {
            Some(claim) => Ok(claim),
            None if exists => Err(ReplayError::in_progress()),
            None => Err(ReplayError::not_found()),
        }
    }

    /// Deletes the letter, unless it was kept again meanwhile.
    async fn settle(&self, claim: &Claim) -> Result<(), sqlx::Error> {
        let statement = self
            .store
            .statement("letter_settle", include_str!("sql/letter_settle.sql"))
            .bind(&self.key)
            .bind(claim.revision);
        if number(&self.store.run_for_one(statement).await?)? == 0 {
            self.release(claim, NO_REVISION, String::new()).await?;
        }
        Ok(())
    }

    /// Ends the claim. If the letter has this revision still, it gets the error and one try more.
    async fn release(
        &self,
        claim: &Claim,
        revision: i64,
        error: String,
    ) -> Result<(), sqlx::Error> {
        let statement = self
            .store
            .statement("letter_release", include_str!("sql/letter_release.sql"))
            .bind(&self.key)
            .bind(claim.fence)
            .bind(revision)
            .bind(error)
            .bind(self.begun);
        self.store.run_for_one(statement).await?;
        Ok(())
    }

    async fn extend(&self, claim: &Claim) {
        let lease = self.store.lease;
        sleep((lease / 3).max(SHORTEST_PAUSE)).await;
        let statement = self
            .store
            .statement("letter_extend", include_str!("sql/letter_extend.sql"))
            .bind(&self.key)
            .bind(claim.fence)
            .bind(micros(lease));
        // If this fails, it is tried again. At worst another process replays the letter too.
        let _ = self.store.run_for_one(statement).await;
    }
}

#[cfg(all(test, feature = "queue"))]
mod tests {
    use super::*;

    #[test]
    fn counts_are_added_one_by_one() {
        let one = Replayed {
            succeeded: 1,
            failed: 2,
            skipped: 3,
        };
        let mut all = Replayed::of(10, 0);
        all.add(one);
        all.add(one);
        let counts = (all.succeeded(), all.failed(), all.skipped());
        assert_eq!(counts, (12, 4, 6));
    }
}
