//! The kinds of ids: type parameters of [`Id`](super::Id), without values.

/// A kind of [`Id`](super::Id).
pub trait IdKind: 'static {
    /// The name of the id's type, for `Debug`.
    const NAME: &str;

    /// Whether the id identifies a person, so that `Debug` redacts it.
    const IS_PERSONAL: bool;

    /// What the id names, for schemas.
    const DESCRIPTION: &str;
}

/// The kind of a [`JobGuid`](crate::job::JobGuid).
#[derive(Debug)]
pub enum JobGuid {}

/// The kind of a [`MemberGuid`](crate::job::MemberGuid).
#[derive(Debug)]
pub enum MemberGuid {}

/// The kind of a [`UserGuid`](crate::job::UserGuid).
#[derive(Debug)]
pub enum UserGuid {}

/// The kind of an [`InstitutionGuid`](crate::job::InstitutionGuid).
#[derive(Debug)]
pub enum InstitutionGuid {}

/// The kind of a [`UserId`](crate::job::UserId).
#[derive(Debug)]
pub enum UserId {}

/// The kind of a [`MemberId`](crate::job::MemberId).
#[derive(Debug)]
pub enum MemberId {}

impl IdKind for JobGuid {
    const NAME: &str = "JobGuid";
    const IS_PERSONAL: bool = false;
    const DESCRIPTION: &str = "MX's id of a job.";
}

impl IdKind for MemberGuid {
    const NAME: &str = "MemberGuid";
    const IS_PERSONAL: bool = false;
    const DESCRIPTION: &str = "MX's id of a member.";
}

impl IdKind for UserGuid {
    const NAME: &str = "UserGuid";
    const IS_PERSONAL: bool = true;
    const DESCRIPTION: &str = "MX's id of a user.";
}

impl IdKind for InstitutionGuid {
    const NAME: &str = "InstitutionGuid";
    const IS_PERSONAL: bool = false;
    const DESCRIPTION: &str = "MX's id of a bank.";
}

impl IdKind for UserId {
    const NAME: &str = "UserId";
    const IS_PERSONAL: bool = true;
    const DESCRIPTION: &str = "The partner's own id of a user.";
}

impl IdKind for MemberId {
    const NAME: &str = "MemberId";
    const IS_PERSONAL: bool = true;
    const DESCRIPTION: &str = "The partner's own id of a member.";
}
