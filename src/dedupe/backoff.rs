//! The pauses between attempts to reach a ledger.

use std::future::poll_fn;
use std::task::Poll;
use std::time::Duration;

use crate::util::deadline::{Deadline, Timeout};

const FIRST: Duration = Duration::from_millis(20);

/// A server that restarts or fails over is back within seconds, and events should be settled soon
/// after that.
const LONGEST: Duration = Duration::from_millis(200);

/// Exponential backoff from 20 to 200 ms.
pub(super) struct Backoff(Duration);

impl Backoff {
    pub(super) fn new() -> Self {
        Self(FIRST)
    }

    /// Waits for the next pause. If there is no timer, returns `false` at once, because attempts
    /// without pauses would only burden the ledger.
    pub(super) async fn wait(&mut self) -> bool {
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
