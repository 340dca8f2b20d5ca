//! Creating the table, and migrating earlier versions of it.

use sqlx::error::BoxDynError;
use sqlx::postgres::PgRow;
use sqlx::{Postgres, Row as _, Transaction};

use super::PostgresLedger;

/// The prefix of the table's comment. The version follows.
const SCHEMA: &str = "mx-job-webhook schema ";
const VERSION: &str = "1";

impl PostgresLedger {
    /// The SQL that [`create_table`](Self::create_table) applies.
    ///
    /// Use it in migrations of your own, and if the application's role may not create tables. The
    /// owner of the schema applies it, with the `search_path` of the application. Then grant the
    /// application's role `USAGE` on the schema, `SELECT`, `INSERT` and `UPDATE` on the table, and
    /// `DELETE` if the application calls `prune`.
    ///
    /// The SQL also migrates a table of an earlier version. Applying it again changes nothing, but
    /// it waits for open transactions, and new ones wait for it. Apply it once.
    pub const TABLE: &str = include_str!("sql/table.sql");

    /// Creates the table, or migrates a table of an earlier version.
    ///
    /// Several replicas may call it at the same time, and at every start. If the table already has
    /// this version, the method locks nothing, and needs no permission to create or alter tables.
    /// The table's comment contains its version.
    ///
    /// The migration of a table from before version 1 (`updated_at bigint`) rewrites the table, and
    /// blocks all other access: some seconds for a million rows. Replicas of the earlier release
    /// continue to work with the new table, so a rolling deployment loses nothing.
    ///
    /// # Errors
    ///
    /// If the database cannot be reached, or its user may not create or alter the table. The error
    /// is `Configuration`
    ///
    /// - if the encoding of the database is neither UTF-8 nor `SQL_ASCII`. An event whose guid it
    ///   cannot encode would always be answered 503;
    /// - if the table has a later version, or columns that this release does not know;
    /// - if the role may not read and write the table.
    pub async fn create_table(&self) -> Result<(), sqlx::Error> {
        // `IF NOT EXISTS` can fail if two replicas create the table at the same time, so they take
        // a lock, with a number that only this ledger uses. The statements have no parameters and
        // are not prepared, because a pooler may mix up prepared statements.
        const LOCK: &str = "SELECT pg_advisory_xact_lock(7888171773965329762)";
        let mut transaction = self.pool.begin().await?;
        sqlx::raw_sql(LOCK).execute(&mut *transaction).await?;
        let found = sqlx::raw_sql(include_str!("sql/look.sql"))
            .fetch_one(&mut *transaction)
            .await?;
        apply(&found, &mut transaction).await?;
        transaction.commit().await
    }
}

/// Creates or migrates the table if necessary.
///
/// If the table exists, not even `CREATE INDEX IF NOT EXISTS` is executed. It would wait for all
/// transactions that have written to the table, and new ones would wait for it.
async fn apply(
    found: &PgRow,
    transaction: &mut Transaction<'_, Postgres>,
) -> Result<(), sqlx::Error> {
    let encoding: String = found.try_get("encoding")?;
    if !["UTF8", "SQL_ASCII"].contains(&encoding.as_str()) {
        return Err(refused(format!(
            "the database's encoding is {encoding}, but the ledger needs UTF8 to store every guid"
        )));
    }
    let Some(columns) = found.try_get::<Option<String>, _>("columns")? else {
        return execute(PostgresLedger::TABLE, transaction).await;
    };
    let comment: Option<String> = found.try_get("comment")?;
    let version = comment
        .as_deref()
        .and_then(|comment| comment.strip_prefix(SCHEMA));
    let is_owner: bool = found.try_get("is_owner")?;
    let has_columns = |updated_at| {
        [
            "job text",
            "event text",
            updated_at,
            "token bigint",
            "leased_until timestamp with time zone",
            "settled_at timestamp with time zone",
        ]
        .iter()
        .all(|expected| columns.split(", ").any(|column| column == *expected))
    };
    match version {
        Some(version) if version != VERSION => Err(refused(format!(
            "the table mx_job_webhook_events has version {version}, but this release needs version {VERSION}"
        ))),
        None if has_columns("updated_at bigint") => {
            execute(PostgresLedger::TABLE, transaction).await
        }
        _ if !has_columns("updated_at numeric") => Err(refused(
            "the columns of the table mx_job_webhook_events differ from `PostgresLedger::TABLE`"
                .into(),
        )),
        _ if !found.try_get::<bool, _>("has_privileges")? => Err(refused(
            "the role lacks a privilege on the table mx_job_webhook_events: \
             GRANT SELECT, INSERT, UPDATE, and DELETE for `prune`"
                .into(),
        )),
        None if is_owner => {
            let mark = include_str!("sql/mark.sql");
            execute(mark, transaction).await
        }
        _ => Ok(()),
    }
}

async fn execute(
    sql: &'static str,
    transaction: &mut Transaction<'_, Postgres>,
) -> Result<(), sqlx::Error> {
    sqlx::raw_sql(sql).execute(&mut **transaction).await?;
    Ok(())
}

fn refused(why: String) -> sqlx::Error {
    sqlx::Error::Configuration(BoxDynError::from(why))
}
