//! The part of an event's name that tells it from other events of its job at the same status.

use std::fmt;

use super::digest;
use crate::event::JobEvent;
use crate::job::Timestamp;

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Version {
    /// The `updated_at` of the job, if it was understood in full.
    UpdatedAt(Timestamp),
    /// A digest of the body. As bytes, because a `u128` would align every future that has a name.
    Digest([u8; 16]),
}

impl Version {
    pub(super) fn of(event: &JobEvent) -> Self {
        match event.updated_at {
            Some(updated_at) => Self::UpdatedAt(updated_at),
            None => Self::Digest(digest::of(event.body()).to_be_bytes()),
        }
    }
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::UpdatedAt(timestamp) => write!(f, "{}", timestamp.decimal()),
            Self::Digest(digest) => write!(f, "#{:032x}", u128::from_be_bytes(*digest)),
        }
    }
}
