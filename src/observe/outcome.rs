//! The outcome of a delivery, and its name in logs and metrics.

use crate::error::{Error, Receipt};

#[derive(Clone, Copy)]
pub(super) enum Outcome<'a> {
    Receipt(Receipt),
    Error(&'a Error),
    /// The service within answers another webhook.
    PassedOn,
    /// The sender hung up before a callback started.
    Abandoned,
}

impl Outcome<'_> {
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Receipt(receipt) => receipt.name(),
            Self::Error(error) => error.kind().name(),
            Self::PassedOn => "passed_on",
            Self::Abandoned => "abandoned",
        }
    }
}

impl<'a> From<&'a Result<Receipt, Error>> for Outcome<'a> {
    fn from(outcome: &'a Result<Receipt, Error>) -> Self {
        match outcome {
            Ok(receipt) => Self::Receipt(*receipt),
            Err(error) => Self::Error(error),
        }
    }
}
