//! Hearing what other processes have changed.

use std::io;
use std::time::Duration;

use sqlx::postgres::PgListener;
use sqlx::{PgPool, Row as _};
use tokio::time::{Instant, timeout, timeout_at};

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
        let connect = async {
            let mut listener = PgListener::connect_with(&pool).await?;
            // A new connection has missed notifications, so it has to be known that there is one.
            listener.eager_reconnect(false);
            listener.listen(CHANNEL).await?;
            Ok::<_, sqlx::Error>(listener)
        };
        let mut listener = timeout(CONNECT_TIMEOUT, connect)
            .await
            .map_err(timed_out)??;
        wake.connected();
        loop {
            let check_at = Instant::now() + CHECK_INTERVAL;
            while let Ok(received) = timeout_at(check_at, listener.try_recv()).await {
                match received? {
                    Some(notification) => wake_up(wake, notification.payload()),
                    None => return Err(io::Error::from(io::ErrorKind::UnexpectedEof).into()),
                }
            }
            timeout(CHECK_TIMEOUT, check(&mut listener))
                .await
                .map_err(timed_out)??;
        }
    }

    /// Returns a pool for one connection, which is opened as the application's pool opens its own.
    fn listeners_pool(&self) -> PgPool {
        let options = match &self.listener {
            Some(options) => options.clone(),
            None => (*self.pool.connect_options()).clone(),
        };
        self.pool
            .options()
            .clone()
            .max_connections(1)
            .min_connections(0)
            .acquire_timeout(CONNECT_TIMEOUT)
            .idle_timeout(None)
            .max_lifetime(None)
            .connect_lazy_with(options)
    }
}

/// Checks that the server answers, and that the connection is still the one that listens.
///
/// With `PgBouncer` in transaction mode, it can be another one.
async fn check(listener: &mut PgListener) -> Result<(), sqlx::Error> {
    let sql = "SELECT count(*) FROM pg_listening_channels() AS channel \
               WHERE channel = 'mx_job_webhook_watch'";
    let row = sqlx::raw_sql(sql).fetch_one(listener).await?;
    match row.try_get::<i64, _>(0)? {
        0 => Err(sqlx::Error::Configuration(
            "the connection does not stay with its server: see `PostgresWatchStore::with_listener`"
                .into(),
        )),
        _ => Ok(()),
    }
}

fn timed_out(_: tokio::time::error::Elapsed) -> sqlx::Error {
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
