//! Strings, numbers and words, byte by byte.

use super::{Cursor, Malformed, RawString, Result, Value};

impl<'a> Cursor<'a> {
    /// Skips white space, and returns the byte at the cursor.
    #[inline]
    pub(super) fn next_byte(&mut self) -> Option<u8> {
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

    /// Returns the text between `start` and the cursor.
    ///
    /// It always succeeds, because no token begins or ends within a character.
    #[inline]
    pub(super) fn since(&self, start: usize) -> Result<&'a str> {
        self.text.get(start..self.at).ok_or(Malformed)
    }

    /// Reads the string whose opening quote is at the cursor.
    #[inline]
    pub(super) fn string(&mut self) -> Result<RawString<'a>> {
        let start = self.at + 1;
        self.at = self.end_of_plain(start);
        let mut has_escapes = false;
        while self.byte() != Some(b'"') {
            // Without an escape here, this is a control character, or the end of the text.
            has_escapes = true;
            let end = self.end_of_escape()?;
            self.at = self.end_of_plain(end);
        }
        let content = self.since(start)?;
        self.at += 1;
        Ok(RawString {
            content,
            has_escapes,
        })
    }

    /// Returns the position of the next byte that may not stand for itself in a string: a quote, a
    /// backslash or a control character. Scans eight bytes at a time.
    #[inline]
    fn end_of_plain(&self, mut at: usize) -> usize {
        const ONES: u64 = u64::from_ne_bytes([0x01; 8]);
        const HIGH: u64 = u64::from_ne_bytes([0x80; 8]);
        let bytes = self.text.as_bytes();
        while let Some(eight) = bytes.get(at..at + 8) {
            let eight = eight.first_chunk().map_or(0, |it| u64::from_le_bytes(*it));
            // If a byte is zero, its high bit is set in the difference and clear in the byte. The
            // borrow can set those of later bytes by mistake, but only the first one is used.
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

    /// Returns the position after the escape whose backslash is at the cursor.
    fn end_of_escape(&self) -> Result<usize> {
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

    /// Reads a number. Most numbers are a few digits, which are converted while they are checked.
    #[inline]
    pub(super) fn number(&mut self) -> Result<Value<'a>> {
        /// Any number with at most this many digits fits into 64 bits.
        const MAX_DIGITS: usize = 18;
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
        if plain && (1..=MAX_DIGITS).contains(&length) && !leading_zero {
            self.at = at;
            return Ok(Value::Integer(integer));
        }
        self.any_number().map(Value::Number)
    }

    fn any_number(&mut self) -> Result<&'a str> {
        let start = self.at;
        self.at += usize::from(self.byte() == Some(b'-'));
        match self.byte() {
            // No digit may follow a leading zero.
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

    /// Skips one or more digits.
    fn digits(&mut self) -> Result<()> {
        let start = self.at;
        while matches!(self.byte(), Some(b'0'..=b'9')) {
            self.at += 1;
        }
        if self.at == start {
            return Err(Malformed);
        }
        Ok(())
    }

    /// Skips this word.
    #[inline]
    pub(super) fn word(&mut self, word: &str) -> Result<()> {
        let rest = self.text.as_bytes().get(self.at..).unwrap_or_default();
        if !rest.starts_with(word.as_bytes()) {
            return Err(Malformed);
        }
        self.at += word.len();
        Ok(())
    }
}
