//! A digest of a JSON text that does not depend on its layout.
//!
//! White space between values and the order of an object's entries are ignored. Every other
//! difference changes the digest, including how a number or a character is written.
//!
//! Ledgers store the names of events, so the digest of a text must never change. It is a 128-bit
//! FNV-1a hash:
//!
//! - A scalar is hashed as `s` and its text. The text of a string includes the quotes.
//! - An array is hashed as `a` and the digests of its values, each as sixteen bytes in big-endian
//!   order.
//! - An object is hashed as `o` and, for each entry, the hash of the key's text without the quotes
//!   and the digest of the value. The entries are sorted by the bytes of their keys. Entries with
//!   the same key keep their order.
//!
//! The digest distinguishes the events of one job. It need not be cryptographic: a sender who can
//! make two bodies collide has the credentials, and gains no more than by leaving out the second
//! body.

use crate::job::json::{Container, Cursor, Token};

/// Returns the 128-bit FNV-1a hash.
pub(crate) fn fnv1a(bytes: &[u8]) -> u128 {
    Fnv::default().with(bytes).0
}

/// Returns the digest of a body.
///
/// An event's body is always JSON. The result for other bodies is unspecified.
pub(super) fn of(body: &[u8]) -> u128 {
    let text = std::str::from_utf8(body).unwrap_or_default();
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    let mut digester = Digester::default();
    match Cursor::new(text).walk(|token| digester.push(token)) {
        Ok(()) => digester.root,
        Err(_) => fnv1a(body),
    }
}

#[derive(Clone, Copy)]
struct Fnv(u128);

impl Default for Fnv {
    fn default() -> Self {
        Self(0x6c62_272e_07bb_0142_62b8_2175_6295_c58d)
    }
}

impl Fnv {
    fn with(self, bytes: &[u8]) -> Self {
        const PRIME: u128 = 0x0100_0000_0000_0000_0000_013b;
        let hash = bytes.iter().fold(self.0, |hash, &byte| {
            (hash ^ u128::from(byte)).wrapping_mul(PRIME)
        });
        Self(hash)
    }
}

/// Computes a digest token by token.
///
/// It keeps a stack of its own, because a body can be nested more deeply than the thread's stack
/// allows.
#[derive(Default)]
struct Digester<'a> {
    open: Vec<Open<'a>>,
    /// The entries of all open objects, those of inner objects last.
    entries: Vec<(&'a str, u128)>,
    root: u128,
}

/// An open container, with the hash of an array so far, or the index of an object's first entry.
enum Open<'a> {
    Array(Fnv),
    Object { key: &'a str, first: usize },
}

impl<'a> Digester<'a> {
    fn push(&mut self, token: Token<'a>) {
        match token {
            Token::Open(Container::Array) => self.open.push(Open::Array(Fnv::default().with(b"a"))),
            Token::Open(Container::Object) => self.open.push(Open::Object {
                key: "",
                first: self.entries.len(),
            }),
            Token::Key(name) => {
                if let Some(Open::Object { key, .. }) = self.open.last_mut() {
                    *key = name;
                }
            }
            Token::Scalar(text) => self.add(Fnv::default().with(b"s").with(text.as_bytes()).0),
            Token::Close => match self.open.pop() {
                Some(Open::Array(values)) => self.add(values.0),
                Some(Open::Object { first, .. }) => {
                    let object = self.close_object(first);
                    self.add(object);
                }
                None => {}
            },
        }
    }

    /// Adds a value to the innermost open container.
    fn add(&mut self, value: u128) {
        match self.open.last_mut() {
            Some(Open::Array(values)) => *values = values.with(&value.to_be_bytes()),
            Some(Open::Object { key, .. }) => self.entries.push((key, value)),
            None => self.root = value,
        }
    }

