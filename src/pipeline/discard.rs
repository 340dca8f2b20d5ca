//! Discard: reads the body of a refused request and drops it, before the request is answered.
//!
//! If a server answers with the body unread, it has to close the connection. A client that is still
//! writing, or a proxy that shares the connection with other requests, then loses requests that
//! were not refused. So:
//! 1. A body that ends within the limit and the time is read to its end, and the connection stays
//!    open.
//! 2. All other bodies are left unread, and the answer says `Connection: close`.
//! 3. A sender that waits for `100 Continue` does not get it, because its body is not wanted. The
//!    answer says `Connection: close`, because the sender may send the body anyway.
//!
//! No data is kept. Each frame counts as at least one byte, so that an endless run of empty frames
//! ends too.

use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Buf as _;
use http::header::EXPECT;
use http::{HeaderMap, Version};
use http_body::Body;

use super::{FRAMES_AT_A_TIME, Limits};
use crate::error::Error;
use crate::util::catch_panic::catch;
use crate::util::deadline::Deadline;

/// A refusal that is answered at the end of the request's body.
pub(crate) struct Discard {
    error: Option<Error>,
    connection: Connection,
    disabled: bool,
    remaining: u64,
    deadline: Deadline,
}

/// The facts about a connection that decide how a refusal ends it.
#[derive(Clone, Copy)]
pub(crate) struct Connection {
    version: Version,
    /// Whether the sender waits for `100 Continue` before it sends its body.
    awaits_continue: bool,
}

impl Connection {
    pub(crate) fn of(version: Version, headers: &HeaderMap) -> Self {
        let mut expected = headers.get_all(EXPECT).iter();
        let awaits_continue = version > Version::HTTP_10
            && expected.any(|value| value.as_bytes().eq_ignore_ascii_case(b"100-continue"));
        Self {
            version,
            awaits_continue,
        }
    }

    /// Returns the connection of a request whose body has been read in part.
    pub(crate) fn after_reading(version: Version) -> Self {
        Self {
            version,
            awaits_continue: false,
        }
    }
}

impl Discard {
    pub(crate) fn start(error: Error, connection: Connection, limits: Limits) -> Self {
        let body_limit = u64::try_from(limits.body).unwrap_or(u64::MAX);
        Self {
            error: Some(error),
            connection,
            disabled: limits.discard == 0,
            // A sender that waits for the challenge sends a valid body twice. The first one must
            // not cost the connection, so a body of an accepted length is always discarded.
            remaining: limits.discard.max(body_limit),
            deadline: Deadline::default(),
        }
    }

    /// Returns the refusal once the body has ended or is left unread. `read_deadline` is that of
    /// the whole request.
    pub(crate) fn poll<B: Body>(
        &mut self,
        body: Pin<&mut B>,
        limits: Limits,
        read_deadline: &mut Deadline,
        context: &mut Context<'_>,
    ) -> Poll<Error> {
        let read = catch(|| self.read(body, context));
        let end = match read.unwrap_or(Read::Ended(End::Unread)) {
            Read::Pending | Read::Paused
                if self.poll_time_is_up(limits, read_deadline, context) =>
            {
                End::Unread
            }
            // Without a timer, only data that has already arrived is discarded.
            Read::Pending if self.deadline.has_no_timer() || read_deadline.has_no_timer() => {
                End::Unread
            }
            Read::Pending => return Poll::Pending,
            Read::Paused => {
                context.waker().wake_by_ref();
                return Poll::Pending;
            }
            Read::Ended(end) => end,
        };
        let Some(error) = self.error.take() else {
            panic!("`Discard` was polled after it was ready");
        };
        Poll::Ready(match end {
            End::Read => error,
            End::Unread => closing(error, self.connection.version),
        })
    }

    /// Polls both deadlines, so that each of them wakes this task.
    fn poll_time_is_up(
        &mut self,
        limits: Limits,
        read_deadline: &mut Deadline,
        context: &mut Context<'_>,
    ) -> bool {
        let own = self.deadline.poll(limits.discard_timeout, context);
        let whole_request = read_deadline.poll(limits.read_timeout, context);
        own.is_ready() || whole_request.is_ready()
    }

    fn read<B: Body>(&mut self, mut body: Pin<&mut B>, context: &mut Context<'_>) -> Read {
        if body.is_end_stream() {
            return Read::Ended(End::Read);
        }
        // A body that announces more than the limit is not read at all.
        let too_long = body.size_hint().lower() > self.remaining;
        if self.disabled || self.connection.awaits_continue || too_long {
            return Read::Ended(End::Unread);
        }
        for _ in 0..FRAMES_AT_A_TIME {
            let frame = match body.as_mut().poll_frame(context) {
                Poll::Pending => return Read::Pending,
                Poll::Ready(Some(Ok(frame))) => frame,
                Poll::Ready(None) => return Read::Ended(End::Read),
                Poll::Ready(Some(Err(_))) => return Read::Ended(End::Unread),
            };
            let length = frame.data_ref().map_or(0, |data| data.remaining());
            let length = u64::try_from(length).unwrap_or(u64::MAX);
            let Some(remaining) = self.remaining.checked_sub(length.max(1)) else {
                return Read::Ended(End::Unread);
            };
            self.remaining = remaining;
            if body.is_end_stream() {
                return Read::Ended(End::Read);
            }
        }
        Read::Paused
    }
}

/// The progress of reading a body.
enum Read {
    Pending,
    /// More frames may be ready, but the deadlines are checked first.
    Paused,
    Ended(End),
}

enum End {
    Read,
    Unread,
}

/// Returns the error of a refusal that closes the connection.
///
/// HTTP/2 and later have no header for it, because a stream ends without its connection.
pub(crate) fn closing(error: Error, version: Version) -> Error {
    if version <= Version::HTTP_11 {
        error.that_closes()
    } else {
        error
    }
}
