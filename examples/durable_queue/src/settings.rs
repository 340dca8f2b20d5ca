//! Settings from the environment, and the signals that stop the example.

use std::env;
use std::error::Error;
use std::process::ExitCode;
use std::str::FromStr;
use std::time::Duration;

use mx_job_webhook::queue::JobQueue;
use sqlx::PgPool;
use sqlx::postgres::{PgConnectOptions, PgPoolOptions};
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::time::interval;

/// What this process does.
pub(crate) struct Roles {
    pub(crate) receives: bool,
    pub(crate) works: bool,
    pub(crate) shows: bool,
}

pub(crate) fn roles() -> Result<Roles, &'static str> {
    let arguments: Vec<_> = env::args().skip(1).collect();
    let is = |role: &str| arguments.is_empty() || arguments == [role];
    let roles = Roles {
        receives: is("receive"),
        works: is("work"),
        shows: is("admin"),
    };
    if arguments == ["admin"] && env::var_os("ADMIN_PASSWORD").is_none() {
        return Err("ADMIN_PASSWORD must be set");
    }
    if roles.receives || roles.works || roles.shows {
        Ok(roles)
    } else {
        Err("the only argument is receive, work or admin; without, it does all of them")
    }
}

/// Runs a part of the process, or nothing.
pub(crate) async fn only_if(
    does: bool,
    part: impl Future<Output = Result<(), Box<dyn Error>>>,
) -> Result<(), Box<dyn Error>> {
    if does { part.await } else { Ok(()) }
}

pub(crate) fn number<N: FromStr>(variable: &str, default: N) -> Result<N, String> {
    match env::var(variable) {
        Ok(value) => value
            .parse()
            .map_err(|_| format!("{variable} must be a number")),
        Err(_) => Ok(default),
    }
}

/// Returns a duration from a variable that contains seconds.
pub(crate) fn seconds(variable: &str, default: f64) -> Result<Duration, Box<dyn Error>> {
    let seconds = Duration::try_from_secs_f64(number(variable, default)?);
    Ok(seconds.map_err(|_| format!("{variable} must be a number of seconds"))?)
}

/// Listens on the address that a variable contains.
pub(crate) async fn listen(variable: &str, default: &str) -> Result<TcpListener, String> {
    let address = env::var(variable).unwrap_or_else(|_| default.to_owned());
    let listener = TcpListener::bind(&address).await;
    listener.map_err(|error| format!("cannot listen on {variable} {address}: {error}"))
}

/// Connects to the database, with at most this many connections.
pub(crate) async fn database(connections: u32) -> Result<PgPool, Box<dyn Error>> {
    let options: PgConnectOptions = env::var("DATABASE_URL")
        .ok()
        .and_then(|url| url.parse().ok())
        .ok_or("DATABASE_URL must name a database, such as postgres://user@host/database")?;
    // The message of an error contains no password.
    let pool = PgPoolOptions::new()
        .max_connections(connections)
        .acquire_timeout(Duration::from_secs(5));
    let pool = pool.connect_with(options).await;
    Ok(pool.map_err(|error| format!("cannot reach the database: {error}"))?)
}

/// Creates the tables of the queue, and that of the callbacks.
pub(crate) async fn migrate(pool: &PgPool, queue: &JobQueue) -> Result<(), Box<dyn Error>> {
    queue.migrate().await?;
    // In one transaction. The lock is for processes that start at once on an empty database.
    sqlx::raw_sql(
        "SELECT pg_advisory_xact_lock(hashtext('accounts_read'));
         CREATE TABLE IF NOT EXISTS accounts_read (event text NOT NULL)",
    )
    .execute(pool)
    .await?;
    Ok(())
}

/// Returns the exit code, after printing the error.
pub(crate) fn report(result: Result<(), Box<dyn Error>>) -> ExitCode {
    let Err(error) = result else {
        return ExitCode::SUCCESS;
    };
    eprintln!("durable_queue: {error}");
    ExitCode::FAILURE
}

/// Deletes events that MX no longer delivers.
pub(crate) async fn prune_hourly(queue: JobQueue) {
    let mut hourly = interval(Duration::from_secs(60 * 60));
    loop {
        hourly.tick().await;
        if let Err(error) = queue.prune(Duration::from_secs(48 * 60 * 60)).await {
            eprintln!("cannot delete old events: {error}");
        }
    }
}

/// The signal that stops all parts of the process.
#[derive(Clone)]
pub(crate) struct Stop(watch::Receiver<bool>);

impl Stop {
    /// Waits for Ctrl-C, or for the SIGTERM that container platforms send.
    pub(crate) fn on_signal() -> Self {
        let (stopping, stop) = watch::channel(false);
        tokio::spawn(async move {
            signalled().await;
            stopping.send_replace(true);
        });
        Self(stop)
    }

    /// Waits until the process has to stop.
    pub(crate) fn stopped(&self) -> impl Future<Output = ()> + Send + use<> {
        let mut stop = self.0.clone();
        async move { _ = stop.wait_for(|stop| *stop).await }
    }
}

async fn signalled() {
    let ctrl_c = async { tokio::signal::ctrl_c().await.unwrap_or_default() };
    #[cfg(unix)]
    let terminate = async {
        use tokio::signal::unix::{SignalKind, signal};
        match signal(SignalKind::terminate()) {
            Ok(mut terminate) => _ = terminate.recv().await,
            Err(_) => std::future::pending().await,
        }
    };
    #[cfg(not(unix))]
    let terminate = std::future::pending::<()>();
    tokio::select! {
        () = ctrl_c => {}
        () = terminate => {}
    }
}
