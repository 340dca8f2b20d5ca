//! What tests an application's own code; with the feature `test-util`.

mod ledger;

pub use ledger::check_ledger;
