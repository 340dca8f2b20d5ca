//! The metrics of deliveries and callbacks, through the facade `metrics`.

use std::pin::Pin;
use std::task::{Context, Poll, ready};
#[cfg(feature = "tokio")]
use std::time::Duration;

use metrics::{
    Gauge, Unit, counter, describe_counter, describe_gauge, describe_histogram, gauge, histogram,
};

use super::outcome::Outcome;
use crate::callback::JobFuture;
use crate::error::{Error, ErrorKind, Receipt};
use crate::event::{JobEvent, Source};
use crate::job::Status;
use crate::util::deadline::Instant;

const DELIVERIES: &str = "mx_job_webhook_deliveries_total";
const DELIVERIES_IN_FLIGHT: &str = "mx_job_webhook_deliveries_in_flight";
const CALLBACK_DURATION: &str = "mx_job_webhook_callback_duration_seconds";
const CALLBACKS_IN_FLIGHT: &str = "mx_job_webhook_callbacks_in_flight";
const EXPECTED: &str = "mx_job_webhook_expected_jobs";
const EXPECTED_DURATION: &str = "mx_job_webhook_expected_duration_seconds";
const READS: &str = "mx_job_webhook_failsafe_reads_total";
const GIVEN_UP: &str = "mx_job_webhook_given_up_total";
const QUEUED: &str = "mx_job_webhook_queue_events";
const QUEUED_FOR: &str = "mx_job_webhook_queue_oldest_seconds";
const DEAD_LETTERS: &str = "mx_job_webhook_queue_dead_letters_total";

/// Describes this crate's metrics to the recorder: their help texts and units.
///
/// Call it once, after the recorder is installed. The metrics are recorded with or without it.
/// [`observability`](crate::guide::observability) lists them.
///
/// # Example
///
/// ```
/// use metrics_exporter_prometheus::PrometheusBuilder;
///
/// let prometheus = PrometheusBuilder::new().install_recorder()?;
/// mx_job_webhook::observe::describe_metrics();
/// metrics::counter!("mx_job_webhook_deliveries_total").absolute(0);
/// assert!(prometheus.render().contains("# HELP mx_job_webhook_deliveries_total"));
/// # Ok::<(), metrics_exporter_prometheus::BuildError>(())
/// ```
pub fn describe_metrics() {
    describe_counter!(
        DELIVERIES,
        Unit::Count,
        "Deliveries answered or abandoned, by the job's status, by outcome and by source."
    );
    describe_gauge!(
        DELIVERIES_IN_FLIGHT,
        Unit::Count,
        "Deliveries under way, from the request to the end of the callback."
    );
    describe_histogram!(
        CALLBACK_DURATION,
        Unit::Seconds,
        "Duration of callbacks, by the job's status and by outcome."
    );
    describe_gauge!(
        CALLBACKS_IN_FLIGHT,
        Unit::Count,
        "Callbacks under way, including those whose delivery was answered."
    );
    describe_gauge!(
        EXPECTED,
        Unit::Count,
        "Jobs that are expected: all that are outstanding, and those that are overdue."
    );
    describe_histogram!(
        EXPECTED_DURATION,
        Unit::Seconds,
        "Time from expecting a job to hearing that it has ended, by its status."
    );
    describe_counter!(
        READS,
        Unit::Count,
        "Reads of overdue jobs by the failsafe, by outcome."
    );
    describe_counter!(
        GIVEN_UP,
        Unit::Count,
        "Expected jobs of which nothing was heard for too long."
    );
    describe_gauge!(
        QUEUED,
        Unit::Count,
        "Events in a durable queue: those that are waiting, running and dead."
    );
    describe_gauge!(
        QUEUED_FOR,
        Unit::Seconds,
        "For how long the oldest event that could run has waited for a worker."
    );
    describe_counter!(
        DEAD_LETTERS,
        Unit::Count,
        "Events of a durable queue that have failed for the last time."
    );
}

/// Records for how long an event that ended a job was expected.
#[cfg(feature = "tokio")]
pub(crate) fn heard_after(status: &Status, waited: Duration) {
    histogram!(EXPECTED_DURATION, "status" => label(status)).record(waited);
}

/// Sets how many jobs are expected, and how many of them are overdue.
#[cfg(feature = "tokio")]
pub(crate) fn expected_jobs(outstanding: u64, overdue: u64) {
    gauge!(EXPECTED, "state" => "outstanding").set(outstanding as f64);
    gauge!(EXPECTED, "state" => "overdue").set(overdue as f64);
}

/// Counts one read of the failsafe.
#[cfg(feature = "tokio")]
pub(crate) fn failsafe_read(outcome: &'static str) {
    counter!(READS, "outcome" => outcome).increment(1);
}

/// Counts a job that is given up.
#[cfg(feature = "tokio")]
pub(super) fn given_up() {
    counter!(GIVEN_UP).increment(1);
}

/// Sets how many events are in a queue, and for how long the oldest has waited.
#[cfg(feature = "queue")]
pub(crate) fn queued_events(queue: &str, waiting: u64, running: u64, dead: u64, oldest: Duration) {
    let queue = queue.to_owned();
    for (state, events) in [("waiting", waiting), ("running", running), ("dead", dead)] {
        gauge!(QUEUED, "queue" => queue.clone(), "state" => state).set(events as f64);
    }
    gauge!(QUEUED_FOR, "queue" => queue).set(oldest.as_secs_f64());
}

