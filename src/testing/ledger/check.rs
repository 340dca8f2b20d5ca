//! The steps that the cases are made of: calls to the ledger, and checks of its answers.

use std::hash::{BuildHasher as _, Hasher as _, RandomState};
use std::sync::Arc;
use std::time::Duration;

use tower::BoxError;

use crate::event::FencingToken;
use crate::job::{Job, Status, Timestamp};
use crate::ledger::{Claim, Commit, EventName, Ledger};

/// The lease in cases that do not wait until it expires.
pub(super) const LONG: Duration = Duration::from_secs(600);

pub(super) struct Check<L> {
    pub(super) ledger: Arc<L>,
    case: &'static str,
    /// A random part of the jobs' names, so that runs in the same store share no job.
    run: String,
}

impl<L: Ledger> Check<L> {
    pub(super) fn new(ledger: Arc<L>, case: &'static str) -> Self {
        Self {
            ledger,
            case,
            run: format!("{:016x}", RandomState::new().build_hasher().finish()),
        }
    }

    pub(super) async fn claims_and_settles(&self, event: &EventName) {
        let token = self.granted(event).await;
        self.finds(event, Claim::InFlight).await;
        self.settles(event, token).await;
        self.finds(event, Claim::Settled).await;
    }

    /// Returns an event of a job of this run.
    pub(super) fn event(
        &self,
        job: &str,
        status: Status,
        updated_at: impl Into<Option<i64>>,
    ) -> EventName {
        let updated_at = updated_at.into().map(Timestamp::from_unix_seconds);
        self.event_at(job, status, updated_at)
    }

    pub(super) fn event_at(
        &self,
        job: &str,
        status: Status,
        updated_at: impl Into<Option<Timestamp>>,
    ) -> EventName {
        let mut job = self.job(job, status);
        job.updated_at = updated_at.into();
        EventName::of(&job.into())
    }

    /// Returns an event without a date, with this error message.
    pub(super) fn undated(&self, job: &str, message: &str) -> EventName {
        let mut job = self.job(job, Status::Completed);
        job.error_message = Some(message.into());
        EventName::of(&job.into())
    }

    fn job(&self, job: &str, status: Status) -> Job {
        let name = format!("JOB-{}-{}-{job}", self.run, self.case);
        let Ok(guid) = name.parse() else {
            self.fail("the GUID is blank");
        };
        Job::new(guid, status)
    }

    pub(super) async fn granted(&self, event: &EventName) -> FencingToken {
        self.granted_for(event, LONG).await
    }

    pub(super) async fn granted_for(&self, event: &EventName, lease: Duration) -> FencingToken {
        match self.claim(event, lease).await {
            Claim::Granted(token) => token,
            other => self.fail(&format!("expected a granted claim, found {other:?}")),
        }
    }

    pub(super) async fn finds(&self, event: &EventName, expected: Claim) {
        let claim = self.claim(event, LONG).await;
        self.assert(
            claim == expected,
            &format!("expected {expected:?}, found {claim:?}"),
        );
    }

    pub(super) async fn settles(&self, event: &EventName, token: FencingToken) {
        let commit = self.commit(event, token).await;
        self.assert(
            commit == Commit::Settled,
            &format!("expected Settled, found {commit:?}"),
        );
    }

    pub(super) async fn claim(&self, event: &EventName, lease: Duration) -> Claim {
        self.succeeded(self.ledger.claim(event, lease).await)
    }

    pub(super) async fn commit(&self, event: &EventName, token: FencingToken) -> Commit {
        self.succeeded(self.ledger.commit(event, token).await)
    }

    pub(super) async fn release(&self, event: &EventName, token: FencingToken) {
        self.succeeded(self.ledger.release(event, token).await);
    }

    pub(super) fn succeeded<T>(&self, outcome: Result<T, L::Error>) -> T {
        match box_error(outcome) {
            Ok(value) => value,
            Err(error) => self.fail(&format!("the ledger failed: {error}")),
        }
    }

    #[track_caller]
    pub(super) fn assert(&self, holds: bool, message: &str) {
        if !holds {
            self.fail(message);
        }
    }

    #[track_caller]
    pub(super) fn fail(&self, message: &str) -> ! {
        panic!("{}: {message}", self.case);
    }
}

pub(super) fn box_error<T, E: Into<BoxError>>(outcome: Result<T, E>) -> Result<T, BoxError> {
    outcome.map_err(Into::into)
}
