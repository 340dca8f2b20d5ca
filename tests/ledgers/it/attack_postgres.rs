//! Attacks on the batched statements and the connections of the ledger on Postgres.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use mx_job_webhook::event::FencingToken;
use mx_job_webhook::ledger::{Claim, Commit, Ledger as _, PostgresLedger};
use mx_job_webhook::{DedupeLayer, JobEvent, JobRouter};
use sqlx::postgres::{PgConnectOptions, PgPoolOptions};
use sqlx::{PgPool, Row as _};
use tokio::time::{sleep, timeout};
use tower::{Layer as _, ServiceExt as _};

use crate::engines::postgres::{Database, Postgres, Version, pool};
use crate::proxy::Proxy;
use crate::support::{LEASE, completed, granted, name, unique_id};
use harness::servers::Folder;

const SOON: Duration = Duration::from_secs(3);

/// A call that takes this long hangs. Calls of a busy machine take seconds.
const FOREVER: Duration = Duration::from_secs(20);

async fn set_up() -> (Database, PgPool, PostgresLedger) {
    let database = Database::create("").await;
    let pool = database.pool();
    let ledger = PostgresLedger::new(pool.clone());
    ledger.create_table().await.unwrap();
    (database, pool, ledger)
}

/// The row that `commit_in` writes for an event without a row: a crash of the server or a failover lost the claim.
const LOST_AND_SETTLED: &str = "INSERT INTO mx_job_webhook_events \
    (job, event, updated_at, token, leased_until, settled_at) \
    VALUES ($1, 'COMPLETED 1', 1, 1, clock_timestamp(), clock_timestamp())";

#[tokio::test]
async fn a_stalled_claim_does_not_delay_a_commit() {
    let (database, _, ledger) = set_up().await;
    let proxy = Proxy::to(database.server()).await;
    let options = database
        .options()
        .host("127.0.0.1")
        .port(proxy.address.port());
    drop(ledger);
    let ledger = PostgresLedger::new(pool(options));
    let (old, new) = (name("old", 1), name("new", 1));
    let token = granted(ledger.claim(&old, LEASE).await.unwrap());
    proxy.stall_existing();
    let claim = timeout(Duration::from_secs(5), ledger.claim(&new, LEASE));
    let commit = async {
        let started = Instant::now();
        let outcome = timeout(Duration::from_secs(5), ledger.commit(&old, token)).await;
        (outcome.is_ok(), started.elapsed())
    };
    let (claim, (committed, after)) = tokio::join!(claim, commit);
    assert!(claim.is_err(), "the claim's connection stalls");
    assert!(
        committed && after < SOON,
        "committed: {committed}, after {after:?}"
    );
}

#[tokio::test]
async fn a_waiting_claim_does_not_delay_a_commit() {
    let (_database, pool, ledger) = set_up().await;
    let (x, y) = (name("x", 1), name("y", 1));
    let token = granted(ledger.claim(&y, LEASE).await.unwrap());
    let mut open = pool.begin().await.unwrap();
    sqlx::query(LOST_AND_SETTLED)
        .bind("x")
        .execute(&mut *open)
        .await
        .unwrap();
    let claim = timeout(Duration::from_secs(4), ledger.claim(&x, LEASE));
    let commit = timeout(SOON, ledger.commit(&y, token));
    let (_, commit) = tokio::join!(claim, commit);
    assert_eq!(
        commit.expect("three connections are free").unwrap(),
        Commit::Settled
    );
}

#[tokio::test]
async fn claims_do_not_wait_for_the_applications_transaction() {
    let (_database, pool, ledger) = set_up().await;
    let (lost, unrelated) = (name("x", 1), name("n", 1));
    let settles = {
        let (pool, ledger) = (pool.clone(), ledger.clone());
        move |event: JobEvent| {
            let (pool, ledger) = (pool.clone(), ledger.clone());
            async move {
                // The server crashes and loses the claim, which was not on disk.
                sqlx::query("DELETE FROM mx_job_webhook_events")
                    .execute(&pool)
                    .await?;
                let mut transaction = pool.begin().await?;
                ledger.commit_in(&mut transaction, &event).await?;
                sleep(Duration::from_secs(6)).await;
                transaction.commit().await?;
                Ok::<_, tower::BoxError>(())
            }
        }
    };
    let once = DedupeLayer::new(ledger.clone()).layer(JobRouter::new().on_completed(settles));
    let open = tokio::spawn(once.oneshot(completed("x", 1)));
    sleep(Duration::from_millis(500)).await;
    let other = PostgresLedger::new(pool.clone());
    let (lost, unrelated) = tokio::join!(
        timeout(SOON, other.claim(&lost, LEASE)),
        timeout(SOON, other.claim(&unrelated, LEASE)),
    );
    open.abort();
    let answers = format!("the same event: {lost:?}, unrelated: {unrelated:?}");
    assert!(unrelated.is_ok() && lost.is_ok(), "{answers}");
}

#[tokio::test]
async fn commits_do_not_wait_for_the_applications_transaction() {
    let (_database, pool, ledger) = set_up().await;
    let (lost, unrelated) = (name("x", 1), name("n", 1));
    let token = granted(ledger.claim(&unrelated, LEASE).await.unwrap());
    let mut open = pool.begin().await.unwrap();
    sqlx::query(LOST_AND_SETTLED)
        .bind("x")
        .execute(&mut *open)
        .await
        .unwrap();
    let (_, unrelated) = tokio::join!(
        timeout(SOON * 2, ledger.commit(&lost, FencingToken::new(7))),
        timeout(SOON, ledger.commit(&unrelated, token)),
    );
    assert_eq!(
        unrelated.expect("the events are unrelated").unwrap(),
        Commit::Settled
    );
}

#[tokio::test]
async fn a_lease_starts_when_the_claim_is_granted() {
    const SHORT: Duration = Duration::from_secs(4);
    let (_database, pool, ledger) = set_up().await;
    let (x, n) = (name("x", 1), name("n", 1));
    let mut open = pool.begin().await.unwrap();
    sqlx::query(LOST_AND_SETTLED)
        .bind("x")
        .execute(&mut *open)
        .await
        .unwrap();
    let (first, other) = timeout(SOON, async {
        tokio::join!(ledger.claim(&n, SHORT), ledger.claim(&x, SHORT))
    })
    .await
    .unwrap();
    granted(first.unwrap());
    // Its open transaction may still settle the event.
    assert_eq!(other.unwrap(), Claim::InFlight);
    sleep(SHORT / 2).await;
    assert_eq!(ledger.claim(&n, SHORT).await.unwrap(), Claim::InFlight);
    open.rollback().await.unwrap();
    granted(ledger.claim(&x, SHORT).await.unwrap());
}