/// Counts an event of a queue that is a dead letter.
#[cfg(feature = "queue")]
pub(super) fn dead_lettered() {
    counter!(DEAD_LETTERS).increment(1);
}

/// Counts one delivery.
pub(super) struct Meter {
    status: &'static str,
    source: Source,
    _in_flight: Option<InFlight>,
}

impl Default for Meter {
    fn default() -> Self {
        Self {
            status: "none",
            source: Source::Webhook,
            _in_flight: None,
        }
    }
}

impl Meter {
    pub(super) fn start() -> Self {
        Self {
            _in_flight: Some(InFlight::start(DELIVERIES_IN_FLIGHT)),
            ..Self::default()
        }
    }

    /// Returns a meter that counts no delivery.
    pub(super) fn none() -> Self {
        Self::default()
    }

    pub(super) fn decoded(&mut self, event: &JobEvent) {
        self.status = label(&event.status);
        self.source = event.source();
    }

    /// Labels the delivery by what its body is instead of a job.
    pub(super) fn has_no_job(&mut self, kind: ErrorKind) {
        self.status = match kind {
            ErrorKind::UnexpectedWebhook => "other_webhook",
            kind => kind.name(),
        };
    }

    pub(super) fn answered(&self, outcome: Outcome<'_>) {
        let (status, source) = (self.status, self.source.name());
        counter!(DELIVERIES, "status" => status, "outcome" => outcome.name(), "source" => source)
            .increment(1);
    }
}

/// Times one callback.
pub(crate) struct Timer(Running);

impl Timer {
    /// Starts timing. Call it before the callback, so that the callback's synchronous part counts.
    pub(crate) fn start(status: &Status) -> Self {
        Self(Running::start(status))
    }

    pub(crate) fn time(self, callback: JobFuture) -> JobFuture {
        JobFuture::new(Timed {
            callback,
            running: Some(self.0),
        })
    }
}

/// A running callback, whose duration is recorded when this is dropped.
struct Running {
    status: &'static str,
    started: Instant,
    _in_flight: InFlight,
    /// The name of "cancelled" until the callback ends.
    outcome: &'static str,
}

impl Running {
    fn start(status: &Status) -> Self {
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

struct Timed {
    callback: JobFuture,
    running: Option<Running>,
}

impl Future for Timed {
    type Output = Result<Receipt, Error>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        let outcome = ready!(Pin::new(&mut self.callback).poll(context));
        if let Some(mut running) = self.running.take() {
            running.outcome = Outcome::from(&outcome).name();
        }
        Poll::Ready(outcome)
    }
}

/// Adds one to a gauge until it is dropped.
struct InFlight(Gauge);

impl InFlight {
    fn start(name: &'static str) -> Self {
        let gauge = gauge!(name);
        gauge.increment(1.0);
        Self(gauge)
    }
}

impl Drop for InFlight {
    fn drop(&mut self) {
        self.0.decrement(1.0);
    }
}

/// Returns the status as one of eleven labels. All unknown statuses share one, so that a sender
/// cannot add labels.
fn label(status: &Status) -> &'static str {
    match status {
        Status::Initiated => "initiated",
        Status::Requested => "requested",
        Status::Challenged => "challenged",
        Status::Received => "received",
        Status::Transferred => "transferred",
        Status::Processed => "processed",
        Status::Completed => "completed",
        Status::Prevented => "prevented",
        Status::Denied => "denied",
        Status::Halted => "halted",
        Status::Other(_) => "other",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_label_is_the_name_of_the_status_in_lower_case() {
        for status in (0..Status::KNOWN).filter_map(Status::at) {
            assert_eq!(label(&status), status.to_string().to_lowercase());
        }
        assert_eq!(label(&Status::from("AUTHENTICATED")), "other");
        assert_eq!(label(&Status::from(42)), "other");
    }

    #[cfg(feature = "queue")]
    #[test]
    fn the_events_of_a_queue_are_counted_by_state() {
        use metrics_util::debugging::{DebugValue, DebuggingRecorder};

        let recorder = DebuggingRecorder::new();
        metrics::with_local_recorder(&recorder, || {
            queued_events("jobs", 3, 2, 1, Duration::from_millis(1_500));
            dead_lettered();
            dead_lettered();
        });
        let mut found = Vec::new();
        for (key, _, _, value) in recorder.snapshotter().snapshot().into_vec() {
            let value = match value {
                DebugValue::Counter(count) => count as f64,
                DebugValue::Gauge(gauge) => gauge.into_inner(),
                DebugValue::Histogram(_) => f64::NAN,
            };
            let labels = key.key().labels().map(|label| label.value().to_owned());
            found.push((
                key.key().name().to_owned(),
                labels.collect::<Vec<_>>(),
                value,
            ));
        }
        let of = |name: &str, labels: &[&str], value| {
            let labels = labels.iter().map(|&label| label.to_owned()).collect();
            (name.to_owned(), labels, value)
        };
        let expected = [
            of(QUEUED, &["jobs", "waiting"], 3.0),
            of(QUEUED, &["jobs", "running"], 2.0),
            of(QUEUED, &["jobs", "dead"], 1.0),
            of(QUEUED_FOR, &["jobs"], 1.5),
            of(DEAD_LETTERS, &[], 2.0),
        ];
        assert_eq!(found.len(), expected.len(), "{found:?}");
        for one in expected {
            assert!(found.contains(&one), "{one:?} is not in {found:?}");
        }
    }
}
