//! The queue behind poolers, on other versions, and through failovers.

use std::time::{Duration, Instant};

use mx_job_webhook::dead_letters::LetterFilter;
use mx_job_webhook::queue::JobQueue;
use mx_job_webhook::{Credentials, ErrorKind, JobRouter, JobWebhook, Permanent};
use sqlx::postgres::PgConnectOptions;
use sqlx::{AssertSqlSafe, PgPool};
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};
use tower::ServiceExt as _;

use super::traffic::{Outcome, Replica, Traffic};
use super::{PATIENCE, Running, assert_counts, completed, logging, quick, store, until_logged};
use crate::engines::pgbouncer::Version::{V1_18, V1_24};
use crate::engines::pgbouncer::{self, Version};
use crate::engines::postgres::{self, Database, Postgres, at};
use crate::failover::{Pair, Replication, read_only};
use crate::load::{self, Plan};
use crate::proxy::{Network, Proxy};
use crate::support::{Log, delivery};
use harness::servers::{Folder, Server};

/// sqlx sends this parameter when it connects, and PgBouncer does not know it.
const IGNORE: (&str, &str) = ("ignore_startup_parameters", "extra_float_digits");

const TRANSACTION: (&str, &str) = ("pool_mode", "transaction");
const SESSION: (&str, &str) = ("pool_mode", "session");

/// Fewer server connections than clients.
const FEW: (&str, &str) = ("default_pool_size", "3");
const ENOUGH: (&str, &str) = ("default_pool_size", "64");

fn events() -> usize {
    match std::env::var_os("MX_TEST_STORM") {
        None => 300,
        Some(_) => 6_000,
    }
}

/// A database with a PgBouncer in front of it.
struct Behind {
    pgbouncer: Server,
    database: Database,
    direct: PgPool,
    _folder: Folder,
}

impl Behind {
    /// Statements are limited as the guide recommends, by the database.
    async fn new(version: Version, settings: &[(&str, &str)]) -> Self {
        let (folder, database) = (Folder::new(), Database::create("").await);
        let direct = database.pool();
        let limit = format!(
            "ALTER DATABASE {} SET statement_timeout = '5s'",
            database.name
        );
        execute(&direct, &limit).await;
        let pgbouncer = pgbouncer::start(&folder, version, database.server(), settings);
        Self {
            pgbouncer,
            database,
            direct,
            _folder: folder,
        }
    }

    fn options(&self) -> PgConnectOptions {
        at(self.pgbouncer.address).database(&self.database.name)
    }
}

async fn execute(pool: &PgPool, sql: &str) {
    let sql = AssertSqlSafe(sql.to_owned());
    sqlx::raw_sql(sql).execute(pool).await.unwrap();
}

/// Several replicas create the tables at once.
async fn migrate(replicas: &[Replica], direct: &PgPool) {
    let mut migrating = JoinSet::new();
    for replica in replicas {
        for _ in 0..3 {
            let queue = replica.queue.clone();
            migrating.spawn(async move { queue.migrate().await });
        }
    }
    for migrated in migrating.join_all().await {
        migrated.unwrap();
    }
    load::create_effects(direct).await;
}

/// Every feature of the queue works with these replicas.
async fn works(set_up: &str, options: &PgConnectOptions, direct: &PgPool) {
    let replicas = Replica::some(3, options);
    migrate(&replicas, direct).await;
    works_with(set_up, &replicas, direct).await;
}

async fn works_with(set_up: &str, replicas: &[Replica], direct: &PgPool) {
    let traffic = Traffic::start(Plan::of(events()), replicas);
    let outcome = traffic.all(direct).await;
    println!("{set_up}: {outcome}");
    outcome.nothing_is_lost();
    dead_letters_are_handled(&replicas[0].queue.clone().named("letters")).await;
    let queue = &replicas[1].queue;
    assert_counts(queue.counts().await.unwrap(), 0, 0, 0);
    let pruned = queue.prune(Duration::ZERO).await.unwrap();
    assert_eq!(pruned, events() as u64);
}

