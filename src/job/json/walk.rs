//! Values of any depth, token by token.

use super::{Container, Cursor, Malformed, Result, Token};

impl<'a> Cursor<'a> {
    /// Passes on the next value token by token. It does not recurse.
    pub(crate) fn walk(&mut self, mut each: impl FnMut(Token<'a>)) -> Result<()> {
        let mut open = Vec::new();
        loop {
            let has_value = self.begin_value(&mut open, &mut each)?;
            if has_value && !self.end_value(&mut open, &mut each)? {
                return Ok(());
            }
        }
    }

    /// Reads a scalar or an empty container, or opens a container. Returns whether the value has
    /// ended.
    #[inline]
    fn begin_value(
        &mut self,
        open: &mut Vec<Container>,
        each: &mut impl FnMut(Token<'a>),
    ) -> Result<bool> {
        match self.next_byte() {
            Some(b'{') => {
                self.at += 1;
                each(Token::Open(Container::Object));
                if let Some(key) = self.next_key(true)? {
                    each(Token::Key(key.content));
                    open.push(Container::Object);
                    return Ok(false);
                }
                each(Token::Close);
            }
            Some(b'[') => {
                self.at += 1;
                each(Token::Open(Container::Array));
                if self.next_byte() != Some(b']') {
                    open.push(Container::Array);
                    return Ok(false);
                }
                self.at += 1;
                each(Token::Close);
            }
            _ => {
                let start = self.at;
                self.next_value()?;
                each(Token::Scalar(self.since(start)?));
            }
        }
        Ok(true)
    }

    /// After a value, moves to the next one of the innermost container, and closes the containers
    /// that end. Returns whether there is a next value.
    #[inline]
    fn end_value(
        &mut self,
        open: &mut Vec<Container>,
        each: &mut impl FnMut(Token<'a>),
    ) -> Result<bool> {
        while let Some(container) = open.last() {
            let next = match container {
                Container::Object => self.next_key(false)?.map(|key| Some(key.content)),
                Container::Array => self.next_element()?.then_some(None),
            };
            if let Some(key) = next {
                if let Some(key) = key {
                    each(Token::Key(key));
                }
                return Ok(true);
            }
            open.pop();
            each(Token::Close);
        }
        Ok(false)
    }

    /// Moves to the next element of an array, or leaves the array. Returns whether there is one.
    #[inline]
    fn next_element(&mut self) -> Result<bool> {
        let has_next = match self.next_byte() {
            Some(b',') => true,
            Some(b']') => false,
            _ => return Err(Malformed),
        };
        self.at += 1;
        Ok(has_next)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde::de::IgnoredAny;

    use super::*;

    fn tokens(text: &str) -> Result<Vec<Token<'_>>> {
        let mut tokens = Vec::new();
        let mut cursor = Cursor::new(text);
        cursor.walk(|token| tokens.push(token))?;
        cursor.end()?;
        Ok(tokens)
    }

    #[test]
    fn a_document_is_read_token_by_token() {
        use Token::{Close, Key, Open, Scalar};
        let (object, array) = (Open(Container::Object), Open(Container::Array));
        let cases: [(&str, &[Token<'_>]); 6] = [
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
            assert_eq!(tokens(text).unwrap(), expected, "{text}");
        }
    }

    /// Returns whether `serde_json` accepts the text. Into `IgnoredAny` it checks the grammar
    /// alone.
    fn is_json(text: &str) -> bool {
        serde_json::from_str::<IgnoredAny>(text).is_ok()
    }

    #[test]
    fn accepts_what_serde_json_accepts_in_a_table_of_cases() {
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
                assert_eq!(tokens(&text).is_ok(), is_json(&text), "{text:?}");
                valid += usize::from(is_json(&text));
            }
        }
        assert!(valid > 100, "{valid}");
    }

    #[test]
    fn any_depth_of_nesting_is_read() {
        let deep = "[{\"a\":".repeat(100_000) + "1" + &"}]".repeat(100_000);
        assert_eq!(tokens(&deep).unwrap().len(), 500_001);
        assert!(tokens(&deep[..deep.len() - 1]).is_err());
    }

    proptest! {
        #[test]
        fn accepts_what_serde_json_accepts(
            text in "[\\[\\]{}:,\"\\\\a-fu0-9.eE+\\- \\x00-\\x20nultrfsé🏦]{0,24}",
        ) {
            prop_assert_eq!(tokens(&text).is_ok(), is_json(&text), "{:?}", text);
        }

        /// Strings are scanned eight bytes at a time, so each length and position is tried.
        #[test]
        fn each_byte_of_a_string_is_checked(
            before in 0..20_usize, after in 0..20_usize, character: char,
        ) {
            let text = format!("\"{}{character}{}\"", "é".repeat(before), "a".repeat(after));
            prop_assert_eq!(tokens(&text).is_ok(), is_json(&text), "{:?}", text);
            if let Ok(tokens) = tokens(&text) {
                prop_assert_eq!(tokens, [Token::Scalar(text.as_str())]);
            }
        }

        #[test]
        fn accepts_what_serde_json_accepts_of_a_changed_webhook(
            at in 0..452_usize, byte in "[\\[\\]{}:,\"\\\\a0.e \\-]",
        ) {
            let mut text = include_str!("../../../tests/fixtures/completed.json").to_owned();
            prop_assert!(tokens(&text).is_ok());
            text.replace_range(at..=at, &byte);
            prop_assert_eq!(tokens(&text).is_ok(), is_json(&text), "{}", text);
        }
    }
}
