//! The ids that MX gives: four types that cannot be mixed up.

use crate::id::id_type;

id_type!(
    /// MX's id of a job, `JOB-` and a UUID.
    ///
    /// Any text that is not blank is taken, and kept to the letter: MX promises no
    /// format (field table of MX's *Job Status* page). Up to 40 bytes stay inline,
    /// longer ones go to the heap.
    ///
    /// A job keeps its GUID from one CHALLENGED to the next: it names the job, not
    /// the event.
    ///
    /// # Example
    ///
    /// ```
    /// use mx_job_webhook::JobGuid;
    ///
    /// let guid: JobGuid = "JOB-a177e002-e5b8-0680-3427-39556fa93c6e".parse()?;
    /// assert_eq!(guid.as_str(), "JOB-a177e002-e5b8-0680-3427-39556fa93c6e");
    /// # Ok::<(), mx_job_webhook::BlankIdError>(())
    /// ```
    JobGuid,
    shown
);

id_type!(
    /// MX's id of a member, `MBR-` and a UUID: one user's connection to one bank.
    ///
    /// Kept as [`JobGuid`](crate::JobGuid) is.
    ///
    /// # Example
    ///
    /// ```
    /// use mx_job_webhook::MemberGuid;
    ///
    /// let guid: MemberGuid = "MBR-48d9a481-f2a2-7e13-2685-62869cf0d33a".parse()?;
    /// assert_eq!(guid, "MBR-48d9a481-f2a2-7e13-2685-62869cf0d33a");
    /// # Ok::<(), mx_job_webhook::BlankIdError>(())
    /// ```
    MemberGuid,
    shown
);

id_type!(
    /// MX's id of a user, `USR-` and a UUID; its `Debug` is redacted.
    ///
    /// Kept as [`JobGuid`](crate::JobGuid) is. `Display` and `as_str` give the id
    /// itself: using them is a decision to show it.
    ///
    /// # Example
    ///
    /// ```
    /// use mx_job_webhook::UserGuid;
    ///
    /// let guid: UserGuid = "USR-eaf4ac68-d17d-5e9b-7b46-959a5b315a9e".parse()?;
    /// assert_eq!(guid.to_string(), "USR-eaf4ac68-d17d-5e9b-7b46-959a5b315a9e");
    /// assert_eq!(format!("{guid:?}"), "UserGuid(redacted)");
    /// # Ok::<(), mx_job_webhook::BlankIdError>(())
    /// ```
    UserGuid,
    redacted
);

id_type!(
    /// MX's id of an institution, `INS-` and a UUID.
    ///
    /// Kept as [`JobGuid`](crate::JobGuid) is.
    ///
    /// # Example
    ///
    /// ```
    /// use mx_job_webhook::InstitutionGuid;
    ///
    /// let guid: InstitutionGuid = "INS-3aeb38da-26e4-3818-e0fa-673315ab7754".parse()?;
    /// assert!(guid.as_str().starts_with("INS-"));
    /// # Ok::<(), mx_job_webhook::BlankIdError>(())
    /// ```
    InstitutionGuid,
    shown
);

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use super::*;

    #[test]
    fn long_and_strange_ids_are_kept_to_the_letter() {
        let forty = "JOB-a177e002-e5b8-0680-3427-39556fa93c6e";
        assert_eq!(forty.len(), 40);
        let cases = [
            forty,
            "7",
            "JOB-a177e002-e5b8-0680-3427-39556fa93c6e0",
            &"x".repeat(1000),
            "ключ-鍵-🔑",
            " padded ",
            "quote\" back\\slash\nline",
        ];
        for text in cases {
            let guid: JobGuid = text.parse().unwrap();
            assert_eq!(guid.as_str(), text);
            assert_eq!(guid.to_string(), text);
            let json = serde_json::to_string(&guid).unwrap();
            assert_eq!(serde_json::from_str::<JobGuid>(&json).unwrap(), guid);
        }
    }

    #[test]
    fn blank_ids_are_refused() {
        for text in ["", " ", "\t\r\n", "\u{3000}"] {
            assert!(text.parse::<MemberGuid>().is_err(), "{text:?}");
            let json = serde_json::to_string(text).unwrap();
            assert!(
                serde_json::from_str::<MemberGuid>(&json).is_err(),
                "{text:?}"
            );
        }
    }

    #[test]
    fn an_id_that_is_no_string_is_not_repeated() {
        for json in ["7834372140", "-7834372140", "7834372140.5", "[7834372140]"] {
            let error = serde_json::from_str::<crate::UserId>(json).unwrap_err();
            assert!(!error.to_string().contains("7834372140"), "{error}");
        }
    }

    #[test]
    fn a_map_finds_an_id_by_its_text_wherever_it_is_stored() {
        let long = "y".repeat(99);
        let map: HashMap<UserGuid, i32> =
            HashMap::from([("short".parse().unwrap(), 1), (long.parse().unwrap(), 2)]);
        assert_eq!(map.get("short"), Some(&1));
        assert_eq!(map.get(long.as_str()), Some(&2));
    }

    #[test]
    fn ids_order_as_their_text_does() {
        let mut ids: Vec<InstitutionGuid> = ["b".repeat(50), "c".into(), "a".into()]
            .iter()
            .map(|text| text.parse().unwrap())
            .collect();
        ids.sort();
        assert_eq!(ids[0], "a");
        assert_eq!(ids[2], "c");
    }

    #[test]
    fn an_id_is_48_bytes_even_when_it_is_optional() {
        assert_eq!(size_of::<JobGuid>(), 48);
        assert_eq!(size_of::<Option<MemberGuid>>(), 48);
    }
}
