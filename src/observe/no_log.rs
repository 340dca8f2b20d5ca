//! The log lines of a build without the feature `tracing`.

use crate::job::JobGuid;

pub(crate) fn failsafe_failed(_: &'static str) {}

pub(crate) fn listening_failed(_: &tower::BoxError) {}

pub(crate) fn read_failed(_: &JobGuid, _: &tower::BoxError) {}

pub(super) fn given_up(_: &JobGuid) {}

#[cfg(feature = "queue")]
pub(crate) fn queue_failed(_: &str, _: &tower::BoxError) {}

#[cfg(feature = "queue")]
pub(crate) fn taken_over(_: &str, _: u64) {}

#[cfg(feature = "queue")]
pub(crate) fn left_out(_: &str, _: usize, _: &str, _: &tower::BoxError) {}

#[cfg(feature = "queue")]
pub(crate) fn results_given_up(_: &str, _: usize, _: &str) {}

#[cfg(feature = "queue")]
pub(super) fn dead_lettered(_: &str) {}
