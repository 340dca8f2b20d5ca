//! One delivery: the job, and all that came with it.

use std::fmt;
use std::ops::Deref;

use bytes::Bytes;
use http::{Extensions, HeaderMap};

#[cfg(any(feature = "metrics", feature = "tracing"))]
use crate::observe::Mark;
use crate::panic::CatchDrop;
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
    // These are the application's, and can panic when they are dropped, wherever that is.
    body: CatchDrop<Bytes>,
    headers: CatchDrop<HeaderMap>,
    extensions: CatchDrop<Extensions>,
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
            body: CatchDrop::new(body),
            headers: CatchDrop::new(headers),
            extensions: CatchDrop::new(extensions),
            fencing_token: None,
            #[cfg(any(feature = "metrics", feature = "tracing"))]
            mark: Mark::default(),
        }
    }

    /// The job; `event.job()` where deref is not explicit enough.
    ///
    /// # Example
    ///
    /// ```
    /// use mx_job_webhook::{Job, JobEvent};
    ///
    /// fn describe(job: &Job) -> String {
    ///     format!("{} is {}", job.guid, job.status)
    /// }
    ///
    /// let event = JobEvent::decode(r#"{"job": {"guid": "JOB-1", "status_name": "COMPLETED"}}"#)?;
    /// assert_eq!(describe(event.job()), "JOB-1 is COMPLETED");
    /// # Ok::<(), mx_job_webhook::Error>(())
    /// ```
    #[must_use]
    pub fn job(&self) -> &Job {
        &self.job
    }

    /// The job alone, which owns all it refers to.
    ///
    /// Without a readable `updated_at`, an event's name is that of its body: take the
    /// [`EventName`](crate::EventName) first.
    ///
    /// # Example
    ///
    /// ```
    /// use mx_job_webhook::JobEvent;
    ///
    /// let event = JobEvent::decode(r#"{"job": {"guid": "JOB-1", "status_name": "COMPLETED"}}"#)?;
    /// let job = event.into_job(); // The server's read buffer is free.
    /// assert_eq!(job.guid, "JOB-1");
    /// # Ok::<(), mx_job_webhook::Error>(())
    /// ```
    #[must_use]
    pub fn into_job(self) -> Job {
        self.job
    }

    /// The body as it was received, with every field that [`Job`] does not read.
    ///
    /// # Example
    ///
    /// ```
    /// use mx_job_webhook::JobEvent;
    ///
    /// let webhook = r#"{"job": {"guid": "JOB-1", "status": 9, "error_message_code": "HIT_LIMIT"}}"#;
    /// let event = JobEvent::decode(webhook)?;
    /// let body: serde_json::Value = serde_json::from_slice(event.body())?;
    /// assert_eq!(body["job"]["error_message_code"], "HIT_LIMIT");
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    #[must_use]
    pub fn body(&self) -> &Bytes {
        &self.body
    }

    /// The headers of the request, without `Authorization`.
    ///
    /// # Example
    ///
    /// ```
    /// use mx_job_webhook::{Credentials, JobRouter, JobWebhookEndpoint};
    /// # use axum::body::Body; use http::Request; use tower::ServiceExt;
    ///
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// let jobs = JobRouter::new().on_completed(|event| async move {
    ///     assert_eq!(event.headers()["x-request-id"], "42");
    ///     assert!(!event.headers().contains_key("authorization"));
    /// });
    /// let request = Request::post("/")
    ///     .header("authorization", "Bearer a-token")
    ///     .header("x-request-id", "42")
    ///     .header("content-type", "application/json")
    ///     .body(Body::from(r#"{"job": {"guid": "JOB-1", "status": 6}}"#))?;
    /// let endpoint = JobWebhookEndpoint::new(Credentials::bearer("a-token")?, jobs);
    /// assert_eq!(endpoint.oneshot(request).await?.status(), 204); // No assertion failed: no panic.
    /// # Ok(()) }
    /// ```
    #[must_use]
    pub fn headers(&self) -> &HeaderMap {
        &self.headers
    }

    /// The extensions of the request, such as axum's `ConnectInfo`.
    ///
    /// # Example
    ///
    /// ```
    /// use std::net::SocketAddr;
    /// use axum::extract::ConnectInfo;
    /// use mx_job_webhook::JobEvent;
    ///
    /// /// Filled in by axum, if the application is served with `into_make_service_with_connect_info`.
    /// fn sender(event: &JobEvent) -> Option<SocketAddr> {
    ///     event.extensions().get().map(|ConnectInfo(address)| *address)
    /// }
    ///
    /// let event = JobEvent::decode(r#"{"job": {"guid": "JOB-1", "status_name": "COMPLETED"}}"#)?;
    /// assert_eq!(sender(&event), None); // It came from a queue.
    /// # Ok::<(), mx_job_webhook::Error>(())
    /// ```
    #[must_use]
    pub fn extensions(&self) -> &Extensions {
        &self.extensions
    }

    /// The same, to leave something for the services further in.
    ///
    /// # Example
    ///
    /// ```
    /// use mx_job_webhook::{JobEvent, JobRouter, Receipt};
    /// use tower::{ServiceBuilder, ServiceExt};
    ///
    /// #[derive(Clone)]
    /// struct Attempt(u32);
    ///
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// let jobs = ServiceBuilder::new()
    ///     .map_request(|mut event: JobEvent| {
    ///         event.extensions_mut().insert(Attempt(2));
    ///         event
    ///     })
    ///     .service(JobRouter::new().on_completed(|event| async move {
    ///         event.extensions().get::<Attempt>().filter(|attempt| attempt.0 == 2).map(drop).ok_or("none")
    ///     }));
    /// let event = JobEvent::decode(r#"{"job": {"guid": "JOB-1", "status_name": "COMPLETED"}}"#)?;
    /// assert_eq!(jobs.oneshot(event).await?, Receipt::Handled);
    /// # Ok(()) }
    /// ```
    pub fn extensions_mut(&mut self) -> &mut Extensions {
        &mut self.extensions
    }

    /// The token of the claim that this delivery holds, within a [`DedupeLayer`](crate::DedupeLayer).
    ///
    /// # Example
    ///
    /// ```
    /// use mx_job_webhook::{DedupeLayer, JobEvent, JobRouter, MemoryLedger};
    /// use tower::{Layer, ServiceExt};
    ///
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// let jobs = JobRouter::new()
    ///     .on_completed(|event| async move { event.fencing_token().map(drop).ok_or("not claimed") });
    ///
    /// let event = JobEvent::decode(r#"{"job": {"guid": "JOB-1", "status_name": "COMPLETED"}}"#)?;
    /// assert!(jobs.call(event.clone()).await.is_err());
    /// assert!(DedupeLayer::new(MemoryLedger::new()).layer(jobs).oneshot(event).await.is_ok());
    /// # Ok(()) }
    /// ```
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
