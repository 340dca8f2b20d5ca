//! The status of a job, which decides which callback runs.

use std::fmt;

use crate::job::white_space::trim;

/// What a job is at: one of MX's ten known statuses, or another.
///
/// MX sends a webhook for five of them, the [actionable](Status::is_actionable) ones
/// (MX's *Job Status* page). It sends the status twice, as the name `status_name` and
/// as the integer `status`. **The name decides**; the integer serves where the name is
/// missing, because six of the ten integers are inferred from public code and not
/// printed by MX (3, 4, 5, 7, 8 and 9). ASCII case makes no difference in a name.
///
/// A name or integer outside the table becomes [`Status::Other`], which keeps it: MX
/// may invent statuses, and has shown some that are in no table (`AUTHENTICATED`). Such a
/// name is kept in ASCII upper case and without the white space around it, so two that
/// differ in nothing else are one status.
///
/// Do not confuse these with MX's *connection* statuses: there, 1 is PREVENTED, 2 is
/// DENIED and 3 is CHALLENGED.
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
    /// `INITIATED`, 0: the job exists. Nothing to do but wait.
    Initiated,
    /// `REQUESTED`, 1: MX asked the bank. Nothing to do but wait.
    Requested,
    /// `CHALLENGED`, 2: the bank asks the user something. Recurs within one job.
    Challenged,
    /// `RECEIVED`, 3: the bank answered. Nothing to do but wait.
    Received,
    /// `TRANSFERRED`, 4: the data is on its way. Nothing to do but wait.
    Transferred,
    /// `PROCESSED`, 5: the data is being stored. Nothing to do but wait.
    Processed,
    /// `COMPLETED`, 6: accounts and transactions can be read.
    Completed,
    /// `PREVENTED`, 7: too many failed logins; blocked until credentials change.
    Prevented,
    /// `DENIED`, 8: the bank refused the credentials; ask the user for new ones.
    Denied,
    /// `HALTED`, 9: failed for another reason. Try later, ask for no credentials.
    Halted,
    /// A status that is not in the table; keeps the name, or else the integer.
    Other(OtherStatus),
}

/// The ten known statuses; a status stands at the index that is its integer.
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

    /// Whether MX sends a webhook for it, because the application has to act.
    ///
    /// True for CHALLENGED, COMPLETED, PREVENTED, DENIED and HALTED (MX's *Job Status*
    /// page). False for [`Status::Other`]: whether it wants action is not known.
    #[must_use]
    pub fn is_actionable(&self) -> bool {
        matches!(
            self,
            Self::Challenged | Self::Completed | Self::Prevented | Self::Denied | Self::Halted
        )
    }

    /// The name, such as `COMPLETED`.
    ///
    /// `None` only for a status of which MX sent nothing but an integer that is not
    /// in the table.
    #[must_use]
    pub fn name(&self) -> Option<&str> {
        match self {
            Self::Other(OtherStatus(Unknown::Name(name))) => Some(name),
            Self::Other(OtherStatus(Unknown::Code(_))) => None,
            known => known.index().map(|index| KNOWN[index].0),
        }
    }

    /// The integer, such as 6 for COMPLETED, by the table above.
    ///
    /// `None` for a status that is known by a name outside the table. The integer
    /// that MX sent for a job is in [`Job::status_code`](crate::Job::status_code).
    #[must_use]
    pub fn code(&self) -> Option<i64> {
        match self {
            Self::Other(OtherStatus(Unknown::Code(code))) => Some(*code),
            Self::Other(OtherStatus(Unknown::Name(_))) => None,
            known => known.index().and_then(|index| i64::try_from(index).ok()),
        }
    }

    /// A known status's place in [`KNOWN`].
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

    /// The known status at a place in [`KNOWN`].
    pub(crate) fn at(index: usize) -> Option<Self> {
        KNOWN.get(index).map(|(_, status)| status.clone())
    }
}

/// The status of that name.
///
/// ASCII case and white space around a name make no difference. A blank name becomes the
/// empty one, but no job can be read from a payload that has no other.
impl From<&str> for Status {
    fn from(name: &str) -> Self {
        let known = |name: &str| KNOWN.iter().find(|(known, _)| *known == name);
        // As MX sends them, before any other way to write them.
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

/// The status of that integer; one that is not in the table keeps the integer.
impl From<i64> for Status {
    fn from(code: i64) -> Self {
        usize::try_from(code)
            .ok()
            .and_then(Self::at)
            .unwrap_or(Self::Other(OtherStatus(Unknown::Code(code))))
    }
}

/// The name, or where there is none, the integer.
impl fmt::Display for Status {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self.name(), self.code()) {
            (Some(name), _) => f.pad(name),
            (None, Some(code)) => fmt::Display::fmt(&code, f),
            (None, None) => Ok(()),
        }
    }
}

/// A status outside the table: its name, or where MX sent none, its integer.
///
/// Made only by [`Status::from`], which keeps what is in the table out of it; so two
/// statuses are equal exactly if they route alike.
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
    fn the_ten_known_statuses_are_found_by_name_and_by_integer() {
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
    fn mx_sends_webhooks_for_five() {
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
            // Beyond ASCII, case is a question of the Unicode tables that a build has.
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
    fn what_is_not_in_the_table_keeps_its_name_or_integer() {
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
