//! Buffer: the body becomes bytes.
//!
//! What is asked, in this order:
//! 1. The content type is JSON: `application/json` or `application/…+json`, with any parameters.
//! 2. `Content-Length`, where there is one, is within the limit.
//! 3. The bytes that really come are within the limit, and empty frames are no more than a body
//!    of the default limit has bytes, so that a run of them ends too.
//!
//! Memory is taken for what has come, never for what was announced. A body of one frame, which
//! is what a body of MX's size comes as, is not copied. Trailers end it, and are ignored.

use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::{Buf, Bytes, BytesMut};
use http::HeaderMap;
use http::header::{CONTENT_LENGTH, CONTENT_TYPE};
use http_body::Body;
use http_body_util::LengthLimitError;
use pin_project_lite::pin_project;
use tower::BoxError;

use super::authenticate::{Authenticated, Head};
use crate::error::chain;
use crate::{Error, ErrorKind};

pin_project! {
    pub(crate) struct Buffer<B> {
        head: Option<Head>,
        #[pin]
        body: B,
        collected: Collected,
        remaining: usize,
        empty_frames: u32,
    }
}

const EMPTY_FRAMES: u32 = 64 * 1024;

enum Collected {
    Nothing,
    OneFrame(Bytes),
    Several(BytesMut),
}

impl<B> Buffer<B> {
    pub(crate) fn start(request: Authenticated<B>, limit: usize) -> Result<Self, Error> {
        let (head, body) = request.into_parts();
        if !is_json(&head.headers) {
            return Err(Error::new(ErrorKind::UnsupportedMediaType));
        }
        if announced_length(&head.headers).is_some_and(|length| length > limit as u64) {
            return Err(Error::new(ErrorKind::BodyTooLarge));
        }
        Ok(Self {
            head: Some(head),
            body,
            collected: Collected::Nothing,
            remaining: limit,
            empty_frames: 0,
        })
    }
}

impl<B> Future for Buffer<B>
where
    B: Body,
    B::Error: Into<BoxError>,
{
    type Output = Result<(Head, Bytes), Error>;

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        let mut this = self.project();
        while !this.body.is_end_stream() {
            let Some(frame) = ready!(this.body.as_mut().poll_frame(context)) else {
                break;
            };
            let frame = match frame.map_err(Into::into) {
                Ok(frame) => frame,
                Err(error) => return Poll::Ready(Err(failed(error))),
            };
            let Ok(data) = frame.into_data() else {
                break;
            };
            *this.empty_frames += u32::from(!data.has_remaining());
            match this.remaining.checked_sub(data.remaining()) {
                Some(remaining) if *this.empty_frames <= EMPTY_FRAMES => {
                    *this.remaining = remaining;
                }
                _ => return Poll::Ready(Err(Error::new(ErrorKind::BodyTooLarge))),
            }
            this.collected.push(data);
        }
        let Some(head) = this.head.take() else {
            panic!("`Buffer` was polled after it was ready");
        };
        Poll::Ready(Ok((head, this.collected.take())))
    }
}

impl Collected {
    fn push(&mut self, mut data: impl Buf) {
        match self {
            Self::Nothing => *self = Self::OneFrame(data.copy_to_bytes(data.remaining())),
            Self::OneFrame(first) => {
                let mut several = BytesMut::from(&first[..]);
                several.extend_from_slice(&data.copy_to_bytes(data.remaining()));
                *self = Self::Several(several);
            }
            Self::Several(several) => {
                several.extend_from_slice(&data.copy_to_bytes(data.remaining()));
            }
        }
    }

    fn take(&mut self) -> Bytes {
        match std::mem::replace(self, Self::Nothing) {
            Self::Nothing => Bytes::new(),
            Self::OneFrame(bytes) => bytes,
            Self::Several(bytes) => bytes.freeze(),
        }
    }
}

/// A body that failed: by a limit of somebody else's on the way (axum's `DefaultBodyLimit`,
/// tower-http's `RequestBodyLimit`), or because it broke off.
fn failed(error: BoxError) -> Error {
    let kind = if chain(&*error).any(|error| error.is::<LengthLimitError>()) {
        ErrorKind::BodyTooLarge
    } else {
        ErrorKind::BodyInterrupted
    };
    Error::with_source(kind, error)
}

fn announced_length(headers: &HeaderMap) -> Option<u64> {
    headers.get(CONTENT_LENGTH)?.to_str().ok()?.parse().ok()
}

fn is_json(headers: &HeaderMap) -> bool {
    headers
        .get(CONTENT_TYPE)
        .is_some_and(|value| is_json_type(value.as_bytes()))
}

fn is_json_type(content_type: &[u8]) -> bool {
    let end = content_type
        .iter()
        .position(|&byte| byte == b';')
        .unwrap_or(content_type.len());
    let essence = content_type[..end].trim_ascii();
    let Some((kind, subtype)) = essence.split_at_checked(b"application/".len()) else {
        return false;
    };
    kind.eq_ignore_ascii_case(b"application/")
        && (subtype.eq_ignore_ascii_case(b"json")
            || (subtype.len() > b"+json".len()
                && subtype[subtype.len() - b"+json".len()..].eq_ignore_ascii_case(b"+json")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_counts_as_json() {
        let cases = [
            ("application/json", true),
            ("application/json; charset=utf-8", true),
            ("application/json;charset=UTF-8", true),
            ("APPLICATION/JSON", true),
            (" application/json ", true),
            ("application/vnd.mx.api.v1+json", true),
            ("application/+json", false),
            ("application/jsonp", false),
            ("application/json-seq", false),
            ("application/x-www-form-urlencoded", false),
            ("application", false),
            ("application/", false),
            ("text/json", false),
            ("text/plain; application/json", false),
            ("", false),
            (";", false),
            ("é", false),
        ];
        for (content_type, expected) in cases {
            assert_eq!(
                is_json_type(content_type.as_bytes()),
                expected,
                "{content_type:?}"
            );
        }
        assert!(!is_json(&HeaderMap::new()), "no content type");
    }

    #[test]
    fn an_announced_length_that_is_no_number_is_left_to_the_bytes() {
        let cases = [
            ("231", Some(231)),
            ("100000000000", Some(100_000_000_000)),
            ("99999999999999999999999", None),
            ("-1", None),
            ("1, 1", None),
            ("", None),
        ];
        for (value, expected) in cases {
            let headers = HeaderMap::from_iter([(CONTENT_LENGTH, value.parse().unwrap())]);
            assert_eq!(announced_length(&headers), expected, "{value:?}");
        }
    }
}
