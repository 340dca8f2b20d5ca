//! The version: the part of a name that distinguishes events of the same job and status.

use std::fmt;

use super::digest;
use crate::event::JobEvent;
use crate::job::Timestamp;

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Version {
    /// The `updated_at` of the job, if it is readable.
    UpdatedAt(Timestamp),
    /// A digest of the body. It is stored as bytes because a `u128` would increase the alignment,
    /// and so the size, of every future that contains a name.
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
