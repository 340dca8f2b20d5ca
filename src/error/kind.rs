//! The kinds of errors, each with its answer.

/// The kind of an [`Error`](crate::Error), which decides the answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ErrorKind {
    /// The request to the terminal service was not a POST. Answered 405.
    MethodNotAllowed,
    /// The credentials are missing, malformed, wrong or expired. Answered 401.
    Unauthorized,
    /// A closure that checks credentials failed or panicked. Answered 503.
    AuthenticationUnavailable,
    /// The content type is not JSON. Answered 415.
    UnsupportedMediaType,
    /// The body has a content coding, such as gzip. Answered 415.
    UnsupportedContentEncoding,
    /// The body, or its announced length, exceeds the limit. Answered 413.
    BodyTooLarge,
    /// The body broke off. Answered 400.
    BodyInterrupted,
    /// The body arrived too slowly. Answered 408.
    ReadTimeout,
    /// The body is not UTF-8, or not one JSON document. Answered 422.
    NotJson,
    /// The body is another of MX's webhooks, which have no `job`, and no hook takes it. Answered 422.
    UnexpectedWebhook,
    /// The body is JSON without an object `job` at its root. Answered 422.
    NoJob,
    /// The job lacks a usable `guid` or status, or has a field twice. Answered 422.
    InvalidJob,
    /// The callback returned an error. Answered 500.
    CallbackFailed,
    /// The callback, or other code of the application, panicked. Answered 500.
    CallbackPanicked,
    /// The callback was cut short. Answered 500, if the sender is still waiting.
    CallbackCancelled,
    /// All permits are taken, or a service around the callbacks refused. Answered 503.
    Overloaded,
    /// A timeout around the callbacks passed. Answered 503.
    TimedOut,
    /// The answer deadline passed. A running callback continues. Answered 503.
    AnswerDeadline,
    /// An earlier delivery of the same event is in flight. Answered 503.
    InFlight,
    /// The ledger failed, or did not answer in time. Answered 503.
    LedgerUnavailable,
    /// The store of expected jobs failed, or did not answer in time. Answered 503.
    WatchUnavailable,
    /// The durable queue failed, or did not answer in time. Answered 503.
    QueueUnavailable,
    /// The application is shutting down. Answered 503.
    ShuttingDown,
}

impl ErrorKind {
    /// Returns whether the body could not be decoded. The same bytes would fail again.
    ///
    /// Returns true for [`NotJson`](Self::NotJson), [`NoJob`](Self::NoJob) and
    /// [`InvalidJob`](Self::InvalidJob). The hook `on_undecodable` is called for these.
    #[must_use]
    pub fn is_undecodable(self) -> bool {
        matches!(self, Self::NotJson | Self::NoJob | Self::InvalidJob)
    }