#[tokio::test]
async fn a_statement_timeout_fails_only_the_call_that_waits() {
    let (database, pool, ledger) = set_up().await;
    drop(ledger);
    let options = database.options().options([("statement_timeout", "1s")]);
    let ledger = PostgresLedger::new(crate::engines::postgres::pool(options));
    let (x, n) = (name("x", 1), name("n", 1));
    let mut open = pool.begin().await.unwrap();
    sqlx::query(LOST_AND_SETTLED)
        .bind("x")
        .execute(&mut *open)
        .await
        .unwrap();
    let (unrelated, _) = tokio::join!(ledger.claim(&n, LEASE), ledger.claim(&x, LEASE));
    granted(unrelated.unwrap());
}

async fn backends(admin: &PgPool, application: &str) -> i64 {
    sqlx::query("SELECT count(*) FROM pg_stat_activity WHERE application_name = $1")
        .bind(application)
        .fetch_one(admin)
        .await
        .unwrap()
        .get(0)
}

#[tokio::test]
async fn a_slow_connection_is_established_eventually() {
    let (database, _admin, ledger) = set_up().await;
    drop(ledger);
    let proxy = Proxy::slow_to_connect(database.server(), Duration::from_millis(700)).await;
    let options = database
        .options()
        .host("127.0.0.1")
        .port(proxy.address.port());
    let ledger = PostgresLedger::new(pool(options));
    let mut granted = false;
    for number in 0..12 {
        let event = name(&format!("{number}"), 1);
        let claim = timeout(Duration::from_millis(500), ledger.claim(&event, LEASE)).await;
        granted |= claim.is_ok();
    }
    assert!(granted, "{} connections", proxy.connections());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn prune_works_at_every_isolation_level() {
    let (database, _admin, ledger) = set_up().await;
    drop(ledger);
    let mut failures = Vec::new();
    for level in ["repeatable read", "serializable"] {
        let options = database
            .options()
            .options([("default_transaction_isolation", level)]);
        let ledger = PostgresLedger::new(pool(options));
        let stop = Arc::new(AtomicBool::new(false));
        let mut busy = tokio::task::JoinSet::new();
        for number in 0..8 {
            let (ledger, stop) = (ledger.clone(), stop.clone());
            busy.spawn(async move {
                let mut turn = 0;
                while !stop.load(Ordering::SeqCst) {
                    let event = name(&format!("{number}-{}", turn % 8), 1);
                    turn += 1;
                    if let Claim::Granted(token) =
                        ledger.claim(&event, Duration::ZERO).await.unwrap()
                        && turn % 3 == 0
                    {
                        ledger.commit(&event, token).await.unwrap();
                    }
                }
            });
        }
        let (mut tries, mut failed, mut last) = (0, 0, String::new());
        let until = Instant::now() + Duration::from_secs(4);
        while Instant::now() < until {
            tries += 1;
            if let Err(error) = ledger.prune(Duration::ZERO).await {
                failed += 1;
                last = error.to_string();
            }
        }
        stop.store(true, Ordering::SeqCst);
        busy.join_all().await;
        if failed > 0 {
            failures.push(format!("{level}: {failed} of {tries}: {last}"));
        }
    }
    assert!(failures.is_empty(), "{failures:?}");
}

#[tokio::test]
async fn replicas_can_start_at_once_with_serializable_transactions() {
    for shape in [None, Some("bigint")] {
        let database = Database::create("").await;
        if shape.is_some() {
            let old = PostgresLedger::TABLE
                .replace("updated_at numeric", "updated_at bigint")
                .split("-- Before version 1")
                .next()
                .unwrap()
                .to_owned();
            sqlx::raw_sql(sqlx::AssertSqlSafe(old))
                .execute(&database.pool())
                .await
                .unwrap();
        }
        let options = database
            .options()
            .options([("default_transaction_isolation", "serializable")]);
        let mut replicas = tokio::task::JoinSet::new();
        for _ in 0..8 {
            let ledger = PostgresLedger::new(pool(options.clone()));
            replicas.spawn(async move { ledger.create_table().await });
        }
        for created in replicas.join_all().await {
            created.unwrap();
        }
    }
}

#[tokio::test]
async fn the_smallest_and_greatest_tokens_work() {
    let (_database, _pool, ledger) = set_up().await;
    for (number, token) in [0, 1, u64::MAX / 2, u64::MAX - 1, u64::MAX]
        .into_iter()
        .enumerate()
    {
        let event = name(&format!("{number}"), 1);
        let token = FencingToken::new(token);
        granted(ledger.claim(&event, Duration::ZERO).await.unwrap());
        ledger.release(&event, token).await.unwrap();
        assert_eq!(ledger.commit(&event, token).await.unwrap(), Commit::Settled);
        assert_eq!(ledger.commit(&event, token).await.unwrap(), Commit::Settled);
        let other = FencingToken::new(5);
        assert_eq!(
            ledger.commit(&event, other).await.unwrap(),
            Commit::Overtaken
        );
        ledger.release(&event, token).await.unwrap();
        assert_eq!(
            ledger.claim(&event, Duration::MAX).await.unwrap(),
            Claim::Settled
        );
    }
}

/// Tables that are dropped, altered and recreated while statements are prepared.
#[tokio::test]
async fn the_ledger_recovers_when_its_table_is_replaced() {
    let (_database, pool, ledger) = set_up().await;
    for (turn, sql) in [
        "DROP TABLE mx_job_webhook_events",
        "ALTER TABLE mx_job_webhook_events RENAME TO elsewhere",
        "ALTER TABLE mx_job_webhook_events ADD COLUMN note text, ALTER COLUMN updated_at TYPE bigint; \
            COMMENT ON TABLE mx_job_webhook_events IS NULL",
        "ALTER TABLE mx_job_webhook_events ALTER COLUMN updated_at TYPE numeric",
        "CREATE SCHEMA before; SET search_path = before; ALTER TABLE public.mx_job_webhook_events SET SCHEMA before",
    ]
    .into_iter()
    .enumerate()
    {
        let event = name(&format!("a-{turn}"), 1);
        let token = granted(ledger.claim(&event, LEASE).await.unwrap());
        let mut own = pool.acquire().await.unwrap().detach();
        sqlx::raw_sql(sql).execute(&mut own).await.unwrap();
        let _ = ledger.claim(&name(&format!("b-{turn}"), 1), LEASE).await;
        ledger.create_table().await.unwrap();
        assert_eq!(ledger.commit(&event, token).await.unwrap(), Commit::Settled, "{sql}");
        granted(ledger.claim(&name(&format!("c-{turn}"), 1), LEASE).await.unwrap());
    }
}

fn faulty(options: PgConnectOptions, hook: Arc<AtomicUsize>) -> PgPool {
    PgPoolOptions::new()
        .max_connections(2)
        .after_connect(move |_, _| {
            let hook = hook.clone();
            Box::pin(async move {
                match hook.load(Ordering::SeqCst) {
                    0 => Ok(()),
                    1 => Err(sqlx::Error::Protocol("the hook fails".into())),
                    2 => std::future::pending().await,
                    _ => panic!("the hook panics"),
                }
            })
        })
        .connect_lazy_with(options)
}

/// Hooks that fail, hang and panic, and then work again.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_ledger_recovers_from_failing_connection_hooks() {
    let (database, _admin, ledger) = set_up().await;
    drop(ledger);
    for fault in [1, 2, 3] {
        let hook = Arc::new(AtomicUsize::new(fault));
        let pool = faulty(database.options(), hook.clone());
        let ledger = PostgresLedger::new(pool);
        let mut calls = tokio::task::JoinSet::new();
        for number in 0..20 {
            let ledger = ledger.clone();
            calls.spawn(async move {
                let event = name(&format!("{fault}-{number}"), 1);
                let claim = timeout(Duration::from_secs(1), ledger.claim(&event, LEASE)).await;
                assert!(!matches!(claim, Ok(Ok(_))));
            });
        }
        calls.join_all().await;
        hook.store(0, Ordering::SeqCst);
        // A hook that hangs delays a connection by five seconds and fails the calls that wait for it.
        let event = name(&format!("{fault}"), 1);
        let mended = async {
            loop {
                if let Ok(claim) = ledger.claim(&event, LEASE).await {
                    return claim;
                }
            }
        };
        let claim = timeout(SOON * 5, mended).await;
        granted(claim.unwrap_or_else(|_| panic!("the ledger does not recover from fault {fault}")));
    }
}

