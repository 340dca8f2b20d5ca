//! Why an event was not settled within a transaction.

use std::fmt;

/// Why [`PostgresLedger::commit_in`](crate::ledger::PostgresLedger::commit_in) did not settle an event.
///
/// The transaction has to be rolled back, which dropping it does, and the callback has to fail:
/// whoever has the event now may yet fail too, and what a callback calls a success is
/// acknowledged.
pub struct CommitInError(Reason);

#[derive(Debug)]
enum Reason {
    NotClaimed,
    Overtaken,
    Database(sqlx::Error),
}

impl CommitInError {
    /// Whether the claim is no longer this delivery's, or was used already.
    ///
    /// The delivery that has the event now decides what becomes of it.
    #[must_use]
    pub fn is_overtaken(&self) -> bool {
        matches!(self.0, Reason::Overtaken)
    }

    pub(super) fn not_claimed() -> Self {
        Self(Reason::NotClaimed)
    }

    pub(super) fn overtaken() -> Self {
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
            Reason::NotClaimed => "the event was not claimed: no `DedupeLayer` is around",
            Reason::Overtaken => "the event is settled, or another delivery has claimed it since",
            Reason::Database(_) => "the database could not settle the event",
        })
    }
}

impl fmt::Debug for CommitInError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("CommitInError").field(&self.0).finish()
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
