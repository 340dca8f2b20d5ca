//! The steps of a delivery; their alphabetical order is the order in which they are taken.

pub(crate) mod accept;
pub(crate) mod authenticate;
pub(crate) mod buffer;
pub(crate) mod decode;
pub(crate) mod deliver;
pub(crate) mod discard;
pub(crate) mod respond;

use std::mem::replace;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use http::Request;
use http_body::Body;
use pin_project_lite::pin_project;
use tower::BoxError;

use crate::deadline::{Deadline, Timeout};
use crate::panic::drop_caught;
use crate::{Credentials, Error, ErrorKind, JobEvent, Undecodable};
use authenticate::{Authenticated, Authenticating, Authentication, Head, Refused, authenticate};
use buffer::Buffer;
use discard::{Connection, Discard, closing};

/// How much a sender may take of the receiver.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Limits {
    /// Bytes of body.
    pub(crate) body: usize,
    pub(crate) read_timeout: Timeout,
    /// Bytes of a refused body.
    pub(crate) discard: u64,
    pub(crate) discard_timeout: Timeout,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            body: 64 * 1024,
            read_timeout: Timeout::READ,
            discard: 1024 * 1024,
            discard_timeout: Timeout::DISCARD,
        }
    }
}

/// How many frames of a body are read before the deadline is asked: one may always be there.
const FRAMES_AT_A_TIME: u32 = 64;

/// Why there is no event.
pub(crate) enum Refusal {
    Error(Error),
    Undecodable(Box<Undecodable>),
}

pin_project! {
    /// From request to event: authenticate, buffer, decode; or the refusal, once the body is
    /// discarded. What the layer, the terminal service and the extractor have in common.
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
        // The body stays where it is pinned, whether it is kept or discarded.
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
    /// Decides at once all that the head decides.
    pub(crate) fn start(credentials: &Credentials, limits: Limits, request: Request<B>) -> Self {
        let step = match authenticate(credentials, request) {
            Authentication::Accepted(request) => Step::buffer(request, limits),
            Authentication::Refused(refused) => Step::discard(refused, limits),
            Authentication::Undecided(authenticating) => Step::Authenticating { authenticating },
        };
        Self::new(step, limits)
    }

    /// Refuses a request for what its head says.
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
                            // What came with the request can panic when it is dropped.
                            let _ = drop_caught(buffered);
                            continue;
                        }
                        Poll::Ready(Err(error)) => {
                            return refused(closing(error, buffer.version()));
                        }
                        Poll::Pending => {
                            ready!(this.deadline.poll(limits.read_timeout, context));
                            // It has had its time.
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
