//! Calls of the ledger, and the answers of the database.

use std::time::Duration;

use crate::event::FencingToken;
use crate::ledger::EventName;
use crate::ledger::key::Key;
use crate::ledger::lease::micros;
use crate::util::postgres::UnexpectedAnswer;

/// One call of the ledger. A statement makes many calls of the same kind.
#[derive(Clone)]
pub(super) struct Call {
    pub(super) kind: Kind,
    pub(super) job: String,
    pub(super) event: String,
    /// The time that orders the event, as text that the statement casts to the table's type.
    pub(super) time: Option<String>,
    /// The lease of a claim in µs, or the token of a commit or a release.
    pub(super) number: i64,
}

/// The kind of a call. Its name is the statement's first parameter, and begins each of its answers.
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
            time: ordering_time(event),
            number,
        }
    }

    /// Returns the call that releases the claim which this call was granted.
    pub(super) fn release_of(&self, token: FencingToken) -> Option<Self> {
        Some(Self {
            kind: Kind::Release,
            number: to_bigint(token)?,
            ..self.clone()
        })
    }

    pub(super) fn is_for_same_event(&self, other: &Self) -> bool {
        self.job == other.job && self.event == other.event
    }
}

/// Returns the time that orders the event, as a parameter of the statements.
pub(super) fn ordering_time(event: &EventName) -> Option<String> {
    Some(event.ordering_time()?.decimal().to_string())
}

/// Returns the token as a `bigint`, or `None` if it is too large, so that no table has it.
pub(super) fn to_bigint(token: FencingToken) -> Option<i64> {
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

    /// Returns the answer if another transaction has locked the event, or has just inserted it.
    pub(super) fn answer_for_locked_event(self) -> Answer {
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
    /// Another transaction has locked the event.
    Busy,
}

impl Answer {
    /// Reads a row of a statement's result: the index of the call, counted from 0, and its answer.
    ///
    /// # Errors
    ///
    /// If the row is from another statement.
    pub(super) fn read(kind: Kind, row: &str) -> Result<(usize, Self), UnexpectedAnswer> {
        Self::parse(kind, row).ok_or(UnexpectedAnswer(kind.name()))
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_rows_of_the_same_statement_are_read() {
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
