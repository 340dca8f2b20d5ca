//! The text of a name, which ledgers store.

use std::fmt;

use super::EventName;

/// Writes the guid, the status and the version, as described [above](#as-text).
impl fmt::Display for EventName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ", self.guid)?;
        match (self.status.name(), self.status.code()) {
            (Some(name), _) => write_name(name, f)?,
            (None, Some(code)) => write!(f, "#{code}")?,
            (None, None) => {}
        }
        f.write_str(" ")?;
        write!(f, "{}", self.version)
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event::JobEvent;
    use crate::job::{Job, Status, Timestamp};

    /// Returns the text of the name of the event with this body.
    fn text_of(body: &str) -> String {
        EventName::of(&JobEvent::decode(body.to_owned()).unwrap()).to_string()
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
            EventName::of(&job.into()).to_string()
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
