//! Authenticate: may this sender deliver?
//!
//! Decided from the head of the request, before a byte of the body is read:
//! 1. Two `Authorization` headers are refused, whatever they say and whatever is accepted.
//! 2. With [`Credentials::unauthenticated`], anyone else may.
//! 3. A header that equals one of the secrets is accepted.
//! 4. If there are closures, the first that says yes decides; if none does and one failed, the
//!    answer is that it could not be told.
//! 5. Everything else is refused.
//!
//! Basic and bearer credentials cross the wire as they are: without TLS in front, anyone on the
//! way can read and reuse them.

use std::task::{Context, Poll, ready};

use http::header::AUTHORIZATION;
use http::{Extensions, HeaderMap, Request, Version};

use super::discard::Connection;
use crate::credentials::Credentials;
use crate::credentials::{Check, Verification};
use crate::error::{Challenges, Error, ErrorKind};
use crate::util::catch_panic::drop_caught;

/// A request whose sender may deliver. Nothing else makes one, and `buffer` takes nothing else.
pub(crate) struct Authenticated<B>(Head, B);

/// What is left of a request's head, the credentials taken out.
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
        Refused::without_head(error, connection, head, body)
    }
}

/// A request whose sender may not deliver: its body is of no use but to be discarded.
pub(crate) struct Refused<B> {
    pub(crate) error: Error,
    pub(crate) connection: Connection,
    pub(crate) body: B,
}

impl<B> Refused<B> {
    pub(crate) fn new(error: Error, request: Request<B>) -> Self {
        let (head, body) = request.into_parts();
        let connection = Connection::of(head.version, &head.headers);
        Self::without_head(error, connection, head, body)
    }

    /// What came with the request can panic when it is dropped.
    fn without_head<H>(error: Error, connection: Connection, head: H, body: B) -> Self {
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

/// Waits for the closures' verdict, and holds the request back until then.
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
        let Some(request) = self.request.take() else {
            panic!("`Authenticating` was polled after it was ready");
        };
        Poll::Ready(match verdict {
            Ok(true) => Ok(request),
            Ok(false) => Err(request.refused(Error::unauthorized(self.challenges))),
            Err(error) => Err(request.refused(error)),
        })
    }

    /// Gives up waiting.
    pub(crate) fn too_late(&mut self) -> Option<Refused<B>> {
        let error = Error::new(ErrorKind::AuthenticationUnavailable);
        self.request.take().map(|request| request.refused(error))
    }
}
