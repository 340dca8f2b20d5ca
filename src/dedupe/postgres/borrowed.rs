//! A connection of the pool, for one statement.

use sqlx::pool::PoolConnection;
use sqlx::postgres::PgRow;
use sqlx::{PgPool, Postgres};

use super::Query;

/// Dropped in mid-statement, because that took too long, the connection is closed, for which sqlx
/// takes five seconds at the most, and its place in the pool is free. The pool would take it back
/// and wait for it: where a network swallows everything, until the kernel gives up, a quarter of an
/// hour or so, with one place after the other.
pub(super) struct Borrowed(Option<PoolConnection<Postgres>>);

impl Borrowed {
    pub(super) async fn from(pool: &PgPool) -> Result<Self, sqlx::Error> {
        pool.acquire()
            .await
            .map(|connection| Self(Some(connection)))
    }

    /// Runs the statement; whatever it came to, the pool has the connection again.
    pub(super) async fn run(mut self, statement: Query) -> Result<Option<PgRow>, sqlx::Error> {
        let connection = self.0.as_mut().ok_or(sqlx::Error::PoolClosed)?;
        let outcome = statement.fetch_optional(&mut **connection).await;
        if !outcome.as_ref().is_err_and(is_useless_after) {
            drop(self.0.take());
        }
        outcome
    }
}

/// A server that may not write any more, since another has taken over.
fn is_useless_after(error: &sqlx::Error) -> bool {
    let code = error.as_database_error().and_then(|error| error.code());
    code.as_deref() == Some("25006")
}

impl Drop for Borrowed {
    fn drop(&mut self) {
        if let Some(mut connection) = self.0.take() {
            connection.close_on_drop();
        }
    }
}
