//! What the application's reader returns.

use std::fmt;
use std::task::{Context, Poll};

use bytes::Bytes;
use tower::Service;

use crate::error::Error;
use crate::event::JobEvent;
use crate::job::{Job, JobGuid};

/// A job that the application has read from MX's API: a [`Job`], or the bytes of MX's answer to
/// *Read job*.
pub struct ReadJob(pub(super) Result<JobEvent, Error>);

impl From<Job> for ReadJob {
    fn from(job: Job) -> Self {
        Self(Ok(job.into()))
    }
}

impl From<JobEvent> for ReadJob {
    fn from(event: JobEvent) -> Self {
        Self(Ok(event))
    }
}

impl From<Bytes> for ReadJob {
    fn from(answer: Bytes) -> Self {
        Self(JobEvent::decode(answer))
    }
}

impl From<Vec<u8>> for ReadJob {
    fn from(answer: Vec<u8>) -> Self {
        Self(JobEvent::decode(answer))
    }
}

impl From<String> for ReadJob {
    fn from(answer: String) -> Self {
        Self(JobEvent::decode(answer))
    }
}

impl fmt::Debug for ReadJob {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("ReadJob").field(&self.0).finish()
    }
}

/// The closure that reads jobs, as a service.
#[derive(Clone)]
pub struct ReadFn<F>(F);

impl<F> ReadFn<F> {
    /// Returns the closure as a service, to put tower's middleware around it.
    #[must_use]
    pub fn new(read: F) -> Self {
        Self(read)
    }
}

impl<F, Fut, T, E> Service<JobGuid> for ReadFn<F>
where
    F: FnMut(JobGuid) -> Fut,
    Fut: Future<Output = Result<T, E>>,
{
    type Response = T;
    type Error = E;
    type Future = Fut;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), E>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, job: JobGuid) -> Fut {
        (self.0)(job)
    }
}

impl<F> fmt::Debug for ReadFn<F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ReadFn").finish_non_exhaustive()
    }
}
