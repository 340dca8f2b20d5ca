//! Log lines about expected jobs, which belong to no delivery.

use std::future::pending;

use mx_job_webhook::watch::{Failsafe, JobWatch};
use mx_job_webhook::{JobEvent, JobRouter};
use tower::BoxError;
use tracing::Level;

use super::Capture;
use crate::watch::stand_ins::{Fault, FaultyStore, Listening, SECOND, guid};

#[test]
fn what_keeps_a_job_from_being_heard_of_is_logged() {
    let capture = Capture::default();
    capture.run(async {
        let store = FaultyStore::default();
        store.faults().listening = Listening::Fails;
        let watch = JobWatch::new(store.clone());
        let read = |_| async { Err::<JobEvent, _>(BoxError::from("the bank is closed")) };
        let failsafe = Failsafe::new(&watch, JobRouter::new(), read);
        tokio::spawn(failsafe.run_until(pending::<()>()));
        let expected = watch.expect(&guid("JOB-1")).await.unwrap();
        assert_eq!(expected.within(2 * 3_600 * SECOND).await.unwrap(), None);
        store.faults().claim = Fault::Fails;
        tokio::time::sleep(600 * SECOND).await;
    });
    let events = capture.own_events();
    for (level, message, guid) in [
        (
            Level::WARN,
            "waiters hear late of other processes' events: no connection",
            None,
        ),
        (
            Level::WARN,
            "an expected job could not be read and handled, and is read again later: the bank is closed",
            Some("JOB-1"),
        ),
        (
            Level::ERROR,
            "nothing was heard of an expected job: given up",
            Some("JOB-1"),
        ),
        (
            Level::WARN,
            "the failsafe waits: the store of expected jobs is unavailable",
            None,
        ),
    ] {
        let found = events.iter().find(|event| event.message() == message);
        let found = found.unwrap_or_else(|| panic!("{message:?} is not in {events:?}"));
        assert_eq!(found.level, level, "{message}");
        assert_eq!(found.fields.named("job.guid"), guid, "{message}");
    }
}
