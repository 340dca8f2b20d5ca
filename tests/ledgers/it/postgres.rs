//! The ledger on Postgres: its own behaviour, and faults that only a Postgres has.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use mx_job_webhook::event::FencingToken;
use mx_job_webhook::ledger::{Claim, Commit, Ledger as _, PostgresLedger};
use mx_job_webhook::testing::check_ledger;
use mx_job_webhook::{DedupeLayer, ErrorKind, JobEvent, JobRouter, Receipt};
use sqlx::postgres::{PgConnectOptions, PgPoolOptions};
use sqlx::{ConnectOptions as _, PgConnection, PgPool, Row as _};
use tokio::sync::Notify;
use tower::{BoxError, Layer as _, ServiceExt as _};

use super::outages;
use super::proxy::Proxy;
use crate::engines::postgres::Database;
use crate::support::{LEASE, completed, granted, name, notified, unique_id};

fn options() -> PgConnectOptions {
    let url = std::env::var("MX_TEST_POSTGRES_URL").unwrap();
    url.parse().unwrap()
}

fn pool_of(options: PgConnectOptions) -> PgPool {
    PgPoolOptions::new()
        .max_connections(16)
        .acquire_timeout(Duration::from_secs(30))
        .connect_lazy_with(options)
}

async fn ledger() -> PostgresLedger {
    let ledger = PostgresLedger::new(pool_of(options()));
    ledger.create_table().await.unwrap();
    ledger
}

#[tokio::test]
async fn the_postgres_ledger_conforms() {
    check_ledger(ledger().await).await;
}

async fn setting(connection: &mut PgConnection, setting: &'static str) -> String {
    let row = sqlx::query(setting).fetch_one(connection).await;
    row.unwrap().get(0)
}

/// A transaction that settles an event is on disk and on the synchronous standbys, even if the application has
/// chosen less durability. A client that disappears during it does not hold its locks for hours. The next
/// transaction has the application's settings again.
#[tokio::test]
async fn a_settling_transaction_is_durable_and_does_not_stay_open() {
    const DURABLE: &str = "SHOW synchronous_commit";
    const SILENCE: &str = "SHOW idle_in_transaction_session_timeout";
    const DAYS: Duration = Duration::from_secs(100 * 86_400);
    let minute = Some(Duration::from_secs(60));
    ledger().await;
    for (durable, durable_in_it, limit, idle, idle_in_it) in [
        ("off", "on", minute, "0", "1min"),
        ("local", "on", minute, "7s", "7s"),
        (
            "remote_write",
            "remote_write",
            Some(Duration::from_millis(1_500)),
            "0",
            "1500ms",
        ),
        ("remote_apply", "remote_apply", None, "0", "0"),
        ("on", "on", Some(DAYS), "0", "2147483647ms"),
    ] {
        let options = options().options([
            ("synchronous_commit", durable),
            ("idle_in_transaction_session_timeout", idle),
        ]);
        let pool = PgPoolOptions::new()
            .max_connections(1)
            .connect_with(options)
            .await
            .unwrap();
        let shared = pool_of(self::options());
        let looks = move |event: JobEvent| {
            let pool = pool.clone();
            let ledger = PostgresLedger::new(pool.clone()).with_idle_in_transaction(limit);
            async move {
                let mut transaction = pool.begin().await?;
                ledger.commit_in(&mut transaction, &event).await?;
                assert_eq!(setting(&mut transaction, DURABLE).await, durable_in_it);
                assert_eq!(setting(&mut transaction, SILENCE).await, idle_in_it);
                transaction.commit().await?;
                let mut connection = pool.acquire().await?;
                assert_eq!(setting(&mut connection, DURABLE).await, durable);
                assert_eq!(setting(&mut connection, SILENCE).await, idle);
                Ok::<_, BoxError>(())
            }
        };
        let jobs = JobRouter::new().on_completed(looks);
        let once = DedupeLayer::new(PostgresLedger::new(shared)).layer(jobs);
        let receipt = once.oneshot(completed(&unique_id(), 1)).await;
        assert_eq!(receipt.unwrap(), Receipt::Handled, "{durable} {idle}");
    }
}

