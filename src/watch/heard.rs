//! Events that were heard.

use std::ops::Deref;

use crate::event::JobEvent;
use crate::job::Job;
use crate::ledger::EventName;

/// An event that is settled: its callback has succeeded, or it needs none.
///
/// It dereferences to its [`Job`]. `Debug` shows what the `Debug` of [`Job`] shows.
#[derive(Clone, Debug, PartialEq)]
pub struct Heard {
    pub(super) job: Job,
    pub(super) name: EventName,
}

impl Heard {
    /// Returns the event, if its status is one that an application waits for.
    pub(super) fn of(event: &JobEvent) -> Option<Self> {
        event.status.is_actionable().then(|| Self {
            name: EventName::of(event),
            job: event.job().clone(),
        })
    }

    /// Returns the job, to which this also dereferences.
    #[must_use]
    pub fn job(&self) -> &Job {
        &self.job
    }

    /// Returns the job.
    #[must_use]
    pub fn into_job(self) -> Job {
        self.job
    }

    /// Returns the name of the event, for [`expect_after`](super::JobWatch::expect_after).
    #[must_use]
    pub fn name(&self) -> &EventName {
        &self.name
    }
}

impl Deref for Heard {
    type Target = Job;

    fn deref(&self) -> &Job {
        &self.job
    }
}
