//! The span of a delivery, and the event that ends it.

use tracing::field::{DisplayValue, Empty, display};
use tracing::instrument::Instrument as _;
use tracing::span::EnteredSpan;
use tracing::{Level, Span, event, info_span};

use super::outcome::Outcome;
use crate::callback::JobFuture;
use crate::error::{Error, ErrorKind};
use crate::event::JobEvent;
use crate::util::deadline::Instant;

/// The target of spans and events. It is fixed, so that it stays the same when modules move.
macro_rules! target {
    () => {
        "mx_job_webhook"
    };
}

/// A callback's future that enters the span wherever it is polled or dropped.
pub(super) type Instrumented = tracing::instrument::Instrumented<JobFuture>;

/// The guard of a span.
pub(super) type Entered = EnteredSpan;

pub(super) struct Trace {
    span: Span,
    /// `None` if no subscriber is interested.
    started: Option<Instant>,
    /// Whether the span is created when the first outcome is reported.
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

    /// Creates the span when the first outcome is reported.
    pub(super) fn late() -> Self {
        Self {
            started: Some(Instant::now()),
            late: true,
            ..Self::default()
        }
    }

    /// Uses the current span, which is the span of the delivery that starts the callback.
    pub(super) fn current() -> Self {
        Self {
            span: Span::current(),
            ..Self::default()
        }
    }

    /// Records the job's fields as values and not as text, so that a sender cannot break log lines.
    pub(super) fn decoded(&self, job: &JobEvent) {
        if self.span.is_disabled() {
            return;
        }
        self.span.record("source", job.source().name());
        self.span.record("job.guid", job.guid.as_str());
        match job.status.name() {
            Some(name) => self.span.record("job.status", name),
            None => self.span.record("job.status", job.status.code()),
        };
        #[cfg(feature = "queue")]
        if let Some(it) = crate::event::tried::Try::of(job) {
            self.span.record("try", it.number());
        }
    }

    /// Records why the body has no job, which an error of a hook does not say.
    pub(super) fn has_no_job(&mut self, error: &Error) {
        self.create_late();
        if !self.span.is_disabled() {
            self.span.record("body.problem", display(error));
        }
    }

    pub(super) fn enter(&self) -> Option<Entered> {
        (!self.span.is_disabled()).then(|| self.span.clone().entered())
    }

    pub(super) fn instrument(&self, callback: JobFuture) -> Instrumented {
        callback.instrument(self.span.clone())
    }

    pub(super) fn answered(&mut self, outcome: Outcome<'_>) {
        self.create_late();
        if !self.span.is_disabled() {
            self.record(outcome);
        }
        self.span.in_scope(|| match outcome {
            Outcome::Receipt(_) => {
                event!(target: target!(), Level::DEBUG, "delivery acknowledged");
            }
            Outcome::PassedOn => {
                event!(target: target!(), Level::DEBUG, "delivery passed on");
            }
            Outcome::Error(error) if is_of_callback(error.kind()) => {
                event!(target: target!(), Level::ERROR, "delivery failed: {}", reason(error));
            }
            Outcome::Error(error) => {
                event!(target: target!(), Level::WARN, "delivery refused: {}", reason(error));
            }
            Outcome::Abandoned => {
                event!(target: target!(), Level::WARN, "delivery abandoned by its sender");
            }
        });
    }

    pub(super) fn create_late(&mut self) {
        if std::mem::take(&mut self.late) {
            self.span = span();
        }
    }

    fn record(&self, outcome: Outcome<'_>) {
        self.span.record("outcome", outcome.name());
        if let Outcome::Error(error) = outcome {
            self.span.record("error.type", outcome.name());
            self.span.record("error.message", reason(error));
        }
        if let Some(started) = self.started {
            self.span
                .record("duration", started.elapsed().as_secs_f64());
        }
    }

    /// Reports the end of a callback whose delivery was answered earlier.
    pub(super) fn finished_after_the_answer(&self, outcome: Outcome<'_>) {
        let name = outcome.name();
        self.span.in_scope(|| match outcome {
            Outcome::Error(error) => {
                event!(
                    target: target!(),
                    Level::ERROR,
                    "outcome" = name,
                    "after the answer: {}",
                    reason(error)
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
        "body.problem" = Empty,
        "source" = Empty,
        "try" = Empty,
        "outcome" = Empty,
        "error.type" = Empty,
        "error.message" = Empty,
        "duration" = Empty,
    )
}

/// Returns the text of an error with its causes, which are the application's. The cause of a refused
/// credential is left out, because it could repeat the credential.
fn reason(error: &Error) -> DisplayValue<String> {
    display(match error.kind() {
        ErrorKind::Unauthorized | ErrorKind::AuthenticationUnavailable => error.to_string(),
        _ => format!("{error:#}"),
    })
}

/// Returns whether the application's callback failed.
fn is_of_callback(kind: ErrorKind) -> bool {
    matches!(
        kind,
        ErrorKind::CallbackFailed | ErrorKind::CallbackPanicked | ErrorKind::CallbackCancelled
    )
}