    fn close_object(&mut self, first: usize) -> u128 {
        let entries = self.entries.get_mut(first..).unwrap_or_default();
        entries.sort_by_key(|(key, _)| *key);
        let mut object = Fnv::default().with(b"o");
        for (key, value) in entries {
            let key = fnv1a(key.as_bytes());
            object = object.with(&key.to_be_bytes()).with(&value.to_be_bytes());
        }
        self.entries.truncate(first);
        object.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_hash_matches_published_vectors() {
        assert_eq!(fnv1a(b""), 0x6c62_272e_07bb_0142_62b8_2175_6295_c58d);
        assert_eq!(fnv1a(b"a"), 0xd228_cb69_6f1a_8caf_7891_2b70_4e4a_8964);
        assert_eq!(fnv1a(b"foobar"), 0x343e_1662_793c_64bf_6f0d_3597_ba44_6f18);
    }

    /// Stored names depend on these digests, which must never change. Another program computed them
    /// from the description above.
    #[test]
    fn digests_never_change() {
        let vectors = [
            (r#"null"#, "0622356dd783d94f708178f3ca839dc3"),
            (r#""""#, "a68db5209d8b5822836dbc7999f43e7e"),
            (r#"[]"#, "d228cb696f1a8caf78912b704e4a8964"),
            (r#"{}"#, "d228cb69651a8caf78912b704e4a7d16"),
            (r#"[1,[2,{"a":3}]]"#, "7260df9af8d3447a9e98a0cf193cafd4"),
            (r#"{"b":1,"a":2,"b":3}"#, "4564e37658a0361a52e5ea5db898dbcb"),
            (
                r#"{"job":{"guid":"JOB-1","status_name":"CHALLENGED","updated_at":"1471281212"}}"#,
                "92a907a514054313127bbc9e01f3be9f",
            ),
            (
                r#"{"job": {"updated_at": null, "status": 2, "guid": "JOB-\u00e9", "new": [1.0, "é🏦"]}}"#,
                "f854a92ba19f54905a4329799e520c79",
            ),
            (
                include_str!("../../tests/fixtures/completed.json"),
                "9247fab8a93d44bbffdf0bf929d2e322",
            ),
        ];
        for (text, digest) in vectors {
            assert_eq!(format!("{:032x}", of(text.as_bytes())), digest, "{text}");
        }
    }

    #[test]
    fn layout_and_order_of_entries_are_ignored() {
        let alike = [
            r#"{"job":{"a":[1,"x y",{}],"b":null,"c":{"d":[],"e":1.5e3}},"n":true}"#,
            "\u{feff} { \"n\" :true ,\"job\": {\"c\":{\"e\":1.5e3, \"d\":[\n]},\t\"b\":null,\r\n\
             \"a\":[ 1 , \"x y\" , { } ] } } \n",
        ];
        assert_eq!(of(alike[0].as_bytes()), of(alike[1].as_bytes()));
    }

    #[test]
    fn every_other_difference_changes_the_digest() {
        let different = [
            "0",
            "-0",
            "0.0",
            "\"0\"",
            "null",
            "true",
            "\"\"",
            "\" \"",
            "\"A\"",
            r#""\u0041""#,
            "[]",
            "{}",
            "[[]]",
            "[{}]",
            "[null]",
            "[0,0]",
            "[0,0,0]",
            "[[0],0]",
            "[0,[0]]",
            "[[0,0]]",
            "[1,2]",
            "[2,1]",
            r#"{"a":1}"#,
            r#"{"a":2}"#,
            r#"{"a":"1"}"#,
            r#"{"b":1}"#,
            r#"{"a":{"b":1}}"#,
            r#"{"a":{},"b":1}"#,
            r#"{"a":[],"b":1}"#,
            r#"{"a":1,"b":2}"#,
            r#"{"a":2,"b":1}"#,
            r#"{"a":1,"a":2}"#,
            r#"{"a":2,"a":1}"#,
            r#"{"a":1,"a":1}"#,
            r#"["a",1]"#,
            r#"[["a",1]]"#,
            r#"{"":0}"#,
            r#"{"\u0061":1}"#,
        ];
        for (index, one) in different.iter().enumerate() {
            for other in &different[..index] {
                assert_ne!(of(one.as_bytes()), of(other.as_bytes()), "{one} {other}");
            }
        }
    }

    #[test]
    fn deep_wide_and_malformed_bodies_have_a_digest() {
        let deep = |end: &str| {
            let (open, close) = ("[{\"a\":".repeat(50_000), "}]".repeat(50_000));
            of(format!("{open}{end}{close}").as_bytes())
        };
        assert_ne!(deep("1"), deep("2"));
        let wide = |end: &str| {
            let entries: String = (0..50_000).map(|n| format!("\"{}\":0,", n % 100)).collect();
            of(format!("{{{entries}\"z\":{end}}}").as_bytes())
        };
        assert_ne!(wide("1"), wide("2"));
        for text in [
            &b""[..],
            b"\xff",
            b"{",
            b"]",
            b"{\"a\"",
            b"[1,]",
            b"{\"a\":}}",
        ] {
            of(text);
        }
    }
}
