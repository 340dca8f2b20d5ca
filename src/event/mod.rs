//! Events: a delivered job, with the body, headers and extensions of its request.
//!
//! This module uses `util`, `error` and `job`.

mod fencing_token;
mod other_webhook;
mod source;
#[cfg(feature = "queue")]
pub(crate) mod tried;
mod undecodable;

use std::fmt;
use std::ops::Deref;

use bytes::Bytes;
use http::{Extensions, HeaderMap};

use crate::error::Error;
use crate::job::Job;
use crate::util::catch_panic::CatchDrop;
pub use fencing_token::FencingToken;
pub use other_webhook::OtherWebhook;
pub use source::Source;
pub use undecodable::Undecodable;

/// A delivered webhook: its job and raw body, and the request's headers and extensions.
///
/// Callbacks take it as their argument, and services of events as their request:
/// `Service<JobEvent>`. It dereferences to its [`Job`], so a callback can read `event.guid` or
/// `event.member_guid`.
///
/// The header `Authorization` is removed, so that applications can log and store the headers. All
/// other headers are kept.
///
/// To keep a job for long, call [`into_job`](Self::into_job). The body shares its memory with the
/// server's read buffer, which stays allocated as long as the event exists.
///
/// `Debug` shows what the `Debug` of [`Job`] shows, and the length of the body. With the feature
/// `axum`, a `JobEvent` is an extractor: see its `FromRequest` below.
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
    // These can contain values of the application, whose destructors can panic.
    body: CatchDrop<Bytes>,
    headers: CatchDrop<HeaderMap>,
    extensions: CatchDrop<Extensions>,
    fencing_token: Option<FencingToken>,
    source: Source,
    is_observed: bool,
}

impl JobEvent {
    /// Decodes a whole webhook that was stored, for example in a queue.
    ///
    /// The event has no headers and no extensions.
    ///
    /// # Errors
    ///
    /// The same as for [`Job::decode`].
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
            source: Source::Call,
            is_observed: false,
        }
    }

    /// Returns the job, to which the event also dereferences.
    #[must_use]
    pub fn job(&self) -> &Job {
        &self.job
    }

    /// Returns the job alone, and drops the body, headers and extensions.
    ///
    /// If you need the [`EventName`](crate::ledger::EventName), get it before. Without a readable
    /// `updated_at`, it depends on the body.
    #[must_use]
    pub fn into_job(self) -> Job {
        self.job
    }

    /// Returns the body as it was received, including the fields that [`Job`] does not read.
    #[must_use]
    pub fn body(&self) -> &Bytes {
        &self.body
    }

    /// Returns the headers of the request, without `Authorization`.
    #[must_use]
    pub fn headers(&self) -> &HeaderMap {
        &self.headers
    }

    /// Returns the extensions of the request, such as axum's `ConnectInfo`.
    #[must_use]
    pub fn extensions(&self) -> &Extensions {
        &self.extensions
    }

    /// Returns the extensions, so that middleware can add values for inner services.
    pub fn extensions_mut(&mut self) -> &mut Extensions {
        &mut self.extensions
    }

    /// Returns the token of this delivery's claim, within a [`DedupeLayer`](crate::DedupeLayer).
    #[must_use]
    pub fn fencing_token(&self) -> Option<FencingToken> {
        self.fencing_token
    }

    pub(crate) fn set_fencing_token(&mut self, token: FencingToken) {
        self.fencing_token = Some(token);
    }

    /// Returns how the event came to this process.
    #[must_use]
    pub fn source(&self) -> Source {
        self.source
    }

    pub(crate) fn set_source(&mut self, source: Source) {
        self.source = source;
    }

    /// Marks the event as observed, so that logs and metrics report its delivery once.
    ///
    /// Returns whether it was marked before. The mark counts while the delivery's callback runs: an
    /// event that the application has stored can be run again later.
    pub(crate) fn mark_observed(&mut self) -> bool {
        std::mem::replace(&mut self.is_observed, true)
    }
}

/// Makes an event of a job that did not arrive by HTTP: a stored, queued or polled one.
///
/// The body is the webhook for this job, written as `Serialize` writes it.
impl From<Job> for JobEvent {
    fn from(job: Job) -> Self {
        let mut body = br#"{"job":"#.to_vec();
        // This fails only for keys that are not strings, which a job does not have.
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
