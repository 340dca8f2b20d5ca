//! The status of a job, which decides which callback runs.

use std::fmt;

use crate::job::white_space::trim;

/// The status of a job: one of MX's ten known statuses, or another.
///
/// MX sends a webhook for five of them, the [actionable](Status::is_actionable) ones (MX's *Job
/// Status* page). It sends the status as a name, `status_name`, and as an integer, `status`. **The
/// name decides.** The integer is used only if there is no usable name: MX's documentation prints
/// four of the ten integers (0, 1, 2 and 6), and the others are inferred from public code. Names
/// are compared without regard to ASCII case.
///
/// A name or integer outside the table becomes [`Status::Other`], which keeps it. MX may add
/// statuses, and has sent some that are in no table, such as `AUTHENTICATED`. Such a name is kept
/// in ASCII upper case, without surrounding white space: names that differ only in these are the
/// same status.
///
/// Do not confuse these with MX's *connection* statuses. There, 1 is PREVENTED, 2 is DENIED and 3
/// is CHALLENGED.
///
/// # Example
///
/// ```
/// use mx_job_webhook::Status;
///
/// assert_eq!(Status::from("COMPLETED"), Status::Completed);
/// assert_eq!(Status::from(6), Status::Completed);
/// assert_eq!(Status::from("AUTHENTICATED").name(), Some("AUTHENTICATED"));
/// assert_eq!(Status::from(42).code(), Some(42));
/// ```
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Status {
    /// `INITIATED`, 0: the job exists. No action needed.
    Initiated,
    /// `REQUESTED`, 1: MX has asked the bank. No action needed.
    Requested,
    /// `CHALLENGED`, 2: the bank asks the user a question. It can recur within a job.
    Challenged,
    /// `RECEIVED`, 3: the bank has answered. No action needed.
    Received,
    /// `TRANSFERRED`, 4: the data is being transferred. No action needed.
    Transferred,
    /// `PROCESSED`, 5: the data is being stored. No action needed.
    Processed,
    /// `COMPLETED`, 6: accounts and transactions can be read.
    Completed,
    /// `PREVENTED`, 7: too many failed logins. Blocked until the credentials change.
    Prevented,
    /// `DENIED`, 8: the bank refused the credentials. Ask the user for new ones.
    Denied,
    /// `HALTED`, 9: the job failed for another reason. Try later with the same credentials.
    Halted,
    /// A status outside the table. Keeps the name, or the integer if there is no name.
    Other(OtherStatus),
}

/// The ten known statuses. The index of each is its integer.
static KNOWN: [(&str, Status); Status::KNOWN] = [
    ("INITIATED", Status::Initiated),
    ("REQUESTED", Status::Requested),
    ("CHALLENGED", Status::Challenged),
    ("RECEIVED", Status::Received),
    ("TRANSFERRED", Status::Transferred),
    ("PROCESSED", Status::Processed),
    ("COMPLETED", Status::Completed),
    ("PREVENTED", Status::Prevented),
    ("DENIED", Status::Denied),
    ("HALTED", Status::Halted),
];

impl Status {
    /// How many statuses are known.
    pub(crate) const KNOWN: usize = 10;

    /// Returns whether MX sends a webhook for the status, because the application has to act.
    ///
    /// Returns true for CHALLENGED, COMPLETED, PREVENTED, DENIED and HALTED (MX's *Job Status*
    /// page). Returns false for [`Status::Other`], because its meaning is unknown.
    #[must_use]
    pub fn is_actionable(&self) -> bool {
        matches!(
            self,
            Self::Challenged | Self::Completed | Self::Prevented | Self::Denied | Self::Halted
        )
    }

    /// Returns the name, such as `COMPLETED`.
    ///
    /// Returns `None` only for a status that has no name: an integer outside the table.
    #[must_use]
    pub fn name(&self) -> Option<&str> {
        match self {
            Self::Other(OtherStatus(Unknown::Name(name))) => Some(name),
            Self::Other(OtherStatus(Unknown::Code(_))) => None,
            known => known.index().map(|index| KNOWN[index].0),
        }
    }

    /// Returns the integer from the table above, such as 6 for COMPLETED.
    ///
    /// Returns `None` for a name outside the table. The integer that MX sent for a job is in
    /// [`Job::status_code`](crate::Job::status_code).
    #[must_use]
    pub fn code(&self) -> Option<i64> {
        match self {
            Self::Other(OtherStatus(Unknown::Code(code))) => Some(*code),
            Self::Other(OtherStatus(Unknown::Name(_))) => None,
            known => known.index().and_then(|index| i64::try_from(index).ok()),
        }
    }

    /// Returns the index of a known status in [`KNOWN`].
    pub(crate) fn index(&self) -> Option<usize> {
        Some(match self {
            Self::Initiated => 0,
            Self::Requested => 1,
            Self::Challenged => 2,
            Self::Received => 3,
            Self::Transferred => 4,
            Self::Processed => 5,
            Self::Completed => 6,
            Self::Prevented => 7,
            Self::Denied => 8,
            Self::Halted => 9,
            Self::Other(_) => return None,
        })
    }

