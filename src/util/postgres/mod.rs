//! What the stores in Postgres share: how a table is created, how answers are checked, and connections beside the
//! application's pool.

#[cfg(feature = "queue")]
mod limits;
mod opener;
#[cfg(feature = "queue")]
pub(crate) mod own_connections;
mod redacted;
mod table;

use sqlx::Row as _;
use sqlx::error::BoxDynError;
use sqlx::postgres::{PgDatabaseError, PgRow, PgSeverity};

pub(crate) use opener::Opener;
pub(crate) use redacted::redacted;
pub(crate) use table::Table;

/// The `SQLSTATE`s after which a connection is of no use: its prepared statements differ from the
/// server's, or the server has become a standby.
const UNUSABLE: [&str; 4] = ["08P01", "26000", "42P05", "25006"];

/// Checks that each row begins with the name of its statement, and that each statement has one.
pub(crate) fn check(rows: Vec<PgRow>, names: &[&'static str]) -> Result<Vec<PgRow>, sqlx::Error> {
    let mut found = Vec::new();
    for row in &rows {
        // The first column of another statement can have another type.
        let name = row.try_get::<&str, _>(0).unwrap_or_default();
        if found.last() != Some(&name) {
            found.push(name);
        }
    }
    if found == names {
        return Ok(rows);
    }
    Err(UnexpectedAnswer(names.last().unwrap_or(&"statement")).into())
}

/// Returns whether the connection must not be used again.
pub(crate) fn is_unusable(error: &sqlx::Error) -> bool {
    matches!(error, sqlx::Error::Decode(_)) || has_sqlstate(error, &UNUSABLE)
}

/// Returns whether the server or a pooler has ended the session.
pub(crate) fn is_fatal(error: &sqlx::Error) -> bool {
    let error = error
        .as_database_error()
        .and_then(|error| error.try_downcast_ref::<PgDatabaseError>());
    let severity = error.map(PgDatabaseError::severity);
    matches!(severity, Some(PgSeverity::Fatal | PgSeverity::Panic))
}

/// The `SQLSTATE` of a statement that took too long.
#[cfg(feature = "queue")]
pub(crate) const TOOK_TOO_LONG: &str = "57014";

pub(crate) fn has_sqlstate(error: &sqlx::Error, codes: &[&str]) -> bool {
    let code = error.as_database_error().and_then(|error| error.code());
    code.is_some_and(|code| codes.contains(&&*code))
}

/// The answer of another statement: a pooler has mixed up prepared statements.
#[derive(Debug)]
pub(crate) struct UnexpectedAnswer(pub(crate) &'static str);

impl std::fmt::Display for UnexpectedAnswer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(
            f,
            "another statement answered {}: a pooler has mixed up prepared statements",
            self.0
        )
    }
}

impl std::error::Error for UnexpectedAnswer {}

impl From<UnexpectedAnswer> for sqlx::Error {
    fn from(error: UnexpectedAnswer) -> Self {
        Self::Decode(BoxDynError::from(error))
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    #[test]
    fn an_unexpected_answer_names_the_statement_and_the_pooler() {
        let error = UnexpectedAnswer("commit").to_string();
        assert!(
            error.contains("answered commit") && error.contains("pooler"),
            "{error}"
        );
    }

    /// An error of the server with this `SQLSTATE`.
    #[derive(Debug)]
    pub(crate) struct Refused(pub(crate) &'static str);

    impl std::fmt::Display for Refused {
        fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
            f.write_str(self.0)
        }
    }

    impl std::error::Error for Refused {}

    impl sqlx::error::DatabaseError for Refused {
        fn message(&self) -> &str {
            self.0
        }

        fn code(&self) -> Option<std::borrow::Cow<'_, str>> {
            Some(self.0.into())
        }

        fn constraint(&self) -> Option<&str> {
            // The only foreign key of the queue.
            (self.0 == "23503").then_some("fk_worker_lock_by")
        }

        fn as_error(&self) -> &(dyn std::error::Error + Send + Sync + 'static) {
            self
        }

        fn as_error_mut(&mut self) -> &mut (dyn std::error::Error + Send + Sync + 'static) {
            self
        }

        fn into_error(self: Box<Self>) -> Box<dyn std::error::Error + Send + Sync + 'static> {
            self
        }

        fn kind(&self) -> sqlx::error::ErrorKind {
            sqlx::error::ErrorKind::Other
        }
    }

    #[test]
    fn a_connection_is_unusable_if_its_statements_are_not_the_servers() {
        let refused = |code| sqlx::Error::Database(Box::new(Refused(code)));
        for (error, expected) in [
            (UnexpectedAnswer("commit").into(), true),
            (refused("26000"), true),
            (refused("42P05"), true),
            (refused("23505"), false),
            (refused("57014"), false),
            (sqlx::Error::PoolTimedOut, false),
        ] {
            assert_eq!(is_unusable(&error), expected, "{error:?}");
        }
    }
}
