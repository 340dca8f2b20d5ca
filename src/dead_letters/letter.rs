//! A dead letter, without its body.

use std::fmt::{self, Write as _};

use crate::error::Error;
use crate::job::{JobGuid, Status, Timestamp};
use crate::util::one_line::OneLine;

/// The maximum length of an error's text, in bytes.
const MAX_ERROR: usize = 8 * 1024;

/// What is shown at the end of an error that was too long.
const CUT: &str = "…";

/// An event whose callback failed, or a body that no callback took.
///
/// It has no body: see [`PostgresDeadLetters::body`](super::PostgresDeadLetters::body).
///
/// `Debug` shows neither the error's text nor anything of the body.
#[derive(Clone)]
pub struct Letter(LetterParts);

/// The fields of a letter.
#[derive(Clone)]
pub(crate) struct LetterParts {
    pub(crate) name: String,
    pub(crate) kind: LetterKind,
    pub(crate) status: Option<Status>,
    pub(crate) guid: Option<JobGuid>,
    pub(crate) tries: u32,
    pub(crate) error: String,
    pub(crate) failed_at: Timestamp,
    pub(crate) first_failed_at: Timestamp,
}

impl Letter {
    /// Returns a letter. Its error is put on one line and cut if it is long.
    pub(crate) fn new(mut parts: LetterParts) -> Self {
        parts.error = bounded_line(format_args!("{}", parts.error));
        Self(parts)
    }

    /// Returns the name by which the letter is replayed and discarded.
    ///
    /// For an event, it is the text of its [`EventName`](crate::ledger::EventName). A guid or a
    /// status that is longer than 200 bytes, and a guid that contains a NUL, is replaced by a digest.
    /// For another body, it is the kind and a digest of the body.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.0.name
    }

    /// Returns what was kept.
    #[must_use]
    pub fn kind(&self) -> LetterKind {
        self.0.kind
    }

    /// Returns the status of the job, if it is an event.
    ///
    /// Returns `None` too if the status is none of MX's and longer than 200 bytes.
    #[must_use]
    pub fn status(&self) -> Option<&Status> {
        self.0.status.as_ref()
    }

    /// Returns the id of the job, if it is an event.
    #[must_use]
    pub fn guid(&self) -> Option<&JobGuid> {
        self.0.guid.as_ref()
    }

    /// Returns how often it was kept, or replayed without success. In a queue, it counts the tries.
    #[must_use]
    pub fn tries(&self) -> u32 {
        self.0.tries
    }

    /// Returns the latest error with its causes, as `{:#}` of [`Error`] prints them.
    ///
    /// It is one line of at most 8 KiB, without control characters. A longer text is cut, and ends
    /// with `…`. The causes are the application's, and contain what it has put into them.
    #[must_use]
    pub fn error(&self) -> &str {
        &self.0.error
    }

    /// Returns when it failed last, by the server's clock.
    #[must_use]
    pub fn failed_at(&self) -> Timestamp {
        self.0.failed_at
    }

    /// Returns when it failed first, by the server's clock.
    ///
    /// A [`JobQueue`](crate::guide::durable_work) does not record this. For one of its events, it is when the event
    /// was stored, by the clock of the process that stored it.
    #[must_use]
    pub fn first_failed_at(&self) -> Timestamp {
        self.0.first_failed_at
    }
}

impl fmt::Debug for Letter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Letter")
            .field("name", &self.0.name)
            .field("kind", &self.0.kind)
            .field("tries", &self.0.tries)
            .field("failed_at", &self.0.failed_at)
            .finish_non_exhaustive()
    }
}

/// What a letter is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum LetterKind {
    /// An event whose callback failed.
    Event,
    /// A body that could not be decoded.
    Undecodable,
    /// Another of MX's webhooks.
    OtherWebhook,
}

impl LetterKind {
    /// Returns a stable name for stores and pages, such as `undecodable`.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Event => "event",
            Self::Undecodable => "undecodable",
            Self::OtherWebhook => "other_webhook",
        }
    }

    pub(crate) fn of_name(name: &str) -> Option<Self> {
        let every = [Self::Event, Self::Undecodable, Self::OtherWebhook];
        every.into_iter().find(|kind| kind.name() == name)
    }
}

