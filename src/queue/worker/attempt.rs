//! One try of one event.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use sqlx::Row as _;
use sqlx::postgres::PgRow;
use tokio::sync::OwnedSemaphorePermit;
use tokio::time::{Instant, sleep};

use super::run::Run;
use super::running::RunningGuard;
use super::settle::{Answer, End, Ended};
use crate::callback::JobService;
use crate::dead_letters::error_text;
use crate::error::{Error, Receipt};
use crate::event::{FencingToken, JobEvent, Source};
use crate::observe;
use crate::queue::commit_in::Hold;
use crate::queue::tried::Try;
use crate::util::random::jittered;

/// How soon to try again if a result cannot be recorded.
const INTERVAL_OF_FAILURES: Duration = Duration::from_millis(500);

/// An event that this worker has taken from the queue.
pub(super) struct Attempt {
    pub(super) id: String,
    name: String,
    tried: Try,
    body: Bytes,
}

impl Attempt {
    /// Reads a row of the answer to a fetch.
    pub(super) fn read(row: &PgRow) -> Result<Self, sqlx::Error> {
        let (tries, limit): (i32, i32) = (row.try_get(3)?, row.try_get(4)?);
        let body: Vec<u8> = row.try_get(5)?;
        Ok(Self {
            id: row.try_get(1)?,
            name: row.try_get::<Option<String>, _>(2)?.unwrap_or_default(),
            tried: Try {
                number: tries.max(0).unsigned_abs() + 1,
                limit: limit.max(1).unsigned_abs(),
            },
            body: body.into(),
        })
    }

    pub(super) async fn run<J: JobService>(
        self,
        run: Arc<Run<J>>,
        running: RunningGuard,
        permit: OwnedSemaphorePermit,
    ) {
        let outcome = self.call(&run).await;
        let end = match &outcome {
            Ok(_) => End::Done,
            Err(error) if error.is_permanent() || error.kind().is_undecodable() => End::Permanent,
            Err(_) if self.tried.is_last() => End::TriesUsedUp,
            Err(_) => End::Retry,
        };
        let error = outcome.err().map(|error| error_text(&error));
        // The next callback need not wait for the database, unless many ends wait for it.
        let permit = match run.unsettled.clone().try_acquire_owned() {
            Ok(unsettled) => unsettled,
            Err(_) => permit,
        };
        self.settle(&run, end, error).await;
        drop((running, permit));
    }

    async fn call<J: JobService>(&self, run: &Run<J>) -> Result<Receipt, Error> {
        let mut event = JobEvent::decode(self.body.clone())?;
        event.set_source(Source::Queue);
        event.set_fencing_token(FencingToken::new(self.tried.number.into()));
        let extensions = event.extensions_mut();
        extensions.insert(self.tried);
        extensions.insert(Hold {
            queue: run.worker.queue.clone(),
            id: self.id.clone(),
            worker: run.name.clone(),
            number: self.tried.number,
        });
        run.background.run(run.worker.jobs.clone(), event).await
    }

    /// Records the end of the try. While the database cannot be reached, it tries again, after the end of the worker
    /// for as long as a worker may be silent.
    async fn settle<J: JobService>(&self, run: &Run<J>, end: End, error: Option<String>) {
        let pause_of_event = match end {
            End::Retry => run.worker.pause_after(self.tried),
            _ => Duration::ZERO,
        };
        let ended = Ended::new(&self.id, self.tried, end, error, pause_of_event);
        let mut pause = INTERVAL_OF_FAILURES / 50;
        let mut failing_since = None;
        loop {
            match run.settle(ended.clone()).await {
                Ok(Answer::Settled) => {
                    if matches!(end, End::TriesUsedUp | End::Permanent) {
                        observe::dead_lettered(&self.name);
                    }
                    return;
                }
                Ok(Answer::Lost) => return,
                Ok(Answer::Locked) | Err(_) => {
                    let since = *failing_since.get_or_insert_with(Instant::now);
                    // Another worker takes the event over.
                    if run.running.is_closed() && since.elapsed() >= run.worker.dead_after {
                        return;
                    }
                    sleep(jittered(pause)).await;
                    pause = (pause * 2).min(INTERVAL_OF_FAILURES);
                }
            }
        }
    }
}
