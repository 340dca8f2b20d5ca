//! The crate's source with shuttle's types, so that shuttle chooses the schedule.
//!
//! loom would also try the orders of memory that processors allow. The parts under test do not depend on them: their
//! atomics are sequentially consistent, but for one in `acknowledge_first`, which guards no other memory. But loom
//! cannot spawn a task, its `Arc` does not become an `Arc<dyn Trait>`, and a whole delivery has more schedules than it
//! can try. `shuttle-tokio` has stand-ins for tokio's types, but its timers go by the real clock, and it builds criterion.
//!
//! The build script copies `src` of the crate. The copy has these differences:
//!
//! - The locks, atomics and thread-local values of the standard library are shuttle's. Each operation on one is a point
//!   at which shuttle may run another thread or task. Shuttle's atomics are sequentially consistent, whatever their
//!   ordering says.
//! - `ArcSwap` is a lock around an `Arc`: the test is of how the crate uses it, not of `arc-swap`.
//! - The tasks of `watch` are shuttle's. Its timers never fire, so the wait of a waiter that misses its event never ends, and
//!   shuttle reports a deadlock.
//! - Each of the faults in `copy/faults.rs` is there, and off until a test turns it on.
//!
//! `Notify`, `oneshot` and `Semaphore` stay tokio's. They work on any executor, but shuttle does not look within them:
//! each of their operations is one step. `Arc` stays the standard library's.
#![allow(
    unexpected_cfgs,
    reason = "the copy has the features of the crate, and few are features here"
)]
#![allow(clippy::all, reason = "the source is checked where it is")]
#![allow(
    dead_code,
    rustdoc::broken_intra_doc_links,
    reason = "the guides and the tests of the source are not copied"
)]

pub mod fault;
pub mod stand_in;

include!(concat!(env!("OUT_DIR"), "/src/lib.rs"));
