//! Calls to the ledger, each of which ends: in time, and in an error rather than in a panic.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use pin_project_lite::pin_project;
use tower::BoxError;

use super::pauses::Pauses;
use super::{Claim, Commit, EventName, FencingToken, Ledger};
use crate::deadline::{Deadline, Instant, Timeout};
use crate::panic::{CatchPanic, Panicked};
use crate::{Error, ErrorKind};

/// How long a commit is tried again where the calls themselves have no limit.
const PATIENCE: Duration = Duration::from_secs(5);

/// A ledger that may be down, hang or panic, which is all one to whoever asks it.
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

    /// Commits after a failure, in as many attempts as the time for a call allows, with pauses between them: a
    /// server that restarts must not have what succeeded run again.
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
            let mut pauses = Pauses::new();
            while pauses.pause().await {
                if let Ok(commit) = self.ledger.commit(event, token).await {
                    return Ok(commit);
                }
            }
            // There is no timer. It may still have been the connection.
            self.ledger.commit(event, token).await
        };
        bound(attempts, Timeout::of(left)).await
    }

    /// Commits, again and again until the ledger has it or so much time is over.
    pub(super) async fn commit_until(
        &self,
        event: &EventName,
        token: FencingToken,
        limit: Duration,
    ) {
        // One that hangs must not keep the next from being made.
        let patience = Timeout::of(self.timeout.limit().unwrap_or(PATIENCE));
        let attempts = async {
            let mut pauses = Pauses::new();
            loop {
                let attempt = async { self.ledger.commit(event, token).await };
                let committed = bound(attempt, patience).await;
                if committed.is_ok() || !pauses.pause().await {
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

    /// Bounds a call, which is made in the future: a method may panic before it returns its own.
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
    /// One call. Once it has ended it is to be dropped, and with it what was asked for.
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
        // The answer before the deadline: one that is there is never given up.
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
