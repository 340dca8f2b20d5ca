//! Log lines about expected jobs, which belong to no delivery.

use tracing::{Level, event};

use crate::job::JobGuid;

/// Says that the failsafe cannot work at the moment.
pub(crate) fn failsafe_failed(why: &'static str) {
    event!(target: "mx_job_webhook", Level::WARN, "the failsafe waits: {why}");
}

/// Says that a job is given up.
pub(super) fn given_up(guid: &JobGuid) {
    event!(
        target: "mx_job_webhook",
        Level::ERROR,
        "job.guid" = guid.as_str(),
        "nothing was heard of an expected job: given up"
    );
}
