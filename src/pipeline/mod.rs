//! The steps of a delivery; their alphabetical order is the order in which they are taken.

pub(crate) mod accept;
pub(crate) mod authenticate;
pub(crate) mod buffer;
pub(crate) mod decode;
pub(crate) mod deliver;
pub(crate) mod respond;

use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use http::Request;
use http_body::Body;
use pin_project_lite::pin_project;
use tower::BoxError;

use crate::deadline::{Deadline, Timeout};
use crate::{Credentials, Error, ErrorKind, JobEvent, Undecodable};
use authenticate::{Authenticating, Authentication, Head, authenticate};
use buffer::Buffer;

/// How much a sender may take of the receiver.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Limits {
    /// Bytes of body.
    pub(crate) body: usize,
    pub(crate) read_timeout: Timeout,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            body: 64 * 1024,
            read_timeout: Timeout::READ,
        }
    }
}

/// Why there is no event.
pub(crate) enum Refusal {
    Error(Error),
    Undecodable(Box<Undecodable>),
}

pin_project! {
    /// From request to event: authenticate, buffer, decode. What the layer, the terminal
    /// service and the extractor have in common.
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
        Refused { error: Option<Error> },
        Authenticating { authenticating: Authenticating<B> },
        Buffering { #[pin] buffer: Buffer<B> },
    }
}

impl<B> Step<B> {
    fn buffer(request: authenticate::Authenticated<B>, limits: Limits) -> Self {
        match Buffer::start(request, limits.body) {
            Ok(buffer) => Self::Buffering { buffer },
            Err(error) => Self::Refused { error: Some(error) },
        }
    }
}

impl<B> Receive<B> {
    /// Decides at once all that the head decides.
    pub(crate) fn start(credentials: &Credentials, limits: Limits, request: Request<B>) -> Self {
        let step = match authenticate(credentials, request) {
            Authentication::Accepted(request) => Step::buffer(request, limits),
            Authentication::Refused(error) => Step::Refused { error: Some(error) },
            Authentication::Undecided(authenticating) => Step::Authenticating { authenticating },
        };
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
        loop {
            // What it would mean if the deadline passed in this step.
            let (poll, too_late) = match this.step.as_mut().project() {
                StepProjection::Refused { error } => {
                    let Some(error) = error.take() else {
                        panic!("`Receive` was polled after it was ready");
                    };
                    return Poll::Ready(Err(Refusal::Error(error)));
                }
                StepProjection::Authenticating { authenticating } => {
                    match Pin::new(authenticating).poll(context) {
                        Poll::Ready(Ok(request)) => {
                            this.step.set(Step::buffer(request, *this.limits));
                            continue;
                        }
                        Poll::Ready(Err(error)) => return Poll::Ready(Err(Refusal::Error(error))),
                        Poll::Pending => (Poll::Pending, ErrorKind::AuthenticationUnavailable),
                    }
                }
                StepProjection::Buffering { buffer } => {
                    (buffer.poll(context), ErrorKind::ReadTimeout)
                }
            };
            return match poll {
                Poll::Ready(Ok((head, body))) => Poll::Ready(decode(head, body)),
                Poll::Ready(Err(error)) => Poll::Ready(Err(Refusal::Error(error))),
                Poll::Pending => {
                    ready!(this.deadline.poll(this.limits.read_timeout, context));
                    Poll::Ready(Err(Refusal::Error(Error::new(too_late))))
                }
            };
        }
    }
}

fn decode(head: Head, body: Bytes) -> Result<JobEvent, Refusal> {
    match decode::decode(&body) {
        Ok(job) => Ok(JobEvent::new(job, body, head.headers, head.extensions)),
        Err(error) => Err(Refusal::Undecodable(Box::new(Undecodable::new(
            error,
            body,
            head.headers,
            head.extensions,
        )))),
    }
}
