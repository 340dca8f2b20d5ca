//! Creating the table.

use sqlx::Row as _;
use sqlx::error::BoxDynError;
use sqlx::postgres::PgRow;

use super::PostgresWatchStore;

/// The prefix of the table's comment. The version follows.
const SCHEMA: &str = "mx-job-webhook watch schema ";
const VERSION: &str = "1";

const COLUMNS: [&str; 7] = [
    "job text",
    "guid bytea",
    "revision bigint",
    "entry text",
    "stored_at timestamp with time zone",
    "due_at timestamp with time zone",
    "expires_at timestamp with time zone",
];

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
        // `IF NOT EXISTS` can fail if two replicas create the table at the same time, so they take
        // a lock, with a number that only this table uses. With a stricter isolation, the
        // transaction would not see what was created while it waited. The statements have no
        // parameters and are not prepared, because a pooler may mix up prepared statements.
        const BEGIN: &str = "BEGIN ISOLATION LEVEL READ COMMITTED";
        const LOCK: &str = "SELECT pg_advisory_xact_lock(7888171773965329763)";
        let mut transaction = self.pool.begin_with(BEGIN).await?;
        sqlx::raw_sql(LOCK).execute(&mut *transaction).await?;
        let found = sqlx::raw_sql(include_str!("sql/look.sql"))
            .fetch_one(&mut *transaction)
            .await?;
        if !exists(&found)? {
            sqlx::raw_sql(Self::TABLE)
                .execute(&mut *transaction)
                .await?;
        }
        transaction.commit().await
    }
}

/// Returns whether there is a table, or an error if it is of no use.
fn exists(found: &PgRow) -> Result<bool, sqlx::Error> {
    let encoding: String = found.try_get("encoding")?;
    if !["UTF8", "SQL_ASCII"].contains(&encoding.as_str()) {
        return Err(refused(format!(
            "the database's encoding is {encoding}, but the store needs UTF8 to keep every guid"
        )));
    }
    let Some(columns) = found.try_get::<Option<String>, _>("columns")? else {
        return Ok(false);
    };
    let comment: Option<String> = found.try_get("comment")?;
    let version = comment
        .as_deref()
        .and_then(|comment| comment.strip_prefix(SCHEMA));
    let has = |expected: &&str| columns.split(", ").any(|column| column == *expected);
    match version {
        Some(version) if version != VERSION => Err(refused(format!(
            "the table mx_job_webhook_watch has version {version}, but this release needs version {VERSION}"
        ))),
        _ if !COLUMNS.iter().all(has) => Err(refused(
            "the columns of the table mx_job_webhook_watch differ from `PostgresWatchStore::TABLE`"
                .into(),
        )),
        _ if !found.try_get::<bool, _>("has_privileges")? => Err(refused(
            "the role lacks a privilege on the table mx_job_webhook_watch: \
             GRANT SELECT, INSERT, UPDATE, DELETE"
                .into(),
        )),
        _ => Ok(true),
    }
}

fn refused(why: String) -> sqlx::Error {
    sqlx::Error::Configuration(BoxDynError::from(why))
}
