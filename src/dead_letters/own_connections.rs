//! The connections of a queue's store, which callbacks cannot take.

use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use sqlx::postgres::{PgConnectOptions, PgRow};
use sqlx::{Connection as _, PgConnection, PgPool};
use tokio::sync::Semaphore;
use tokio::time::{Instant, timeout};

use super::run::{Statement, in_a_transaction};
use crate::util::postgres::is_unusable;

/// How many connections there are at most.
const CONNECTIONS: u32 = 2;

/// How long each step may take: waiting for a permit, opening a connection, and a transaction.
const TIMEOUT: Duration = Duration::from_secs(5);

/// For how long a connection may be idle before it is closed.
const IDLE: Duration = Duration::from_secs(60);

/// At most two connections, opened as the application's pool opens its own.
///
/// A pool of sqlx only opens them. It would check each one that returns, and wait for the answer without a limit.
pub(super) struct OwnConnections {
    application: PgPool,
    opening: PgPool,
    /// The options of `opening`. The application may change those of its pool, for example to a new password.
    options: Mutex<Arc<PgConnectOptions>>,
    permits: Semaphore,
    idle: Mutex<Vec<IdleConnection>>,
}

struct IdleConnection {
    inner: PgConnection,
    opened: Instant,
    used: Instant,
}

impl OwnConnections {
    pub(super) fn like(application: &PgPool) -> Self {
        let options = application.connect_options();
        let opening = application
            .options()
            .clone()
            .max_connections(CONNECTIONS)
            .min_connections(0)
            .acquire_timeout(TIMEOUT)
            .idle_timeout(None)
            .max_lifetime(None);
        Self {
            opening: opening.connect_lazy_with((*options).clone()),
            application: application.clone(),
            options: Mutex::new(options),
            permits: Semaphore::new(CONNECTIONS as usize),
            idle: Mutex::default(),
        }
    }

    /// Runs a statement in a transaction, and returns its rows. If this is dropped, the connection is closed.
    pub(super) async fn run(&self, statement: Statement<'_>) -> Result<Vec<PgRow>, sqlx::Error> {
        if self.application.is_closed() {
            self.idle().clear();
            return Err(sqlx::Error::PoolClosed);
        }
        let permit = timeout(TIMEOUT, self.permits.acquire()).await;
        let _permit = permit.map_err(|_| sqlx::Error::PoolTimedOut)?;
        let mut connection = match self.take_idle().await {
            Some(connection) => connection,
            None => self.open().await?,
        };
        let run = in_a_transaction(&mut connection.inner, statement);
        let rows = timeout(TIMEOUT, run).await;
        let rows = rows.unwrap_or_else(|_| Err(io::Error::from(io::ErrorKind::TimedOut).into()));
        let is_usable = match &rows {
            Err(error @ sqlx::Error::Database(_)) => !is_unusable(error),
            Err(_) => false,
            Ok(_) => true,
        };
        if is_usable {
            connection.used = Instant::now();
            self.idle().push(connection);
        }
        rows
    }

    async fn open(&self) -> Result<IdleConnection, sqlx::Error> {
        self.follow_options();
        let now = Instant::now();
        Ok(IdleConnection {
            inner: self.opening.acquire().await?.detach(),
            opened: now,
            used: now,
        })
    }

    /// Takes a connection that still works, and closes those that do not or are too old.
    async fn take_idle(&self) -> Option<IdleConnection> {
        loop {
            let mut connection = self.newest_idle()?;
            if let Ok(Ok(())) = timeout(TIMEOUT, connection.inner.ping()).await {
                return Some(connection);
            }
        }
    }

    fn newest_idle(&self) -> Option<IdleConnection> {
        let lifetime = self.application.options().get_max_lifetime();
        let mut idle = self.idle();
        idle.retain(|connection| {
            let is_young = lifetime.is_none_or(|lifetime| connection.opened.elapsed() < lifetime);
            is_young && connection.used.elapsed() < IDLE
        });
        idle.pop()
    }

    fn idle(&self) -> MutexGuard<'_, Vec<IdleConnection>> {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn follow_options(&self) {
        let current = self.application.connect_options();
        let mut options = self.options.lock().unwrap_or_else(PoisonError::into_inner);
        if !Arc::ptr_eq(&options, &current) {
            self.opening.set_connect_options((*current).clone());
            *options = current;
        }
    }
}
