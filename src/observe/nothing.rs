//! What stands for an observation without the features: no bytes, and no instructions.

use crate::background::Delivery;
use crate::{Error, JobEvent, Receipt};

#[derive(Default)]
pub(crate) struct Observation;

/// What [`Observation::enter`] gives.
#[must_use]
pub(crate) struct Entered;

pub(super) type Within = Delivery;

impl Observation {
    pub(crate) fn start() -> Self {
        Self
    }

    #[cfg(feature = "axum")]
    pub(crate) fn until_decoded() -> Self {
        Self
    }

    #[cfg(feature = "axum")]
    pub(crate) fn leave(&mut self) {}

    pub(crate) fn of(_: &mut JobEvent) -> Self {
        Self
    }

    pub(crate) fn after_the_answer() -> Self {
        Self
    }

    pub(crate) fn decoded(&mut self, _: &mut JobEvent) {}

    pub(crate) fn enter(&self) -> Entered {
        Entered
    }

    pub(super) fn calling(&mut self, delivery: Delivery) -> Within {
        delivery
    }

    pub(crate) fn end(&mut self, _: &Result<Receipt, Error>) {}

    pub(crate) fn refuse(&mut self, _: &Error) {}

    pub(super) fn answer(&mut self, _: &Error) {}
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn there_is_nothing_to_it() {
        assert_eq!(size_of::<Observation>(), 0);
        assert!(!std::mem::needs_drop::<Observation>());
        assert_eq!(size_of::<super::super::Observed>(), size_of::<Delivery>());
        assert_eq!(size_of::<super::super::Timer>(), 0);
    }
}
