//! Calls to the ledger with a timeout, whose panics become errors.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use pin_project_lite::pin_project;
use tower::BoxError;

use super::backoff::Backoff;
use crate::error::{Error, ErrorKind};
use crate::event::FencingToken;
use crate::ledger::{Claim, Commit, EventName, Ledger};
use crate::util::catch_panic::{CatchPanic, Panicked};
use crate::util::deadline::{Deadline, Instant, Timeout};

/// The time for retries of a commit, and for each of its attempts, if calls have no timeout.
const COMMIT_TIMEOUT: Duration = Duration::from_secs(5);

/// A ledger whose calls have a timeout, and whose panics become errors.
pub(super) struct BoundedLedger<L> {
    ledger: Arc<L>,
    pub(super) timeout: Timeout,
}

impl<L: Ledger> BoundedLedger<L> {
    pub(super) fn new(ledger: L) -> Self {
        Self {
            ledger: Arc::new(ledger),
            timeout: Timeout::LEDGER,
        }
    }

    pub(super) fn claim(
        &self,
        event: &EventName,
        lease: Duration,
    ) -> impl Future<Output = Result<Claim, Error>> + Send {
        self.bound(async move { self.ledger.claim(event, lease).await })
    }

    pub(super) fn commit(
        &self,
        event: &EventName,
        token: FencingToken,
    ) -> impl Future<Output = Result<Commit, Error>> + Send {
        self.bound(async move { self.ledger.commit(event, token).await })
    }

    /// Retries a failed commit with backoff, until the time for one call has passed since
    /// `started`.
    ///
    /// Otherwise a restart of the server could make a callback run again that has succeeded.
    pub(super) async fn commit_again(
        &self,
        event: &EventName,
        token: FencingToken,
        started: Instant,
    ) -> Result<Commit, Error> {
        let left = self
            .timeout
            .limit()
            .unwrap_or(COMMIT_TIMEOUT)
            .saturating_sub(started.elapsed());
        let attempts = async {
            let mut backoff = Backoff::new();
            while backoff.wait().await {
                if let Ok(commit) = self.ledger.commit(event, token).await {
                    return Ok(commit);
                }
            }
            // Without a timer, retry once: the connection may have been at fault.
            self.ledger.commit(event, token).await
        };
        bound(attempts, Timeout::of(left)).await
    }

    /// Retries a commit until it succeeds or the limit passes.
    pub(super) async fn commit_until(
        &self,
        event: &EventName,
        token: FencingToken,
        limit: Duration,
    ) {
        // Each attempt has a timeout, so that one that hangs does not prevent the next.
        let attempt_timeout = Timeout::of(self.timeout.limit().unwrap_or(COMMIT_TIMEOUT));
        let attempts = async {
            let mut backoff = Backoff::new();
            loop {
                let attempt = async { self.ledger.commit(event, token).await };
                let committed = bound(attempt, attempt_timeout).await;
                if committed.is_ok() || !backoff.wait().await {
                    return committed;
                }
            }
        };
        let _ = bound(attempts, Timeout::of(limit)).await;
    }

    pub(super) fn release(
        &self,
        event: &EventName,
        token: FencingToken,
    ) -> impl Future<Output = Result<(), Error>> + Send {
        self.bound(async move { self.ledger.release(event, token).await })
    }

    /// Bounds a call.
    ///
    /// `call` is an `async` block that calls the method, because the method itself may panic before
    /// it returns a future.
    fn bound<F, T, E>(&self, call: F) -> BoundedCall<F, T>
    where
        F: Future<Output = Result<T, E>>,
        E: Into<BoxError>,
    {
        bound(call, self.timeout)
    }
}

fn bound<F, T, E>(call: F, timeout: Timeout) -> BoundedCall<F, T>
where
    F: Future<Output = Result<T, E>>,
    E: Into<BoxError>,
{
    BoundedCall {
        call: CatchPanic::start(|| call, |answer| answer.map_err(unavailable)),
        timeout,
        deadline: Deadline::default(),
    }
}

// By hand, because `derive` would require `L: Clone`, although the ledger is in an `Arc`.
impl<L> Clone for BoundedLedger<L> {
    fn clone(&self) -> Self {
        Self {
            ledger: self.ledger.clone(),
            timeout: self.timeout,
        }
    }
}

pin_project! {
    /// One call to the ledger. It is not polled again once it has ended.
    struct BoundedCall<F, T>
    where
        F: Future,
    {
        #[pin]
        call: CatchPanic<F, Result<T, Error>>,
        timeout: Timeout,
        deadline: Deadline,
    }
}

impl<F: Future, T> Future for BoundedCall<F, T> {
    type Output = Result<T, Error>;

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.project();
        // The call is polled before the deadline, so that an answer that has arrived counts.
        match this.call.poll(context) {
            Poll::Ready(Ok(answer)) => Poll::Ready(answer),
            Poll::Ready(Err(Panicked)) => Poll::Ready(Err(unavailable("the ledger panicked"))),
            Poll::Pending => {
                ready!(this.deadline.poll(*this.timeout, context));
                Poll::Ready(Err(unavailable("the ledger did not answer in time")))
            }
        }
    }
}

fn unavailable(error: impl Into<BoxError>) -> Error {
    Error::with_source(ErrorKind::LedgerUnavailable, error.into())
}
