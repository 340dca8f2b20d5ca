//! The rest of a callback, as a task for the runtime.

use std::fmt;
use std::pin::Pin;
use std::task::{Context, Poll};

use crate::util::catch_panic::{catch, drop_caught};

/// The rest of a callback, for a runtime to poll to its end.
///
/// Polling it never panics. Dropping it cancels the callback, and never panics either. See
/// [`Background::with_spawn`](crate::Background::with_spawn).
#[must_use = "futures do nothing unless polled"]
pub struct BackgroundTask(Option<Task>);

type Task = Pin<Box<dyn Future<Output = ()> + Send>>;

impl BackgroundTask {
    pub(crate) fn new(task: Task) -> Self {
        Self(Some(task))
    }
}

impl Future for BackgroundTask {
    type Output = ();

    /// Polls the callback. Once it has ended, returns ready at once.
    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<()> {
        // The future is taken out before it is polled, so that one that unwinds is not polled
        // again.
        let Some(mut task) = self.0.take() else {
            return Poll::Ready(());
        };
        if let Ok(Poll::Pending) = catch(|| task.as_mut().poll(context)) {
            self.0 = Some(task);
            return Poll::Pending;
        }
        let _ = drop_caught(task);
        Poll::Ready(())
    }
}

impl Drop for BackgroundTask {
    fn drop(&mut self) {
        let _ = drop_caught(self.0.take());
    }
}

impl fmt::Debug for BackgroundTask {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("BackgroundTask").finish_non_exhaustive()
    }
}

#[cfg(feature = "tokio")]
pub(super) fn tokio_is_here() -> bool {
    tokio::runtime::Handle::try_current().is_ok()
}

#[cfg(feature = "tokio")]
pub(super) fn spawn_on_tokio(task: BackgroundTask) {
    if let Ok(runtime) = tokio::runtime::Handle::try_current() {
        runtime.spawn(task);
    }
}

#[cfg(not(feature = "tokio"))]
pub(super) fn tokio_is_here() -> bool {
    false
}

#[cfg(not(feature = "tokio"))]
pub(super) fn spawn_on_tokio(_: BackgroundTask) {}
