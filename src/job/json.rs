//! Reads JSON text: its grammar, and no more than that.
//!
//! A string keeps its escapes here and a number its digits, so no value is refused that the grammar
//! has, and an unknown one is skipped however deep it is. `serde_json` cannot be asked for that:
//! numbers and objects reach its visitors in another way with some of its features, which an
//! application may turn on for every crate, and its strings have to be text. The tests hold this
//! grammar against its own.

use std::borrow::Cow;

/// A place in the text.
pub(crate) struct Cursor<'a> {
    text: &'a str,
    at: usize,
}

/// The text is no JSON.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Malformed;

type Read<T> = Result<T, Malformed>;

/// What stands between the quotes of a string.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Quoted<'a> {
    content: &'a str,
    escapes: bool,
}

impl<'a> Quoted<'a> {
    /// The text that it stands for: borrowed, unless it has escapes. Nothing, if one of them is half
    /// a surrogate pair, which is no character.
    #[inline]
    pub(crate) fn text(self) -> Option<Cow<'a, str>> {
        if self.escapes {
            self.unescaped().map(Cow::Owned)
        } else {
            Some(Cow::Borrowed(self.content))
        }
    }

    #[cold]
    fn unescaped(self) -> Option<String> {
        serde_json::from_str(&format!("\"{}\"", self.content)).ok()
    }
}

