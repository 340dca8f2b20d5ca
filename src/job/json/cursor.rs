//! Objects entry by entry, and their values.

use super::{Malformed, RawString, Result, Value};

/// A position in JSON text.
pub(crate) struct Cursor<'a> {
    pub(super) text: &'a str,
    pub(super) at: usize,
}

impl<'a> Cursor<'a> {
    pub(crate) fn new(text: &'a str) -> Self {
        Self { text, at: 0 }
    }

    /// Enters the object that comes next. Returns whether there is one.
    #[inline]
    pub(crate) fn enter_object(&mut self) -> bool {
        let is_object = self.next_byte() == Some(b'{');
        self.at += usize::from(is_object);
        is_object
    }

    /// Moves to the value of the object's next entry, and returns its key. Without another entry,
    /// leaves the object and returns `None`.
    #[inline]
    pub(crate) fn next_key(&mut self, is_first: bool) -> Result<Option<RawString<'a>>> {
        match (self.next_byte(), is_first) {
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

    /// Reads the next value. Skips the content of an array or an object.
    #[inline]
    pub(crate) fn next_value(&mut self) -> Result<Value<'a>> {
        match self.next_byte() {
            Some(b'"') => self.string().map(Value::String),
            Some(b'-' | b'0'..=b'9') => self.number(),
            Some(b'n') => self.word("null").map(|()| Value::Null),
            Some(b't') => self.word("true").map(|()| Value::Bool(true)),
            Some(b'f') => self.word("false").map(|()| Value::Bool(false)),
            Some(b'{' | b'[') => self.walk(|_| ()).map(|()| Value::Nested),
            _ => Err(Malformed),
        }
    }

    /// Checks that only white space is left.
    #[inline]
    pub(crate) fn end(&mut self) -> Result<()> {
        match self.next_byte() {
            None => Ok(()),
            Some(_) => Err(Malformed),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

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
                Value::String(RawString {
                    content: r"e\u0066",
                    has_escapes: true,
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
}
