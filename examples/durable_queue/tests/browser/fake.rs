//! Dead letters in memory.

use std::sync::{Arc, Mutex};

use axum::body::Bytes;
use mx_job_webhook::Status;
use mx_job_webhook::job::Timestamp;

use crate::admin::letters::{Letter, LetterCursor, LetterFilter, LetterKind, LetterPage, Letters};

/// A queue with dead letters. Clones share them.
#[derive(Clone, Default)]
pub(crate) struct Fake {
    letters: Arc<Mutex<Vec<Letter>>>,
    replayed: Arc<Mutex<Vec<String>>>,
    /// Whether the queue is unreachable.
    pub(crate) broken: bool,
}

/// The body of every letter.
pub(crate) const BODY: &str = r#"{"job": {"user_guid": "USR-secret"}} <script>"#;

impl Fake {
    pub(crate) fn new(letters: impl IntoIterator<Item = Letter>) -> Self {
        let letters: Vec<_> = letters.into_iter().collect();
        Self {
            letters: Arc::new(Mutex::new(letters)),
            ..Self::default()
        }
    }

    /// Returns the names of the letters that are left.
    pub(crate) fn left(&self) -> Vec<String> {
        let letters = self.letters.lock().unwrap();
        letters.iter().map(|letter| letter.name.clone()).collect()
    }

    /// Returns the names of the letters that were replayed.
    pub(crate) fn replayed(&self) -> Vec<String> {
        self.replayed.lock().unwrap().clone()
    }

    fn take(&self, passes: impl Fn(&Letter) -> bool) -> Vec<String> {
        let taken = self
            .letters
            .lock()
            .unwrap()
            .extract_if(.., |letter| passes(letter))
            .collect::<Vec<_>>();
        taken.into_iter().map(|letter| letter.name).collect()
    }

    fn reached(&self) -> Result<(), &'static str> {
        if self.broken {
            Err("the <database> is away")
        } else {
            Ok(())
        }
    }
}

/// Returns a letter of an event.
pub(crate) fn letter(name: &str, status: Status, error: &str) -> Letter {
    Letter {
        name: name.to_owned(),
        kind: LetterKind::Event,
        status: Some(status),
        tries: 5,
        error: error.to_owned(),
        failed_at: Timestamp::from_unix_seconds(1_790_000_000),
    }
}

fn passes(filter: &LetterFilter, letter: &Letter) -> bool {
    let status = filter
        .status
        .as_ref()
        .is_none_or(|status| letter.status.as_ref() == Some(status));
    status && filter.kind.is_none_or(|kind| letter.kind == kind)
}

impl Letters for Fake {
    type Error = &'static str;

    async fn dead_letters(&self, filter: &LetterFilter) -> Result<LetterPage, Self::Error> {
        self.reached()?;
        let start = filter.after.as_ref().map_or(0, |cursor| cursor.0);
        let limit = filter.limit.map_or(usize::MAX, |limit| limit as usize);
        let letters = self.letters.lock().unwrap();
        let mut letters = letters
            .iter()
            .filter(|letter| passes(filter, letter))
            .skip(start);
        let page = letters.by_ref().take(limit).cloned().collect();
        let next = letters.next().map(|_| LetterCursor(start + limit));
        Ok(LetterPage {
            letters: page,
            next,
        })
    }

    async fn dead_letter_body(&self, name: &str) -> Result<Option<Bytes>, Self::Error> {
        self.reached()?;
        Ok(self
            .left()
            .iter()
            .any(|left| left == name)
            .then_some(Bytes::from_static(BODY.as_bytes())))
    }

    async fn replay(&self, name: &str) -> Result<bool, Self::Error> {
        self.reached()?;
        let taken = self.take(|letter| letter.name == name);
        self.replayed.lock().unwrap().extend_from_slice(&taken);
        Ok(!taken.is_empty())
    }

    async fn replay_all(&self, filter: &LetterFilter) -> Result<u64, Self::Error> {
        self.reached()?;
        assert!(
            filter.limit.is_none() && filter.after.is_none(),
            "not only one page"
        );
        let taken = self.take(|letter| passes(filter, letter));
        self.replayed.lock().unwrap().extend_from_slice(&taken);
        Ok(taken.len() as u64)
    }

    async fn discard(&self, name: &str) -> Result<bool, Self::Error> {
        self.reached()?;
        Ok(!self.take(|letter| letter.name == name).is_empty())
    }
}
