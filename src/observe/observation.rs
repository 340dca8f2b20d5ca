//! The observation of a delivery, from its arrival to the end of its callback.

use super::metrics::Meter;
use super::outcome::Outcome;
use super::trace::{self, Trace};
use crate::background::Background;
use crate::callback::JobFuture;
use crate::error::{Error, ErrorKind, Receipt};
use crate::event::{JobEvent, Source};

pub(super) use super::trace::Instrumented;

/// Observes one delivery, and reports it once.
///
/// The default observes nothing. It replaces an observation that was moved out, and serves events
/// whose delivery is already observed.
#[derive(Default)]
pub(crate) struct Observation {
    stage: Stage,
    trace: Trace,
    meter: Meter,
}

#[derive(Clone, Copy, Default, PartialEq)]
enum Stage {
    /// Nothing is left to report.
    #[default]
    Done,
    /// No callback has started yet.
    Receiving,
    /// A callback is running.
    Calling,
    /// The delivery was answered, and its callback continues.
    Answered,
}

/// The guard of [`Observation::enter`].
#[must_use]
pub(crate) struct Entered {
    _span: Option<trace::Entered>,
}

impl Observation {
    /// Observes a request that has just arrived.
    pub(crate) fn start() -> Self {
        Self {
            stage: Stage::Receiving,
            trace: Trace::start(),
            meter: Meter::start(),
        }
    }

    /// Observes a request until it is decoded. `background.run` then observes the event.
    pub(crate) fn until_decoded() -> Self {
        Self {
            stage: Stage::Receiving,
            trace: Trace::late(),
            meter: Meter::start(),
        }
    }

    /// Stops observing, because the request was decoded.
    pub(crate) fn leave(&mut self) {
        self.stage = Stage::Done;
    }

    /// Observes an event, unless the callback that runs it is observed as its delivery.
    pub(crate) fn of(event: &mut JobEvent) -> Self {
        if event.mark_observed() {
            if Background::of_current_callback().is_some() {
                return Self::default();
            }
            // The application has stored the event, and runs it again.
            event.set_source(Source::Call);
        }
        let mut this = Self::start();
        this.decoded(event);
        this
    }

    /// Observes a callback whose delivery is answered before the callback ends.
    pub(crate) fn after_the_answer() -> Self {
        Self {
            stage: Stage::Answered,
            trace: Trace::current(),
            meter: Meter::none(),
        }
    }

    /// Records the decoded event.
    pub(crate) fn decoded(&mut self, event: &mut JobEvent) {
        event.mark_observed();
        self.trace.decoded(event);
        self.meter.decoded(event);
    }

    /// Records why the body has no job.
    pub(crate) fn has_no_job(&mut self, error: &Error) {
        self.trace.has_no_job(error);
        self.meter.has_no_job(error.kind());
    }

    /// Reports that the service within answers.
    pub(crate) fn pass_on(&mut self, error: &Error) {
        self.has_no_job(error);
        self.report(Outcome::PassedOn);
        self.stage = Stage::Done;
    }

    /// Enters the delivery's span on this thread, until the guard is dropped.
    pub(crate) fn enter(&self) -> Entered {
        Entered {
            _span: self.trace.enter(),
        }
    }

    /// Enters the span of a request that is refused, which is created now at the latest.
    pub(crate) fn enter_late(&mut self) -> Entered {
        self.trace.create_late();
        self.enter()
    }

    /// Instruments a callback that has started. Each poll enters the delivery's span.
    pub(super) fn calling(&mut self, callback: JobFuture) -> Instrumented {
        if self.stage == Stage::Receiving {
            self.stage = Stage::Calling;
        }
        self.trace.instrument(callback)
    }

    /// Reports the outcome of a delivery that has ended.
    pub(crate) fn end(&mut self, outcome: &Result<Receipt, Error>) {
        self.report(outcome.into());
        self.stage = Stage::Done;
    }

    /// Reports the error of a delivery that has ended.
    pub(crate) fn refuse(&mut self, error: &Error) {
        self.report(Outcome::Error(error));
        self.stage = Stage::Done;
    }

    /// Reports the answer of a delivery whose callback continues.
    pub(super) fn answer(&mut self, error: &Error) {
        if self.stage != Stage::Done {
            self.report(Outcome::Error(error));
            self.stage = Stage::Answered;
        }
    }

    fn report(&mut self, outcome: Outcome<'_>) {
        match self.stage {
            Stage::Done => {}
            Stage::Receiving | Stage::Calling => {
                self.meter.answered(outcome);
                self.trace.answered(outcome);
            }
            Stage::Answered => self.trace.finished_after_the_answer(outcome),
        }
    }
}

/// Reports a delivery that was dropped before its end.
impl Drop for Observation {
    fn drop(&mut self) {
        match self.stage {
            Stage::Done => {}
            Stage::Receiving => self.report(Outcome::Abandoned),
            Stage::Calling | Stage::Answered => {
                self.report(Outcome::Error(&Error::new(ErrorKind::CallbackCancelled)));
            }
        }
    }
}
