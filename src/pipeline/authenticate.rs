//! Authenticate: may this sender deliver?
//!
//! Decided from the head of the request, before a byte of the body is read:
//! 1. With [`Credentials::unauthenticated`], anyone may.
//! 2. Two `Authorization` headers are refused, whatever they say.
//! 3. A header that equals one of the secrets is accepted.
//! 4. If there are closures, the first that says yes decides; if none does and one failed, the
//!    answer is that it could not be told.
//! 5. Everything else is refused.
//!
//! Basic and bearer credentials cross the wire as they are: without TLS in front, anyone on the
//! way can read and reuse them.

use std::pin::Pin;
use std::task::{Context, Poll, ready};

use http::header::AUTHORIZATION;
use http::{Extensions, HeaderMap, Request};

use crate::credentials::{Challenges, Check, Verification};
use crate::{Credentials, Error, ErrorKind};

/// A request whose sender may deliver. Nothing else makes one, and `buffer` takes nothing else.
pub(crate) struct Authenticated<B>(Head, B);

/// What is left of a request's head, the credentials taken out.
pub(crate) struct Head {
    pub(crate) headers: HeaderMap,
    pub(crate) extensions: Extensions,
}

impl<B> Authenticated<B> {
    pub(crate) fn into_parts(self) -> (Head, B) {
        (self.0, self.1)
    }
}

pub(crate) enum Authentication<B> {
    Accepted(Authenticated<B>),
    Refused(Error),
    Undecided(Authenticating<B>),
}

pub(crate) fn authenticate<B>(credentials: &Credentials, request: Request<B>) -> Authentication<B> {
    let (mut head, body) = request.into_parts();
    let check = credentials.check(&head);
    if matches!(check, Check::Refused) {
        return Authentication::Refused(Error::unauthorized(credentials.challenges()));
    }
    head.headers.remove(AUTHORIZATION);
    let head = Head {
        headers: head.headers,
        extensions: head.extensions,
    };
    let request = Authenticated(head, body);
    match check {
        Check::Undecided(verification) => Authentication::Undecided(Authenticating {
            verification,
            request: Some(request),
            challenges: credentials.challenges(),
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

// The body is not pinned here: it moves on to `buffer`, which pins it.
impl<B> Unpin for Authenticating<B> {}

impl<B> Future for Authenticating<B> {
    type Output = Result<Authenticated<B>, Error>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        let verdict = ready!(self.verification.as_mut().poll(context));
        Poll::Ready(match (verdict, self.request.take()) {
            (Ok(true), Some(request)) => Ok(request),
            (Ok(_), _) => Err(Error::unauthorized(self.challenges)),
            (Err(error), _) => Err(Error::with_source(
                ErrorKind::AuthenticationUnavailable,
                error,
            )),
        })
    }
}
