//! The text of a name, which ledgers store.

use std::fmt;
use std::str::FromStr;

use super::{EventName, is_plausible};
use crate::job::{Job, Status};
use crate::ledger::version::Version;

/// Writes the guid, the status and the version, as described [above](#as-text).
impl fmt::Display for EventName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} {} {}",
            self.guid,
            StatusText(&self.status),
            self.version
        )
    }
}

/// Returns the status as a name has it.
#[cfg(feature = "postgres")]
pub(crate) fn status_text(status: &Status) -> String {
    StatusText(status).to_string()
}

struct StatusText<'a>(&'a Status);

impl fmt::Display for StatusText<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self.0.name(), self.0.code()) {
            (Some(name), _) => write_name(name, f),
            (None, Some(code)) => write!(f, "#{code}"),
            (None, None) => Ok(()),
        }
    }
}

/// Writes the name of a status with escapes, so that it contains neither a space nor a `#`.
fn write_name(name: &str, f: &mut fmt::Formatter<'_>) -> fmt::Result {
    let is_plain = |byte: u8| matches!(byte, b'A'..=b'Z' | b'0'..=b'9' | b'_' | b'-');
    if name.bytes().all(is_plain) {
        return f.write_str(name);
    }
    for byte in name.bytes() {
        if is_plain(byte) {
            write!(f, "{}", char::from(byte))?;
        } else {
            write!(f, "%{byte:02X}")?;
        }
    }
    Ok(())
}

/// Reads the text that `Display` writes, for example one that the application has stored.
impl FromStr for EventName {
    type Err = ParseEventNameError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        // Only what would be written the same is a name.
        let name = read(text).filter(|name| name.to_string() == text);
        name.ok_or(ParseEventNameError(()))
    }
}

fn read(text: &str) -> Option<EventName> {
    let (rest, version) = text.rsplit_once(' ')?;
    let (guid, status) = rest.rsplit_once(' ')?;
    let version = match version.strip_prefix('#') {
        Some(digest) => Version::Digest(u128::from_str_radix(digest, 16).ok()?.to_be_bytes()),
        None => {
            // The decoder reads numbers exactly.
            let is_number = |digit| matches!(digit, '0'..='9' | '-' | '.');
            version.chars().all(is_number).then_some(())?;
            let job = format!(r#"{{"job":{{"guid":"x","status":6,"updated_at":{version}}}}}"#);
            Version::UpdatedAt(Job::decode(job.as_bytes()).ok()?.updated_at?)
        }
    };
    let is_plausible = match version {
        Version::UpdatedAt(updated_at) => is_plausible(updated_at),
        Version::Digest(_) => false,
    };
    Some(EventName {
        guid: guid.parse().ok()?,
        status: read_status(status)?,
        version,
        is_plausible,
    })
}

/// Reads the status of a name.
pub(crate) fn read_status(text: &str) -> Option<Status> {
    if let Some(code) = text.strip_prefix('#') {
        return Some(Status::from(code.parse::<i64>().ok()?));
    }
    let mut parts = text.split('%');
    let mut name = parts.next()?.as_bytes().to_vec();
    for part in parts {
        let (byte, rest) = part.split_at_checked(2)?;
        name.push(u8::from_str_radix(byte, 16).ok()?);
        name.extend(rest.as_bytes());
    }
    Some(Status::from(std::str::from_utf8(&name).ok()?))
}

/// The error of a text that is not the name of an event.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ParseEventNameError(());

impl fmt::Display for ParseEventNameError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("not the name of an event")
    }
}

