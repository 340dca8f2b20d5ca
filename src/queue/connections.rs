//! The queue's own connections.

use std::io;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use sqlx::pool::PoolConnection;
use sqlx::postgres::{PgConnectOptions, PgRow};
use sqlx::{AssertSqlSafe, PgConnection, PgPool, Postgres, Row as _};
use tokio::runtime::Handle;
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
    pub(super) async fn run(&self, statement: &Statement) -> Result<Vec<PgRow>, sqlx::Error> {
        let answers = self.run_all(std::slice::from_ref(statement)).await?;
        Ok(answers.into_iter().next().unwrap_or_default())
    }

    /// Runs statements of different names in one transaction and one round trip, and returns the rows of each.
    ///
    /// If the connection turns out to be broken before the server has answered, the caller cannot know whether the
    /// statements took effect. All statements of the queue may be repeated.
    pub(super) async fn run_all(
        &self,
        statements: &[Statement],
    ) -> Result<Vec<Vec<PgRow>>, sqlx::Error> {
        // The server or a pooler may have closed each of the idle connections.
        for _ in 0..self.own.size() {
            match self.run_once(statements).await {
                Err(error) if is_of_connection(&error) => {}
                answers => return answers,
            }
        }
        self.run_once(statements).await
    }

    async fn run_once(&self, statements: &[Statement]) -> Result<Vec<Vec<PgRow>>, sqlx::Error> {
        if self.application.is_closed() {
            return Err(sqlx::Error::PoolClosed);
        }
        self.follow_options();
        let mut connection = Lease::new(self.own.acquire().await?);
        // Several statements in one message are one transaction, without `BEGIN`. If the default isolation is
        // stricter, concurrent writes would make it fail.
        let mut sql = "SET TRANSACTION ISOLATION LEVEL READ COMMITTED".to_owned();
        for Statement { name, sql: text } in statements {
            sql += ";\n/* mx-job-webhook ";
            sql += name;
            sql += " */\n";
            sql += text;
        }
        let run = sqlx::raw_sql(AssertSqlSafe(sql)).fetch_all(&mut *connection.inner);
        let answers = match timeout(TIMEOUT, run).await {
            Ok(rows) => rows.and_then(|rows| by_statement(rows, statements)),
            Err(_) => Err(io::Error::from(io::ErrorKind::TimedOut).into()),
        };
        let is_unusable = match &answers {
            Err(error) if is_of_read_only(error) => !is_primary(&mut connection.inner).await,
            Err(error) => is_unusable(error),
            Ok(_) => false,
        };
        if is_unusable {
            connection.close();
        }
        answers
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

/// A connection that returns to its pool within a limited time.
///
/// sqlx checks a connection that returns, and waits for the answer without a limit. If the network stalls at that
/// moment, the connection would count as used for as long as the process lives.
struct Lease {
    inner: PoolConnection<Postgres>,
    is_closed: bool,
}

impl Lease {
    fn new(inner: PoolConnection<Postgres>) -> Self {
        Self {
            inner,
            is_closed: false,
        }
    }

    fn close(mut self) {
        self.inner.close_on_drop();
        self.is_closed = true;
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        if self.is_closed {
            return;
        }
        // If it does not return in time, or there is no runtime, it is closed.
        let returned = self.inner.return_to_pool();
        if let Ok(runtime) = Handle::try_current() {
            runtime.spawn(async move { timeout(TIMEOUT, returned).await });
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

/// Returns the rows of each statement. Each row begins with the name of its statement.
fn by_statement(
    rows: Vec<PgRow>,
    statements: &[Statement],
) -> Result<Vec<Vec<PgRow>>, sqlx::Error> {
    let mut answers: Vec<Vec<PgRow>> = statements.iter().map(|_| Vec::new()).collect();
    for row in rows {
        let name: &str = row.try_get(0)?;
        let statement = statements
            .iter()
            .position(|statement| statement.name == name);
        let statement = statement.ok_or_else(|| unexpected("another"))?;
        answers[statement].push(row);
    }
    Ok(answers)
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
