//! The axum extractor, for those who write their own handler.

use std::convert::Infallible;
use std::mem::swap;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use axum_core::RequestExt as _;
use axum_core::body::Body;
use axum_core::extract::{FromRef, FromRequest, Request};
use axum_core::response::{IntoResponse, Response};
use bytes::Bytes;
use http_body::{Body as _, Frame};
use pin_project_lite::pin_project;

use crate::observe::Observation;
use crate::panic::{Panicked, catch, drop_caught};
use crate::pipeline::respond::respond;
use crate::pipeline::{Limits, Receive, Refusal};
use crate::{Credentials, Error, ErrorKind, JobEvent, Receipt, Undecodable};

/// Extracts an authenticated, decoded event; the credentials come from the state.
///
/// The router's state has to give [`Credentials`] through axum's `FromRef`, so that
/// forgetting them does not compile. The limit of the body is axum's `DefaultBodyLimit`,
/// which is 2 MB unless the application sets another; the read timeout is 10 s. Of a request
/// that is refused, up to 1 MiB of body is read and discarded, for up to 2 s.
///
/// Which method reaches the handler is the route's business: use `post`.
///
/// # Example
///
/// ```
/// use axum::{Router, extract::{FromRef, State}, response::IntoResponse, routing::post};
/// use mx_job_webhook::{Credentials, JobEvent, JobRouter};
///
/// #[derive(Clone, FromRef)]
/// struct App { credentials: Credentials, jobs: JobRouter }
///
/// async fn webhook(State(jobs): State<JobRouter>, event: JobEvent) -> impl IntoResponse {
///     jobs.call(event).await
/// }
///
/// let app = App { credentials: Credentials::basic("mx", "secret")?, jobs: JobRouter::new() };
/// let router: Router = Router::new().route("/admin/webhooks", post(webhook)).with_state(app);
/// assert!(router.has_routes());
/// # Ok::<(), mx_job_webhook::CredentialsError>(())
/// ```
impl<S> FromRequest<S> for JobEvent
where
    S: Send + Sync,
    Credentials: FromRef<S>,
{
    type Rejection = JobEventRejection;

    fn from_request(
        request: Request,
        state: &S,
    ) -> impl Future<Output = Result<Self, Self::Rejection>> + Send {
        let credentials = Credentials::from_ref(state);
        let mut request = request;
        let limits = Limits {
            body: body_limit(&mut request),
            ..Limits::default()
        };
        Extract {
            observation: Observation::until_decoded(),
            receive: Some(Receive::start(&credentials, limits, request)),
        }
    }
}

/// The limit that the application has set by axum's `DefaultBodyLimit`, or axum's own.
///
/// axum tells it only by the body that it limits: here one of unknown length. The request's own
/// body stays as it is, because one that is too large is still to be discarded.
fn body_limit(request: &mut Request) -> usize {
    let mut probe = Request::new(Body::new(UnknownLength));
    swap(probe.extensions_mut(), request.extensions_mut());
    let mut probe = probe.with_limited_body();
    swap(probe.extensions_mut(), request.extensions_mut());
    let limit = probe.body().size_hint().upper();
    limit.map_or(usize::MAX, |limit| {
        usize::try_from(limit).unwrap_or(usize::MAX)
    })
}

/// The body of the probe, which is never read.
struct UnknownLength;

impl http_body::Body for UnknownLength {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        Poll::Ready(None)
    }
}

pin_project! {
    /// By hand, because an `async` block would copy the request in and the event out.
    struct Extract {
        #[pin]
        receive: Option<Receive<Body>>,
        observation: Observation,
    }

    impl PinnedDrop for Extract {
        fn drop(this: Pin<&mut Self>) {
            let mut receive = this.project().receive;
            let _ = catch(|| receive.set(None));
        }
    }
}

impl Future for Extract {
    type Output = Result<JobEvent, JobEventRejection>;

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.project();
        let Some(receive) = this.receive.as_pin_mut() else {
            panic!("`JobEvent`'s extractor was polled after it was ready");
        };
        // What came with the request can panic when it is dropped.
        let outcome = match catch(|| receive.poll(context)) {
            Ok(poll) => ready!(poll),
            Err(Panicked) => Err(Refusal::Error(Error::new(ErrorKind::CallbackPanicked))),
        };
        let outcome = outcome.map_err(JobEventRejection);
        match &outcome {
            Ok(_event) => this.observation.leave(),
            Err(rejection) => this.observation.refuse(rejection.error()),
        }
        Poll::Ready(outcome)
    }
}