/// The ledger's connections become as old as those of the pool, so that a load balancer can spread them anew.
#[tokio::test]
async fn connections_become_as_old_as_those_of_the_pool() {
    for (lifetime, connections) in [(Some(Duration::from_millis(300)), 2), (None, 1)] {
        let (database, ..) = set_up().await;
        let proxy = Proxy::to(database.server()).await;
        let options = database.options().host("127.0.0.1");
        let pool = PgPoolOptions::new().max_lifetime(lifetime);
        let pool = pool.connect_lazy_with(options.port(proxy.address.port()));
        let ledger = PostgresLedger::new(pool);
        granted(ledger.claim(&name("JOB-1", 1), LEASE).await.unwrap());
        sleep(Duration::from_millis(400)).await;
        granted(ledger.claim(&name("JOB-2", 1), LEASE).await.unwrap());
        assert_eq!(proxy.connections(), connections, "{lifetime:?}");
    }
}

/// A claim that is granted after its caller has given up is released, while another call of its statement waits.
#[tokio::test]
async fn a_claim_whose_caller_has_given_up_is_released() {
    let (database, pool, _) = set_up().await;
    let slow = "CREATE FUNCTION slow() RETURNS trigger LANGUAGE plpgsql AS $f$ BEGIN
             IF NEW.job LIKE 'slow%' THEN PERFORM pg_sleep(0.5); END IF; RETURN NEW; END $f$;
         CREATE TRIGGER slow BEFORE INSERT ON mx_job_webhook_events
             FOR EACH ROW EXECUTE FUNCTION slow()";
    sqlx::raw_sql(slow).execute(&pool).await.unwrap();
    let ledger = PostgresLedger::new(database.pool()).with_max_connections(1);
    let claim = async |guid: &str| ledger.claim(&name(guid, 1), LEASE).await.unwrap();
    granted(claim("warm").await);
    let (_, given_up, _) = tokio::join!(
        claim("slow-1"),
        // They wait for the first statement, and share the next one.
        async {
            sleep(Duration::from_millis(100)).await;
            timeout(Duration::from_millis(700), claim("JOB-1")).await
        },
        async {
            sleep(Duration::from_millis(100)).await;
            claim("slow-2").await
        },
    );
    assert!(given_up.is_err());
    granted(claim("JOB-1").await);
}

/// A database that may not be written to is no standby: another connection would lead to it again.
#[tokio::test]
async fn a_read_only_database_causes_no_further_connections() {
    let (database, ..) = set_up().await;
    let proxy = Proxy::to(database.server()).await;
    let options = database.options().host("127.0.0.1");
    let options = options.options([("default_transaction_read_only", "on")]);
    let ledger = PostgresLedger::new(pool(options.port(proxy.address.port())));
    let start = Instant::now();
    while start.elapsed() < Duration::from_millis(2_500) {
        let refused = ledger.claim(&name("JOB-1", 1), LEASE).await.unwrap_err();
        assert!(refused.to_string().contains("read-only"), "{refused}");
        sleep(Duration::from_millis(50)).await;
    }
    assert_eq!(proxy.connections(), 1);
}

/// "Other calls are not delayed by a connection that is refused": a server that refuses further connections to a ledger
/// that has one is asked for them now and then.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn refused_connections_are_few_while_another_works() {
    let (database, pool, _) = set_up().await;
    let role = &database.name;
    let execute = async |sql: String| {
        let sql = sqlx::AssertSqlSafe(sql);
        sqlx::raw_sql(sql).execute(&pool).await.unwrap();
    };
    execute(format!(
        "CREATE ROLE {role} LOGIN; GRANT ALL ON mx_job_webhook_events TO {role}"
    ))
    .await;
    let proxy = Proxy::to(database.server()).await;
    let options = database.options().host("127.0.0.1").username(role);
    let options = options.port(proxy.address.port());
    let pool_of_role = PgPoolOptions::new().connect_lazy_with(options);
    let ledger = PostgresLedger::new(pool_of_role).with_max_connections(2);
    granted(ledger.claim(&name("JOB-1", 1), LEASE).await.unwrap());
    execute(format!("ALTER ROLE {role} NOLOGIN")).await;
    let until = Instant::now() + Duration::from_secs(2);
    let mut callers = tokio::task::JoinSet::new();
    for caller in 0..32 {
        let ledger = ledger.clone();
        callers.spawn(async move {
            for number in 0.. {
                if Instant::now() >= until {
                    return number;
                }
                let event = name(&format!("JOB-{caller}-{number}"), 1);
                granted(ledger.claim(&event, LEASE).await.unwrap());
            }
            0
        });
    }
    let claims: usize = callers.join_all().await.into_iter().sum();
    // One at the start, and one each 200 ms.
    let connections = proxy.connections();
    println!("{claims} claims, {connections} connections");
    assert!((2..=13).contains(&connections), "{connections} connections");
    execute(format!("DROP OWNED BY {role}; DROP ROLE {role}")).await;
}

