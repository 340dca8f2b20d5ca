//! Reads JSON text by its grammar alone.
//!
//! Strings keep their escapes and numbers their digits. So every value of the grammar can be read,
//! and unknown values are skipped at any depth of nesting.
//!
//! `serde_json` does not offer this: it accepts only strings that are valid text, and some of its
//! features, which an application may enable for every crate, change how numbers and objects reach
//! a visitor. The tests compare this grammar with that of `serde_json`.

mod cursor;
mod scan;
mod walk;

use std::borrow::Cow;

pub(crate) use cursor::Cursor;

/// The text is not JSON.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Malformed;

type Result<T> = std::result::Result<T, Malformed>;

/// A string as it is written: the text between the quotes, with its escapes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct RawString<'a> {
    content: &'a str,
    has_escapes: bool,
}

impl<'a> RawString<'a> {
    /// Returns the text without escapes. It is borrowed if there are none.
    ///
    /// Returns `None` if an escape is half a surrogate pair, which is no character.
    #[inline]
    pub(crate) fn text(self) -> Option<Cow<'a, str>> {
        if self.has_escapes {
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

/// The value of an object's entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Value<'a> {
    Null,
    Bool(bool),
    /// A number that is written as at most 18 digits and nothing else.
    Integer(i64),
    /// Any other number, as it is written.
    Number(&'a str),
    String(RawString<'a>),
    /// An array or an object.
    Nested,
}

/// A part of a value, as [`Cursor::walk`] passes it on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Token<'a> {
    Open(Container),
    /// The end of the innermost open container.
    Close,
    /// The key of an object's entry, without its quotes. The value follows.
    Key(&'a str),
    /// A string with its quotes, a number, `null`, `true` or `false`.
    Scalar(&'a str),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Container {
    Object,
    Array,
}
