//! Deleting the rows of events that were handled long ago.

use std::time::Duration;

use sqlx::Row as _;

use super::connections::{is_unanswered, took_too_long};
use super::statement::{Statement, Value};
use super::{JobQueue, Shared, first, json};
use crate::ledger::lease::micros;

/// How many rows one statement deletes at most.
const BATCH: i64 = 2_000;

impl JobQueue {
    /// Deletes the rows of events that were handled longer ago than this, and returns how many it deleted.
    ///
    /// Call it regularly, on one replica or on all. 48 hours are twice the time for which MX retries. With less than
    /// these 24 hours, an event can be handled again. Waiting events and dead letters stay. It deletes up to
    /// 2,000 rows at a time, and skips locked rows. It also deletes the rows of workers that were last seen more than
    /// a day ago.
    ///
    /// # Errors
    ///
    /// The database's error, also if something of the application refers to a row. Rows that were deleted before stay deleted. If the
    /// server has not answered in time, rows may have been deleted or not.
    pub async fn prune(&self, older_than: Duration) -> Result<u64, sqlx::Error> {
        let Shared {
            name, connections, ..
        } = &*self.shared;
        let (mut total, mut batch) = (0, BATCH);
        let (mut from, mut kept, mut unanswered) = (None, Vec::<String>::new(), None);
        loop {
            let left_out: Vec<&str> = kept.iter().map(|id| &**id).collect();
            let values = [
                Value::Text(name),
                Value::Number(micros(older_than)),
                Value::Number(batch),
                from.map_or(Value::Null, Value::Time),
                Value::Texts(&left_out),
            ];
            let prune = Statement::new("prune", include_str!("sql/prune.sql"), &values);
            match connections.run_once(&prune).await {
                // Triggers of the application can make each row slow.
                Err(error) if batch > 1 && took_too_long(&error) => {
                    batch = (batch / 8).max(1);
                    if is_unanswered(&error) {
                        // It may have deleted rows.
                        if !connections.commits().await {
                            return Err(error);
                        }
                        unanswered = Some(error);
                    }
                }
                rows => {
                    let rows = rows?;
                    let row = first(&rows, "prune")?;
                    let (deleted, chosen): (i64, i64) = (row.try_get(1)?, row.try_get(2)?);
                    total += deleted.unsigned_abs();
                    if chosen < batch {
                        break;
                    }
                    if deleted < chosen {
                        // A trigger has kept rows, which would be chosen again.
                        let last: Option<i64> = row.try_get(3)?;
                        if last != from {
                            kept.clear();
                        }
                        kept.extend(json::<String>(row.try_get(4)?));
                        from = last;
                    }
                }
            }
        }
        let workers = include_str!("sql/prune_workers.sql");
        let workers = Statement::new("prune_workers", workers, &[Value::Text(name)]);
        connections.run(&workers).await?;
        unanswered.map_or(Ok(total), Err)
    }
}