/// What stands behind a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Value<'a> {
    Null,
    Bool(bool),
    /// A number of a few digits and nothing else.
    Integer(i64),
    Number(&'a str),
    String(Quoted<'a>),
    /// An array, or an object.
    Nested,
}

/// What a value is made of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Piece<'a> {
    Open(Kind),
    /// The end of what was opened last.
    Close,
    /// In an object, in front of a value; without its quotes.
    Key(&'a str),
    /// A string with its quotes, a number, or one of the three words.
    Scalar(&'a str),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Object,
    Array,
}

impl<'a> Cursor<'a> {
    pub(crate) fn new(text: &'a str) -> Self {
        Self { text, at: 0 }
    }

    /// Goes into the object that comes next, if it is one.
    #[inline]
    pub(crate) fn enter_object(&mut self) -> bool {
        let is_object = self.next_byte() == Some(b'{');
        self.at += usize::from(is_object);
        is_object
    }

    /// Goes to the value of the next key, or out of the object that was entered.
    #[inline]
    pub(crate) fn next_key(&mut self, first: bool) -> Read<Option<Quoted<'a>>> {
        match (self.next_byte(), first) {
            (Some(b'}'), _) => {
                self.at += 1;
                return Ok(None);
            }
            (Some(b','), false) => self.at += 1,
            (Some(_), true) => {}
            _ => return Err(Malformed),
        }
        if self.next_byte() != Some(b'"') {
            return Err(Malformed);
        }
        let key = self.string()?;
        if self.next_byte() != Some(b':') {
            return Err(Malformed);
        }
        self.at += 1;
        Ok(Some(key))
    }

    /// Reads the next value, of which a nested one is skipped.
    #[inline]
    pub(crate) fn next_value(&mut self) -> Read<Value<'a>> {
        match self.next_byte() {
            Some(b'"') => self.string().map(Value::String),
            Some(b'-' | b'0'..=b'9') => self.number(),
            Some(b'n') => self.word("null").map(|_| Value::Null),
            Some(b't') => self.word("true").map(|_| Value::Bool(true)),
            Some(b'f') => self.word("false").map(|_| Value::Bool(false)),
            Some(b'{' | b'[') => self.walk(|_| ()).map(|()| Value::Nested),
            _ => Err(Malformed),
        }
    }

    /// Goes through the next value piece by piece, without recursion.
    pub(crate) fn walk(&mut self, mut each: impl FnMut(Piece<'a>)) -> Read<()> {
        let mut open = Vec::new();
        'value: loop {
            match self.next_byte() {
                Some(b'{') => {
                    self.at += 1;
                    each(Piece::Open(Kind::Object));
                    if let Some(key) = self.next_key(true)? {
                        each(Piece::Key(key.content));
                        open.push(Kind::Object);
                        continue 'value;
                    }
                    each(Piece::Close);
                }
                Some(b'[') => {
                    self.at += 1;
                    each(Piece::Open(Kind::Array));
                    if self.next_byte() != Some(b']') {
                        open.push(Kind::Array);
                        continue 'value;
                    }
                    self.at += 1;
                    each(Piece::Close);
                }
                _ => {
                    let start = self.at;
                    self.next_value()?;
                    each(Piece::Scalar(self.since(start)?));
                }
            }
            // A value has ended: on to the next of what it stands in, or out of that.
            while let Some(kind) = open.last() {
                match kind {
                    Kind::Object => {
                        if let Some(key) = self.next_key(false)? {
                            each(Piece::Key(key.content));
                            continue 'value;
                        }
                    }
                    Kind::Array => match self.next_byte() {
                        Some(b',') => {
                            self.at += 1;
                            continue 'value;
                        }
                        Some(b']') => self.at += 1,
                        _ => return Err(Malformed),
                    },
                }
                open.pop();
                each(Piece::Close);
            }
            return Ok(());
        }
    }

    /// Checks that nothing but white space is left.
    #[inline]
    pub(crate) fn end(&mut self) -> Read<()> {
        match self.next_byte() {
            None => Ok(()),
            Some(_) => Err(Malformed),
        }
    }

    /// The byte at this place, once white space is skipped.
    #[inline]
    fn next_byte(&mut self) -> Option<u8> {
        loop {
            match self.byte() {
                Some(byte) if byte > b' ' => return Some(byte),
                Some(b' ' | b'\n' | b'\t' | b'\r') => self.at += 1,
                byte => return byte,
            }
        }
    }

    #[inline]
    fn byte(&self) -> Option<u8> {
        self.text.as_bytes().get(self.at).copied()
    }

    /// Never malformed: no piece begins or ends within a character.
    #[inline]
    fn since(&self, start: usize) -> Read<&'a str> {
        self.text.get(start..self.at).ok_or(Malformed)
    }

    /// The string whose opening quote is at this place.
    #[inline]
    fn string(&mut self) -> Read<Quoted<'a>> {
        let start = self.at + 1;
        self.at = self.end_of_plain(start);
        let mut escapes = false;
        while self.byte() != Some(b'"') {
            // If it is no escape, it is a control character, or the end of the text.
            escapes = true;
            let end = self.end_of_escape()?;
            self.at = self.end_of_plain(end);
        }
        let content = self.since(start)?;
        self.at += 1;
        Ok(Quoted { content, escapes })
    }

    /// The next place with a byte that is not simply part of a string: a quote, a backslash or a
    /// control character. It goes by eight bytes at a time.
    #[inline]
    fn end_of_plain(&self, mut at: usize) -> usize {
        const ONES: u64 = u64::from_ne_bytes([0x01; 8]);
        const HIGH: u64 = u64::from_ne_bytes([0x80; 8]);
        let bytes = self.text.as_bytes();
        while let Some(eight) = bytes.get(at..at + 8) {
            let eight = eight.first_chunk().map_or(0, |it| u64::from_le_bytes(*it));
            // Where a byte is zero, its high bit is set in the difference and not in the byte; so
            // it may be in those after it, of which none is looked at.
            let zeros = |word: u64| word.wrapping_sub(ONES) & !word;
            let quotes = zeros(eight ^ ONES.wrapping_mul(b'"'.into()));
            let backslashes = zeros(eight ^ ONES.wrapping_mul(b'\\'.into()));
            let controls = eight.wrapping_sub(ONES.wrapping_mul(0x20)) & !eight;
            let found = (quotes | backslashes | controls) & HIGH;
            if found != 0 {
                return at + found.trailing_zeros() as usize / 8;
            }
            at += 8;
        }
        while matches!(bytes.get(at), Some(byte) if *byte >= 0x20 && !matches!(byte, b'"' | b'\\'))
        {
            at += 1;
        }
        at
    }

    /// The end of the escape whose backslash is at this place.
    fn end_of_escape(&self) -> Read<usize> {
        match self.text.as_bytes().get(self.at..).unwrap_or_default() {
            [
                b'\\',
                b'"' | b'\\' | b'/' | b'b' | b'f' | b'n' | b'r' | b't',
                ..,
            ] => Ok(self.at + 2),
            [b'\\', b'u', a, b, c, d, ..]
                if [a, b, c, d].iter().all(|digit| digit.is_ascii_hexdigit()) =>
            {
                Ok(self.at + 6)
            }
            _ => Err(Malformed),
        }
    }

    /// Nearly every number is a few digits, which are read as they are checked.
    #[inline]
    fn number(&mut self) -> Read<Value<'a>> {
        /// Of every 64-bit integer that has as many.
        const DIGITS: usize = 18;
        let bytes = self.text.as_bytes();
        let (mut at, mut integer) = (self.at, 0_i64);
        while let Some(digit @ b'0'..=b'9') = bytes.get(at) {
            integer = integer
                .wrapping_mul(10)
                .wrapping_add(i64::from(digit - b'0'));
            at += 1;
        }
        let length = at - self.at;
        let plain = !matches!(bytes.get(at), Some(b'.' | b'e' | b'E'));
        let leading_zero = length > 1 && self.byte() == Some(b'0');
        if plain && (1..=DIGITS).contains(&length) && !leading_zero {
            self.at = at;
            return Ok(Value::Integer(integer));
        }
        self.any_number().map(Value::Number)
    }

    fn any_number(&mut self) -> Read<&'a str> {
        let start = self.at;
        self.at += usize::from(self.byte() == Some(b'-'));
        match self.byte() {
            // No digit follows a zero at the beginning.
            Some(b'0') => self.at += 1,
            _ => self.digits()?,
        }
        if self.byte() == Some(b'.') {
            self.at += 1;
            self.digits()?;
        }
        if matches!(self.byte(), Some(b'e' | b'E')) {
            self.at += 1;
            self.at += usize::from(matches!(self.byte(), Some(b'+' | b'-')));
            self.digits()?;
        }
        self.since(start)
    }

    /// One digit or more.
    fn digits(&mut self) -> Read<()> {
        let start = self.at;
        while matches!(self.byte(), Some(b'0'..=b'9')) {
            self.at += 1;
        }
        if self.at == start {
            return Err(Malformed);
        }
        Ok(())
    }

    #[inline]
    fn word(&mut self, word: &str) -> Read<()> {
        let rest = self.text.as_bytes().get(self.at..).unwrap_or_default();
        if !rest.starts_with(word.as_bytes()) {
            return Err(Malformed);
        }
        self.at += word.len();
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde::de::IgnoredAny;

    use super::*;

    fn pieces(text: &str) -> Read<Vec<Piece<'_>>> {
        let mut pieces = Vec::new();
        let mut cursor = Cursor::new(text);
        cursor.walk(|piece| pieces.push(piece))?;
        cursor.end()?;
        Ok(pieces)
    }

    #[test]
    fn a_text_is_taken_apart_into_what_it_is_made_of() {
        use Piece::{Close, Key, Open, Scalar};
        let (object, array) = (Open(Kind::Object), Open(Kind::Array));
        let cases: [(&str, &[Piece<'_>]); 6] = [
            (" null\n", &[Scalar("null")]),
            (r#""a\"}\\""#, &[Scalar(r#""a\"}\\""#)]),
            ("[]", &[array, Close]),
            ("[1.5e3,-0]", &[array, Scalar("1.5e3"), Scalar("-0"), Close]),
            (
                "{\"a\" :\ttrue,\r\n\"é\":{}}",
                &[
                    object,
                    Key("a"),
                    Scalar("true"),
                    Key("é"),
                    object,
                    Close,
                    Close,
                ],
            ),
            ("[[\"]\"]]", &[array, array, Scalar("\"]\""), Close, Close]),
        ];
        for (text, expected) in cases {
            assert_eq!(pieces(text).unwrap(), expected, "{text}");
        }
    }

    #[test]
    fn an_object_is_read_entry_by_entry() {
        let mut json = Cursor::new(r#" {"a":[1,{"b":"}"}],"c" : {} ,"d":"e\u0066"} ,"f":1"#);
        assert!(json.enter_object());
        for (first, key, value) in [
            (true, "a", Value::Nested),
            (false, "c", Value::Nested),
            (
                false,
                "d",
                Value::String(Quoted {
                    content: r"e\u0066",
                    escapes: true,
                }),
            ),
        ] {
            let found = json.next_key(first).unwrap().unwrap();
            assert_eq!(found.text().unwrap(), key);
            assert_eq!(json.next_value().unwrap(), value);
        }
        assert_eq!(json.next_key(false), Ok(None));
        assert!(!json.enter_object());
        assert_eq!(json.end(), Err(Malformed));
    }

    /// Whether `serde_json` takes it for JSON; it checks no more than the grammar here.
    fn is_json(text: &str) -> bool {
        serde_json::from_str::<IgnoredAny>(text).is_ok()
    }

    #[test]
    fn the_grammar_is_that_of_serde_json_around_each_of_its_corners() {
        let scalars = [
            "0",
            "-0",
            "00",
            "01",
            "-",
            "-1",
            "+1",
            "1.",
            "1.0",
            ".1",
            "1e",
            "1e5",
            "1E+5",
            "1e-",
            "1e+05",
            "1.5e3.2",
            "0x1",
            "1_0",
            "null",
            "nul",
            "nullx",
            "true",
            "True",
            "false",
            "NaN",
            "Infinity",
            "\"\"",
            "\"",
            "\"a",
            "\"\\\"",
            "\"\\\\\"",
            "\"\\u12\"",
            "\"\\u12g4\"",
            "\"\\ud83d\"",
            "\"\\uDFFF\\uD800\"",
            "\"\\x\"",
            "\"\\U0000\"",
            "\"\t\"",
            "\"\u{1f}\"",
            "\"\u{7f}\"",
            "\"\u{80}é🏦\"",
            "'a'",
            "/**/",
            "",
            " ",
            "\u{b}",
            "\u{a0}",
        ];
        let around = [
            ("", ""),
            (" ", "\n\t\r "),
            ("[", "]"),
            ("[1,", "]"),
            ("[", ",]"),
            ("[", ",1]"),
            ("{\"a\":", "}"),
            ("{", ":1}"),
            ("{\"a\":1,", ":1}"),
            ("{\"a\":", ",}"),
            ("{\"a\"", "}"),
            ("[[{\"a\":[", "]}]]"),
            ("[", "}"),
            ("{\"a\":", "]"),
            ("[", ""),
            ("", "]"),
            ("", " 1"),
            ("\u{feff}", ""),
            ("{\"a\":[", ",{}],\"b\":{}}"),
            ("{\"a\":{\"b\":", "},\"c\":[]}"),
        ];
        let mut valid = 0;
        for scalar in scalars {
            for (before, after) in around {
                let text = format!("{before}{scalar}{after}");
                assert_eq!(pieces(&text).is_ok(), is_json(&text), "{text:?}");
                valid += usize::from(is_json(&text));
            }
        }
        assert!(valid > 100, "{valid}");
    }

    #[test]
    fn no_depth_is_too_deep() {
        let deep = "[{\"a\":".repeat(100_000) + "1" + &"}]".repeat(100_000);
        assert_eq!(pieces(&deep).unwrap().len(), 500_001);
        assert!(pieces(&deep[..deep.len() - 1]).is_err());
    }

    proptest! {
        #[test]
        fn the_grammar_is_that_of_serde_json(
            text in "[\\[\\]{}:,\"\\\\a-fu0-9.eE+\\- \\x00-\\x20nultrfsé🏦]{0,24}",
        ) {
            prop_assert_eq!(pieces(&text).is_ok(), is_json(&text), "{:?}", text);
        }

        /// A string of any length, with one strange byte at any place: it is scanned by eights.
        #[test]
        fn no_byte_of_a_string_is_overlooked(
            before in 0..20_usize, after in 0..20_usize, strange: char,
        ) {
            let text = format!("\"{}{strange}{}\"", "é".repeat(before), "a".repeat(after));
            prop_assert_eq!(pieces(&text).is_ok(), is_json(&text), "{:?}", text);
            if let Ok(pieces) = pieces(&text) {
                prop_assert_eq!(pieces, [Piece::Scalar(text.as_str())]);
            }
        }

        #[test]
        fn json_that_was_cut_or_changed_is_json_or_not(
            at in 0..452_usize, byte in "[\\[\\]{}:,\"\\\\a0.e \\-]",
        ) {
            let mut text = include_str!("../../tests/fixtures/completed.json").to_owned();
            prop_assert!(pieces(&text).is_ok());
            text.replace_range(at..=at, &byte);
            prop_assert_eq!(pieces(&text).is_ok(), is_json(&text), "{}", text);
        }
    }
}
