//! Without the feature `queue`, each store uses the application's pool.

use sqlx::postgres::PgRow;

use super::run::Statement;

pub(super) enum OwnConnections {}

impl OwnConnections {
    pub(super) async fn run(&self, _: Statement<'_>) -> Result<Vec<PgRow>, sqlx::Error> {
        match *self {}
    }
}
