//! One delivery: the job, and all that came with it.

mod fencing_token;
mod undecodable;

use std::fmt;
use std::ops::Deref;

use bytes::Bytes;
use http::{Extensions, HeaderMap};

use crate::background::Background;
use crate::error::Error;
use crate::job::Job;
use crate::util::catch_panic::CatchDrop;
pub use fencing_token::FencingToken;
pub use undecodable::Undecodable;

/// One delivered webhook: the job, the raw body, the request's headers and extensions.
///
/// It derefs to its [`Job`], so a callback reads `event.guid` or `event.member_guid`. It
/// is what callbacks take, and the request type of the inner tower:
/// `Service<JobEvent>`.
///
/// The header `Authorization` is taken out before a callback sees the event: whoever
/// logs or stores the headers stores no credential. Nothing else is.
///
/// To keep a job, keep [`into_job`](Self::into_job): the body shares its memory with the
/// server's read buffer, which lives as long as the event does.
///
/// `Debug` shows the job as [`Job`]'s `Debug` does, and the size of the body. With the
/// feature `axum` it is an extractor; see its `FromRequest` below.
///
/// # Example
///
/// ```
/// use mx_job_webhook::{JobEvent, Status};
///
/// let event = JobEvent::decode(r#"{"job": {"guid": "JOB-1", "status_name": "HALTED"}}"#)?;
/// assert_eq!(event.status, Status::Halted);
/// assert_eq!(event.body().len(), 51);
/// # Ok::<(), mx_job_webhook::Error>(())
/// ```
#[derive(Clone)]
pub struct JobEvent {
    job: Job,
    // These are the application's, and can panic when they are dropped, wherever that is.
    body: CatchDrop<Bytes>,
    headers: CatchDrop<HeaderMap>,
    extensions: CatchDrop<Extensions>,
    fencing_token: Option<FencingToken>,
    background: Option<Background>,
    is_observed: bool,
}

impl JobEvent {
    /// Reads a whole webhook that was kept, such as one from a queue.
    ///
    /// The event has no headers and no extensions.
    ///
    /// # Errors
    ///
    /// As [`Job::decode`].
    pub fn decode(webhook: impl Into<Bytes>) -> Result<Self, Error> {
        let body = webhook.into();
        Ok(Self::new(
            Job::decode(&body)?,
            body,
            HeaderMap::new(),
            Extensions::new(),
        ))
    }

    pub(crate) fn new(job: Job, body: Bytes, headers: HeaderMap, extensions: Extensions) -> Self {
        Self {
            job,
            body: CatchDrop::new(body),
            headers: CatchDrop::new(headers),
            extensions: CatchDrop::new(extensions),
            fencing_token: None,
            background: None,
            is_observed: false,
        }
    }

    /// The job; `event.job()` where deref is not explicit enough.
    #[must_use]
    pub fn job(&self) -> &Job {
        &self.job
    }

    /// The job alone, which owns all it refers to.
    ///
    /// Without a readable `updated_at`, an event's name is that of its body: take the
    /// [`EventName`](crate::ledger::EventName) first.
    #[must_use]
    pub fn into_job(self) -> Job {
        self.job
    }

    /// The body as it was received, with every field that [`Job`] does not read.
    #[must_use]
    pub fn body(&self) -> &Bytes {
        &self.body
    }

    /// The headers of the request, without `Authorization`.
    #[must_use]
    pub fn headers(&self) -> &HeaderMap {
        &self.headers
    }

    /// The extensions of the request, such as axum's `ConnectInfo`.
    #[must_use]
    pub fn extensions(&self) -> &Extensions {
        &self.extensions
    }

    /// The same, to leave something for the services further in.
    pub fn extensions_mut(&mut self) -> &mut Extensions {
        &mut self.extensions
    }

    /// The token of the claim that this delivery holds, within a [`DedupeLayer`](crate::DedupeLayer).
    #[must_use]
    pub fn fencing_token(&self) -> Option<FencingToken> {
        self.fencing_token
    }

    pub(crate) fn set_fencing_token(&mut self, token: FencingToken) {
        self.fencing_token = Some(token);
    }

    /// Returns the `Background` that tracks this event's callback, if any does.
    pub(crate) fn background(&self) -> Option<&Background> {
        self.background.as_ref()
    }

    pub(crate) fn set_background(&mut self, background: &Background) {
        self.background = Some(background.clone());
    }

    /// Marks the event as observed, so that logs and metrics report its delivery once. Returns
    /// whether it was marked before.
    #[cfg_attr(
        not(any(feature = "metrics", feature = "tracing")),
        allow(dead_code, reason = "there are no logs and metrics")
    )]
    pub(crate) fn mark_observed(&mut self) -> bool {
        std::mem::replace(&mut self.is_observed, true)
    }
}

/// The event of a job that did not come by HTTP: stored, queued or polled.
///
/// Its body is the webhook that would have brought the job.
impl From<Job> for JobEvent {
    fn from(job: Job) -> Self {
        let mut body = br#"{"job":"#.to_vec();
        // Fails for keys that are not strings, which a job does not have.
        let _ = serde_json::to_writer(&mut body, &job);
        body.push(b'}');
        Self::new(job, body.into(), HeaderMap::new(), Extensions::new())
    }
}

impl Deref for JobEvent {
    type Target = Job;

    fn deref(&self) -> &Job {
        &self.job
    }
}

impl fmt::Debug for JobEvent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("JobEvent")
            .field("job", &self.job)
            .field("body", &format_args!("{} bytes", self.body.len()))
            .finish_non_exhaustive()
    }
}