async fn dead_letters_are_handled(queue: &JobQueue) {
    let webhooks = JobWebhook::new(Credentials::unauthenticated(), queue.enqueue())
        .on_undecodable(queue.keep_undecodable())
        .on_other_webhook(queue.keep_other_webhooks());
    for body in ["not JSON", r#"{"type": "BALANCE"}"#] {
        let request = delivery(body.to_owned());
        let response = webhooks.clone().oneshot(request).await.unwrap();
        assert_eq!(response.status(), 204, "{body}");
    }
    let fails = JobRouter::new().on_completed(|_| async { Err(Permanent::new("not yet")) });
    let worker = Running::start(quick(queue, fails));
    for number in 0..3 {
        store(queue, completed(&format!("DEAD-{number}"))).await;
    }
    let start = Instant::now();
    while queue.counts().await.unwrap().dead < 3 {
        assert!(start.elapsed() < PATIENCE);
        sleep(Duration::from_millis(20)).await;
    }
    worker.end().await;
    let page = queue.dead_letters(&LetterFilter::new()).await.unwrap();
    assert_eq!(page.letters().len(), 5);
    for letter in page.letters() {
        let body = queue.dead_letter_body(letter.name()).await.unwrap();
        assert!(body.is_some(), "{letter:?}");
    }
    let page = LetterFilter::new().with_limit(1);
    let next = queue.dead_letters(&page).await.unwrap().next().unwrap();
    let page = queue.dead_letters(&page.after(next)).await.unwrap();
    assert_eq!(page.letters().len(), 1);

    let name = |guid: &str| format!("{guid} COMPLETED");
    let page = queue.dead_letters(&LetterFilter::new()).await.unwrap();
    for letter in page.letters() {
        if letter.name().starts_with(&name("DEAD-0")) {
            assert!(queue.replay(letter.name()).await.unwrap());
        } else if letter.name().starts_with(&name("DEAD-1")) || letter.guid().is_none() {
            assert!(queue.discard(letter.name()).await.unwrap());
        }
    }
    let replayed = queue.replay_all(&LetterFilter::new()).await.unwrap();
    assert_eq!((replayed.succeeded(), replayed.failed()), (1, 0));
    let log = Log::default();
    let worker = Running::start(quick(queue, logging(&log)));
    until_logged(&log, 2).await;
    worker.end().await;
    assert_counts(queue.counts().await.unwrap(), 0, 0, 0);
}

async fn works_behind(set_up: &str, version: Version, settings: &[(&str, &str)]) {
    let behind = Behind::new(version, settings).await;
    works(set_up, &behind.options(), &behind.direct).await;
    behind.direct.close().await;
}

#[tokio::test]
async fn transaction_mode_works_with_an_old_pgbouncer() {
    works_behind("1.18, transaction", V1_18, &[IGNORE, TRANSACTION, FEW]).await;
}

/// Statements need not be tracked, because the queue prepares none.
#[tokio::test]
async fn transaction_mode_works_with_a_new_pgbouncer() {
    let untracked = ("max_prepared_statements", "0");
    let settings = [IGNORE, TRANSACTION, FEW, untracked];
    works_behind("1.24, transaction", V1_24, &settings).await;
}

/// A pooler that ends idle sessions refuses no event.
#[tokio::test]
async fn idle_sessions_can_be_ended_by_a_pgbouncer() {
    let idle = ("client_idle_timeout", "1");
    let behind = Behind::new(V1_24, &[IGNORE, TRANSACTION, FEW, idle]).await;
    let (pool, queue) = super::queue(behind.options());
    queue.migrate().await.unwrap();
    for number in 0..2 {
        store(&queue, completed(&format!("JOB-{number}"))).await;
        assert_eq!(queue.counts().await.unwrap().waiting, number + 1);
        sleep(Duration::from_millis(2500)).await;
    }
    assert_eq!(queue.counts().await.unwrap().waiting, 2);
    pool.close().await;
    behind.direct.close().await;
}

