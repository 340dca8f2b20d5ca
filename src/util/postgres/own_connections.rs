//! Connections beside those of the application's pool.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use sqlx::{PgConnection, PgPool};
use tokio::sync::{Semaphore, SemaphorePermit};
use tokio::time::{Instant, timeout};

use super::opener::Opener;

/// How long waiting for a permit may take, and what runs on a connection.
pub(crate) const TIMEOUT: Duration = Duration::from_secs(5);

/// For how long a connection may be idle before it is closed.
const IDLE: Duration = Duration::from_secs(60);

/// Opens connections beside the application's pool, and keeps the idle ones.
///
/// A pool of sqlx would check each one that returns, and wait for the answer without a limit.
pub(crate) struct OwnConnections {
    opener: Opener,
    permits: Semaphore,
    idle: Mutex<Vec<OwnConnection>>,
    max: u32,
}

/// A connection outside of all pools. If it is dropped, it is closed.
pub(crate) struct OwnConnection {
    pub(crate) inner: PgConnection,
    opened: Instant,
    used: Instant,
}

impl OwnConnections {
    pub(crate) fn like(application: &PgPool, max: u32) -> Self {
        let permits = usize::try_from(max).unwrap_or(usize::MAX);
        Self {
            opener: Opener::like(application, max).quiet(),
            permits: Semaphore::new(permits.min(Semaphore::MAX_PERMITS)),
            idle: Mutex::default(),
            max,
        }
    }

    /// Returns how many connections there are at most.
    pub(crate) fn max(&self) -> u32 {
        self.max
    }

    pub(crate) fn application(&self) -> &PgPool {
        self.opener.application()
    }

    /// Waits for the right to have a connection.
    pub(crate) async fn permit(&self) -> Result<SemaphorePermit<'_>, sqlx::Error> {
        let permit = timeout(TIMEOUT, self.permits.acquire()).await;
        match permit {
            Ok(Ok(permit)) => Ok(permit),
            _ => Err(sqlx::Error::PoolTimedOut),
        }
    }

    pub(crate) async fn open(&self) -> Result<OwnConnection, sqlx::Error> {
        if self.application().is_closed() {
            return Err(sqlx::Error::PoolClosed);
        }
        let now = Instant::now();
        Ok(OwnConnection {
            inner: self.opener.open().await?,
            opened: now,
            used: now,
        })
    }

    /// Keeps a connection, which nothing runs on.
    pub(crate) fn keep(&self, mut connection: OwnConnection) {
        connection.used = Instant::now();
        self.idle().push(connection);
    }

    /// Takes the connection that was used last, and closes those that are too old. The server or a pooler may have
    /// closed it.
    pub(crate) fn take_idle(&self) -> Option<OwnConnection> {
        let is_closed = self.application().is_closed();
        let lifetime = self.opener.lifetime();
        let mut idle = self.idle();
        idle.retain(|connection| {
            let is_young = lifetime.is_none_or(|lifetime| connection.opened.elapsed() < lifetime);
            !is_closed && is_young && connection.used.elapsed() < IDLE
        });
        idle.pop()
    }

    fn idle(&self) -> MutexGuard<'_, Vec<OwnConnection>> {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
