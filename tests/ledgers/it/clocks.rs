//! A server with another clock takes over: the server's clock decides about leases.

use std::time::Duration;

use mx_job_webhook::ledger::{Claim, Commit, Ledger as _, PostgresLedger};
use mx_job_webhook::{DedupeLayer, JobEvent, JobRouter};
use tower::{BoxError, Layer as _, ServiceExt as _};

use crate::engines::postgres::{Postgres, Version};
use crate::support::{completed, granted, name, unique_id};
use harness::servers::Folder;

const TEN_MINUTES: Duration = Duration::from_secs(600);

async fn postgres() -> (Folder, Postgres, PostgresLedger) {
    let start = || {
        let folder = Folder::new();
        let server = Postgres::primary(&folder, Version::V15, &["fsync=off"]);
        (folder, server)
    };
    let (folder, server) = tokio::task::spawn_blocking(start).await.unwrap();
    let ledger = PostgresLedger::new(server.pool());
    ledger.create_table().await.unwrap();
    (folder, server, ledger)
}

async fn succeeded_by_one_that_differs(mut server: Postgres, by: &'static str) -> Postgres {
    let start = move || {
        // The latest claim is on disk only after a while.
        std::thread::sleep(Duration::from_secs(1));
        server.crash();
        server.start_again_with_a_clock_that_differs(by);
        server
    };
    tokio::task::spawn_blocking(start).await.unwrap()
}

/// With a clock fifteen minutes ahead, leases of ten minutes have expired: events in flight are claimed again. Both
/// callbacks may have an effect; in the ledger's database, one transaction rolls back. Tokens still grow.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_clock_ahead_repeats_callbacks_in_flight_but_no_transaction() {
    let (_folder, server, ledger) = postgres().await;
    let pool = server.pool();
    let effects = "CREATE TABLE effects (job text NOT NULL)";
    sqlx::query(effects).execute(&pool).await.unwrap();
    let (started, is_started) = tokio::sync::watch::channel(0);
    let (go, goes) = tokio::sync::watch::channel(false);
    let callback = {
        let (pool, ledger) = (pool.clone(), ledger.clone());
        move |event: JobEvent| {
            let (pool, ledger, mut goes) = (pool.clone(), ledger.clone(), goes.clone());
            started.send_modify(|started| *started += 1);
            async move {
                goes.wait_for(|goes| *goes).await?;
                let mut transaction = pool.begin().await?;
                sqlx::query("INSERT INTO effects VALUES ($1)")
                    .bind(event.guid.as_str())
                    .execute(&mut *transaction)
                    .await?;
                ledger.commit_in(&mut transaction, &event).await?;
                transaction.commit().await?;
                Ok::<_, BoxError>(())
            }
        }
    };
    let jobs = JobRouter::new().on_completed(callback);
    let once = DedupeLayer::new(ledger).with_lease(TEN_MINUTES).layer(jobs);
    let event = completed(&unique_id(), 1);
    let mut is_started = is_started;
    let first = tokio::spawn(once.clone().oneshot(event.clone()));
    is_started.wait_for(|started| *started == 1).await.unwrap();
    let _server = succeeded_by_one_that_differs(server, "+15m").await;
    let second = tokio::spawn(once.clone().oneshot(event.clone()));
    // The callback runs again, ten minutes early.
    let again = is_started.wait_for(|started| *started == 2);
    let again = tokio::time::timeout(Duration::from_secs(30), again).await;
    again.unwrap().unwrap();
    go.send_replace(true);
    let outcomes = [first.await.unwrap(), second.await.unwrap()];
    assert_eq!(outcomes.iter().filter(|outcome| outcome.is_ok()).count(), 1);
    let effects = sqlx::query_scalar::<_, i64>("SELECT count(*) FROM effects");
    assert_eq!(effects.fetch_one(&pool).await.unwrap(), 1);
}

/// With a clock fifteen minutes behind, a lease of ten minutes lasts twenty-five: a dead holder's event waits that
/// long. An event whose holder lives is settled as usual, and tokens still grow.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_clock_behind_lengthens_leases_by_the_difference() {
    let (_folder, server, ledger) = postgres().await;
    let guid = unique_id();
    let (held, released) = (name(&guid, 1), name(&guid, 2));
    let token = granted(ledger.claim(&held, TEN_MINUTES).await.unwrap());
    let before = granted(ledger.claim(&released, TEN_MINUTES).await.unwrap());
    let server = succeeded_by_one_that_differs(server, "-15m").await;
    assert_eq!(
        ledger.claim(&held, TEN_MINUTES).await.unwrap(),
        Claim::InFlight
    );
    let left = "SELECT extract(epoch FROM leased_until - clock_timestamp())::bigint \
                FROM mx_job_webhook_events WHERE token = $1";
    let left = sqlx::query_scalar::<_, i64>(left).bind(i64::try_from(token.get()).unwrap());
    let left = left.fetch_one(&server.pool()).await.unwrap();
    assert!((24 * 60..=25 * 60).contains(&left), "{left} s");
    ledger.release(&released, before).await.unwrap();
    let after = granted(ledger.claim(&released, TEN_MINUTES).await.unwrap());
    assert!(after > before);
    assert_eq!(ledger.commit(&held, token).await.unwrap(), Commit::Settled);
}
