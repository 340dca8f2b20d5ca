//! The ledger on PostgreSQL behind PgBouncer in both of its modes, with versions that track prepared
//! statements and one that does not.

use std::time::Duration;

use mx_job_webhook::DedupeLayer;
use mx_job_webhook::ledger::PostgresLedger;
use sqlx::postgres::{PgConnectOptions, PgPoolOptions};
use sqlx::{ConnectOptions as _, Connection as _, PgConnection, PgPool, Row as _};
use tower::Layer as _;

use crate::engines::pgbouncer::Version::{V1_18, V1_24};
use crate::engines::pgbouncer::{self, Version};
use crate::engines::postgres::{Database, at};
use crate::load::{self, Load, Plan, Tally};
use harness::servers::{Folder, Server};

/// Half of the events have their effects in memory, the other half in the database.
fn events() -> usize {
    match std::env::var_os("MX_TEST_STORM") {
        None => 600,
        Some(_) => 6_000,
    }
}

/// sqlx sends this parameter when it connects, and PgBouncer does not know it.
const IGNORE: (&str, &str) = ("ignore_startup_parameters", "extra_float_digits");

const TRANSACTION: (&str, &str) = ("pool_mode", "transaction");
const SESSION: (&str, &str) = ("pool_mode", "session");

/// Fewer server connections than clients, so that the clients share them.
const FEW: (&str, &str) = ("default_pool_size", "3");
/// Each client keeps its server connection for its whole session, so there are as many as all pools and ledgers
/// need.
const ENOUGH: (&str, &str) = ("default_pool_size", "64");

/// A database with a PgBouncer in front of it.
struct Behind {
    pgbouncer: Server,
    database: Database,
    _folder: Folder,
}

impl Behind {
    async fn new(version: Version, settings: &[(&str, &str)]) -> Self {
        let (folder, database) = (Folder::new(), Database::create("").await);
        let direct = database.pool();
        PostgresLedger::new(direct.clone())
            .create_table()
            .await
            .unwrap();
        load::create_effects(&direct).await;
        direct.close().await;
        let pgbouncer = pgbouncer::start(&folder, version, database.server(), settings);
        Self {
            pgbouncer,
            database,
            _folder: folder,
        }
    }

    fn options(&self) -> PgConnectOptions {
        at(self.pgbouncer.address).database(&self.database.name)
    }
}

/// The pools of four replicas.
fn pools(options: &PgConnectOptions) -> Vec<PgPool> {
    let pool = |_| {
        PgPoolOptions::new()
            .max_connections(8)
            .acquire_timeout(Duration::from_secs(30))
            .connect_lazy_with(options.clone())
    };
    (0..4).map(pool).collect()
}

/// Effects in memory and in the database, by replicas with both kinds of callbacks, over shared
/// server connections.
struct Outcome {
    memory: Tally,
    database: Tally,
}

impl Outcome {
    async fn of(behind: &Behind, options: &PgConnectOptions, patience: Duration) -> Self {
        let outcome = Self {
            memory: Tally::new(),
            database: Tally::new(),
        };
        let pools = pools(options);
        let (mut memory, mut database) = (Vec::new(), Vec::new());
        for pool in &pools {
            let ledger = PostgresLedger::new(pool.clone());
            let layer = DedupeLayer::new(ledger).with_lease(Duration::from_secs(10));
            memory.push(layer.layer(load::in_memory(&outcome.memory)));
            database.push(layer.layer(load::in_the_database(pool)));
        }
        let plan = Plan {
            patience,
            ..Plan::of(events() / 2)
        };
        let one = Load::start(plan, &outcome.memory, &memory);
        let other = Load::start(plan, &outcome.database, &database);
        tokio::join!(one.all(), other.all());
        let direct = behind.database.pool();
        load::read_effects(&outcome.database, &direct).await;
        direct.close().await;
        outcome
    }

    fn print(&self, set_up: &str) {
        println!("{set_up}: {}", self.memory);
        println!("{set_up}, commit_in: {}", self.database);
    }

    fn nothing_is_lost(&self) {
        assert_eq!(self.memory.lost(), [""; 0]);
        assert_eq!(self.database.lost(), [""; 0], "commit_in");
        assert_eq!(self.database.doubled(), [""; 0], "commit_in");
    }

    fn everything_is_acknowledged(&self) {
        for tally in [&self.memory, &self.database] {
            tally.look(|counts| assert_eq!(counts.acknowledged.len(), events() / 2));
            tally.look(|counts| assert_eq!(counts.given_up, 0));
        }
    }
}

/// A set-up that the guide recommends.
async fn works(set_up: &str, version: Version, settings: &[(&str, &str)]) {
    let behind = Behind::new(version, settings).await;
    let outcome = Outcome::of(&behind, &behind.options(), Duration::from_secs(60)).await;
    outcome.print(set_up);
    outcome.nothing_is_lost();
    outcome.everything_is_acknowledged();
    assert_eq!(outcome.memory.doubled(), [""; 0]);
}

