//! How long the statements of a transaction may take.

use std::time::Duration;

use sqlx::{AssertSqlSafe, PgConnection, Row as _};

use super::has_sqlstate;

/// How long a statement may take, and at its end the check of constraints that are deferred. The client waits a little longer
/// than for both. Without limits, a session whose client has left would remain on the server, and one more with each attempt.
const STATEMENT: Duration = Duration::from_secs(3);
const CONSTRAINTS: Duration = Duration::from_millis(1500);

/// The limits of a session. They are read once, because the server would take longer to compare them in each transaction than
/// for most statements.
pub(crate) struct Limits {
    /// The role's own limit, if there is one.
    role: Option<Duration>,
    /// Whether the server has a `transaction_timeout` (Postgres 17). One that passes would end the session.
    has_transaction_timeout: bool,
    /// How many sessions of the role have waited for a synchronous standby for longer than a statement may take.
    pub(crate) hanging: i64,
}

impl Limits {
    pub(crate) async fn read(connection: &mut PgConnection) -> Result<Self, sqlx::Error> {
        const SETTINGS: &str =
            "(extract(epoch FROM current_setting('statement_timeout')::interval) * 1000)::bigint,
            current_setting('transaction_timeout', true) IS NOT NULL";
        const HANGING: &str = "SELECT count(*) FROM pg_stat_activity WHERE usename = session_user
            AND wait_event = 'SyncRep' AND clock_timestamp() - query_start > interval '4.5 s'";
        let mut read = async |hanging: &str| {
            // With another role than that of the login, the server would not show what the sessions wait for.
            let sql = format!("SET LOCAL ROLE NONE; SELECT {SETTINGS}, ({hanging})");
            let read = sqlx::raw_sql(AssertSqlSafe(sql));
            read.fetch_one(&mut *connection).await
        };
        let row = match read(HANGING).await {
            // The role may not see the sessions.
            Err(error) if has_sqlstate(&error, &["42501"]) => read("0::bigint").await?,
            row => row?,
        };
        let role: i64 = row.try_get(0)?;
        Ok(Self {
            role: (role > 0).then(|| Duration::from_millis(role.unsigned_abs())),
            has_transaction_timeout: row.try_get(1)?,
            hanging: row.try_get(2)?,
        })
    }

    /// Returns the SQL that limits the statements of a transaction to this time, if it is shorter than the usual one.
    pub(crate) fn of_statements(&self, limit: Option<Duration>) -> String {
        let mut sql = self.set(limit.unwrap_or(STATEMENT).min(STATEMENT));
        if self.has_transaction_timeout {
            sql += ";\nSET LOCAL transaction_timeout = 0";
        }
        sql
    }

    /// Returns the SQL that checks deferred constraints. The server does not limit the time of a commit, in which it would do so.
    pub(crate) fn of_constraints(&self, limit: Option<Duration>) -> String {
        let limit = self.set(limit.unwrap_or(CONSTRAINTS).min(CONSTRAINTS));
        limit + ";\nSET CONSTRAINTS ALL IMMEDIATE"
    }

    fn set(&self, limit: Duration) -> String {
        let limit = self.role.map_or(limit, |role| role.min(limit));
        format!("SET LOCAL statement_timeout = {}", limit.as_millis())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_shortest_limit_applies() {
        const MILLI: Duration = Duration::from_millis(1);
        for (role, limit, statements, constraints) in [
            (None, None, 3000, 1500),
            (Some(2000 * MILLI), None, 2000, 1500),
            (Some(60_000 * MILLI), None, 3000, 1500),
            (Some(MILLI), Some(150 * MILLI), 1, 1),
            (None, Some(150 * MILLI), 150, 150),
            (Some(2000 * MILLI), Some(1800 * MILLI), 1800, 1500),
        ] {
            for has_transaction_timeout in [false, true] {
                let limits = Limits {
                    role,
                    has_transaction_timeout,
                    hanging: 0,
                };
                let set = limits.of_statements(limit);
                let expected = format!("SET LOCAL statement_timeout = {statements}");
                assert!(set.starts_with(&expected), "{set}");
                assert_eq!(
                    set.contains("transaction_timeout = 0"),
                    has_transaction_timeout
                );
                let expected = format!(
                    "SET LOCAL statement_timeout = {constraints};\nSET CONSTRAINTS ALL IMMEDIATE"
                );
                assert_eq!(limits.of_constraints(limit), expected);
            }
        }
    }
}
