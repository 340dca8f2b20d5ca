//! How every id is stored, and the macro that gives each its own type.

use std::fmt;

use arrayvec::ArrayString;

/// What fits inline: MX's GUIDs are a four-byte prefix and a UUID, 40 bytes.
const INLINE: usize = 40;

/// A short string that allocates only when it is longer than [`INLINE`] bytes.
#[derive(Clone)]
pub(crate) enum ShortText {
    Inline(ArrayString<INLINE>),
    Heap(Box<str>),
}

impl ShortText {
    pub(crate) fn new(text: &str) -> Self {
        ArrayString::from(text).map_or_else(|_| Self::Heap(text.into()), Self::Inline)
    }

    pub(crate) fn as_str(&self) -> &str {
        match self {
            Self::Inline(text) => text,
            Self::Heap(text) => text,
        }
    }
}

/// An id was blank: empty, or nothing but white space.
///
/// Every id type's `FromStr` and `Deserialize` refuse a blank id, so that a
/// value of the type always names something.
///
/// # Example
///
/// ```
/// use mx_job_webhook::JobGuid;
///
/// let error = " ".parse::<JobGuid>().unwrap_err();
/// assert_eq!(error.to_string(), "an id must not be blank");
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BlankIdError(());

impl BlankIdError {
    pub(crate) const fn new() -> Self {
        Self(())
    }
}

impl fmt::Display for BlankIdError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an id must not be blank")
    }
}

impl std::error::Error for BlankIdError {}

/// Defines a string id: `id_type!(/// docs, Name, shown)`.
///
/// The last word says what `Debug` does: `shown` prints the id, `redacted` does not, because ids
/// of people have no place in logs. `Display` and `as_str` always give the id itself.
macro_rules! id_type {
    ($(#[$doc:meta])* $name:ident, $debug:ident) => {
        $(#[$doc])*
        #[derive(Clone)]
        pub struct $name($crate::id::ShortText);

        impl $name {
            /// Takes the id, or nothing if it is blank.
            pub(crate) fn from_text(text: &str) -> Option<Self> {
                (!$crate::white_space::is_blank(text)).then(|| Self($crate::id::ShortText::new(text)))
            }

            /// The id as MX sent it.
            ///
            /// # Example
            ///
            /// ```
            #[doc = concat!("use mx_job_webhook::", stringify!($name), ";")]
            ///
            #[doc = concat!("let id: ", stringify!($name), " = \"Kept to the letter \".parse()?;")]
            /// assert_eq!(id.as_str(), "Kept to the letter ");
            /// # Ok::<(), mx_job_webhook::BlankIdError>(())
            /// ```
            #[must_use]
            pub fn as_str(&self) -> &str {
                self.0.as_str()
            }
        }

        impl ::std::str::FromStr for $name {
            type Err = $crate::BlankIdError;

            fn from_str(text: &str) -> Result<Self, Self::Err> {
                Self::from_text(text).ok_or(const { $crate::BlankIdError::new() })
            }
        }

        impl ::std::fmt::Display for $name {
            fn fmt(&self, f: &mut ::std::fmt::Formatter<'_>) -> ::std::fmt::Result {
                f.pad(self.as_str())
            }
        }

        impl ::std::fmt::Debug for $name {
            fn fmt(&self, f: &mut ::std::fmt::Formatter<'_>) -> ::std::fmt::Result {
                $crate::id::id_type!(@$debug self, f, $name)
            }
        }

        impl PartialEq for $name {
            fn eq(&self, other: &Self) -> bool {
                self.as_str() == other.as_str()
            }
        }

        impl Eq for $name {}

        impl PartialEq<str> for $name {
            fn eq(&self, other: &str) -> bool {
                self.as_str() == other
            }
        }

        impl PartialEq<&str> for $name {
            fn eq(&self, other: &&str) -> bool {
                self.as_str() == *other
            }
        }

        impl PartialOrd for $name {
            fn partial_cmp(&self, other: &Self) -> Option<::std::cmp::Ordering> {
                Some(self.cmp(other))
            }
        }

        impl Ord for $name {
            fn cmp(&self, other: &Self) -> ::std::cmp::Ordering {
                self.as_str().cmp(other.as_str())
            }
        }

        // As `str` hashes, so that `Borrow<str>` finds an id in a map by its text.
        impl ::std::hash::Hash for $name {
            fn hash<H: ::std::hash::Hasher>(&self, state: &mut H) {
                self.as_str().hash(state);
            }
        }

        impl ::std::borrow::Borrow<str> for $name {
            fn borrow(&self) -> &str {
                self.as_str()
            }
        }

        impl AsRef<str> for $name {
            fn as_ref(&self) -> &str {
                self.as_str()
            }
        }

        impl ::serde::Serialize for $name {
            fn serialize<S: ::serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.serialize_str(self.as_str())
            }
        }

        impl<'de> ::serde::Deserialize<'de> for $name {
            fn deserialize<D: ::serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                // What a format says by itself of a number repeats it, and it may be a person's.
                deserializer
                    .deserialize_str($crate::id::IdVisitor(Self::from_text))
                    .map_err(|_| ::serde::de::Error::custom("an id is a string that is not blank"))
            }
        }
    };
    (@shown $self:ident, $f:ident, $name:ident) => {
        $f.debug_tuple(stringify!($name)).field(&$self.as_str()).finish()
    };
    (@redacted $self:ident, $f:ident, $name:ident) => {
        $f.write_str(concat!(stringify!($name), "(redacted)"))
    };
}
pub(crate) use id_type;

/// Reads any of the id types through its `from_text`.
pub(crate) struct IdVisitor<T>(pub(crate) fn(&str) -> Option<T>);

impl<T> serde::de::Visitor<'_> for IdVisitor<T> {
    type Value = T;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an id that is not blank")
    }

    fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<T, E> {
        (self.0)(text).ok_or_else(|| E::custom(BlankIdError::new()))
    }
}