/// A set-up that does not work: most deliveries are answered with an error, and every acknowledged one
/// had its effect.
async fn loses_nothing(set_up: &str, version: Version, settings: &[(&str, &str)], kept: bool) {
    let behind = Behind::new(version, settings).await;
    let options = behind.options();
    let options = match kept {
        true => options,
        false => options.statement_cache_capacity(0),
    };
    let outcome = Outcome::of(&behind, &options, Duration::from_millis(150)).await;
    outcome.print(set_up);
    outcome.nothing_is_lost();
}

#[tokio::test]
async fn session_mode_works_with_an_old_pgbouncer() {
    works("1.18, session", V1_18, &[IGNORE, SESSION, ENOUGH]).await;
}

#[tokio::test]
async fn session_mode_works_with_a_new_pgbouncer() {
    works("1.24, session", V1_24, &[IGNORE, SESSION, ENOUGH]).await;
}

#[tokio::test]
async fn transaction_mode_works_if_pgbouncer_tracks_statements() {
    let tracks = ("max_prepared_statements", "100");
    let settings = [IGNORE, TRANSACTION, FEW, tracks];
    works(
        "1.24, transaction, max_prepared_statements=100",
        V1_24,
        &settings,
    )
    .await;
}

#[tokio::test]
async fn statements_confused_by_an_old_pgbouncer_lose_no_event() {
    let settings = [IGNORE, TRANSACTION, FEW];
    loses_nothing("1.18, transaction", V1_18, &settings, true).await;
}

#[tokio::test]
async fn statements_confused_by_a_new_pgbouncer_lose_no_event() {
    let mixes = ("max_prepared_statements", "0");
    let settings = [IGNORE, TRANSACTION, FEW, mixes];
    loses_nothing(
        "1.24, transaction, max_prepared_statements=0",
        V1_24,
        &settings,
        true,
    )
    .await;
}

/// sqlx still prepares them, each time under a new name, which another client may have used as well.
#[tokio::test]
async fn uncached_statements_that_are_confused_lose_no_event() {
    let mixes = ("max_prepared_statements", "0");
    let settings = [IGNORE, TRANSACTION, FEW];
    loses_nothing(
        "1.18, transaction, statement_cache_capacity(0)",
        V1_18,
        &settings,
        false,
    )
    .await;
    let settings = [IGNORE, TRANSACTION, FEW, mixes];
    loses_nothing(
        "1.24, transaction, statement_cache_capacity(0)",
        V1_24,
        &settings,
        false,
    )
    .await;
}

/// PgBouncer restarts under load, as for an update of its configuration.
#[tokio::test]
async fn a_restart_of_pgbouncer_loses_no_event() {
    let mut behind = Behind::new(V1_24, &[IGNORE, TRANSACTION, FEW]).await;
    let tally = Tally::new();
    let services: Vec<_> = pools(&behind.options())
        .iter()
        .map(|pool| {
            DedupeLayer::new(PostgresLedger::new(pool.clone()))
                .with_lease(Duration::from_secs(1))
                .layer(load::in_the_database(pool))
        })
        .collect();
    let load = Load::start(Plan::of(usize::MAX), &tally, &services);
    for _ in 0..3 {
        tally.more(50).await;
        behind.pgbouncer.crash();
        behind.pgbouncer.restart();
    }
    tally.more(50).await;
    load.finish().await;
    let direct = behind.database.pool();
    load::read_effects(&tally, &direct).await;
    direct.close().await;
    println!("1.24, transaction, 3 restarts, commit_in: {tally}");
    assert_eq!(tally.lost(), [""; 0]);
    assert_eq!(tally.doubled(), [""; 0]);
    tally.look(|counts| assert_eq!(counts.given_up, 0));
}

async fn connect(options: PgConnectOptions) -> Result<PgConnection, String> {
    options.connect().await.map_err(|error| error.to_string())
}

/// The parameters that a client may send when it connects, and the alternatives.
#[tokio::test]
async fn connection_parameters_are_refused_unless_pgbouncer_ignores_them() {
    for version in [V1_18, V1_24] {
        let strict = Behind::new(version, &[TRANSACTION, FEW]).await;
        let refused = connect(strict.options()).await.unwrap_err();
        println!("{version:?}, sqlx as it is: {refused}");
        assert!(refused.contains("unsupported startup parameter: extra_float_digits"));
        // The client can also omit the parameter.
        let options = strict.options().extra_float_digits(None);
        connect(options.clone())
            .await
            .unwrap()
            .close()
            .await
            .unwrap();

        let refused = connect(options.options([("statement_timeout", "5s")])).await;
        let refused = refused.unwrap_err();
        println!("{version:?}, statement_timeout: {refused}");
        assert!(refused.contains("unsupported startup parameter"));

        // Settings of a role or a database apply without the client.
        let lenient = Behind::new(version, &[IGNORE, TRANSACTION, FEW]).await;
        let set = format!(
            "ALTER DATABASE {} SET statement_timeout = '5s'",
            lenient.database.name
        );
        let direct = lenient.database.pool();
        let set = sqlx::query(sqlx::AssertSqlSafe(set)).execute(&direct).await;
        set.unwrap();
        direct.close().await;
        let mut connection = connect(lenient.options()).await.unwrap();
        let shown = sqlx::query("SHOW statement_timeout").fetch_one(&mut connection);
        assert_eq!(shown.await.unwrap().get::<String, _>(0), "5s");
        connection.close().await.unwrap();
    }
}
