//! The order of claims on one event.

/// Says which of two claims on one event is the later one.
///
/// The callback finds its own in
/// [`JobEvent::fencing_token`](crate::JobEvent::fencing_token). An application that writes it
/// beside its effect, and refuses a smaller one, is safe even from a callback that was thought
/// dead and was only slow. Tokens of different events say nothing about each other.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct FencingToken(u64);

impl FencingToken {
    /// A token; for those who write a ledger.
    #[must_use]
    pub const fn new(number: u64) -> Self {
        Self(number)
    }

    /// The number, to be stored and compared.
    #[must_use]
    pub const fn get(self) -> u64 {
        self.0
    }
}
