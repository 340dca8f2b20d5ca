//! Why a letter was not replayed.

use std::fmt;

use super::letter;
use crate::error::{Causes, Error, Receipt};

/// The reason why a replay did not succeed.
///
/// Except after [`is_not_found`](Self::is_not_found), the letter is still there. `{:#}` adds the error of the callback or of
/// decoding, with its causes.
pub struct ReplayError(Reason);

enum Reason {
    NotFound,
    InProgress,
    Undecodable(Error),
    Failed(Error),
    NotHandled(Receipt),
    Database(sqlx::Error),
    NotDeleted(sqlx::Error),
}

impl ReplayError {
    pub(super) fn not_found() -> Self {
        Self(Reason::NotFound)
    }

    pub(super) fn in_progress() -> Self {
        Self(Reason::InProgress)
    }

    pub(super) fn undecodable(error: Error) -> Self {
        Self(Reason::Undecodable(error))
    }

    pub(super) fn failed(error: Error) -> Self {
        Self(Reason::Failed(error))
    }

    pub(super) fn not_handled(receipt: Receipt) -> Self {
        Self(Reason::NotHandled(receipt))
    }

    pub(crate) fn database(error: sqlx::Error) -> Self {
        Self(Reason::Database(error))
    }

    pub(super) fn not_deleted(error: sqlx::Error) -> Self {
        Self(Reason::NotDeleted(error))
    }

    /// Returns whether there is no letter with this name.
    #[must_use]
    pub fn is_not_found(&self) -> bool {
        matches!(self.0, Reason::NotFound)
    }

    /// Returns whether the letter is being replayed already, perhaps by another process.
    #[must_use]
    pub fn is_in_progress(&self) -> bool {
        matches!(self.0, Reason::InProgress)
    }

    /// Returns whether the body cannot be decoded as an event.
    #[must_use]
    pub fn is_undecodable(&self) -> bool {
        matches!(self.0, Reason::Undecodable(_))
    }

    /// Returns whether the database failed.
    #[must_use]
    pub fn is_database(&self) -> bool {
        matches!(self.0, Reason::Database(_) | Reason::NotDeleted(_))
    }

    /// Returns whether the callback succeeded, and only the letter could not be deleted.
    ///
    /// The event runs again if the letter is replayed again.
    #[must_use]
    pub fn is_handled(&self) -> bool {
        matches!(self.0, Reason::NotDeleted(_))
    }

    /// Returns the error of the callback, or of decoding the body.
    #[must_use]
    pub fn error(&self) -> Option<&Error> {
        match &self.0 {
            Reason::Undecodable(error) | Reason::Failed(error) => Some(error),
            _ => None,
        }
    }

    /// Returns a receipt that does not say that the callback has succeeded.
    ///
    /// For [`Duplicate`](Receipt::Duplicate) and [`Stale`](Receipt::Stale), replay through the
    /// service within the `DedupeLayer`. For [`Accepted`](Receipt::Accepted), replay through the one
    /// within the `AcknowledgeFirstLayer`. [`DeadLettered`](Receipt::DeadLettered) means that the
    /// callback has failed permanently again.
    #[must_use]
    pub fn receipt(&self) -> Option<Receipt> {
        match self.0 {
            Reason::NotHandled(receipt) => Some(receipt),
            _ => None,
        }
    }

    /// Returns the error of the database by value.
    pub(super) fn into_database(self) -> Option<sqlx::Error> {
        match self.0 {
            Reason::Database(error) | Reason::NotDeleted(error) => Some(error),
            _ => None,
        }
    }

    /// Returns the error as the letter keeps it.
    pub(super) fn letter_text(&self) -> String {
        match self.error() {
            Some(error) => letter::error_text(error),
            None => self.to_string(),
        }
    }
}

impl fmt::Display for ReplayError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.0 {
            Reason::NotFound => f.write_str("there is no such dead letter"),
            Reason::InProgress => f.write_str("the dead letter is being replayed already"),
            Reason::Undecodable(_) => f.write_str("the dead letter cannot be decoded"),
            Reason::Failed(_) => f.write_str("the replay failed"),
            Reason::NotHandled(Receipt::DeadLettered) => {
                f.write_str("the callback failed permanently again")
            }
            Reason::NotHandled(receipt) => write!(
                f,
                "a layer around the callbacks answered `{}`, which does not say that the callback succeeded",
                receipt.name()
            ),
            Reason::Database(_) => f.write_str("the database of dead letters failed"),
            Reason::NotDeleted(_) => f.write_str(
                "the replay succeeded, but the dead letter could not be deleted, and may run again",
            ),
        }?;
        match self.error() {
            Some(error) if f.alternate() => write!(f, ": {error:#}"),
            _ => Ok(()),
        }
    }
}

// By hand, because the `Debug` of a database's error shows the row that it has refused.
impl fmt::Debug for ReplayError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ReplayError{}", Causes(self))
    }
}

impl std::error::Error for ReplayError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match &self.0 {
            Reason::Undecodable(error) | Reason::Failed(error) => Some(error),
            Reason::Database(error) | Reason::NotDeleted(error) => Some(error),
            Reason::NotFound | Reason::InProgress | Reason::NotHandled(_) => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::ErrorKind;

    /// The `Debug` of a database's error has more than its text: the row that it has refused.
    #[test]
    fn debug_shows_only_the_texts_of_errors() {
        let error = ReplayError::database(sqlx::Error::RowNotFound);
        let texts = format!(
            "ReplayError: the database of dead letters failed: {}",
            sqlx::Error::RowNotFound
        );
        assert_eq!(format!("{error:?}"), texts);
    }

    #[test]
    fn each_reason_has_its_answers_and_its_text() {
        use std::error::Error as _;

        let failed = || Error::new(ErrorKind::CallbackFailed);
        let lost = || sqlx::Error::PoolTimedOut;
        let cases = [
            (ReplayError::not_found(), "not found", "no such"),
            (ReplayError::in_progress(), "in progress", "already"),
            (
                ReplayError::undecodable(failed()),
                "undecodable error",
                "decoded",
            ),
            (ReplayError::failed(failed()), "error", "the replay failed"),
            (
                ReplayError::not_handled(Receipt::Stale),
                "receipt",
                "`stale`",
            ),
            (
                ReplayError::not_handled(Receipt::DeadLettered),
                "receipt",
                "permanently again",
            ),
            (ReplayError::database(lost()), "database", "the database"),
            (
                ReplayError::not_deleted(lost()),
                "database handled",
                "may run again",
            ),
        ];
        for (error, answers, text) in cases {
            for (answer, word) in [
                (error.is_not_found(), "not found"),
                (error.is_in_progress(), "in progress"),
                (error.is_undecodable(), "undecodable"),
                (error.is_database(), "database"),
                (error.is_handled(), "handled"),
                (error.error().is_some(), "error"),
                (error.receipt().is_some(), "receipt"),
            ] {
                assert_eq!(answer, answers.contains(word), "{error:?}: {word}");
            }
            let short = error.to_string();
            assert!(short.contains(text), "{short}");
            let long = error.error().map(|cause| format!("{short}: {cause:#}"));
            assert_eq!(format!("{error:#}"), long.unwrap_or(short));
            let has_source = error.error().is_some() || error.is_database();
            assert_eq!(error.source().is_some(), has_source, "{error:?}");
            assert_eq!(error.is_database(), error.into_database().is_some());
        }
    }
}
