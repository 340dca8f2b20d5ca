//! Events that were heard.

use std::fmt;
use std::ops::Deref;

use bytes::Bytes;

use crate::event::JobEvent;
use crate::job::{Job, JobGuid};
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

/// A settled event in short, for jobs that are not expected: its body, and a key of its job.
///
/// Most deliveries are of such jobs, so this is cheap to make: `expect` decodes it when the application expects
/// the job. `Debug` shows the length of the body.
pub struct SettledEvent {
    key: u64,
    body: Bytes,
}

impl SettledEvent {
    /// Returns the event, if its status is one that an application waits for.
    pub(super) fn of(event: &JobEvent) -> Option<Self> {
        event.status.is_actionable().then(|| Self {
            key: Self::key_of(&event.guid),
            // A copy, because the body shares its memory with the server's read buffer.
            body: Bytes::copy_from_slice(event.body()),
        })
    }

    /// Returns the key of the event's job.
    #[must_use]
    pub fn key(&self) -> u64 {
        self.key
    }

    /// Returns the key of a job. Different jobs rarely have the same key.
    #[must_use]
    pub fn key_of(job: &JobGuid) -> u64 {
        const FACTOR: u64 = 0x9e37_79b9_7f4a_7c15;
        let text = job.as_str().as_bytes();
        // Two groups of digits of MX's guids, which are `JOB-` and a UUID.
        let parts = text
            .get(4..)
            .and_then(|rest| rest.first_chunk())
            .zip(text.last_chunk());
        let (first, last) = match parts {
            Some((first, last)) => (u64::from_le_bytes(*first), u64::from_le_bytes(*last)),
            None => (
                0,
                text.iter().fold(0, |key, byte| key << 8 | u64::from(*byte)),
            ),
        };
        let mixed = first.wrapping_mul(FACTOR).rotate_left(29);
        (mixed ^ last).wrapping_mul(FACTOR)
    }

    /// Returns the length of the body.
    #[must_use]
    pub fn size(&self) -> usize {
        self.body.len()
    }

    /// Decodes the event.
    #[must_use]
    pub fn heard(&self) -> Option<Heard> {
        // The body was decoded before.
        Heard::of(&JobEvent::decode(self.body.clone()).ok()?)
    }
}

impl fmt::Debug for SettledEvent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SettledEvent")
            .field("body", &format_args!("{} bytes", self.body.len()))
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn different_jobs_have_different_keys() {
        let jobs = (0..1_000).flat_map(|number| {
            [
                format!("JOB-{number}"),
                format!("JOB-{number:08x}-e5b8-0680-3427-39556fa93c6e"),
                format!("JOB-a177e002-e5b8-0680-3427-3955{number:08x}"),
            ]
        });
        let keys: HashSet<u64> = jobs
            .map(|job| SettledEvent::key_of(&job.parse().unwrap()))
            .collect();
        assert_eq!(keys.len(), 3_000);
    }
}
