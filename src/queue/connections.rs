//! The queue's own connections.

use std::io;

use sqlx::postgres::PgRow;
use sqlx::{AssertSqlSafe, PgConnection, PgPool, Row as _};
use tokio::time::timeout;

use super::statement::Statement;
use crate::util::postgres::own_connections::{OwnConnection, OwnConnections, Permit, TIMEOUT};
use crate::util::postgres::{TOOK_TOO_LONG, UnexpectedAnswer, has_sqlstate, is_fatal, redacted};

/// What precedes the statements of a message. Several statements in one message are one transaction, without `BEGIN`.
///
/// - If the default isolation is stricter, concurrent writes would make it fail.
/// - The database or the application may have set another form for bytes or texts, which cannot be read.
/// - sqlx logs what the server notices, such as the name of a table that a trigger wants to create.
const PREFIX: &str = "SET TRANSACTION ISOLATION LEVEL READ COMMITTED;
SET LOCAL bytea_output = 'hex';
SET LOCAL client_encoding = 'UTF8';
SET LOCAL client_min_messages = 'error'";

/// How many connections are reserved for heartbeats, if there are several.
const FOR_HEARTBEATS: usize = 1;

/// Runs statements on connections of its own. If callbacks held all of them, a worker would count as dead.
pub(super) struct Connections(OwnConnections);

impl Connections {
    pub(super) fn like(application: &PgPool, max_connections: u32) -> Self {
        Self(OwnConnections::like(
            application,
            max_connections,
            FOR_HEARTBEATS,
        ))
    }

    pub(super) fn max(&self) -> u32 {
        self.0.max()
    }

    pub(super) fn application(&self) -> &PgPool {
        self.0.application()
    }

    /// Runs a statement in a transaction of its own, in one round trip, and returns its rows. Each begins with the name of the
    /// statement.
    ///
    /// If the connection turns out to be broken before the server has answered, the statement is repeated, although it may have
    /// taken effect.
    pub(super) async fn run(&self, statement: &Statement) -> Result<Vec<PgRow>, sqlx::Error> {
        self.repeat(self.0.permit().await?, statement).await
    }

    /// Runs a statement that is made when there is a connection for it. It is served although others give up waiting.
    pub(super) async fn run_late(
        &self,
        statement: impl FnOnce() -> Statement,
    ) -> Result<Vec<PgRow>, sqlx::Error> {
        let permit = self.0.patient_permit().await?;
        self.repeat(permit, &statement()).await
    }

    /// The same on the connection that is reserved for heartbeats.
    pub(super) async fn run_reserved(
        &self,
        statement: impl FnOnce() -> Statement,
    ) -> Result<Vec<PgRow>, sqlx::Error> {
        let permit = self.0.reserved_permit().await?;
        self.repeat(permit, &statement()).await
    }

    /// Runs a statement with bodies as its parameter.
    ///
    /// Behind a pooler, a statement that is prepared and then run has to be in a transaction.
    pub(super) async fn run_with_bodies(
        &self,
        statement: &Statement,
        bodies: &[&[u8]],
    ) -> Result<Vec<PgRow>, sqlx::Error> {
        const BEGIN: &str = "BEGIN; SET LOCAL idle_in_transaction_session_timeout = '5s'";
        let run = async |connection: &mut OwnConnection| {
            let limit = connection.limits.of_statements(statement.limit);
            let begin = format!("{BEGIN};\n{PREFIX};\n{limit}");
            let constraints = connection.limits.of_constraints(statement.limit);
            let commit = format!("{constraints};\nCOMMIT");
            let connection = &mut connection.inner;
            sqlx::raw_sql(AssertSqlSafe(begin))
                .execute(&mut *connection)
                .await?;
            let query = sqlx::query(AssertSqlSafe(statement.text()));
            let query = query.persistent(false).bind(bodies);
            let rows = query.fetch_all(&mut *connection).await?;
            sqlx::raw_sql(AssertSqlSafe(commit))
                .execute(&mut *connection)
                .await?;
            Ok(rows)
        };
        let mut permit = self.0.permit().await?;
        loop {
            let idle = self.0.take_idle(&permit);
            let is_new = idle.is_none();
            let connection = match idle {
                Some(connection) => connection,
                None => self.0.open(&mut permit).await.map_err(redacted)?,
            };
            let run = run(permit.use_connection(connection));
            let rows = match timeout(TIMEOUT, run).await {
                Ok(rows) => rows,
                Err(_) => Err(self.timed_out()),
            };
            let connection = permit.take_back();
            match rows {
                Ok(rows) => {
                    if let Some(connection) = connection {
                        self.0.keep(connection);
                    }
                    return Ok(rows);
                }
                Err(error) if is_new || !is_of_connection(&error) => {
                    if let Some(mut connection) = connection
                        && self.is_usable_after(&error, &mut connection).await
                        && has_rolled_back(&mut connection.inner).await
                    {
                        self.0.keep(connection);
                    }
                    return Err(redacted(error));
                }
                Err(_) => {}
            }
        }
    }

