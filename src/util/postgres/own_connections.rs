//! Connections beside those of the application's pool.

use std::io;
use std::mem::take;
use std::pin::pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use sqlx::{Connection as _, PgConnection, PgPool};
use tokio::runtime::Handle;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::{Instant, timeout, timeout_at};

use super::limits::Limits;
use super::opener::Opener;

/// How long waiting for a permit may take, and what runs on a connection.
pub(crate) const TIMEOUT: Duration = Duration::from_secs(5);

/// How many sessions of the role may wait for a synchronous standby that is absent, before no further connections are opened. A
/// session waits although its client has left, so that they would use up those of the server.
const MOST_HANGING: i64 = 4;

/// For how long a connection may be idle before it is closed.
const IDLE: Duration = Duration::from_secs(60);

/// Opens connections beside the application's pool, and keeps the idle ones.
///
/// A pool of sqlx would check each one that returns, and wait for the answer without a limit.
pub(crate) struct OwnConnections {
    opener: Opener,
    permits: Arc<Semaphore>,
    /// Those that only `reserved_permit` gives, if there are any.
    reserved: Arc<Semaphore>,
    has_reserved: bool,
    lingering: Arc<Lingering>,
    idle: Mutex<Vec<OwnConnection>>,
    max: u32,
}

/// A connection outside of all pools. If it is dropped, it is closed.
pub(crate) struct OwnConnection {
    pub(crate) inner: PgConnection,
    pub(crate) limits: Limits,
    /// Whether it is for callers with a reserved permit.
    is_reserved: bool,
    opened: Instant,
    used: Instant,
}

/// The right to have a connection.
///
/// If a future is dropped while its statement runs, the server continues, although the connection is closed. With a
/// connection in use, the right therefore ends when the server has answered, or has had the time to.
pub(crate) struct Permit {
    permit: Option<OwnedSemaphorePermit>,
    in_use: Option<OwnConnection>,
    is_connecting: bool,
    is_reserved: bool,
    /// Its statements end although a synchronous standby is absent.
    waits_for_no_standby: bool,
    lingering: Arc<Lingering>,
}

/// Permits of dropped calls, and when each of them ends at the latest: the runtime on which a task waits for the server may
/// be one that is not driven any more.
#[derive(Default)]
struct Lingering(Mutex<Vec<(Instant, Arc<LingeringPermit>)>>);

type LingeringPermit = Mutex<Option<OwnedSemaphorePermit>>;

impl Lingering {
    fn add(&self, permit: Option<OwnedSemaphorePermit>) -> Arc<LingeringPermit> {
        let permit = Arc::new(Mutex::new(permit));
        let end = Instant::now() + TIMEOUT;
        lock(&self.0).push((end, permit.clone()));
        permit
    }

    /// Ends those whose time has come. Returns when the next one ends.
    fn end_due(&self) -> Option<Instant> {
        let now = Instant::now();
        let mut lingering = lock(&self.0);
        lingering.retain(|(end, permit)| {
            let mut permit = lock(permit);
            if *end <= now {
                *permit = None;
            }
            permit.is_some()
        });
        lingering.iter().map(|(end, _)| *end).min()
    }
}

impl Permit {
    /// Uses a connection, until it is taken back.
    pub(crate) fn use_connection(&mut self, connection: OwnConnection) -> &mut OwnConnection {
        self.in_use.insert(connection)
    }

    pub(crate) fn take_back(&mut self) -> Option<OwnConnection> {
        self.in_use.take()
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        let (permit, in_use) = (self.permit.take(), self.in_use.take());
        if self.is_connecting {
            self.lingering.add(permit);
            return;
        }
        let (Some(mut connection), Ok(runtime)) = (in_use, Handle::try_current()) else {
            return;
        };
        let permit = self.lingering.add(permit);
        runtime.spawn(async move {
            let _ = timeout(TIMEOUT, connection.inner.ping()).await;
            drop(connection);
            lock(&permit).take();
        });
    }
}

