//! The record of deliveries: every attempt and its answer.

use std::fmt;

use super::{Answer, Attempt};
use crate::error::Receipt;

/// All attempts that [`Mx`](super::Mx) made, in the order in which they were sent.
///
/// `Display` prints one line for each attempt, with the receipt, such as `204 (duplicate)`, or the
/// reason of a refusal and its chain of causes. `(not answered by mx-job-webhook)` follows the status
/// of any other response, such as that of a fallback. Use it as the message of an assertion. Apart
/// from the causes, which are errors of the application, it prints no user's id and no body.
#[derive(Clone, Debug)]
pub struct Transcript {
    attempts: Vec<Attempt>,
}

impl Transcript {
    pub(super) fn new(attempts: Vec<Attempt>) -> Self {
        Self { attempts }
    }

    /// Returns the attempts, in the order in which they were sent.
    #[must_use]
    pub fn attempts(&self) -> &[Attempt] {
        &self.attempts
    }

    /// Returns the answers. Each equals the number of its status.
    #[must_use]
    pub fn answers(&self) -> Vec<Answer> {
        self.attempts
            .iter()
            .map(|attempt| attempt.answer().clone())
            .collect()
    }

    /// Returns how many attempts were answered with this status.
    #[must_use]
    pub fn count(&self, status: u16) -> usize {
        let answers = self.attempts.iter().map(|attempt| attempt.answer());
        answers.filter(|answer| **answer == status).count()
    }

    /// Returns the receipts of the acknowledged attempts, in the order in which they were sent.
    ///
    /// `[Receipt::Handled]` says that the callback ran, and that it returned success. The answer
    /// 204 alone does not, because an unhandled event has it too.
    #[must_use]
    pub fn receipts(&self) -> Vec<Receipt> {
        self.attempts
            .iter()
            .filter(|attempt| attempt.is_acknowledged())
            .filter_map(Attempt::receipt)
            .collect()
    }

    /// Returns whether each delivery was acknowledged by this crate in the end.
    ///
    /// A delivery is acknowledged by a 2xx with a [`Receipt`] in the response's extensions. The 200
    /// of a fallback or of another route is no acknowledgement, although MX would take it for one.
    /// A handler with the extractor returns `Receipt` or `Result<Receipt, Error>` for it, as
    /// [`JobWebhook::run`](crate::JobWebhook::run) does. Receipts do not cross a socket, and a layer
    /// that builds a new response drops them.
    #[must_use]
    pub fn all_acknowledged(&self) -> bool {
        let first = self.attempts.iter().filter(|attempt| attempt.number() == 1);
        let acknowledged = |attempt: &&Attempt| attempt.is_acknowledged();
        first.count() == self.attempts.iter().filter(acknowledged).count()
    }
}

impl fmt::Display for Transcript {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.attempts.iter().try_for_each(|attempt| {
            let (sample, number) = (attempt.sample(), attempt.number());
            let seconds = attempt.sent_at().as_secs_f64();
            let guid = sample.text("guid").unwrap_or("(no guid)");
            let status = sample.text("status_name").unwrap_or("(no name)");
            let outcome = attempt.outcome();
            writeln!(
                f,
                "{seconds:9.1} s  {guid} {status}, attempt {number}: {outcome}"
            )
        })
    }
}
