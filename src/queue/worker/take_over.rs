//! Taking over the events of workers that are dead.

use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use sqlx::Row as _;
use tokio::time::{Instant, sleep_until};

use super::batch::BatchSize;
use super::heartbeat::Contact;
use super::left_out::{Candidate, LeftOut, SUSPECTS, Trial};
use super::run::{INTERVAL_OF_FAILURES, Run};
use crate::ledger::lease::micros;
use crate::observe;
use crate::queue::connections::is_of_a_row;
use crate::queue::statement::{Statement, Value};
use crate::queue::{first, json};
use crate::util::later::later;
use crate::util::until::until;

/// How many events one statement returns at most.
const BATCH: usize = 5_000;

/// Returns the events that have lost their worker to the queue.
pub(super) struct TakeOver<J> {
    run: Arc<Run<J>>,
    batch: BatchSize,
    left_out: LeftOut,
}

/// Which events a statement returns.
enum Lost<'a> {
    All,
    Only(&'a str, Trial),
    /// None of them: it only says which they are. That succeeds, unless no event is the cause of a failure.
    Name,
}

struct Answer {
    returned: usize,
    /// Whether it would have returned events of dead workers.
    takes_over: bool,
    /// The events that it was to return, but whose rows are as before.
    kept: Vec<Candidate>,
}

impl<J> TakeOver<J> {
    pub(super) fn new(run: Arc<Run<J>>) -> Self {
        Self {
            run,
            batch: BatchSize::new(BATCH),
            left_out: LeftOut::default(),
        }
    }

    /// Looks for such events until the worker has ended, and the last of its callbacks.
    pub(super) async fn look_until_the_end(self) {
        let running = self.run.running.clone();
        let ended = pin!(running.ended());
        until(ended, self.look_forever()).await;
    }

    async fn look_forever(mut self) {
        let mut failing = None;
        let mut look_at = later(Instant::now(), self.run.worker.dead_after / 4);
        loop {
            sleep_until(look_at).await;
            look_at = match self.look().await {
                Ok(look_at) => {
                    failing = None;
                    look_at
                }
                Err(error) => {
                    self.run.fails(&mut failing, error);
                    Instant::now() + INTERVAL_OF_FAILURES
                }
            };
        }
    }

    /// Returns events to the queue, and when to look next.
    pub(super) async fn look(&mut self) -> Result<Instant, sqlx::Error> {
        let look_at = later(Instant::now(), self.run.worker.dead_after / 4);
        let takes_over = self.try_left_out().await?;
        loop {
            let (start, most) = (Instant::now(), self.batch.most());
            match self.send(Lost::All).await {
                Ok(answer) => {
                    let returned = answer.returned + self.leave_out(answer.kept, Duration::ZERO);
                    if returned < most {
                        break;
                    }
                    self.batch.succeeded(start.elapsed());
                }
                Err(error) if self.batch.failed(most, &error) => {}
                Err(error) if is_of_a_row(&error) => {
                    // If no event is the cause, this fails too.
                    let lost = self.send(Lost::Name).await?.kept;
                    if !self.left_out.suspect(lost) {
                        return Err(error);
                    }
                }
                Err(error) => return Err(error),
            }
        }
        let next_at = self.left_out.next_at().filter(|_| takes_over);
        Ok(next_at.map_or(look_at, |next_at| next_at.min(look_at)))
    }

    /// Returns events that are left out, each by itself, until it is the turn of the others. Returns whether this worker may
    /// take over events.
    async fn try_left_out(&mut self) -> Result<bool, sqlx::Error> {
        let tried = self.return_left_out().await;
        self.left_out.end_turn(&self.run.worker.queue.name);
        tried
    }

    async fn return_left_out(&mut self) -> Result<bool, sqlx::Error> {
        if !self.has_contact(self.run.contact()) {
            return Ok(false);
        }
        while let Some((id, trial)) = self.left_out.due() {
            let start = Instant::now();
            match self.send(Lost::Only(&id, trial)).await {
                Ok(answer) if answer.returned > 0 => self.left_out.accepted(&id, start.elapsed()),
                Ok(answer) if !answer.takes_over => return Ok(false),
                Ok(answer) if answer.kept.is_empty() => {
                    self.left_out.missing(&id, start.elapsed());
                }
                Ok(answer) => {
                    self.leave_out(answer.kept, start.elapsed());
                }
                Err(error) if is_of_a_row(&error) => {
                    if self.send(Lost::Name).await.is_err() {
                        self.left_out.acquit();
                        return Err(error);
                    }
                    self.left_out.refused(&id, error, start.elapsed());
                }
                Err(error) => return Err(error),
            }
        }
        Ok(true)
    }

    /// Leaves out events whose rows a trigger has kept as they were. Returns how many of them were not left out before.
    fn leave_out(&mut self, kept: Vec<Candidate>, took: Duration) -> usize {
        let left_out = kept.into_iter();
        let left_out = left_out.filter(|event| self.left_out.unchanged(event.clone(), took));
        left_out.count()
    }

    /// After an outage of the database, all workers look dead. A worker therefore takes over nothing before it has had contact
    /// for as long as others may be silent.
    fn has_contact(&self, contact: Contact) -> bool {
        contact.is_as_long_as(self.run.worker.dead_after)
    }

    async fn send(&self, lost: Lost<'_>) -> Result<Answer, sqlx::Error> {
        let Run { worker, name, .. } = &*self.run;
        let (only, limit) = match lost {
            Lost::All | Lost::Name => (None, None),
            Lost::Only(id, trial) => (Some(id), trial.limit()),
        };
        let names = matches!(lost, Lost::Name);
        let most = if names { SUSPECTS } else { self.batch.most() };
        let contact = self.run.contact();
        let takes_over = self.has_contact(contact);
        // An event that is taken while this waits for its connection must not look unknown.
        let take_over = || {
            let ids = self.run.running.ids();
            let ids: Vec<&str> = ids.iter().map(|id| &**id).collect();
            let left_out = match only {
                None => self.left_out.ids(),
                Some(_) => Vec::new(),
            };
            let values = [
                Value::Text(&worker.queue.name),
                Value::Text(name),
                Value::Texts(&ids),
                Value::Number(micros(worker.dead_after)),
                Value::Flag(takes_over),
                Value::Time(contact.answered_at),
                Value::Number(i64::try_from(most).unwrap_or(i64::MAX)),
                Value::Texts(&left_out),
                only.map_or(Value::Null, Value::Text),
                Value::Flag(names),
            ];
            let sql = include_str!("../sql/take_over.sql");
            Statement::new("take_over", sql, &values).within(limit)
        };
        let rows = worker.queue.connections.run_late(take_over).await?;
        let row = first(&rows, "take_over")?;
        let (returned, continues): (i64, bool) = (row.try_get(1)?, row.try_get(2)?);
        // A row that was made by hand can lack its name.
        let dead: Vec<Option<String>> = json(row.try_get(3)?);
        let back = returned.unsigned_abs().saturating_sub(dead.len() as u64);
        for name in dead {
            observe::dead_lettered(&name.unwrap_or_default());
        }
        if back > 0 {
            observe::taken_over(&worker.queue.name, back);
            worker.queue.stored.notify_one();
        }
        let kept: Vec<(String, Option<String>)> = json(row.try_get(4)?);
        let candidate = |(id, name): (_, Option<String>)| Candidate {
            id,
            name: name.unwrap_or_default(),
        };
        Ok(Answer {
            returned: usize::try_from(returned).unwrap_or_default(),
            takes_over: takes_over && continues,
            kept: kept.into_iter().map(candidate).collect(),
        })
    }
}
