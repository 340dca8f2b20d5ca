//! Random numbers for ids and jitter. They are not secret.

use std::hash::{BuildHasher, Hasher, RandomState};

/// Returns a random number.
pub(crate) fn random() -> u64 {
    // Each `RandomState` has other keys.
    RandomState::new().build_hasher().finish()
}

/// Returns a random duration between half and all of this one, so that processes that started
/// together do not act together.
#[cfg(feature = "tokio")]
pub(crate) fn jittered(duration: std::time::Duration) -> std::time::Duration {
    let part = random() % 1024;
    // At most 1.
    let share = 0.5 + part as f64 / 2048.0;
    duration.mul_f64(share)
}
