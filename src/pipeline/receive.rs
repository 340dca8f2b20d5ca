//! Receive: drives a request through the steps to its event.

use std::mem::replace;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use http::Request;
use http_body::Body;
use pin_project_lite::pin_project;
use tower::BoxError;

use super::Limits;
use super::authenticate::{
    Authenticated, Authenticating, Authentication, Head, Refused, authenticate,
};
use super::buffer::Buffer;
use super::decode::decode;
use super::discard::{Connection, Discard, closing};
use crate::credentials::Credentials;
use crate::error::{Error, ErrorKind};
use crate::event::{JobEvent, OtherWebhook, Undecodable};
use crate::util::catch_panic::drop_caught;
use crate::util::deadline::Deadline;

/// The reason why a request yields no event.
pub(crate) enum Refusal {
    Error(Error),
    Undecodable(Box<Undecodable>),
    /// It is refused with the error unless a hook or the service within takes it.
    OtherWebhook(Box<OtherWebhook>, Error),
}

#[cfg(feature = "axum")]
impl Refusal {
    pub(crate) fn error(&self) -> &Error {
        match self {
            Self::Error(error) | Self::OtherWebhook(_, error) => error,
            Self::Undecodable(undecodable) => undecodable.error(),
        }
    }
}

pin_project! {
    /// The future from request to event: authenticate, buffer, decode. It returns a refusal once
    /// the body is discarded.
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
        // The body stays pinned here while it is buffered or discarded.
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
    /// Starts with the step that the head of the request decides.
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
                    let verdict = poll_verdict(authenticating, limits, this.deadline, context);
                    match ready!(verdict) {
                        Ok(request) => Step::buffer(request, limits),
                        Err(refused) => Step::discard(refused, limits),
                    }
                }
                StepProjection::Reading { body, reading } => {
                    return reading.poll(body, limits, this.deadline, context);
                }
            };
            this.step.set(next);
        }
    }
}

/// Waits for the verdict of the closures, up to the read timeout.
fn poll_verdict<B>(
    authenticating: &mut Authenticating<B>,
    limits: Limits,
    deadline: &mut Deadline,
    context: &mut Context<'_>,
) -> Poll<Result<Authenticated<B>, Refused<B>>> {
    if let Poll::Ready(verdict) = authenticating.poll(context) {
        return Poll::Ready(verdict);
    }
    ready!(deadline.poll(limits.read_timeout, context));
    Poll::Ready(Err(authenticating.time_out()))
}

impl Reading {
    fn poll<B>(
        &mut self,
        mut body: Pin<&mut B>,
        limits: Limits,
        deadline: &mut Deadline,
        context: &mut Context<'_>,
    ) -> Poll<Result<JobEvent, Refusal>>
    where
        B: Body,
        B::Error: Into<BoxError>,
    {
        loop {
            match self {
                Self::Discard(discard) => {
                    let error = ready!(discard.poll(body, limits, deadline, context));
                    return refused(error);
                }
                Self::Buffer(buffer) => {
                    let read = poll_buffer(buffer, body.as_mut(), limits, deadline, context);
                    let error = match ready!(read) {
                        Ok((head, body)) => return Poll::Ready(decode(head, body)),
                        Err(error) => error,
                    };
                    if error.kind() != ErrorKind::BodyTooLarge {
                        return refused(closing(error, buffer.version()));
                    }
                    let connection = Connection::after_reading(buffer.version());
                    let discard = Discard::start(error, connection, limits);
                    // The request's parts may panic when they are dropped.
                    let _ = drop_caught(replace(self, Self::Discard(discard)));
                }
            }
        }
    }
}

/// Reads the body into the buffer, up to the read timeout.
fn poll_buffer<B>(
    buffer: &mut Buffer,
    body: Pin<&mut B>,
    limits: Limits,
    deadline: &mut Deadline,
    context: &mut Context<'_>,
) -> Poll<Result<(Head, Bytes), Error>>
where
    B: Body,
    B::Error: Into<BoxError>,
{
    if let Poll::Ready(buffered) = buffer.poll_caught(body, context) {
        return Poll::Ready(buffered);
    }
    ready!(deadline.poll(limits.read_timeout, context));
    Poll::Ready(Err(Error::new(ErrorKind::ReadTimeout)))
}

fn refused(error: Error) -> Poll<Result<JobEvent, Refusal>> {
    Poll::Ready(Err(Refusal::Error(error)))
}
