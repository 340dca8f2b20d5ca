//! Tools that know nothing of jobs: catching panics, and deadlines.

pub(crate) mod catch_panic;
pub(crate) mod deadline;
pub(crate) mod never;
