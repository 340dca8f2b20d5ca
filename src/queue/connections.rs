//! The queue's own connections.

use std::io;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use sqlx::postgres::{PgConnectOptions, PgRow};
use sqlx::{AssertSqlSafe, PgConnection, PgPool, Row as _};
use tokio::time::timeout;

use super::statement::Statement;

/// How long a statement may take, and how long opening a connection for it.
pub(super) const TIMEOUT: Duration = Duration::from_secs(5);

/// Runs statements on connections of its own, which it opens as the application's pool does.
///
/// It takes none of that pool's connections, because callbacks may hold all of them, and then a worker would count
/// as dead.
pub(super) struct Connections {
    application: PgPool,
    own: PgPool,
    /// The options of `own`. The application may change those of its pool, for example to a new password.
    options: Mutex<Arc<PgConnectOptions>>,
}

impl Connections {
    pub(super) fn like(application: &PgPool, max_connections: u32) -> Self {
        let options = application.connect_options();
        let own = application
            .options()
            .clone()
            .max_connections(max_connections)
            .min_connections(0)
            .acquire_timeout(TIMEOUT)
            // A broken connection shows in the statement, which is then repeated or reported.
            .test_before_acquire(false);
        Self {
            own: own.connect_lazy_with((*options).clone()),
            application: application.clone(),
            options: Mutex::new(options),
        }
    }

    pub(super) fn max(&self) -> u32 {
        self.own.options().get_max_connections()
    }

    pub(super) fn application(&self) -> &PgPool {
        &self.application
    }

    /// Runs a statement in a transaction of its own, in one round trip, and returns its rows.
    ///
    /// If the connection turns out to be broken before the server has answered, the caller cannot know whether the
    /// statement took effect. All statements of the queue may be repeated.
    pub(super) async fn run(&self, statement: &Statement) -> Result<Vec<PgRow>, sqlx::Error> {
        // The server or a pooler may have closed each of the idle connections.
        for _ in 0..self.own.size() {
            match self.run_once(statement).await {
                Err(error) if is_of_connection(&error) => {}
                rows => return rows,
            }
        }
        self.run_once(statement).await
    }

    async fn run_once(&self, statement: &Statement) -> Result<Vec<PgRow>, sqlx::Error> {
        if self.application.is_closed() {
            return Err(sqlx::Error::PoolClosed);
        }
        self.follow_options();
        let mut connection = self.own.acquire().await?;
        // Several statements in one message are one transaction, without `BEGIN`. If the default isolation is
        // stricter, concurrent writes would make it fail.
        let sql = format!(
            "/* mx-job-webhook {} */ SET TRANSACTION ISOLATION LEVEL READ COMMITTED;\n{}",
            statement.name, statement.sql
        );
        let run = sqlx::raw_sql(AssertSqlSafe(sql)).fetch_all(&mut *connection);
        let rows = match timeout(TIMEOUT, run).await {
            Ok(rows) => rows.and_then(|rows| check(rows, statement.name)),
            Err(_) => Err(io::Error::from(io::ErrorKind::TimedOut).into()),
        };
        let is_unusable = match &rows {
            Err(error) if is_of_read_only(error) => !is_primary(&mut connection).await,
            Err(error) => is_unusable(error),
            Ok(_) => false,
        };
        if is_unusable {
            connection.close_on_drop();
        }
        rows
    }

    fn follow_options(&self) {
        let current = self.application.connect_options();
        let mut options = self.options.lock().unwrap_or_else(PoisonError::into_inner);
        if !Arc::ptr_eq(&options, &current) {
            self.own.set_connect_options((*current).clone());
            *options = current;
        }
    }
}

/// The answer of a statement is not the expected one.
#[derive(Debug)]
struct UnexpectedAnswer(&'static str);

impl std::fmt::Display for UnexpectedAnswer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "the answer is not one of the statement `{}`", self.0)
    }
}

impl std::error::Error for UnexpectedAnswer {}

/// Returns an error if the rows are not those of this statement.
fn check(rows: Vec<PgRow>, name: &'static str) -> Result<Vec<PgRow>, sqlx::Error> {
    let is_of_statement = |row: &PgRow| row.try_get(0).is_ok_and(|found: &str| found == name);
    if !rows.iter().all(is_of_statement) {
        return Err(unexpected(name));
    }
    Ok(rows)
}

pub(super) fn unexpected(name: &'static str) -> sqlx::Error {
    sqlx::Error::Decode(UnexpectedAnswer(name).into())
}

/// Returns whether the connection was broken, so that another one may work.
fn is_of_connection(error: &sqlx::Error) -> bool {
    match error {
        sqlx::Error::Io(error) => error.kind() != io::ErrorKind::TimedOut,
        sqlx::Error::Database(error) => matches!(error.code().as_deref(), Some("57P01" | "57P02")),
        _ => false,
    }
}

/// Returns whether the connection must not be used again: it is broken, or it may still run the statement.
fn is_unusable(error: &sqlx::Error) -> bool {
    match error {
        sqlx::Error::Database(error) => error.code().unwrap_or_default().starts_with("57P"),
        _ => true,
    }
}

/// Returns whether the server may not write, because it is a standby or is configured so.
fn is_of_read_only(error: &sqlx::Error) -> bool {
    error
        .as_database_error()
        .and_then(|error| error.code())
        .as_deref()
        == Some("25006")
}

/// Returns whether the connection leads to a primary. A new one to a standby may lead elsewhere, once its address has
/// moved.
async fn is_primary(connection: &mut PgConnection) -> bool {
    let ask = sqlx::raw_sql("SELECT NOT pg_is_in_recovery()").fetch_one(connection);
    let answer = timeout(TIMEOUT, ask).await;
    answer.is_ok_and(|row| row.is_ok_and(|row| row.try_get(0).unwrap_or(false)))
}
