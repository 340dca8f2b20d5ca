//! The connections of a queue's store, which callbacks cannot take.

use std::io;

use sqlx::postgres::PgRow;
use sqlx::{Connection as _, PgPool};
use tokio::time::timeout;

use super::run::{Statement, in_a_transaction};
use crate::util::postgres::is_unusable;
use crate::util::postgres::own_connections::{self, OwnConnection, Permit, TIMEOUT};

/// As for the application's connections.
const BEGIN: &str =
    "BEGIN ISOLATION LEVEL READ COMMITTED; SET LOCAL idle_in_transaction_session_timeout = '5s';
    SET LOCAL client_min_messages = 'error'";

/// How many connections there are at most.
const CONNECTIONS: u32 = 2;

pub(super) struct OwnConnections(own_connections::OwnConnections);

impl OwnConnections {
    pub(super) fn like(application: &PgPool) -> Self {
        let connections = own_connections::OwnConnections::like(application, CONNECTIONS, 0);
        Self(connections)
    }

    /// Runs a statement in a transaction, and returns its rows.
    pub(super) async fn run(&self, statement: Statement<'_>) -> Result<Vec<PgRow>, sqlx::Error> {
        let mut permit = self.0.permit().await?;
        let connection = match self.take_working(&permit).await {
            Some(connection) => connection,
            None => self.0.open(&mut permit).await?,
        };
        let connection = permit.use_connection(connection);
        let begin = format!("{BEGIN};\n{}", connection.limits.of_statements(None));
        let constraints = connection.limits.of_constraints(None);
        let inner = &mut connection.inner;
        let run = in_a_transaction(inner, begin, statement, Some(constraints));
        let rows = timeout(TIMEOUT, run).await;
        let rows = rows.unwrap_or_else(|_| Err(io::Error::from(io::ErrorKind::TimedOut).into()));
        let is_usable = match &rows {
            Err(error @ sqlx::Error::Database(_)) => !is_unusable(error),
            Err(_) => false,
            Ok(_) => true,
        };
        let connection = permit.take_back();
        if let (true, Some(mut connection)) = (is_usable, connection) {
            // sqlx ends a transaction that has failed when the connection is used next.
            let mut has_ended = async || {
                let ended = timeout(TIMEOUT, connection.inner.ping()).await;
                matches!(ended, Ok(Ok(())))
            };
            if rows.is_ok() || has_ended().await {
                self.0.keep(connection);
            }
        }
        rows
    }

    /// Takes an idle connection that still works, and closes those that do not.
    async fn take_working(&self, permit: &Permit) -> Option<OwnConnection> {
        loop {
            let mut connection = self.0.take_idle(permit)?;
            match timeout(TIMEOUT, connection.inner.ping()).await {
                Ok(Ok(())) => return Some(connection),
                Ok(Err(_)) => {}
                Err(_) => self.0.close_idle(),
            }
        }
    }
}
