//! What the ledger asks of the database, and how it reads the answer.

use std::time::Duration;

use sqlx::error::BoxDynError;

use crate::event::FencingToken;
use crate::ledger::EventName;
use crate::ledger::key::Key;
use crate::ledger::lease::micros;

/// One call of the ledger. A statement takes many of the same kind.
#[derive(Clone)]
pub(super) struct Call {
    pub(super) kind: Kind,
    pub(super) job: String,
    pub(super) event: String,
    /// The time that orders the event, as text: a type that the table's is cast from.
    pub(super) time: Option<String>,
    /// The lease of a claim in µs, or the token of a commit or a release.
    pub(super) number: i64,
}

/// Which statement it is. Its name stands in the statement's first parameter and in its answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Claim,
    Commit,
    Release,
}

impl Call {
    pub(super) fn claim(event: &EventName, lease: Duration) -> Self {
        Self::new(Kind::Claim, event, micros(lease))
    }

    pub(super) fn commit(event: &EventName, token: i64) -> Self {
        Self::new(Kind::Commit, event, token)
    }

    pub(super) fn release(event: &EventName, token: i64) -> Self {
        Self::new(Kind::Release, event, token)
    }

    fn new(kind: Kind, event: &EventName, number: i64) -> Self {
        let key = Key::of(event);
        Self {
            kind,
            job: key.job,
            event: key.event,
            time: time(event),
            number,
        }
    }

    /// The release of the claim that this call was granted.
    pub(super) fn release_of(&self, token: FencingToken) -> Option<Self> {
        Some(Self {
            kind: Kind::Release,
            number: number(token)?,
            ..self.clone()
        })
    }

    pub(super) fn is_of_the_same_event_as(&self, other: &Self) -> bool {
        self.job == other.job && self.event == other.event
    }
}

/// The time that orders the event, as the statements take it.
pub(super) fn time(event: &EventName) -> Option<String> {
    Some(event.ordering_time()?.decimal().to_string())
}

/// A token as the table has it. `None` for one that no table can have.
pub(super) fn number(token: FencingToken) -> Option<i64> {
    i64::try_from(token.get()).ok()
}

impl Kind {
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Claim => "claim",
            Self::Commit => "commit",
            Self::Release => "release",
        }
    }

    /// If another transaction has the event locked, or has just inserted it.
    pub(super) fn answer_of_a_locked_event(self) -> Answer {
        match self {
            Self::Claim => Answer::InFlight,
            Self::Commit | Self::Release => Answer::Busy,
        }
    }

    pub(super) fn statement(self) -> &'static str {
        match self {
            Self::Claim => include_str!("sql/claim.sql"),
            Self::Commit => include_str!("sql/commit.sql"),
            Self::Release => include_str!("sql/release.sql"),
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Answer {
    Granted(FencingToken),
    InFlight,
    Settled,
    Stale,
    Overtaken,
    Released,
    /// Another transaction has the event locked.
    Busy,
}

impl Answer {
    /// Reads a row of the statement's answer: which of its calls it answers, counted from 0, and how.
    ///
    /// # Errors
    ///
    /// If another statement gave it.
    pub(super) fn read(kind: Kind, row: &str) -> Result<(usize, Self), NotItsAnswer> {
        Self::parse(kind, row).ok_or(NotItsAnswer(kind.name()))
    }

    fn parse(kind: Kind, row: &str) -> Option<(usize, Self)> {
        let (number, answer) = row
            .strip_prefix(kind.name())?
            .strip_prefix(' ')?
            .split_once(' ')?;
        let number = number.parse::<usize>().ok()?.checked_sub(1)?;
        let answer = match (kind, answer) {
            (Kind::Claim, "in flight") => Self::InFlight,
            (Kind::Claim, "stale") => Self::Stale,
            (Kind::Claim, granted) if granted != "settled" => {
                let token = granted.strip_prefix("granted ")?.parse().ok()?;
                Self::Granted(FencingToken::new(token))
            }
            (Kind::Claim | Kind::Commit, "settled") => Self::Settled,
            (Kind::Commit, "overtaken") => Self::Overtaken,
            (Kind::Release, "released") => Self::Released,
            (Kind::Commit | Kind::Release, "busy") => Self::Busy,
            _ => return None,
        };
        Some((number, answer))
    }
}

/// Another statement answered: between the ledger and the database, a pooler has mixed prepared statements up.
#[derive(Debug)]
pub(super) struct NotItsAnswer(pub(super) &'static str);

impl std::fmt::Display for NotItsAnswer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(
            f,
            "the ledger's {} was answered by another statement: a pooler has mixed prepared statements up",
            self.0
        )
    }
}

impl std::error::Error for NotItsAnswer {}

impl From<NotItsAnswer> for sqlx::Error {
    fn from(error: NotItsAnswer) -> Self {
        Self::Decode(BoxDynError::from(error))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_row_is_read_if_it_is_the_statements_own() {
        let token = FencingToken::new(17);
        let cases = [
            (
                Kind::Claim,
                "claim 1 granted 17",
                Some((0, Answer::Granted(token))),
            ),
            (
                Kind::Claim,
                "claim 2 in flight",
                Some((1, Answer::InFlight)),
            ),
            (Kind::Claim, "claim 64 settled", Some((63, Answer::Settled))),
            (Kind::Claim, "claim 1 stale", Some((0, Answer::Stale))),
            (Kind::Commit, "commit 1 settled", Some((0, Answer::Settled))),
            (
                Kind::Commit,
                "commit 1 overtaken",
                Some((0, Answer::Overtaken)),
            ),
            (Kind::Commit, "commit 1 busy", Some((0, Answer::Busy))),
            (
                Kind::Release,
                "release 3 released",
                Some((2, Answer::Released)),
            ),
            (Kind::Release, "release 3 busy", Some((2, Answer::Busy))),
            (Kind::Claim, "commit 1 settled", None),
            (Kind::Commit, "claim 1 settled", None),
            (Kind::Commit, "commit 1 granted 17", None),
            (Kind::Commit, "commit 1 released", None),
            (Kind::Release, "release 1 settled", None),
            (Kind::Claim, "claim 0 settled", None),
            (Kind::Claim, "claim 1 granted", None),
            (Kind::Claim, "claim 1 granted -1", None),
            (Kind::Claim, "claim1 settled", None),
            (Kind::Claim, "", None),
        ];
        for (kind, row, expected) in cases {
            assert_eq!(Answer::read(kind, row).ok(), expected, "{kind:?}: {row}");
        }
    }
}
