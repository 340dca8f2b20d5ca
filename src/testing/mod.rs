//! Tools to test an application's own code, with the feature `test-util`.
//!
//! A [`Sample`] is a payload as MX sends it. [`Mx`] delivers samples as MX does, and returns a
//! [`Transcript`] of all answers. [`Mx::check_mount`] is one line in a test, and names the mistake in a
//! wrong mount. [`check_ledger`] tests a ledger that you wrote,
//! and [`check_watch_store`] a store of expected jobs.
//!
//! This module uses `event`, `job`, `error`, `ledger`, `watch`, `router` and `util`.

mod attempt;
mod ledger;
mod mx;
mod sample;
mod transcript;
mod watch;

pub use attempt::{Answer, Attempt};
pub use ledger::check_ledger;
pub use mx::{MountError, Mx, MxJobs, NoSuchJob};
pub use sample::Sample;
pub use transcript::Transcript;
pub use watch::check_watch_store;

/// Seeds the random numbers of this thread, so that this crate's own simulation can be replayed.
#[doc(hidden)]
pub fn seed_random_numbers(seed: u64) {
    crate::util::random::seeded::seed(seed);
}
