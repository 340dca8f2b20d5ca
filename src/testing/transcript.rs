//! The record of deliveries: every attempt and its answer.

use std::fmt;

use super::{Answer, Attempt};

/// All attempts that [`Mx`](super::Mx) made, in the order in which they were sent.
///
/// `Display` prints one line for each attempt, with the reason of a refusal. Use it as the message
/// of an assertion. It prints no user's id and no body.
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

    /// Returns whether each delivery was answered 2xx in the end.
    #[must_use]
    pub fn all_acknowledged(&self) -> bool {
        let first = self.attempts.iter().filter(|attempt| attempt.number() == 1);
        let answers = self.attempts.iter().map(|attempt| attempt.answer());
        first.count() == answers.filter(|answer| answer.is_success()).count()
    }
}

impl fmt::Display for Transcript {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.attempts.iter().try_for_each(|attempt| {
            let (sample, number) = (attempt.sample(), attempt.number());
            let seconds = attempt.sent_at().as_secs_f64();
            let guid = sample.text("guid").unwrap_or("(no guid)");
            let status = sample.text("status_name").unwrap_or("(no name)");
            write!(
                f,
                "{seconds:9.1} s  {guid} {status}, attempt {number}: {}",
                attempt.answer()
            )?;
            match attempt.error() {
                Some(error) => writeln!(f, " ({error})"),
                None => writeln!(f),
            }
        })
    }
}
