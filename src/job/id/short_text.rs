//! Short strings without a heap allocation.

use arrayvec::ArrayString;

/// How many bytes are stored inline: one of MX's GUIDs, which are a prefix of four bytes and a
/// UUID.
const INLINE: usize = 40;

/// A string that allocates only if it is longer than [`INLINE`] bytes.
#[derive(Clone)]
pub(super) enum ShortText {
    Inline(ArrayString<INLINE>),
    Heap(Box<str>),
}

impl ShortText {
    pub(super) fn new(text: &str) -> Self {
        ArrayString::from(text).map_or_else(|_| Self::Heap(text.into()), Self::Inline)
    }

    pub(super) fn as_str(&self) -> &str {
        match self {
            Self::Inline(text) => text,
            Self::Heap(text) => text,
        }
    }
}