/// A server without free connections, which then has some again.
#[tokio::test]
async fn the_ledger_recovers_from_a_server_at_its_max_connections() {
    let folder = Folder::new();
    let primary = Postgres::primary(&folder, Version::V15, &["fsync=off", "max_connections=8"]);
    let application = primary.options();
    let ledger = PostgresLedger::new(pool(application.clone()));
    ledger.create_table().await.unwrap();
    ledger.claim(&name("before", 1), LEASE).await.unwrap();
    let mut taken = Vec::new();
    loop {
        match timeout(
            SOON,
            <sqlx::PgConnection as sqlx::Connection>::connect_with(&application),
        )
        .await
        {
            Ok(Ok(connection)) => taken.push(connection),
            _ => break,
        }
        assert!(taken.len() < 20);
    }
    let run = |from: usize| {
        let ledger = ledger.clone();
        async move {
            let mut calls = tokio::task::JoinSet::new();
            for number in from..from + 32 {
                let ledger = ledger.clone();
                calls.spawn(async move {
                    let event = name(&format!("{number}"), 1);
                    matches!(
                        timeout(SOON, ledger.claim(&event, LEASE)).await,
                        Ok(Ok(Claim::Granted(_)))
                    )
                });
            }
            calls.join_all().await.into_iter().filter(|ok| *ok).count()
        }
    };
    // The ledger has one connection already, which should suffice.
    let with_one = run(0).await;
    drop(taken);
    sleep(Duration::from_millis(300)).await;
    let after = run(100).await;
    assert_eq!((with_one, after), (32, 32));
}

/// A wrong password is corrected by `set_connect_options`.
#[tokio::test]
async fn corrected_connect_options_are_used() {
    let (database, _admin, ledger) = set_up().await;
    drop(ledger);
    let pool = pool(database.options().database("nowhere"));
    let ledger = PostgresLedger::new(pool.clone());
    assert!(ledger.claim(&name("x", 1), LEASE).await.is_err());
    pool.set_connect_options(database.options());
    granted(ledger.claim(&name("x", 1), LEASE).await.unwrap());
    pool.close().await;
    granted(ledger.claim(&name("y", 1), LEASE).await.unwrap());
}

/// No connection remains on the server after the ledger was used and dropped.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_dropped_ledger_leaves_no_connection() {
    let (database, admin, ledger) = set_up().await;
    drop(ledger);
    let application = unique_id();
    let pool = pool(database.options().application_name(&application));
    let ledger = PostgresLedger::new(pool.clone());
    storm(&ledger, Duration::from_secs(3)).await;
    let busy = backends(&admin, &application).await;
    assert!(busy <= 4, "{busy} connections under load");
    // After the storm, new calls still work.
    let mut calls = tokio::task::JoinSet::new();
    for number in 0..200 {
        let ledger = ledger.clone();
        calls.spawn(async move {
            let event = name(&format!("after-{number}"), 1);
            granted(
                timeout(SOON, ledger.claim(&event, LEASE))
                    .await
                    .unwrap()
                    .unwrap(),
            );
        });
    }
    calls.join_all().await;
    sleep(Duration::from_secs(12)).await;
    assert_eq!(backends(&admin, &application).await, 0, "idle");
    granted(ledger.claim(&name("again", 1), LEASE).await.unwrap());
    drop(ledger);
    sleep(Duration::from_secs(1)).await;
    assert_eq!(backends(&admin, &application).await, 0, "dropped");
}

/// Callers that cancel their calls at random moments.
async fn storm(ledger: &PostgresLedger, time: Duration) {
    let until = Instant::now() + time;
    let mut callers = tokio::task::JoinSet::new();
    for number in 0..24 {
        let ledger = ledger.clone();
        callers.spawn(async move {
            let mut turn = 0;
            while Instant::now() < until {
                turn += 1;
                let event = name(&format!("{}-{}", number % 6, turn % 5), 1);
                let patience = Duration::from_micros(fastrand::u64(..6_000));
                let claim = timeout(patience, ledger.claim(&event, Duration::ZERO)).await;
                if let Ok(Ok(Claim::Granted(token))) = claim {
                    if turn % 50 == 0 {
                        let _ = timeout(patience, ledger.commit(&event, token)).await;
                    } else {
                        let _ = timeout(patience, ledger.release(&event, token)).await;
                    }
                }
            }
        });
    }
    callers.join_all().await;
}

// Other runtimes use a clone and end, and the calls of a running one succeed.
#[test]
fn runtimes_that_end_do_not_block_other_users_of_the_ledger() {
    let main = tokio::runtime::Runtime::new().unwrap();
    let (_database, _pool, ledger) = main.block_on(set_up());
    let until = Instant::now() + Duration::from_secs(5);
    let (errors, hangs) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
    std::thread::scope(|scope| {
        for thread in 0..2 {
            let ledger = ledger.clone();
            scope.spawn(move || {
                let mut turn = 0;
                while Instant::now() < until {
                    turn += 1;
                    let runtime = tokio::runtime::Builder::new_current_thread()
                        .enable_all()
                        .build()
                        .unwrap();
                    runtime.block_on(async {
                        let event = name(&format!("t{thread}-{turn}"), 1);
                        let _ = timeout(
                            Duration::from_millis(fastrand::u64(..20)),
                            ledger.claim(&event, LEASE),
                        )
                        .await;
                    });
                    drop(runtime);
                }
            });
        }
        let (ledger, errors, hangs) = (ledger.clone(), errors.clone(), hangs.clone());
        main.block_on(async move {
            let mut turn = 0;
            while Instant::now() < until {
                turn += 1;
                match timeout(FOREVER, ledger.claim(&name(&format!("m-{turn}"), 1), LEASE)).await {
                    Err(_) => hangs.fetch_add(1, Ordering::SeqCst),
                    Ok(Err(_)) => errors.fetch_add(1, Ordering::SeqCst),
                    Ok(Ok(_)) => 0,
                };
            }
        });
    });
    let (errors, hangs) = (errors.load(Ordering::SeqCst), hangs.load(Ordering::SeqCst));
    // A call from a running runtime may fail with the worker of a runtime that ended: the answer is 503.
    assert_eq!(hangs, 0);
    assert!(errors <= 5, "{errors}");
}

