//! The ids that the partner gave: its own names for users and members.

use crate::id::id_type;

id_type!(
    /// The partner's own id for a user; its `Debug` is redacted.
    ///
    /// MX stores what the partner chose when it created the user. Kept to the letter,
    /// up to 40 bytes inline. `Display` and `as_str` give the id itself.
    ///
    /// # Example
    ///
    /// ```
    /// use mx_job_webhook::UserId;
    ///
    /// let id: UserId = "7834372140".parse()?;
    /// assert_eq!(id.as_str(), "7834372140");
    /// assert_eq!(format!("{id:?}"), "UserId(redacted)");
    /// # Ok::<(), mx_job_webhook::BlankIdError>(())
    /// ```
    UserId,
    redacted
);

id_type!(
    /// The partner's own id for a member; its `Debug` is redacted.
    ///
    /// MX sends null for a member that the user manages (`member_is_managed_by_user`,
    /// MX's *Job Status* page). Kept as [`UserId`](crate::UserId) is.
    ///
    /// # Example
    ///
    /// ```
    /// use mx_job_webhook::MemberId;
    ///
    /// let id: MemberId = "checking-at-home".parse()?;
    /// assert_eq!(id, "checking-at-home");
    /// # Ok::<(), mx_job_webhook::BlankIdError>(())
    /// ```
    MemberId,
    redacted
);