    /// Runs a statement whose answer would be wrong if it was repeated.
    pub(super) async fn run_once(&self, statement: &Statement) -> Result<Vec<PgRow>, sqlx::Error> {
        let mut permit = self.0.permit().await?;
        // An idle connection may be broken. It makes room for the new one.
        drop(self.0.take_idle(&permit));
        let connection = self.0.open(&mut permit).await.map_err(redacted)?;
        let rows = self.run_on(&mut permit, connection, statement).await;
        rows.map_err(redacted)
    }

    /// Returns whether the server ends transactions at present. It does not while a synchronous standby is absent.
    pub(super) async fn commits(&self) -> bool {
        let commits = Statement::new("commits", include_str!("sql/commits.sql"), &[]);
        self.run(&commits).await.is_ok()
    }

    async fn repeat(
        &self,
        mut permit: Permit,
        statement: &Statement,
    ) -> Result<Vec<PgRow>, sqlx::Error> {
        // The server or a pooler may have closed each of the idle connections.
        while let Some(connection) = self.0.take_idle(&permit) {
            match self.run_on(&mut permit, connection, statement).await {
                Err(error) if is_of_connection(&error) => {}
                rows => return rows.map_err(redacted),
            }
        }
        let connection = self.0.open(&mut permit).await.map_err(redacted)?;
        let rows = self.run_on(&mut permit, connection, statement).await;
        rows.map_err(redacted)
    }

    /// Runs the statement, and keeps the connection if it can be used again.
    async fn run_on(
        &self,
        permit: &mut Permit,
        connection: OwnConnection,
        statement: &Statement,
    ) -> Result<Vec<PgRow>, sqlx::Error> {
        let limit = connection.limits.of_statements(statement.limit);
        let constraints = connection.limits.of_constraints(statement.limit);
        let sql = format!("{PREFIX};\n{limit};\n{};\n{constraints}", statement.text());
        let connection = &mut permit.use_connection(connection).inner;
        let run = sqlx::raw_sql(AssertSqlSafe(sql)).fetch_all(connection);
        let rows = match timeout(TIMEOUT, run).await {
            Ok(rows) => rows.and_then(|rows| of_statement(statement.name, rows)),
            Err(_) => Err(self.timed_out()),
        };
        if let Some(mut connection) = permit.take_back() {
            let is_usable = match &rows {
                Err(error) => self.is_usable_after(error, &mut connection).await,
                Ok(_) => true,
            };
            if is_usable {
                self.0.keep(connection);
            }
        }
        rows
    }

    fn timed_out(&self) -> sqlx::Error {
        self.0.close_idle();
        io::Error::from(io::ErrorKind::TimedOut).into()
    }

    /// Returns whether the connection can be used again after this error.
    async fn is_usable_after(&self, error: &sqlx::Error, connection: &mut OwnConnection) -> bool {
        // The server is a standby, or is configured to write nothing.
        if has_sqlstate(error, &["25006"]) {
            has_rolled_back(&mut connection.inner).await && is_primary(&mut connection.inner).await
        } else {
            !is_unusable(error)
        }
    }
}

