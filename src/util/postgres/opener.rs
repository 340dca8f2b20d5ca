//! Opening connections beside those of the application's pool.

use std::time::Duration;

use sqlx::postgres::PgConnectOptions;
use sqlx::{ConnectOptions as _, PgConnection, PgPool};

/// How long opening a connection may take.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// How many connections are opened at the same time at most. A pool of sqlx reserves memory for each.
const OPENED_AT_ONCE: u32 = 64;

/// Opens connections as the application's pool does, including its hooks.
///
/// It takes none of that pool's connections, because callbacks may hold all of them.
pub(crate) struct Opener {
    application: PgPool,
    own: PgPool,
    is_quiet: bool,
}

impl Opener {
    pub(crate) fn like(application: &PgPool, max_connections: u32) -> Self {
        let options = application
            .options()
            .clone()
            .max_connections(max_connections.min(OPENED_AT_ONCE))
            .min_connections(0)
            .acquire_timeout(CONNECT_TIMEOUT)
            // Connections are detached from this pool, and their user closes them.
            .idle_timeout(None)
            .max_lifetime(None);
        Self {
            own: options.connect_lazy_with((*application.connect_options()).clone()),
            application: application.clone(),
            is_quiet: false,
        }
    }

    /// Turns sqlx's log of statements off, whose text contains values.
    #[cfg(feature = "queue")]
    pub(crate) fn quiet(mut self) -> Self {
        self.is_quiet = true;
        self
    }

    pub(crate) async fn open(&self) -> Result<PgConnection, sqlx::Error> {
        // The application may have changed the options, for example to a new password.
        let options = PgConnectOptions::clone(&self.application.connect_options());
        self.own.set_connect_options(if self.is_quiet {
            options.disable_statement_logging()
        } else {
            options
        });
        Ok(self.own.acquire().await?.detach())
    }

    #[cfg(feature = "queue")]
    pub(crate) fn application(&self) -> &PgPool {
        &self.application
    }

    /// Returns how old a connection may become.
    pub(crate) fn lifetime(&self) -> Option<Duration> {
        self.application.options().get_max_lifetime()
    }
}
