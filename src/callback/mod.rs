//! Callbacks and services of events: their traits, how they are stored, and how they are called.
//!
//! The application registers closures and `async fn`s, which [`Callback`] describes. They are
//! stored boxed, and a panic of one is caught and becomes an error. Services of events are called
//! in the same way: see [`JobService`].
//!
//! This module uses `event`, `job`, `error` and `util`.

mod box_job_service;
mod boxed;
mod failure;
mod future;
mod service;

use tower::BoxError;

use crate::util::never::Never;
pub use box_job_service::BoxJobService;
pub(crate) use boxed::{BoxedCallback, box_callback};
pub use failure::Failure;
pub(crate) use failure::{FailureHook, ReportEnd};
pub use future::JobFuture;
pub use service::{EventService, JobService};
pub(crate) use service::{call, call_reporting, poll_ready};

/// An async closure or `async fn` of one argument, such as a [`JobEvent`].
///
/// Write `|event| async move { … }`, or pass the name of an `async fn`. An `async move |event| { …
/// }` that captures something does not implement `Fn`, so it is not accepted.
///
/// Implemented for every `Fn(Event) -> Fut` that is `Send + Sync + 'static` and whose future is a
/// [`CallbackFuture`]. There is nothing to implement by hand.
///
/// In a closure that uses `?`, name the error at the end: `Ok::<_, tower::BoxError>(())`. The
/// compiler cannot infer it there.
///
/// [`JobEvent`]: crate::JobEvent
#[diagnostic::on_unimplemented(
    message = "`{Self}` is not a callback for `{Event}`",
    label = "expected an async closure or `async fn` that takes a `{Event}`",
    note = "write `|event| async move {{ … }}`, or `async fn name(event: {Event})` and pass `name`",
    note = "it must be `Send + Sync + 'static`: move clones of what it needs into it"
)]
pub trait Callback<Event, Fut>: Fn(Event) -> Fut + Send + Sync + 'static {}

impl<F, Event, Fut> Callback<Event, Fut> for F where F: Fn(Event) -> Fut + Send + Sync + 'static {}

/// A [`Callback`] that takes the application's state before the event.
///
/// Implemented for every `Fn(App, Event) -> Fut` that is `Send + Sync + 'static`. See
/// [`JobRouter::with_state`](crate::JobRouter::with_state).
#[diagnostic::on_unimplemented(
    message = "`{Self}` is not a callback for `{Event}` with state",
    label = "expected an async closure or `async fn` that takes `({App}, {Event})`",
    note = "write `async fn name(app: {App}, event: {Event})` and pass `name`",
    note = "it must be `Send + Sync + 'static`"
)]
pub trait StateCallback<App, Event, Fut>: Fn(App, Event) -> Fut + Send + Sync + 'static {}

impl<F, App, Event, Fut> StateCallback<App, Event, Fut> for F where
    F: Fn(App, Event) -> Fut + Send + Sync + 'static
{
}

/// Returns a callback or hook that passes a clone of this state as the first argument.
///
/// Use it for the async hooks of a mount, a layer or a failsafe, which take one argument. The callbacks
/// of a [`JobRouter`](crate::JobRouter) have [`with_state`](crate::JobRouter::with_state) of their own.
/// The hooks that only report, such as `on_error`, are not async: a `move` closure captures the state.
///
/// # Example
///
/// ```
/// use mx_job_webhook::callback::with_state;
/// use mx_job_webhook::event::{OtherWebhook, Undecodable};
/// use mx_job_webhook::{Credentials, JobRouter, JobWebhook};
///
/// #[derive(Clone)]
/// struct App { table: &'static str }
///
/// async fn store_body(app: App, body: Undecodable) {
///     println!("insert {} bytes into {}", body.body().len(), app.table);
/// }
///
/// async fn other(app: App, webhook: OtherWebhook) -> Result<(), std::io::Error> {
///     println!("insert a {:?} into {}", webhook.type_name(), app.table);
///     Ok(())
/// }
///
/// let app = App { table: "webhooks" };
/// let webhooks = JobWebhook::new(Credentials::basic("mx", "secret")?, JobRouter::new())
///     .on_undecodable(with_state(app.clone(), store_body))
///     .on_other_webhook(with_state(app, other));
/// # drop(webhooks); Ok::<(), mx_job_webhook::credentials::CredentialsError>(())
/// ```
pub fn with_state<App, Event, F, Fut>(
    app: App,
    callback: F,
) -> impl Fn(Event) -> Fut + Send + Sync + 'static
where
    App: Clone + Send + Sync + 'static,
    F: StateCallback<App, Event, Fut>,
{
    move |event| callback(app.clone(), event)
}

/// The future of a callback, with a [`CallbackOutput`] as its output.
///
/// Implemented for every such future that is `Send + 'static`. The callback continues on the
/// runtime's threads if the sender hangs up, so its future has to be `Send + 'static`.
#[diagnostic::on_unimplemented(
    message = "a job callback must be async, but this one returns `{Self}`",
    label = "`{Self}` is not a future of a callback",
    note = "write `async fn`, or `|event| async move {{ … }}`"
)]
pub trait CallbackFuture: Future<Output: CallbackOutput> + Send + 'static {}

impl<Fut> CallbackFuture for Fut where Fut: Future<Output: CallbackOutput> + Send + 'static {}

/// The output of a callback: `()` or `Result<(), E>`.
///
/// `E` is any type that converts into a boxed error: an error type, `anyhow::Error`, `String`.
/// After `Ok` or `()`, the delivery is acknowledged. After `Err`, the answer is 500, and MX
/// delivers the event again. A callback that never returns, such as `todo!()`, is accepted too.
#[diagnostic::on_unimplemented(
    message = "a job callback returns `()` or `Result<(), E>`, not `{Self}`",
    label = "this callback returns `{Self}`",
    note = "`E` is anything that is `Into<Box<dyn std::error::Error + Send + Sync>>`",
    note = "a `Box<dyn Error>` is not: write `Box<dyn Error + Send + Sync>`"
)]
pub trait CallbackOutput {
    /// Returns the outcome, with the error boxed.
    ///
    /// # Errors
    ///
    /// Returns the callback's own error.
    fn into_result(self) -> Result<(), BoxError>;
}

impl CallbackOutput for () {
    fn into_result(self) -> Result<(), BoxError> {
        Ok(())
    }
}

#[diagnostic::do_not_recommend]
impl<E: Into<BoxError>> CallbackOutput for Result<(), E> {
    fn into_result(self) -> Result<(), BoxError> {
        self.map_err(Into::into)
    }
}

impl CallbackOutput for Never {
    fn into_result(self) -> Result<(), BoxError> {
        self
    }
}
