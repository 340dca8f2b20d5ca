//! The place in a list where the next page begins.

use std::fmt;
use std::str::FromStr;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;

/// The latest time of a letter, in microseconds of Unix time. The server computes with floats.
pub(crate) const MAX_MICROS: i64 = (1 << 53) - 1;

/// The maximum length of a letter's name. See `key.rs`.
const MAX_NAME: usize = 512;

/// The place in a list of letters where the next page begins.
///
/// `Display` writes it with the characters of a URL, and `FromStr` reads that, so that a link can
/// carry it. It contains the name of the last letter of a page, and the time of its failure.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct LetterCursor {
    micros: i64,
    name: String,
}

impl LetterCursor {
    /// Returns the place after this letter, which failed this many microseconds after the epoch.
    pub(crate) fn new(micros: i64, name: &str) -> Self {
        Self {
            micros: micros.clamp(0, MAX_MICROS),
            name: name.to_owned(),
        }
    }

    pub(crate) fn micros(&self) -> i64 {
        self.micros
    }

    pub(crate) fn name(&self) -> &str {
        &self.name
    }
}

impl fmt::Display for LetterCursor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = URL_SAFE_NO_PAD.encode(&self.name);
        write!(f, "{}.{name}", self.micros)
    }
}

/// Shows the text of the cursor.
impl fmt::Debug for LetterCursor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "LetterCursor({self})")
    }
}

impl FromStr for LetterCursor {
    type Err = ParseLetterCursorError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        // Only what would be written the same is a cursor.
        let cursor = read(text).filter(|cursor| cursor.to_string() == text);
        cursor.ok_or(ParseLetterCursorError(()))
    }
}

fn read(text: &str) -> Option<LetterCursor> {
    let (micros, name) = text.split_once('.')?;
    // The name is a third longer in this form.
    if name.len() > 2 * MAX_NAME {
        return None;
    }
    let name = String::from_utf8(URL_SAFE_NO_PAD.decode(name).ok()?).ok()?;
    let is_name = !name.is_empty() && name.len() <= MAX_NAME && !name.contains('\0');
    let micros: i64 = micros.parse().ok()?;
    let is_time = (0..=MAX_MICROS).contains(&micros);
    (is_name && is_time).then_some(LetterCursor { micros, name })
}

/// The error of a text that is not a [`LetterCursor`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ParseLetterCursorError(());

impl fmt::Display for ParseLetterCursorError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("not a place in a list of dead letters")
    }
}

impl std::error::Error for ParseLetterCursorError {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cursor_reads_back_from_its_text() {
        let longest = "x".repeat(MAX_NAME);
        for name in [
            "JOB-1 COMPLETED 1",
            "é 🏦 <\"&'> #1",
            "\u{202e}",
            "x",
            &longest,
        ] {
            for micros in [0, 1_471_281_212_123_456, MAX_MICROS] {
                let cursor = LetterCursor::new(micros, name);
                let text = cursor.to_string();
                assert!(format!("{cursor:?}").contains(&text));
                assert_eq!(text.parse(), Ok(cursor));
                let is_plain =
                    |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.');
                assert!(text.bytes().all(is_plain), "{text}");
            }
        }
        assert_eq!(LetterCursor::new(-1, "x").micros(), 0);
        assert_eq!(LetterCursor::new(i64::MAX, "x").micros(), MAX_MICROS);
    }

    #[test]
    fn a_hostile_text_is_an_error() {
        let long = format!("1.{}", URL_SAFE_NO_PAD.encode("x".repeat(MAX_NAME + 1)));
        let huge = format!("1.{}", "A".repeat(1 << 20));
        let nul = format!("1.{}", URL_SAFE_NO_PAD.encode("a\0b"));
        let latin1 = format!("1.{}", URL_SAFE_NO_PAD.encode(b"\xff"));
        let late = format!("{}.eA", MAX_MICROS + 1);
        for text in [
            "",
            ".",
            "1",
            "1.",
            ".eA",
            "1.eA==",
            "1.eB",
            "01.eA",
            "+1.eA",
            "-1.eA",
            " 1.eA",
            "1.eA ",
            "1.e A",
            "1.eA.eA",
            "1e3.eA",
            "9223372036854775807.eA",
            "99999999999999999999999.eA",
            "1.é",
            "\0",
            &long,
            &huge,
            &nul,
            &latin1,
            &late,
        ] {
            assert!(text.parse::<LetterCursor>().is_err(), "{text:.60?}");
        }
        assert!("1.eA".parse::<LetterCursor>().is_ok());
        assert!(!ParseLetterCursorError(()).to_string().is_empty());
    }
}
