//! Promises that hold whatever the schedule of threads and tasks, and faults that show that each test notices.
//!
//! `MX_SCHEDULES` sets how many schedules each test runs of each kind: 500 by default. `--show-output` shows how many
//! there are in all where a test runs all of them, and in which one a fault is noticed. A failing test prints its
//! schedule, and `shuttle::replay` runs it again.
#![allow(clippy::unwrap_used, reason = "a panic is how a test fails")]
#![allow(clippy::print_stdout, reason = "the figures of `--show-output`")]

mod credentials;
mod hand_over;
mod ledger;
mod permits;
mod support;
mod watch;
