//! The names of letters, which are the keys of their rows.

use super::letter::LetterKind;
use crate::event::JobEvent;
use crate::ledger::EventName;
use crate::ledger::digest::fnv1a;
use crate::ledger::key::storable;
use crate::ledger::status_text;

/// Returns the name of an event's letter.
pub(crate) fn of_event(event: &JobEvent) -> String {
    of_name(&EventName::of(event))
}

/// Returns the name of a letter that is no event.
///
/// It contains one space, and the name of an event at least two.
pub(crate) fn of_body(kind: LetterKind, body: &[u8]) -> String {
    let kind = match kind {
        LetterKind::OtherWebhook => "other",
        kind => kind.name(),
    };
    format!("{kind} {:032x}", fnv1a(body))
}

/// Returns whether this is the name of a body that is no event.
#[cfg(feature = "queue")]
pub(crate) fn is_of_body(name: &str) -> bool {
    let is_digest =
        |text: &str| text.len() == 32 && text.bytes().all(|byte| byte.is_ascii_hexdigit());
    matches!(name.split_once(' '), Some(("undecodable" | "other", digest)) if is_digest(digest))
}

/// Returns the key of the letter with this name, or `None` if no letter can have it.
///
/// The text of an [`EventName`] is accepted too, if its key is a digest.
pub(crate) fn find(name: &str) -> Option<String> {
    if is_key(name) {
        return Some(name.to_owned());
    }
    let name: EventName = name.parse().ok()?;
    Some(of_name(&name))
}

/// Returns the key of an event: its guid, status and version, with a digest in place of each text that cannot be
/// stored.
///
/// Status and version contain no spaces, so both can be read again, and SQL can compare the status.
pub(crate) fn of_name(name: &EventName) -> String {
    let text = name.to_string();
    let version = text.rsplit(' ').next().unwrap_or_default();
    let guid = storable(name.guid().as_str());
    let status = storable(&status_text(name.status()));
    format!("{guid} {status} {version}")
}

/// Returns whether the text can be stored, so that it is its own key or that of no letter.
fn is_key(name: &str) -> bool {
    match name.parse::<EventName>() {
        // A guid that looks like a digest is one, unless it is a text of another form.
        Ok(parsed) => of_name(&parsed) == name || is_digest(parsed.guid().as_str()),
        Err(_) => !name.contains('\0'),
    }
}

fn is_digest(guid: &str) -> bool {
    let Some((digits, length)) = guid
        .strip_prefix("digest:")
        .and_then(|rest| rest.split_once(':'))
    else {
        return false;
    };
    digits.len() == 32
        && digits.bytes().all(|digit| digit.is_ascii_hexdigit())
        && length.parse::<usize>().is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::job::{Job, Status, Timestamp};

    fn event(guid: &str, status: &str) -> JobEvent {
        let mut job = Job::new(guid.parse().unwrap(), Status::from(status));
        job.updated_at = Some(Timestamp::from_unix_seconds(1));
        job.into()
    }

    #[test]
    fn a_letter_is_found_by_its_name_and_by_the_name_of_its_event() {
        let long = "x".repeat(300);
        let digest = "digest:a68d6315038b5822836dbc79783ec15a:3";
        for guid in [
            "JOB-1",
            "a b",
            "a\0b",
            &long,
            "é",
            "digest:x",
            "digest:ab:3",
            "digest:g68d6315038b5822836dbc79783ec15a:3",
            "digest:a68d6315038b5822836dbc79783ec15a:x",
            "undecodable",
        ] {
            for status in ["COMPLETED", "no more", &long] {
                let event = event(guid, status);
                let key = of_event(&event);
                assert!(!key.contains('\0') && key.len() <= 435, "{key}");
                assert_eq!(find(&key).as_deref(), Some(key.as_str()));
                let name = EventName::of(&event).to_string();
                assert_eq!(find(&name), Some(key), "{name:?}");
            }
        }
        assert_eq!(of_event(&event("JOB-1", "COMPLETED")), "JOB-1 COMPLETED 1");
        let key = of_event(&event("a b", &long));
        let digest_of_status = storable(&long.to_uppercase());
        assert_eq!(key, format!("a b {digest_of_status} 1"));
        // The guid has the form of a digest, so only its key finds it.
        let key = of_event(&event(digest, "COMPLETED"));
        assert_eq!(find(&key), Some(key));
    }

    #[test]
    fn other_bodies_have_names_that_no_event_has() {
        for kind in [LetterKind::Undecodable, LetterKind::OtherWebhook] {
            let name = of_body(kind, b"\xff\0");
            assert_eq!(find(&name).as_deref(), Some(name.as_str()));
            assert!(name.parse::<EventName>().is_err());
            assert_ne!(name, of_body(kind, b"\xff"));
        }
        assert_eq!(
            of_body(LetterKind::OtherWebhook, b"foobar"),
            "other 343e1662793c64bf6f0d3597ba446f18"
        );
    }

    #[test]
    fn a_hostile_name_is_that_of_no_letter() {
        for name in ["\0", "a\0b", "undecodable \0"] {
            assert_eq!(find(name), None, "{name:?}");
        }
        assert!(find("").is_some_and(|key| key.is_empty()));
    }

    #[cfg(feature = "queue")]
    #[test]
    fn only_names_of_other_bodies_are_taken_for_these() {
        for kind in [LetterKind::Undecodable, LetterKind::OtherWebhook] {
            assert!(is_of_body(&of_body(kind, b"{}")));
        }
        let digest = "a68d6315038b5822836dbc79783ec15a";
        for name in [
            format!("undecodable {}", &digest[1..]),
            format!("undecodable {digest}0"),
            format!("undecodable {}", digest.replace('a', "g")),
            format!("later {digest}"),
            "undecodable ".to_owned(),
            "undecodable".to_owned(),
        ] {
            assert!(!is_of_body(&name), "{name}");
        }
    }
}
