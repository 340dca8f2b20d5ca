//! Shared test code: MX's sample, requests, and the ways to mount the crate.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll};
#[cfg(feature = "tokio")]
use std::time::Duration;

use axum::Router;
use axum::body::{Body, Bytes};
use axum::routing::get;
use http::{Request, Response};
use http_body::Frame;
use mx_job_webhook::mount::JobWebhookLayer;
use mx_job_webhook::{Background, Credentials, Error, JobEvent, JobRouter, JobWebhook, Receipt};
use tower::util::BoxCloneSyncService;
use tower::{BoxError, Layer as _, Service, ServiceExt as _};

pub(crate) const SAMPLE: &str = include_str!("../fixtures/completed.json");
pub(crate) const PATH: &str = "/admin/webhooks";
/// `mx:secret`
pub(crate) const BASIC: &str = "Basic bXg6c2VjcmV0";

pub(crate) fn credentials() -> Credentials {
    Credentials::basic("mx", "secret").unwrap()
}

/// The sample with another status.
pub(crate) fn sample_with_status(code: i64, name: &str) -> String {
    SAMPLE
        .replace("\"status\": 6", &format!("\"status\": {code}"))
        .replace("\"COMPLETED\"", &format!("\"{name}\""))
}

/// The request that MX sends, with this body.
pub(crate) fn delivery(body: impl Into<Body>) -> Request<Body> {
    Request::post(PATH)
        .header("authorization", BASIC)
        .header("content-type", "application/json; charset=utf-8")
        .header("accept", "application/json")
        .body(body.into())
        .unwrap()
}

/// A body of these frames that then ends or stays pending.
pub(crate) struct Frames {
    frames: VecDeque<Result<Frame<Bytes>, BoxError>>,
    ends: bool,
}

impl Frames {
    pub(crate) fn new(frames: impl IntoIterator<Item = Result<Frame<Bytes>, BoxError>>) -> Self {
        Self {
            frames: frames.into_iter().collect(),
            ends: true,
        }
    }

    pub(crate) fn of_data(frames: impl IntoIterator<Item = &'static [u8]>) -> Self {
        Self::new(
            frames
                .into_iter()
                .map(|data| Ok(Frame::data(Bytes::from_static(data)))),
        )
    }

    pub(crate) fn then_pending(mut self) -> Self {
        self.ends = false;
        self
    }
}

impl http_body::Body for Frames {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        match self.frames.pop_front() {
            Some(frame) => Poll::Ready(Some(frame)),
            None if self.ends => Poll::Ready(None),
            None => Poll::Pending,
        }
    }
}

impl From<Frames> for Body {
    fn from(frames: Frames) -> Self {
        Self::new(frames)
    }
}

/// The callbacks' calls, in order.
#[derive(Clone, Default)]
pub(crate) struct Log(Arc<Mutex<Vec<String>>>);

impl Log {
    pub(crate) fn push(&self, entry: impl Into<String>) {
        self.0.lock().unwrap().push(entry.into());
    }

    pub(crate) fn entries(&self) -> Vec<String> {
        self.0.lock().unwrap().clone()
    }
}

/// Any service of events, so that one table serves all of them.
pub(crate) type Jobs = BoxCloneSyncService<JobEvent, Receipt, BoxError>;

pub(crate) fn jobs<S>(service: S) -> Jobs
where
    S: Service<JobEvent, Response = Receipt, Error: Into<BoxError>> + Clone + Send + Sync + 'static,
    S::Future: Send,
{
    BoxCloneSyncService::new(service.map_err(Into::into))
}

pub(crate) fn no_callbacks() -> Jobs {
    jobs(JobRouter::new())
}

/// An application with the crate mounted in one way.
pub(crate) type App = BoxCloneSyncService<Request<Body>, Response<Body>, Infallible>;

/// The mount settings that differ between the rows of a table.
#[derive(Clone)]
pub(crate) struct Settings {
    pub credentials: Credentials,
    pub jobs: Jobs,
    pub background: Background,
    pub body_limit: Option<usize>,
    /// In seconds, for the mounts that have this setting.
    #[cfg(feature = "tokio")]
    pub answer_deadline: Option<u64>,
    /// The result of the hook `on_undecodable`, if it is set.
    pub on_undecodable: Option<Result<(), &'static str>>,
    /// The result of the hook `on_other_webhook`, if it is set.
    pub on_other_webhook: Option<Result<(), &'static str>>,
}

impl Settings {
    pub(crate) fn new(jobs: Jobs) -> Self {
        Self {
            credentials: credentials(),
            jobs,
            background: Background::new(),
            body_limit: None,
            #[cfg(feature = "tokio")]
            answer_deadline: None,
            on_undecodable: None,
            on_other_webhook: None,
        }
    }
}

/// Every way to mount the crate, by name.
pub(crate) fn mounts(settings: &Settings) -> Vec<(&'static str, App)> {
    vec![
        ("the layer around the router", around_the_router(settings)),
        ("Router::layer", router_layer(settings)),
        ("route_service", route_service(settings)),
        #[cfg(feature = "axum")]
        ("the extractor", extractor(settings)),
    ]
}

fn own_routes() -> Router {
    Router::new().route("/accounts", get(|| async { "accounts" }))
}

fn layer(settings: &Settings) -> JobWebhookLayer<Jobs> {
    webhooks(settings).at(PATH)
}

