//! A delivery, from its arrival to the end of all that it started.

#[cfg(feature = "metrics")]
use super::metrics::Meter;
use super::outcome::Outcome;
#[cfg(feature = "tracing")]
use super::trace::Trace;
use crate::background::Delivery;
use crate::{Error, ErrorKind, JobEvent, Receipt};

/// Sees one delivery, and tells of it once.
///
/// The default sees nothing: it is what remains where one was taken out, and what sees the parts
/// of a delivery that is seen already.
#[derive(Default)]
pub(crate) struct Observation {
    stage: Stage,
    #[cfg(feature = "tracing")]
    trace: Trace,
    #[cfg(feature = "metrics")]
    meter: Meter,
}

#[derive(Clone, Copy, Default, PartialEq)]
enum Stage {
    /// There is nothing (more) to tell.
    #[default]
    Nothing,
    /// No callback has started yet.
    Receiving,
    Calling,
    /// A callback that goes on all the same.
    Answered,
}

/// Left in an event whose delivery is seen, so that it is not told of twice.
#[derive(Clone, Copy, Default)]
pub(crate) struct Mark(bool);

/// What [`Observation::enter`] gives.
#[must_use]
pub(crate) struct Entered {
    #[cfg(feature = "tracing")]
    _span: Option<tracing::span::EnteredSpan>,
}

/// A callback's future that enters the span wherever it is polled or dropped.
#[cfg(feature = "tracing")]
pub(super) type Within = tracing::instrument::Instrumented<Delivery>;
#[cfg(not(feature = "tracing"))]
pub(super) type Within = Delivery;

impl Observation {
    /// Of a request that has just arrived.
    pub(crate) fn start() -> Self {
        Self {
            stage: Stage::Receiving,
            #[cfg(feature = "tracing")]
            trace: Trace::start(),
            #[cfg(feature = "metrics")]
            meter: Meter::start(),
        }
    }

    /// Of a request that may turn out to be an event, which somebody else then sees.
    #[cfg(feature = "axum")]
    pub(crate) fn until_decoded() -> Self {
        Self {
            stage: Stage::Receiving,
            #[cfg(feature = "tracing")]
            trace: Trace::late(),
            #[cfg(feature = "metrics")]
            meter: Meter::start(),
        }
    }

    /// It did.
    #[cfg(feature = "axum")]
    pub(crate) fn leave(&mut self) {
        self.stage = Stage::Nothing;
    }

    /// Of an event that no mount of this crate received, or that nobody sees yet.
    pub(crate) fn of(event: &mut JobEvent) -> Self {
        if event.mark().0 {
            return Self::default();
        }
        let mut this = Self::start();
        this.decoded(event);
        this
    }

    /// Of a callback whose delivery is answered while it runs.
    pub(crate) fn after_the_answer() -> Self {
        Self {
            stage: Stage::Answered,
            #[cfg(feature = "tracing")]
            trace: Trace::current(),
            #[cfg(feature = "metrics")]
            meter: Meter::default(),
        }
    }

    /// The body turned out to be this.
    pub(crate) fn decoded(&mut self, event: &mut JobEvent) {
        *event.mark() = Mark(true);
        #[cfg(feature = "tracing")]
        self.trace.decoded(event.job());
        #[cfg(feature = "metrics")]
        self.meter.decoded(event.job());
    }

    /// Until this is dropped, the code of this thread is the delivery's.
    pub(crate) fn enter(&self) -> Entered {
        Entered {
            #[cfg(feature = "tracing")]
            _span: self.trace.enter(),
        }
    }

    /// A callback has started; what it does is the delivery's, wherever it is polled.
    pub(super) fn calling(&mut self, delivery: Delivery) -> Within {
        if self.stage == Stage::Receiving {
            self.stage = Stage::Calling;
        }
        #[cfg(feature = "tracing")]
        return self.trace.within(delivery);
        #[cfg(not(feature = "tracing"))]
        delivery
    }

    /// This is the answer, and nothing of the delivery is left.
    pub(crate) fn end(&mut self, outcome: &Result<Receipt, Error>) {
        self.tell(outcome.into());
        self.stage = Stage::Nothing;
    }

    /// The same for one that was not acknowledged.
    pub(crate) fn refuse(&mut self, error: &Error) {
        self.tell(Outcome::Error(error));
        self.stage = Stage::Nothing;
    }

    /// This is the answer, and the callback goes on.
    pub(super) fn answer(&mut self, error: &Error) {
        self.tell(Outcome::Error(error));
        self.stage = Stage::Answered;
    }

    fn tell(&mut self, outcome: Outcome<'_>) {
        match self.stage {
            Stage::Nothing => {}
            Stage::Receiving | Stage::Calling => {
                #[cfg(feature = "tracing")]
                self.trace.answered(outcome);
                #[cfg(feature = "metrics")]
                self.meter.answered(outcome);
            }
            Stage::Answered => {
                #[cfg(feature = "tracing")]
                self.trace.ran_on(outcome);
            }
        }
    }
}

/// Whoever dropped it did not wait for the end.
impl Drop for Observation {
    fn drop(&mut self) {
        match self.stage {
            Stage::Nothing => {}
            Stage::Receiving => self.tell(Outcome::Abandoned),
            Stage::Calling | Stage::Answered => {
                self.tell(Outcome::Error(&Error::new(ErrorKind::CallbackCancelled)));
            }
        }
    }
}