#[tokio::test]
async fn tokens_keep_growing_when_the_servers_clock_is_set_back() {
    const LATER: i64 = 4_000_000_000_000_000;
    let (ledger, guid) = (ledger().await, unique_id());
    let event = name(&guid, 10);
    let token = granted(ledger.claim(&event, LEASE).await.unwrap());
    ledger.release(&event, token).await.unwrap();
    sqlx::query("UPDATE mx_job_webhook_events SET token = $1 WHERE job = $2")
        .bind(LATER)
        .bind(guid)
        .execute(&pool_of(options()))
        .await
        .unwrap();
    let token = granted(ledger.claim(&event, LEASE).await.unwrap());
    assert_eq!(token.get(), LATER.unsigned_abs() + 1);
    assert_eq!(ledger.commit(&event, token).await.unwrap(), Commit::Settled);
}

#[tokio::test]
async fn the_postgres_ledger_conforms_at_stricter_isolation_levels() {
    ledger().await;
    let options = options().options([("default_transaction_isolation", "repeatable read")]);
    check_ledger(PostgresLedger::new(pool_of(options))).await;
}

#[tokio::test]
async fn the_postgres_ledger_recovers_from_outages() {
    ledger().await;
    let (options, proxy) = proxied().await;
    outages::are_survived(PostgresLedger::new(pool_of(options)), proxy).await;
}

/// Connections that stall for good, as behind a firewall that dropped them, delay the calls that wait for
/// them. Each connection is replaced.
#[tokio::test]
async fn stalled_connections_are_replaced() {
    const CONNECTIONS: u32 = 2;
    ledger().await;
    let (options, proxy) = proxied().await;
    let ledger = PostgresLedger::new(pool_of(options)).with_max_connections(CONNECTIONS);
    let run = unique_id();
    let claim = async |number| {
        let event = name(&format!("{run}-{number}"), 1);
        tokio::time::timeout(Duration::from_secs(8), ledger.claim(&event, LEASE)).await
    };
    let (first, second) = tokio::join!(claim(0), claim(1));
    granted(first.unwrap().unwrap());
    granted(second.unwrap().unwrap());
    proxy.stall_existing();
    let mut stalled = 0;
    for number in 2..6 {
        stalled += u32::from(!matches!(claim(number).await, Ok(Ok(_))));
    }
    assert!(stalled <= CONNECTIONS, "{stalled}");
    granted(claim(6).await.unwrap().unwrap());
}

/// Callbacks that hold all connections of the application's pool for a long time do not prevent commits.
#[tokio::test]
async fn slow_callbacks_that_hold_the_pool_do_not_delay_commits() {
    const DELIVERIES: usize = 64;
    ledger().await;
    let pool = PgPoolOptions::new()
        .max_connections(2)
        .connect_lazy_with(options());
    let ledger = PostgresLedger::new(pool.clone());
    let ran = Arc::new(AtomicUsize::new(0));
    let counted = ran.clone();
    let callback = move |pool: PgPool, _: JobEvent| {
        let counted = counted.clone();
        async move {
            let mut connection = pool.acquire().await?;
            sqlx::query("SELECT pg_sleep(0.3)")
                .execute(&mut *connection)
                .await?;
            counted.fetch_add(1, Ordering::SeqCst);
            Ok::<_, BoxError>(())
        }
    };
    let once = DedupeLayer::new(ledger)
        // If a commit waited for the pool too, it would wait for the other callbacks: for nine seconds.
        .with_ledger_timeout(Duration::from_secs(7))
        .layer(JobRouter::with_state(pool).on_completed(callback).build());
    let mut deliveries = tokio::task::JoinSet::new();
    for _ in 0..DELIVERIES {
        deliveries.spawn(once.clone().oneshot(completed(&unique_id(), 1)));
    }
    for receipt in deliveries.join_all().await {
        assert_eq!(receipt.unwrap(), Receipt::Handled);
    }
    assert_eq!(ran.load(Ordering::SeqCst), DELIVERIES);
}

/// Connects to the server through a proxy.
async fn proxied() -> (PgConnectOptions, Proxy) {
    let options = options();
    let server = format!("{}:{}", options.get_host(), options.get_port());
    let proxy = Proxy::to(server.parse().unwrap()).await;
    let options = options
        .host("127.0.0.1")
        .port(proxy.address.port())
        .disable_statement_logging();
    (options, proxy)
}

/// Several replicas start at once in an empty database.
#[tokio::test]
async fn many_replicas_create_the_table_once() {
    let database = Database::create("").await;
    let ledgers: Vec<_> = (0..8)
        .map(|_| PostgresLedger::new(pool_of(database.options())))
        .collect();
    let mut replicas = tokio::task::JoinSet::new();
    for ledger in &ledgers {
        let ledger = ledger.clone();
        replicas.spawn(async move { ledger.create_table().await });
    }
    while let Some(created) = replicas.join_next().await {
        created.unwrap().unwrap();
    }
    ledgers[0].create_table().await.unwrap();
    granted(ledgers[0].claim(&name("JOB-1", 1), LEASE).await.unwrap());
}

