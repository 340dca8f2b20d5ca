//! One try of one event.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use bytes::Bytes;
use sqlx::Row as _;
use sqlx::postgres::PgRow;

use super::ended::Ended;
use super::run::Run;
use super::running::RunningGuard;
use crate::callback::JobService;
use crate::error::{Error, ErrorKind, Receipt};
use crate::event::tried::Try;
use crate::event::{FencingToken, JobEvent, Source};
use crate::queue::commit_in::Hold;
use crate::util::catch_panic::{Panicked, catch};

/// An event that this worker has taken from the queue.
pub(super) struct Attempt {
    pub(super) id: String,
    pub(super) name: String,
    pub(super) tried: Try,
    /// How many tries there were before the event was replayed.
    before: u32,
    pub(super) token: FencingToken,
    pub(super) body: Bytes,
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
            before: row
                .try_get::<Option<i32>, _>(7)?
                .unwrap_or_default()
                .max(0)
                .unsigned_abs(),
            token: FencingToken::new(row.try_get::<i64, _>(6)?.max(0).unsigned_abs()),
            body: body.into(),
        })
    }

    /// Runs the callback, and tells the worker how it ended.
    pub(super) async fn run<J: JobService>(self, run: Arc<Run<J>>, mut running: RunningGuard) {
        let has_ended = Arc::new(AtomicBool::new(false));
        let outcome = self.call(&run, has_ended.clone()).await;
        if outcome.is_ok() && has_ended.load(Ordering::Relaxed) {
            // The transaction of the callback has recorded it. To record it again would hide that a failover has undone
            // the transaction.
            return;
        }
        let pause = run
            .worker
            .pause_after(self.tried.number.saturating_sub(self.before));
        running.end();
        let ended = Ended::new(self, outcome.as_ref().err(), pause, running);
        // It is received for as long as an event is running.
        let _ = run.ended.send(ended);
    }

    async fn call<J: JobService>(
        &self,
        run: &Run<J>,
        has_ended: Arc<AtomicBool>,
    ) -> Result<Receipt, Error> {
        let mut event = JobEvent::decode(self.body.clone())?;
        event.set_source(Source::Queue);
        event.set_fencing_token(self.token);
        let extensions = event.extensions_mut();
        extensions.insert(self.tried);
        extensions.insert(Hold {
            queue: run.worker.queue.clone(),
            id: self.id.clone(),
            worker: run.name.clone(),
            number: self.tried.number,
            has_ended,
        });
        let jobs = catch(|| run.worker.jobs.clone());
        let jobs = jobs.map_err(|Panicked| Error::new(ErrorKind::CallbackPanicked))?;
        run.background.run(jobs, event).await
    }
}
