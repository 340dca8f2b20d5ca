//! Buffer: reads the body into bytes.
//!
//! A body has to pass these checks, in this order:
//! 1. The content type is JSON: `application/json` or `application/…+json`, with any parameters.
//! 2. The content is not encoded: `Content-Encoding` is `identity` or absent.
//! 3. `Content-Length`, if present, is within the limit.
//! 4. The bytes that arrive are within the limit, and there are at most 65,536 empty frames, so
//!    that an endless run of them ends too.
//!
//! Memory is allocated for the bytes that arrive, and not by `Content-Length`. A body of one frame
//! is not copied. Bodies of MX's size arrive in one frame. Trailers end the body and are ignored.

use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::{Buf, Bytes, BytesMut};
use http::HeaderMap;
use http::header::{CONTENT_ENCODING, CONTENT_LENGTH, CONTENT_TYPE};
use http_body::Body;
use http_body_util::LengthLimitError;
use tower::BoxError;

use super::FRAMES_AT_A_TIME;
use super::authenticate::{Authenticated, Head, Refused};
use crate::error::chain;
use crate::error::{Error, ErrorKind};
use crate::util::catch_panic::{Panicked, catch};

/// The bytes of a body that have arrived. The body itself stays where it is pinned.
pub(crate) struct Buffer {
    head: Option<Head>,
    collected: Collected,
    remaining: usize,
    empty_frames: u32,
}

const EMPTY_FRAMES: u32 = 64 * 1024;

enum Collected {
    Empty,
    OneFrame(Bytes),
    ManyFrames(BytesMut),
}

impl Buffer {
    /// Decides from the head whether to read the body.
    pub(crate) fn start<B>(
        request: Authenticated<B>,
        limit: usize,
    ) -> Result<(B, Self), Refused<B>> {
        let headers = request.headers();
        let kind = if !is_json(headers) {
            ErrorKind::UnsupportedMediaType
        } else if is_encoded(headers) {
            ErrorKind::UnsupportedContentEncoding
        } else if announced_length(headers).is_some_and(|length| length > limit as u64) {
            ErrorKind::BodyTooLarge
        } else {
            let (head, body) = request.into_parts();
            let buffer = Self {
                head: Some(head),
                collected: Collected::Empty,
                remaining: limit,
                empty_frames: 0,
            };
            return Ok((body, buffer));
        };
        Err(request.refused(Error::new(kind)))
    }

    /// Returns the HTTP version of the request.
    pub(crate) fn version(&self) -> http::Version {
        self.head
            .as_ref()
            .map_or_else(http::Version::default, |head| head.version)
    }

    /// Reads the body. Its panic becomes an error, because the body may be middleware's own code.
    pub(crate) fn poll_caught<B>(
        &mut self,
        body: Pin<&mut B>,
        context: &mut Context<'_>,
    ) -> Poll<Result<(Head, Bytes), Error>>
    where
        B: Body,
        B::Error: Into<BoxError>,
    {
        catch(|| self.poll(body, context))
            .unwrap_or_else(|Panicked| Poll::Ready(Err(Error::new(ErrorKind::CallbackPanicked))))
    }

    fn poll<B>(
        &mut self,
        mut body: Pin<&mut B>,
        context: &mut Context<'_>,
    ) -> Poll<Result<(Head, Bytes), Error>>
    where
        B: Body,
        B::Error: Into<BoxError>,
    {
        let mut frames = 0;
        while !body.is_end_stream() {
            if frames == FRAMES_AT_A_TIME {
                context.waker().wake_by_ref();
                return Poll::Pending;
            }
            frames += 1;
            let Some(frame) = ready!(body.as_mut().poll_frame(context)) else {
                break;
            };
            let frame = match frame.map_err(Into::into) {
                Ok(frame) => frame,
                Err(error) => return Poll::Ready(Err(failed(error))),
            };
            let Ok(data) = frame.into_data() else {
                break;
            };
            self.empty_frames += u32::from(!data.has_remaining());
            match self.remaining.checked_sub(data.remaining()) {
                Some(remaining) if self.empty_frames <= EMPTY_FRAMES => {
                    self.remaining = remaining;
                }
                _ => return Poll::Ready(Err(Error::new(ErrorKind::BodyTooLarge))),
            }
            self.collected.push(data);
        }
        let Some(head) = self.head.take() else {
            panic!("`Buffer` was polled after it was ready");
        };
        Poll::Ready(Ok((head, self.collected.take())))
    }
}

impl Collected {
    fn push(&mut self, mut data: impl Buf) {
        match self {
            Self::Empty => *self = Self::OneFrame(data.copy_to_bytes(data.remaining())),
            Self::OneFrame(first) => {
                let mut bytes = BytesMut::from(&first[..]);
                bytes.extend_from_slice(&data.copy_to_bytes(data.remaining()));
                *self = Self::ManyFrames(bytes);
            }
            Self::ManyFrames(bytes) => {
                bytes.extend_from_slice(&data.copy_to_bytes(data.remaining()));
            }
        }
    }

    fn take(&mut self) -> Bytes {
        match std::mem::replace(self, Self::Empty) {
            Self::Empty => Bytes::new(),
            Self::OneFrame(bytes) => bytes,
            Self::ManyFrames(bytes) => bytes.freeze(),
        }
    }
}

/// Returns the error of a body that failed: by the limit of another layer (axum's
/// `DefaultBodyLimit`, tower-http's `RequestBodyLimit`), or because it broke off.
fn failed(error: BoxError) -> Error {
    let limited = catch(|| chain(&*error).any(|error| error.is::<LengthLimitError>()));
    let kind = if let Ok(true) = limited {
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

/// Returns whether a content coding other than `identity` was applied.
fn is_encoded(headers: &HeaderMap) -> bool {
    if !headers.contains_key(CONTENT_ENCODING) {
        return false;
    }
    let values = headers.get_all(CONTENT_ENCODING).iter();
    let mut codings = values.flat_map(|value| value.as_bytes().split(|&byte| byte == b','));
    codings.any(|coding| {
        let coding = coding.trim_ascii();
        !coding.is_empty() && !coding.eq_ignore_ascii_case(b"identity")
    })
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
    fn json_is_recognised_by_the_content_type() {
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
    fn each_coding_but_identity_counts_as_encoded() {
        let cases: [(&[&str], bool); 9] = [
            (&[], false),
            (&[""], false),
            (&["identity"], false),
            (&["Identity , identity"], false),
            (&["gzip"], true),
            (&["identity, gzip"], true),
            (&["identity", "br"], true),
            (&["unheard-of"], true),
            (&["é"], true),
        ];
        for (values, expected) in cases {
            let values = values.iter().map(|value| value.parse().unwrap());
            let headers = values.map(|value| (CONTENT_ENCODING, value));
            let mut map = HeaderMap::new();
            headers.for_each(|(name, value)| _ = map.append(name, value));
            assert_eq!(is_encoded(&map), expected, "{map:?}");
        }
    }

    #[test]
    fn a_content_length_that_is_not_a_number_is_ignored() {
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
