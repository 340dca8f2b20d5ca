//! The response future: somebody else's, or a delivery's.

use std::fmt;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use http::{Request, Response};
use http_body::Body;
use pin_project_lite::pin_project;
use tower::{BoxError, Service};

use crate::options::Options;
use crate::pipeline::deliver::Deliver;
use crate::pipeline::respond::respond;
use crate::{Error, JobEvent, Receipt};

pin_project! {
    /// The response future of [`JobWebhook`](crate::JobWebhook) and
    /// [`JobWebhookEndpoint`](crate::JobWebhookEndpoint).
    ///
    /// # Cancellation
    ///
    /// As [`JobWebhookLayer`](crate::JobWebhookLayer) says.
    ///
    /// # Example
    ///
    /// ```
    /// use axum::body::Body;
    /// use http::Request;
    /// use mx_job_webhook::{Credentials, JobRouter, JobWebhookEndpoint};
    /// use tower::Service;
    ///
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// let mut endpoint = JobWebhookEndpoint::new(Credentials::bearer("a-token")?, JobRouter::new());
    /// let future = endpoint.call(Request::post("/").body(Body::empty())?); // a `ResponseFuture`
    /// assert_eq!(future.await?.status(), 401);
    /// # Ok(()) }
    /// ```
    #[must_use = "futures do nothing unless polled"]
    pub struct ResponseFuture<F, B, J> {
        #[pin]
        kind: Kind<F, B, J>,
    }
}

pin_project! {
    #[project = KindProjection]
    enum Kind<F, B, J> {
        Inner { #[pin] future: F },
        Delivery { #[pin] deliver: Deliver<B, J> },
    }
}

impl<F, B, J> ResponseFuture<F, B, J> {
    pub(crate) fn inner(future: F) -> Self {
        Self {
            kind: Kind::Inner { future },
        }
    }

    pub(crate) fn delivery(options: &Arc<Options<J>>, request: Request<B>) -> Self {
        Self {
            kind: Kind::Delivery {
                deliver: Deliver::start(options, request),
            },
        }
    }

    /// Refuses a request for what its head says, once its body is discarded.
    pub(crate) fn refusal(options: &Arc<Options<J>>, error: Error, request: Request<B>) -> Self {
        Self {
            kind: Kind::Delivery {
                deliver: Deliver::refuse(options, error, request),
            },
        }
    }
}

impl<F, E, B, J, ResBody> Future for ResponseFuture<F, B, J>
where
    F: Future<Output = Result<Response<ResBody>, E>>,
    B: Body,
    B::Error: Into<BoxError>,
    ResBody: Default,
    J: Service<JobEvent> + Clone,
    J::Response: Into<Receipt>,
    J::Error: Into<BoxError>,
    J::Future: Send + 'static,
{
    type Output = F::Output;

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        match self.project().kind.project() {
            KindProjection::Inner { future } => future.poll(context),
            KindProjection::Delivery { deliver } => {
                deliver.poll(context).map(|outcome| Ok(respond(outcome)))
            }
        }
    }
}

impl<F, B, J> fmt::Debug for ResponseFuture<F, B, J> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ResponseFuture").finish_non_exhaustive()
    }
}
