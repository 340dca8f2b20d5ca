//! What can be set, once for the layer and the terminal service.

use crate::callback::Erased;
use crate::deadline::Timeout;
use crate::failure::FailureHook;
use crate::panic::CatchDrop;
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
    pub(crate) jobs: CatchDrop<J>,
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
            jobs: CatchDrop::new(jobs),
        }
    }
}

/// The optional settings, as methods of a type that holds `options: Arc<Options<J>>`.
///
/// Of the type, for the examples: its name, the first arguments of its `new`, and how an axum router
/// takes it.
macro_rules! optional_settings {
    ($type:literal, $path:literal, $mount:literal) => {
        /// Sets how many bytes of body are read at most; 65,536 unless set.
        ///
        /// A longer body is answered 413, before any of it is read if its
        /// `Content-Length` says so. The documented sample has 545 bytes.
        ///
        /// # Example
        ///
        /// ```
        #[doc = concat!("use mx_job_webhook::{Credentials, JobRouter, ", $type, "};")]
        /// # use axum::{Router, body::Body}; use http::Request; use tower::ServiceExt;
        ///
        /// # #[tokio::main(flavor = "current_thread")]
        /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
        /// let jobs = JobRouter::new();
        #[doc = concat!("let webhooks = ", $type, "::new(", $path, "Credentials::unauthenticated(), jobs)")]
        ///     .with_body_limit(600);
        #[doc = concat!("let app: Router = Router::new().", $mount, ";")]
        ///
        /// let request = Request::post("/admin/webhooks").header("content-type", "application/json");
        /// let response = app.oneshot(request.body(Body::from(vec![b' '; 601]))?).await?;
        /// assert_eq!(response.status(), 413);
        /// # Ok(()) }
        /// ```
        #[must_use]
        pub fn with_body_limit(mut self, bytes: usize) -> Self {
            ::std::sync::Arc::make_mut(&mut self.options).limits.body = bytes;
            self
        }

        /// Sets how long authentication and the body may take together; 10 s unless set.
        ///
        /// A body that takes longer is answered 408, a closure that does
        /// ([`Credentials::verify`](crate::Credentials::verify)) 503. `None` disables the timeout.
        /// The time counts from when something first has to be waited for, by tokio's clock.
        /// Outside of a tokio runtime, and within one whose timers are disabled, there is no
        /// timeout. In the latter tokio's own panic, which says so, is caught, but the
        /// panic hook still sees it.
        ///
        /// # Example
        ///
        /// ```
        #[doc = concat!("use mx_job_webhook::{Credentials, JobRouter, ", $type, "};")]
        /// # use axum::{Router, body::Body}; use http::Request; use tower::ServiceExt;
        ///
        /// # #[tokio::main(flavor = "current_thread")]
        /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
        /// let jobs = JobRouter::new();
        /// let stuck = Credentials::verify(|_| std::future::pending::<bool>());
        #[doc = concat!("let webhooks = ", $type, "::new(", $path, "stuck, jobs)")]
        ///     .with_read_timeout(std::time::Duration::from_millis(10));
        #[doc = concat!("let app: Router = Router::new().", $mount, ";")]
        ///
        /// let response = app.oneshot(Request::post("/admin/webhooks").body(Body::empty())?).await?;
        /// assert_eq!(response.status(), 503);
        /// # Ok(()) }
        /// ```
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

        /// Sets how many bytes of a refused body are discarded at most; 1 MiB unless set.
        ///
        /// A refusal is decided before the body is read. A server that then answers with the
        /// body unread has to close the connection, and a client that is still writing, or a
        /// proxy that shares the connection with other requests, loses what was never refused.
        /// So the body is read first, and thrown away. A longer one is not, and the answer says
        /// `Connection: close` (HTTP/1.x). The same holds for a sender that waits for
        /// `100 Continue`: it is not asked for a body that nobody wants.
        ///
        /// Nothing of it is kept in memory, no callback's place is taken, and
        /// `with_discard_timeout` bounds the time. 0 turns it off: every refusal of a request
        /// with a body then closes the connection.
        ///
        /// # Example
        ///
        /// ```
        #[doc = concat!("use mx_job_webhook::{Credentials, JobRouter, ", $type, "};")]
        /// # use axum::{Router, body::Body}; use http::Request; use tower::ServiceExt;
        ///
        /// # #[tokio::main(flavor = "current_thread")]
        /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
        /// let jobs = JobRouter::new();
        #[doc = concat!("let webhooks = ", $type, "::new(", $path, "Credentials::bearer(\"a-token\")?, jobs)")]
        ///     .with_discard_limit(1_000);
        #[doc = concat!("let app: Router = Router::new().", $mount, ";")]
        ///
        /// for (length, connection) in [(1_000, None), (1_001, Some("close"))] {
        ///     let stranger = Request::post("/admin/webhooks").body(Body::from(vec![b' '; length]))?;
        ///     let answer = app.clone().oneshot(stranger).await?;
        ///     assert_eq!(answer.status(), 401);
        ///     assert_eq!(answer.headers().get("connection").map(|value| value.as_bytes()), connection.map(str::as_bytes));
        /// }
        /// # Ok(()) }
        /// ```
        #[must_use]
        pub fn with_discard_limit(mut self, bytes: u64) -> Self {
            ::std::sync::Arc::make_mut(&mut self.options).limits.discard = bytes;
            self
        }

        /// Sets how long a refused body may take to be discarded; 2 s unless set.
        ///
        /// It ends with the read timeout at the latest. Past it the answer goes out, and says
        /// `Connection: close` (HTTP/1.x). With `None` the read timeout alone bounds it. Where
        /// there is no timer, only what has already arrived is discarded.
        ///
        /// # Example
        ///
        /// ```
        #[doc = concat!("use mx_job_webhook::{Credentials, JobRouter, ", $type, "};")]
        /// # use axum::{Router, body::Body}; use http::Request; use tower::ServiceExt;
        ///
        /// # #[tokio::main(flavor = "current_thread")]
        /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
        /// use std::time::Duration;
        ///
        /// let jobs = JobRouter::new();
        #[doc = concat!("let webhooks = ", $type, "::new(", $path, "Credentials::bearer(\"a-token\")?, jobs)")]
        ///     .with_discard_timeout(Duration::from_millis(10));
        #[doc = concat!("let app: Router = Router::new().", $mount, ";")]
        ///
        /// let stranger = Request::post("/admin/webhooks").body(Body::from("in time"))?;
        /// let answer = app.oneshot(stranger).await?;
        /// assert_eq!(answer.status(), 401);
        /// assert!(!answer.headers().contains_key("connection")); // It stays open.
        /// # Ok(()) }
        /// ```
        #[cfg(feature = "tokio")]
        #[must_use]
        pub fn with_discard_timeout(
            mut self,
            timeout: impl Into<Option<::std::time::Duration>>,
        ) -> Self {
            ::std::sync::Arc::make_mut(&mut self.options)
                .limits
                .discard_timeout = $crate::deadline::Timeout(timeout.into());
            self
        }

        /// Sets how long the sender waits for the callback; as long as it takes unless set.
        ///
        /// Past it the answer is 503 with `Retry-After`, and the callback runs on. MX delivers
        /// the event again, and with [`DedupeLayer`](crate::DedupeLayer) that one is
        /// acknowledged once the callback has succeeded; without it, the callback runs again.
        ///
        /// The time counts from when the callback, or its readiness, first has to be waited
        /// for, by tokio's clock; without a timer there is no deadline, as for
        /// `with_read_timeout`. It passes on time whatever the callback does to its task's
        /// budget, but not while the callback blocks the thread. Keep it below what the sender
        /// and every proxy on the way wait; MX does not publish its own.
        ///
        /// # Example
        ///
        /// ```
        #[doc = concat!("use mx_job_webhook::{Background, Credentials, JobRouter, ", $type, "};")]
        /// # use axum::{Router, body::Body}; use http::Request; use tower::ServiceExt;
        ///
        /// # #[tokio::main(flavor = "current_thread")]
        /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
        /// use std::{future::pending, time::Duration};
        ///
        /// let background = Background::new();
        /// let jobs = JobRouter::new()
        ///     .on_completed(|_| tokio::time::sleep(Duration::from_millis(50)));
        #[doc = concat!("let webhooks = ", $type, "::new(", $path, "Credentials::unauthenticated(), jobs)")]
        ///     .with_background(background.clone())
        ///     .with_answer_deadline(Duration::from_millis(1));
        #[doc = concat!("let app: Router = Router::new().", $mount, ";")]
        ///
        /// let request = Request::post("/admin/webhooks").header("content-type", "application/json");
        /// let request = request.body(Body::from(r#"{"job": {"guid": "JOB-1", "status": 6}}"#))?;
        /// assert_eq!(app.oneshot(request).await?.status(), 503);
        /// assert_eq!(background.running(), 1);
        /// assert_eq!(background.drain(pending::<()>()).await, 0); // It finished.
        /// # Ok(()) }
        /// ```
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
        ///
        /// # Example
        ///
        /// ```
        #[doc = concat!("use mx_job_webhook::{Background, Credentials, JobRouter, ", $type, "};")]
        /// # use axum::{Router, body::Body}; use http::Request; use tower::ServiceExt;
        ///
        /// # #[tokio::main(flavor = "current_thread")]
        /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
        /// let background = Background::new();
        /// let jobs = JobRouter::new();
        #[doc = concat!("let webhooks = ", $type, "::new(", $path, "Credentials::unauthenticated(), jobs)")]
        ///     .with_background(background.clone());
        #[doc = concat!("let app: Router = Router::new().", $mount, ";")]
        ///
        /// background.drain(std::future::pending::<()>()).await; // What comes now comes too late.
        /// let request = Request::post("/admin/webhooks").header("content-type", "application/json");
        /// let request = request.body(Body::from(r#"{"job": {"guid": "JOB-1", "status": 6}}"#))?;
        /// assert_eq!(app.oneshot(request).await?.status(), 503);
        /// # Ok(()) }
        /// ```
        #[must_use]
        pub fn with_background(mut self, background: $crate::Background) -> Self {
            ::std::sync::Arc::make_mut(&mut self.options).background = background;
            self
        }

        /// Sets who is told of every delivery that fails, at whichever stage.
        ///
        /// Refusals, errors and panics of callbacks, callbacks that were cut short, a deadline
        /// that passed; also what fails after nobody waits for it any more. The closure is called where the delivery runs
        /// and must not block; what it needs time for it sends elsewhere. If it panics,
        /// nothing changes. What [`Failure`](crate::Failure) holds has no payload in it, but
        /// the error of a callback prints what the application made it print.
        ///
        /// # Example
        ///
        /// ```
        #[doc = concat!("use mx_job_webhook::{Credentials, ErrorKind, JobRouter, ", $type, "};")]
        /// # use axum::{Router, body::Body}; use http::Request; use tower::ServiceExt;
        ///
        /// # #[tokio::main(flavor = "current_thread")]
        /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
        /// let (sender, failures) = std::sync::mpsc::channel();
        /// let jobs = JobRouter::new();
        #[doc = concat!("let webhooks = ", $type, "::new(", $path, "Credentials::bearer(\"a-token\")?, jobs)")]
        ///     .on_error(move |failure| {
        ///         let _ = sender.send(failure.error().kind());
        ///     });
        #[doc = concat!("let app: Router = Router::new().", $mount, ";")]
        ///
        /// app.oneshot(Request::post("/admin/webhooks").body(Body::empty())?).await?;
        /// assert_eq!(failures.try_recv()?, ErrorKind::Unauthorized);
        /// # Ok(()) }
        /// ```
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
        ///
        /// # Example
        ///
        /// ```
        #[doc = concat!("use mx_job_webhook::{Credentials, JobRouter, ", $type, "};")]
        /// # use axum::{Router, body::Body}; use http::Request; use tower::ServiceExt;
        ///
        /// # #[tokio::main(flavor = "current_thread")]
        /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
        /// let jobs = JobRouter::new();
        #[doc = concat!("let webhooks = ", $type, "::new(", $path, "Credentials::unauthenticated(), jobs)")]
        ///     .on_undecodable(|undecodable| async move {
        ///         println!("kept, {} bytes: {}", undecodable.body().len(), undecodable.error());
        ///     });
        #[doc = concat!("let app: Router = Router::new().", $mount, ";")]
        ///
        /// let request = Request::post("/admin/webhooks").header("content-type", "application/json");
        /// let request = request.body(Body::from(r#"{"type": "BALANCE"}"#))?;
        /// assert_eq!(app.oneshot(request).await?.status(), 204);
        /// # Ok(()) }
        /// ```
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