#[tokio::test]
async fn prune_deletes_old_events_and_keeps_those_in_flight() {
    // The schema is the test's own, because other tests prune too.
    let schema = format!("mx_{}", unique_id());
    let pool = pool_of(options().options([("search_path", schema.as_str())]));
    let create = sqlx::AssertSqlSafe(format!("CREATE SCHEMA {schema}"));
    sqlx::query(create).execute(&pool).await.unwrap();
    let ledger = PostgresLedger::new(pool.clone());
    ledger.create_table().await.unwrap();
    let [settled, released, expired, held] = ["1", "2", "3", "4"].map(|guid| name(guid, 1));
    let token = granted(ledger.claim(&settled, LEASE).await.unwrap());
    ledger.commit(&settled, token).await.unwrap();
    let token = granted(ledger.claim(&released, LEASE).await.unwrap());
    ledger.release(&released, token).await.unwrap();
    granted(ledger.claim(&expired, Duration::ZERO).await.unwrap());
    let token = granted(ledger.claim(&held, LEASE).await.unwrap());

    assert_eq!(ledger.prune(Duration::from_secs(60)).await.unwrap(), 0);
    assert_eq!(ledger.prune(Duration::MAX).await.unwrap(), 0);
    assert_eq!(ledger.claim(&settled, LEASE).await.unwrap(), Claim::Settled);
    assert_eq!(ledger.prune(Duration::ZERO).await.unwrap(), 3);
    assert_eq!(ledger.claim(&held, LEASE).await.unwrap(), Claim::InFlight);
    assert_eq!(ledger.commit(&held, token).await.unwrap(), Commit::Settled);
    granted(ledger.claim(&settled, LEASE).await.unwrap());
    // More than one statement deletes.
    let many = "INSERT INTO mx_job_webhook_events (job, event, token, leased_until, settled_at)
                SELECT 'JOB-' || number, 'COMPLETED 1', 1, now(), now()
                FROM generate_series(1, 20001) AS number";
    sqlx::query(many).execute(&pool).await.unwrap();
    let pruned = ledger.prune(Duration::ZERO).await.unwrap();
    assert!(pruned >= 20_001, "{pruned}");
    let drop = sqlx::AssertSqlSafe(format!("DROP SCHEMA {schema} CASCADE"));
    sqlx::query(drop).execute(&pool).await.unwrap();
}

/// An application whose effect is a row in the ledger's database. Only the ledger prevents a second
/// row.
#[derive(Clone)]
struct App {
    pool: PgPool,
    ledger: PostgresLedger,
}

impl App {
    async fn new() -> Self {
        Self::connect(options()).await
    }

    async fn connect(options: PgConnectOptions) -> Self {
        let pool = pool_of(options);
        let table = "CREATE TABLE IF NOT EXISTS mx_test_effects (job text NOT NULL)";
        // If two tests create it at once, the second may fail.
        let _ = sqlx::query(table).execute(&pool).await;
        let ledger = PostgresLedger::new(pool.clone());
        ledger.create_table().await.unwrap();
        Self { pool, ledger }
    }

    /// Writes the effect together with the ledger's entry.
    async fn effect(&self, event: &JobEvent, pause: Duration) -> Result<(), BoxError> {
        let mut transaction = self.pool.begin().await?;
        sqlx::query("INSERT INTO mx_test_effects VALUES ($1)")
            .bind(event.guid.as_str())
            .execute(&mut *transaction)
            .await?;
        self.ledger.commit_in(&mut transaction, event).await?;
        tokio::time::sleep(pause).await;
        transaction.commit().await?;
        Ok(())
    }

    async fn effects(&self, guid: &str) -> i64 {
        sqlx::query("SELECT count(*) FROM mx_test_effects WHERE job = $1")
            .bind(guid)
            .fetch_one(&self.pool)
            .await
            .unwrap()
            .get(0)
    }
}

