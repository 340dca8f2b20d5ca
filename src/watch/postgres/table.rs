//! Creating the table.

use super::PostgresWatchStore;
use crate::util::postgres::Table;

const TABLE: Table = Table {
    name: "mx_job_webhook_watch",
    sql: PostgresWatchStore::TABLE,
    store: "PostgresWatchStore",
    schema: "mx-job-webhook watch schema ",
    version: "1",
    columns: &[
        "job text",
        "guid bytea",
        "revision bigint",
        "entry text",
        "stored_at timestamp with time zone",
        "due_at timestamp with time zone",
        "expires_at timestamp with time zone",
    ],
    lock: 7_888_171_773_965_329_763,
};

impl PostgresWatchStore {
    /// The SQL that [`create_table`](Self::create_table) applies.
    ///
    /// Use it in migrations of your own, and if the application's role may not create tables. The
    /// owner of the schema applies it, with the `search_path` of the application. Then grant the
    /// application's role `USAGE` on the schema, and `SELECT`, `INSERT`, `UPDATE` and `DELETE` on the
    /// table. `LISTEN` and `NOTIFY` need no permission.
    pub const TABLE: &str = include_str!("sql/table.sql");

    /// Creates the table.
    ///
    /// Several replicas may call it at the same time, and at every start. If the table exists, the
    /// method locks nothing, and needs no permission to create tables. The table's comment contains
    /// its version.
    ///
    /// # Errors
    ///
    /// If the database cannot be reached, or its user may not create the table. The error is
    /// `Configuration`
    ///
    /// - if the encoding of the database is neither UTF-8 nor `SQL_ASCII`;
    /// - if the table has a later version, or columns that this release does not know;
    /// - if the role may not read and write the table.
    pub async fn create_table(&self) -> Result<(), sqlx::Error> {
        TABLE.create(&self.pool).await
    }
}
