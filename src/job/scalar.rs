//! A value of a job's field.

use std::borrow::Cow;
use std::fmt;
use std::sync::LazyLock;

use serde::de::{Deserialize, Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor};

use super::Number;
use crate::job::json::Value;

/// A value of a job's field, whatever its type.
///
/// Every value can be read. If MX changes the type of a field, that field is lost and the event is
/// not.
#[derive(Debug, PartialEq)]
pub(crate) enum Scalar<'de> {
    Null,
    Bool(bool),
    Number(Number),
    Text(Cow<'de, str>),
    /// A value that no field can hold: an array, an object, a number that [`Number`] cannot hold
    /// exactly, or a string with half a surrogate pair.
    Other,
}

impl<'de> From<Value<'de>> for Scalar<'de> {
    #[inline]
    fn from(json: Value<'de>) -> Self {
        match json {
            Value::Null => Self::Null,
            Value::Bool(value) => Self::Bool(value),
            Value::Integer(integer) => Self::Number(Number::integer(integer)),
            Value::Number(number) => Number::read(number).map_or(Self::Other, Self::Number),
            Value::String(string) => string.text().map_or(Self::Other, Self::Text),
            Value::Nested => Self::Other,
        }
    }
}

impl Scalar<'_> {
    /// Returns the integer, also if it is written as `6.0`. Never rounds.
    pub(crate) fn integer(&self) -> Option<i64> {
        match self {
            Self::Number(Number { whole, nanos: 0 }) => Some(*whole),
            _ => None,
        }
    }
}

impl<'de> Deserialize<'de> for Scalar<'de> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(ScalarVisitor)
    }
}

struct ScalarVisitor;

impl<'de> Visitor<'de> for ScalarVisitor {
    type Value = Scalar<'de>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("any value")
    }

    fn visit_unit<E>(self) -> Result<Self::Value, E> {
        Ok(Scalar::Null)
    }

    fn visit_none<E>(self) -> Result<Self::Value, E> {
        Ok(Scalar::Null)
    }

    fn visit_some<D: Deserializer<'de>>(self, deserializer: D) -> Result<Self::Value, D::Error> {
        deserializer.deserialize_any(self)
    }

    fn visit_bool<E>(self, value: bool) -> Result<Self::Value, E> {
        Ok(Scalar::Bool(value))
    }

    fn visit_i64<E>(self, value: i64) -> Result<Self::Value, E> {
        Ok(Scalar::Number(Number::integer(value)))
    }

    fn visit_u64<E>(self, value: u64) -> Result<Self::Value, E> {
        Ok(i64::try_from(value).map_or(Scalar::Other, |integer| {
            Scalar::Number(Number::integer(integer))
        }))
    }

    /// Keeps a float only if its shortest decimal form has at most 15 digits, which a float holds
    /// exactly. With more digits, the payload may have had another number. A number that the format
    /// itself rounded to a shorter one cannot be detected.
    fn visit_f64<E>(self, value: f64) -> Result<Self::Value, E> {
        const DIGITS: usize = f64::DIGITS as usize;
        let text = value.to_string();
        let significant = text.trim_matches(['-', '0', '.']);
        let digits = significant.bytes().filter(u8::is_ascii_digit).count();
        Ok(Number::read(&text)
            .filter(|_| digits <= DIGITS)
            .map_or(Scalar::Other, Scalar::Number))
    }

    fn visit_borrowed_str<E>(self, text: &'de str) -> Result<Self::Value, E> {
        Ok(Scalar::Text(Cow::Borrowed(text)))
    }

    fn visit_str<E>(self, text: &str) -> Result<Self::Value, E> {
        Ok(Scalar::Text(Cow::Owned(text.to_owned())))
    }

    fn visit_bytes<E>(self, _: &[u8]) -> Result<Self::Value, E> {
        Ok(Scalar::Other)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut sequence: A) -> Result<Self::Value, A::Error> {
        while sequence.next_element::<IgnoredAny>()?.is_some() {}
        Ok(Scalar::Other)
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        let Some(IsNumberKey(is_number_key)) = map.next_key()? else {
            return Ok(Scalar::Other);
        };
        let mut number = None;
        if is_number_key && *NUMBERS_ARE_MAPS {
            NumberText(number) = map.next_value()?;
        } else {
            map.next_value::<IgnoredAny>()?;
        }
        while map.next_entry::<IgnoredAny, IgnoredAny>()?.is_some() {
            number = None;
        }
        Ok(number.map_or(Scalar::Other, Scalar::Number))
    }
}

/// The only key of the maps as which `serde_json` passes numbers with a fraction, if its feature
/// `arbitrary_precision` is on.
///
/// An application that enables the feature enables it for this crate too. Without the feature, such
/// a map is an object of the payload.
const NUMBER_KEY: &str = "$serde_json::private::Number";

/// Whether `serde_json` passes numbers as maps in this build.
static NUMBERS_ARE_MAPS: LazyLock<bool> =
    LazyLock::new(|| serde_json::from_str("0.5").is_ok_and(|IsMap(is_map)| is_map));

struct IsMap(bool);

impl<'de> Deserialize<'de> for IsMap {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(IsMapVisitor).map(Self)
    }
}

struct IsMapVisitor;

impl<'de> Visitor<'de> for IsMapVisitor {
    type Value = bool;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a number")
    }

    fn visit_f64<E>(self, _: f64) -> Result<bool, E> {
        Ok(false)
    }

    fn visit_map<A: MapAccess<'de>>(self, _: A) -> Result<bool, A::Error> {
        Ok(true)
    }
}

