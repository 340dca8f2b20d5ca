//! Pauses between the attempts to tell a ledger something.

use std::future::poll_fn;
use std::task::Poll;
use std::time::Duration;

use crate::deadline::{Deadline, Timeout};

const FIRST: Duration = Duration::from_millis(20);

/// A server that restarts or fails over is back in seconds, and then each event should be settled at once.
const LONGEST: Duration = Duration::from_millis(200);

/// Each twice as long as the last, up to 200 ms.
pub(super) struct Pauses(Duration);

impl Pauses {
    pub(super) fn new() -> Self {
        Self(FIRST)
    }

    /// Waits. False at once where there is no timer: an attempt without a pause before it gains nothing.
    pub(super) async fn pause(&mut self) -> bool {
        let pause = Timeout::of(self.0);
        self.0 = (self.0 * 2).min(LONGEST);
        let mut deadline = Deadline::default();
        poll_fn(|context| match deadline.poll(pause, context) {
            Poll::Ready(()) => Poll::Ready(true),
            Poll::Pending if deadline.has_no_timer() => Poll::Ready(false),
            Poll::Pending => Poll::Pending,
        })
        .await
    }
}
