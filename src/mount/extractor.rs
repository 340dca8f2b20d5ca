//! The axum extractor, for applications that write their own handler.

use std::convert::Infallible;
use std::mem::{swap, take};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use axum_core::RequestExt as _;
use axum_core::body::Body;
use axum_core::extract::{FromRef, FromRequest, Request};
use axum_core::response::{IntoResponse, Response};
use bytes::Bytes;
use http_body::{Body as _, Frame};
use http_body_util::Empty;
use pin_project_lite::pin_project;

use super::JobWebhook;
use crate::callback::{BoxJobService, FailureHook};
use crate::error::{Error, ErrorKind, Receipt};
use crate::event::{JobEvent, OtherWebhook, Undecodable};
use crate::observe::Observation;
use crate::pipeline::{Answer, Deliver, Receive, Refusal, Settings, respond};
use crate::util::catch_panic::{Panicked, catch, drop_caught};

/// Extracts an authenticated and decoded event.
///
/// The credentials, the limits and the hook `on_error` are those of a [`JobWebhook`], which comes
/// from the router's state by axum's `FromRef`. So a handler without credentials does not compile;
/// axum's `debug_handler` says why. If axum's `DefaultBodyLimit` is smaller than
/// [`with_body_limit`](JobWebhook::with_body_limit), that holds. If the mount has the hook for a body
/// that is no job's, the hook takes it, and the rejection is the answer to that. Otherwise the
/// rejection contains the body.
///
/// The route chooses the method: use `post`. To run the event's callback, pass the event to
/// [`JobWebhook::run`].
///
/// # Example
///
/// ```
/// use axum::{Router, extract::{FromRef, State}, response::IntoResponse, routing::post};
/// use mx_job_webhook::{Credentials, JobEvent, JobRouter, JobWebhook};
///
/// // axum's feature `macros` derives `FromRef`. A `JobWebhook` alone is a state, too.
/// #[derive(Clone, FromRef)]
/// struct App {
///     webhooks: JobWebhook,
/// }
///
/// async fn webhook(State(webhooks): State<JobWebhook>, event: JobEvent) -> impl IntoResponse {
///     println!("a delivery for {}", event.guid);
///     webhooks.run(event).await
/// }
///
/// let webhooks = JobWebhook::new(Credentials::basic("mx", "secret")?, JobRouter::new());
/// let app = App { webhooks: webhooks.boxed() };
/// let router: Router = Router::new().route("/admin/webhooks", post(webhook)).with_state(app);
/// # drop(router); Ok::<(), mx_job_webhook::credentials::CredentialsError>(())
/// ```
impl<S> FromRequest<S> for JobEvent
where
    S: Send + Sync,
    JobWebhook: FromRef<S>,
{
    type Rejection = JobEventRejection;

    fn from_request(
        request: Request,
        state: &S,
    ) -> impl Future<Output = Result<Self, Self::Rejection>> + Send {
        let JobWebhook { settings } = JobWebhook::from_ref(state);
        let mut request = request;
        let mut limits = settings.limits;
        limits.body = limits.body.min(body_limit(&mut request));
        Extract {
            observation: Observation::until_decoded(),
            receive: Some(Receive::start(&settings.credentials, limits, request)),
            settings,
            running: None,
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
        settings: Arc<Settings<BoxJobService>>,
        // The hook that takes a body without a job, and why it has none.
        running: Option<(Error, Pin<Box<Hook>>)>,
    }

    impl PinnedDrop for Extract {
        fn drop(this: Pin<&mut Self>) {
            let mut receive = this.project().receive;
            let _ = catch(|| receive.set(None));
        }
    }
}

type Hook = Deliver<Empty<Bytes>, BoxJobService>;

impl Future for Extract {
    type Output = Result<JobEvent, JobEventRejection>;

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        let mut this = self.project();
        if this.running.is_none() {
            let Some(receive) = this.receive.as_mut().as_pin_mut() else {
                panic!("`JobEvent`'s extractor was polled after it was ready");
            };
            // The request's parts may panic when they are dropped.
            let received = match catch(|| receive.poll(context)) {
                Ok(poll) => ready!(poll),
                Err(Panicked) => Err(Refusal::Error(Error::new(ErrorKind::CallbackPanicked))),
            };
            let refusal = match received {
                Ok(event) => {
                    this.observation.leave();
                    return Poll::Ready(Ok(event));
                }
                Err(refusal) => refusal,
            };
            let mut observation = take(this.observation);
            // The span begins here, and not where the handler answers.
            drop(observation.enter_late());
            if !has_hook(this.settings, &refusal) {
                let on_error = this.settings.on_error.clone();
                let rejection = JobEventRejection::new(refusal, observation, on_error);
                return Poll::Ready(Err(rejection));
            }
            // The body was received, and is not kept while the hook runs.
            let _ = catch(|| this.receive.set(None));
            let error = refusal.error().clone();
            let hook = Deliver::received_by(this.settings, Err(refusal), observation);
            *this.running = Some((error, Box::pin(hook)));
        }
        let Some((error, hook)) = this.running else {
            unreachable!("it was just set");
        };
        let outcome = match ready!(hook.as_mut().poll(context)) {
            Answer::Respond(outcome) => outcome,
            Answer::PassOn(_) => Err(error.clone()),
        };
        Poll::Ready(Err(JobEventRejection {
            error: error.clone(),
            body: None,
            outcome: Some(outcome),
            report: None,
        }))
    }
}

