//! The calls of the store, and their answers.

use std::time::Duration;

use ::redis::aio::ConnectionLike;
use ::redis::{ErrorKind, FromRedisValue, RedisError};

use super::RedisWatchStore;
use crate::job::JobGuid;
use crate::ledger::lease::{micros, millis};
use crate::ledger::redis::script::{Script, is_unexpected_reply, unexpected_reply};
use crate::watch::entry::{Due, Entry};
use crate::watch::store::{Counts, Replaced, Stored, Update, WatchStore};
use crate::watch::waiters::Wake;

/// How many entries are claimed at most in one call, which keeps other calls waiting.
const MAX_CLAIMS: usize = 1_000;

pub(super) struct Scripts {
    load: Script,
    replace: Script,
    claim_due: Script,
    count: Script,
}

impl Default for Scripts {
    fn default() -> Self {
        // What all scripts know of an entry comes first.
        let script =
            |name, source| Script::new(name, include_str!("entry.lua").to_owned() + source);
        Self {
            load: script("load", include_str!("load.lua")),
            replace: script("replace", include_str!("replace.lua")),
            claim_due: script("claim_due", include_str!("claim_due.lua")),
            count: script("count", include_str!("count.lua")),
        }
    }
}

/// An entry in a reply: the guid, the bytes, the revision, and the age in µs.
type Row = (String, Vec<u8>, u64, u64);

impl<C> WatchStore for RedisWatchStore<C>
where
    C: ConnectionLike + Clone + Send + Sync + 'static,
{
    type Error = RedisError;

    async fn load(&self, jobs: &[JobGuid]) -> Result<Vec<(JobGuid, Stored)>, RedisError> {
        if jobs.is_empty() {
            return Ok(Vec::new());
        }
        let guids: Vec<_> = jobs.iter().map(JobGuid::as_str).collect();
        match self.call(&self.scripts.load, &guids).await? {
            (answer, rows) if answer == "loaded" => readable(rows),
            _ => Err(unexpected_reply()),
        }
    }

    async fn replace(
        &self,
        job: &JobGuid,
        expected: Option<u64>,
        update: Update<'_>,
    ) -> Result<Replaced, RedisError> {
        let bytes = update.entry.to_bytes();
        let due = match update.due {
            Due::Unchanged => "unchanged".to_owned(),
            Due::Never => "never".to_owned(),
            Due::In(time) => micros(time).to_string(),
        };
        let arguments = [
            job.as_str(),
            &expected.map_or_else(String::new, |revision| revision.to_string()),
            // The bytes are JSON, which is UTF-8.
            &String::from_utf8_lossy(&bytes),
            &due,
            &update
                .keep
                .map_or_else(String::new, |keep| millis(keep).to_string()),
            if update.wakes { "1" } else { "" },
            if self.replicated.is_some() { "1" } else { "" },
        ];
        let (answer, rows) = match &self.replicated {
            None => self.call(&self.scripts.replace, &arguments).await?,
            Some(connection) => {
                let replace = &self.scripts.replace;
                let outcome = replace.call(connection, &self.keys.due, &arguments).await;
                if outcome.as_ref().is_err_and(is_unexpected_reply) {
                    connection.discard();
                }
                outcome?
            }
        };
        match answer.as_str() {
            "done" => Ok(Replaced::Done),
            "conflict" => {
                let current = readable(rows)?.pop();
                Ok(Replaced::Conflict(current.map(|(_, stored)| stored)))
            }
            _ => Err(unexpected_reply()),
        }
    }

    async fn claim_due(
        &self,
        limit: usize,
        lease: Duration,
    ) -> Result<Vec<(JobGuid, Stored)>, RedisError> {
        let limit = limit.min(MAX_CLAIMS).to_string();
        let lease = micros(lease).to_string();
        match self
            .call(&self.scripts.claim_due, &[&limit, &lease])
            .await?
        {
            (answer, rows) if answer == "claimed" => readable(rows),
            _ => Err(unexpected_reply()),
        }
    }

    async fn count(&self) -> Result<Counts, RedisError> {
        match self.call(&self.scripts.count, &[]).await? {
            (answer, (outstanding, overdue)) if answer == "counted" => Ok(Counts {
                outstanding,
                overdue,
            }),
            _ => Err(unexpected_reply()),
        }
    }

    async fn listen(&self, wake: Wake) -> Result<(), RedisError> {
        let mut subscriber = self.subscriptions.connect().await?;
        subscriber.subscribe(&self.keys.channel).await?;
        wake.connected();
        let error = subscriber.run(|message| {
            let guid = message.get_payload::<String>().ok();
            if let Some(job) = guid.and_then(|guid| guid.parse().ok()) {
                wake.job(&job);
            }
        });
        Err(error.await)
    }
}

impl<C> RedisWatchStore<C>
where
    C: ConnectionLike + Clone,
{
    async fn call<T: FromRedisValue>(
        &self,
        script: &Script,
        arguments: &[&str],
    ) -> Result<(String, T), RedisError> {
        let outcome = script
            .call(&self.connection, &self.keys.due, arguments)
            .await;
        if outcome.as_ref().is_err_and(is_unexpected_reply) {
            self.subscriptions.discard_connection();
        }
        outcome
    }
}

/// Returns the entries that this release can read.
///
/// Is an error if it can read none of them. One that it cannot read does not hold up the others.
fn readable(rows: Vec<Row>) -> Result<Vec<(JobGuid, Stored)>, RedisError> {
    let is_empty = rows.is_empty();
    let readable: Vec<_> = rows.into_iter().filter_map(read).collect();
    if readable.is_empty() && !is_empty {
        return Err(RedisError::from((
            ErrorKind::Client,
            "the store contains an entry that this release cannot read",
        )));
    }
    Ok(readable)
}

fn read((guid, bytes, revision, age): Row) -> Option<(JobGuid, Stored)> {
    let stored = Stored {
        entry: Entry::from_bytes(&bytes).ok()?,
        revision,
        age: Duration::from_micros(age),
    };
    Some((guid.parse().ok()?, stored))
}
