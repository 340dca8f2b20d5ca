//! One delivery: the job, and all that came with it.

use std::fmt;
use std::ops::Deref;

use bytes::Bytes;
use http::{Extensions, HeaderMap};

#[cfg(any(feature = "metrics", feature = "tracing"))]
use crate::observe::Mark;
use crate::{Error, FencingToken, Job};

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
    body: Bytes,
    headers: HeaderMap,
    extensions: Extensions,
    fencing_token: Option<FencingToken>,
    #[cfg(any(feature = "metrics", feature = "tracing"))]
    mark: Mark,
}

impl JobEvent {
    /// Reads a whole webhook that was kept, such as one from a queue.
    ///
    /// The event has no headers and no extensions.
    ///
    /// # Errors
    ///
    /// As [`Job::decode`].
    ///
    /// # Example
    ///
    /// ```
    /// use mx_job_webhook::JobEvent;
    ///
    /// let event = JobEvent::decode(r#"{"job": {"guid": "JOB-1", "status": 6, "new": true}}"#)?;
    /// assert!(event.headers().is_empty());
    /// # Ok::<(), mx_job_webhook::Error>(())
    /// ```
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
            body,
            headers,
            extensions,
            fencing_token: None,
            #[cfg(any(feature = "metrics", feature = "tracing"))]
            mark: Mark::default(),
        }
    }

    /// The job; `event.job()` where deref is not explicit enough.
    #[must_use]
    pub fn job(&self) -> &Job {
        &self.job
    }

    /// The job alone, which owns all it refers to.
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

    #[cfg(any(feature = "metrics", feature = "tracing"))]
    pub(crate) fn mark(&mut self) -> &mut Mark {
        &mut self.mark
    }
}

/// The event of a job that did not come by HTTP: stored, queued or polled.
///
/// Its body is the webhook that would have brought the job.
///
/// # Example
///
/// ```
/// use mx_job_webhook::{Job, JobEvent, Status};
///
/// let job = Job::new("JOB-1".parse()?, Status::Completed);
/// let event = JobEvent::from(job.clone());
/// assert_eq!(Job::decode(event.body())?, job);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
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

/// A body that could not be decoded, with the reason and all that came with it.
///
/// What the hook `on_undecodable` is given, and the extractor's rejection holds. It is
/// authenticated: the sender's credentials were right.
///
/// `Debug` shows the reason and the size of the body, not the body.
///
/// # Example
///
/// ```
/// use mx_job_webhook::{Credentials, ErrorKind, JobRouter, JobWebhookEndpoint};
/// # use axum::body::Body; use http::Request; use tower::ServiceExt;
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let endpoint = JobWebhookEndpoint::new(Credentials::unauthenticated(), JobRouter::new())
///     .on_undecodable(|undecodable| async move {
///         assert_eq!(undecodable.error().kind(), ErrorKind::OtherWebhook);
///         assert_eq!(undecodable.body(), r#"{"type": "BALANCE"}"#);
///     });
///
/// let request = Request::post("/").header("content-type", "application/json");
/// let request = request.body(Body::from(r#"{"type": "BALANCE"}"#))?;
/// assert_eq!(endpoint.oneshot(request).await?.status(), 204);
/// # Ok(()) }
/// ```
#[derive(Clone)]
pub struct Undecodable {
    error: Error,
    body: Bytes,
    headers: HeaderMap,
    extensions: Extensions,
}

impl Undecodable {
    pub(crate) fn new(
        error: Error,
        body: Bytes,
        headers: HeaderMap,
        extensions: Extensions,
    ) -> Self {
        Self {
            error,
            body,
            headers,
            extensions,
        }
    }

    /// Why it could not be decoded; names the field and repeats none of the payload.
    #[must_use]
    pub fn error(&self) -> &Error {
        &self.error
    }

    /// The body as it was received.
    #[must_use]
    pub fn body(&self) -> &Bytes {
        &self.body
    }

    /// The headers of the request, without `Authorization`.
    #[must_use]
    pub fn headers(&self) -> &HeaderMap {
        &self.headers
    }

    /// The extensions of the request.
    #[must_use]
    pub fn extensions(&self) -> &Extensions {
        &self.extensions
    }
}

impl fmt::Debug for Undecodable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Undecodable")
            .field("error", &self.error)
            .field("body", &format_args!("{} bytes", self.body.len()))
            .finish_non_exhaustive()
    }
}