fn has_hook<J>(settings: &Settings<J>, refusal: &Refusal) -> bool {
    match refusal {
        Refusal::Error(_) => false,
        Refusal::Undecodable(_) => settings.on_undecodable.is_some(),
        Refusal::OtherWebhook(..) => settings.on_other_webhook.is_some(),
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
/// # use mx_job_webhook::{Credentials, JobRouter, JobWebhook};
/// let webhooks = JobWebhook::new(Credentials::bearer("token")?, JobRouter::new());
/// let router: axum::Router = router.with_state(webhooks.boxed());
/// # drop(router); Ok::<(), mx_job_webhook::credentials::CredentialsError>(())
/// ```
pub struct JobEventRejection {
    error: Error,
    /// A body without a job, which no hook of the mount has taken.
    body: Option<Refusal>,
    /// The outcome of the mount's hook.
    outcome: Option<Result<Receipt, Error>>,
    report: Option<Box<Report>>,
}

/// Reports a rejection once: as what becomes of it, or else when it is dropped.
struct Report {
    observation: Observation,
    on_error: Option<FailureHook>,
    error: Error,
}

impl Report {
    /// The rejection is the response.
    fn answer(mut self) {
        let _entered = self.observation.enter_late();
        if let Some(on_error) = &self.on_error {
            on_error.report(&self.error, None);
        }
    }

    /// The application takes the body.
    fn taken(mut self, receipt: Receipt) {
        self.observation.end(&Ok(receipt));
    }
}

impl Drop for Report {
    fn drop(&mut self) {
        self.observation.refuse(&self.error);
    }
}

impl JobEventRejection {
    fn new(refusal: Refusal, mut observation: Observation, on_error: Option<FailureHook>) -> Self {
        let error = refusal.error().clone();
        let has_body = !matches!(refusal, Refusal::Error(_));
        if has_body {
            observation.has_no_job(&error);
        }
        Self {
            body: has_body.then_some(refusal),
            outcome: None,
            report: Some(Box::new(Report {
                observation,
                on_error,
                error: error.clone(),
            })),
            error,
        }
    }

    /// Returns the error.
    #[must_use]
    pub fn error(&self) -> &Error {
        &self.error
    }

    /// Returns the body that could not be decoded, with its headers.
    ///
    /// Its sender was authenticated. Logs and metrics count it as taken.
    ///
    /// # Errors
    ///
    /// Returns the rejection itself if it has any other reason, or if `on_undecodable` of the mount has
    /// taken the body.
    pub fn into_undecodable(mut self) -> Result<Undecodable, Self> {
        match self.body.take() {
            Some(Refusal::Undecodable(undecodable)) => {
                self.taken(Receipt::Undecodable);
                Ok(*undecodable)
            }
            other => Err(Self {
                body: other,
                ..self
            }),
        }
    }

    /// Returns another of MX's webhooks, with its headers.
    ///
    /// Its sender was authenticated. Logs and metrics count it as taken.
    ///
    /// # Errors
    ///
    /// Returns the rejection itself if it has any other reason, or if `on_other_webhook` of the mount has
    /// taken the webhook.
    pub fn into_other_webhook(mut self) -> Result<OtherWebhook, Self> {
        match self.body.take() {
            Some(Refusal::OtherWebhook(webhook, _)) => {
                self.taken(Receipt::OtherWebhook);
                Ok(*webhook)
            }
            other => Err(Self {
                body: other,
                ..self
            }),
        }
    }

    fn taken(&mut self, receipt: Receipt) {
        if let Some(report) = self.report.take() {
            report.taken(receipt);
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
    fn into_response(mut self) -> Response {
        let outcome = self.outcome.take();
        let outcome = outcome.unwrap_or_else(|| Err(self.error.clone()));
        if let Some(report) = self.report.take() {
            report.answer();
        }
        // The request's parts may panic when they are dropped.
        let _ = drop_caught(self);
        respond::<Body>(outcome)
    }
}