    /// Returns a stable name for logs, metrics and alerts, such as `callback_failed`.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::MethodNotAllowed => "method_not_allowed",
            Self::Unauthorized => "unauthorized",
            Self::AuthenticationUnavailable => "authentication_unavailable",
            Self::UnsupportedMediaType => "unsupported_media_type",
            Self::UnsupportedContentEncoding => "unsupported_content_encoding",
            Self::BodyTooLarge => "body_too_large",
            Self::BodyInterrupted => "body_interrupted",
            Self::ReadTimeout => "read_timeout",
            Self::NotJson => "not_json",
            Self::UnexpectedWebhook => "unexpected_webhook",
            Self::NoJob => "no_job",
            Self::InvalidJob => "invalid_job",
            Self::CallbackFailed => "callback_failed",
            Self::CallbackPanicked => "callback_panicked",
            Self::CallbackCancelled => "callback_cancelled",
            Self::Overloaded => "overloaded",
            Self::TimedOut => "timed_out",
            Self::AnswerDeadline => "answer_deadline",
            Self::InFlight => "in_flight",
            Self::LedgerUnavailable => "ledger_unavailable",
            Self::WatchUnavailable => "watch_unavailable",
            Self::QueueUnavailable => "queue_unavailable",
            Self::ShuttingDown => "shutting_down",
        }
    }

    /// Returns whether a service of events can fail with this kind.
    ///
    /// The other kinds mean that a request was refused before any callback ran. A callback that
    /// returns such an error got it from elsewhere, and has simply failed.
    pub(super) fn is_of_callbacks(self) -> bool {
        matches!(
            self,
            Self::CallbackFailed
                | Self::CallbackPanicked
                | Self::CallbackCancelled
                | Self::Overloaded
                | Self::TimedOut
                | Self::AnswerDeadline
                | Self::InFlight
                | Self::LedgerUnavailable
                | Self::WatchUnavailable
                | Self::QueueUnavailable
                | Self::ShuttingDown
        )
    }

    /// Returns whether the cause is an error of the request's body.
    pub(super) fn is_of_bodies(self) -> bool {
        matches!(self, Self::BodyInterrupted | Self::BodyTooLarge)
    }

    /// Returns whether the cause can repeat what a sender has sent.
    pub(super) fn is_of_senders(self) -> bool {
        self.is_of_bodies() || matches!(self, Self::Unauthorized | Self::AuthenticationUnavailable)
    }

    pub(super) fn text(self) -> &'static str {
        match self {
            Self::MethodNotAllowed => "method not allowed",
            Self::Unauthorized => "unauthorized",
            Self::AuthenticationUnavailable => "the credentials could not be checked",
            Self::UnsupportedMediaType => "the content type is not JSON",
            Self::UnsupportedContentEncoding => "the content coding is not supported",
            Self::BodyTooLarge => "the body is too large",
            Self::BodyInterrupted => "the body broke off",
            Self::ReadTimeout => "the body came too slowly",
            Self::NotJson => "not JSON",
            Self::UnexpectedWebhook => "another kind of MX webhook",
            Self::NoJob => "not a job webhook",
            Self::InvalidJob => "invalid job",
            Self::CallbackFailed => "the callback failed",
            Self::CallbackPanicked => "the callback panicked",
            Self::CallbackCancelled => "the callback was cut short",
            Self::Overloaded => "overloaded",
            Self::TimedOut => "the callback timed out",
            Self::AnswerDeadline => "the answer deadline passed",
            Self::InFlight => "an earlier delivery of the event is still under way",
            Self::LedgerUnavailable => "the ledger is unavailable",
            Self::WatchUnavailable => "the store of expected jobs is unavailable",
            Self::QueueUnavailable => "the queue is unavailable",
            Self::ShuttingDown => "shutting down",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_name_is_its_variant_in_snake_case() {
        let every = [
            ErrorKind::MethodNotAllowed,
            ErrorKind::Unauthorized,
            ErrorKind::AuthenticationUnavailable,
            ErrorKind::UnsupportedMediaType,
            ErrorKind::UnsupportedContentEncoding,
            ErrorKind::BodyTooLarge,
            ErrorKind::BodyInterrupted,
            ErrorKind::ReadTimeout,
            ErrorKind::NotJson,
            ErrorKind::UnexpectedWebhook,
            ErrorKind::NoJob,
            ErrorKind::InvalidJob,
            ErrorKind::CallbackFailed,
            ErrorKind::CallbackPanicked,
            ErrorKind::CallbackCancelled,
            ErrorKind::Overloaded,
            ErrorKind::TimedOut,
            ErrorKind::AnswerDeadline,
            ErrorKind::InFlight,
            ErrorKind::LedgerUnavailable,
            ErrorKind::WatchUnavailable,
            ErrorKind::QueueUnavailable,
            ErrorKind::ShuttingDown,
        ];
        for kind in every {
            let mut expected = String::new();
            for letter in format!("{kind:?}").chars() {
                if letter.is_uppercase() && !expected.is_empty() {
                    expected.push('_');
                }
                expected.extend(letter.to_lowercase());
            }
            assert_eq!(kind.name(), expected);
        }
    }
}
