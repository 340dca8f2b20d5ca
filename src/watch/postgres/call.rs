//! The calls of the store, and how their answers are read.

use std::collections::HashMap;
use std::time::Duration;

use sqlx::Row as _;
use sqlx::error::BoxDynError;
use sqlx::postgres::PgRow;

use super::PostgresWatchStore;
use super::run::{Prepared, simple};
use crate::job::JobGuid;
use crate::ledger::key::storable;
use crate::ledger::lease::micros;
use crate::util::postgres::UnexpectedAnswer;
use crate::watch::entry::{Due, Entry};
use crate::watch::store::{Counts, Stored, Update};

/// How many expired rows a claim deletes at most.
const PRUNED: usize = 1_000;

/// The parameters of `watch_replace.sql`.
pub(super) struct Replace {
    pub(super) job: String,
    pub(super) guid: Option<Vec<u8>>,
    pub(super) expected: Option<i64>,
    pub(super) entry: String,
    pub(super) is_due_as_before: bool,
    pub(super) due: Option<i64>,
    pub(super) keep: Option<i64>,
    pub(super) notification: Option<String>,
}

/// The answer of `watch_replace.sql`.
#[allow(clippy::large_enum_variant, reason = "it is matched at once")]
pub(super) enum Written {
    Done,
    Conflict(Option<Stored>),
    /// Another transaction has changed the entry while the statement ran.
    Busy,
}

impl Replace {
    pub(super) fn new(job: &JobGuid, expected: Option<u64>, update: Update<'_>) -> Self {
        let key = storable(job.as_str());
        // No row has the revision -1, nor one that is too large.
        let revision = |revision: u64| i64::try_from(revision).unwrap_or(-1);
        Self {
            guid: (key != job.as_str()).then(|| job.as_str().into()),
            job: key,
            expected: expected.map(revision),
            entry: String::from_utf8_lossy(&update.entry.to_bytes()).into_owned(),
            is_due_as_before: update.due == Due::Unchanged,
            due: match update.due {
                Due::In(time) => Some(micros(time)),
                Due::Unchanged | Due::Never => None,
            },
            keep: update.keep.map(micros),
            // The server commits notifications one after the other, each with its flush. An event of
            // a job that is not expected usually makes a new entry, and needs none. To wait takes an
            // entry, so only a waiter whose entry has expired hears some seconds later.
            notification: (update.wakes && expected.is_some())
                .then(|| super::listen::notification(job)),
        }
    }
}

impl PostgresWatchStore {
    pub(super) async fn load_entries(
        &self,
        jobs: &[JobGuid],
    ) -> Result<Vec<(JobGuid, Stored)>, sqlx::Error> {
        if jobs.is_empty() {
            return Ok(Vec::new());
        }
        let guids: HashMap<String, &JobGuid> = jobs
            .iter()
            .map(|job| (storable(job.as_str()), job))
            .collect();
        let load = Prepared::Load(guids.keys().cloned().collect());
        let mut found = Vec::new();
        for row in self.run(&load).await? {
            let job = row.try_get::<Option<&str>, _>(1)?;
            let job = job.and_then(|job| guids.get(job));
            // An entry of a later release is left out, so that it does not hide the others.
            if let (Some(job), Some(stored)) = (job, readable(&row)?) {
                found.push(((*job).clone(), stored));
            }
        }
        Ok(found)
    }

    pub(super) async fn replace_entry(&self, replace: &Replace) -> Result<Written, sqlx::Error> {
        let rows = self.run(&Prepared::Replace(replace)).await?;
        let row = rows.first().ok_or(UnexpectedAnswer("watch_replace"))?;
        match row.try_get(1)? {
            "done" => Ok(Written::Done),
            "conflict" => Ok(Written::Conflict(stored(row)?)),
            "busy" => Ok(Written::Busy),
            _ => Err(UnexpectedAnswer("watch_replace").into()),
        }
    }

    pub(super) async fn claim_entries(
        &self,
        limit: usize,
        lease: Duration,
    ) -> Result<Vec<(JobGuid, Stored)>, sqlx::Error> {
        if limit == 0 {
            return Ok(Vec::new());
        }
        let prune = simple(
            include_str!("sql/watch_prune.sql"),
            "watch_prune",
            &[count(PRUNED)],
        );
        let claim = simple(
            include_str!("sql/watch_claim.sql"),
            "watch_claim",
            &[count(limit), micros(lease)],
        );
        let rows = self.run_simple(&[prune, claim]).await?;
        let mut claimed = Vec::new();
        for row in rows.iter().skip(1) {
            // An entry of a later release is left to a process that can read it.
            if let (Some(job), Some(stored)) = (guid(row)?, readable(row)?) {
                claimed.push((job, stored));
            }
        }
        Ok(claimed)
    }

    pub(super) async fn count_entries(&self) -> Result<Counts, sqlx::Error> {
        let count = simple(include_str!("sql/watch_count.sql"), "watch_count", &[]);
        let rows = self.run_simple(&[count]).await?;
        let row = rows.first().ok_or(UnexpectedAnswer("watch_count"))?;
        let number = |column| {
            let number: i64 = row.try_get(column)?;
            Ok::<_, sqlx::Error>(number.unsigned_abs())
        };
        Ok(Counts {
            outstanding: number(1)?,
            overdue: number(2)?,
        })
    }
}

/// Returns a number of rows as the server's type.
pub(super) fn count(rows: usize) -> i64 {
    i64::try_from(rows).unwrap_or(i64::MAX)
}

/// Reads the guid of a claimed row.
fn guid(row: &PgRow) -> Result<Option<JobGuid>, sqlx::Error> {
    let guid: Option<Vec<u8>> = row.try_get(5)?;
    let text = match guid {
        Some(bytes) => Some(String::from_utf8(bytes).map_err(decode)?),
        None => row.try_get(1)?,
    };
    text.map(|text| text.parse().map_err(decode)).transpose()
}

/// Reads the entry of a row, or `None` if there is none or this release cannot read it.
fn readable(row: &PgRow) -> Result<Option<Stored>, sqlx::Error> {
    match stored(row) {
        Err(sqlx::Error::Decode(_)) => Ok(None),
        stored => stored,
    }
}

/// Reads the entry of a row, or `None` if there is none.
fn stored(row: &PgRow) -> Result<Option<Stored>, sqlx::Error> {
    let (revision, age): (Option<i64>, Option<i64>) = (row.try_get(2)?, row.try_get(3)?);
    let (Some(revision), Some(age)) = (revision, age) else {
        return Ok(None);
    };
    Ok(Some(Stored {
        entry: Entry::from_bytes(row.try_get::<&str, _>(4)?.as_bytes()).map_err(decode)?,
        revision: revision.unsigned_abs(),
        // It is negative if the server's clock was set back.
        age: Duration::from_micros(age.max(0).unsigned_abs()),
    }))
}

fn decode(error: impl Into<BoxDynError>) -> sqlx::Error {
    sqlx::Error::Decode(error.into())
}