/// All lock users at once: statements over the same events in every order, `prune`, `commit_in`, `create_table`.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn concurrent_statements_do_not_deadlock() {
    const JOBS: usize = 12;
    let (_database, pool, _) = set_up().await;
    let until = Instant::now() + Duration::from_secs(8);
    let mut tasks = tokio::task::JoinSet::new();
    for replica in 0..3 {
        let ledger = PostgresLedger::new(pool.clone());
        for caller in 0..10 {
            let ledger = ledger.clone();
            tasks.spawn(async move {
                let mut errors = Vec::new();
                while Instant::now() < until {
                    let event = name(&format!("{}", fastrand::usize(..JOBS)), fastrand::i64(..3));
                    let outcome = async {
                        if let Claim::Granted(token) = ledger.claim(&event, Duration::ZERO).await? {
                            match fastrand::u8(..3) {
                                0 => ledger.commit(&event, token).await.map(drop)?,
                                1 => ledger.release(&event, token).await?,
                                _ => {}
                            }
                        }
                        Ok::<_, Arc<sqlx::Error>>(())
                    };
                    match timeout(Duration::from_secs(5), outcome).await {
                        Ok(Ok(())) => {}
                        Ok(Err(error)) => errors.push(format!("{replica}/{caller} {error}")),
                        Err(_) => errors.push("no answer in 5 s".to_owned()),
                    }
                }
                errors
            });
        }
    }
    let ledger = PostgresLedger::new(pool.clone());
    tasks.spawn(async move {
        let mut errors = Vec::new();
        while Instant::now() < until {
            for outcome in [
                ledger.prune(Duration::ZERO).await.map(drop),
                ledger.create_table().await,
            ] {
                if let Err(error) = outcome {
                    errors.push(format!("prune or create_table {error}"));
                }
            }
            sleep(Duration::from_millis(3)).await;
        }
        errors
    });
    let errors: Vec<_> = tasks.join_all().await.into_iter().flatten().collect();
    assert!(
        errors.is_empty(),
        "{} {:?}",
        errors.len(),
        &errors[..errors.len().min(5)]
    );
}

/// If many holders commit one event at once, one settles it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_of_many_concurrent_commits_settles_the_event() {
    let (_database, pool, _) = set_up().await;
    for turn in 0..40 {
        let event = name(&format!("{turn}"), 1);
        let mut holders = tokio::task::JoinSet::new();
        for _ in 0..12 {
            let (ledger, event) = (PostgresLedger::new(pool.clone()), event.clone());
            holders.spawn(async move {
                match ledger.claim(&event, Duration::ZERO).await.unwrap() {
                    Claim::Granted(token) => {
                        Some((token, ledger.commit(&event, token).await.unwrap()))
                    }
                    _ => None,
                }
            });
        }
        let held: Vec<_> = holders.join_all().await.into_iter().flatten().collect();
        let settled = held
            .iter()
            .filter(|(_, commit)| *commit == Commit::Settled)
            .count();
        assert_eq!(settled, 1, "{held:?}");
        let mut tokens: Vec<_> = held.iter().map(|(token, _)| token).collect();
        tokens.sort();
        tokens.dedup();
        assert_eq!(tokens.len(), held.len(), "each holder has its own token");
    }
}

/// Many concurrent claims of one event: one is granted, and all are answered.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_of_many_concurrent_claims_of_an_event_is_granted() {
    let (_database, _pool, ledger) = set_up().await;
    let event = name("x", 1);
    let mut callers = tokio::task::JoinSet::new();
    for _ in 0..3_000 {
        let (ledger, event) = (ledger.clone(), event.clone());
        callers.spawn(async move {
            timeout(Duration::from_secs(30), ledger.claim(&event, LEASE)).await
        });
    }
    let answers = callers.join_all().await;
    let late = answers.iter().filter(|answer| answer.is_err()).count();
    let granted = answers
        .iter()
        .filter(|answer| matches!(answer, Ok(Ok(Claim::Granted(_)))))
        .count();
    assert_eq!((late, granted), (0, 1));
}
/// A claim waits for the transaction in which another callback of the event succeeds. No second callback runs.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_claim_that_waits_for_a_transaction_that_settles_its_event_is_not_granted() {
    let (_database, pool, ledger) = set_up().await;
    let mut answered = 0;
    for number in 0..30 {
        let guid = format!("x-{number}");
        let mut open = pool.begin().await.unwrap();
        sqlx::query(LOST_AND_SETTLED)
            .bind(&guid)
            .execute(&mut *open)
            .await
            .unwrap();
        let (ledger, event) = (ledger.clone(), name(&guid, 1));
        let claim = tokio::spawn(async move { ledger.claim(&event, LEASE).await });
        // It waits for 100 ms at most.
        sleep(Duration::from_millis(30)).await;
        open.commit().await.unwrap();
        match claim.await.unwrap() {
            Ok(Claim::Granted(_)) => panic!("{number}: the event is settled"),
            Ok(_) => answered += 1,
            Err(_) => {}
        }
    }
    assert!(answered > 0, "each claim has waited too long");
}

#[tokio::test]
async fn an_event_beside_a_waiting_claim_is_handled_once() {
    let (_database, pool, ledger) = set_up().await;
    let effects = Arc::new(AtomicUsize::new(0));
    let counted = effects.clone();
    let once = DedupeLayer::new(ledger)
        .with_lease(Duration::from_secs(3))
        .layer(JobRouter::new().on_completed(move |event: JobEvent| {
            let counted = counted.clone();
            async move {
                sleep(Duration::from_millis(300)).await;
                if event.guid.as_str() == "n" {
                    counted.fetch_add(1, Ordering::SeqCst);
                }
            }
        }));
    let mut open = pool.begin().await.unwrap();
    sqlx::query(LOST_AND_SETTLED)
        .bind("x")
        .execute(&mut *open)
        .await
        .unwrap();
    let both = {
        let once = once.clone();
        let (n, x) = (
            once.clone().oneshot(completed("n", 1)),
            once.oneshot(completed("x", 1)),
        );
        tokio::spawn(async move { tokio::join!(n, x) })
    };
    sleep(Duration::from_millis(3_500)).await;
    open.commit().await.unwrap();
    // The event is delivered again during its callback.
    sleep(Duration::from_millis(100)).await;
    let again = once.oneshot(completed("n", 1)).await;
    let (first, _) = both.await.unwrap();
    let seen = format!("{first:?}, again {again:?}");
    assert_eq!(effects.load(Ordering::SeqCst), 1, "{seen}");
}

