//! What tests an application's own code; with the feature `test-util`.
//!
//! [`Sample`] is a payload as MX would send it, [`Mx`] delivers it as MX would, and a
//! [`Transcript`] says what came of it. [`check_ledger`] is for whoever writes a ledger.

mod attempt;
mod ledger;
mod mx;
mod sample;
mod transcript;

pub use attempt::{Answer, Attempt};
pub use ledger::check_ledger;
pub use mx::Mx;
pub use sample::Sample;
pub use transcript::Transcript;
