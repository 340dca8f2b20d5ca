//! White space by a fixed list, which does not depend on the Unicode version of `std`.

/// Removes white space from both ends.
pub(crate) fn trim(text: &str) -> &str {
    text.trim_matches(is_white_space)
}

/// Returns whether a text is empty or only white space.
pub(crate) fn is_blank(text: &str) -> bool {
    // Most texts begin with a visible ASCII character, so that they need no trimming.
    !text.as_bytes().first().is_some_and(u8::is_ascii_graphic) && trim(text).is_empty()
}

/// Returns whether a character is `White_Space` in Unicode 16.
///
/// The names of stored events depend on this list, so it does not follow later versions.
fn is_white_space(character: char) -> bool {
    matches!(
        character,
        '\u{9}'..='\u{d}'
            | ' '
            | '\u{85}'
            | '\u{a0}'
            | '\u{1680}'
            | '\u{2000}'..='\u{200a}'
            | '\u{2028}'
            | '\u{2029}'
            | '\u{202f}'
            | '\u{205f}'
            | '\u{3000}'
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn white_space_is_this_list_and_no_other_character() {
        let list: Vec<u32> = ('\0'..=char::MAX)
            .filter(|character| is_white_space(*character))
            .map(u32::from)
            .collect();
        assert_eq!(
            list,
            [
                0x09, 0x0a, 0x0b, 0x0c, 0x0d, 0x20, 0x85, 0xa0, 0x1680, 0x2000, 0x2001, 0x2002,
                0x2003, 0x2004, 0x2005, 0x2006, 0x2007, 0x2008, 0x2009, 0x200a, 0x2028, 0x2029,
                0x202f, 0x205f, 0x3000,
            ]
        );
    }

    #[test]
    fn texts_are_trimmed_and_blank_texts_are_recognised() {
        let cases = [
            ("NEW", "NEW", false),
            (" N EW\u{3000}\n", "N EW", false),
            ("\u{85}\u{a0}", "", true),
            ("", "", true),
            // These characters are invisible, but not white space.
            ("\u{200b}", "\u{200b}", false),
            ("\u{feff}", "\u{feff}", false),
            ("\0", "\0", false),
        ];
        for (text, trimmed, blank) in cases {
            assert_eq!((trim(text), is_blank(text)), (trimmed, blank), "{text:?}");
        }
    }
}