/// Returns the calls and the failures over some seconds, while one connection works and new ones fail.
async fn failing_beside_a_working_connection(ledger: &PostgresLedger) -> (usize, usize) {
    let until = Instant::now() + Duration::from_secs(4);
    let mut callers = tokio::task::JoinSet::new();
    for number in 0..16 {
        let ledger = ledger.clone();
        callers.spawn(async move {
            let (mut calls, mut failed) = (0, 0);
            while Instant::now() < until {
                calls += 1;
                let event = name(&format!("{number}-{calls}"), 1);
                let claim = timeout(SOON, ledger.claim(&event, LEASE)).await;
                failed += usize::from(!matches!(claim, Ok(Ok(Claim::Granted(_)))));
                sleep(Duration::from_millis(fastrand::u64(..4))).await;
            }
            (calls, failed)
        });
    }
    let counts = callers.join_all().await;
    counts
        .iter()
        .fold((0, 0), |sum, one| (sum.0 + one.0, sum.1 + one.1))
}

#[tokio::test]
async fn a_failed_connect_fails_no_call_that_another_connection_can_serve() {
    let (_database, pool, ledger) = set_up().await;
    granted(ledger.claim(&name("x", 1), LEASE).await.unwrap());
    let wrong = (*pool.connect_options()).clone().database("nowhere");
    pool.set_connect_options(wrong);
    let (calls, failed) = failing_beside_a_working_connection(&ledger).await;
    assert_eq!(failed, 0, "of {calls}");
}

#[tokio::test]
async fn a_full_server_fails_no_call_that_an_open_connection_can_serve() {
    let folder = Folder::new();
    let primary = Postgres::primary(&folder, Version::V15, &["fsync=off", "max_connections=8"]);
    let application = primary.options();
    let ledger = PostgresLedger::new(pool(application.clone()));
    ledger.create_table().await.unwrap();
    granted(ledger.claim(&name("before", 1), LEASE).await.unwrap());
    let mut taken = Vec::new();
    while let Ok(Ok(connection)) = timeout(
        SOON,
        <sqlx::PgConnection as sqlx::Connection>::connect_with(&application),
    )
    .await
    {
        taken.push(connection);
        assert!(taken.len() < 20);
    }
    let (calls, failed) = failing_beside_a_working_connection(&ledger).await;
    drop(taken);
    assert_eq!(failed, 0, "of {calls}");
}

/// The server ends idle sessions.
#[tokio::test]
async fn sessions_that_the_server_ends_when_idle_fail_no_call() {
    let (database, _admin, ledger) = set_up().await;
    drop(ledger);
    let options = database
        .options()
        .options([("idle_session_timeout", "300ms")]);
    let ledger = PostgresLedger::new(pool(options));
    for number in 0..8 {
        granted(
            ledger
                .claim(&name(&format!("{number}"), 1), LEASE)
                .await
                .unwrap(),
        );
        sleep(Duration::from_millis(280 + 10 * number)).await;
    }
}

/// A claim is released if its caller cancels it while others of its statement still wait.
#[tokio::test]
async fn a_cancelled_claim_is_released() {
    let (_database, pool, ledger) = set_up().await;
    let (a, x) = (name("a", 1), name("x", 1));
    let mut open = pool.begin().await.unwrap();
    let lock = "LOCK TABLE mx_job_webhook_events";
    sqlx::query(lock).execute(&mut *open).await.unwrap();
    let both = {
        let (ledger, a, x) = (ledger.clone(), a.clone(), x.clone());
        tokio::spawn(async move {
            tokio::join!(
                timeout(Duration::from_millis(300), ledger.claim(&a, LEASE)),
                ledger.claim(&x, LEASE),
            )
        })
    };
    sleep(Duration::from_millis(800)).await;
    open.rollback().await.unwrap();
    let (given_up, waited) = both.await.unwrap();
    assert!(given_up.is_err());
    granted(waited.unwrap());
    sleep(Duration::from_millis(300)).await;
    granted(ledger.claim(&a, LEASE).await.unwrap());
}

#[tokio::test]
async fn an_event_that_becomes_stale_during_its_claim_is_stale() {
    let (_database, pool, ledger) = set_up().await;
    let (older, later) = (name("x", 1), name("x", 2));
    let mut open = pool.begin().await.unwrap();
    sqlx::query(LOST_AND_SETTLED)
        .bind("x")
        .execute(&mut *open)
        .await
        .unwrap();
    let waits = {
        let (ledger, older) = (ledger.clone(), older.clone());
        tokio::spawn(async move { ledger.claim(&older, LEASE).await.unwrap() })
    };
    sleep(Duration::from_millis(300)).await;
    let token = granted(ledger.claim(&later, LEASE).await.unwrap());
    assert_eq!(ledger.commit(&later, token).await.unwrap(), Commit::Settled);
    open.rollback().await.unwrap();
    assert_eq!(waits.await.unwrap(), Claim::InFlight);
    assert_eq!(ledger.claim(&older, LEASE).await.unwrap(), Claim::Stale);
}

