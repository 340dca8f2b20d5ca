//! Text of others on one line.

use std::fmt::{self, Write};

/// Writes text with its control characters, line breaks and changes of direction escaped.
pub(crate) struct OneLine<'a>(pub(crate) &'a mut dyn Write);

impl Write for OneLine<'_> {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        for part in text.split_inclusive(breaks_the_line) {
            match part
                .chars()
                .next_back()
                .filter(|last| breaks_the_line(*last))
            {
                Some(last) => {
                    self.0.write_str(&part[..part.len() - last.len_utf8()])?;
                    write!(self.0, "{}", last.escape_default())?;
                }
                None => self.0.write_str(part)?,
            }
        }
        Ok(())
    }
}

fn breaks_the_line(character: char) -> bool {
    character.is_control()
        || matches!(
            character,
            '\u{61c}' | '\u{200e}' | '\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}'
        )
}
