//! How long a callback takes, whoever called it: a delivery, or a queue's worker.

use crate::Status;
use crate::background::Delivery;

/// Times one callback, with the feature `metrics`.
pub(crate) struct Timer {
    #[cfg(feature = "metrics")]
    running: timed::Running,
}

impl Timer {
    /// Starts before the callback is called: what it does before it is polled counts.
    #[cfg_attr(not(feature = "metrics"), allow(unused_variables))]
    pub(crate) fn start(status: &Status) -> Self {
        Self {
            #[cfg(feature = "metrics")]
            running: timed::Running::start(status),
        }
    }

    pub(crate) fn time(self, callback: Delivery) -> Delivery {
        #[cfg(feature = "metrics")]
        return Box::pin(timed::Timed::new(callback, self.running));
        #[cfg(not(feature = "metrics"))]
        callback
    }
}

#[cfg(feature = "metrics")]
mod timed {
    use std::pin::Pin;
    use std::task::{Context, Poll, ready};

    use metrics::histogram;

    use super::super::metrics::{CALLBACK_DURATION, CALLBACKS_IN_FLIGHT, InFlight, label};
    use super::super::outcome::Outcome;
    use super::Delivery;
    use crate::deadline::Instant;
    use crate::{Error, ErrorKind, Receipt, Status};

    pub(super) struct Running {
        status: &'static str,
        started: Instant,
        _in_flight: InFlight,
        /// What it is when nobody polled it to its end.
        outcome: &'static str,
    }

    impl Running {
        pub(super) fn start(status: &Status) -> Self {
            Self {
                status: label(status),
                started: Instant::now(),
                _in_flight: InFlight::start(CALLBACKS_IN_FLIGHT),
                outcome: ErrorKind::CallbackCancelled.name(),
            }
        }
    }

    impl Drop for Running {
        fn drop(&mut self) {
            let (status, outcome) = (self.status, self.outcome);
            histogram!(CALLBACK_DURATION, "status" => status, "outcome" => outcome)
                .record(self.started.elapsed());
        }
    }

    pub(super) struct Timed {
        callback: Delivery,
        running: Option<Running>,
    }

    impl Timed {
        pub(super) fn new(callback: Delivery, running: Running) -> Self {
            Self {
                callback,
                running: Some(running),
            }
        }
    }

    impl Future for Timed {
        type Output = Result<Receipt, Error>;

        fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
            let outcome = ready!(self.callback.as_mut().poll(context));
            if let Some(mut running) = self.running.take() {
                running.outcome = Outcome::from(&outcome).name();
            }
            Poll::Ready(outcome)
        }
    }
}
