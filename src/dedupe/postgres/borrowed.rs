//! A connection of the pool, for one statement.

use sqlx::pool::PoolConnection;
use sqlx::postgres::PgRow;
use sqlx::{PgPool, Postgres};

use super::Query;

/// Dropped in mid-statement, because that took too long, the connection is closed and its place in
/// the pool is free at once. The pool would take it back and wait for it: where a network swallows
/// everything, until the kernel gives up, a quarter of an hour or so, with one place after the other.
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
        drop(self.0.take());
        outcome
    }
}

impl Drop for Borrowed {
    fn drop(&mut self) {
        if let Some(connection) = self.0.take() {
            drop(connection.detach());
        }
    }
}
