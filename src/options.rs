//! What can be set, once for the layer and the terminal service.

use crate::callback::Erased;
use crate::deadline::Timeout;
use crate::failure::FailureHook;
use crate::pipeline::Limits;
use crate::{Background, Credentials, Undecodable};

/// All that a delivery needs, shared by every clone of a service.
#[derive(Clone)]
pub(crate) struct Options<J> {
    pub(crate) credentials: Credentials,
    pub(crate) limits: Limits,
    pub(crate) answer_deadline: Timeout,
    pub(crate) background: Background,
    pub(crate) on_undecodable: Option<Erased<Undecodable>>,
    pub(crate) on_error: Option<FailureHook>,
    pub(crate) jobs: J,
}

impl<J> Options<J> {
    pub(crate) fn new(credentials: Credentials, jobs: J) -> Self {
        Self {
            credentials,
            limits: Limits::default(),
            answer_deadline: Timeout::NONE,
            background: Background::new(),
            on_undecodable: None,
            on_error: None,
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
                .read_timeout = $crate::deadline::Timeout(timeout.into());
            self
        }

        /// Sets how long the sender waits for the callback; as long as it takes unless set.
        ///
        /// Past it the answer is 503 with `Retry-After`, and the callback runs on. MX delivers
        /// the event again, and with [`DedupeLayer`](crate::DedupeLayer) that one is
        /// acknowledged once the callback has succeeded; without it, the callback runs again.
        ///
        /// The time counts from when the callback, or its readiness, first has to be waited
        /// for, by tokio's clock. Keep it below what the sender and every proxy on the way
        /// wait; MX does not publish its own.
        #[cfg(feature = "tokio")]
        #[must_use]
        pub fn with_answer_deadline(
            mut self,
            deadline: impl Into<Option<::std::time::Duration>>,
        ) -> Self {
            ::std::sync::Arc::make_mut(&mut self.options).answer_deadline =
                $crate::deadline::Timeout(deadline.into());
            self
        }

        /// Sets where callbacks run on, to wait for them at shutdown.
        #[must_use]
        pub fn with_background(mut self, background: $crate::Background) -> Self {
            ::std::sync::Arc::make_mut(&mut self.options).background = background;
            self
        }

        /// Sets who is told of every delivery that fails, at whichever stage.
        ///
        /// Refusals, errors and panics of callbacks, a deadline that passed; also what fails
        /// after nobody waits for it any more. The closure is called where the delivery runs
        /// and must not block; what it needs time for it sends elsewhere. If it panics,
        /// nothing changes. What [`Failure`](crate::Failure) holds has no payload in it, but
        /// the error of a callback prints what the application made it print.
        #[must_use]
        pub fn on_error<F>(mut self, hook: F) -> Self
        where
            F: Fn($crate::Failure<'_>) + Send + Sync + 'static,
        {
            ::std::sync::Arc::make_mut(&mut self.options).on_error =
                Some($crate::failure::FailureHook::new(hook));
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
