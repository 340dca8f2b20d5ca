//! The trace of a build without the feature `tracing`.

use super::outcome::Outcome;
use crate::callback::JobFuture;
use crate::error::Error;
use crate::event::JobEvent;

pub(super) type Instrumented = JobFuture;

#[derive(Default)]
pub(super) struct Trace;

/// The guard of a span. It has no values, because there is no span.
pub(super) enum Entered {}

impl Trace {
    pub(super) fn start() -> Self {
        Self
    }

    pub(super) fn late() -> Self {
        Self
    }

    pub(super) fn current() -> Self {
        Self
    }

    pub(super) fn decoded(&self, _: &JobEvent) {}

    pub(super) fn create_late(&mut self) {}

    pub(super) fn has_no_job(&mut self, _: &Error) {}

    pub(super) fn enter(&self) -> Option<Entered> {
        None
    }

    pub(super) fn instrument(&self, callback: JobFuture) -> Instrumented {
        callback
    }

    pub(super) fn answered(&mut self, _: Outcome<'_>) {}

    pub(super) fn finished_after_the_answer(&self, _: Outcome<'_>) {}
}
