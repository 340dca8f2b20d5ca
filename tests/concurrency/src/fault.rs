//! The fault that is on.

use std::cell::Cell;

thread_local! {
    // Of the operating system's thread: shuttle runs all threads and tasks of a schedule on one.
    static ON: Cell<Option<&'static str>> = const { Cell::new(None) };
}

/// Turns a fault on, for the schedules that this thread runs.
pub fn turn_on(name: &'static str) {
    ON.set(Some(name));
}

pub(crate) fn is_on(name: &str) -> bool {
    ON.get() == Some(name)
}
