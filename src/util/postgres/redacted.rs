//! Errors of the server without what its rows contain.

use std::borrow::Cow;
use std::error::Error as StdError;
use std::fmt;

use sqlx::error::{DatabaseError, ErrorKind};

use super::is_fatal;

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
    let message = if names_no_value(&code, database.message()) {
        database.message().to_owned()
    } else {
        format!("the server refuses a value or the statement (SQLSTATE {code})")
    };
    sqlx::Error::Database(Box::new(Redacted {
        code,
        message,
        constraint: database.constraint().map(str::to_owned),
        table: database.table().map(str::to_owned),
    }))
}

/// Returns whether the message has no value of a row. A constraint or a trigger can use a value as the name of anything, such as
/// in `body ->> 'user' :: regclass`, and the message then says that there is none of that name.
fn names_no_value(code: &str, message: &str) -> bool {
    // Constraints, states of transactions and of the server, locks, limits, privileges, and what a trigger raises itself.
    const KINDS: [&str; 9] = ["23", "25", "40", "53", "55", "57", "58", "42501", "P0001"];
    let is_of_a_missing_table = code == "42P01"
        && ["\"apalis.", "\"mx_job_webhook_"]
            .iter()
            .any(|name| message.contains(name));
    is_of_a_missing_table || KINDS.iter().any(|kind| code.starts_with(kind))
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
