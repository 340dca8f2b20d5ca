//! Running statements on the pool's connections.

use std::sync::atomic::Ordering;

use sqlx::postgres::{PgArguments, PgRow};
use sqlx::query::Query;
use sqlx::{AssertSqlSafe, Postgres};

use super::PostgresWatchStore;
use super::call::Replace;
use crate::util::postgres::{check, has_sqlstate, is_unusable};

/// The `SQLSTATE` of a race that a strictly isolated transaction detects.
const SERIALISATION_FAILURE: &str = "40001";

/// A call of a prepared statement.
pub(super) enum Prepared<'a> {
    Load(Vec<String>),
    Replace(&'a Replace),
}

impl Prepared<'_> {
    fn name(&self) -> &'static str {
        match self {
            Self::Load(_) => "watch_load",
            Self::Replace(_) => "watch_replace",
        }
    }

    fn query(&self) -> Query<'_, Postgres, PgArguments> {
        match self {
            Self::Load(jobs) => sqlx::query(include_str!("sql/watch_load.sql"))
                .bind(self.name())
                .bind(jobs),
            Self::Replace(replace) => sqlx::query(include_str!("sql/watch_replace.sql"))
                .bind(self.name())
                .bind(&replace.job)
                .bind(&replace.guid)
                .bind(replace.expected)
                .bind(&replace.entry)
                .bind(replace.is_due_as_before)
                .bind(replace.due)
                .bind(replace.keep)
                .bind(&replace.notification),
        }
    }
}

/// A statement that is not prepared, with numbers as its parameters.
pub(super) struct Simple {
    name: &'static str,
    sql: String,
}

/// Returns the statement with its name and these numbers in place of its parameters.
///
/// The server plans it each time. A plan that was made for a small table would read the whole
/// table when it has grown.
pub(super) fn simple(sql: &str, name: &'static str, numbers: &[i64]) -> Simple {
    let mut sql = sql.replace("$1", &format!("'{name}'"));
    for (index, number) in numbers.iter().enumerate() {
        sql = sql.replace(&format!("${}", index + 2), &number.to_string());
    }
    Simple { name, sql }
}

impl PostgresWatchStore {
    /// Runs a prepared statement, and returns its rows, at least one.
    pub(super) async fn run(&self, call: &Prepared<'_>) -> Result<Vec<PgRow>, sqlx::Error> {
        if !self.sets_isolation.load(Ordering::Relaxed) {
            match self.run_as_it_is(call).await {
                Err(error) if has_sqlstate(&error, &[SERIALISATION_FAILURE]) => {
                    self.sets_isolation.store(true, Ordering::Relaxed);
                }
                rows => return rows,
            }
        }
        // The timeout releases the locks if this process dies.
        let begin = "BEGIN ISOLATION LEVEL READ COMMITTED; SET LOCAL idle_in_transaction_session_timeout = '5s'";
        let mut transaction = self.pool.begin_with(begin).await?;
        let rows = call.query().fetch_all(&mut *transaction).await?;
        let rows = check(rows, &[call.name()])?;
        transaction.commit().await?;
        Ok(rows)
    }

    async fn run_as_it_is(&self, call: &Prepared<'_>) -> Result<Vec<PgRow>, sqlx::Error> {
        let mut connection = self.pool.acquire().await?;
        let rows = call.query().fetch_all(&mut *connection).await;
        let rows = rows.and_then(|rows| check(rows, &[call.name()]));
        if rows.as_ref().is_err_and(is_unusable) {
            connection.close_on_drop();
        }
        rows
    }

    /// Runs statements in one transaction and one round trip, and returns their rows.
    ///
    /// Each statement returns at least one row.
    pub(super) async fn run_simple(
        &self,
        statements: &[Simple],
    ) -> Result<Vec<PgRow>, sqlx::Error> {
        // Several statements in one message are one transaction, without `BEGIN`. If the default
        // isolation is stricter, concurrent writes would make it fail.
        let mut sql = "SET TRANSACTION ISOLATION LEVEL READ COMMITTED".to_owned();
        for statement in statements {
            sql.push_str(";\n");
            sql.push_str(&statement.sql);
        }
        let names: Vec<_> = statements.iter().map(|statement| statement.name).collect();
        let mut connection = self.pool.acquire().await?;
        let rows = sqlx::raw_sql(AssertSqlSafe(sql))
            .fetch_all(&mut *connection)
            .await;
        if rows.as_ref().is_err_and(is_unusable) {
            connection.close_on_drop();
        }
        check(rows?, &names)
    }
}
