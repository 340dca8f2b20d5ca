//! Deliver: the event goes into the `Service<JobEvent>`, once it is ready for one.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use http::Request;
use http_body::Body;
use pin_project_lite::pin_project;
use tower::{BoxError, Service};

use super::{Receive, Refusal};
use crate::background::RunOn;
use crate::options::Options;
use crate::panic::{CatchPanic, Panicked, catch};
use crate::{Error, ErrorKind, JobEvent, Receipt};

pin_project! {
    /// From request to receipt.
    ///
    /// Dropped before the callback is called, it leaves nothing behind and the event unread;
    /// dropped after, the callback runs on ([`RunOn`]).
    #[project = DeliverProjection]
    pub(crate) enum Deliver<B, J> {
        Receiving { #[pin] receive: Receive<B>, options: Arc<Options<J>> },
        // Boxed because it is rare, and would make every future of the layer larger.
        AwaitingReadiness { waiting: Option<Box<(J, JobEvent)>> },
        Calling { call: RunOn },
    }
}

impl<B, J> Deliver<B, J> {
    pub(crate) fn start(options: &Arc<Options<J>>, request: Request<B>) -> Self {
        Self::Receiving {
            receive: Receive::start(&options.credentials, options.limits, request),
            options: options.clone(),
        }
    }
}

impl<B, J> Future for Deliver<B, J>
where
    B: Body,
    B::Error: Into<BoxError>,
    J: Service<JobEvent> + Clone,
    J::Response: Into<Receipt>,
    J::Error: Into<BoxError>,
    J::Future: Send + 'static,
{
    type Output = Result<Receipt, Error>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        loop {
            let next = match self.as_mut().project() {
                DeliverProjection::Receiving { receive, options } => {
                    match ready!(receive.poll(context)) {
                        // The clone is fresh: it has reserved nothing, and is made ready before
                        // it is called. The original is never called.
                        Ok(event) => match catch(|| options.jobs.clone()) {
                            Ok(jobs) => begin(jobs, event, context)?,
                            Err(Panicked) => return Poll::Ready(Err(panicked())),
                        },
                        Err(Refusal::Error(error)) => return Poll::Ready(Err(error)),
                        Err(Refusal::Undecodable(undecodable)) => match &options.on_undecodable {
                            Some(hook) => Self::Calling {
                                call: RunOn::running(hook(*undecodable)),
                            },
                            None => return Poll::Ready(Err(undecodable.error().clone())),
                        },
                    }
                }
                DeliverProjection::AwaitingReadiness { waiting } => {
                    let Some((jobs, _)) = waiting.as_deref_mut() else {
                        panic!("`Deliver` was polled after it was ready");
                    };
                    ready!(poll_ready(jobs, context))?;
                    let Some(ready) = waiting.take() else {
                        continue;
                    };
                    let (jobs, event) = *ready;
                    Self::Calling {
                        call: call(jobs, event),
                    }
                }
                DeliverProjection::Calling { call } => return Pin::new(call).poll(context),
            };
            self.set(next);
        }
    }
}

fn begin<B, J>(
    mut jobs: J,
    event: JobEvent,
    context: &mut Context<'_>,
) -> Result<Deliver<B, J>, Error>
where
    J: Service<JobEvent>,
    J::Response: Into<Receipt>,
    J::Error: Into<BoxError>,
    J::Future: Send + 'static,
{
    Ok(match poll_ready(&mut jobs, context)? {
        Poll::Ready(()) => Deliver::Calling {
            call: call(jobs, event),
        },
        Poll::Pending => Deliver::AwaitingReadiness {
            waiting: Some(Box::new((jobs, event))),
        },
    })
}

fn poll_ready<J>(jobs: &mut J, context: &mut Context<'_>) -> Poll<Result<(), Error>>
where
    J: Service<JobEvent>,
    J::Error: Into<BoxError>,
{
    match catch(|| jobs.poll_ready(context)) {
        Ok(poll) => poll.map_err(|error| Error::from_readiness(error.into())),
        Err(Panicked) => Poll::Ready(Err(panicked())),
    }
}

fn call<J>(mut jobs: J, event: JobEvent) -> RunOn
where
    J: Service<JobEvent>,
    J::Response: Into<Receipt>,
    J::Error: Into<BoxError>,
    J::Future: Send + 'static,
{
    let running = CatchPanic::start(|| jobs.call(event));
    RunOn::running(Box::pin(async move {
        match running.await {
            Ok(Ok(response)) => Ok(response.into()),
            Ok(Err(error)) => Err(Error::from(error.into())),
            Err(Panicked) => Err(panicked()),
        }
    }))
}

fn panicked() -> Error {
    Error::new(ErrorKind::CallbackPanicked)
}
