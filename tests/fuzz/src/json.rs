//! A slow and obvious reader of JSON (RFC 8259), which keeps how each value is written.

/// A JSON value. Numbers and strings are as they are written, strings with their quotes.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Json {
    Null,
    Bool(bool),
    Number(String),
    String(String),
    Array(Vec<Json>),
    /// Keys and values, in order.
    Object(Vec<(String, Json)>),
}

/// Reads a text that is one JSON document.
pub(crate) fn read(text: &str) -> Option<Json> {
    let mut rest = text;
    let json = value(&mut rest)?;
    rest.is_empty().then_some(json)
}

/// Returns the text of a written string, or `None` if it has half a surrogate pair.
pub(crate) fn text(written: &str) -> Option<String> {
    let mut units = Vec::new();
    let mut inside = written[1..written.len() - 1].chars();
    while let Some(character) = inside.next() {
        let character = match (character, character == '\\') {
            (character, false) => character,
            (_, true) => match inside.next()? {
                'n' => '\n',
                't' => '\t',
                'r' => '\r',
                'b' => '\u{8}',
                'f' => '\u{c}',
                'u' => {
                    let digits: String = inside.by_ref().take(4).collect();
                    units.push(u16::from_str_radix(&digits, 16).ok()?);
                    continue;
                }
                itself => itself,
            },
        };
        units.extend_from_slice(character.encode_utf16(&mut [0; 2]));
    }
    String::from_utf16(&units).ok()
}

impl Json {
    /// Returns the text of a string without half surrogate pairs.
    pub(crate) fn as_text(&self) -> Option<String> {
        match self {
            Self::String(written) => text(written),
            _ => None,
        }
    }
}

fn value(rest: &mut &str) -> Option<Json> {
    white_space(rest);
    let json = match rest.chars().next()? {
        '{' => Json::Object(object(rest)?),
        '[' => Json::Array(array(rest)?),
        '"' => Json::String(string(rest)?),
        't' => take(rest, "true").map(|()| Json::Bool(true))?,
        'f' => take(rest, "false").map(|()| Json::Bool(false))?,
        'n' => take(rest, "null").map(|()| Json::Null)?,
        _ => Json::Number(number(rest)?),
    };
    white_space(rest);
    Some(json)
}

fn object(rest: &mut &str) -> Option<Vec<(String, Json)>> {
    let mut entries = Vec::new();
    take(rest, "{")?;
    white_space(rest);
    if take(rest, "}").is_some() {
        return Some(entries);
    }
    loop {
        white_space(rest);
        let key = string(rest)?;
        white_space(rest);
        take(rest, ":")?;
        entries.push((key, value(rest)?));
        if take(rest, ",").is_none() {
            return take(rest, "}").map(|()| entries);
        }
    }
}

fn array(rest: &mut &str) -> Option<Vec<Json>> {
    let mut values = Vec::new();
    take(rest, "[")?;
    white_space(rest);
    if take(rest, "]").is_some() {
        return Some(values);
    }
    loop {
        values.push(value(rest)?);
        if take(rest, ",").is_none() {
            return take(rest, "]").map(|()| values);
        }
    }
}

fn string(rest: &mut &str) -> Option<String> {
    let all = *rest;
    take(rest, "\"")?;
    loop {
        let character = rest.chars().next()?;
        *rest = &rest[character.len_utf8()..];
        match character {
            '"' => return Some(all[..all.len() - rest.len()].to_owned()),
            '\\' if take(rest, "u").is_some() => {
                let digits = rest.get(..4)?;
                digits
                    .chars()
                    .all(|digit| digit.is_ascii_hexdigit())
                    .then_some(())?;
                *rest = &rest[4..];
            }
            '\\' => {
                let escaped = rest.chars().next()?;
                "\"\\/bfnrt".contains(escaped).then_some(())?;
                *rest = &rest[1..];
            }
            '\0'..='\u{1f}' => return None,
            _ => {}
        }
    }
}

fn number(rest: &mut &str) -> Option<String> {
    let all = *rest;
    let _ = take(rest, "-");
    if take(rest, "0").is_none() {
        digits(rest)?;
    }
    if take(rest, ".").is_some() {
        digits(rest)?;
    }
    if take(rest, "e").or_else(|| take(rest, "E")).is_some() {
        let _ = take(rest, "+").or_else(|| take(rest, "-"));
        digits(rest)?;
    }
    Some(all[..all.len() - rest.len()].to_owned())
}

/// Takes one or more digits.
fn digits(rest: &mut &str) -> Option<()> {
    let after = rest.trim_start_matches(|digit: char| digit.is_ascii_digit());
    let has_some = after.len() < rest.len();
    *rest = after;
    has_some.then_some(())
}

fn take(rest: &mut &str, expected: &str) -> Option<()> {
    *rest = rest.strip_prefix(expected)?;
    Some(())
}

fn white_space(rest: &mut &str) {
    *rest = rest.trim_start_matches([' ', '\t', '\n', '\r']);
}
