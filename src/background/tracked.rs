//! The future of a callback, which outlives its caller.

use std::pin::Pin;
use std::task::{Context, Poll};

use super::{BackgroundTask, Permit};
use crate::util::catch_panic::drop_caught;

/// A future that holds a permit, and continues on the runtime if it is dropped before its end.
///
/// When a sender hangs up, the web server drops the future that answers it, and with it all that
/// this future awaits. Dropping a `Tracked` hands the rest to the runtime of its
/// [`Background`](super::Background), where it finishes, and drops its output. Without a runtime,
/// dropping it cancels the callback.
#[must_use = "futures do nothing unless polled"]
pub(crate) struct Tracked<F: Track>(Option<Running<F>>);

/// A future that the runtime can take over wherever it is.
pub(crate) trait Track: Future + Unpin + Send + 'static {}

impl<F: Future + Unpin + Send + 'static> Track for F {}

impl<F: Track> Tracked<F> {
    pub(crate) fn new(future: F, permit: Permit) -> Self {
        Self(Some(Running { future, permit }))
    }

    /// Returns the future, or `None` once it has ended.
    pub(crate) fn get_mut(&mut self) -> Option<&mut F> {
        self.0.as_mut().map(|running| &mut running.future)
    }

    /// Hands the future to the runtime now. Without a runtime, cancels it.
    pub(crate) fn detach(mut self) {
        self.take_and_detach();
    }

    fn take_and_detach(&mut self) {
        if let Some(running) = self.0.take() {
            let background = running.permit.background().clone();
            background.spawn_task(BackgroundTask::new(Box::pin(running)));
        }
    }
}

impl<F: Track> Future for Tracked<F> {
    type Output = F::Output;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<F::Output> {
        // The future is taken out before it is polled, so that one that unwinds is not detached.
        let Some(mut running) = self.0.take() else {
            panic!("`Tracked` was polled after it was ready");
        };
        let polled = running.poll_future(context);
        if polled.is_pending() {
            self.0 = Some(running);
        }
        polled
    }
}

impl<F: Track> Drop for Tracked<F> {
    fn drop(&mut self) {
        self.take_and_detach();
    }
}

/// A future and its permit. The permit returns after all destructors of the future have run.
struct Running<F> {
    // Dropped first, because its destructors may take time.
    future: F,
    permit: Permit,
}

impl<F: Track> Running<F> {
    fn poll_future(&mut self, context: &mut Context<'_>) -> Poll<F::Output> {
        let _entered = self.permit.enter();
        Pin::new(&mut self.future).poll(context)
    }
}

/// The detached future. Its output is dropped, because its delivery was answered or its sender
/// left.
impl<F: Track> Future for Running<F> {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<()> {
        self.poll_future(context).map(|output| {
            let _ = drop_caught(output);
        })
    }
}
