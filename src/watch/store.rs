//! The stores in which expectations are kept.

use std::sync::Arc;
use std::time::Duration;

use tower::BoxError;

use super::entry::{Due, Entry};
use super::heard::SettledEvent;
use super::waiters::Wake;
use crate::job::JobGuid;

/// A store of what is expected, and of what was heard lately.
///
/// It keeps one [`Entry`] for each job. The rules are in the entries; a store only has to replace
/// an entry atomically, to hand out the entries that are due, and to tell other processes what has
/// changed. [`MemoryWatchStore`](super::MemoryWatchStore) serves one process; `PostgresWatchStore`
/// (feature `postgres`) is shared by several. Implement this trait for another store, and test it with
/// `testing::check_watch_store`.
///
/// An entry that has expired is the same as none.
///
/// # Cancellation
///
/// A future is dropped if it takes too long, or if its caller is dropped. The call may or may not
/// have had its effect.
pub trait WatchStore: Send + Sync + 'static {
    /// The error of a store that cannot answer.
    type Error: Into<BoxError>;

    /// Returns the entries of these jobs, in any order. Jobs without an entry are left out.
    ///
    /// # Errors
    ///
    /// If the store cannot answer.
    fn load(
        &self,
        jobs: &[JobGuid],
    ) -> impl Future<Output = Result<Vec<(JobGuid, Stored)>, Self::Error>> + Send;

    /// Replaces the entry of a job, unless another caller has changed it.
    ///
    /// `expected` is the revision of the entry that the caller knows, or `None` if it knows of none.
    /// If the store has another revision, or an entry where none was expected, nothing changes, and
    /// the result is [`Replaced::Conflict`].
    ///
    /// # Errors
    ///
    /// If the store cannot answer, or is full. The entry may have been replaced.
    fn replace(
        &self,
        job: &JobGuid,
        expected: Option<u64>,
        update: Update<'_>,
    ) -> impl Future<Output = Result<Replaced, Self::Error>> + Send;

    /// Claims entries that are due, at most `limit` of them, those that have been due for longest
    /// first.
    ///
    /// A claimed entry is due again after the lease, and gets another revision. If several callers
    /// claim at once, each entry is given to one of them.
    ///
    /// # Errors
    ///
    /// If the store cannot answer. Entries may be claimed until the lease expires.
    fn claim_due(
        &self,
        limit: usize,
        lease: Duration,
    ) -> impl Future<Output = Result<Vec<(JobGuid, Stored)>, Self::Error>> + Send;

    /// Counts the entries that have a time at which they are due, and those that are due.
    ///
    /// # Errors
    ///
    /// If the store cannot answer.
    fn count(&self) -> impl Future<Output = Result<Counts, Self::Error>> + Send;

    /// Listens to changes of other processes until the connection breaks.
    ///
    /// It calls [`Wake::connected`] once it hears, and [`Wake::job`] for each update that wakes.
    /// A change that is missed delays its waiters, because the entries are also read
    /// now and then.
    ///
    /// # Errors
    ///
    /// If the connection cannot be opened, or breaks. It is then opened again after a pause.
    fn listen(&self, wake: Wake) -> impl Future<Output = Result<(), Self::Error>> + Send;

    /// Records an event of a job that is not expected, if that needs no waiting, and keeps it for
    /// this time.
    ///
    /// Returns the event if the job may be expected, or if the store cannot do this. It is then
    /// recorded by [`replace`](Self::replace). This is a shortcut; the default returns the event.
    fn record_unexpected(&self, event: SettledEvent, keep: Duration) -> Option<SettledEvent> {
        let _ = keep;
        Some(event)
    }
}

/// An entry of a store.
#[derive(Clone, Debug)]
pub struct Stored {
    /// What is known of the job.
    pub entry: Entry,
    /// A number that is different after each change, also if the entry expired in between.
    pub revision: u64,
    /// How long ago the entry was stored, by the store's clock.
    pub age: Duration,
}

/// The new entry of a job.
#[derive(Clone, Copy, Debug)]
pub struct Update<'a> {
    /// What is known of the job.
    pub entry: &'a Entry,
    /// When the entry is due.
    pub due: Due,
    /// How long to keep the entry, or `None` to keep it until it is replaced.
    pub keep: Option<Duration>,
    /// Whether to tell the other processes.
    pub wakes: bool,
}

/// The result of [`WatchStore::replace`].
#[derive(Clone, Debug)]
#[allow(clippy::large_enum_variant, reason = "it is matched at once")]
pub enum Replaced {
    /// The entry was replaced.
    Done,
    /// Another caller has changed the entry. This is the current one.
    Conflict(Option<Stored>),
}

/// How many jobs a store expects.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Jobs that the failsafe will read unless something is heard of them.
    pub outstanding: u64,
    /// Those of them that are due.
    pub overdue: u64,
}

/// Forwards to the shared store.
impl<S: WatchStore> WatchStore for Arc<S> {
    type Error = S::Error;

    fn load(
        &self,
        jobs: &[JobGuid],
    ) -> impl Future<Output = Result<Vec<(JobGuid, Stored)>, Self::Error>> + Send {
        S::load(self, jobs)
    }

    fn replace(
        &self,
        job: &JobGuid,
        expected: Option<u64>,
        update: Update<'_>,
    ) -> impl Future<Output = Result<Replaced, Self::Error>> + Send {
        S::replace(self, job, expected, update)
    }

    fn claim_due(
        &self,
        limit: usize,
        lease: Duration,
    ) -> impl Future<Output = Result<Vec<(JobGuid, Stored)>, Self::Error>> + Send {
        S::claim_due(self, limit, lease)
    }

    fn count(&self) -> impl Future<Output = Result<Counts, Self::Error>> + Send {
        S::count(self)
    }

    fn listen(&self, wake: Wake) -> impl Future<Output = Result<(), Self::Error>> + Send {
        S::listen(self, wake)
    }

    fn record_unexpected(&self, event: SettledEvent, keep: Duration) -> Option<SettledEvent> {
        S::record_unexpected(self, event, keep)
    }
}
