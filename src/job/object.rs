//! Reads an object of any serde format entry by entry, into an existing value.

use std::fmt;
use std::marker::PhantomData;

use serde::de::{
    Deserialize, DeserializeSeed, Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor,
};

/// A value that reads the entries of an object into itself.
///
/// A job takes half a kilobyte. If it were built and returned, it would be copied at each level.
pub(super) trait ReadEntries<'de> {
    fn read_entries<A: MapAccess<'de>>(&mut self, map: A) -> Result<(), A::Error>;
}

/// Reads an object into the value, and returns whether there was an object.
///
/// A value of another type is skipped: it is valid syntax.
pub(super) struct ReadObject<'a, T>(pub(super) &'a mut T);

impl<'de, T: ReadEntries<'de>> DeserializeSeed<'de> for ReadObject<'_, T> {
    type Value = bool;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<bool, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de, T: ReadEntries<'de>> Visitor<'de> for ReadObject<'_, T> {
    type Value = bool;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<bool, A::Error> {
        self.0.read_entries(map)?;
        Ok(true)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut sequence: A) -> Result<bool, A::Error> {
        while sequence.next_element::<IgnoredAny>()?.is_some() {}
        Ok(false)
    }

    fn visit_some<D: Deserializer<'de>>(self, deserializer: D) -> Result<bool, D::Error> {
        deserializer.deserialize_any(self)
    }

    fn visit_none<E>(self) -> Result<bool, E> {
        Ok(false)
    }

    fn visit_unit<E>(self) -> Result<bool, E> {
        Ok(false)
    }

    fn visit_bool<E>(self, _: bool) -> Result<bool, E> {
        Ok(false)
    }

    fn visit_i64<E>(self, _: i64) -> Result<bool, E> {
        Ok(false)
    }

    fn visit_u64<E>(self, _: u64) -> Result<bool, E> {
        Ok(false)
    }

    fn visit_f64<E>(self, _: f64) -> Result<bool, E> {
        Ok(false)
    }

    fn visit_str<E>(self, _: &str) -> Result<bool, E> {
        Ok(false)
    }
}

/// A type that is made from the name of a field.
pub(super) trait FromKey {
    fn from_key(key: &str) -> Self;
}

/// A key of an object. It is compared in place, and allocates only if it has escapes.
pub(super) struct Key<K>(pub(super) K);

impl<'de, K: FromKey> Deserialize<'de> for Key<K> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_identifier(KeyVisitor(PhantomData))
    }
}

struct KeyVisitor<K>(PhantomData<K>);

impl<K: FromKey> Visitor<'_> for KeyVisitor<K> {
    type Value = Key<K>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a field's name")
    }

    fn visit_str<E>(self, key: &str) -> Result<Self::Value, E> {
        Ok(Key(K::from_key(key)))
    }
}

#[cfg(test)]
mod tests {
    use serde::de::IntoDeserializer;
    use serde::de::value::{BytesDeserializer, Error, MapDeserializer, SeqDeserializer};
    use serde::forward_to_deserialize_any;

    use super::*;

    /// The names of an object's entries.
    #[derive(Default)]
    struct Names(Vec<String>);

    struct Name(String);

    impl FromKey for Name {
        fn from_key(key: &str) -> Self {
            Self(key.to_owned())
        }
    }

    impl<'de> ReadEntries<'de> for Names {
        fn read_entries<A: MapAccess<'de>>(&mut self, mut map: A) -> Result<(), A::Error> {
            while let Some((Key(Name(name)), IgnoredAny)) = map.next_entry()? {
                self.0.push(name);
            }
            Ok(())
        }
    }

    fn read<'de>(
        value: impl Deserializer<'de, Error = Error>,
    ) -> Result<Option<Vec<String>>, Error> {
        let mut names = Names::default();
        let is_object = ReadObject(&mut names).deserialize(value)?;
        assert!(is_object || names.0.is_empty());
        Ok(is_object.then_some(names.0))
    }

    /// A value of a format that distinguishes a missing value from null, such as CBOR.
    struct Optional<D>(Option<D>);

    impl<'de, D: Deserializer<'de>> Deserializer<'de> for Optional<D> {
        type Error = D::Error;

        fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, D::Error> {
            match self.0 {
                Some(value) => visitor.visit_some(value),
                None => visitor.visit_none(),
            }
        }

        forward_to_deserialize_any! {
            bool i8 i16 i32 i64 i128 u8 u16 u32 u64 u128 f32 f64 char str string bytes byte_buf
            option unit unit_struct newtype_struct seq tuple tuple_struct map struct enum
            identifier ignored_any
        }
    }

    fn object() -> impl Deserializer<'static, Error = Error> {
        MapDeserializer::new([("guid", 1), ("status", 6)].into_iter())
    }

    #[test]
    fn an_object_is_read_entry_by_entry() {
        let names = ["guid", "status"].map(str::to_owned).to_vec();
        assert_eq!(read(object()).unwrap(), Some(names.clone()));
        assert_eq!(read(Optional(Some(object()))).unwrap(), Some(names));
    }

    #[test]
    fn a_value_of_another_type_is_skipped() {
        fn is_skipped<'de>(value: impl IntoDeserializer<'de, Error>) {
            assert_eq!(read(value.into_deserializer()).unwrap(), None);
        }
        is_skipped(());
        is_skipped(true);
        is_skipped(-7_i64);
        is_skipped(7_u64);
        is_skipped(0.5_f64);
        is_skipped("text");
        assert_eq!(
            read(SeqDeserializer::new([1, 2].into_iter())).unwrap(),
            None
        );
        assert_eq!(
            read(Optional(Some(true.into_deserializer()))).unwrap(),
            None
        );
        let none = Optional(None::<<bool as IntoDeserializer<'_, Error>>::Deserializer>);
        assert_eq!(read(none).unwrap(), None);
    }

    #[test]
    fn a_value_that_json_does_not_have_is_an_error_that_names_what_was_expected() {
        let error = read(BytesDeserializer::new(b"raw"))
            .unwrap_err()
            .to_string();
        assert!(error.ends_with("expected an object"), "{error}");
        let numbered = MapDeserializer::new([(1, 2)].into_iter());
        let error = read(numbered).unwrap_err().to_string();
        assert!(error.ends_with("expected a field's name"), "{error}");
    }
}
