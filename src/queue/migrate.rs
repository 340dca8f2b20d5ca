//! Creating the tables.

use std::fmt::Write as _;

use apalis_postgres::PostgresStorage;
use sqlx::error::BoxDynError;
use sqlx::postgres::PgRow;
use sqlx::{AssertSqlSafe, Postgres, Row as _, Transaction};

use super::JobQueue;

/// The comment of an index of this crate. The version follows.
const SCHEMA: &str = "mx-job-webhook queue schema ";
const VERSION: &str = "1";

/// The oldest version of Postgres that has what apalis' tables need.
const OLDEST_SERVER: i32 = 130_000;

/// The columns of `apalis.jobs` that the statements use.
const COLUMNS: [&str; 12] = [
    "job bytea",
    "id text",
    "job_type text",
    "status text",
    "attempts integer",
    "max_attempts integer",
    "run_at timestamp with time zone",
    "last_result jsonb",
    "lock_by text",
    "done_at timestamp with time zone",
    "priority integer",
    "idempotency_key text",
];

const INDEXES: &str = include_str!("sql/indexes.sql");

impl JobQueue {
    /// Returns the SQL that creates the tables, for migrations of your own.
    ///
    /// Apply it once, to a database in which apalis has no tables yet, if the application's role may not create tables.
    /// It consists of the migrations of apalis, their history, the indexes of this crate, and
    /// [`PostgresDeadLetters::TABLE`](crate::dead_letters::PostgresDeadLetters::TABLE). Then grant the application's role `USAGE` on the
    /// schema `apalis`, and `SELECT`, `INSERT`, `UPDATE` and `DELETE` on `apalis.jobs`, `apalis.workers` and
    /// `mx_job_webhook_dead_letters`.
    #[must_use]
    pub fn sql() -> String {
        let mut sql = history_table();
        for migration in &migrations() {
            sql.push_str(migration);
        }
        sql + INDEXES + crate::dead_letters::PostgresDeadLetters::TABLE
    }

    /// Creates the tables, or migrates tables of an earlier 1.x version of apalis.
    ///
    /// Several replicas may call it at the same time, and at every start. If the tables exist, the method locks
    /// nothing, and needs no permission to create tables. The tables of apalis are in the schema `apalis`. They need
    /// Postgres 13 or later, and the extensions `hstore` and `pgcrypto`, which the owner of a database may create.
    ///
    /// Tables of apalis before its version 1.0 need a step by hand first: see *Upgrading to 1.0* in the README of
    /// `apalis-postgres`. It moves the history of the migrations from the schema `public` to `apalis`.
    ///
    /// This is the only method that uses a connection of the application's pool, so call it before callbacks run.
    ///
    /// # Errors
    ///
    /// If the database cannot be reached, or its user may not create the tables. The error is `Configuration`
    ///
    /// - if the encoding of the database is neither UTF-8 nor `SQL_ASCII`, or the server is too old;
    /// - if the tables have a later version, or columns that this release does not know;
    /// - if the schema `apalis` has tables, but no history of their migrations, as before version 1.0 of apalis;
    /// - if the role may not use the schema, or may not read and write the tables. The error contains the grant.
    pub async fn migrate(&self) -> Result<(), sqlx::Error> {
        // A lock that ends with its transaction is safe behind poolers. Only this table uses the number. With a
        // stricter isolation, the transaction would not see what was created while it waited.
        const BEGIN: &str = "BEGIN ISOLATION LEVEL READ COMMITTED";
        const LOCK: &str = "SELECT pg_advisory_xact_lock(7888171773965329765)";
        let pool = self.shared.connections.application();
        let mut transaction = pool.begin_with(BEGIN).await?;
        // A replica whose machine has disappeared may still have the lock.
        if !is_current(&look(&mut transaction).await?)? {
            sqlx::raw_sql(LOCK).execute(&mut *transaction).await?;
            let found = look(&mut transaction).await?;
            if !is_current(&found)? {
                apply(&found, &mut transaction).await?;
            }
            if !is_current(&look(&mut transaction).await?)? {
                return Err(refused(
                    "the migrations have not created the tables of the queue".into(),
                ));
            }
        }
        transaction.commit().await?;
        self.letters.create_table().await
    }
}

async fn look(transaction: &mut Transaction<'_, Postgres>) -> Result<PgRow, sqlx::Error> {
    sqlx::raw_sql(include_str!("sql/look.sql"))
        .fetch_one(&mut **transaction)
        .await
}