/// Checks that each row begins with the name of its statement.
fn of_statement(name: &'static str, rows: Vec<PgRow>) -> Result<Vec<PgRow>, sqlx::Error> {
    // The first column of another statement can have another type.
    let is_its_own = |row: &PgRow| row.try_get::<&str, _>(0).is_ok_and(|found| found == name);
    if rows.iter().all(is_its_own) {
        return Ok(rows);
    }
    Err(UnexpectedAnswer(name).into())
}

/// Returns whether the connection was broken, so that another one may work.
fn is_of_connection(error: &sqlx::Error) -> bool {
    match error {
        sqlx::Error::Io(error) => error.kind() != io::ErrorKind::TimedOut,
        error => is_fatal(error),
    }
}

/// Returns whether the connection must not be used again: it is broken, or it may still run the statement. One whose
/// statement the server has ended can be used.
fn is_unusable(error: &sqlx::Error) -> bool {
    error.as_database_error().is_none() || is_fatal(error)
}

/// Ends a transaction that has failed, if there is one.
async fn has_rolled_back(connection: &mut PgConnection) -> bool {
    let roll_back = sqlx::raw_sql("ROLLBACK").execute(connection);
    matches!(timeout(TIMEOUT, roll_back).await, Ok(Ok(_)))
}

/// Returns whether the connection leads to a primary. A new one to a standby may lead elsewhere, once its address has
/// moved.
async fn is_primary(connection: &mut PgConnection) -> bool {
    let ask = sqlx::raw_sql("SELECT NOT pg_is_in_recovery()").fetch_one(connection);
    let answer = timeout(TIMEOUT, ask).await;
    answer.is_ok_and(|row| row.is_ok_and(|row| row.try_get(0).unwrap_or(false)))
}

/// Returns whether the server has ended the statement after its time, or has not answered.
pub(super) fn took_too_long(error: &sqlx::Error) -> bool {
    has_sqlstate(error, &[TOOK_TOO_LONG]) || is_unanswered(error)
}

/// Returns whether one row may be the cause that a worker's statement has failed. Some triggers cannot be interrupted, so that the
/// server does not answer.
pub(super) fn is_of_a_row(error: &sqlx::Error) -> bool {
    is_of_an_item(error) || is_unanswered(error)
}

/// Returns whether the server has not answered, so that the statement may take effect, now or later.
pub(super) fn is_unanswered(error: &sqlx::Error) -> bool {
    matches!(error, sqlx::Error::Io(error) if error.kind() == io::ErrorKind::TimedOut)
}

/// Returns whether one item of a statement may be the cause: its data, a constraint, a limit, a lock, or a trigger of the
/// application, which can have any error code.
pub(super) fn is_of_an_item(error: &sqlx::Error) -> bool {
    error.as_database_error().is_some() && !is_fatal(error)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::util::postgres::tests::Refused;

    #[test]
    fn an_error_may_be_of_a_row_if_the_server_refuses_the_statement_or_does_not_answer() {
        let refused = |code| sqlx::Error::Database(Box::new(Refused(code)));
        let io = |kind: io::ErrorKind| sqlx::Error::Io(kind.into());
        for (error, is_too_long, is_of_an_item_, is_of_a_row_) in [
            (refused("23514"), false, true, true),
            (refused(TOOK_TOO_LONG), true, true, true),
            (io(io::ErrorKind::TimedOut), true, false, true),
            (io(io::ErrorKind::ConnectionReset), false, false, false),
            (sqlx::Error::PoolTimedOut, false, false, false),
        ] {
            assert_eq!(took_too_long(&error), is_too_long, "{error}");
            assert_eq!(is_of_an_item(&error), is_of_an_item_, "{error}");
            assert_eq!(is_of_a_row(&error), is_of_a_row_, "{error}");
        }
    }
}
