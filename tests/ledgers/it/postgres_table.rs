//! The table of the ledger on Postgres: its versions, and unsuitable databases and roles.

use std::time::Duration;

use mx_job_webhook::ledger::{Claim, Commit, Ledger as _, PostgresLedger};
use sqlx::{PgPool, Row as _};

use crate::engines::postgres::Database;
use crate::support::{LEASE, granted, name};

fn ledger(pool: &PgPool) -> PostgresLedger {
    PostgresLedger::new(pool.clone())
}

async fn ask(pool: &PgPool, sql: &'static str) -> Option<String> {
    let row = sqlx::raw_sql(sql).fetch_one(pool).await.unwrap();
    row.get(0)
}

async fn execute(pool: &PgPool, sql: String) {
    let sql = sqlx::AssertSqlSafe(sql);
    sqlx::raw_sql(sql).execute(pool).await.unwrap();
}

const COMMENT: &str = "SELECT obj_description('mx_job_webhook_events'::regclass)";
const TYPE: &str = "SELECT format_type(atttypid, atttypmod) FROM pg_attribute \
                    WHERE attrelid = 'mx_job_webhook_events'::regclass AND attname = 'updated_at'";

/// The tables before version 1.
fn before_version_1(updated_at: &str) -> String {
    format!(
        "CREATE TABLE mx_job_webhook_events (
            job text COLLATE \"C\" NOT NULL,
            event text COLLATE \"C\" NOT NULL,
            updated_at {updated_at},
            token bigint NOT NULL,
            leased_until timestamptz NOT NULL,
            settled_at timestamptz,
            PRIMARY KEY (job, event)
        );
        CREATE INDEX mx_job_webhook_events_over
            ON mx_job_webhook_events (coalesce(settled_at, leased_until));"
    )
}

/// Known events stay known, events in flight stay in flight, and replicas of the previous version, whose
/// statements these are, continue with the new table.
#[tokio::test]
async fn a_rolling_deployment_from_before_version_1_loses_no_event() {
    for updated_at in ["bigint", "numeric"] {
        let database = Database::create("").await;
        let pool = database.pool();
        execute(&pool, before_version_1(updated_at)).await;
        let old = "INSERT INTO mx_job_webhook_events VALUES \
            ('JOB-1', 'COMPLETED 10', 10, 5, now(), now()), \
            ('JOB-2', 'COMPLETED 10', 10, 5, now() + interval '1 hour', NULL)";
        execute(&pool, old.to_owned()).await;
        let ledger = ledger(&pool);
        for _ in 0..2 {
            ledger.create_table().await.unwrap();
            assert_eq!(
                ask(&pool, COMMENT).await.unwrap(),
                "mx-job-webhook schema 1"
            );
            assert_eq!(ask(&pool, TYPE).await.unwrap(), "numeric");
        }
        let claim = async |job, at| ledger.claim(&name(job, at), LEASE).await.unwrap();
        assert_eq!(claim("JOB-1", 10).await, Claim::Settled);
        assert_eq!(claim("JOB-1", 9).await, Claim::Stale);
        assert_eq!(claim("JOB-2", 10).await, Claim::InFlight);
        granted(claim("JOB-3", 10).await);
        let commit = sqlx::query(
            "INSERT INTO mx_job_webhook_events (job, event, updated_at, token, leased_until, settled_at)
             VALUES ($1, $2, $3, $4, clock_timestamp(), clock_timestamp())
             ON CONFLICT (job, event) DO UPDATE SET settled_at = excluded.settled_at",
        );
        let commit = commit.bind("JOB-2").bind("COMPLETED 10");
        commit
            .bind(10_i64)
            .bind(5_i64)
            .execute(&pool)
            .await
            .unwrap();
        assert_eq!(claim("JOB-2", 10).await, Claim::Settled);
    }
}

/// A role that may only read and write the table works with a table that its owner created.
#[tokio::test]
async fn a_role_without_rights_to_create_uses_the_table_of_its_owner() {
    let database = Database::create("").await;
    let pool = database.pool();
    let role = database.name.clone();
    execute(
        &pool,
        "REVOKE CREATE ON SCHEMA public FROM PUBLIC".to_owned(),
    )
    .await;
    execute(&pool, format!("CREATE ROLE {role} LOGIN")).await;
    let limited = PgPool::connect_lazy_with(database.options().username(&role));
    let ledger = PostgresLedger::new(limited.clone());
    let refused = ledger.create_table().await.unwrap_err().to_string();
    assert!(refused.contains("permission denied"), "{refused}");

    // The owner runs the printed statement.
    execute(&pool, PostgresLedger::TABLE.to_owned()).await;
    let lacks = ledger.create_table().await.unwrap_err().to_string();
    assert!(lacks.contains("lacks a privilege"), "{lacks}");
    let grant = "GRANT SELECT, INSERT, UPDATE, DELETE ON mx_job_webhook_events TO";
    execute(&pool, format!("{grant} {role}")).await;
    ledger.create_table().await.unwrap();
    let event = name("JOB-1", 1);
    let token = granted(ledger.claim(&event, LEASE).await.unwrap());
    assert_eq!(ledger.commit(&event, token).await.unwrap(), Commit::Settled);
    assert_eq!(ledger.prune(Duration::ZERO).await.unwrap(), 1);

    // The owner's table from before version 1, with the right columns.
    execute(
        &pool,
        "COMMENT ON TABLE mx_job_webhook_events IS NULL".to_owned(),
    )
    .await;
    ledger.create_table().await.unwrap();
    granted(ledger.claim(&event, LEASE).await.unwrap());
    execute(&pool, format!("DROP OWNED BY {role}")).await;
    execute(&pool, format!("DROP ROLE {role}")).await;
}

/// A failed start with a reason is better than an event that is always answered 503.
#[tokio::test]
async fn an_unsuitable_database_is_refused_at_the_start() {
    let latin1 = "ENCODING 'LATIN1' TEMPLATE template0 LC_COLLATE 'C' LC_CTYPE 'C'";
    let column = before_version_1("numeric")
        .replace("settled_at timestamptz,", "settled bool, x timestamptz,");
    let column = column.replace("coalesce(settled_at, leased_until)", "leased_until");
    let later = format!(
        "{} COMMENT ON TABLE mx_job_webhook_events IS 'mx-job-webhook schema 2';",
        before_version_1("numeric")
    );
    let cases = [
        (latin1, String::new(), "encoding is LATIN1"),
        ("", column, "columns of the table"),
        ("", later, "has version 2"),
    ];
    for (settings, sql, expected) in cases {
        let database = Database::create(settings).await;
        let pool = database.pool();
        execute(&pool, sql).await;
        let refused = ledger(&pool).create_table().await.unwrap_err();
        assert!(
            matches!(refused, sqlx::Error::Configuration(_)),
            "{refused}"
        );
        assert!(refused.to_string().contains(expected), "{refused}");
    }
}
