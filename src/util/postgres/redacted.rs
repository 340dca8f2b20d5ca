//! Errors of the server without what its rows contain.

use std::borrow::Cow;
use std::error::Error as StdError;
use std::fmt;

use sqlx::error::{DatabaseError, ErrorKind};
use sqlx::postgres::PgDatabaseError;

use super::is_fatal;

/// What the server says if the crate's tables are missing, or closed to the role.
const OWN: [&str; 7] = [
    "permission denied for schema apalis",
    "permission denied for table jobs",
    "permission denied for table workers",
    "permission denied for table mx_job_webhook_dead_letters",
    "relation \"apalis.jobs\" does not exist",
    "relation \"apalis.workers\" does not exist",
    "relation \"mx_job_webhook_dead_letters\" does not exist",
];

/// An error of the server. What it says about a row is left out, because that can repeat a body, an error of a callback, or a
/// user's id: the detail, the context, and each message that can name a value.
#[derive(Debug)]
struct Redacted {
    code: String,
    message: String,
    constraint: Option<String>,
    table: Option<String>,
}

/// Leaves out what the error says about rows.
pub(crate) fn redacted(error: sqlx::Error) -> sqlx::Error {
    // An error that ends the session is about no row.
    if is_fatal(&error) {
        return error;
    }
    let Some(database) = error.as_database_error() else {
        return error;
    };
    let code = database.code().unwrap_or_default().into_owned();
    let own = own_constraint(database);
    let message = message(&code, own, database.message());
    sqlx::Error::Database(Box::new(Redacted {
        code,
        message,
        constraint: own.map(|(_, constraint)| constraint.to_owned()),
        table: own.map(|(table, _)| table.to_owned()),
    }))
}

/// Returns the table and the constraint that refuses a row, if the table is one of the crate. Others can be named after a user.
fn own_constraint(error: &dyn DatabaseError) -> Option<(&str, &str)> {
    let error = error.try_downcast_ref::<PgDatabaseError>()?;
    // A trigger can raise an error about any constraint, or about none that exists.
    if error.routine() == Some("exec_stmt_raise") {
        return None;
    }
    let schema = error.schema();
    let is_own = |table: &&str| match *table {
        "jobs" | "workers" => schema == Some("apalis"),
        table => table == "mx_job_webhook_dead_letters",
    };
    error.table().filter(is_own).zip(error.constraint())
}

/// Returns what can be said about an error. A constraint or a trigger can use a value of a row as the name of anything, such as
/// in `body ->> 'user' :: regclass`, and the server then says that there is none of that name. A trigger can also raise any code
/// with any message.
fn message(code: &str, own: Option<(&str, &str)>, message: &str) -> String {
    let is_own = || OWN.contains(&message);
    let text = match (code, own) {
        // What a trigger raises without a code of its own is the application's.
        ("P0001", _) => message,
        ("42501" | "42P01", _) if is_own() => message,
        ("25006", _) => "the server is read-only",
        ("25P02", _) => "the transaction has failed before",
        ("40001", _) => "the access could not be serialised",
        ("40P01", _) => "deadlock detected",
        ("42501", _) => "permission denied",
        ("53100", _) => "the server's disk is full",
        ("53200", _) => "the server is out of memory",
        ("55P03", _) => "a lock was not available in time",
        ("57014", _) => "the statement took too long, or was cancelled",
        (_, Some((table, constraint))) => {
            return format!(
                "a row of the table \"{table}\" violates the constraint \"{constraint}\""
            );
        }
        _ => return format!("the server refuses a value or the statement (SQLSTATE {code})"),
    };
    text.to_owned()
}

impl fmt::Display for Redacted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl StdError for Redacted {}

impl DatabaseError for Redacted {
    fn message(&self) -> &str {
        &self.message
    }

    fn code(&self) -> Option<Cow<'_, str>> {
        Some(Cow::Borrowed(&self.code))
    }

    fn constraint(&self) -> Option<&str> {
        self.constraint.as_deref()
    }

    fn table(&self) -> Option<&str> {
        self.table.as_deref()
    }

    fn kind(&self) -> ErrorKind {
        match &*self.code {
            "23502" => ErrorKind::NotNullViolation,
            "23503" => ErrorKind::ForeignKeyViolation,
            "23505" => ErrorKind::UniqueViolation,
            "23514" => ErrorKind::CheckViolation,
            "23P01" => ErrorKind::ExclusionViolation,
            _ => ErrorKind::Other,
        }
    }

    fn as_error(&self) -> &(dyn StdError + Send + Sync + 'static) {
        self
    }

    fn as_error_mut(&mut self) -> &mut (dyn StdError + Send + Sync + 'static) {
        self
    }

    fn into_error(self: Box<Self>) -> Box<dyn StdError + Send + Sync + 'static> {
        self
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::util::postgres::tests::Refused;

    #[test]
    fn only_the_server_itself_and_an_exception_of_the_application_are_quoted() {
        let quoted = "no account of USR-1";
        let own = Some(("jobs", "refuse"));
        for (code, own, expected) in [
            ("P0001", None, quoted),
            ("25006", None, "the server is read-only"),
            ("25P02", None, "the transaction has failed before"),
            ("40001", None, "the access could not be serialised"),
            ("40P01", None, "deadlock detected"),
            ("42501", own, "permission denied"),
            ("53100", None, "the server's disk is full"),
            ("53200", None, "the server is out of memory"),
            ("55P03", None, "a lock was not available in time"),
            (
                "57014",
                None,
                "the statement took too long, or was cancelled",
            ),
            (
                "23514",
                own,
                "a row of the table \"jobs\" violates the constraint \"refuse\"",
            ),
            (
                "23514",
                None,
                "the server refuses a value or the statement (SQLSTATE 23514)",
            ),
            (
                "42P01",
                None,
                "the server refuses a value or the statement (SQLSTATE 42P01)",
            ),
        ] {
            assert_eq!(message(code, own, quoted), expected, "{code}");
        }
        for own in OWN {
            assert_eq!(message("42501", None, own), own);
            assert_eq!(message("42P01", None, own), own);
        }
    }

    #[test]
    fn an_error_keeps_its_code_and_its_kind() {
        for (code, kind) in [
            ("23502", ErrorKind::NotNullViolation),
            ("23503", ErrorKind::ForeignKeyViolation),
            ("23505", ErrorKind::UniqueViolation),
            ("23514", ErrorKind::CheckViolation),
            ("23P01", ErrorKind::ExclusionViolation),
            ("55P03", ErrorKind::Other),
        ] {
            let error = redacted(sqlx::Error::Database(Box::new(Refused(code))));
            let error = error.into_database_error().unwrap();
            assert_eq!(error.code().as_deref(), Some(code));
            // `ErrorKind` cannot be compared.
            assert_eq!(format!("{:?}", error.kind()), format!("{kind:?}"));
            assert_eq!(error.message(), error.to_string());
            // Its constraint may be one of the application.
            assert_eq!((error.constraint(), error.table()), (None, None));
        }
    }

    #[test]
    fn the_table_and_the_constraint_are_named_if_the_table_is_one_of_the_crate() {
        let error = Redacted {
            code: "23514".to_owned(),
            message: "no".to_owned(),
            constraint: Some("refuse".to_owned()),
            table: Some("jobs".to_owned()),
        };
        assert_eq!(error.constraint(), Some("refuse"));
        assert_eq!(error.table(), Some("jobs"));
    }
}
