//! The kinds of errors, each of which has an answer.

/// What kind of thing went wrong, and so what the answer is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ErrorKind {
    /// Another method than POST came to the terminal service. Answered 405.
    MethodNotAllowed,
    /// The credentials are missing, malformed or wrong. Answered 401.
    Unauthorized,
    /// A closure that checks credentials failed or panicked. Answered 503.
    AuthenticationUnavailable,
    /// The content type is not JSON. Answered 415.
    UnsupportedMediaType,
    /// A content coding was applied, such as gzip. Answered 415.
    UnsupportedContentEncoding,
    /// The body is longer than the limit, or says it will be. Answered 413.
    BodyTooLarge,
    /// The body broke off. Answered 400.
    BodyInterrupted,
    /// The body came too slowly. Answered 408.
    ReadTimeout,
    /// The body is not UTF-8, or not one JSON document. Answered 422.
    NotJson,
    /// Another kind of MX webhook, which has no `job`. Answered 422.
    OtherWebhook,
    /// JSON without an object `job` at its root. Answered 422.
    NoJob,
    /// A job without a usable `guid` or status, or with a field twice. Answered 422.
    InvalidJob,
    /// The callback returned an error. Answered 500.
    CallbackFailed,
    /// The callback panicked, or other code of the application did. Answered 500.
    CallbackPanicked,
    /// The callback was cut short before its end. If the sender still waits, answered 500.
    CallbackCancelled,
    /// The service around the callbacks refused, for now. Answered 503.
    Overloaded,
    /// A timeout around the callbacks passed. Answered 503.
    TimedOut,
    /// The answer deadline passed; a callback that started runs on. Answered 503.
    AnswerDeadline,
    /// An earlier delivery of the same event is still under way. Answered 503.
    InFlight,
    /// The ledger could not be asked or told, or gave no answer in time. Answered 503.
    LedgerUnavailable,
    /// The application is shutting down. Answered 503.
    ShuttingDown,
}

impl ErrorKind {
    /// Whether the body was at fault, so that the same bytes would fail again.
    ///
    /// True for [`NotJson`](Self::NotJson), [`OtherWebhook`](Self::OtherWebhook),
    /// [`NoJob`](Self::NoJob) and [`InvalidJob`](Self::InvalidJob): what the hook
    /// `on_undecodable` is called for.
    #[must_use]
    pub fn is_undecodable(self) -> bool {
        matches!(
            self,
            Self::NotJson | Self::OtherWebhook | Self::NoJob | Self::InvalidJob
        )
    }

    /// A name for logs, metrics and alerts, which stays as it is: `callback_failed`.
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
            Self::OtherWebhook => "other_webhook",
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
            Self::ShuttingDown => "shutting_down",
        }
    }

    /// Whether it says how callbacks went. The other kinds say that none was called, which from
    /// within one is something that the application did, and no reason to answer by.
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
                | Self::ShuttingDown
        )
    }

    pub(super) fn text(self) -> &'static str {
        match self {
            Self::MethodNotAllowed => "method not allowed",
            Self::Unauthorized => "unauthorized",
            Self::AuthenticationUnavailable => "the credentials could not be checked",
            Self::UnsupportedMediaType => "the content type is not JSON",
            Self::UnsupportedContentEncoding => "the content is encoded",
            Self::BodyTooLarge => "the body is too large",
            Self::BodyInterrupted => "the body broke off",
            Self::ReadTimeout => "the body came too slowly",
            Self::NotJson => "not JSON",
            Self::OtherWebhook => "another kind of MX webhook",
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
            Self::ShuttingDown => "shutting down",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_name_is_the_variants_in_snake_case() {
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
            ErrorKind::OtherWebhook,
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
