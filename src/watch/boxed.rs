//! Stores without their type.

use std::pin::Pin;
use std::time::Duration;

use tower::BoxError;

use super::heard::SettledEvent;
use super::store::{Counts, Replaced, Stored, Update, WatchStore};
use super::waiters::Wake;
use crate::job::JobGuid;

pub(super) type Answer<'a, T> = Pin<Box<dyn Future<Output = Result<T, BoxError>> + Send + 'a>>;

/// The dyn-compatible form of [`WatchStore`].
pub(super) trait DynStore: Send + Sync {
    fn load<'a>(&'a self, jobs: &'a [JobGuid]) -> Answer<'a, Vec<(JobGuid, Stored)>>;
    fn replace<'a>(
        &'a self,
        job: &'a JobGuid,
        expected: Option<u64>,
        update: Update<'a>,
    ) -> Answer<'a, Replaced>;
    fn claim_due(&self, limit: usize, lease: Duration) -> Answer<'_, Vec<(JobGuid, Stored)>>;
    fn count(&self) -> Answer<'_, Counts>;
    fn listen(&self, wake: Wake) -> Answer<'_, ()>;
    fn record_unexpected(&self, event: SettledEvent, keep: Duration) -> Option<SettledEvent>;
}

impl<S: WatchStore> DynStore for S {
    fn load<'a>(&'a self, jobs: &'a [JobGuid]) -> Answer<'a, Vec<(JobGuid, Stored)>> {
        Box::pin(async move { WatchStore::load(self, jobs).await.map_err(Into::into) })
    }

    fn replace<'a>(
        &'a self,
        job: &'a JobGuid,
        expected: Option<u64>,
        update: Update<'a>,
    ) -> Answer<'a, Replaced> {
        Box::pin(async move {
            let replaced = WatchStore::replace(self, job, expected, update).await;
            replaced.map_err(Into::into)
        })
    }

    fn claim_due(&self, limit: usize, lease: Duration) -> Answer<'_, Vec<(JobGuid, Stored)>> {
        Box::pin(async move {
            let claimed = WatchStore::claim_due(self, limit, lease).await;
            claimed.map_err(Into::into)
        })
    }

    fn count(&self) -> Answer<'_, Counts> {
        Box::pin(async move { WatchStore::count(self).await.map_err(Into::into) })
    }

    fn listen(&self, wake: Wake) -> Answer<'_, ()> {
        Box::pin(async move { WatchStore::listen(self, wake).await.map_err(Into::into) })
    }

    fn record_unexpected(&self, event: SettledEvent, keep: Duration) -> Option<SettledEvent> {
        WatchStore::record_unexpected(self, event, keep)
    }
}