/// Callbacks hold transactions open while the table is upgraded to this version.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_table_can_be_upgraded_under_load() {
    let database = Database::create("").await;
    let pool = database.pool();
    let old = PostgresLedger::TABLE
        .replace("updated_at numeric", "updated_at bigint")
        .split("-- Before version 1")
        .next()
        .unwrap()
        .to_owned();
    sqlx::raw_sql(sqlx::AssertSqlSafe(old))
        .execute(&pool)
        .await
        .unwrap();
    crate::load::create_effects(&pool).await;
    let tally = crate::load::Tally::new();
    let replicas: Vec<_> = (0..2)
        .map(|_| {
            DedupeLayer::new(PostgresLedger::new(pool.clone()))
                .layer(crate::load::in_the_database(&pool))
        })
        .collect();
    let plan = crate::load::Plan {
        events: usize::MAX,
        at_once: 8,
        patience: Duration::from_secs(20),
    };
    let load = crate::load::Load::start(plan, &tally, &replicas);
    tally.more(100).await;
    let mut upgrades = tokio::task::JoinSet::new();
    for _ in 0..4 {
        let ledger = PostgresLedger::new(pool.clone());
        upgrades.spawn(async move { ledger.create_table().await });
    }
    for upgraded in upgrades.join_all().await {
        upgraded.unwrap();
    }
    tally.more(100).await;
    load.finish().await;
    crate::load::read_effects(&tally, &pool).await;
    tally.look(|counts| {
        assert_eq!(counts.given_up, 0);
        for guid in &counts.acknowledged {
            assert_eq!(counts.effects.get(guid), Some(&1), "{guid}");
        }
    });
}

/// If one call of a statement fails because of its stored row, the others succeed.
#[tokio::test]
async fn a_failing_call_does_not_fail_the_others_of_its_statement() {
    let (_database, pool, ledger) = set_up().await;
    sqlx::query(
        "INSERT INTO mx_job_webhook_events VALUES ('bad', 'COMPLETED 1', 1, $1, 'epoch', NULL)",
    )
    .bind(i64::MAX)
    .execute(&pool)
    .await
    .unwrap();
    let events: Vec<_> = (0..20)
        .map(|number| name(&format!("{number}"), 1))
        .collect();
    let bad = name("bad", 1);
    let mut calls = tokio::task::JoinSet::new();
    for event in events.into_iter().chain([bad]) {
        let ledger = ledger.clone();
        calls.spawn(async move { ledger.claim(&event, LEASE).await });
    }
    let answers = calls.join_all().await;
    let granted = answers
        .iter()
        .filter(|answer| matches!(answer, Ok(Claim::Granted(_))))
        .count();
    assert_eq!(
        (
            granted,
            answers.iter().filter(|answer| answer.is_err()).count()
        ),
        (20, 1)
    );
}

/// A statement that fails for a reason of the server is not repeated for each call.
#[tokio::test]
async fn a_call_that_a_trigger_refuses_is_made_once() {
    let (_database, pool, ledger) = set_up().await;
    // A sequence keeps its numbers although the statement fails.
    sqlx::raw_sql(
        "CREATE SEQUENCE calls;
         CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS
             $$ BEGIN PERFORM nextval('calls'); RAISE 'refused'; END $$;
         CREATE TRIGGER refuse BEFORE INSERT ON mx_job_webhook_events FOR EACH ROW EXECUTE FUNCTION refuse()",
    )
    .execute(&pool)
    .await
    .unwrap();
    assert!(ledger.claim(&name("JOB-1", 1), LEASE).await.is_err());
    let calls: i64 = sqlx::query_scalar("SELECT nextval('calls')")
        .fetch_one(&pool)
        .await
        .unwrap();
    assert_eq!(calls, 2);
}

/// Without timers and without a runtime, a delivery fails instead of waiting forever.
#[test]
fn a_delivery_without_timers_or_a_runtime_ends_with_an_error() {
    let main = tokio::runtime::Runtime::new().unwrap();
    let (_database, _pool, ledger) = main.block_on(set_up());
    let deliver = |ledger: &PostgresLedger, guid: &str| {
        DedupeLayer::new(ledger.clone())
            .layer(JobRouter::new().on_completed(|_| async {}))
            .oneshot(completed(guid, 1))
    };
    let poor = tokio::runtime::Builder::new_current_thread()
        .enable_io()
        .build()
        .unwrap();
    let (ended, ends) = std::sync::mpsc::channel();
    let own = ledger.clone();
    std::thread::spawn(move || {
        let outcome = poor.block_on(deliver(&own, "poor"));
        let _ = ended.send(outcome.map_err(|error| error.kind()));
    });
    let outcome = ends
        .recv_timeout(Duration::from_secs(8))
        .expect("the delivery hangs");
    assert_eq!(
        outcome.unwrap_err(),
        mx_job_webhook::ErrorKind::LedgerUnavailable
    );
    let outcome = {
        let mut delivery = Box::pin(deliver(&ledger, "none"));
        let waker = std::task::Waker::noop();
        delivery
            .as_mut()
            .poll(&mut std::task::Context::from_waker(waker))
    };
    match outcome {
        std::task::Poll::Ready(outcome) => {
            assert_eq!(
                outcome.unwrap_err().kind(),
                mx_job_webhook::ErrorKind::LedgerUnavailable
            );
        }
        std::task::Poll::Pending => {}
    }
    // Other calls still work.
    main.block_on(async {
        granted(
            timeout(SOON, ledger.claim(&name("after", 1), LEASE))
                .await
                .unwrap()
                .unwrap(),
        );
    });
}

/// The shortest and longest leases and the earliest dates.
#[tokio::test]
async fn the_shortest_and_longest_leases_work() {
    let (_database, _pool, ledger) = set_up().await;
    for (number, lease) in [Duration::ZERO, Duration::from_nanos(1)]
        .into_iter()
        .enumerate()
    {
        let event = name(&format!("{number}"), i64::MIN);
        let first = granted(ledger.claim(&event, lease).await.unwrap());
        let second = granted(ledger.claim(&event, lease).await.unwrap());
        assert!(second > first);
    }
    let event = name("max", 1);
    let token = granted(ledger.claim(&event, Duration::MAX).await.unwrap());
    assert_eq!(
        ledger.claim(&event, Duration::MAX).await.unwrap(),
        Claim::InFlight
    );
    assert_eq!(ledger.commit(&event, token).await.unwrap(), Commit::Settled);
    assert_eq!(
        ledger.claim(&name("max", i64::MIN), LEASE).await.unwrap(),
        Claim::Stale
    );
}