#[tokio::test]
async fn session_mode_works_with_an_old_pgbouncer() {
    works_behind("1.18, session", V1_18, &[IGNORE, SESSION, ENOUGH]).await;
}

#[tokio::test]
async fn session_mode_works_with_a_new_pgbouncer() {
    works_behind("1.24, session", V1_24, &[IGNORE, SESSION, ENOUGH]).await;
}

/// In session mode, clients keep the few connections, and others wait for them in vain.
#[tokio::test]
async fn too_few_connections_in_session_mode_lose_no_event() {
    // Otherwise transactions of the application wait for two minutes.
    let wait = ("query_wait_timeout", "2");
    let behind = Behind::new(V1_24, &[IGNORE, SESSION, FEW, wait]).await;
    let direct = &behind.direct;
    Replica::some(
        1,
        &at(behind.database.server()).database(&behind.database.name),
    )[0]
    .queue
    .migrate()
    .await
    .unwrap();
    load::create_effects(direct).await;
    let plan = Plan {
        patience: Duration::from_millis(100),
        ..Plan::of(usize::MAX)
    };
    let traffic = Traffic::start(plan, &Replica::some(3, &behind.options()));
    sleep(Duration::from_secs(3)).await;
    let outcome = traffic.stop(direct).await;
    println!("1.24, session, too few connections: {outcome}");
    assert_eq!(outcome.forgotten(), 0);
    assert_eq!(outcome.tally.doubled(), [""; 0]);
    direct.close().await;
}

#[tokio::test]
async fn a_restart_of_pgbouncer_loses_no_event() {
    let mut behind = Behind::new(V1_24, &[IGNORE, TRANSACTION, FEW]).await;
    let replicas = Replica::some(3, &behind.options());
    migrate(&replicas, &behind.direct).await;
    let traffic = Traffic::start(Plan::of(usize::MAX), &replicas);
    for _ in 0..3 {
        traffic.more(50).await;
        behind.pgbouncer.crash();
        behind.pgbouncer.restart();
    }
    traffic.more(50).await;
    let outcome = traffic.finish(&behind.direct).await;
    println!("1.24, transaction, 3 restarts: {outcome}");
    outcome.nothing_is_lost();
    behind.direct.close().await;
}

/// PgBouncer refuses the connections, as it does with its default settings. The client can omit the parameter.
#[tokio::test]
async fn parameters_that_pgbouncer_refuses_are_reported() {
    for version in [V1_18, V1_24] {
        let behind = Behind::new(version, &[TRANSACTION, FEW]).await;
        let options = behind.options().extra_float_digits(None);
        let limited = options.clone().options([("statement_timeout", "5s")]);
        for refused in [behind.options(), limited] {
            let queue = Replica::some(1, &refused).remove(0).queue;
            let error = queue.migrate().await.unwrap_err().to_string();
            assert!(error.contains("unsupported startup parameter"), "{error}");
            let error = queue.enqueue().oneshot(completed("JOB-1")).await;
            assert_eq!(error.unwrap_err().kind(), ErrorKind::QueueUnavailable);
            // It waits for a better configuration, and can be shut down.
            let worker = Running::start(quick(&queue, JobRouter::new()));
            sleep(Duration::from_millis(100)).await;
            assert!(!worker.task.is_finished());
            worker.end().await;
        }
        let replicas = Replica::some(2, &options);
        migrate(&replicas, &behind.direct).await;
        let traffic = Traffic::start(Plan::of(20), &replicas);
        traffic.all(&behind.direct).await.nothing_is_lost();
        behind.direct.close().await;
    }
}

#[tokio::test]
async fn it_works_on_every_version() {
    for version in [postgres::Version::V15, postgres::Version::V18] {
        let folder = Folder::new();
        let server = Postgres::primary(&folder, version, &["fsync=off"]);
        let direct = server.pool();
        works(&format!("{version:?}"), &server.options(), &direct).await;
        direct.close().await;
    }
}

