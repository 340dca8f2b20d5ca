//! The queue's own connections.

use std::io;
use std::slice;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use sqlx::postgres::{PgConnectOptions, PgRow};
use sqlx::{AssertSqlSafe, ConnectOptions as _, PgConnection, PgPool, Row as _};
use tokio::sync::{Semaphore, SemaphorePermit};
use tokio::time::{Instant, timeout};

use super::statement::Statement;

/// How long a statement may take, and how long opening a connection for it.
pub(super) const TIMEOUT: Duration = Duration::from_secs(5);

/// For how long a connection may be idle before it is closed.
const IDLE: Duration = Duration::from_secs(60);

/// What precedes the statements of a message. Several statements in one message are one transaction, without `BEGIN`.
///
/// - If the default isolation is stricter, concurrent writes would make it fail.
/// - The database may have another form for bytes, which cannot be read.
/// - The server ends a statement that waits too long, such as for a locked table. Without a limit, its session would
///   remain after the client has left, and one more with each attempt.
const PREFIX: &str = "SET TRANSACTION ISOLATION LEVEL READ COMMITTED;
SET LOCAL bytea_output = 'hex';
SELECT 'settings', set_config('statement_timeout', '4500ms', true)
    WHERE current_setting('statement_timeout') = '0'";

/// Runs statements on connections of its own, which it opens as the application's pool does.
///
/// It takes none of that pool's connections, because callbacks may hold all of them, and then a worker would count
/// as dead. A pool of sqlx only opens the connections. It would check each one that returns, and wait for the answer
/// without a limit.
pub(super) struct Connections {
    application: PgPool,
    opening: PgPool,
    /// The options of `opening`. The application may change those of its pool, for example to a new password.
    options: Mutex<Arc<PgConnectOptions>>,
    permits: Semaphore,
    idle: Mutex<Vec<IdleConnection>>,
    max: u32,
}

struct IdleConnection {
    inner: PgConnection,
    opened: Instant,
    used: Instant,
}

impl Connections {
    pub(super) fn like(application: &PgPool, max_connections: u32) -> Self {
        let options = application.connect_options();
        let quiet = quiet(&options);
        let opening = application
            .options()
            .clone()
            .max_connections(max_connections)
            .min_connections(0)
            .acquire_timeout(TIMEOUT)
            .idle_timeout(None)
            .max_lifetime(None);
        let permits = usize::try_from(max_connections).unwrap_or(usize::MAX);
        Self {
            opening: opening.connect_lazy_with(quiet),
            application: application.clone(),
            options: Mutex::new(options),
            permits: Semaphore::new(permits.min(Semaphore::MAX_PERMITS)),
            idle: Mutex::default(),
            max: max_connections,
        }
    }

    pub(super) fn max(&self) -> u32 {
        self.max
    }

    pub(super) fn application(&self) -> &PgPool {
        &self.application
    }

    /// Runs a statement in a transaction of its own, in one round trip, and returns its rows.
    pub(super) async fn run(&self, statement: &Statement) -> Result<Vec<PgRow>, sqlx::Error> {
        let answers = self.run_all(slice::from_ref(statement)).await?;
        Ok(answers.into_iter().next().unwrap_or_default())
    }

    /// Runs statements of different names in one transaction and one round trip, and returns the rows of each.
    ///
    /// If the connection turns out to be broken before the server has answered, the statements are repeated, although
    /// they may have taken effect.
    pub(super) async fn run_all(
        &self,
        statements: &[Statement],
    ) -> Result<Vec<Vec<PgRow>>, sqlx::Error> {
        let _permit = self.permit().await?;
        self.repeat(statements).await
    }

    /// Runs a statement that is made when there is a connection for it.
    pub(super) async fn run_late(
        &self,
        statement: impl FnOnce() -> Statement,
    ) -> Result<Vec<PgRow>, sqlx::Error> {
        let _permit = self.permit().await?;
        let answers = self.repeat(&[statement()]).await?;
        Ok(answers.into_iter().next().unwrap_or_default())
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
        let begin = format!("{BEGIN}; {PREFIX}");
        let run = async |connection: &mut PgConnection| {
            sqlx::raw_sql(AssertSqlSafe(begin.clone()))
                .execute(&mut *connection)
                .await?;
            let query = sqlx::query(AssertSqlSafe(statement.text()));
            let query = query.persistent(false).bind(bodies);
            let rows = query.fetch_all(&mut *connection).await?;
            sqlx::raw_sql("COMMIT").execute(&mut *connection).await?;
            Ok(rows)
        };
        let _permit = self.permit().await?;
        loop {
            let idle = self.take_idle();
            let is_new = idle.is_none();
            let mut connection = match idle {
                Some(connection) => connection,
                None => self.open().await?,
            };
            let rows = match timeout(TIMEOUT, run(&mut connection.inner)).await {
                Ok(rows) => rows,
                Err(_) => Err(io::Error::from(io::ErrorKind::TimedOut).into()),
            };
            match rows {
                Ok(rows) => {
                    self.keep(connection);
                    return Ok(rows);
                }
                Err(error) if is_new || !is_of_connection(&error) => {
                    if self.is_usable_after(&error, &mut connection).await
                        && has_rolled_back(&mut connection.inner).await
                    {
                        self.keep(connection);
                    }
                    return Err(error);
                }
                Err(_) => {}
            }
        }
    }

