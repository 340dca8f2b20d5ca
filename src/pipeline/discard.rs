//! Discard: a refused request's body is read and thrown away before the answer goes out.
//!
//! A server that answers with a body unread has to close the connection. A client that is still
//! writing, or a proxy that keeps the connection for somebody else's request, then loses a request
//! that was never refused. So:
//! 1. A body that ends within the limit and the time is read to its end, and the connection lives.
//! 2. Any other is left alone, and the answer says `Connection: close`.
//! 3. A sender that waits for `100 Continue` is not asked for its body, which would be a lie; the
//!    answer says `Connection: close`, because nobody knows whether the body comes all the same.
//!
//! Nothing is kept. A frame counts as a byte at least, so that a run of empty ones ends too.

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

/// A refusal that waits for the end of the request's body.
pub(crate) struct Discard {
    error: Option<Error>,
    connection: Connection,
    is_off: bool,
    remaining: u64,
    deadline: Deadline,
}

/// What decides whether a connection can be told to close.
#[derive(Clone, Copy)]
pub(crate) struct Connection {
    version: Version,
    /// Whether the sender holds its body back until it is asked for it.
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

    /// Once some of the body has been read.
    pub(crate) fn after_some_of_the_body(version: Version) -> Self {
        Self {
            version,
            awaits_continue: false,
        }
    }
}

impl Discard {
    pub(crate) fn start(error: Error, connection: Connection, limits: Limits) -> Self {
        Self {
            error: Some(error),
            connection,
            is_off: limits.discard == 0,
            remaining: limits.discard,
            deadline: Deadline::default(),
        }
    }

    /// Ready with the refusal. `read_deadline` is that of the whole request.
    pub(crate) fn poll<B: Body>(
        &mut self,
        body: Pin<&mut B>,
        limits: Limits,
        read_deadline: &mut Deadline,
        context: &mut Context<'_>,
    ) -> Poll<Error> {
        let read = catch(|| self.read(body, context));
        let end = match read.unwrap_or(Read::Ended(End::Unread)) {
            Read::Pending | Read::Paused if self.is_over(limits, read_deadline, context) => {
                End::Unread
            }
            // Where there is no timer, nothing is waited for.
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

    /// Both are asked, so that both wake this task.
    fn is_over(
        &mut self,
        limits: Limits,
        read_deadline: &mut Deadline,
        context: &mut Context<'_>,
    ) -> bool {
        let own = self.deadline.poll(limits.discard_timeout, context);
        let whole = read_deadline.poll(limits.read_timeout, context);
        own.is_ready() || whole.is_ready()
    }

    fn read<B: Body>(&mut self, mut body: Pin<&mut B>, context: &mut Context<'_>) -> Read {
        if body.is_end_stream() {
            return Read::Ended(End::Read);
        }
        // What says that it is longer need not be begun.
        let too_long = body.size_hint().lower() > self.remaining;
        if self.is_off || self.connection.awaits_continue || too_long {
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

/// How far reading has come.
enum Read {
    Pending,
    /// There is more, and the deadlines come first.
    Paused,
    Ended(End),
}

enum End {
    Read,
    Unread,
}

/// A refusal after which nothing more is read from the connection. HTTP/2 and later have no such
/// header: there a stream ends alone.
pub(crate) fn closing(error: Error, version: Version) -> Error {
    if version <= Version::HTTP_11 {
        error.that_closes()
    } else {
        error
    }
}
