//! The pages for operators: the queue, and the dead letters with *Replay* and *Discard*.
//!
//! They have a listener of their own, on this machine only. From elsewhere, open a tunnel such as
//! `ssh -L 3001:127.0.0.1:3001 host`, and then `http://127.0.0.1:3001/dead-letters`. Log in as `ops` with
//! `ADMIN_PASSWORD`.

mod board;
mod guard;
mod page;

use std::env;
use std::error::Error;
use std::future::Future;

use axum::Router;
use mx_job_webhook::credentials::CredentialsError;
use mx_job_webhook::queue::JobQueue;
use sqlx::PgPool;
use tokio::net::TcpListener;
use tokio::sync::watch;

use crate::settings;

/// The queue's name.
const QUEUE: &str = "mx-jobs";

/// Serves the pages on `ADMIN_ADDR` (127.0.0.1:3001) until `shutdown`, if `ADMIN_PASSWORD` is set.
pub(crate) async fn run(
    queue: JobQueue,
    shutdown: impl Future<Output = ()> + Send + 'static,
) -> Result<(), Box<dyn Error>> {
    let Ok(password) = env::var("ADMIN_PASSWORD") else {
        eprintln!("no pages for operators: set ADMIN_PASSWORD");
        return Ok(());
    };
    let listener = settings::listen("ADMIN_ADDR", "127.0.0.1:3001").await?;
    // The board's statistics read the whole table, which can take seconds. Nothing else waits for its connections.
    let pool = settings::database(2).await?;
    serve(listener, queue, pool, &password, shutdown).await
}

/// Serves the pages on this listener until `shutdown`.
///
/// # Errors
///
/// If other machines can reach the listener, or if a browser cannot send the password.
pub(crate) async fn serve(
    listener: TcpListener,
    queue: JobQueue,
    pool: PgPool,
    password: &str,
    shutdown: impl Future<Output = ()> + Send + 'static,
) -> Result<(), Box<dyn Error>> {
    let address = listener.local_addr()?;
    if !address.ip().to_canonical().is_loopback() {
        return Err(format!(
            "the pages for operators must not be reachable from other machines: \
             {address} is no loopback address"
        )
        .into());
    }
    let (stop, stopping) = watch::channel(());
    let pages = admin(queue, &pool, password, stopping)
        .map_err(|error| format!("ADMIN_PASSWORD cannot be used: {error}"))?;
    println!("dead letters on http://{address}/dead-letters, for the user ops");
    Ok(axum::serve(listener, pages)
        .with_graceful_shutdown(async move {
            shutdown.await;
            drop(stop);
        })
        .await?)
}

/// Returns the pages, behind their checks. Their streams end once the sender of `stopping` is dropped.
pub(crate) fn admin(
    queue: JobQueue,
    pool: &PgPool,
    password: &str,
    stopping: watch::Receiver<()>,
) -> Result<Router, CredentialsError> {
    let pages = page::routes(queue).merge(board::routes(pool, stopping));
    Ok(guard::guard(pages, guard::Password::new(password)?))
}