    /// Runs a statement whose answer would be wrong if it was repeated.
    pub(super) async fn run_once(&self, statement: &Statement) -> Result<Vec<PgRow>, sqlx::Error> {
        let _permit = self.permit().await?;
        // An idle connection may be broken. It makes room for the new one.
        drop(self.take_idle());
        let connection = self.open().await?;
        let answers = self.run_on(connection, slice::from_ref(statement)).await?;
        Ok(answers.into_iter().next().unwrap_or_default())
    }

    async fn permit(&self) -> Result<SemaphorePermit<'_>, sqlx::Error> {
        let permit = timeout(TIMEOUT, self.permits.acquire()).await;
        match permit {
            Ok(Ok(permit)) => Ok(permit),
            _ => Err(sqlx::Error::PoolTimedOut),
        }
    }

    async fn repeat(&self, statements: &[Statement]) -> Result<Vec<Vec<PgRow>>, sqlx::Error> {
        // The server or a pooler may have closed each of the idle connections.
        while let Some(connection) = self.take_idle() {
            match self.run_on(connection, statements).await {
                Err(error) if is_of_connection(&error) => {}
                answers => return answers,
            }
        }
        let connection = self.open().await?;
        self.run_on(connection, statements).await
    }

    /// Runs the statements, and keeps the connection if it can be used again. If this is dropped, the connection is
    /// closed.
    async fn run_on(
        &self,
        mut connection: IdleConnection,
        statements: &[Statement],
    ) -> Result<Vec<Vec<PgRow>>, sqlx::Error> {
        let mut sql = PREFIX.to_owned();
        for statement in statements {
            sql += ";\n";
            sql += &statement.text();
        }
        let run = sqlx::raw_sql(AssertSqlSafe(sql)).fetch_all(&mut connection.inner);
        let answers = match timeout(TIMEOUT, run).await {
            Ok(rows) => rows.and_then(|rows| by_statement(rows, statements)),
            Err(_) => Err(io::Error::from(io::ErrorKind::TimedOut).into()),
        };
        let is_usable = match &answers {
            Err(error) => self.is_usable_after(error, &mut connection).await,
            Ok(_) => true,
        };
        if is_usable {
            self.keep(connection);
        }
        answers
    }

    /// Returns whether the connection can be used again after this error.
    async fn is_usable_after(&self, error: &sqlx::Error, connection: &mut IdleConnection) -> bool {
        if is_of_read_only(error) {
            has_rolled_back(&mut connection.inner).await && is_primary(&mut connection.inner).await
        } else {
            !is_unusable(error)
        }
    }

    async fn open(&self) -> Result<IdleConnection, sqlx::Error> {
        if self.application.is_closed() {
            return Err(sqlx::Error::PoolClosed);
        }
        self.follow_options();
        let now = Instant::now();
        Ok(IdleConnection {
            inner: self.opening.acquire().await?.detach(),
            opened: now,
            used: now,
        })
    }

    fn keep(&self, mut connection: IdleConnection) {
        connection.used = Instant::now();
        self.idle().push(connection);
    }

    /// Takes the connection that was used last, and closes those that are too old.
    fn take_idle(&self) -> Option<IdleConnection> {
        let is_closed = self.application.is_closed();
        let lifetime = self.application.options().get_max_lifetime();
        let mut idle = self.idle();
        idle.retain(|connection| {
            let is_young = lifetime.is_none_or(|lifetime| connection.opened.elapsed() < lifetime);
            !is_closed && is_young && connection.used.elapsed() < IDLE
        });
        idle.pop()
    }

    fn idle(&self) -> MutexGuard<'_, Vec<IdleConnection>> {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn follow_options(&self) {
        let current = self.application.connect_options();
        let mut options = self.options.lock().unwrap_or_else(PoisonError::into_inner);
        if !Arc::ptr_eq(&options, &current) {
            self.opening.set_connect_options(quiet(&current));
            *options = current;
        }
    }
}

/// Returns the options without sqlx's log of statements, whose text contains values.
fn quiet(options: &PgConnectOptions) -> PgConnectOptions {
    options.clone().disable_statement_logging()
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
        if name == "settings" {
            continue;
        }
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
        sqlx::Error::Database(error) => matches!(error.code().as_deref(), Some("57P01" | "57P02" | "57P05")),
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
