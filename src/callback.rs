//! What counts as a callback, and how one is stored.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use pin_project_lite::pin_project;
use tower::BoxError;

use crate::background::Delivery;
use crate::panic::{CatchDrop, CatchPanic, Panicked};
use crate::{Error, ErrorKind, Receipt};

/// A closure or `async fn` of one argument, such as a [`JobEvent`], that is async.
///
/// Written `|event| async move { … }`, or by name. An `async move |event| { … }` that
/// captures something is not enough of a function for Rust (`Fn`).
///
/// Implemented for every `Fn(Event) -> Fut` that is `Send + Sync + 'static`, where the
/// future's output is a [`CallbackOutput`]. There is nothing to implement by hand.
///
/// [`JobEvent`]: crate::JobEvent
///
/// # Example
///
/// ```
/// use mx_job_webhook::{JobEvent, JobRouter, Status};
///
/// async fn denied(event: JobEvent) -> Result<(), std::io::Error> {
///     println!("ask the user of {:?} for new credentials", event.member_guid);
///     Ok(())
/// }
///
/// let jobs = JobRouter::new()
///     .on_denied(denied)
///     .on_completed(|event| async move { println!("read the accounts of {}", event.guid) });
/// assert!(jobs.handles(&Status::Denied) && jobs.handles(&Status::Completed));
/// ```
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
///
/// # Example
///
/// ```
/// use mx_job_webhook::{JobEvent, JobRouter, Status};
///
/// #[derive(Clone)]
/// struct App;
///
/// async fn completed(_app: App, event: JobEvent) {
///     println!("read the accounts of {:?}", event.member_guid);
/// }
///
/// let jobs = JobRouter::with_state(App).on_completed(completed);
/// assert!(jobs.handles(&Status::Completed));
/// ```
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
///
/// # Example
///
/// ```
/// use mx_job_webhook::CallbackFuture;
///
/// fn is_one<Fut: CallbackFuture>(_: &Fut) -> bool { true }
///
/// assert!(is_one(&async { Err::<(), _>("the database is down") }));
/// ```
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
///
/// # Example
///
/// ```
/// use mx_job_webhook::CallbackOutput;
///
/// assert!(().into_result().is_ok());
/// assert!(Err::<(), _>("the database is down").into_result().is_err());
/// ```
#[diagnostic::on_unimplemented(
    message = "a job callback returns `()` or `Result<(), E>`, not `{Self}`",
    label = "this callback ends in `{Self}`",
    note = "`E` is anything that is `Into<Box<dyn std::error::Error + Send + Sync>>`"
)]
pub trait CallbackOutput {
    /// The outcome, with the error boxed.
    ///
    /// # Errors
    ///
    /// The callback's own.
    ///
    /// # Example
    ///
    /// ```
    /// use mx_job_webhook::CallbackOutput;
    ///
    /// let error = Err::<(), _>("the database is down").into_result().unwrap_err();
    /// assert_eq!(error.to_string(), "the database is down");
    /// ```
    fn into_result(self) -> Result<(), BoxError>;
}

impl CallbackOutput for () {
    fn into_result(self) -> Result<(), BoxError> {
        Ok(())
    }
}

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

/// The type of what never returns, `!`, which Rust names only as what a function returns: since
/// edition 2024, `async { todo!() }` ends in it.
pub(crate) type Never = <fn() -> ! as Returns>::Output;

#[allow(unreachable_pub, reason = "an impl for `Never` names it")]
pub trait Returns {
    type Output;
}

impl<T> Returns for fn() -> T {
    type Output = T;
}

/// A callback without its types: what it takes is all that is left to know.
pub(crate) type Erased<Event> = Arc<dyn Fn(Event) -> Delivery + Send + Sync>;

/// Stores a callback whose success is `receipt`.
pub(crate) fn erase<Event, F, Fut>(callback: F, receipt: Receipt) -> Erased<Event>
where
    F: Fn(Event) -> Fut + Send + Sync + 'static,
    Fut: CallbackFuture,
{
    let callback = CatchDrop::new(callback);
    Arc::new(move |event| {
        Box::pin(Running {
            callback: CatchPanic::start(|| callback(event), CallbackOutput::into_result),
            receipt,
        })
    })
}

pin_project! {
    /// A callback that runs. By hand, because an `async` block would copy the event, half a
    /// kilobyte that most callbacks' futures hold, once more.
    struct Running<Fut>
    where
        Fut: Future,
    {
        #[pin]
        callback: CatchPanic<Fut, Result<(), BoxError>>,
        receipt: Receipt,
    }
}

impl<Fut: CallbackFuture> Future for Running<Fut> {
    type Output = Result<Receipt, Error>;

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.project();
        this.callback.poll(context).map(|outcome| match outcome {
            Ok(Ok(())) => Ok(*this.receipt),
            Ok(Err(error)) => Err(Error::with_source(ErrorKind::CallbackFailed, error)),
            Err(Panicked) => Err(Error::new(ErrorKind::CallbackPanicked)),
        })
    }
}