/// Returns the text of an error and its causes, as a letter has it.
pub(crate) fn error_text(error: &Error) -> String {
    bounded_line(format_args!("{error:#}"))
}

fn bounded_line(text: fmt::Arguments<'_>) -> String {
    let mut bounded = Bounded(String::new());
    // It fails once the text is too long.
    match write!(OneLine(&mut bounded), "{text}") {
        Ok(()) => bounded.0,
        Err(fmt::Error) => bounded.0 + CUT,
    }
}

/// A text that keeps its beginning. To write more is an error.
struct Bounded(String);

impl fmt::Write for Bounded {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        let room = MAX_ERROR - self.0.len();
        if text.len() <= room {
            self.0.push_str(text);
            return Ok(());
        }
        self.0.push_str(beginning(text, room));
        let end = beginning(&self.0, MAX_ERROR - CUT.len()).len();
        self.0.truncate(end);
        Err(fmt::Error)
    }
}

/// Returns as many characters of the text as fit into this many bytes.
fn beginning(text: &str, max: usize) -> &str {
    let mut ends = (0..=max.min(text.len())).rev();
    let end = ends.find(|&end| text.is_char_boundary(end));
    &text[..end.unwrap_or_default()]
}

#[cfg(test)]
mod tests {
    use tower::BoxError;

    use super::*;

    #[test]
    fn an_error_is_one_bounded_line_without_a_nul() {
        let of = |cause: &str| error_text(&Error::from(BoxError::from(cause)));
        assert_eq!(of("no"), "the callback failed: no");
        let hostile = of("a\0b\r\nc\u{202e}d\u{1b}[31m");
        assert_eq!(
            hostile,
            r"the callback failed: a\u{0}b\r\nc\u{202e}d\u{1b}[31m"
        );
        for long in ["x", "é", "🏦", "\u{0}", "x🏦"] {
            let text = of(&long.repeat(1 << 20));
            assert!(text.len() <= MAX_ERROR, "{}", text.len());
            assert!(text.len() > MAX_ERROR - 20, "{}", text.len());
            assert!(text.ends_with(CUT) && !text.contains('\0'));
        }
        let prefix = "the callback failed: ".len();
        for (length, is_cut) in [(MAX_ERROR - prefix, false), (MAX_ERROR - prefix + 1, true)] {
            let text = of(&"x".repeat(length));
            assert_eq!(text.ends_with(CUT), is_cut, "{length}");
            assert_eq!(
                bounded_line(format_args!("{text}")),
                text,
                "it is not cut again"
            );
        }
    }

    #[test]
    fn a_text_in_parts_is_cut_between_characters() {
        for before in 0..4 {
            let first = "x".repeat(before) + &"🏦".repeat((MAX_ERROR - before) / 4);
            let text = bounded_line(format_args!("{first}{}", "y".repeat(100)));
            let kept = text.strip_suffix(CUT).unwrap();
            assert!(first.starts_with(kept), "{before}");
            assert!((MAX_ERROR - 3..=MAX_ERROR).contains(&text.len()));
        }
        let text = bounded_line(format_args!("{}", "x".repeat(MAX_ERROR + 1)));
        assert_eq!(text.len(), MAX_ERROR);
    }

    #[test]
    fn debug_shows_no_error() {
        let letter = Letter::new(LetterParts {
            name: "JOB-1 COMPLETED 1".to_owned(),
            kind: LetterKind::Event,
            status: Some(Status::Completed),
            guid: "JOB-1".parse().ok(),
            tries: 1,
            error: "secret".to_owned(),
            failed_at: Timestamp::from_unix_seconds(1),
            first_failed_at: Timestamp::from_unix_seconds(1),
        });
        assert_eq!(letter.error(), "secret");
        let shown = format!("{letter:?}");
        assert!(
            shown.contains("JOB-1") && !shown.contains("secret"),
            "{shown}"
        );
    }

    #[test]
    fn each_kind_is_found_by_its_name() {
        for kind in [
            LetterKind::Event,
            LetterKind::Undecodable,
            LetterKind::OtherWebhook,
        ] {
            assert_eq!(LetterKind::of_name(kind.name()), Some(kind));
        }
        assert_eq!(LetterKind::of_name("later"), None);
    }
}
