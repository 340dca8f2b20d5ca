//! Opening connections for the ledger.

use std::time::Duration;

use sqlx::{PgConnection, PgPool};

/// How long opening a connection may take.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// Opens connections as the application's pool does, including its hooks.
///
/// It takes none of that pool's connections, because callbacks may hold all of them.
pub(super) struct Pool {
    application: PgPool,
    own: PgPool,
}

impl Pool {
    pub(super) fn like(application: &PgPool, max_connections: u32) -> Self {
        let options = application
            .options()
            .clone()
            .max_connections(max_connections)
            .min_connections(0)
            .acquire_timeout(CONNECT_TIMEOUT)
            // Connections are detached from this pool, and the ledger closes them.
            .idle_timeout(None)
            .max_lifetime(None);
        Self {
            own: options.connect_lazy_with((*application.connect_options()).clone()),
            application: application.clone(),
        }
    }

    pub(super) async fn connect(&self) -> Result<PgConnection, sqlx::Error> {
        // The application may have changed the options, for example to a new password.
        let options = self.application.connect_options();
        self.own.set_connect_options((*options).clone());
        Ok(self.own.acquire().await?.detach())
    }

    /// Returns how old a connection may become.
    pub(super) fn lifetime(&self) -> Option<Duration> {
        self.application.options().get_max_lifetime()
    }
}
