//! Callbacks: what counts as one, how it is stored, and how it is called.
//!
//! The application registers closures and `async fn`s, which [`Callback`] describes. They are stored
//! without their types, and a panic of one is caught and becomes an error. A service around the
//! callbacks is called in the same way: see [`JobService`].

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
pub use service::JobService;
pub(crate) use service::{call, call_reporting, poll_ready};

/// A closure or `async fn` of one argument, such as a [`JobEvent`], that is async.
///
/// Written `|event| async move { … }`, or by name. An `async move |event| { … }` that
/// captures something is not enough of a function for Rust (`Fn`).
///
/// Implemented for every `Fn(Event) -> Fut` that is `Send + Sync + 'static`, where the
/// future's output is a [`CallbackOutput`]. There is nothing to implement by hand.
///
/// In a closure that uses `?`, name the error at the end: `Ok::<_, tower::BoxError>(())`. The
/// compiler cannot infer it there.
///
/// [`JobEvent`]: crate::JobEvent
#[diagnostic::on_unimplemented(
    message = "`{Self}` is no callback for a `{Event}`",
    label = "expected an async closure or `async fn` that takes a `{Event}`",
    note = "write `|event| async move {{ … }}`, or `async fn name(event: {Event})` and pass `name`",
    note = "it has to be `Send + Sync + 'static`: move clones of what it needs into it"
)]
pub trait Callback<Event, Fut>: Fn(Event) -> Fut + Send + Sync + 'static {}

impl<F, Event, Fut> Callback<Event, Fut> for F where F: Fn(Event) -> Fut + Send + Sync + 'static {}

/// A [`Callback`] that takes the application's state before the event.
///
/// Implemented for every `Fn(App, Event) -> Fut` that is `Send + Sync + 'static`; see
/// [`JobRouter::with_state`](crate::JobRouter::with_state).
#[diagnostic::on_unimplemented(
    message = "`{Self}` is no callback for a `{Event}` with state",
    label = "expected an async closure or `async fn` that takes `({App}, {Event})`",
    note = "write `async fn name(app: {App}, event: {Event})` and pass `name`",
    note = "it has to be `Send + Sync + 'static`"
)]
pub trait StateCallback<App, Event, Fut>: Fn(App, Event) -> Fut + Send + Sync + 'static {}

impl<F, App, Event, Fut> StateCallback<App, Event, Fut> for F where
    F: Fn(App, Event) -> Fut + Send + Sync + 'static
{
}

/// The future of a callback: `Send`, and it ends in a [`CallbackOutput`].
///
/// Implemented for every such future. It has to be `Send + 'static` because it runs on,
/// on whichever thread, when the sender hangs up.
#[diagnostic::on_unimplemented(
    message = "a job callback has to be async, and this one returns `{Self}`",
    label = "`{Self}` is no future that a callback can return",
    note = "write `async fn`, or `|event| async move {{ … }}`"
)]
pub trait CallbackFuture: Future<Output: CallbackOutput> + Send + 'static {}

impl<Fut> CallbackFuture for Fut where Fut: Future<Output: CallbackOutput> + Send + 'static {}

/// What a callback may return: `()`, or `Result<(), E>`; or nothing at all, as `todo!()` does.
///
/// `Ok` and `()` are success, and the delivery is acknowledged. `Err` is not: the answer
/// is 500, and MX delivers the event again. `E` is anything that converts into a boxed
/// error: an error type, `anyhow::Error`, `String`.
#[diagnostic::on_unimplemented(
    message = "a job callback returns `()` or `Result<(), E>`, not `{Self}`",
    label = "this callback ends in `{Self}`",
    note = "`E` is anything that is `Into<Box<dyn std::error::Error + Send + Sync>>`",
    note = "a `Box<dyn Error>` is not: write `Box<dyn Error + Send + Sync>`"
)]
pub trait CallbackOutput {
    /// The outcome, with the error boxed.
    ///
    /// # Errors
    ///
    /// The callback's own.
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
