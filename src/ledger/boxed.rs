//! A boxed ledger, without the type of the ledger in it.

use std::fmt;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use tower::BoxError;

use super::{Claim, Commit, EventName, Ledger};
use crate::event::FencingToken;

/// A boxed ledger, for applications that choose one by configuration. Clones share the ledger.
///
/// A call allocates once more than a call of the ledger itself.
///
/// # Example
///
/// ```
/// # #[cfg(feature = "postgres")]
/// # fn main() {
/// use mx_job_webhook::ledger::{BoxLedger, MemoryLedger, PostgresLedger};
/// use sqlx::PgPool;
///
/// /// In production the replicas share a pool's database. In development there is none.
/// fn ledger(pool: Option<PgPool>) -> BoxLedger {
///     match pool {
///         Some(pool) => BoxLedger::new(PostgresLedger::new(pool)),
///         None => BoxLedger::new(MemoryLedger::new()),
///     }
/// }
///
/// let layer = mx_job_webhook::DedupeLayer::new(ledger(None));
/// # drop(layer);
/// # }
/// # #[cfg(not(feature = "postgres"))]
/// # fn main() {}
/// ```
#[derive(Clone)]
pub struct BoxLedger(Arc<dyn DynLedger>);

impl BoxLedger {
    /// Boxes a ledger.
    #[must_use]
    pub fn new(ledger: impl Ledger) -> Self {
        Self(Arc::new(ledger))
    }
}

impl Ledger for BoxLedger {
    type Error = BoxError;

    async fn claim(&self, event: &EventName, lease: Duration) -> Result<Claim, BoxError> {
        self.0.claim(event, lease).await
    }

    async fn commit(&self, event: &EventName, token: FencingToken) -> Result<Commit, BoxError> {
        self.0.commit(event, token).await
    }

    async fn release(&self, event: &EventName, token: FencingToken) -> Result<(), BoxError> {
        self.0.release(event, token).await
    }
}

impl fmt::Debug for BoxLedger {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("BoxLedger").finish_non_exhaustive()
    }
}

type Answer<'a, T> = Pin<Box<dyn Future<Output = Result<T, BoxError>> + Send + 'a>>;

/// The dyn-compatible form of [`Ledger`].
trait DynLedger: Send + Sync {
    fn claim<'a>(&'a self, event: &'a EventName, lease: Duration) -> Answer<'a, Claim>;
    fn commit<'a>(&'a self, event: &'a EventName, token: FencingToken) -> Answer<'a, Commit>;
    fn release<'a>(&'a self, event: &'a EventName, token: FencingToken) -> Answer<'a, ()>;
}

impl<L: Ledger> DynLedger for L {
    fn claim<'a>(&'a self, event: &'a EventName, lease: Duration) -> Answer<'a, Claim> {
        Box::pin(async move { Ledger::claim(self, event, lease).await.map_err(Into::into) })
    }

    fn commit<'a>(&'a self, event: &'a EventName, token: FencingToken) -> Answer<'a, Commit> {
        Box::pin(async move { Ledger::commit(self, event, token).await.map_err(Into::into) })
    }

    fn release<'a>(&'a self, event: &'a EventName, token: FencingToken) -> Answer<'a, ()> {
        Box::pin(async move {
            Ledger::release(self, event, token)
                .await
                .map_err(Into::into)
        })
    }
}