#[tokio::test]
async fn a_stricter_isolation_by_default_doubles_no_effect() {
    for isolation in ["repeatable read", "serializable"] {
        let database = Database::create("").await;
        let direct = database.pool();
        let stricter = [("default_transaction_isolation", isolation)];
        works(isolation, &database.options().options(stricter), &direct).await;
        direct.close().await;
    }
}

#[tokio::test]
async fn a_role_with_the_documented_grants_suffices() {
    let database = Database::create("").await;
    let direct = database.pool();
    execute(&direct, &JobQueue::sql()).await;
    load::create_effects(&direct).await;
    let role = format!("app_{}", database.name);
    let grants = format!(
        "CREATE ROLE {role} LOGIN; GRANT USAGE ON SCHEMA apalis TO {role};
         GRANT SELECT, INSERT, UPDATE, DELETE ON apalis.jobs, apalis.workers, mx_job_webhook_dead_letters TO {role};
         GRANT INSERT ON mx_test_effects TO {role}"
    );
    execute(&direct, &grants).await;
    let replicas = Replica::some(3, &database.options().username(&role));
    replicas[0].queue.migrate().await.unwrap();
    works_with("documented grants", &replicas, &direct).await;
    for replica in replicas {
        replica.pool.close().await;
    }
    execute(&direct, &format!("DROP OWNED BY {role}; DROP ROLE {role}")).await;
    direct.close().await;
}

/// A standby is promoted under load. It lags when the primary crashes.
///
/// Commits may be local by default, as the application has chosen it for its own transactions.
async fn fail_over(replication: Replication, are_local: bool) -> Outcome {
    let pair = Pair::new(replication).await;
    let direct = pair.primary.pool();
    JobQueue::postgres(direct.clone()).migrate().await.unwrap();
    direct.close().await;
    pair.wait_until_it_has_replayed().await;
    let options = match are_local {
        false => pair.options(),
        true => pair.options().options([("synchronous_commit", "local")]),
    };
    let traffic = Traffic::start(Plan::of(usize::MAX), &Replica::some(2, &options));
    traffic.more(100).await;
    pair.stream.set(Network::Hangs);
    // Commits that do not wait for the standby are acknowledged, and are lost with the primary.
    let more = traffic.tally.more(50);
    match replication {
        Replication::Asynchronous => timeout(PATIENCE, more).await.unwrap(),
        Replication::Synchronous => {
            let more = timeout(Duration::from_millis(500), more).await;
            assert!(more.is_err(), "a commit did not wait for the standby");
        }
    }
    let crash = Instant::now();
    let (standby, _address, _folder) = pair.fail_over().await;
    let promoted = crash.elapsed();
    let (acknowledged, ran) = tokio::join!(
        async {
            traffic.tally.more(1).await;
            crash.elapsed()
        },
        async {
            traffic.more_effects(1).await;
            crash.elapsed()
        }
    );
    traffic.more(100).await;
    let direct = standby.pool();
    let outcome = traffic.finish(&direct).await;
    println!(
        "{replication:?}, local commits: {are_local}: promoted in {promoted:?}, the first acknowledgement after {acknowledged:?}, the first \
         effect after {ran:?}; {} acknowledged events are gone; {outcome}",
        outcome.forgotten()
    );
    direct.close().await;
    outcome
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_synchronous_standby_has_everything_that_was_acknowledged() {
    let outcome = fail_over(Replication::Synchronous, false).await;
    outcome.nothing_is_lost();
    assert_eq!(outcome.forgotten(), 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_synchronous_standby_has_everything_if_local_commits_are_the_default() {
    let outcome = fail_over(Replication::Synchronous, true).await;
    outcome.nothing_is_lost();
    assert_eq!(outcome.forgotten(), 0);
}

/// The standby lacks the latest events, which MX does not deliver again.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_asynchronous_standby_loses_the_latest_acknowledged_events() {
    let outcome = fail_over(Replication::Asynchronous, false).await;
    assert_eq!(outcome.tally.doubled(), [""; 0]);
    let lost = outcome.tally.lost().len();
    assert_eq!(lost, outcome.forgotten(), "each other event has its effect");
}

/// As some providers make it before a switchover.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_may_not_write_for_a_while_loses_no_event() {
    let folder = Folder::new();
    let server = Postgres::primary(&folder, postgres::Version::V15, &["fsync=off"]);
    let direct = server.pool();
    let proxy = Proxy::to(server.address()).await;
    let replicas = Replica::some(2, &at(proxy.address));
    migrate(&replicas, &direct).await;
    let traffic = Traffic::start(Plan::of(usize::MAX), &replicas);
    traffic.more(100).await;
    read_only(&direct, true).await;
    let before = proxy.connections();
    sleep(Duration::from_secs(3)).await;
    let connections = proxy.connections() - before;
    read_only(&direct, false).await;
    let back = Instant::now();
    traffic.more(1).await;
    let after = back.elapsed();
    traffic.more(100).await;
    let outcome = traffic.finish(&direct).await;
    println!(
        "read-only for 3 s: {connections} connections, works again after {after:?}; {outcome}"
    );
    outcome.nothing_is_lost();
    assert!(connections <= 8, "{connections} new connections");
    direct.close().await;
}

/// A load balancer leads to the standby for a moment. The connections that it made do not stay.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_connection_to_a_standby_is_not_kept() {
    let pair = Pair::new(Replication::Asynchronous).await;
    let direct = pair.primary.pool();
    JobQueue::postgres(direct.clone()).migrate().await.unwrap();
    pair.wait_until_it_has_replayed().await;
    let queues = [(); 2].map(|()| super::queue(pair.options()).1);
    pair.lead_to_the_standby();
    let refused = queues[0].enqueue().oneshot(completed("JOB-1")).await;
    assert_eq!(refused.unwrap_err().kind(), ErrorKind::QueueUnavailable);
    queues[1].prune(Duration::ZERO).await.unwrap_err();
    pair.lead_to_the_primary();
    store(&queues[0], completed("JOB-1")).await;
    assert_eq!(queues[1].prune(Duration::ZERO).await.unwrap(), 0);
    direct.close().await;
}

