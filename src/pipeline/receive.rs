//! Receive: the steps from a request to its event.

use std::mem::replace;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use http::Request;
use http_body::Body;
use pin_project_lite::pin_project;
use tower::BoxError;

use super::Limits;
use super::authenticate::{Authenticated, Authenticating, Authentication, Refused, authenticate};
use super::buffer::Buffer;
use super::decode::decode;
use super::discard::{Connection, Discard, closing};
use crate::credentials::Credentials;
use crate::error::{Error, ErrorKind};
use crate::event::{JobEvent, Undecodable};
use crate::util::catch_panic::drop_caught;
use crate::util::deadline::Deadline;

/// Why there is no event.
pub(crate) enum Refusal {
    Error(Error),
    Undecodable(Box<Undecodable>),
}

pin_project! {
    /// From request to event: authenticate, buffer, decode. A refusal is ready once the body is
    /// discarded.
    pub(crate) struct Receive<B> {
        #[pin]
        step: Step<B>,
        limits: Limits,
        deadline: Deadline,
    }
}

pin_project! {
    #[project = StepProjection]
    enum Step<B> {
        Authenticating { authenticating: Authenticating<B> },
        // The body stays pinned here, whether it is kept or discarded.
        Reading { #[pin] body: B, reading: Reading },
    }
}

enum Reading {
    Buffer(Buffer),
    Discard(Discard),
}

impl<B> Step<B> {
    fn buffer(request: Authenticated<B>, limits: Limits) -> Self {
        match Buffer::start(request, limits.body) {
            Ok((body, buffer)) => Self::Reading {
                body,
                reading: Reading::Buffer(buffer),
            },
            Err(refused) => Self::discard(refused, limits),
        }
    }

    fn discard(refused: Refused<B>, limits: Limits) -> Self {
        let Refused {
            error,
            connection,
            body,
        } = refused;
        Self::Reading {
            body,
            reading: Reading::Discard(Discard::start(error, connection, limits)),
        }
    }
}

impl<B> Receive<B> {
    /// Starts with what the head of the request decides.
    pub(crate) fn start(credentials: &Credentials, limits: Limits, request: Request<B>) -> Self {
        let step = match authenticate(credentials, request) {
            Authentication::Accepted(request) => Step::buffer(request, limits),
            Authentication::Refused(refused) => Step::discard(refused, limits),
            Authentication::Undecided(authenticating) => Step::Authenticating { authenticating },
        };
        Self::new(step, limits)
    }

    /// Refuses a request because of its head.
    pub(crate) fn refuse(error: Error, limits: Limits, request: Request<B>) -> Self {
        Self::new(Step::discard(Refused::new(error, request), limits), limits)
    }

    fn new(step: Step<B>, limits: Limits) -> Self {
        Self {
            step,
            limits,
            deadline: Deadline::default(),
        }
    }
}

impl<B> Future for Receive<B>
where
    B: Body,
    B::Error: Into<BoxError>,
{
    type Output = Result<JobEvent, Refusal>;

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        let mut this = self.project();
        let limits = *this.limits;
        loop {
            let next = match this.step.as_mut().project() {
                StepProjection::Authenticating { authenticating } => {
                    match authenticating.poll(context) {
                        Poll::Ready(Ok(request)) => Step::buffer(request, limits),
                        Poll::Ready(Err(refused)) => Step::discard(refused, limits),
                        Poll::Pending => {
                            ready!(this.deadline.poll(limits.read_timeout, context));
                            match authenticating.too_late() {
                                Some(refused) => Step::discard(refused, limits),
                                None => panic!("`Receive` was polled after it was ready"),
                            }
                        }
                    }
                }
                StepProjection::Reading { body, reading } => match reading {
                    Reading::Discard(discard) => {
                        let error = ready!(discard.poll(body, limits, this.deadline, context));
                        return refused(error);
                    }
                    Reading::Buffer(buffer) => match buffer.poll_caught(body, context) {
                        Poll::Ready(Ok((head, body))) => return Poll::Ready(decode(head, body)),
                        Poll::Ready(Err(error)) if error.kind() == ErrorKind::BodyTooLarge => {
                            let connection = Connection::after_some_of_the_body(buffer.version());
                            let discard = Discard::start(error, connection, limits);
                            let buffered = replace(reading, Reading::Discard(discard));
                            // The request's parts may panic when they are dropped.
                            let _ = drop_caught(buffered);
                            continue;
                        }
                        Poll::Ready(Err(error)) => {
                            return refused(closing(error, buffer.version()));
                        }
                        Poll::Pending => {
                            ready!(this.deadline.poll(limits.read_timeout, context));
                            let error = Error::new(ErrorKind::ReadTimeout);
                            return refused(closing(error, buffer.version()));
                        }
                    },
                },
            };
            this.step.set(next);
        }
    }
}

fn refused(error: Error) -> Poll<Result<JobEvent, Refusal>> {
    Poll::Ready(Err(Refusal::Error(error)))
}
