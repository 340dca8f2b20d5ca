//! Log lines about expected jobs, which belong to no delivery.

use tower::BoxError;
use tracing::{Level, event};

use crate::error::Causes;
use crate::job::JobGuid;

/// Says that the failsafe cannot work at the moment.
pub(crate) fn failsafe_failed(why: &'static str) {
    event!(target: "mx_job_webhook", Level::WARN, "the failsafe waits: {why}");
}

/// Says that this process does not hear what others have changed.
pub(crate) fn listening_failed(error: &BoxError) {
    event!(target: "mx_job_webhook", Level::WARN, "waiters hear late of other processes' events: {error}");
}

/// Says that a job could not be read, or that its callback failed after that.
pub(crate) fn read_failed(guid: &JobGuid, error: &BoxError) {
    event!(
        target: "mx_job_webhook",
        Level::WARN,
        "job.guid" = guid.as_str(),
        "an expected job could not be read and handled, and is read again later{}",
        Causes(&**error)
    );
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

/// Says that a worker cannot reach its queue.
#[cfg(feature = "queue")]
pub(crate) fn queue_failed(queue: &str, error: &BoxError) {
    event!(
        target: "mx_job_webhook",
        Level::WARN,
        queue,
        "a worker waits for its queue{}",
        Causes(&**error)
    );
}

/// Says that events of dead workers are back in the queue.
#[cfg(feature = "queue")]
pub(crate) fn taken_over(queue: &str, events: u64) {
    event!(
        target: "mx_job_webhook",
        Level::WARN,
        queue,
        events,
        "events whose worker stopped are back in the queue"
    );
}

/// Says that the database refuses to change the rows of events. `name` and `error` are those of the first one.
#[cfg(feature = "queue")]
pub(crate) fn left_out(queue: &str, events: usize, name: &str, error: &BoxError) {
    event!(
        target: "mx_job_webhook",
        Level::ERROR,
        queue,
        events,
        "event.name" = name,
        "events wait because the database refuses to change their rows{}",
        Causes(&**error)
    );
}

/// Says that the results of callbacks could not be recorded before a shutdown. `name` is that of the first event.
#[cfg(feature = "queue")]
pub(crate) fn results_given_up(queue: &str, events: usize, name: &str) {
    event!(
        target: "mx_job_webhook",
        Level::ERROR,
        queue,
        events,
        "event.name" = name,
        "a worker stops without having recorded how callbacks ended, and their events may run again"
    );
}

/// Says that an event of a queue is a dead letter.
#[cfg(feature = "queue")]
pub(super) fn dead_lettered(name: &str) {
    event!(
        target: "mx_job_webhook",
        Level::ERROR,
        "event.name" = name,
        "an event of the queue has failed for the last time, and is a dead letter"
    );
}