/// Connections stay open, and no answer comes.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_network_that_hangs_loses_no_event() {
    let database = Database::create("").await;
    let direct = database.pool();
    let proxy = Proxy::to(database.server()).await;
    let replicas = Replica::some(2, &database.options().port(proxy.address.port()));
    migrate(&replicas, &direct).await;
    let traffic = Traffic::start(Plan::of(usize::MAX), &replicas);
    traffic.more(100).await;
    // Longer than statements may take.
    proxy.set(Network::Hangs);
    sleep(Duration::from_secs(6)).await;
    proxy.set(Network::Works);
    let back = Instant::now();
    traffic.more(1).await;
    let after = back.elapsed();
    traffic.more(100).await;
    let outcome = traffic.finish(&direct).await;
    println!("a network that hangs for 6 s, works again after {after:?}: {outcome}");
    outcome.nothing_is_lost();
    direct.close().await;
}

/// A firewall has forgotten the queue's connections. New ones work.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn connections_that_stall_are_replaced() {
    let database = Database::create("").await;
    let direct = database.pool();
    let proxy = Proxy::to(database.server()).await;
    let mut replicas = Replica::some(2, &database.options().port(proxy.address.port()));
    migrate(&replicas, &direct).await;
    for replica in &mut replicas {
        replica.pool = direct.clone();
    }
    let traffic = Traffic::start(Plan::of(usize::MAX), &replicas);
    // Twice, because the connections may be in use or on their way back to the pool.
    for _ in 0..2 {
        traffic.more(100).await;
        proxy.stall_existing();
    }
    traffic.more(300).await;
    let outcome = traffic.finish(&direct).await;
    println!("connections that stall: {outcome}");
    outcome.nothing_is_lost();
    direct.close().await;
}