impl OwnConnections {
    /// At most this many, of which some are reserved. At least one is for all callers.
    pub(crate) fn like(application: &PgPool, max: u32, reserved: usize) -> Self {
        let permits = usize::try_from(max).unwrap_or(usize::MAX);
        let permits = permits.min(Semaphore::MAX_PERMITS);
        let reserved = reserved.min(permits.saturating_sub(1));
        Self {
            opener: Opener::like(application, max).quiet(),
            permits: Arc::new(Semaphore::new(permits - reserved)),
            reserved: Arc::new(Semaphore::new(reserved)),
            has_reserved: reserved > 0,
            lingering: Arc::default(),
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
    pub(crate) async fn permit(&self) -> Result<Permit, sqlx::Error> {
        self.permit_within(TIMEOUT, false).await
    }

    /// The same for a caller that others must not keep waiting, however many they are: those that came before it have a permit or
    /// have given up sooner.
    pub(crate) async fn patient_permit(&self) -> Result<Permit, sqlx::Error> {
        self.permit_within(2 * TIMEOUT, false).await
    }

    /// The same for statements that do not wait for a standby, with a permit that is reserved, if there is one. It keeps a connection of
    /// its own, because the server may not have another one while others have theirs.
    pub(crate) async fn reserved_permit(&self) -> Result<Permit, sqlx::Error> {
        let mut permit = self.permit_within(2 * TIMEOUT, self.has_reserved).await?;
        permit.waits_for_no_standby = true;
        Ok(permit)
    }

    async fn permit_within(
        &self,
        limit: Duration,
        is_reserved: bool,
    ) -> Result<Permit, sqlx::Error> {
        let permits = if is_reserved {
            &self.reserved
        } else {
            &self.permits
        };
        let last = Instant::now() + limit;
        let mut permit = pin!(permits.clone().acquire_owned());
        loop {
            let end = self.lingering.end_due().map_or(last, |end| end.min(last));
            match timeout_at(end, permit.as_mut()).await {
                Ok(Ok(permit)) => {
                    return Ok(Permit {
                        permit: Some(permit),
                        in_use: None,
                        is_connecting: false,
                        is_reserved,
                        waits_for_no_standby: false,
                        lingering: self.lingering.clone(),
                    });
                }
                Err(_) if end < last => {}
                _ => return Err(sqlx::Error::PoolTimedOut),
            }
        }
    }

    pub(crate) async fn open(&self, permit: &mut Permit) -> Result<OwnConnection, sqlx::Error> {
        if self.application().is_closed() {
            return Err(sqlx::Error::PoolClosed);
        }
        let now = Instant::now();
        permit.is_connecting = true;
        let opened = self.connect().await;
        permit.is_connecting = false;
        let (inner, limits) = opened?;
        if limits.hanging >= MOST_HANGING && !permit.waits_for_no_standby {
            let error = io::Error::other("too many sessions wait for a synchronous standby");
            return Err(error.into());
        }
        Ok(OwnConnection {
            inner,
            limits,
            is_reserved: permit.is_reserved,
            opened: now,
            used: now,
        })
    }

    async fn connect(&self) -> Result<(PgConnection, Limits), sqlx::Error> {
        let mut connection = self.opener.open().await?;
        let limits = timeout(TIMEOUT, Limits::read(&mut connection)).await;
        // No statement of the caller was sent.
        let limits = limits.map_err(|_| sqlx::Error::PoolTimedOut)??;
        Ok((connection, limits))
    }

    /// Keeps a connection, which nothing runs on. One that was opened in spite of the sessions that hang is closed: with it, another caller
    /// would add one.
    pub(crate) fn keep(&self, mut connection: OwnConnection) {
        if connection.limits.hanging >= MOST_HANGING && !connection.is_reserved {
            return;
        }
        connection.used = Instant::now();
        self.idle().push(connection);
    }

    /// Takes the connection that was used last, and closes those that are too old. The server or a pooler may have
    /// closed it.
    pub(crate) fn take_idle(&self, permit: &Permit) -> Option<OwnConnection> {
        let is_closed = self.application().is_closed();
        let lifetime = self.opener.lifetime();
        let mut idle = self.idle();
        idle.retain(|connection| {
            let is_young = lifetime.is_none_or(|lifetime| connection.opened.elapsed() < lifetime);
            !is_closed && is_young && connection.used.elapsed() < IDLE
        });
        let is_for = |connection: &OwnConnection| connection.is_reserved == permit.is_reserved;
        let index = match idle.iter().rposition(is_for) {
            None if permit.is_reserved => idle.len().checked_sub(1),
            index => index,
        };
        let mut connection = idle.remove(index?);
        connection.is_reserved = permit.is_reserved;
        Some(connection)
    }

    /// Closes the idle connections. If one did not answer in time, the network may have forgotten all of them, and each
    /// statement would find that out by itself. A reserved one stays, because a full server may have no other.
    pub(crate) fn close_idle(&self) {
        let idle = take(&mut *self.idle());
        let (reserved, others): (Vec<_>, _) = idle.into_iter().partition(|it| it.is_reserved);
        self.idle().extend(reserved);
        drop(others);
    }

    fn idle(&self) -> MutexGuard<'_, Vec<OwnConnection>> {
        lock(&self.idle)
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use sqlx::postgres::PgPoolOptions;
    use tokio::time::{advance, sleep};

    use super::*;

    /// Others come all the time, and each gives up after a while, as a heartbeat would.
    #[tokio::test(start_paused = true)]
    async fn a_patient_caller_is_served_although_others_wait_in_vain() {
        let pool = PgPoolOptions::new().connect_lazy("postgres://127.0.0.1:1/app");
        let connections = OwnConnections::like(&pool.unwrap(), 1, 1);
        let held = connections.permit().await.unwrap();
        let (impatient, patient) = tokio::join!(connections.permit(), async {
            let release = async {
                sleep(TIMEOUT + Duration::from_secs(1)).await;
                drop(held);
            };
            tokio::join!(connections.patient_permit(), release).0
        });
        assert!(matches!(impatient, Err(sqlx::Error::PoolTimedOut)));
        assert!(patient.is_ok());
    }

    /// The runtime on which a task waits for the server may be one that is not driven any more.
    #[tokio::test(start_paused = true)]
    async fn the_permit_of_a_dropped_call_ends_once_the_server_has_had_the_time_to_answer() {
        const SECOND: Duration = Duration::from_secs(1);
        let (lingering, permits) = (Lingering::default(), Arc::new(Semaphore::new(2)));
        let start = Instant::now();
        lingering.add(permits.clone().try_acquire_owned().ok());
        advance(SECOND).await;
        lingering.add(permits.clone().try_acquire_owned().ok());
        assert_eq!(lingering.end_due(), Some(start + TIMEOUT));
        advance(TIMEOUT - SECOND - Duration::from_millis(1)).await;
        assert_eq!(lingering.end_due(), Some(start + TIMEOUT));
        assert_eq!(permits.available_permits(), 0);
        advance(Duration::from_millis(1)).await;
        assert_eq!(lingering.end_due(), Some(start + SECOND + TIMEOUT));
        assert_eq!(permits.available_permits(), 1);
        advance(SECOND).await;
        assert_eq!(lingering.end_due(), None);
        assert_eq!(permits.available_permits(), 2);
    }

    /// A caller that waits for it has it at that moment.
    #[tokio::test(start_paused = true)]
    async fn a_permit_that_ends_is_given_to_a_caller_who_waits() {
        const SECOND: Duration = Duration::from_secs(1);
        let pool = PgPoolOptions::new().connect_lazy("postgres://127.0.0.1:1/app");
        let connections = OwnConnections::like(&pool.unwrap(), 1, 0);
        let mut dropped = connections.permit().await.unwrap();
        dropped.is_connecting = true;
        drop(dropped);
        advance(SECOND).await;
        let start = Instant::now();
        assert!(connections.permit().await.is_ok());
        let waited = start.elapsed();
        assert!(TIMEOUT - SECOND <= waited && waited < TIMEOUT);
    }

    /// There are never more than the most, and those that are reserved are not for other callers.
    #[tokio::test(start_paused = true)]
    async fn some_of_several_connections_are_reserved() {
        for (max, reserved, for_all) in [(1, 0, 1), (1, 1, 1), (2, 1, 1), (4, 1, 3), (4, 0, 4)] {
            let pool = PgPoolOptions::new().connect_lazy("postgres://127.0.0.1:1/app");
            let connections = OwnConnections::like(&pool.unwrap(), max, reserved);
            let mut held = Vec::new();
            while let Ok(permit) = connections.permit().await {
                held.push(permit);
            }
            assert_eq!(held.len(), for_all, "{max}, {reserved}");
            while let Ok(permit) = connections.reserved_permit().await {
                held.push(permit);
            }
            assert_eq!(held.len(), usize::try_from(max).unwrap());
            held.clear();
            assert!(connections.reserved_permit().await.is_ok());
        }
    }
}
