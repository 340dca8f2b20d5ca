//! Keeping letters, by hooks.

use std::fmt;
use std::pin::Pin;

use super::{LetterKind, PostgresDeadLetters, key, letter};
use crate::error::{Causes, Error, ErrorKind};
use crate::event::{OtherWebhook, Undecodable};
use crate::ledger::key::storable;
use crate::ledger::status_text;
use crate::router::DeadLetter;

/// The future of a hook that keeps letters.
pub type KeepFuture = Pin<Box<dyn Future<Output = Result<(), KeepError>> + Send>>;

/// The parameters of `letter_keep.sql`.
struct Keep {
    name: String,
    kind: LetterKind,
    guid: Option<Vec<u8>>,
    status: Option<String>,
    error: String,
    body: Vec<u8>,
}

impl Keep {
    fn event(letter: &DeadLetter) -> Self {
        let event = letter.event();
        Self {
            name: key::of_event(event),
            kind: LetterKind::Event,
            guid: Some(event.guid.as_str().into()),
            status: Some(storable(&status_text(&event.status))),
            error: letter::error_text(letter.error()),
            body: event.body().to_vec(),
        }
    }

    fn body(kind: LetterKind, body: &[u8], error: &Error) -> Self {
        Self {
            name: key::of_body(kind, body),
            kind,
            guid: None,
            status: None,
            error: letter::error_text(error),
            body: body.to_vec(),
        }
    }
}

/// Hooks.
impl PostgresDeadLetters {
    /// Returns a hook for [`on_dead_letter`](crate::JobRouter::on_dead_letter).
    ///
    /// It keeps the event with its error. An event that is kept already has one try more, the newest
    /// error and the newest body.
    ///
    /// # Errors
    ///
    /// The hook fails if the database does. The delivery is then answered 500, and MX delivers it
    /// again.
    ///
    /// # Cancellation
    ///
    /// If the hook's future is dropped, the event is kept or it is not.
    pub fn keep_dead_letters(
        &self,
    ) -> impl Fn(DeadLetter) -> KeepFuture + Clone + Send + Sync + 'static + use<> {
        let store = self.clone();
        move |letter| store.clone().keep_later(move || Ok(Keep::event(&letter)))
    }

    /// Returns a hook for [`on_undecodable`](crate::JobWebhook::on_undecodable).
    ///
    /// # Errors
    ///
    /// The hook fails if the database does, and if the body is longer than
    /// [`with_max_body`](Self::with_max_body) says. The delivery is then answered 500.
    ///
    /// # Cancellation
    ///
    /// If the hook's future is dropped, the body is kept or it is not.
    pub fn keep_undecodable(
        &self,
    ) -> impl Fn(Undecodable) -> KeepFuture + Clone + Send + Sync + 'static + use<> {
        let store = self.clone();
        move |undecodable| {
            let max = store.max_body;
            store.clone().keep_later(move || {
                let body = bounded(undecodable.body(), max)?;
                Ok(Keep::body(
                    LetterKind::Undecodable,
                    body,
                    undecodable.error(),
                ))
            })
        }
    }

    /// Returns a hook for [`on_other_webhook`](crate::JobWebhook::on_other_webhook).
    ///
    /// # Errors
    ///
    /// The same as for [`keep_undecodable`](Self::keep_undecodable).
    ///
    /// # Cancellation
    ///
    /// If the hook's future is dropped, the webhook is kept or it is not.
    pub fn keep_other_webhooks(
        &self,
    ) -> impl Fn(OtherWebhook) -> KeepFuture + Clone + Send + Sync + 'static + use<> {
        let store = self.clone();
        move |webhook| {
            let max = store.max_body;
            store.clone().keep_later(move || {
                let body = bounded(webhook.body(), max)?;
                let error = Error::new(ErrorKind::UnexpectedWebhook);
                Ok(Keep::body(LetterKind::OtherWebhook, body, &error))
            })
        }
    }

    fn keep_later(
        self,
        keep: impl FnOnce() -> Result<Keep, KeepError> + Send + 'static,
    ) -> KeepFuture {
        Box::pin(async move {
            let keep = keep()?;
            self.keep(keep).await.map_err(KeepError::database)
        })
    }

    async fn keep(&self, keep: Keep) -> Result<(), sqlx::Error> {
        let statement = self
            .statement("letter_keep", include_str!("sql/letter_keep.sql"))
            .bind(keep.name)
            .bind(keep.kind.name())
            .bind(keep.guid)
            .bind(keep.status)
            .bind(keep.error)
            .bind(keep.body);
        self.run_for_one(statement).await?;
        Ok(())
    }
}

fn bounded(body: &[u8], max: usize) -> Result<&[u8], KeepError> {
    if body.len() > max {
        return Err(KeepError(Reason::TooLong {
            length: body.len(),
            max,
        }));
    }
    Ok(body)
}

/// The reason why a letter was not kept.
pub struct KeepError(Reason);

enum Reason {
    TooLong { length: usize, max: usize },
    Database(sqlx::Error),
}

impl KeepError {
    fn database(error: sqlx::Error) -> Self {
        Self(Reason::Database(error))
    }

    /// Returns whether the body is longer than `with_max_body` says.
    #[must_use]
    pub fn is_too_long(&self) -> bool {
        matches!(self.0, Reason::TooLong { .. })
    }
}

impl fmt::Display for KeepError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.0 {
            Reason::TooLong { length, max } => write!(
                f,
                "the body has {length} bytes, but dead letters have at most {max}: see \
                 `PostgresDeadLetters::with_max_body`"
            ),
            Reason::Database(_) => f.write_str("the dead letter could not be kept"),
        }
    }
}

// By hand, because the `Debug` of a database's error shows the row that it has refused.
impl fmt::Debug for KeepError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "KeepError{}", Causes(self))
    }
}

impl std::error::Error for KeepError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match &self.0 {
            Reason::TooLong { .. } => None,
            Reason::Database(error) => Some(error),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::error::Error as _;

    use super::*;

    #[test]
    fn a_body_that_is_too_long_is_an_error_that_says_so() {
        assert_eq!(bounded(b"12345", 5).unwrap(), b"12345");
        let error = bounded(b"12345", 4).unwrap_err();
        assert!(error.is_too_long() && error.source().is_none());
        let text = error.to_string();
        assert!(
            text.contains("5 bytes") && text.contains("at most 4"),
            "{text}"
        );
        let error = KeepError::database(sqlx::Error::PoolTimedOut);
        assert!(!error.is_too_long() && error.source().is_some());
        let debug = format!("{error:?}");
        assert!(
            debug.contains("KeepError") && debug.contains("timed out"),
            "{debug}"
        );
    }
}
