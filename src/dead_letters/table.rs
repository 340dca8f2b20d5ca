//! Creating the table.

use super::PostgresDeadLetters;
use crate::util::postgres::Table;

const TABLE: Table = Table {
    name: "mx_job_webhook_dead_letters",
    sql: PostgresDeadLetters::TABLE,
    store: "PostgresDeadLetters",
    schema: "mx-job-webhook dead letters schema ",
    version: "1",
    columns: &[
        "queue text",
        "name text",
        "kind text",
        "guid bytea",
        "status text",
        "tries bigint",
        "error text",
        "body bytea",
        "first_failed_at timestamp with time zone",
        "failed_at timestamp with time zone",
        "revision bigint",
        "fence bigint",
        "replaying_until timestamp with time zone",
    ],
    lock: 7_888_171_773_965_329_764,
};

impl PostgresDeadLetters {
    /// The SQL that [`create_table`](Self::create_table) applies.
    ///
    /// Use it in migrations of your own, and if the application's role may not create tables. The
    /// owner of the schema applies it, with the `search_path` of the application. Then grant the
    /// application's role `USAGE` on the schema, and `SELECT`, `INSERT`, `UPDATE` and `DELETE` on the
    /// table.
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