/// One statement with events of one job with different times, and tokens of one event.
#[tokio::test]
async fn events_of_one_job_can_share_a_statement() {
    let (_database, _pool, ledger) = set_up().await;
    let [zero, one, two, three] = [0, 1, 2, 3].map(|at| name("x", at));
    let (a, b) = tokio::join!(ledger.claim(&one, LEASE), ledger.claim(&two, LEASE));
    let (a, b) = (granted(a.unwrap()), granted(b.unwrap()));
    let (a, b) = tokio::join!(ledger.commit(&two, b), ledger.commit(&one, a));
    assert_eq!((a.unwrap(), b.unwrap()), (Commit::Settled, Commit::Settled));
    let (a, b, c) = tokio::join!(
        ledger.claim(&zero, LEASE),
        ledger.claim(&one, LEASE),
        ledger.claim(&three, LEASE),
    );
    assert_eq!((a.unwrap(), b.unwrap()), (Claim::Stale, Claim::Settled));
    let token = granted(c.unwrap());
    let next = FencingToken::new(token.get() + 1);
    let (a, b, c) = tokio::join!(
        ledger.commit(&three, next),
        ledger.commit(&three, token),
        ledger.release(&three, token),
    );
    c.unwrap();
    let mut both = [a.unwrap(), b.unwrap()].map(|commit| commit == Commit::Settled);
    both.sort_unstable();
    assert_eq!(both, [false, true]);
}

/// The ledger's sessions are ended again and again under load: each effect happens once, and each acknowledged event
/// has its effect.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn terminated_sessions_repeat_no_effect() {
    for level in ["read committed", "serializable"] {
        let (database, admin, ledger) = set_up().await;
        drop(ledger);
        let application = unique_id();
        let options = database
            .options()
            .application_name(&application)
            .options([("default_transaction_isolation", level)]);
        let tally = crate::load::Tally::new();
        let replicas: Vec<_> = (0..2)
            .map(|_| {
                DedupeLayer::new(PostgresLedger::new(pool(options.clone())))
                    .with_lease(Duration::from_secs(6))
                    .layer(crate::load::in_memory(&tally))
            })
            .collect();
        let plan = crate::load::Plan {
            events: usize::MAX,
            at_once: 16,
            patience: Duration::from_secs(30),
        };
        let load = crate::load::Load::start(plan, &tally, &replicas);
        for _ in 0..40 {
            sleep(Duration::from_millis(100)).await;
            sqlx::query("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = $1")
                .bind(&application)
                .execute(&admin)
                .await
                .unwrap();
        }
        load.finish().await;
        tally.look(|counts| {
            let doubled = counts.effects.values().filter(|times| **times > 1).count();
            let lost = counts
                .acknowledged
                .iter()
                .filter(|guid| !counts.effects.contains_key(*guid))
                .count();
            assert_eq!(
                (doubled, lost, counts.given_up),
                (0, 0, 0),
                "{level}: (doubled, lost, given up) of {}",
                counts.acknowledged.len()
            );
        });
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_replica_that_dies_silently_leaves_no_open_transaction() {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    let (database, _admin, ledger) = set_up().await;
    drop(ledger);
    let (armed, commits) = (
        Arc::new(AtomicBool::new(false)),
        Arc::new(AtomicUsize::new(0)),
    );
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let (server, is_armed, counted) = (database.server(), armed.clone(), commits.clone());
    tokio::spawn(async move {
        loop {
            let (client, _) = listener.accept().await.unwrap();
            let server = tokio::net::TcpStream::connect(server).await.unwrap();
            let (mut asks, mut hears) = client.into_split();
            let (mut answers, mut asked) = server.into_split();
            let (is_armed, counted) = (is_armed.clone(), counted.clone());
            tokio::spawn(async move {
                let mut bytes = vec![0; 65_536];
                loop {
                    let count = asks.read(&mut bytes).await.unwrap_or(0);
                    if bytes[..count].windows(7).any(|text| text == b"COMMIT\0") {
                        counted.fetch_add(1, Ordering::SeqCst);
                        if is_armed.load(Ordering::SeqCst) {
                            // The machine disappears: the server receives no more packets.
                            sleep(Duration::from_secs(60)).await;
                        }
                    }
                    if count == 0 || asked.write_all(&bytes[..count]).await.is_err() {
                        return;
                    }
                }
            });
            tokio::spawn(async move { tokio::io::copy(&mut answers, &mut hears).await });
        }
    });
    let isolated = [("default_transaction_isolation", "repeatable read")];
    let direct = PostgresLedger::new(pool(database.options().options(isolated)));
    let options = database
        .options()
        .options(isolated)
        .host("127.0.0.1")
        .port(port);
    let dies = PostgresLedger::new(pool(options)).with_max_connections(1);
    // Repeat until a race occurs.
    let until = Instant::now() + Duration::from_secs(10);
    while commits.load(Ordering::SeqCst) == 0 && Instant::now() < until {
        let event = name("race", 1);
        let mut callers = tokio::task::JoinSet::new();
        for _ in 0..6 {
            for ledger in [&direct, &dies] {
                let (ledger, event) = (ledger.clone(), event.clone());
                callers.spawn(async move { ledger.claim(&event, Duration::ZERO).await });
            }
        }
        callers.join_all().await;
    }
    assert!(
        commits.load(Ordering::SeqCst) > 0,
        "no race occurred, so the test checked nothing"
    );
    armed.store(true, Ordering::SeqCst);
    let event = name("victim", 1);
    let claim = timeout(
        Duration::from_millis(500),
        dies.claim(&event, Duration::from_secs(1)),
    )
    .await;
    assert!(claim.is_err(), "{claim:?}");
    drop(dies);
    let other = name("unrelated", 1);
    let (victim, unrelated) = tokio::join!(
        timeout(SOON * 2, direct.claim(&event, LEASE)),
        timeout(SOON * 2, direct.claim(&other, LEASE)),
    );
    let answers = format!("victim {victim:?}, unrelated {unrelated:?}");
    assert!(victim.is_ok() && unrelated.is_ok(), "{answers}");
}

/// A runtime ends while callbacks run: destructors release their claims, where no worker can be started.
#[test]
fn a_runtime_can_end_during_a_callback() {
    let (done, is_done) = std::sync::mpsc::channel();
    std::thread::spawn(move || {
        for _ in 0..20 {
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()
                .unwrap();
            runtime.block_on(async {
                let (_database, _pool, ledger) = set_up().await;
                let (started, mut is_started) = tokio::sync::watch::channel(0);
                let callback = move |_| {
                    started.send_modify(|started| *started += 1);
                    std::future::pending::<()>()
                };
                let jobs = JobRouter::new().on_completed(callback);
                let once = DedupeLayer::new(ledger).layer(jobs);
                for number in 0..4 {
                    tokio::spawn(once.clone().oneshot(completed(&format!("{number}"), 1)));
                }
                is_started.wait_for(|started| *started == 4).await.unwrap();
            });
            drop(runtime);
        }
        done.send(()).unwrap();
    });
    let limit = Duration::from_secs(60);
    is_done.recv_timeout(limit).expect("the runtime hangs");
}
