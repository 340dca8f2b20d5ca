//! What can be set, once for the layer and the terminal service.

use crate::callback::Erased;
use crate::pipeline::Limits;
use crate::{Credentials, Undecodable};

/// All that a delivery needs, shared by every clone of a service.
#[derive(Clone)]
pub(crate) struct Options<J> {
    pub(crate) credentials: Credentials,
    pub(crate) limits: Limits,
    pub(crate) on_undecodable: Option<Erased<Undecodable>>,
    pub(crate) jobs: J,
}

impl<J> Options<J> {
    pub(crate) fn new(credentials: Credentials, jobs: J) -> Self {
        Self {
            credentials,
            limits: Limits::default(),
            on_undecodable: None,
            jobs,
        }
    }
}

/// The optional settings, as methods of a type that holds `options: Arc<Options<J>>`.
macro_rules! optional_settings {
    () => {
        /// Sets how many bytes of body are read at most; 65,536 unless set.
        ///
        /// A longer body is answered 413, before any of it is read if its
        /// `Content-Length` says so. The documented sample has 545 bytes.
        #[must_use]
        pub fn with_body_limit(mut self, bytes: usize) -> Self {
            ::std::sync::Arc::make_mut(&mut self.options).limits.body = bytes;
            self
        }

        /// Sets how long authentication and the body may take together; 10 s unless set.
        ///
        /// A body that takes longer is answered 408, a closure that does
        /// ([`Credentials::verify`](crate::Credentials::verify)) 503. `None` waits for ever.
        /// The time counts from when something first has to be waited for, by tokio's clock.
        /// Outside of a tokio runtime there is no timeout, and one with its timers disabled
        /// panics unless this is `None`.
        #[cfg(feature = "tokio")]
        #[must_use]
        pub fn with_read_timeout(
            mut self,
            timeout: impl Into<Option<::std::time::Duration>>,
        ) -> Self {
            ::std::sync::Arc::make_mut(&mut self.options)
                .limits
                .read_timeout = $crate::pipeline::ReadTimeout(timeout.into());
            self
        }

        /// Sets who takes bodies that cannot be decoded, such as MX's other webhooks.
        ///
        /// If it succeeds the answer is 204, since MX would only resend the same bytes. If it
        /// fails, the answer is 500. Without it, it is 422, and MX's retries keep the event
        /// for about a day, while someone finds out.
        #[must_use]
        pub fn on_undecodable<F, Fut>(mut self, hook: F) -> Self
        where
            F: $crate::Callback<$crate::Undecodable, Fut>,
            Fut: $crate::CallbackFuture,
        {
            ::std::sync::Arc::make_mut(&mut self.options).on_undecodable =
                Some($crate::callback::erase(hook, $crate::Receipt::Undecodable));
            self
        }
    };
}
pub(crate) use optional_settings;
