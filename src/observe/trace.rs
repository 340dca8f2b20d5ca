//! The span of a delivery, and the event that ends it.

use tracing::field::{Empty, display};
use tracing::instrument::{Instrument as _, Instrumented};
use tracing::span::EnteredSpan;
use tracing::{Level, Span, event, info_span};

use super::outcome::Outcome;
use crate::background::Delivery;
use crate::deadline::Instant;
use crate::{ErrorKind, Job};

/// Whatever the module is called.
macro_rules! target {
    () => {
        "mx_job_webhook"
    };
}

pub(super) struct Trace {
    span: Span,
    /// Only if there is somebody to tell.
    started: Option<Instant>,
    /// Whether the span is yet to be made.
    late: bool,
}

impl Default for Trace {
    fn default() -> Self {
        Self {
            span: Span::none(),
            started: None,
            late: false,
        }
    }
}

impl Trace {
    pub(super) fn start() -> Self {
        let span = span();
        let started = (!span.is_disabled()).then(Instant::now);
        Self {
            span,
            started,
            late: false,
        }
    }

    /// With a span only once there is something to tell.
    #[cfg(feature = "axum")]
    pub(super) fn late() -> Self {
        Self {
            started: Some(Instant::now()),
            late: true,
            ..Self::default()
        }
    }

    /// For what a delivery starts, and does not wait for.
    pub(super) fn current() -> Self {
        Self {
            span: Span::current(),
            ..Self::default()
        }
    }

    /// As values, not as text: what a sender wrote cannot break a line of the log.
    pub(super) fn decoded(&self, job: &Job) {
        if self.span.is_disabled() {
            return;
        }
        self.span.record("job.guid", job.guid.as_str());
        match job.status.name() {
            Some(name) => self.span.record("job.status", name),
            None => self.span.record("job.status", job.status.code()),
        };
    }

    pub(super) fn enter(&self) -> Option<EnteredSpan> {
        (!self.span.is_disabled()).then(|| self.span.clone().entered())
    }

    pub(super) fn within(&self, delivery: Delivery) -> Instrumented<Delivery> {
        delivery.instrument(self.span.clone())
    }

    pub(super) fn answered(&mut self, outcome: Outcome<'_>) {
        if std::mem::take(&mut self.late) {
            self.span = span();
        }
        if !self.span.is_disabled() {
            self.record(outcome);
        }
        self.span.in_scope(|| match outcome {
            Outcome::Receipt(_) => {
                event!(target: target!(), Level::DEBUG, "delivery acknowledged");
            }
            Outcome::Error(error) if is_the_callbacks(error.kind()) => {
                event!(target: target!(), Level::ERROR, "delivery failed: {error}");
            }
            Outcome::Error(error) => {
                event!(target: target!(), Level::WARN, "delivery refused: {error}");
            }
            Outcome::Abandoned => {
                event!(target: target!(), Level::WARN, "delivery abandoned by its sender");
            }
        });
    }

    fn record(&self, outcome: Outcome<'_>) {
        self.span.record("outcome", outcome.name());
        if let Outcome::Error(error) = outcome {
            self.span.record("error.type", outcome.name());
            self.span.record("error.message", display(error));
        }
        if let Some(started) = self.started {
            self.span
                .record("duration", started.elapsed().as_secs_f64());
        }
    }

    /// The callback of a delivery that was answered before.
    pub(super) fn ran_on(&self, outcome: Outcome<'_>) {
        let name = outcome.name();
        self.span.in_scope(|| match outcome {
            Outcome::Error(error) => {
                event!(
                    target: target!(),
                    Level::ERROR,
                    "outcome" = name,
                    "after the answer: {error}"
                );
            }
            _ => {
                event!(
                    target: target!(),
                    Level::DEBUG,
                    "outcome" = name,
                    "the callback ended after the answer"
                );
            }
        });
    }
}

fn span() -> Span {
    info_span!(
        target: target!(),
        "mx_job_webhook.delivery",
        "job.guid" = Empty,
        "job.status" = Empty,
        "outcome" = Empty,
        "error.type" = Empty,
        "error.message" = Empty,
        "duration" = Empty,
    )
}

/// Whether it is the application's own code that failed.
fn is_the_callbacks(kind: ErrorKind) -> bool {
    matches!(
        kind,
        ErrorKind::CallbackFailed | ErrorKind::CallbackPanicked | ErrorKind::CallbackCancelled
    )
}
