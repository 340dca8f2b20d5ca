//! The mistakes of a mount, in words.

use std::fmt;

use http::{Method, StatusCode};

use super::Difference;
use crate::error::Error;
use crate::testing::Answer;

/// A mistake in the mount of an application, with its remedy.
///
/// [`Mx::check_mount`](crate::testing::Mx::check_mount) returns it. `Display` and `Debug` print the
/// same sentences, which are for a person and may change.
pub struct MountError(String);

impl MountError {
    pub(super) fn new(path: &str, mistake: &Mistake) -> Self {
        Self(mistake.sentences(path))
    }
}

impl fmt::Display for MountError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// By hand, so that `unwrap` prints the sentences.
impl fmt::Debug for MountError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for MountError {}

pub(super) enum Mistake {
    AnswerChanged(Answer),
    AnsweredByAnother(StatusCode),
    AnsweredInFront(StatusCode),
    AnyCredentialsAccepted,
    BodyChanged,
    BodyCut,
    BodyLimitInFront,
    CredentialsRefused {
        sent: bool,
    },
    ErrorChanged(Answer),
    MethodNotAllowed,
    NoAnswer(Answer),
    NoCredentialsNeeded,
    NotFound,
    OtherMethodsAccepted(Method),
    OtherPath {
        path: String,
        difference: Difference,
    },
    OtherPathsAccepted,
    OwnBodyLimit,
    Refused(Error),
    RefusedInFront(StatusCode),
}

impl Mistake {
    fn sentences(&self, mx: &str) -> String {
        match self {
            Self::OtherPath { path, difference } => {
                let advice = difference.advice(mx);
                format!(
                    "the application receives deliveries at `{path}`, but this `Mx` delivers to \
                     `{mx}`: {advice}"
                )
            }
            Self::NotFound => format!(
                "nothing receives `POST {mx}`: a router answers 404. Either there is no mount, or \
                 the path of `Mx::new` is not that of `.at`; the prefix of a nested router is part \
                 of MX's path. Or the layer is not reached, because it is a `route_layer` or on a \
                 nested router, which see only requests for their own routes: add it with \
                 `.layer(webhooks.at({mx:?}))` to the outermost router, or use `route_service` in \
                 the nested one"
            ),
            Self::MethodNotAllowed => format!(
                "a route of the application takes `{mx}`, but not by POST: it answers 405. Mount \
                 the webhooks with `.layer` on the outermost router, after that route, with \
                 `route_service`, or as a handler with `post`"
            ),
            Self::AnsweredByAnother(status) => format!(
                "another part of the application answers `POST {mx}` with {}, which MX takes for a \
                 receipt, so the event can be lost. Add the layer last, after every route, fallback \
                 and merged router. If it is your own handler, return `Receipt` or \
                 `Result<Receipt, Error>`, as `JobWebhook::run` does. Or a layer around the mount builds \
                 the response anew: let it keep the extensions",
                status.as_u16()
            ),
            Self::AnsweredInFront(status) => format!(
                "another part of the application answers `POST {mx}` with {}: a layer around the \
                 mount, or a route or fallback that was added after it. Add the layer last",
                status.as_u16()
            ),
            Self::RefusedInFront(status) => format!(
                "a layer in front of the mount refuses the credentials with {}: let `{mx}` pass, \
                 because the mount checks its own credentials",
                status.as_u16()
            ),
            Self::CredentialsRefused { sent: true } => "the mount refuses the credentials of this \
                 `Mx`: give it those of the application"
                .to_owned(),
            Self::CredentialsRefused { sent: false } => "the mount requires credentials, and this \
                 `Mx` has none: add `with_basic` or `with_bearer`"
                .to_owned(),
            Self::NoCredentialsNeeded => format!(
                "no credentials are needed: a delivery without `Authorization` is accepted at `{mx}`. Replace \
                 `Credentials::unauthenticated()` with `Credentials::basic`, `bearer` or `verify`"
            ),
            Self::AnyCredentialsAccepted => format!(
                "any credentials are accepted: a delivery with wrong ones is accepted at `{mx}`. \
                 Check the closure of `Credentials::verify`"
            ),
            Self::BodyLimitInFront => format!(
                "a limit in front of the mount refuses a body of 8 KiB with 413: set the limit of \
                 the proxy, or of tower-http's `RequestBodyLimitLayer`, to 64 KiB for `{mx}`. The \
                 mount has a limit of its own"
            ),
            Self::BodyCut => "a body of 8 KiB is cut off in front of the mount: set the limit of \
                 the proxy or layer to 64 KiB. The mount has a limit of its own"
                .to_owned(),
            Self::OwnBodyLimit => {
                "the mount refuses a body of 8 KiB. MX's documented sample has 545 \
                 bytes, but MX may add fields: raise `with_body_limit` or, with the extractor, \
                 axum's `DefaultBodyLimit`. A layer in front that limits the \
                 body while it is read has the same effect"
                    .to_owned()
            }
            Self::BodyChanged => "the body does not arrive as MX sends it: a layer in front of \
                 the mount cuts it off or changes it. Remove that layer, or set its limit to 64 KiB"
                .to_owned(),
            Self::AnswerChanged(answer) => format!(
                "a layer around the mount changes the answer 204 to {answer}: MX would deliver the \
                 event again"
            ),
            Self::ErrorChanged(answer) => format!(
                "a layer around the mount changes an error to {answer}, which MX takes for a \
                 receipt, so an event can be lost: let it keep the status"
            ),
            Self::OtherPathsAccepted => format!(
                "deliveries are received on every path, and other routes are shadowed: mount the \
                 webhooks at one path, with `.route_service({mx:?}, webhooks)` or \
                 `.layer(webhooks.at({mx:?}))`"
            ),
            Self::OtherMethodsAccepted(method) => format!(
                "`{method} {mx}` is received as a delivery: register the handler \
                 with `post` alone"
            ),
            Self::NoAnswer(answer) => format!("`POST {mx}` has no answer: {answer}"),
            Self::Refused(error) => {
                format!("the mount is reached, but the delivery is refused: {error:#}")
            }
        }
    }
}

impl Difference {
    fn advice(&self, mx: &str) -> String {
        match self {
            Self::TrailingSlash => "paths are compared exactly, with the trailing slash. Use the \
                 same one in both places"
                .to_owned(),
            Self::Prefix(prefix) => format!(
                "the prefix `{prefix}` is missing in the mount. A layer of the outermost router \
                 sees the whole path: use `.at({mx:?})`, or remove the prefix from MX's path"
            ),
            Self::PrefixTwice(prefix) => format!(
                "the prefix `{prefix}` is there twice. A nested router's layer and routes do not \
                 see its prefix: leave it out there, or add the layer to the outermost router"
            ),
        }
    }
}
