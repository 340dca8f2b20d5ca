//! The ids of a webhook, each of its own type so that they cannot be mixed up.

pub mod kind;
mod short_text;

use std::borrow::Borrow;
use std::cmp::Ordering;
use std::fmt;
use std::hash::{Hash, Hasher};
use std::marker::PhantomData;
use std::str::FromStr;

use serde::de::{Deserialize, Deserializer, Error as _, Visitor};
use serde::ser::{Serialize, Serializer};

use super::white_space::is_blank;
use kind::IdKind;
use short_text::ShortText;

/// MX's id of a job: `JOB-` and a UUID.
///
/// A job keeps its GUID from one CHALLENGED to the next, so the GUID names the job and not the
/// event.
pub type JobGuid = Id<kind::JobGuid>;

/// MX's id of a member, which is one user's connection to one bank: `MBR-` and a UUID.
pub type MemberGuid = Id<kind::MemberGuid>;

/// MX's id of a user: `USR-` and a UUID. `Debug` redacts it.
pub type UserGuid = Id<kind::UserGuid>;

/// MX's id of an institution: `INS-` and a UUID.
pub type InstitutionGuid = Id<kind::InstitutionGuid>;

/// The partner's own id of a user, which it chose when it created the user. `Debug` redacts it.
pub type UserId = Id<kind::UserId>;

/// The partner's own id of a member. `Debug` redacts it.
///
/// MX sends null for a member that the user manages (`member_is_managed_by_user`, MX's *Job Status*
/// page).
pub type MemberId = Id<kind::MemberId>;

/// An id: any text that is not blank.
///
/// The text is kept exactly as MX sent it, because MX promises no format (field table of MX's
/// *Job Status* page). Ids of up to 40 bytes are stored inline, longer ones on the heap.
///
/// `Debug` redacts the ids of people. `Display` and [`as_str`](Self::as_str) return every id.
///
/// # Example
///
/// ```
/// use mx_job_webhook::job::{JobGuid, UserGuid};
///
/// let job: JobGuid = "JOB-a177e002-e5b8-0680-3427-39556fa93c6e".parse()?;
/// assert_eq!(job, "JOB-a177e002-e5b8-0680-3427-39556fa93c6e");
///
/// let blank = "  ".parse::<UserGuid>();
/// assert!(blank.is_err());
/// # Ok::<(), mx_job_webhook::job::BlankIdError>(())
/// ```
pub struct Id<K> {
    text: ShortText,
    kind: PhantomData<fn() -> K>,
}

impl<K> Id<K> {
    /// Returns the id, or `None` if it is blank.
    pub(super) fn from_text(text: &str) -> Option<Self> {
        (!is_blank(text)).then(|| Self {
            text: ShortText::new(text),
            kind: PhantomData,
        })
    }

    /// Returns the id as MX sent it.
    #[must_use]
    pub fn as_str(&self) -> &str {
        self.text.as_str()
    }
}

/// The error of parsing a text that is empty or only white space as an id.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BlankIdError(());

impl BlankIdError {
    pub(crate) const fn new() -> Self {
        Self(())
    }
}

impl fmt::Display for BlankIdError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an id must not be blank")
    }
}

impl std::error::Error for BlankIdError {}

impl<K> FromStr for Id<K> {
    type Err = BlankIdError;

    fn from_str(text: &str) -> Result<Self, BlankIdError> {
        Self::from_text(text).ok_or(const { BlankIdError::new() })
    }
}

impl<K> fmt::Display for Id<K> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

impl<K: IdKind> fmt::Debug for Id<K> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if K::IS_PERSONAL {
            return write!(f, "{}(redacted)", K::NAME);
        }
        f.debug_tuple(K::NAME).field(&self.as_str()).finish()
    }
}

// These are written by hand, because `derive` would require them of `K`.
impl<K> Clone for Id<K> {
    fn clone(&self) -> Self {
        Self {
            text: self.text.clone(),
            kind: PhantomData,
        }
    }
}

impl<K> PartialEq for Id<K> {
    fn eq(&self, other: &Self) -> bool {
        self.as_str() == other.as_str()
    }
}

impl<K> Eq for Id<K> {}

impl<K> PartialEq<str> for Id<K> {
    fn eq(&self, other: &str) -> bool {
        self.as_str() == other
    }
}

impl<K> PartialEq<&str> for Id<K> {
    fn eq(&self, other: &&str) -> bool {
        self.as_str() == *other
    }
}

impl<K> PartialOrd for Id<K> {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl<K> Ord for Id<K> {
    fn cmp(&self, other: &Self) -> Ordering {
        self.as_str().cmp(other.as_str())
    }
}

/// Hashes as `str` does, so that `Borrow<str>` finds an id in a map by its text.
impl<K> Hash for Id<K> {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.as_str().hash(state);
    }
}

impl<K> Borrow<str> for Id<K> {
    fn borrow(&self) -> &str {
        self.as_str()
    }
}

impl<K> AsRef<str> for Id<K> {
    fn as_ref(&self) -> &str {
        self.as_str()
    }
}

impl<K> Serialize for Id<K> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.as_str())
    }
}

impl<'de, K> Deserialize<'de> for Id<K> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        // A format's own error message repeats an unexpected number, which may identify a person.
        deserializer
            .deserialize_str(IdVisitor(PhantomData))
            .map_err(|_| D::Error::custom("an id must be a string that is not blank"))
    }
}

struct IdVisitor<K>(PhantomData<K>);

impl<K> Visitor<'_> for IdVisitor<K> {
    type Value = Id<K>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an id that is not blank")
    }

    fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<Id<K>, E> {
        text.parse().map_err(E::custom)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use super::*;

    #[test]
    fn long_and_unusual_ids_are_kept_exactly() {
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
    fn ids_are_compared_and_passed_on_as_their_text() {
        let guid: JobGuid = "JOB-1".parse().unwrap();
        assert!(guid == "JOB-1" && guid == *"JOB-1");
        assert!(guid != "JOB-2" && guid != *"JOB-2");
        assert_eq!(AsRef::<str>::as_ref(&guid), "JOB-1");
    }

    #[test]
    fn blank_ids_are_refused() {
        let error = " ".parse::<MemberGuid>().unwrap_err();
        assert_eq!(error.to_string(), "an id must not be blank");
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
    fn the_error_for_an_id_that_is_not_a_string_does_not_repeat_it() {
        for json in ["7834372140", "-7834372140", "7834372140.5", "[7834372140]"] {
            let error = serde_json::from_str::<UserId>(json).unwrap_err();
            assert!(!error.to_string().contains("7834372140"), "{error}");
        }
    }

    #[test]
    fn a_map_finds_inline_and_heap_ids_by_their_text() {
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
