//! Fencing tokens, which order the claims on an event.

/// A number that orders the claims on an event: a later claim has a larger token.
///
/// A callback reads the token of its claim from
/// [`JobEvent::fencing_token`](crate::JobEvent::fencing_token). A slow callback can continue after
/// its lease has expired and another delivery has claimed the event. To make it harmless, write the
/// token beside the effect, and refuse a smaller one. Tokens of different events cannot be
/// compared.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct FencingToken(u64);

impl FencingToken {
    /// Returns the token with this number. Ledgers make tokens.
    #[must_use]
    pub const fn new(number: u64) -> Self {
        Self(number)
    }

    /// Returns the number, to store and compare.
    #[must_use]
    pub const fn get(self) -> u64 {
        self.0
    }
}
