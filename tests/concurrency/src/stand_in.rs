//! What the copy uses in place of tokio's tasks and timers, and of `arc-swap`.

use std::fmt;
use std::future::pending;
use std::sync::Arc;
use std::time::Duration;

pub use shuttle::future::{JoinHandle, spawn};
use shuttle::sync::{Mutex, MutexGuard, PoisonError};
pub use tokio::time::Instant;

/// Waits for ever: see the crate's documentation.
pub async fn sleep(_: Duration) {
    pending::<()>().await;
}

/// Waits for ever.
pub async fn sleep_until(_: Instant) {
    pending::<()>().await;
}

/// Waits for the future, however long that takes.
///
/// # Errors
///
/// None.
pub async fn timeout<F: Future>(_: Duration, future: F) -> Result<F::Output, Elapsed> {
    Ok(future.await)
}

/// The same.
///
/// # Errors
///
/// None.
pub async fn timeout_at<F: Future>(_: Instant, future: F) -> Result<F::Output, Elapsed> {
    Ok(future.await)
}

/// The error of a timer that fires.
#[derive(Debug)]
pub enum Elapsed {}

/// An `Arc` that can be replaced.
pub struct ArcSwap<T>(Mutex<Arc<T>>);

impl<T> ArcSwap<T> {
    /// Returns one with this value.
    pub fn new(value: Arc<T>) -> Self {
        Self(Mutex::new(value))
    }

    /// Returns the current value.
    pub fn load(&self) -> Arc<T> {
        self.lock().clone()
    }

    /// Replaces the value.
    pub fn store(&self, value: Arc<T>) {
        *self.lock() = value;
    }

    fn lock(&self) -> MutexGuard<'_, Arc<T>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<T> fmt::Debug for ArcSwap<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ArcSwap").finish_non_exhaustive()
    }
}
