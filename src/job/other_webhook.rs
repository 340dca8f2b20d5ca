//! What MX's other webhooks say of themselves.

use std::borrow::Cow;

use super::json::{Cursor, Malformed, Value};

/// The root keys that name the kind of a webhook without a job.
#[derive(Clone, Default)]
pub(crate) struct Kind {
    pub(crate) type_name: Option<Box<str>>,
    pub(crate) action: Option<Box<str>>,
}

/// Reads the kind of a webhook that was decoded as JSON without a job.
pub(crate) fn read_kind(body: &[u8]) -> Kind {
    let text = std::str::from_utf8(body).unwrap_or_default();
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    let mut kind = Kind::default();
    // The body is valid JSON, so this does not fail.
    let _ = read_root(&mut Cursor::new(text), &mut kind);
    kind
}

fn read_root(json: &mut Cursor<'_>, kind: &mut Kind) -> Result<(), Malformed> {
    if !json.enter_object() {
        return Ok(());
    }
    let mut is_first = true;
    while let Some(key) = json.next_key(is_first)? {
        is_first = false;
        let value = json.next_value()?;
        match key.text().as_deref() {
            Some("type") => kind.type_name = text(value),
            Some("action") => kind.action = text(value),
            _ => {}
        }
    }
    Ok(())
}

fn text(value: Value<'_>) -> Option<Box<str>> {
    match value {
        Value::String(string) => string.text().map(Cow::into_owned).map(Into::into),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kind_is_the_text_of_the_root_keys() {
        let kind = |body: &str| {
            let kind = read_kind(body.as_bytes());
            (
                kind.type_name.as_deref().map(str::to_owned),
                kind.action.as_deref().map(str::to_owned),
            )
        };
        let of = |text: &str| Some(text.to_owned());
        assert_eq!(kind(r#"{"type":"BALANCE"}"#), (of("BALANCE"), None));
        assert_eq!(
            kind("\u{feff} {\"user\":{\"type\":\"x\"},\"action\":\"cre\\u0061ted\"}"),
            (None, of("created"))
        );
        assert_eq!(kind(r#"{"type":7,"action":null}"#), (None, None));
        assert_eq!(kind(r#"{"type":"\ud83d"}"#), (None, None));
    }
}
