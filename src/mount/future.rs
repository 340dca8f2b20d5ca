//! The response future: that of the service within, or that of a delivery.

use std::fmt;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use http::{Request, Response};
use http_body::Body;
use pin_project_lite::pin_project;
use tower::BoxError;

use crate::callback::JobService;
use crate::error::{Error, ErrorKind};
use crate::pipeline::{Answer, Deliver, Settings, respond};

pin_project! {
    /// The response future of the mounts.
    ///
    /// [`JobWebhook`](crate::JobWebhook) and [`JobWebhookService`](super::JobWebhookService) return
    /// it.
    ///
    /// # Cancellation
    ///
    /// See [`JobWebhook`](crate::JobWebhook#cancellation).
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

    pub(crate) fn delivery(settings: &Arc<Settings<J>>, request: Request<B>) -> Self {
        Self {
            kind: Kind::Delivery {
                deliver: Deliver::start(settings, request),
            },
        }
    }

    /// Refuses a request because of its head, once its body is discarded.
    pub(crate) fn refusal(settings: &Arc<Settings<J>>, error: Error, request: Request<B>) -> Self {
        Self {
            kind: Kind::Delivery {
                deliver: Deliver::refuse(settings, error, request),
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
    J: JobService,
{
    type Output = F::Output;

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        match self.project().kind.project() {
            KindProjection::Inner { future } => future.poll(context),
            KindProjection::Delivery { deliver } => {
                let answer = ready!(deliver.poll(context));
                Poll::Ready(Ok(respond(match answer {
                    Answer::Respond(outcome) => outcome,
                    // These mounts pass nothing on.
                    Answer::PassOn(_) => Err(Error::new(ErrorKind::UnexpectedWebhook)),
                })))
            }
        }
    }
}

impl<F, B, J> fmt::Debug for ResponseFuture<F, B, J> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ResponseFuture").finish_non_exhaustive()
    }
}