impl std::error::Error for ParseEventNameError {}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event::JobEvent;
    use crate::job::{Job, Status, Timestamp};

    /// Returns the text of the name of the event with this body.
    fn text_of(body: &str) -> String {
        let name = EventName::of(&JobEvent::decode(body.to_owned()).unwrap());
        let text = name.to_string();
        let read: EventName = text.parse().unwrap();
        assert_eq!(read, name, "it is read again");
        assert_eq!(read.ordering_time(), name.ordering_time());
        text
    }

    #[test]
    fn what_is_no_text_of_a_name_is_not_read() {
        for text in [
            "",
            " ",
            "JOB-1",
            "JOB-1 COMPLETED",
            "JOB-1 COMPLETED ",
            " COMPLETED 1",
            "JOB-1 completed 1",
            "JOB-1 COMPLETED 1.0",
            "JOB-1 COMPLETED 01",
            "JOB-1 COMPLETED 1e3",
            "JOB-1 COMPLETED #1",
            "JOB-1 COMPLETED -0",
            "JOB-1 #6 1",
            "JOB-1 #x 1",
            "JOB-1 %4 1",
            "JOB-1 %41 1",
            "JOB-1 %ff 1",
            "JOB-1 %FF 1",
            "JOB-1 %ä 1",
            "JOB-1 COMPLETED 1,\"a\":2",
            "JOB-1 COMPLETED +1",
        ] {
            let read = text.parse::<EventName>();
            let error = read.unwrap_err().to_string();
            assert_eq!(error, "not the name of an event", "{text}");
        }
    }

    /// Ledgers store these texts, which must never change.
    #[test]
    fn texts_of_names_never_change() {
        let texts = [
            (
                r#""status_name":"CHALLENGED","updated_at":1471281212"#,
                "CHALLENGED 1471281212",
            ),
            (
                r#""status":2,"updated_at":1471281212.100"#,
                "CHALLENGED 1471281212.1",
            ),
            (
                r#""status":6,"updated_at":"2022-06-16T18:42:43.000000009Z""#,
                "COMPLETED 1655404963.000000009",
            ),
            (r#""status":6,"updated_at":0"#, "COMPLETED 0"),
            (r#""status":6,"updated_at":-1"#, "COMPLETED -1"),
            (r#""status":6,"updated_at":-0.5"#, "COMPLETED -0.5"),
            (
                r#""status":6,"updated_at":"1969-12-31T23:59:58.500Z""#,
                "COMPLETED -1.5",
            ),
            (
                r#""status":6,"updated_at":9223372036854775807"#,
                "COMPLETED 9223372036854775807",
            ),
            (
                r#""status":6,"updated_at":-9223372036854775808"#,
                "COMPLETED -9223372036854775808",
            ),
            (r#""status":42,"updated_at":1"#, "#42 1"),
            (r#""status":-7,"updated_at":1"#, "#-7 1"),
            (r#""status_name":"42","updated_at":1"#, "42 1"),
            (r##""status_name":"#42","updated_at":1"##, "%2342 1"),
            (r#""status_name":"auth-2_b","updated_at":1"#, "AUTH-2_B 1"),
            (
                r#""status_name":"in flight 2","updated_at":1"#,
                "IN%20FLIGHT%202 1",
            ),
            (r#""status_name":"100% ","updated_at":1"#, "100%25 1"),
            (
                r#""status_name":"a\u0000b\nc","updated_at":1"#,
                "A%00B%0AC 1",
            ),
            (r#""status_name":"é","updated_at":1"#, "%C3%A9 1"),
            (r#""status_name":"É","updated_at":1"#, "%C3%89 1"),
            (
                r#""status_name":"ß🏦\u0378","updated_at":1"#,
                "%C3%9F%F0%9F%8F%A6%CD%B8 1",
            ),
        ];
        for (fields, text) in texts {
            let body = format!(r#"{{"job":{{"guid":"JOB-1",{fields}}}}}"#);
            assert_eq!(text_of(&body), format!("JOB-1 {text}"));
        }
        let digests = [
            (
                r#"{"job":{"guid":"JOB-1","status_name":"CHALLENGED","updated_at":"1471281212"}}"#,
                "JOB-1 CHALLENGED #92a907a514054313127bbc9e01f3be9f",
            ),
            (
                r#"{"job": {"updated_at": null, "status": 2, "guid": "JOB-\u00e9", "new": [1.0, "é🏦"]}}"#,
                "JOB-é CHALLENGED #f854a92ba19f54905a4329799e520c79",
            ),
        ];
        for (body, text) in digests {
            assert_eq!(text_of(body), text);
        }
        let job = Job::new("JOB-1".parse().unwrap(), Status::Challenged);
        assert_eq!(
            EventName::of(&job.into()).to_string(),
            "JOB-1 CHALLENGED #d43cf7b9bedb5677baa1495178f0b270"
        );
    }

    #[test]
    fn different_names_have_different_texts() {
        let text = |guid: &str, status: Status| {
            let mut job = Job::new(guid.parse().unwrap(), status);
            job.updated_at = Some(Timestamp::from_unix_seconds(1));
            let name = EventName::of(&job.into());
            let text = name.to_string();
            assert_eq!(text.parse(), Ok(name));
            text
        };
        let texts = [
            text("a b", "c".into()),
            text("a", "b c".into()),
            text("a", "\"b c\"".into()),
            text("a", "b%20c".into()),
            text("a", "42".into()),
            text("a", 42.into()),
            text("a", "#42".into()),
            text("a", "".into()),
            text("a ", "".into()),
            text("a #42", "".into()),
        ];
        for (index, text) in texts.iter().enumerate() {
            assert!(!texts[..index].contains(text), "{text}");
        }
    }
}
