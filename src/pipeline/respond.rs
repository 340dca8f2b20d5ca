//! Respond: turns the outcome into a response. Nothing else in the crate chooses a status code.
//!
//! The body is always empty, so that the sender sees only the status and its headers. For outer
//! layers, the [`Receipt`] or the [`Error`] is in the response's extensions.

use http::header::{
    ACCEPT_ENCODING, ALLOW, CONNECTION, HeaderValue, RETRY_AFTER, WWW_AUTHENTICATE,
};
use http::{Response, StatusCode};

use crate::error::{Error, ErrorKind, Receipt};

/// The value of `Retry-After`, in seconds.
///
/// MX publishes neither its retry schedule nor whether it reads the header.
const RETRY_AFTER_SECONDS: HeaderValue = HeaderValue::from_static("30");

pub(crate) fn respond<B: Default>(outcome: Result<Receipt, Error>) -> Response<B> {
    let mut response = Response::new(B::default());
    let error = match outcome {
        Ok(receipt) => {
            *response.status_mut() = StatusCode::NO_CONTENT;
            response.extensions_mut().insert(receipt);
            return response;
        }
        Err(error) => error,
    };
    let status = status(error.kind());
    *response.status_mut() = status;
    let headers = response.headers_mut();
    match status {
        StatusCode::SERVICE_UNAVAILABLE => {
            headers.insert(RETRY_AFTER, RETRY_AFTER_SECONDS);
        }
        StatusCode::METHOD_NOT_ALLOWED => {
            headers.insert(ALLOW, const { HeaderValue::from_static("POST") });
        }
        StatusCode::UNAUTHORIZED => {
            let challenges = error.challenges();
            if challenges.basic {
                let basic = HeaderValue::from_static(r#"Basic realm="webhooks", charset="UTF-8""#);
                headers.append(WWW_AUTHENTICATE, basic);
            }
            if challenges.bearer {
                let bearer = HeaderValue::from_static(if challenges.invalid_token {
                    r#"Bearer realm="webhooks", error="invalid_token""#
                } else {
                    r#"Bearer realm="webhooks""#
                });
                headers.append(WWW_AUTHENTICATE, bearer);
            }
        }
        _ => {}
    }
    if error.kind() == ErrorKind::UnsupportedContentEncoding {
        headers.insert(
            ACCEPT_ENCODING,
            const { HeaderValue::from_static("identity") },
        );
    }
    if error.closes() {
        headers.insert(CONNECTION, const { HeaderValue::from_static("close") });
    }
    response.extensions_mut().insert(error);
    response
}

fn status(kind: ErrorKind) -> StatusCode {
    match kind {
        ErrorKind::MethodNotAllowed => StatusCode::METHOD_NOT_ALLOWED,
        ErrorKind::Unauthorized => StatusCode::UNAUTHORIZED,
        ErrorKind::UnsupportedMediaType | ErrorKind::UnsupportedContentEncoding => {
            StatusCode::UNSUPPORTED_MEDIA_TYPE
        }
        ErrorKind::BodyTooLarge => StatusCode::PAYLOAD_TOO_LARGE,
        ErrorKind::BodyInterrupted => StatusCode::BAD_REQUEST,
        ErrorKind::ReadTimeout => StatusCode::REQUEST_TIMEOUT,
        ErrorKind::NotJson
        | ErrorKind::UnexpectedWebhook
        | ErrorKind::NoJob
        | ErrorKind::InvalidJob => StatusCode::UNPROCESSABLE_ENTITY,
        ErrorKind::CallbackFailed | ErrorKind::CallbackPanicked | ErrorKind::CallbackCancelled => {
            StatusCode::INTERNAL_SERVER_ERROR
        }
        ErrorKind::AuthenticationUnavailable
        | ErrorKind::Overloaded
        | ErrorKind::TimedOut
        | ErrorKind::AnswerDeadline
        | ErrorKind::InFlight
        | ErrorKind::LedgerUnavailable
        | ErrorKind::WatchUnavailable
        | ErrorKind::QueueUnavailable
        | ErrorKind::ShuttingDown => StatusCode::SERVICE_UNAVAILABLE,
    }
}