/// Why the extractor gave no event; its response is the answer table's.
///
/// A handler that takes `Result<JobEvent, JobEventRejection>` can look at it, and keep
/// the bytes of a body that could not be decoded.
///
/// # Example
///
/// ```
/// use axum::response::{IntoResponse, Response};
/// use http::StatusCode;
/// use mx_job_webhook::{JobEvent, JobEventRejection};
///
/// async fn webhook(event: Result<JobEvent, JobEventRejection>) -> Response {
///     match event.map_err(JobEventRejection::into_undecodable) {
///         Ok(event) => StatusCode::NO_CONTENT.into_response(),
///         // Stored for later: MX would only resend the same bytes.
///         Err(Ok(undecodable)) => StatusCode::NO_CONTENT.into_response(),
///         Err(Err(rejection)) => rejection.into_response(),
///     }
/// }
///
/// let router = axum::Router::new().route("/admin/webhooks", axum::routing::post(webhook));
/// let router: axum::Router = router.with_state(mx_job_webhook::Credentials::bearer("token")?);
/// assert!(router.has_routes());
/// # Ok::<(), mx_job_webhook::CredentialsError>(())
/// ```
pub struct JobEventRejection(Refusal);

impl JobEventRejection {
    /// What was wrong.
    ///
    /// # Example
    ///
    /// ```
    /// use axum::{extract::FromRequest, body::Body};
    /// use http::Request;
    /// use mx_job_webhook::{Credentials, ErrorKind, JobEvent};
    ///
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// let state = Credentials::basic("mx", "secret")?;
    /// let rejection = JobEvent::from_request(Request::new(Body::empty()), &state).await.unwrap_err();
    /// assert_eq!(rejection.error().kind(), ErrorKind::Unauthorized);
    /// # Ok(()) }
    /// ```
    #[must_use]
    pub fn error(&self) -> &Error {
        match &self.0 {
            Refusal::Error(error) => error,
            Refusal::Undecodable(undecodable) => undecodable.error(),
        }
    }

    /// The body with its headers, if it was authenticated and could not be decoded.
    ///
    /// # Errors
    ///
    /// The rejection itself, if that was not what was wrong.
    ///
    /// # Example
    ///
    /// ```
    /// use axum::{body::Body, extract::FromRequest};
    /// use http::Request;
    /// use mx_job_webhook::{Credentials, JobEvent, JobEventRejection};
    ///
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// let request = Request::post("/").header("content-type", "application/json");
    /// let request = request.body(Body::from(r#"{"type": "BALANCE"}"#))?;
    /// let rejection = JobEvent::from_request(request, &Credentials::unauthenticated()).await.unwrap_err();
    /// let undecodable = rejection.into_undecodable().map_err(|rejection| rejection.to_string())?;
    /// assert_eq!(undecodable.body(), r#"{"type": "BALANCE"}"#);
    /// # Ok(()) }
    /// ```
    pub fn into_undecodable(self) -> Result<Undecodable, Self> {
        match self.0 {
            Refusal::Undecodable(undecodable) => Ok(*undecodable),
            Refusal::Error(_) => Err(self),
        }
    }
}

impl std::fmt::Debug for JobEventRejection {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("JobEventRejection")
            .field(self.error())
            .finish()
    }
}

impl std::fmt::Display for JobEventRejection {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.error().fmt(f)
    }
}

impl std::error::Error for JobEventRejection {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        self.error().source()
    }
}

impl IntoResponse for JobEventRejection {
    fn into_response(self) -> Response {
        let error = self.error().clone();
        // What came with the request can panic when it is dropped.
        let _ = drop_caught(self);
        respond::<Body>(Err(error))
    }
}

/// The answer of the answer table, empty but for its headers.
impl IntoResponse for Error {
    fn into_response(self) -> Response {
        respond::<Body>(Err(self))
    }
}

/// 204 with an empty body.
impl IntoResponse for Receipt {
    fn into_response(self) -> Response {
        respond::<Body>(Ok(self))
    }
}
