//! A page of letters.

use super::LetterCursor;
use super::letter::Letter;

/// A page of letters, the newest failure first.
#[derive(Clone, Debug)]
pub struct LetterPage {
    letters: Vec<Letter>,
    next: Option<LetterCursor>,
}

impl LetterPage {
    pub(crate) fn new(letters: Vec<Letter>, next: Option<LetterCursor>) -> Self {
        Self { letters, next }
    }

    /// Returns the letters.
    #[must_use]
    pub fn letters(&self) -> &[Letter] {
        &self.letters
    }

    /// Returns the letters by value.
    #[must_use]
    pub fn into_letters(self) -> Vec<Letter> {
        self.letters
    }

    /// Returns where the next page begins, or `None` if this is the last one.
    ///
    /// Pass it to [`LetterFilter::after`](super::LetterFilter::after).
    #[must_use]
    pub fn next(&self) -> Option<LetterCursor> {
        self.next.clone()
    }
}
