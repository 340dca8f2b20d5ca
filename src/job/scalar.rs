//! A JSON value of any type, of which only what a job's field can hold is kept.

use std::borrow::Cow;
use std::fmt;

use serde::de::{Deserialize, Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor};

/// What stands behind a field's name. Reading it fails only on what `serde_json` has no value for
/// (broken syntax, half a surrogate pair, a number beyond every float), so a field that MX changes
/// the type of costs that field and not the event.
#[derive(Debug, PartialEq)]
pub(crate) enum Scalar<'de> {
    Null,
    Bool(bool),
    Integer(i64),
    /// With a fraction or an exponent.
    Float(f64),
    Text(Cow<'de, str>),
    /// An array, an object, or a number beyond 64 bits.
    Other,
}

impl Scalar<'_> {
    /// The integer that it is, also when it is written as `6.0`; never one that it is near.
    pub(crate) fn integer(&self) -> Option<i64> {
        /// Up to here every integer is a float of its own.
        const EXACT: f64 = 9_007_199_254_740_992.0;
        match self {
            Self::Integer(integer) => Some(*integer),
            Self::Float(float) if float.fract() == 0.0 && float.abs() < EXACT => {
                Some(*float as i64)
            }
            _ => None,
        }
    }

    /// The integer that is not above it.
    pub(crate) fn floor(&self) -> Option<i64> {
        match self {
            Self::Integer(integer) => Some(*integer),
            // Between these bounds the conversion is exact; NaN is in no range.
            Self::Float(float) if (-9.0e18..=9.0e18).contains(float) => Some(float.floor() as i64),
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
        Ok(Scalar::Integer(value))
    }

    fn visit_u64<E>(self, value: u64) -> Result<Self::Value, E> {
        Ok(i64::try_from(value).map_or(Scalar::Other, Scalar::Integer))
    }

    fn visit_f64<E>(self, value: f64) -> Result<Self::Value, E> {
        Ok(Scalar::Float(value))
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
        let Some(first) = map.next_key::<Cow<'_, str>>()? else {
            return Ok(Scalar::Other);
        };
        // An application that turns on serde_json's feature `arbitrary_precision` turns it on
        // for us, and then every number comes as a map with this one key.
        if first == "$serde_json::private::Number" {
            let number = map.next_value::<Cow<'_, str>>()?;
            return Ok(number.parse().map_or_else(
                |_| number.parse().map_or(Scalar::Other, Scalar::Float),
                Scalar::Integer,
            ));
        }
        map.next_value::<IgnoredAny>()?;
        while map.next_entry::<IgnoredAny, IgnoredAny>()?.is_some() {}
        Ok(Scalar::Other)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_type_of_json_is_read() {
        let cases = [
            ("null", Scalar::Null),
            ("true", Scalar::Bool(true)),
            ("7", Scalar::Integer(7)),
            ("-7", Scalar::Integer(-7)),
            ("9223372036854775807", Scalar::Integer(i64::MAX)),
            ("-9223372036854775808", Scalar::Integer(i64::MIN)),
            ("1471281212.0", Scalar::Float(1_471_281_212.0)),
            ("-0.5", Scalar::Float(-0.5)),
            ("1.471281212e9", Scalar::Float(1_471_281_212.0)),
            ("1e300", Scalar::Float(1e300)),
            ("\"text\"", Scalar::Text("text".into())),
            (r#""\u00e9\n\ud83d\udd11""#, Scalar::Text("é\n🔑".into())),
            ("[]", Scalar::Other),
            ("[1, [2], {\"a\": 3}]", Scalar::Other),
            ("{}", Scalar::Other),
            ("{\"a\": {\"b\": 1}, \"c\": 2}", Scalar::Other),
        ];
        for (json, expected) in cases {
            assert_eq!(
                serde_json::from_str::<Scalar<'_>>(json).unwrap(),
                expected,
                "{json}"
            );
        }
    }

    #[test]
    fn a_number_is_an_integer_or_near_one() {
        let cases = [
            ("7", Some(7), Some(7)),
            ("-0", Some(0), Some(0)),
            ("6.0", Some(6), Some(6)),
            ("1.471281212e9", Some(1_471_281_212), Some(1_471_281_212)),
            ("8.9", None, Some(8)),
            ("-0.5", None, Some(-1)),
            // Two to the power of 53, which has a neighbour that reads the same.
            ("9007199254740992.0", None, Some(9_007_199_254_740_992)),
            ("1e300", None, None),
            ("9223372036854775808", None, None),
            ("18446744073709551616", None, None),
            ("\"7\"", None, None),
            ("null", None, None),
        ];
        for (json, integer, floor) in cases {
            let scalar = serde_json::from_str::<Scalar<'_>>(json).unwrap();
            assert_eq!(
                (scalar.integer(), scalar.floor()),
                (integer, floor),
                "{json}"
            );
        }
    }
}