/// Returns whether the tables and the indexes exist, or an error if they are of no use.
fn is_current(found: &PgRow) -> Result<bool, sqlx::Error> {
    let encoding: String = found.try_get("encoding")?;
    if !["UTF8", "SQL_ASCII"].contains(&encoding.as_str()) {
        return Err(refused(format!(
            "the database's encoding is {encoding}, but the queue needs UTF8 to keep every guid"
        )));
    }
    if found.try_get::<i32, _>("server_version")? < OLDEST_SERVER {
        return Err(refused("the queue needs Postgres 13 or later".into()));
    }
    if !found.try_get::<bool, _>("may_use_schema")? {
        return Err(refused(
            "the role may not use the schema apalis: GRANT USAGE ON SCHEMA apalis".into(),
        ));
    }
    let columns: Option<String> = found.try_get("columns")?;
    let comment: Option<String> = found.try_get("comment")?;
    let version = comment
        .as_deref()
        .and_then(|comment| comment.strip_prefix(SCHEMA));
    let (Some(columns), Some(version)) = (columns, version) else {
        return Ok(false);
    };
    let has = |expected: &&str| columns.split(", ").any(|column| column == *expected);
    if version != VERSION {
        Err(refused(format!(
            "the queue's tables have version {version}, but this release needs version {VERSION}"
        )))
    } else if !COLUMNS.iter().all(has) {
        Err(refused(
            "the columns of the table apalis.jobs differ from those of apalis-postgres 1.0".into(),
        ))
    } else if !found.try_get::<bool, _>("has_privileges")? {
        Err(refused(
            "the role lacks a privilege on the tables apalis.jobs and apalis.workers: \
             GRANT SELECT, INSERT, UPDATE, DELETE"
                .into(),
        ))
    } else {
        Ok(true)
    }
}

/// Applies the migrations that are missing.
async fn apply(
    found: &PgRow,
    transaction: &mut Transaction<'_, Postgres>,
) -> Result<(), sqlx::Error> {
    let mut applied = Vec::new();
    if found.try_get("has_history")? {
        let history = "SELECT version FROM apalis._sqlx_migrations WHERE success";
        for row in sqlx::raw_sql(history).fetch_all(&mut **transaction).await? {
            applied.push(row.try_get::<i64, _>(0)?);
        }
    }
    let has_tables = found.try_get::<Option<String>, _>("columns")?.is_some();
    if has_tables && applied.is_empty() {
        return Err(refused(
            "the table apalis.jobs exists, but apalis._sqlx_migrations has no history of it: if it is of an apalis before \
             1.0, follow \"Upgrading to 1.0\" in the README of apalis-postgres first"
                .into(),
        ));
    }
    // They create only what is missing, and sqlx logs what the server notices about the rest.
    const QUIETLY: &str = "SET LOCAL client_min_messages = 'warning'";
    execute(QUIETLY.to_owned(), transaction).await?;
    execute(history_table(), transaction).await?;
    let missing = PostgresStorage::migrations();
    let missing = missing
        .iter()
        .filter(|migration| !applied.contains(&migration.version));
    for migration in missing {
        execute(with_history(migration), transaction).await?;
    }
    execute(INDEXES.to_owned(), transaction).await
}

async fn execute(
    sql: String,
    transaction: &mut Transaction<'_, Postgres>,
) -> Result<(), sqlx::Error> {
    sqlx::raw_sql(AssertSqlSafe(sql))
        .execute(&mut **transaction)
        .await?;
    Ok(())
}

fn migrations() -> Vec<String> {
    PostgresStorage::migrations()
        .iter()
        .map(with_history)
        .collect()
}

/// Returns a migration, and the statement that adds it to the history, from which apalis' own `setup` sees that it is
/// applied.
fn with_history(migration: &sqlx::migrate::Migration) -> String {
    let mut checksum = String::new();
    for byte in &*migration.checksum {
        _ = write!(checksum, "{byte:02x}");
    }
    let (version, sql) = (migration.version, migration.sql.as_str());
    let description = migration.description.replace('\'', "''");
    format!(
        "-- apalis-postgres: {description}\n{sql}\n;\n\
         INSERT INTO apalis._sqlx_migrations (version, description, success, checksum, execution_time)\n\
         VALUES ({version}, '{description}', true, decode('{checksum}', 'hex'), 0);\n\n"
    )
}

fn history_table() -> String {
    "CREATE SCHEMA IF NOT EXISTS apalis;\n\
     CREATE TABLE IF NOT EXISTS apalis._sqlx_migrations (\n    \
         version bigint PRIMARY KEY, description text NOT NULL,\n    \
         installed_on timestamptz NOT NULL DEFAULT now(), success boolean NOT NULL,\n    \
         checksum bytea NOT NULL, execution_time bigint NOT NULL\n);\n\n"
        .to_owned()
}

fn refused(why: String) -> sqlx::Error {
    sqlx::Error::Configuration(BoxDynError::from(why))
}
