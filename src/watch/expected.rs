//! Waiting for a job that is expected.

use std::fmt;
use std::future::poll_fn;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Poll, ready};
use std::time::Duration;

use tokio::time::{Instant, sleep_until, timeout_at};

use super::entry::{Seen, ends};
use super::heard::Heard;
use super::job_watch::JobWatch;
use super::waiters::{Interest, Registration};
use crate::error::Error;
use crate::job::JobGuid;
use crate::util::later::later;

/// How often a waiter checks that its process still listens.
const CHECK_INTERVAL: Duration = Duration::from_secs(5);

/// A job that is expected.
///
/// Dropping it changes nothing: the job stays expected.
#[must_use = "the job is expected in any case; `within` waits for it"]
pub struct Expected {
    watch: JobWatch,
    job: JobGuid,
    interest: Arc<Interest>,
    /// What was heard before the job was expected.
    heard: Option<Box<Heard>>,
}

impl Expected {
    pub(super) fn new(
        watch: JobWatch,
        job: JobGuid,
        after: Option<Seen>,
        since: Instant,
        heard: Option<Heard>,
    ) -> Self {
        let interest = Arc::new(Interest {
            after,
            look_back: watch.look_back(),
            since,
        });
        Self {
            watch,
            job,
            interest,
            heard: heard.map(Box::new),
        }
    }

    /// Waits until something is heard of the job, for at most this time.
    ///
    /// If the store is slow, it takes longer by one call to the store, which
    /// [`with_store_timeout`](JobWatch::with_store_timeout) limits.
    ///
    /// Returns `None` if nothing was heard; the job stays expected. With a shorter time than the watch's
    /// [patience](JobWatch::with_patience), a lost webhook always gives `None`. An event is heard once its
    /// callback has succeeded, on whichever replica. Any number of callers can wait for a job, and
    /// wait again.
    ///
    /// # Errors
    ///
    /// [`WatchUnavailable`](crate::ErrorKind::WatchUnavailable), if nothing was heard until the end and the store
    /// could not be read then. While the store is down in between, it waits on.
    ///
    /// # Cancellation
    ///
    /// If the future is dropped, it stops waiting. Nothing is lost: a later call hears of the same
    /// event, for as long as [the watch looks back](JobWatch::with_look_back).
    ///
    /// # Panics
    ///
    /// Outside of a tokio runtime with timers.
    pub async fn within(&self, patience: Duration) -> Result<Option<Heard>, Error> {
        if let Some(heard) = self.heard.as_ref().filter(|heard| ends(&heard.status)) {
            return Ok(Some(Heard::clone(heard)));
        }
        let end = later(Instant::now(), patience);
        let waiters = &self.watch.shared.waiters;
        // It is registered before the entry is read, so what is heard in between is not missed.
        let mut registration = waiters.register(&self.job, self.interest.clone());
        self.watch.listen();
        let read = self.read(&mut registration).await;
        if let (Some(earlier), Ok(None) | Err(_)) = (&self.heard, &read) {
            return Ok(Some(Heard::clone(earlier)));
        }
        if matches!(read, Ok(Some(_))) || Instant::now() >= end {
            return read;
        }
        while Instant::now() < end {
            let check = end.min(Instant::now() + CHECK_INTERVAL);
            match timeout_at(check, &mut registration.answer).await {
                Ok(Ok(heard)) => return Ok(Some(*heard)),
                // `Waiters` keeps the sender while this is registered.
                Ok(Err(_)) => sleep_until(check).await,
                Err(_) => self.watch.listen(),
            }
        }
        // A notification can be lost, or be on its way.
        self.read(&mut registration).await
    }

    /// Reads the store, unless the job is heard of before the store answers.
    async fn read(&self, registration: &mut Registration) -> Result<Option<Heard>, Error> {
        let mut load = pin!(self.watch.load(&self.job));
        poll_fn(|context| {
            let answer = Pin::new(&mut registration.answer).poll(context);
            if let Poll::Ready(Ok(heard)) = answer {
                return Poll::Ready(Ok(Some(*heard)));
            }
            let stored = ready!(load.as_mut().poll(context))?;
            let entry = stored.map(|stored| stored.entry.aged(stored.age));
            let heard = entry.as_ref().and_then(|entry| self.interest.heard(entry));
            Poll::Ready(Ok(heard.cloned()))
        })
        .await
    }
}

impl fmt::Debug for Expected {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Expected")
            .field("job", &self.job)
            .field("is_heard", &self.heard.is_some())
            .finish_non_exhaustive()
    }
}
