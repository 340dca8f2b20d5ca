//! Running statements on connections of the pool, or on those of the queue's store.

use sqlx::postgres::{PgArguments, PgRow};
use sqlx::query::Query;
use sqlx::{AssertSqlSafe, Connection as _, PgConnection, Postgres};

use super::PostgresDeadLetters;
use crate::util::postgres::{UnexpectedAnswer, check, is_unusable, redacted};

/// A statement with its parameters. The first one is its name, the second one the name of the queue.
pub(super) struct Statement<'a> {
    name: &'static str,
    query: Query<'a, Postgres, PgArguments>,
}

impl<'a> Statement<'a> {
    fn new(name: &'static str, sql: &'static str) -> Self {
        // It is not kept as a prepared statement. The server therefore plans it with its parameters
        // and by the table's present size, and a pooler cannot run another one in its place.
        let query = sqlx::query(sql).persistent(false).bind(name);
        Self { name, query }
    }

    pub(super) fn bind<T>(mut self, value: T) -> Self
    where
        T: 'a + sqlx::Encode<'a, Postgres> + sqlx::Type<Postgres>,
    {
        self.query = self.query.bind(value);
        self
    }
}

impl PostgresDeadLetters {
    /// Returns a statement on the letters of this store's queue.
    pub(super) fn statement(&self, name: &'static str, sql: &'static str) -> Statement<'_> {
        Statement::new(name, sql).bind(&*self.queue)
    }

    /// Runs a statement, and returns its rows, at least one.
    pub(super) async fn run(&self, statement: Statement<'_>) -> Result<Vec<PgRow>, sqlx::Error> {
        if let Some(own) = &self.own {
            return own.run(statement).await.map_err(redacted);
        }
        let mut connection = self.pool.acquire().await.map_err(redacted)?;
        let rows = in_a_transaction(&mut connection, BEGIN.to_owned(), statement, None).await;
        if rows.as_ref().is_err_and(is_unusable) {
            connection.close_on_drop();
        }
        rows.map_err(redacted)
    }

    /// Runs a statement, and returns its only row.
    pub(super) async fn run_for_one(&self, statement: Statement<'_>) -> Result<PgRow, sqlx::Error> {
        let name = statement.name;
        let rows = self.run(statement).await?;
        Ok(rows.into_iter().next().ok_or(UnexpectedAnswer(name))?)
    }
}

/// With a stricter isolation, concurrent writes would make the transaction fail. The timeout releases the locks if this
/// process dies.
const BEGIN: &str =
    "BEGIN ISOLATION LEVEL READ COMMITTED; SET LOCAL idle_in_transaction_session_timeout = '5s'";

/// Runs a statement in a transaction, in which a pooler keeps the server's connection.
pub(super) async fn in_a_transaction(
    connection: &mut PgConnection,
    begin: String,
    statement: Statement<'_>,
    before_commit: Option<String>,
) -> Result<Vec<PgRow>, sqlx::Error> {
    let mut transaction = connection.begin_with(AssertSqlSafe(begin)).await?;
    let rows = statement.query.fetch_all(&mut *transaction).await?;
    let rows = check(rows, &[statement.name])?;
    if let Some(sql) = before_commit {
        sqlx::raw_sql(AssertSqlSafe(sql))
            .execute(&mut *transaction)
            .await?;
    }
    transaction.commit().await?;
    Ok(rows)
}
