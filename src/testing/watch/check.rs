//! The steps that the cases are made of.

use std::sync::Arc;
use std::time::Duration;

use tower::{BoxError, Layer as _, Service as _};

use crate::job::{Job, JobGuid, Status};
use crate::router::JobRouter;
use crate::util::random::random;
use crate::watch::{Due, Entry, JobWatch, Replaced, Stored, Update, WatchStore};

/// A time that no call here outlasts.
pub(super) const LEASE: Duration = Duration::from_secs(2);

pub(super) const LONG: Duration = Duration::from_secs(600);

pub(super) struct Check<S> {
    pub(super) store: Arc<S>,
    case: &'static str,
    /// A random part of the jobs' names.
    run: u64,
}

impl<S: WatchStore> Check<S> {
    pub(super) fn new(store: Arc<S>, case: &'static str) -> Self {
        Self {
            store,
            case,
            run: random(),
        }
    }

    pub(super) async fn deliver(&self, watch: &JobWatch, job: &JobGuid, status: Status) {
        let mut jobs = watch.layer().layer(JobRouter::new());
        let event = Job::new(job.clone(), status).into();
        self.answer(jobs.call(event).await);
    }

    pub(super) fn job(&self, name: &str) -> JobGuid {
        let name = format!("JOB-{:016x}-{}-{name}", self.run, self.case);
        match name.parse() {
            Ok(guid) => guid,
            Err(_) => self.fail("the GUID is blank"),
        }
    }

    pub(super) async fn stores(
        &self,
        job: &JobGuid,
        expected: Option<u64>,
        entry: &Entry,
        due: Due,
        keep: Option<Duration>,
    ) {
        let replaced = self.store.replace(job, expected, update(entry, due, keep));
        let replaced = self.answer(replaced.await);
        self.assert(matches!(replaced, Replaced::Done), "nothing was stored");
    }

    /// Checks that an outdated revision replaces nothing, and that the answer has the current entry.
    pub(super) async fn conflicts(
        &self,
        job: &JobGuid,
        revision: Option<u64>,
        current: Option<&str>,
    ) {
        let wrong = entry("wrong");
        let update = update(&wrong, Due::In(Duration::ZERO), None);
        match self.answer(self.store.replace(job, revision, update).await) {
            Replaced::Done => self.fail("an outdated revision was replaced"),
            Replaced::Conflict(found) => {
                let found = found.map(|stored| stored.entry);
                self.assert(
                    found == current.map(entry),
                    "the conflict does not show the current entry",
                );
            }
        }
        let stored = self.get(job).await.map(|stored| stored.entry);
        self.assert(stored == current.map(entry), "the entry has changed");
    }

    pub(super) async fn get(&self, job: &JobGuid) -> Option<Stored> {
        let loaded = self.answer(self.store.load(std::slice::from_ref(job)).await);
        self.assert(loaded.len() <= 1, "it loaded an entry twice");
        loaded.into_iter().next().map(|(_, stored)| stored)
    }

    pub(super) async fn found(&self, job: &JobGuid) -> Stored {
        match self.get(job).await {
            Some(stored) => stored,
            None => self.fail("the entry is lost"),
        }
    }

    /// Claims all that is due, and checks that it is these jobs.
    pub(super) async fn claims(&self, jobs: &[JobGuid]) -> Vec<Stored> {
        let claimed = self.answer(self.store.claim_due(100, LONG).await);
        let (found, stored): (Vec<_>, Vec<_>) = claimed.into_iter().unzip();
        self.assert(found == jobs, "other entries were claimed");
        stored
    }

    /// Makes entries expire.
    pub(super) async fn clean_up_all(&self, jobs: &[JobGuid]) {
        for job in jobs {
            let stored = self.found(job).await;
            let entry = Entry::default();
            self.stores(job, Some(stored.revision), &entry, Due::Never, Some(LEASE))
                .await;
        }
    }

    /// Claims what is left of other cases.
    pub(super) async fn clean_up(&self) {
        self.answer(self.store.claim_due(1_000, LONG).await);
    }

    pub(super) fn answer<T, E: Into<BoxError>>(&self, answer: Result<T, E>) -> T {
        match answer {
            Ok(answer) => answer,
            Err(error) => {
                let error: BoxError = error.into();
                self.fail(&format!("the store failed: {error}"))
            }
        }
    }

    pub(super) fn assert(&self, holds: bool, otherwise: &str) {
        if !holds {
            self.fail(otherwise);
        }
    }

    pub(super) fn fail(&self, why: &str) -> ! {
        panic!("{}: {why}", self.case);
    }
}

/// Returns an entry that differs from those of other names.
pub(super) fn entry(name: &str) -> Entry {
    let name = serde_json::Value::from(name);
    let bytes = format!(r#"{{"version": 1, "names": [{name}]}}"#);
    Entry::from_bytes(bytes.as_bytes()).unwrap_or_default()
}

pub(super) fn update(entry: &Entry, due: Due, keep: Option<Duration>) -> Update<'_> {
    Update {
        entry,
        due,
        keep,
        wakes: false,
    }
}
