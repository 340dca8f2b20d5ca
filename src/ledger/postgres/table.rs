//! The table, and which version of it is there.

use sqlx::error::BoxDynError;
use sqlx::postgres::PgRow;
use sqlx::{Postgres, Row as _, Transaction};

use super::PostgresLedger;

/// Stands in the table's comment, before the version.
const SCHEMA: &str = "mx-job-webhook schema ";
const VERSION: &str = "1";

impl PostgresLedger {
    /// The SQL that [`create_table`](Self::create_table) applies.
    ///
    /// For migrations of your own, and for roles that may not create tables: print it, and have the owner of the
    /// schema apply it, with the `search_path` of the application. Then grant the application's role `SELECT`,
    /// `INSERT` and `UPDATE` on the table, `DELETE` where it calls `prune`, and `USAGE` on the schema. It also brings a table of an earlier version to this one. Applied twice it changes nothing,
    /// but it waits for open transactions, and all others wait for it: once is enough.
    pub const TABLE: &str = include_str!("sql/table.sql");

    /// Creates the table if it is not there, and brings one of an earlier version to this one.
    ///
    /// Several replicas may call it at once, and at every start: if the table exists in this version, it takes no
    /// lock on it and needs no right to create or alter tables. The table's version stands in its comment.
    ///
    /// The migration from the shape before version 1 (`updated_at bigint`) rewrites the table while all others wait:
    /// some seconds for a million rows. Replicas of the earlier version work on with the new table, so a rolling
    /// deployment loses nothing.
    ///
    /// # Errors
    ///
    /// If the database cannot be reached, or its user may not create or alter the table. `Configuration`, if
    /// the database's encoding is neither UTF-8 nor `SQL_ASCII` (a guid that it cannot encode would be
    /// always answered 503), the table is of a later version or of a shape that this version does not know, or
    /// the role may not read and write it.
    pub async fn create_table(&self) -> Result<(), sqlx::Error> {
        // Without parameters, so nothing is prepared: a pooler may mix prepared statements up. The number is the
        // ledger's alone; `IF NOT EXISTS` fails where two do it at once.
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

/// Applies what is missing. If the table is there, not even `IF NOT EXISTS` is asked: an index waits for every
/// transaction that has written to the table, and all others then wait for the index.
async fn apply(
    found: &PgRow,
    transaction: &mut Transaction<'_, Postgres>,
) -> Result<(), sqlx::Error> {
    let encoding: String = found.try_get("encoding")?;
    if !["UTF8", "SQL_ASCII"].contains(&encoding.as_str()) {
        return Err(refused(format!(
            "the database's encoding is {encoding}: the ledger needs UTF8, in which every guid can be stored"
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
    let are_those_with = |updated_at| {
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
            "the table mx_job_webhook_events is of version {version}, and this is version {VERSION}"
        ))),
        None if are_those_with("updated_at bigint") => {
            execute(PostgresLedger::TABLE, transaction).await
        }
        _ if !are_those_with("updated_at numeric") => Err(refused(
            "the table mx_job_webhook_events has another shape than `PostgresLedger::TABLE`".into(),
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
