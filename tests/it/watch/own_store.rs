//! A store of expected jobs as a user would write it: it conforms, and the suite finds each of its
//! faults.

use std::collections::HashMap;
use std::convert::Infallible;
use std::sync::{Mutex, MutexGuard};
use std::time::Duration;

use mx_job_webhook::job::JobGuid;
use mx_job_webhook::testing::check_watch_store;
use mx_job_webhook::watch::{
    Counts, Due, Entry, Replaced, SettledEvent, Stored, Update, Wake, WatchStore,
};
use tokio::sync::broadcast;
use tokio::task::yield_now;
use tokio::time::Instant;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fault {
    LosesEntries,
    LoadsWhatWasNotAskedFor,
    HasNoAges,
    ReplacesAnyRevision,
    ShowsNoConflict,
    KeepsTheFirstEntry,
    InsertsInTwoSteps,
    ReplacesInTwoSteps,
    KeepsWhatHasExpired,
    CountsRevisionsByEntry,
    KeepsTheFirstEnd,
    ClaimsAtOnce,
    ClaimsNothing,
    ForgetsTheTimeOnAChange,
    ClaimsWhatIsNeverDue,
    ClaimsWithoutANewRevision,
    ClaimsTheLatestFirst,
    ClaimsMoreThanAskedFor,
    ClaimsTwiceWithoutALease,
    EndsNoLease,
    EndsALeaseTooSoon,
    ClaimsInTwoSteps,
    CountsWhatIsNeverDue,
    CountsEverythingAsOverdue,
    IgnoresTheCaseOfGuids,
    CutsGuidsShort,
    WakesNobody,
    LosesWhatNobodyExpects,
}

struct Row {
    job: JobGuid,
    entry: Entry,
    revision: u64,
    stored: Instant,
    due: Option<Instant>,
    expires: Option<Instant>,
}

impl Row {
    fn stored(&self) -> Stored {
        Stored {
            entry: self.entry.clone(),
            revision: self.revision,
            age: self.stored.elapsed(),
        }
    }
}

struct OwnStore {
    fault: Option<Fault>,
    rows: Mutex<HashMap<String, Row>>,
    last_revision: Mutex<u64>,
    changed: broadcast::Sender<JobGuid>,
}

impl OwnStore {
    fn new(fault: Option<Fault>) -> Self {
        Self {
            fault,
            rows: Mutex::default(),
            last_revision: Mutex::default(),
            changed: broadcast::channel(64).0,
        }
    }

    fn has(&self, fault: Fault) -> bool {
        self.fault == Some(fault)
    }

    fn key(&self, job: &JobGuid) -> String {
        match self.fault {
            Some(Fault::IgnoresTheCaseOfGuids) => job.as_str().to_lowercase(),
            Some(Fault::CutsGuidsShort) => job.as_str().chars().take(255).collect(),
            _ => job.to_string(),
        }
    }

    fn rows(&self) -> MutexGuard<'_, HashMap<String, Row>> {
        let mut rows = self.rows.lock().unwrap();
        if !self.has(Fault::KeepsWhatHasExpired) {
            rows.retain(|_, row| row.expires.is_none_or(|at| at > Instant::now()));
        }
        rows
    }

    fn next_revision(&self) -> u64 {
        let mut last = self.last_revision.lock().unwrap();
        *last += 1;
        *last
    }

    fn due(&self) -> Vec<String> {
        let is_due = |row: &Row| match row.due {
            Some(at) => at <= Instant::now() || self.has(Fault::ClaimsAtOnce),
            None => self.has(Fault::ClaimsWhatIsNeverDue),
        };
        let rows = self.rows();
        let mut due: Vec<_> = rows.iter().filter(|(_, row)| is_due(row)).collect();
        due.sort_by_key(|(_, row)| row.due);
        if self.has(Fault::ClaimsTheLatestFirst) {
            due.reverse();
        }
        due.into_iter().map(|(key, _)| key.clone()).collect()
    }
}

impl WatchStore for OwnStore {
    type Error = Infallible;

