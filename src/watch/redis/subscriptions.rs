//! Where a process hears what others have changed.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use ::redis::{Client, ErrorKind, RedisError};

use crate::ledger::Reconnecting;
use crate::ledger::redis::subscriber::Subscriber;

#[derive(Clone)]
pub(super) enum Subscriptions {
    /// At the server of the connection that the store has opened.
    OfServer(Reconnecting),
    /// At any of these nodes.
    OfNodes(Arc<Nodes>),
}

pub(super) struct Nodes {
    clients: Vec<Client>,
    /// The number of connections so far, so that each begins with another node.
    connections: AtomicUsize,
}

impl Subscriptions {
    pub(super) fn of_nodes(clients: impl IntoIterator<Item = Client>) -> Self {
        Self::OfNodes(Arc::new(Nodes {
            clients: clients.into_iter().collect(),
            connections: AtomicUsize::new(0),
        }))
    }

    pub(super) async fn connect(&self) -> Result<Subscriber, RedisError> {
        match self {
            Self::OfServer(connection) => connection.subscriber().await,
            Self::OfNodes(nodes) => Subscriber::connect(nodes.next()?).await,
        }
    }

    /// Discards the store's own connection, if it has opened one.
    pub(super) fn discard_connection(&self) {
        if let Self::OfServer(connection) = self {
            connection.discard();
        }
    }
}

impl Nodes {
    fn next(&self) -> Result<&Client, RedisError> {
        let number = self.connections.fetch_add(1, Ordering::Relaxed);
        let index = number.checked_rem(self.clients.len());
        index
            .and_then(|index| self.clients.get(index))
            .ok_or_else(|| {
                RedisError::from((ErrorKind::InvalidClientConfig, "no node to subscribe at"))
            })
    }
}
