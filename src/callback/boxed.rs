//! Boxed callbacks: the form in which callbacks are stored.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use pin_project_lite::pin_project;
use tower::BoxError;

use super::{CallbackFuture, CallbackOutput, JobFuture};
use crate::error::{Error, ErrorKind, Receipt};
use crate::util::catch_panic::{CatchDrop, CatchPanic, Panicked};

/// A callback whose types are erased, except for its argument.
pub(crate) type BoxedCallback<Event> = Arc<dyn Fn(Event) -> JobFuture + Send + Sync>;

/// Boxes a callback that returns `receipt` when it succeeds.
pub(crate) fn box_callback<Event, F, Fut>(callback: F, receipt: Receipt) -> BoxedCallback<Event>
where
    F: Fn(Event) -> Fut + Send + Sync + 'static,
    Fut: CallbackFuture,
{
    let callback = CatchDrop::new(callback);
    Arc::new(move |event| {
        JobFuture::new(Running {
            callback: CatchPanic::start(|| callback(event), CallbackOutput::into_result),
            receipt,
        })
    })
}

pin_project! {
    /// A running callback. It is not an `async` block, because that would copy the callback's
    /// future once more, and with it the event: half a kilobyte.
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
