//! One attempt of a delivery, and its answer.

use std::fmt;
use std::time::Duration;

use http::StatusCode;

use super::Sample;
use crate::error::Error;

/// One request, and its answer.
#[derive(Clone, Debug)]
pub struct Attempt {
    sample: Sample,
    number: u32,
    sent_at: Duration,
    answer: Answer,
    error: Option<Error>,
}

impl Attempt {
    pub(super) fn new(
        sample: Sample,
        number: u32,
        sent_at: Duration,
        answer: Answer,
        error: Option<Error>,
    ) -> Self {
        Self {
            sample,
            number,
            sent_at,
            answer,
            error,
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
        &self.answer
    }

    /// Returns the error of a refusal, if the response's extensions have it.
    #[must_use]
    pub fn error(&self) -> Option<&Error> {
        self.error.as_ref()
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
            Self::Failed(error) => write!(f, "failed: {error}"),
            Self::Lost => f.write_str("lost"),
        }
    }
}
