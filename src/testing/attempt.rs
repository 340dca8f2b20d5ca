//! One attempt: what was sent, and what came back.

use std::fmt;
use std::time::Duration;

use http::StatusCode;

use super::Sample;
use crate::error::Error;

/// One request, and what came back.
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

    /// What was sent.
    #[must_use]
    pub fn sample(&self) -> &Sample {
        &self.sample
    }

    /// Which attempt of its delivery it was, from 1.
    #[must_use]
    pub fn number(&self) -> u32 {
        self.number
    }

    /// When it was sent, counted from the call of `deliver`, by tokio's clock.
    #[must_use]
    pub fn sent_at(&self) -> Duration {
        self.sent_at
    }

    /// What came back.
    #[must_use]
    pub fn answer(&self) -> &Answer {
        &self.answer
    }

    /// Why it was refused, where the response's extensions say so.
    #[must_use]
    pub fn error(&self) -> Option<&Error> {
        self.error.as_ref()
    }
}

/// What came back for one request; it equals the number that is its status.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Answer {
    /// A response with this status.
    Status(StatusCode),
    /// No response in time: the sender hung up.
    TimedOut,
    /// The service failed, and this is what its error prints: the connection broke.
    Failed(String),
}

impl Answer {
    /// Whether it is 2xx, so that nothing is sent again.
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
        }
    }
}
