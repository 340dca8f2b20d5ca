//! Recording how tries ended.

use std::sync::Arc;
use std::time::Duration;

use serde_json::json;
use sqlx::Row as _;

use super::run::Run;
use crate::ledger::lease::micros;
use crate::queue::connections::unexpected;
use crate::queue::statement::{Statement, Value};
use crate::queue::tried::Try;

/// How a try ended.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum End {
    Done,
    Retry,
    /// The callback has failed for the last time.
    TriesUsedUp,
    Permanent,
}

/// The end of a try, as it is recorded.
#[derive(Clone)]
pub(super) struct Ended {
    id: String,
    number: u32,
    status: &'static str,
    result: String,
    pause: i64,
}

/// The database's answer to the end of a try.
#[derive(Clone, Copy)]
pub(super) enum Answer {
    Settled,
    /// The event is locked by a transaction.
    Locked,
    /// The event is done, or another worker has taken it over.
    Lost,
}

impl Ended {
    /// `pause` is the time before the next try.
    pub(super) fn new(
        id: &str,
        tried: Try,
        end: End,
        error: Option<String>,
        pause: Duration,
    ) -> Self {
        let (status, result) = match end {
            End::Done => ("Done", json!({ "Ok": null })),
            End::Retry | End::TriesUsedUp => ("Failed", json!({ "Err": error })),
            End::Permanent => ("Killed", json!({ "Err": error })),
        };
        Self {
            id: id.to_owned(),
            number: tried.number,
            status,
            result: result.to_string(),
            pause: micros(pause),
        }
    }
}

impl<J> Run<J> {
    pub(super) async fn settle(&self, ended: Ended) -> Result<Answer, Arc<sqlx::Error>> {
        let size = ended.result.len();
        let record = |ended| self.record(ended);
        self.settling.call(ended, size, record).await
    }

    async fn record(&self, ended: Vec<Arc<Ended>>) -> Result<Vec<Answer>, sqlx::Error> {
        let ids: Vec<&str> = ended.iter().map(|ended| &*ended.id).collect();
        let numbers: Vec<i64> = ended.iter().map(|ended| ended.number.into()).collect();
        let statuses: Vec<&str> = ended.iter().map(|ended| ended.status).collect();
        let results: Vec<&str> = ended.iter().map(|ended| &*ended.result).collect();
        let pauses: Vec<i64> = ended.iter().map(|ended| ended.pause).collect();
        let values = [
            Value::Text(&self.name),
            Value::Texts(&ids),
            Value::Numbers(&numbers),
            Value::Texts(&statuses),
            Value::Texts(&results),
            Value::Numbers(&pauses),
        ];
        let settle = include_str!("../sql/settle.sql");
        let settle = Statement::new("settle", settle, &values);
        let rows = self.worker.queue.connections.run(&settle).await?;
        let answer_to = |ended: &Arc<Ended>| {
            for row in &rows {
                if row.try_get::<&str, _>(1)? == ended.id {
                    return Ok(match row.try_get(2)? {
                        "settled" => Answer::Settled,
                        "locked" => Answer::Locked,
                        _ => Answer::Lost,
                    });
                }
            }
            Err(unexpected("settle"))
        };
        ended.iter().map(answer_to).collect()
    }
}
