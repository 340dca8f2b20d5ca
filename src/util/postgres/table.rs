//! Creating a table whose comment contains its version.

use sqlx::error::BoxDynError;
use sqlx::postgres::PgRow;
use sqlx::{AssertSqlSafe, PgPool, Postgres, Row as _, Transaction};

/// A table of a store.
pub(crate) struct Table {
    pub(crate) name: &'static str,
    /// The SQL that creates it.
    pub(crate) sql: &'static str,
    /// The type that has the SQL, for errors.
    pub(crate) store: &'static str,
    /// The prefix of the table's comment. The version follows.
    pub(crate) schema: &'static str,
    pub(crate) version: &'static str,
    pub(crate) columns: &'static [&'static str],
    /// The number of an advisory lock that only this table uses.
    pub(crate) lock: u64,
}

impl Table {
    /// Creates the table if there is none, and checks it otherwise.
    pub(crate) async fn create(&self, pool: &PgPool) -> Result<(), sqlx::Error> {
        // `IF NOT EXISTS` can fail if two replicas create the table at the same time, so they take
        // a lock. With a stricter isolation, the transaction would not see what was created while it
        // waited. The statements have no parameters and are not prepared, because a pooler may mix
        // up prepared statements.
        const BEGIN: &str = "BEGIN ISOLATION LEVEL READ COMMITTED";
        let lock = AssertSqlSafe(format!("SELECT pg_advisory_xact_lock({})", self.lock));
        let mut transaction = pool.begin_with(BEGIN).await?;
        // A replica whose machine has disappeared may still have the lock.
        if !self.exists(&self.look(&mut transaction).await?)? {
            sqlx::raw_sql(lock).execute(&mut *transaction).await?;
            if !self.exists(&self.look(&mut transaction).await?)? {
                sqlx::raw_sql(self.sql).execute(&mut *transaction).await?;
            }
        }
        transaction.commit().await
    }

    async fn look(
        &self,
        transaction: &mut Transaction<'_, Postgres>,
    ) -> Result<PgRow, sqlx::Error> {
        let look = include_str!("sql/look.sql").replace("TABLE", self.name);
        sqlx::raw_sql(AssertSqlSafe(look))
            .fetch_one(&mut **transaction)
            .await
    }

    /// Returns whether there is a table, or an error if it is of no use.
    fn exists(&self, found: &PgRow) -> Result<bool, sqlx::Error> {
        let Self { name, store, .. } = self;
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
            .and_then(|comment| comment.strip_prefix(self.schema));
        let has = |expected: &&str| columns.split(", ").any(|column| column == *expected);
        match version {
            Some(version) if version != self.version => Err(refused(format!(
                "the table {name} has version {version}, but this release needs version {}",
                self.version
            ))),
            _ if !self.columns.iter().all(has) => Err(refused(format!(
                "the columns of the table {name} differ from `{store}::TABLE`"
            ))),
            _ if !found.try_get::<bool, _>("has_privileges")? => Err(refused(format!(
                "the role lacks a privilege on the table {name}: \
                 GRANT SELECT, INSERT, UPDATE, DELETE"
            ))),
            _ => Ok(true),
        }
    }
}

fn refused(why: String) -> sqlx::Error {
    sqlx::Error::Configuration(BoxDynError::from(why))
}