    async fn load(&self, jobs: &[JobGuid]) -> Result<Vec<(JobGuid, Stored)>, Infallible> {
        let rows = self.rows();
        if self.has(Fault::LoadsWhatWasNotAskedFor) {
            return Ok(rows
                .values()
                .map(|row| (row.job.clone(), row.stored()))
                .collect());
        }
        let found = jobs.iter().filter_map(|job| {
            let mut stored = rows.get(&self.key(job))?.stored();
            if self.has(Fault::HasNoAges) {
                stored.age = Duration::ZERO;
            }
            Some((job.clone(), stored))
        });
        Ok(found.collect())
    }

    async fn replace(
        &self,
        job: &JobGuid,
        expected: Option<u64>,
        update: Update<'_>,
    ) -> Result<Replaced, Infallible> {
        let key = self.key(job);
        let current = self.rows().get(&key).map(Row::stored);
        if current.as_ref().map(|it| it.revision) != expected
            && !self.has(Fault::ReplacesAnyRevision)
        {
            return Ok(Replaced::Conflict(
                current.filter(|_| !self.has(Fault::ShowsNoConflict)),
            ));
        }
        let in_two_steps = match expected {
            Some(_) => Fault::ReplacesInTwoSteps,
            None => Fault::InsertsInTwoSteps,
        };
        if self.has(in_two_steps) {
            yield_now().await;
        }
        if self.has(Fault::LosesEntries) {
            return Ok(Replaced::Done);
        }
        let mut rows = self.rows();
        let (now, known) = (Instant::now(), rows.get(&key));
        let due = match update.due {
            Due::In(time) => now.checked_add(time),
            Due::Unchanged if !self.has(Fault::ForgetsTheTimeOnAChange) => {
                known.and_then(|known| known.due)
            }
            _ => None,
        };
        let row = Row {
            job: job.clone(),
            entry: match known {
                Some(known) if self.has(Fault::KeepsTheFirstEntry) => known.entry.clone(),
                _ => update.entry.clone(),
            },
            revision: match self.fault {
                Some(Fault::CountsRevisionsByEntry) => known.map_or(1, |known| known.revision + 1),
                _ => self.next_revision(),
            },
            stored: now,
            due,
            expires: match update.keep {
                Some(keep) => now.checked_add(keep),
                None if self.has(Fault::KeepsTheFirstEnd) => known.and_then(|known| known.expires),
                None => None,
            },
        };
        rows.insert(key, row);
        if update.wakes && !self.has(Fault::WakesNobody) {
            let _ = self.changed.send(job.clone());
        }
        Ok(Replaced::Done)
    }

    async fn claim_due(
        &self,
        limit: usize,
        lease: Duration,
    ) -> Result<Vec<(JobGuid, Stored)>, Infallible> {
        let due = self.due();
        if self.has(Fault::ClaimsInTwoSteps) {
            yield_now().await;
        }
        let limit = match self.fault {
            Some(Fault::ClaimsMoreThanAskedFor) => usize::MAX,
            Some(Fault::ClaimsNothing) => 0,
            _ => limit,
        };
        let mut claimed = Vec::new();
        for key in due.into_iter().take(limit) {
            let mut rows = self.rows();
            let Some(row) = rows.get_mut(&key) else {
                continue;
            };
            row.due = match self.fault {
                Some(Fault::EndsNoLease) => Instant::now().checked_add(Duration::from_secs(3600)),
                Some(Fault::EndsALeaseTooSoon) => Instant::now().checked_add(lease / 1000),
                _ => Instant::now().checked_add(lease),
            };
            if !self.has(Fault::ClaimsWithoutANewRevision) {
                row.revision = match self.fault {
                    Some(Fault::CountsRevisionsByEntry) => row.revision + 1,
                    _ => self.next_revision(),
                };
            }
            claimed.push((row.job.clone(), row.stored()));
            if lease.is_zero() && self.has(Fault::ClaimsTwiceWithoutALease) {
                claimed.push((row.job.clone(), row.stored()));
            }
        }
        Ok(claimed)
    }

