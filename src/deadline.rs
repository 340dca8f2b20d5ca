//! How long a sender may take, where there is a timer to tell.

use std::task::{Context, Poll};

/// How long authentication and the body may take together.
#[derive(Clone, Copy, Debug)]
#[cfg_attr(not(feature = "tokio"), derive(Default))]
pub(crate) struct ReadTimeout(#[cfg(feature = "tokio")] pub(crate) Option<std::time::Duration>);

#[cfg(feature = "tokio")]
impl Default for ReadTimeout {
    fn default() -> Self {
        Self(Some(std::time::Duration::from_secs(10)))
    }
}

/// A timer that starts when something has to be waited for, which a body that came with its head
/// never does.
#[derive(Default)]
pub(crate) struct Deadline {
    #[cfg(feature = "tokio")]
    sleep: Option<std::pin::Pin<Box<tokio::time::Sleep>>>,
}

impl Deadline {
    #[cfg(feature = "tokio")]
    pub(crate) fn poll(&mut self, timeout: ReadTimeout, context: &mut Context<'_>) -> Poll<()> {
        // Outside of a tokio runtime there is no timer, and without a timer no deadline.
        if self.sleep.is_none() && tokio::runtime::Handle::try_current().is_err() {
            return Poll::Pending;
        }
        let Some(timeout) = timeout.0 else {
            return Poll::Pending;
        };
        let sleep = self
            .sleep
            .get_or_insert_with(|| Box::pin(tokio::time::sleep(timeout)));
        sleep.as_mut().poll(context)
    }

    #[cfg(not(feature = "tokio"))]
    pub(crate) fn poll(&mut self, _: ReadTimeout, _: &mut Context<'_>) -> Poll<()> {
        Poll::Pending
    }
}
