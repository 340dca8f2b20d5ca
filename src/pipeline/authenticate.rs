//! Authenticate: decides whether the sender may deliver.
//!
//! The decision is made from the head of the request, before its body is read:
//! 1. A request with two `Authorization` headers is refused, whatever the credentials.
//! 2. [`Credentials::unauthenticated`] accepts every other request.
//! 3. A header that equals one of the secrets is accepted.
//! 4. If one of the closures accepts the request, it is accepted. If none does and one of them
//!    failed, the answer is 503, because the credentials could not be checked.
//! 5. All other requests are refused. If a closure called the request's bearer token invalid, the
//!    challenge says so.
//!
//! Basic and bearer credentials are sent unencrypted. Without TLS, anyone on the way can read and
//! reuse them.

use std::task::{Context, Poll, ready};

use http::header::AUTHORIZATION;
use http::{Extensions, HeaderMap, Request, Version};

use super::discard::Connection;
use crate::credentials::Credentials;
use crate::credentials::{Check, Verification};
use crate::error::{Challenges, Error, ErrorKind};
use crate::util::catch_panic::drop_caught;

/// A request whose sender may deliver. Only this module creates it, and `buffer` takes nothing
/// else.
pub(crate) struct Authenticated<B>(Head, B);

/// The head of a request, without its credentials.
pub(crate) struct Head {
    pub(crate) version: Version,
    pub(crate) headers: HeaderMap,
    pub(crate) extensions: Extensions,
}

impl<B> Authenticated<B> {
    pub(crate) fn into_parts(self) -> (Head, B) {
        (self.0, self.1)
    }

    pub(crate) fn headers(&self) -> &HeaderMap {
        &self.0.headers
    }

    pub(crate) fn refused(self, error: Error) -> Refused<B> {
        let Self(head, body) = self;
        let connection = Connection::of(head.version, &head.headers);
        Refused::drop_head(error, connection, head, body)
    }
}

/// A refused request, whose body can only be discarded.
pub(crate) struct Refused<B> {
    pub(crate) error: Error,
    pub(crate) connection: Connection,
    pub(crate) body: B,
}

impl<B> Refused<B> {
    pub(crate) fn new(error: Error, request: Request<B>) -> Self {
        let (head, body) = request.into_parts();
        let connection = Connection::of(head.version, &head.headers);
        Self::drop_head(error, connection, head, body)
    }

    /// Drops the head. Extensions and headers of the request may panic when they are dropped.
    fn drop_head<H>(error: Error, connection: Connection, head: H, body: B) -> Self {
        let _ = drop_caught(head);
        Self {
            error,
            connection,
            body,
        }
    }
}

pub(crate) enum Authentication<B> {
    Accepted(Authenticated<B>),
    Refused(Refused<B>),
    Undecided(Authenticating<B>),
}

pub(crate) fn authenticate<B>(credentials: &Credentials, request: Request<B>) -> Authentication<B> {
    let (mut head, body) = request.into_parts();
    let check = credentials.check(&head);
    if let Check::Refused(challenges) = check {
        let request = Request::from_parts(head, body);
        return Authentication::Refused(Refused::new(Error::unauthorized(challenges), request));
    }
    let _ = drop_caught(head.headers.remove(AUTHORIZATION));
    let head = Head {
        version: head.version,
        headers: head.headers,
        extensions: head.extensions,
    };
    let request = Authenticated(head, body);
    match check {
        Check::Undecided(verification, challenges) => Authentication::Undecided(Authenticating {
            verification,
            request: Some(request),
            challenges,
        }),
        _ => Authentication::Accepted(request),
    }
}

/// A request that waits for the verdict of the closures.
pub(crate) struct Authenticating<B> {
    verification: Verification,
    request: Option<Authenticated<B>>,
    challenges: Challenges,
}

impl<B> Authenticating<B> {
    pub(crate) fn poll(
        &mut self,
        context: &mut Context<'_>,
    ) -> Poll<Result<Authenticated<B>, Refused<B>>> {
        let verdict = ready!(self.verification.as_mut().poll(context));
        let request = self.take_request();
        Poll::Ready(match verdict {
            Ok(true) => Ok(request),
            Ok(false) => Err(request.refused(Error::unauthorized(self.challenges))),
            Err(error) => Err(request.refused(error.that_offers(self.challenges))),
        })
    }

    /// Refuses the request, because the verdict took too long.
    pub(crate) fn time_out(&mut self) -> Refused<B> {
        let error = Error::new(ErrorKind::AuthenticationUnavailable);
        self.take_request().refused(error)
    }

    fn take_request(&mut self) -> Authenticated<B> {
        let Some(request) = self.request.take() else {
            panic!("`Authenticating` was polled after it was ready");
        };
        request
    }
}
