//! The observation of a build without `tracing` and `metrics`. It takes no bytes, and only sees where an event comes from.

use crate::background::Background;
use crate::callback::JobFuture;
use crate::error::{Error, Receipt};
use crate::event::{JobEvent, Source};

pub(super) type Instrumented = JobFuture;

#[derive(Default)]
pub(crate) struct Observation;

/// The guard of [`Observation::enter`].
#[must_use]
pub(crate) struct Entered;

impl Observation {
    pub(crate) fn start() -> Self {
        Self
    }

    pub(crate) fn until_decoded() -> Self {
        Self
    }

    pub(crate) fn leave(&mut self) {}

    pub(crate) fn of(event: &mut JobEvent) -> Self {
        // As with the features: the application has stored the event, and runs it again.
        if event.mark_observed() && Background::of_current_callback().is_none() {
            event.set_source(Source::Call);
        }
        Self
    }

    pub(crate) fn after_the_answer() -> Self {
        Self
    }

    pub(crate) fn decoded(&mut self, event: &mut JobEvent) {
        event.mark_observed();
    }

    pub(crate) fn has_no_job(&mut self, _: &Error) {}

    pub(crate) fn pass_on(&mut self, _: &Error) {}

    pub(crate) fn enter(&self) -> Entered {
        Entered
    }

    pub(crate) fn enter_late(&mut self) -> Entered {
        Entered
    }

    pub(super) fn calling(&mut self, callback: JobFuture) -> Instrumented {
        callback
    }

    pub(crate) fn end(&mut self, _: &Result<Receipt, Error>) {}

    pub(crate) fn refuse(&mut self, _: &Error) {}

    pub(super) fn answer(&mut self, _: &Error) {}
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_observation_costs_nothing() {
        assert_eq!(size_of::<Observation>(), 0);
        assert!(!std::mem::needs_drop::<Observation>());
        assert_eq!(size_of::<super::super::Observed>(), size_of::<JobFuture>());
        assert_eq!(size_of::<super::super::Timer>(), 0);
    }
}