pub(crate) fn webhooks(settings: &Settings) -> JobWebhook<Jobs> {
    let mut webhooks = JobWebhook::new(settings.credentials.clone(), settings.jobs.clone())
        .with_background(settings.background.clone());
    #[cfg(feature = "tokio")]
    {
        webhooks = webhooks.with_answer_deadline(settings.answer_deadline.map(Duration::from_secs));
    }
    if let Some(limit) = settings.body_limit {
        webhooks = webhooks.with_body_limit(limit);
    }
    if let Some(outcome) = settings.on_undecodable {
        webhooks = webhooks.on_undecodable(move |_| async move { outcome });
    }
    if let Some(outcome) = settings.on_other_webhook {
        webhooks = webhooks.on_other_webhook(move |_| async move { outcome });
    }
    webhooks
}

fn around_the_router(settings: &Settings) -> App {
    App::new(layer(settings).layer(own_routes()))
}

fn router_layer(settings: &Settings) -> App {
    App::new(own_routes().layer(layer(settings)))
}

fn route_service(settings: &Settings) -> App {
    App::new(own_routes().route_service(PATH, webhooks(settings)))
}

#[cfg(feature = "axum")]
mod with_extractor {
    use axum::extract::{FromRef, State};
    use axum::response::{IntoResponse as _, Response};
    use axum::routing::post;
    use mx_job_webhook::mount::JobEventRejection;
    use mx_job_webhook::{Error, ErrorKind};

    use super::*;

    impl FromRef<Settings> for JobWebhook {
        fn from_ref(settings: &Settings) -> Self {
            webhooks(settings).boxed()
        }
    }

    /// A handler as an application would write it, including the hook.
    async fn handler(
        State(settings): State<Settings>,
        State(webhooks): State<JobWebhook>,
        event: Result<JobEvent, JobEventRejection>,
    ) -> Response {
        let rejection = match event {
            Ok(event) => return webhooks.run(event).await.into_response(),
            Err(rejection) => rejection,
        };
        let (hook, receipt) = match rejection.error().kind() {
            kind if kind.is_undecodable() => (settings.on_undecodable, Receipt::Undecodable),
            ErrorKind::UnexpectedWebhook => (settings.on_other_webhook, Receipt::OtherWebhook),
            _ => return rejection.into_response(),
        };
        match hook {
            Some(Ok(())) => receipt.into_response(),
            Some(Err(error)) => Error::from(BoxError::from(error)).into_response(),
            None => rejection.into_response(),
        }
    }

    pub(crate) fn extractor(settings: &Settings) -> App {
        App::new(own_routes().merge(extractor_routes(settings)))
    }

    pub(crate) fn extractor_routes(settings: &Settings) -> Router {
        Router::new()
            .route(PATH, post(handler))
            .with_state(settings.clone())
    }
}
#[cfg(feature = "axum")]
pub(crate) use with_extractor::{extractor, extractor_routes};

/// Sends one request to an application with this mount and returns the parts of its response.
pub(crate) async fn send(app: App, request: Request<Body>) -> (http::response::Parts, Bytes) {
    let (head, body) = app.oneshot(request).await.unwrap().into_parts();
    (head, axum::body::to_bytes(body, usize::MAX).await.unwrap())
}

/// Panics without calling the panic hook.
pub(crate) fn panic_quietly() {
    std::panic::resume_unwind(Box::new(()));
}

/// A router and the `Background` of its events.
#[derive(Clone)]
pub(crate) struct Runner {
    background: Background,
    jobs: JobRouter,
}

impl Runner {
    pub(crate) fn call(
        &self,
        event: JobEvent,
    ) -> impl Future<Output = Result<Receipt, Error>> + Send + use<> {
        self.background.run(self.jobs.clone(), event)
    }
}

pub(crate) trait RunIn {
    fn run_in(self, background: &Background) -> Runner;
}

impl RunIn for JobRouter {
    fn run_in(self, background: &Background) -> Runner {
        Runner {
            background: background.clone(),
            jobs: self,
        }
    }
}

/// Runs an event through a router in a `Background` of its own.
pub(crate) fn run(
    jobs: &JobRouter,
    event: JobEvent,
) -> impl Future<Output = Result<Receipt, Error>> + Send + use<> {
    jobs.clone().run_in(&Background::new()).call(event)
}

/// Polls a future as part of a callback that this `Background` tracks. Unlike a callback, it ends
/// when it is dropped.
#[cfg(feature = "tokio")]
pub(crate) fn within<F>(
    background: &Background,
    future: F,
) -> impl Future<Output = F::Output> + Send + use<F>
where
    F: Future<Output: Send> + Send + 'static,
{
    let background = background.clone();
    let future = Arc::new(Mutex::new(Box::pin(future)));
    std::future::poll_fn(move |context| {
        let (sender, polled) = std::sync::mpsc::channel();
        let (future, waker) = (future.clone(), context.waker().clone());
        let poll = tower::service_fn(move |_: JobEvent| {
            let mut future = future.lock().unwrap();
            let polled = future.as_mut().poll(&mut Context::from_waker(&waker));
            std::future::ready(sender.send(polled).map_err(|_| "nobody waits"))
        });
        let event = JobEvent::decode(SAMPLE).unwrap();
        let mut run = Box::pin(background.run(poll, event));
        let ended = run
            .as_mut()
            .poll(&mut Context::from_waker(std::task::Waker::noop()));
        assert!(matches!(ended, Poll::Ready(Ok(Receipt::Handled))));
        polled.try_recv().unwrap()
    })
}
