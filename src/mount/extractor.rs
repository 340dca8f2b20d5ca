//! The axum extractor, for applications that write their own handler.

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

use crate::credentials::Credentials;
use crate::error::{Error, ErrorKind};
use crate::event::{JobEvent, Undecodable};
use crate::observe::Observation;
use crate::pipeline::{Limits, Receive, Refusal, respond};
use crate::util::catch_panic::{Panicked, catch, drop_caught};

/// Extracts an authenticated and decoded event.
///
/// The [`Credentials`] come from the router's state by axum's `FromRef`, so a handler without
/// credentials does not compile. axum's feature `macros` derives it, and its `debug_handler` says
/// why a handler does not compile. The limit of the body is axum's `DefaultBodyLimit`, which defaults
/// to 2 MB. The read timeout is 10 s. Of a refused body, up to 1 MiB is discarded, for up to 2 s.
///
/// The route chooses the method: use `post`. To run the event's callback, pass the event to
/// [`Background::run`](crate::Background::run).
///
/// # Example
///
/// ```
/// use axum::{Router, extract::{FromRef, State}, response::IntoResponse, routing::post};
/// use mx_job_webhook::{Background, BoxJobService, Credentials, JobEvent, JobRouter};
///
/// #[derive(Clone, FromRef)]
/// struct App {
///     credentials: Credentials,
///     jobs: BoxJobService,
///     background: Background,
/// }
///
/// async fn webhook(State(app): State<App>, event: JobEvent) -> impl IntoResponse {
///     app.background.run(app.jobs, event).await
/// }
///
/// let app = App {
///     credentials: Credentials::basic("mx", "secret")?,
///     jobs: BoxJobService::new(JobRouter::new()),
///     background: Background::new(),
/// };
/// let router: Router = Router::new().route("/admin/webhooks", post(webhook)).with_state(app);
/// # drop(router); Ok::<(), mx_job_webhook::credentials::CredentialsError>(())
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

/// Returns the limit that the application has set by axum's `DefaultBodyLimit`, or axum's own.
///
/// axum offers no way to read the limit. It only wraps a body, whose size hint then shows the
/// limit. A body of unknown length is wrapped here, and the request's own is left alone, because a
/// body that is too large has to be discarded.
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

/// A body that is never read.
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
    /// The future of the extractor. It is not an `async` block, because that would copy the request
    /// and the event.
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
        // The request's parts may panic when they are dropped.
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

/// The rejection of the extractor.
///
/// Its response is that of the [answer table](crate::guide::answers). A handler that takes
/// `Result<JobEvent, JobEventRejection>` can inspect it, and can keep a body that could not be
/// decoded.
///
/// # Example
///
/// ```
/// use axum::response::{IntoResponse, Response};
/// use http::StatusCode;
/// use mx_job_webhook::JobEvent;
/// use mx_job_webhook::mount::JobEventRejection;
///
/// async fn webhook(event: Result<JobEvent, JobEventRejection>) -> Response {
///     match event.map_err(JobEventRejection::into_undecodable) {
///         Ok(event) => StatusCode::NO_CONTENT.into_response(),
///         // Store the body here, because MX would only send the same bytes again.
///         Err(Ok(undecodable)) => StatusCode::NO_CONTENT.into_response(),
///         Err(Err(rejection)) => rejection.into_response(),
///     }
/// }
///
/// let router = axum::Router::new().route("/admin/webhooks", axum::routing::post(webhook));
/// let router: axum::Router = router.with_state(mx_job_webhook::Credentials::bearer("token")?);
/// # drop(router); Ok::<(), mx_job_webhook::credentials::CredentialsError>(())
/// ```
pub struct JobEventRejection(Refusal);

impl JobEventRejection {
    /// Returns the error.
    #[must_use]
    pub fn error(&self) -> &Error {
        match &self.0 {
            Refusal::Error(error) => error,
            Refusal::Undecodable(undecodable) => undecodable.error(),
        }
    }

    /// Returns the body that could not be decoded, with its headers.
    ///
    /// Its sender was authenticated.
    ///
    /// # Errors
    ///
    /// Returns the rejection itself if it has any other reason.
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
        // The request's parts may panic when they are dropped.
        let _ = drop_caught(self);
        respond::<Body>(Err(error))
    }
}
