//! The error of `commit_in`.

use std::fmt;

use crate::error::Causes;

/// The reason why `commit_in` failed: that of
/// [`PostgresLedger`](crate::ledger::PostgresLedger::commit_in), or of a `JobQueue`.
///
/// Roll the transaction back, which dropping it does, and let the callback fail. If the callback
/// succeeded, the event would be acknowledged, although the delivery that has it now can still
/// fail.
pub struct CommitInError(Reason);

enum Reason {
    NotClaimed,
    Overtaken,
    Database(sqlx::Error),
}

impl CommitInError {
    /// Returns whether this delivery has lost its claim, or the event is already settled.
    ///
    /// If another delivery has claimed the event, that delivery settles it.
    #[must_use]
    pub fn is_overtaken(&self) -> bool {
        matches!(self.0, Reason::Overtaken)
    }

    pub(crate) fn not_claimed() -> Self {
        Self(Reason::NotClaimed)
    }

    pub(crate) fn overtaken() -> Self {
        Self(Reason::Overtaken)
    }
}

impl From<sqlx::Error> for CommitInError {
    fn from(error: sqlx::Error) -> Self {
        Self(Reason::Database(error))
    }
}

impl fmt::Display for CommitInError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self.0 {
            Reason::NotClaimed => "the event has no claim: it came through neither a `DedupeLayer` nor a worker of this queue",
            Reason::Overtaken => "the event is settled, or another delivery or worker has claimed it",
            Reason::Database(_) => "the database could not settle the event",
        })
    }
}

// By hand, because the `Debug` of a database's error shows the row that it has refused.
impl fmt::Debug for CommitInError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "CommitInError{}", Causes(self))
    }
}

impl std::error::Error for CommitInError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match &self.0 {
            Reason::Database(error) => Some(error),
            _ => None,
        }
    }
}