#[tokio::test]
async fn an_effect_and_its_entry_are_durable_together() {
    let (app, guid) = (App::new().await, unique_id());
    let event = completed(&guid, 1);
    let tries = Arc::new(AtomicUsize::new(0));
    let counted = tries.clone();
    let callback = move |app: App, event: JobEvent| {
        let try_number = counted.fetch_add(1, Ordering::SeqCst);
        async move {
            match try_number {
                // The transaction rolls back: neither row exists.
                0 => {
                    let mut transaction = app.pool.begin().await?;
                    app.ledger.commit_in(&mut transaction, &event).await?;
                    transaction.rollback().await?;
                    Err("rolled back".into())
                }
                // Both rows exist, and the callback's success is not reported.
                1 => {
                    app.effect(&event, Duration::ZERO).await?;
                    // A second effect within one claim is refused too.
                    let again = app.effect(&event, Duration::ZERO).await.unwrap_err();
                    let again = again.downcast::<mx_job_webhook::ledger::CommitInError>();
                    assert!(again.unwrap().is_overtaken());
                    Err("the answer to the commit was lost".into())
                }
                _ => Err::<(), BoxError>("the callback ran again".into()),
            }
        }
    };
    let jobs = JobRouter::with_state(app.clone())
        .on_completed(callback)
        .build();
    let once = DedupeLayer::new(app.ledger.clone()).layer(jobs);
    let error = once.clone().oneshot(event.clone()).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::CallbackFailed);
    assert_eq!(app.effects(&guid).await, 0);
    let error = once.clone().oneshot(event.clone()).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::CallbackFailed);
    assert_eq!(app.effects(&guid).await, 1);
    assert_eq!(once.oneshot(event).await.unwrap(), Receipt::Duplicate);
    assert_eq!(app.effects(&guid).await, 1);
    assert_eq!(tries.load(Ordering::SeqCst), 2);
}

#[tokio::test]
async fn a_callback_whose_lease_was_taken_over_cannot_have_an_effect() {
    let (app, guid) = (App::new().await, unique_id());
    let event = completed(&guid, 1);
    let callback = move |app: App, event: JobEvent| async move {
        tokio::time::sleep(Duration::from_secs(2)).await;
        app.effect(&event, Duration::ZERO).await
    };
    let jobs = JobRouter::with_state(app.clone())
        .on_completed(callback)
        .build();
    let once = DedupeLayer::new(app.ledger.clone())
        .with_lease(Duration::from_secs(1))
        .layer(jobs);
    let slow = tokio::spawn(once.clone().oneshot(event.clone()));
    tokio::time::sleep(Duration::from_millis(1_300)).await;
    let fast = tokio::spawn(once.oneshot(event));
    let slow = slow.await.unwrap().unwrap_err();
    assert_eq!(slow.kind(), ErrorKind::CallbackFailed);
    assert_eq!(fast.await.unwrap().unwrap(), Receipt::Handled);
    assert_eq!(app.effects(&guid).await, 1);
}

/// The callback whose success was recorded first has had its effect; the effect of the one that took over is refused.
#[tokio::test]
async fn an_event_that_a_slow_holder_committed_cannot_have_a_second_effect() {
    let (app, guid) = (App::new().await, unique_id());
    let name = name(&guid, 1);
    let callback = move |app: App, event: JobEvent| {
        let name = name.clone();
        async move {
            let slow = FencingToken::new(event.fencing_token().unwrap().get() - 1);
            let commit = app.ledger.commit(&name, slow).await?;
            assert_eq!(commit, Commit::Settled);
            let refused = app.effect(&event, Duration::ZERO).await.unwrap_err();
            let refused = refused.downcast::<mx_job_webhook::ledger::CommitInError>();
            assert!(refused.unwrap().is_overtaken());
            Err::<(), BoxError>("the effect was refused".into())
        }
    };
    let jobs = JobRouter::with_state(app.clone())
        .on_completed(callback)
        .build();
    let once = DedupeLayer::new(app.ledger.clone()).layer(jobs);
    let event = completed(&guid, 1);
    let error = once.clone().oneshot(event.clone()).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::CallbackFailed);
    assert_eq!(app.effects(&guid).await, 0);
    assert_eq!(once.oneshot(event).await.unwrap(), Receipt::Duplicate);
}

