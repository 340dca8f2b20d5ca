//! Calls to the ledger that end in time, and in an error instead of a panic.

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

/// How long a commit is retried if calls have no timeout.
const PATIENCE: Duration = Duration::from_secs(5);

/// A ledger whose calls have a timeout, and whose panics are errors.
pub(super) struct Bounded<L> {
    ledger: Arc<L>,
    pub(super) timeout: Timeout,
}

impl<L: Ledger> Bounded<L> {
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

    /// Retries a commit that failed, with backoff, for as long as one call may take: a restart of
    /// the server must not let a callback run again that has succeeded.
    pub(super) async fn commit_again(
        &self,
        event: &EventName,
        token: FencingToken,
        started: Instant,
    ) -> Result<Commit, Error> {
        let left = self
            .timeout
            .limit()
            .unwrap_or(PATIENCE)
            .saturating_sub(started.elapsed());
        let attempts = async {
            let mut backoff = Backoff::new();
            while backoff.wait().await {
                if let Ok(commit) = self.ledger.commit(event, token).await {
                    return Ok(commit);
                }
            }
            // There is no timer. The connection may have been at fault, so try once more.
            self.ledger.commit(event, token).await
        };
        bound(attempts, Timeout::of(left)).await
    }

    /// Retries a commit until the ledger has it or the time is up.
    pub(super) async fn commit_until(
        &self,
        event: &EventName,
        token: FencingToken,
        limit: Duration,
    ) {
        // A call that hangs must not prevent the next one.
        let patience = Timeout::of(self.timeout.limit().unwrap_or(PATIENCE));
        let attempts = async {
            let mut backoff = Backoff::new();
            loop {
                let attempt = async { self.ledger.commit(event, token).await };
                let committed = bound(attempt, patience).await;
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

    /// Bounds a call. The call is made within the future, because a method may panic before it
    /// returns its own.
    fn bound<F, T, E>(&self, asked: F) -> Call<F, T>
    where
        F: Future<Output = Result<T, E>>,
        E: Into<BoxError>,
    {
        bound(asked, self.timeout)
    }
}

fn bound<F, T, E>(asked: F, timeout: Timeout) -> Call<F, T>
where
    F: Future<Output = Result<T, E>>,
    E: Into<BoxError>,
{
    Call {
        asked: CatchPanic::start(|| asked, |answer| answer.map_err(unavailable)),
        timeout,
        deadline: Deadline::default(),
    }
}

// By hand, because `derive` would ask `L: Clone` for the `Arc`.
impl<L> Clone for Bounded<L> {
    fn clone(&self) -> Self {
        Self {
            ledger: self.ledger.clone(),
            timeout: self.timeout,
        }
    }
}

pin_project! {
    /// One call. Drop it once it has ended.
    struct Call<F, T>
    where
        F: Future,
    {
        #[pin]
        asked: CatchPanic<F, Result<T, Error>>,
        timeout: Timeout,
        deadline: Deadline,
    }
}

impl<F: Future, T> Future for Call<F, T> {
    type Output = Result<T, Error>;

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.project();
        // The answer is polled before the deadline, so that one that has arrived counts.
        match this.asked.poll(context) {
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
