//! One attempt of a delivery, and its answer.

use std::fmt::{self, Write as _};
use std::time::Duration;

use http::{Response, StatusCode};

use super::Sample;
use crate::error::{Error, Receipt};
use crate::util::one_line::OneLine;

/// One request, and its answer.
#[derive(Clone, Debug)]
pub struct Attempt {
    sample: Sample,
    number: u32,
    sent_at: Duration,
    reply: Reply,
}

impl Attempt {
    pub(super) fn new(sample: Sample, number: u32, sent_at: Duration, reply: Reply) -> Self {
        Self {
            sample,
            number,
            sent_at,
            reply,
        }
    }

    /// Returns the sample that was sent.
    #[must_use]
    pub fn sample(&self) -> &Sample {
        &self.sample
    }

    /// Returns the number of the attempt within its delivery, from 1.
    #[must_use]
    pub fn number(&self) -> u32 {
        self.number
    }

    /// Returns the time from the call of `deliver` to this request, by tokio's clock.
    #[must_use]
    pub fn sent_at(&self) -> Duration {
        self.sent_at
    }

    /// Returns the answer.
    #[must_use]
    pub fn answer(&self) -> &Answer {
        &self.reply.answer
    }

    /// Returns the receipt of an acknowledgement, if the response's extensions have it.
    ///
    /// Without one, a 2xx is not this crate's: another route answered, or a handler that returns
    /// no [`Receipt`].
    #[must_use]
    pub fn receipt(&self) -> Option<Receipt> {
        self.reply.receipt
    }

    /// Returns the error of a refusal, if the response's extensions have it.
    #[must_use]
    pub fn error(&self) -> Option<&Error> {
        self.reply.error.as_ref()
    }

    /// Returns whether the answer is 2xx and this crate gave it.
    pub(super) fn is_acknowledged(&self) -> bool {
        self.reply.answer.is_success() && self.reply.receipt.is_some()
    }

    /// Returns the text of the answer, with its receipt or the reason of the refusal.
    pub(super) fn outcome(&self) -> impl fmt::Display + '_ {
        &self.reply
    }
}

/// An answer, and what the response's extensions say about it.
#[derive(Clone, Debug)]
pub(super) struct Reply {
    pub(super) answer: Answer,
    pub(super) receipt: Option<Receipt>,
    pub(super) error: Option<Error>,
}

impl Reply {
    pub(super) fn of<R>(response: &Response<R>) -> Self {
        let extensions = response.extensions();
        Self {
            answer: Answer::Status(response.status()),
            receipt: extensions.get().copied(),
            error: extensions.get().cloned(),
        }
    }
}

/// An answer without a response.
impl From<Answer> for Reply {
    fn from(answer: Answer) -> Self {
        Self {
            answer,
            receipt: None,
            error: None,
        }
    }
}

impl fmt::Display for Reply {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.answer)?;
        match (&self.error, self.receipt) {
            (Some(error), _) => write!(f, " ({error:#})"),
            (None, Some(receipt)) => write!(f, " ({})", receipt.name()),
            (None, None) if matches!(self.answer, Answer::Status(_)) => {
                f.write_str(" (not answered by mx-job-webhook)")
            }
            (None, None) => Ok(()),
        }
    }
}

/// The answer to one request. It equals the number of its status.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Answer {
    /// A response with this status.
    Status(StatusCode),
    /// There was no response in time, and the sender hung up.
    TimedOut,
    /// The service failed, as if the connection broke. This is its error, as printed.
    Failed(String),
    /// The delivery was lost, with all its attempts: see [`Mx::with_losses`](super::Mx::with_losses).
    Lost,
}

impl Answer {
    /// Returns whether the status is 2xx, so that the delivery is not retried.
    #[must_use]
    pub fn is_success(&self) -> bool {
        matches!(self, Self::Status(status) if status.is_success())
    }
}

impl PartialEq<u16> for Answer {
    fn eq(&self, status: &u16) -> bool {
        matches!(self, Self::Status(own) if own == status)
    }
}

impl fmt::Display for Answer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Status(status) => write!(f, "{}", status.as_u16()),
            Self::TimedOut => f.write_str("no answer in time"),
            Self::Failed(error) => write!(OneLine(f), "failed: {error}"),
            Self::Lost => f.write_str("lost"),
        }
    }
}