#[tokio::test]
async fn calls_do_not_wait_for_an_open_transaction() {
    let (app, guid) = (App::new().await, unique_id());
    let (event, name) = (completed(&guid, 1), name(&guid, 1));
    let (settled, end) = (Arc::new(Notify::new()), Arc::new(Notify::new()));
    let (has_settled, ends) = (settled.clone(), end.clone());
    let callback = move |app: App, event: JobEvent| {
        let (has_settled, ends) = (has_settled.clone(), ends.clone());
        async move {
            let mut transaction = app.pool.begin().await?;
            app.ledger.commit_in(&mut transaction, &event).await?;
            has_settled.notify_one();
            ends.notified().await;
            transaction.commit().await?;
            Ok::<_, BoxError>(())
        }
    };
    let jobs = JobRouter::with_state(app.clone())
        .on_completed(callback)
        .build();
    let once = DedupeLayer::new(app.ledger.clone())
        .with_lease(Duration::from_secs(5))
        .layer(jobs);
    let open = tokio::spawn(once.oneshot(event));
    notified(&settled).await;
    // While the lease holds, and after it has expired.
    for wait in [0, 6] {
        tokio::time::sleep(Duration::from_secs(wait)).await;
        let claim = app.ledger.claim(&name, LEASE);
        let claim = tokio::time::timeout(Duration::from_secs(20), claim).await;
        assert_eq!(claim.unwrap().unwrap(), Claim::InFlight);
        // Another replica starts.
        let start = app.ledger.create_table();
        let start = tokio::time::timeout(Duration::from_secs(20), start).await;
        start.unwrap().unwrap();
    }
    end.notify_one();
    assert_eq!(open.await.unwrap().unwrap(), Receipt::Handled);
    let claim = app.ledger.claim(&name, LEASE).await.unwrap();
    assert_eq!(claim, Claim::Settled);
}

#[tokio::test]
async fn an_unclaimed_event_is_not_settled() {
    let app = App::new().await;
    let error = app
        .effect(&completed("JOB-1", 1), Duration::ZERO)
        .await
        .unwrap_err();
    assert!(error.to_string().contains("DedupeLayer"), "{error}");
}

/// Callbacks fail, panic, are cancelled or outlast their lease, servers cut their connections,
/// and duplicates arrive at every moment: each effect happens once.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_effect_happens_exactly_once_despite_all_faults() {
    const EVENTS: usize = 60;
    let run = unique_id();
    // The connections that are cut are those of this test alone.
    let app = App::connect(options().application_name(&run)).await;
    let callback = |app: App, event: JobEvent| async move {
        let fate = fastrand::u8(..10);
        tokio::time::sleep(Duration::from_millis(fastrand::u64(..150))).await;
        match fate {
            0 => Err("fails before the effect".into()),
            1 => std::panic::resume_unwind(Box::new(())),
            2 => {
                app.effect(&event, Duration::ZERO).await?;
                Err::<(), BoxError>("fails after the effect".into())
            }
            3 => {
                app.effect(&event, Duration::ZERO).await?;
                std::panic::resume_unwind(Box::new(()))
            }
            _ => {
                app.effect(&event, Duration::from_millis(fastrand::u64(..20)))
                    .await
            }
        }
    };
    let jobs = JobRouter::with_state(app.clone())
        .on_completed(callback)
        .build();
    let once = DedupeLayer::new(app.ledger.clone())
        .with_lease(Duration::from_millis(100))
        .layer(jobs);
    let mut senders = tokio::task::JoinSet::new();
    for number in 0..EVENTS * 3 {
        let event = completed(&format!("{run}-{}", number % EVENTS), 1);
        let once = once.clone();
        senders.spawn(async move {
            // On a busy machine, a short patience never suffices.
            for number in 0..200 {
                let patience = Duration::from_millis(fastrand::u64(20..400) + 10 * number);
                let delivery = once.clone().oneshot(event.clone());
                // The sender hangs up, and here the callback is cancelled.
                if let Ok(Ok(_)) = tokio::time::timeout(patience, delivery).await {
                    return true;
                }
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
            false
        });
    }
    let cutting = {
        let pool = app.pool.clone();
        tokio::spawn(async move {
            loop {
                tokio::time::sleep(Duration::from_millis(200)).await;
                let _ = sqlx::query(
                    "SELECT pg_terminate_backend(pid) FROM pg_stat_activity \
                     WHERE pid <> pg_backend_pid() AND query LIKE '%mx_test_effects%' \
                     AND application_name = current_setting('application_name')",
                )
                .execute(&pool)
                .await;
            }
        })
    };
    let mut acknowledged = 0;
    while let Some(sender) = senders.join_next().await {
        acknowledged += usize::from(sender.unwrap());
    }
    cutting.abort();
    assert_eq!(acknowledged, EVENTS * 3);
    for number in 0..EVENTS {
        assert_eq!(app.effects(&format!("{run}-{number}")).await, 1, "{number}");
    }
}
