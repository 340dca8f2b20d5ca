//! Hearing what other processes have changed.

use std::io;
use std::time::Duration;

use sqlx::postgres::PgListener;
use sqlx::{Connection as _, Executor, PgPool, Postgres, Row as _};
use tokio::time::{Instant, sleep, timeout, timeout_at};

use super::PostgresWatchStore;
use crate::job::JobGuid;
use crate::watch::waiters::Wake;

/// The channel of the notifications. `watch_replace.sql` has its name too.
const CHANNEL: &str = "mx_job_webhook_watch";

/// How long opening the connection may take.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// How often the server is asked whether it is still there.
const CHECK_INTERVAL: Duration = Duration::from_secs(15);

/// How long its answer may take.
const CHECK_TIMEOUT: Duration = Duration::from_secs(5);

/// The pause if a pooler is in front of the server.
const POOLER_INTERVAL: Duration = Duration::from_secs(60);

/// The maximum length of a guid in a notification. The server allows 8,000 bytes.
const MAX_LENGTH: usize = 4_000;

/// The notification for jobs whose guid cannot be in one. All jobs are then read.
const ALL: &str = "all";

/// Returns the notification for this job.
///
/// It is ASCII, which every database and every client's encoding can express.
pub(super) fn notification(job: &JobGuid) -> String {
    let guid = job.as_str();
    let is_plain = guid.len() <= MAX_LENGTH && guid.bytes().all(|byte| matches!(byte, b' '..=b'~'));
    if is_plain {
        format!("job {guid}")
    } else {
        ALL.to_owned()
    }
}

fn wake_up(wake: &Wake, notification: &str) {
    let guid = notification.strip_prefix("job ");
    match guid.and_then(|guid| guid.parse().ok()) {
        Some(job) => wake.job(&job),
        // Notifications of later releases too.
        None => wake.connected(),
    }
}

impl PostgresWatchStore {
    /// Listens until the connection breaks, or the application's pool is closed.
    pub(super) async fn listen_until_broken(&self, wake: &Wake) -> Result<(), sqlx::Error> {
        let mut closing = self.pool.close_event();
        closing.do_until(self.hear(wake)).await?
    }

    async fn hear(&self, wake: &Wake) -> Result<(), sqlx::Error> {
        let pool = self.listeners_pool();
        let mut listener = match timeout(CONNECT_TIMEOUT, self.connect(&pool)).await {
            Err(_) => return Err(timed_out()),
            Ok(Err(error @ sqlx::Error::Configuration(_))) => {
                // It takes a new configuration, so there is no hurry.
                sleep(POOLER_INTERVAL).await;
                return Err(error);
            }
            Ok(listener) => listener?,
        };
        wake.connected();
        loop {
            let check_at = Instant::now() + CHECK_INTERVAL;
            while let Ok(received) = timeout_at(check_at, listener.try_recv()).await {
                match received? {
                    Some(notification) => wake_up(wake, notification.payload()),
                    None => return Err(io::Error::from(io::ErrorKind::UnexpectedEof).into()),
                }
            }
            let check = sqlx::raw_sql("SELECT").execute(&mut listener);
            let checked = timeout(CHECK_TIMEOUT, check).await;
            checked.unwrap_or_else(|_| Err(timed_out()))?;
        }
    }

    async fn connect(&self, pool: &PgPool) -> Result<PgListener, sqlx::Error> {
        let start = Instant::now();
        let mut listener = PgListener::connect_with(pool).await?;
        // A new connection has missed notifications, so it has to be known that there is one.
        listener.eager_reconnect(false);
        if self.listener.is_none() && is_pooled(&mut listener, pool, start).await? {
            return Err(sqlx::Error::Configuration(
                "a pooler is in front of the server: see `PostgresWatchStore::with_listener`"
                    .into(),
            ));
        }
        listener.listen(CHANNEL).await?;
        Ok(listener)
    }

    /// Returns a pool for a connection that is opened as the application's pool opens its own, and
    /// for another one to compare it with.
    fn listeners_pool(&self) -> PgPool {
        let options = match &self.listener {
            Some(options) => options.clone(),
            None => (*self.pool.connect_options()).clone(),
        };
        self.pool
            .options()
            .clone()
            .max_connections(2)
            .min_connections(0)
            .acquire_timeout(CONNECT_TIMEOUT)
            .idle_timeout(None)
            .max_lifetime(None)
            .connect_lazy_with(options)
    }
}

/// Returns whether there is a pooler between this process and the server.
///
/// In transaction mode, a pooler would run `LISTEN` on a connection that other clients use next.
/// They would get the notifications, and their statements would fail. A pooler shows by a
/// session of the server that is older than the connection, or that two connections share, or that
/// changes. `start` is from before the connection was opened.
async fn is_pooled(
    listener: &mut PgListener,
    pool: &PgPool,
    start: Instant,
) -> Result<bool, sqlx::Error> {
    let one = Session::of(&mut *listener, start).await?;
    let start = Instant::now();
    let mut connection = pool.acquire().await?.detach();
    let other = Session::of(&mut connection, start).await?;
    let mut is_pooled = one.pid == other.pid || one.is_older || other.is_older;
    for _ in 0..3 {
        is_pooled |= one.pid != Session::of(&mut *listener, start).await?.pid;
        is_pooled |= other.pid != Session::of(&mut connection, start).await?.pid;
    }
    connection.close().await?;
    Ok(is_pooled)
}

/// How far the clocks of the two machines may drift apart while a connection is opened.
const DRIFT: Duration = Duration::from_millis(5);

/// The session of the server that has run a statement.
struct Session {
    pid: i32,
    /// Whether it is older than the connection on which the statement was sent.
    is_older: bool,
}

impl Session {
    async fn of<'c>(
        connection: impl Executor<'c, Database = Postgres>,
        start: Instant,
    ) -> Result<Self, sqlx::Error> {
        let sql = "SELECT pid, \
                   (extract(epoch FROM clock_timestamp() - backend_start) * 1000000)::bigint \
                   FROM pg_stat_activity WHERE pid = pg_backend_pid()";
        let row = sqlx::raw_sql(sql).fetch_one(connection).await?;
        let age: Option<i64> = row.try_get(1)?;
        let age = Duration::from_micros(age.unwrap_or_default().max(0).unsigned_abs());
        Ok(Self {
            pid: row.try_get(0)?,
            is_older: age > start.elapsed() + DRIFT,
        })
    }
}

fn timed_out() -> sqlx::Error {
    io::Error::from(io::ErrorKind::TimedOut).into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_guid_that_does_not_fit_into_a_notification_wakes_all() {
        let long = "x".repeat(MAX_LENGTH + 1);
        let cases = [
            ("JOB-1", "job JOB-1"),
            (" a b", "job  a b"),
            ("ä", ALL),
            ("a\0b", ALL),
            (long.as_str(), ALL),
        ];
        for (guid, expected) in cases {
            let guid = guid.parse().unwrap();
            assert_eq!(notification(&guid), expected, "{guid:?}");
        }
    }
}
