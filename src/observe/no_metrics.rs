//! The metrics of a build without the feature `metrics`.

use crate::callback::JobFuture;
use crate::job::Status;

#[cfg(feature = "tokio")]
pub(super) use expected::given_up;
#[cfg(feature = "tokio")]
pub(crate) use expected::{expected_jobs, failsafe_read, heard_after};
#[cfg(feature = "tracing")]
pub(super) use meter::Meter;
#[cfg(feature = "queue")]
pub(super) use queue::dead_lettered;
#[cfg(feature = "queue")]
pub(crate) use queue::queued_events;

/// Times one callback.
pub(crate) struct Timer;

impl Timer {
    pub(crate) fn start(_: &Status) -> Self {
        Self
    }

    pub(crate) fn time(self, callback: JobFuture) -> JobFuture {
        callback
    }
}

#[cfg(feature = "queue")]
mod queue {
    use std::time::Duration;

    pub(crate) fn queued_events(_: &str, _: u64, _: u64, _: u64, _: Duration) {}

    pub(in crate::observe) fn dead_lettered() {}
}

#[cfg(feature = "tokio")]
mod expected {
    use std::time::Duration;

    use crate::job::Status;

    pub(crate) fn heard_after(_: &Status, _: Duration) {}

    pub(crate) fn expected_jobs(_: u64, _: u64) {}

    pub(crate) fn failsafe_read(_: &'static str) {}

    pub(in crate::observe) fn given_up() {}
}

#[cfg(feature = "tracing")]
mod meter {
    use crate::error::ErrorKind;
    use crate::event::JobEvent;
    use crate::observe::outcome::Outcome;

    /// Counts one delivery.
    #[derive(Default)]
    pub(in super::super) struct Meter;

    impl Meter {
        pub(in super::super) fn start() -> Self {
            Self
        }

        pub(in super::super) fn none() -> Self {
            Self
        }

        pub(in super::super) fn decoded(&mut self, _: &JobEvent) {}

        pub(in super::super) fn has_no_job(&mut self, _: ErrorKind) {}

        pub(in super::super) fn answered(&self, _: Outcome<'_>) {}
    }
}
