//! Databases that cannot store every text that MX may send.

use mx_job_webhook::ledger::{Claim, Commit, Ledger as _, PostgresLedger};

use crate::engines::postgres::Database;
use crate::support::{LEASE, granted, name, unique_id};

/// No event may always be answered 503: the application learns of the problem when it starts.
#[tokio::test]
async fn a_database_that_cannot_encode_a_guid_is_refused() {
    let database = Database::create("TEMPLATE template0 ENCODING 'LATIN1' LOCALE 'C'").await;
    let pool = database.pool();
    let ledger = PostgresLedger::new(pool.clone());
    let created = ledger.create_table().await;
    let claim = ledger.claim(&name("JOB-\u{2192}", 1), LEASE).await;
    println!("LATIN1: create_table: {created:?}");
    println!("LATIN1: claim: {claim:?}");
    pool.close().await;
    let refused = created.unwrap_err().to_string();
    assert!(refused.contains("LATIN1"), "{refused}");
}

#[tokio::test]
async fn a_database_in_utf_8_or_sql_ascii_stores_every_guid() {
    for encoding in ["UTF8", "SQL_ASCII"] {
        let settings = format!("TEMPLATE template0 ENCODING '{encoding}' LOCALE 'C'");
        let database = Database::create(&settings).await;
        let pool = database.pool();
        let ledger = PostgresLedger::new(pool.clone());
        ledger.create_table().await.unwrap();
        let event = name(&format!("{}-\u{2192}\u{1f980}", unique_id()), 1);
        let token = granted(ledger.claim(&event, LEASE).await.unwrap());
        let commit = ledger.commit(&event, token).await.unwrap();
        assert_eq!(commit, Commit::Settled, "{encoding}");
        let claim = ledger.claim(&event, LEASE).await.unwrap();
        assert_eq!(claim, Claim::Settled, "{encoding}");
        pool.close().await;
    }
}