    async fn count(&self) -> Result<Counts, Infallible> {
        let rows = self.rows();
        let outstanding = rows
            .values()
            .filter(|row| row.due.is_some() || self.has(Fault::CountsWhatIsNeverDue))
            .count() as u64;
        drop(rows);
        let overdue = match self.fault {
            Some(Fault::CountsEverythingAsOverdue) => outstanding,
            _ => self.due().len() as u64,
        };
        Ok(Counts {
            outstanding,
            overdue,
        })
    }

    async fn listen(&self, wake: Wake) -> Result<(), Infallible> {
        let mut changed = self.changed.subscribe();
        wake.connected();
        while let Ok(job) = changed.recv().await {
            wake.job(&job);
        }
        Ok(())
    }

    fn record_unexpected(&self, event: SettledEvent, _: Duration) -> Option<SettledEvent> {
        let is_known = |event: &SettledEvent| {
            let job = event.heard().unwrap().guid.clone();
            self.rows().contains_key(&self.key(&job))
        };
        (!self.has(Fault::LosesWhatNobodyExpects) || is_known(&event)).then_some(event)
    }
}

#[tokio::test(start_paused = true)]
async fn the_users_store_conforms() {
    check_watch_store(OwnStore::new(None)).await;
}

/// Returns the suite's complaint about a store with this fault.
async fn said(fault: Fault) -> Option<String> {
    let own = OwnStore::new(Some(fault));
    let panic = tokio::spawn(check_watch_store(own))
        .await
        .err()?
        .into_panic();
    Some(panic.downcast_ref::<String>().unwrap().clone())
}

#[tokio::test(start_paused = true)]
async fn the_suite_finds_every_fault_in_its_case() {
    use Fault::*;

    let loaded = "an entry is loaded as it was stored: ";
    let outdated = "an entry that others have changed is not replaced: ";
    let one = "of several callers that replace an entry, one does: ";
    let expired = "an entry that has expired is the same as none: ";
    let due = "an entry is claimed when it is due, and not before: ";
    let order = "entries that have been due for longest are claimed first: ";
    let counted = "entries that are due are counted: ";
    let guids = "any guid is a job of its own: ";
    let cases = [
        (LosesEntries, loaded),
        (LoadsWhatWasNotAskedFor, loaded),
        (HasNoAges, loaded),
        (ReplacesAnyRevision, outdated),
        (ShowsNoConflict, outdated),
        (KeepsTheFirstEntry, outdated),
        (InsertsInTwoSteps, one),
        (ReplacesInTwoSteps, one),
        (KeepsWhatHasExpired, expired),
        (CountsRevisionsByEntry, expired),
        (KeepsTheFirstEnd, expired),
        (ClaimsAtOnce, due),
        (ClaimsNothing, due),
        (ForgetsTheTimeOnAChange, due),
        (ClaimsWhatIsNeverDue, due),
        (ClaimsWithoutANewRevision, due),
        (ClaimsTheLatestFirst, order),
        (ClaimsMoreThanAskedFor, order),
        (ClaimsTwiceWithoutALease, order),
        (
            EndsNoLease,
            "an entry is claimed again once the lease has expired: ",
        ),
        (
            EndsALeaseTooSoon,
            "an entry is claimed again once the lease has expired: ",
        ),
        (ClaimsInTwoSteps, "each entry is claimed by one caller: "),
        (CountsWhatIsNeverDue, counted),
        (CountsEverythingAsOverdue, counted),
        (IgnoresTheCaseOfGuids, guids),
        (CutsGuidsShort, guids),
        (
            WakesNobody,
            "what was heard through another watch is heard at once: ",
        ),
        (
            LosesWhatNobodyExpects,
            "what was heard before a job was expected counts: ",
        ),
    ];
    for (fault, case) in cases {
        let said = said(fault).await.unwrap_or_default();
        assert!(said.starts_with(case), "{fault:?}: {said:?}");
    }
}
