//! One try of one event.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use serde_json::json;
use sqlx::Row as _;
use sqlx::postgres::PgRow;
use tokio::sync::OwnedSemaphorePermit;
use tokio::time::{Instant, sleep};

use super::run::Run;
use super::running::RunningGuard;
use crate::callback::JobService;
use crate::dead_letters::error_text;
use crate::error::{Error, Receipt};
use crate::event::{FencingToken, JobEvent, Source};
use crate::ledger::lease::micros;
use crate::observe;
use crate::queue::commit_in::Hold;
use crate::queue::first;
use crate::queue::statement::{Statement, Value};
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

/// How a try ended.
#[derive(Clone, Copy, PartialEq, Eq)]
enum End {
    Done,
    Retry,
    /// The callback has failed for the last time.
    TriesUsedUp,
    Permanent,
}

/// The database's answer to the end of a try.
enum Answer {
    Settled,
    /// The event is locked by a transaction.
    Locked,
    /// The event is done, or another worker has taken it over.
    Lost,
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
        self.settle(&run, end, error.as_deref()).await;
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
    async fn settle<J: JobService>(&self, run: &Run<J>, end: End, error: Option<&str>) {
        let mut pause = INTERVAL_OF_FAILURES / 50;
        let mut failing_since = None;
        loop {
            match self.settle_once(run, end, error).await {
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

    async fn settle_once<J: JobService>(
        &self,
        run: &Run<J>,
        end: End,
        error: Option<&str>,
    ) -> Result<Answer, sqlx::Error> {
        let (status, result) = match end {
            End::Done => ("Done", json!({ "Ok": null })),
            End::Retry | End::TriesUsedUp => ("Failed", json!({ "Err": error })),
            End::Permanent => ("Killed", json!({ "Err": error })),
        };
        let result = result.to_string();
        let pause = match end {
            End::Retry => micros(run.worker.pause_after(self.tried)),
            _ => 0,
        };
        let values = [
            Value::Text(&self.id),
            Value::Text(&run.name),
            Value::Number(self.tried.number.into()),
            Value::Text(status),
            Value::Text(&result),
            Value::Number(pause),
        ];
        let settle = include_str!("../sql/settle.sql");
        let settle = Statement::new("settle", settle, &values);
        let rows = run.worker.queue.connections.run(&settle).await?;
        match first(&rows, "settle")?.try_get(1)? {
            "settled" => Ok(Answer::Settled),
            "locked" => Ok(Answer::Locked),
            _ => Ok(Answer::Lost),
        }
    }
}