/// Whether a key is [`NUMBER_KEY`].
struct IsNumberKey(bool);

impl<'de> Deserialize<'de> for IsNumberKey {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let key = deserializer.deserialize_any(ScalarVisitor)?;
        Ok(Self(matches!(key, Scalar::Text(key) if key == NUMBER_KEY)))
    }
}

/// The number that a text contains, or `None` for any other value.
struct NumberText(Option<Number>);

impl<'de> Deserialize<'de> for NumberText {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(NumberTextVisitor).map(Self)
    }
}

/// Ignores all values but texts. A [`Scalar`] would recurse into nested maps.
struct NumberTextVisitor;

impl<'de> Visitor<'de> for NumberTextVisitor {
    type Value = Option<Number>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the text of a number")
    }

    fn visit_str<E>(self, text: &str) -> Result<Self::Value, E> {
        Ok(Number::read(text))
    }

    fn visit_unit<E>(self) -> Result<Self::Value, E> {
        Ok(None)
    }

    fn visit_none<E>(self) -> Result<Self::Value, E> {
        Ok(None)
    }

    fn visit_some<D: Deserializer<'de>>(self, deserializer: D) -> Result<Self::Value, D::Error> {
        IgnoredAny::deserialize(deserializer).map(|_| None)
    }

    fn visit_bool<E>(self, _: bool) -> Result<Self::Value, E> {
        Ok(None)
    }

    fn visit_i64<E>(self, _: i64) -> Result<Self::Value, E> {
        Ok(None)
    }

    fn visit_u64<E>(self, _: u64) -> Result<Self::Value, E> {
        Ok(None)
    }

    fn visit_f64<E>(self, _: f64) -> Result<Self::Value, E> {
        Ok(None)
    }

    fn visit_bytes<E>(self, _: &[u8]) -> Result<Self::Value, E> {
        Ok(None)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut sequence: A) -> Result<Self::Value, A::Error> {
        while sequence.next_element::<IgnoredAny>()?.is_some() {}
        Ok(None)
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        while map.next_entry::<IgnoredAny, IgnoredAny>()?.is_some() {}
        Ok(None)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::job::json::Cursor;

    fn written(json: &str) -> Scalar<'_> {
        Cursor::new(json).next_value().unwrap().into()
    }

    fn integer(whole: i64) -> Scalar<'static> {
        Scalar::Number(Number::integer(whole))
    }

    fn number(whole: i64, nanos: u32) -> Scalar<'static> {
        Scalar::Number(Number { whole, nanos })
    }

    /// Each value is read from JSON text, and through serde.
    #[test]
    fn values_of_every_type_are_read() {
        let cases = [
            ("null", Scalar::Null),
            ("true", Scalar::Bool(true)),
            ("false", Scalar::Bool(false)),
            ("7", integer(7)),
            ("-7", integer(-7)),
            ("-0", integer(0)),
            ("6.0", integer(6)),
            ("9223372036854775807", integer(i64::MAX)),
            ("-9223372036854775808", integer(i64::MIN)),
            ("9223372036854775808", Scalar::Other),
            ("18446744073709551616", Scalar::Other),
            ("1471281212.0", integer(1_471_281_212)),
            ("1471281212.1", number(1_471_281_212, 100_000_000)),
            ("-0.5", number(-1, 500_000_000)),
            ("1.471281212e9", integer(1_471_281_212)),
            ("1e300", Scalar::Other),
            ("\"text\"", Scalar::Text("text".into())),
            ("\"7\"", Scalar::Text("7".into())),
            (r#""\u00e9\n\ud83d\udd11""#, Scalar::Text("é\n🔑".into())),
            ("[]", Scalar::Other),
            ("[1, [2], {\"a\": 3}]", Scalar::Other),
            ("{}", Scalar::Other),
            ("{\"a\": {\"b\": 1}, \"c\": 2}", Scalar::Other),
        ];
        for (json, expected) in cases {
            assert_eq!(written(json), expected, "{json}");
            let read: Scalar<'_> = serde_json::from_str(json).unwrap();
            assert_eq!(read, expected, "{json}");
        }
    }

    #[test]
    fn values_that_no_rust_type_can_hold_are_other() {
        for json in [r#""\ud83d""#, r#""a\udd11b""#, "1e400", "0.0000000001"] {
            assert_eq!(written(json), Scalar::Other, "{json}");
        }
    }

    /// With `arbitrary_precision`, an object with this key and a text looks like a number.
    #[test]
    fn an_object_that_looks_like_a_number_of_serde_json_is_read() {
        let cases = [
            (r#"{"$serde_json::private::Number":"6"}"#, *NUMBERS_ARE_MAPS),
            (r#"{"$serde_json::private::Number":"six"}"#, false),
            (r#"{"$serde_json::private::Number":6}"#, false),
            (r#"{"$serde_json::private::Number":null}"#, false),
            (r#"{"$serde_json::private::Number":["6"]}"#, false),
            (
                r#"{"$serde_json::private::Number":{"$serde_json::private::Number":"6"}}"#,
                false,
            ),
            (r#"{"$serde_json::private::Number":"6","a":1}"#, false),
            (r#"{"a":1,"$serde_json::private::Number":"6"}"#, false),
        ];
        for (json, is_number) in cases {
            let expected = if is_number { integer(6) } else { Scalar::Other };
            assert_eq!(
                serde_json::from_str::<Scalar<'_>>(json).unwrap(),
                expected,
                "{json}"
            );
            assert_eq!(written(json), Scalar::Other, "{json}");
        }
    }
}
