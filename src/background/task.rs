//! What is handed to the runtime.

use std::fmt;
use std::pin::Pin;
use std::task::{Context, Poll};

/// The rest of a callback, for a runtime to poll to its end.
///
/// It never panics. Dropping it cancels the callback. See
/// [`Background::with_spawn`](crate::Background::with_spawn).
///
/// # Example
///
/// ```
/// use mx_job_webhook::{Background, BackgroundTask};
///
/// fn spawn(task: BackgroundTask) {
///     std::thread::spawn(|| {
///         let runtime = tokio::runtime::Builder::new_current_thread().build();
///         runtime.map(|runtime| runtime.block_on(task))
///     });
/// }
///
/// let background = Background::new().with_spawn(spawn);
/// assert_eq!(background.running(), 0);
/// ```
#[must_use = "futures do nothing unless polled"]
pub struct BackgroundTask(Pin<Box<dyn Future<Output = ()> + Send>>);

impl BackgroundTask {
    pub(crate) fn new(task: Pin<Box<dyn Future<Output = ()> + Send>>) -> Self {
        Self(task)
    }
}

impl Future for BackgroundTask {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<()> {
        self.0.as_mut().poll(context)
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
pub(super) fn spawn_on_tokio(task: BackgroundTask) {
    drop(task);
}