    /// Returns the status at an index of [`KNOWN`].
    pub(crate) fn at(index: usize) -> Option<Self> {
        KNOWN.get(index).map(|(_, status)| status.clone())
    }
}

/// Returns the status with this name.
///
/// ASCII case and surrounding white space are ignored. A blank name becomes an empty one. (Decoding
/// a job treats a blank name as missing.)
impl From<&str> for Status {
    fn from(name: &str) -> Self {
        let known = |name: &str| KNOWN.iter().find(|(known, _)| *known == name);
        // The fast path: names written as MX sends them.
        if let Some((_, status)) = known(name) {
            return status.clone();
        }
        let name = trim(name).to_ascii_uppercase();
        match known(&name) {
            Some((_, status)) => status.clone(),
            None => Self::Other(OtherStatus(Unknown::Name(name.into()))),
        }
    }
}

/// Returns the status with this integer. An integer outside the table is kept.
impl From<i64> for Status {
    fn from(code: i64) -> Self {
        usize::try_from(code)
            .ok()
            .and_then(Self::at)
            .unwrap_or(Self::Other(OtherStatus(Unknown::Code(code))))
    }
}

/// Prints the name, or the integer if there is no name.
impl fmt::Display for Status {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self.name(), self.code()) {
            (Some(name), _) => f.pad(name),
            (None, Some(code)) => fmt::Display::fmt(&code, f),
            (None, None) => Ok(()),
        }
    }
}

/// A status outside the table: its name, or its integer if there is no name.
///
/// Only [`Status::from`] makes one, and never for a status in the table. Two equal statuses
/// therefore always go to the same callback.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct OtherStatus(Unknown);

impl fmt::Display for OtherStatus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.0 {
            Unknown::Name(name) => f.pad(name),
            Unknown::Code(code) => fmt::Display::fmt(code, f),
        }
    }
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum Unknown {
    /// Trimmed and in ASCII upper case.
    Name(Box<str>),
    Code(i64),
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn known_statuses_are_found_by_name_and_by_integer() {
        for (index, (name, status)) in KNOWN.iter().enumerate() {
            let code = i64::try_from(index).unwrap();
            assert_eq!(Status::from(*name), *status);
            assert_eq!(Status::from(name.to_lowercase().as_str()), *status);
            assert_eq!(Status::from(code), *status);
            assert_eq!(status.index(), Some(index));
            assert_eq!(status.name(), Some(*name));
            assert_eq!(status.code(), Some(code));
            assert_eq!(status.to_string(), *name);
        }
    }

    #[test]
    fn five_statuses_are_actionable() {
        let actionable: Vec<&str> = KNOWN
            .iter()
            .filter(|(_, status)| status.is_actionable())
            .map(|(name, _)| *name)
            .collect();
        assert_eq!(
            actionable,
            ["CHALLENGED", "COMPLETED", "PREVENTED", "DENIED", "HALTED"]
        );
    }

    #[test]
    fn equal_statuses_are_equal_in_every_respect() {
        let pairs = [
            (" completed\n", "COMPLETED", true),
            ("authenticated", "AUTHENTICATED", true),
            ("AUTHENTICATED ", "AUTHENTICATED", true),
            ("\u{3000}Authenticated", "AUTHENTICATED", true),
            ("AUTHENTICATED", "THROTTLED", false),
            ("NEW STATUS", "NEWSTATUS", false),
            // Beyond ASCII, case depends on the Unicode version of `std`.
            ("É", "é", false),
            (" ", "", true),
        ];
        for (one, other, equal) in pairs {
            let (one, other) = (Status::from(one), Status::from(other));
            assert_eq!(one == other, equal, "{one} {other}");
            assert_eq!(one.name() == other.name(), equal, "{one} {other}");
            assert_eq!(one.to_string() == other.to_string(), equal, "{one} {other}");
        }
        assert_ne!(Status::from("42"), Status::from(42));
    }

    #[test]
    fn a_status_outside_of_the_table_keeps_its_name_or_integer() {
        let names = [
            ("AUTHENTICATED", "AUTHENTICATED"),
            ("failed", "FAILED"),
            ("статус", "статус"),
            (" New\tOne ", "NEW\tONE"),
            ("6", "6"),
        ];
        for (name, kept) in names {
            let status = Status::from(name);
            assert_eq!((status.name(), status.code()), (Some(kept), None));
            assert_eq!(status.to_string(), kept);
            assert!(!status.is_actionable());
        }
        for code in [-1, 10, i64::MIN, i64::MAX] {
            let status = Status::from(code);
            assert_eq!((status.name(), status.code()), (None, Some(code)));
            assert_eq!(status.to_string(), code.to_string());
        }
    }
}
