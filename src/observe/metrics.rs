//! The numbers of deliveries and callbacks, through the facade `metrics`.

use metrics::{Gauge, Unit, counter, describe_counter, describe_gauge, describe_histogram, gauge};

use super::outcome::Outcome;
use crate::{Job, Status};

const DELIVERIES: &str = "mx_job_webhook_deliveries_total";
const DELIVERIES_IN_FLIGHT: &str = "mx_job_webhook_deliveries_in_flight";
pub(super) const CALLBACK_DURATION: &str = "mx_job_webhook_callback_duration_seconds";
pub(super) const CALLBACKS_IN_FLIGHT: &str = "mx_job_webhook_callbacks_in_flight";

/// Describes this crate's metrics to the recorder: their help texts and units.
///
/// Call it once, after the recorder is installed. Without it everything is counted all the
/// same. What there is, [`observability`](crate::observability) lists.
///
/// # Example
///
/// ```
/// use metrics_exporter_prometheus::PrometheusBuilder;
///
/// let prometheus = PrometheusBuilder::new().install_recorder()?;
/// mx_job_webhook::describe_metrics();
/// metrics::counter!("mx_job_webhook_deliveries_total").absolute(0);
/// assert!(prometheus.render().contains("# HELP mx_job_webhook_deliveries_total"));
/// # Ok::<(), metrics_exporter_prometheus::BuildError>(())
/// ```
pub fn describe_metrics() {
    describe_counter!(
        DELIVERIES,
        Unit::Count,
        "Deliveries answered or abandoned, by the job's status and by outcome."
    );
    describe_gauge!(
        DELIVERIES_IN_FLIGHT,
        Unit::Count,
        "Deliveries under way, from the request to the end of the callback."
    );
    describe_histogram!(
        CALLBACK_DURATION,
        Unit::Seconds,
        "How long callbacks took, by the job's status and by outcome."
    );
    describe_gauge!(
        CALLBACKS_IN_FLIGHT,
        Unit::Count,
        "Callbacks under way, waited for or not."
    );
}

/// Counts one delivery.
pub(super) struct Meter {
    status: &'static str,
    _in_flight: Option<InFlight>,
}

impl Default for Meter {
    fn default() -> Self {
        Self {
            status: "none",
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

    pub(super) fn decoded(&mut self, job: &Job) {
        self.status = label(&job.status);
    }

    pub(super) fn answered(&self, outcome: Outcome<'_>) {
        counter!(DELIVERIES, "status" => self.status, "outcome" => outcome.name()).increment(1);
    }
}

/// One more in a gauge, until it is dropped.
pub(super) struct InFlight(Gauge);

impl InFlight {
    pub(super) fn start(name: &'static str) -> Self {
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

/// The status as a label: whatever is sent, there are eleven.
pub(super) fn label(status: &Status) -> &'static str {
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
}
