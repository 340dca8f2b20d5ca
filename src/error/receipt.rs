//! Receipts of acknowledged deliveries.

/// The reason why a delivery was acknowledged. Answered 204.
///
/// It is the response of every `Service<JobEvent>` in this crate. A service of your own may respond
/// with `()`, which becomes [`Receipt::Handled`].
///
/// The receipt is in the extensions of each acknowledgement's response. Outer layers can log or
/// count it there, and tests can tell it from a 2xx of another route. The sender sees only the 204.
///
/// With the feature `axum`, it implements `IntoResponse`: 204 with an empty body, and the receipt in
/// the extensions.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Receipt {
    /// The callback registered for the status returned success.
    Handled,
    /// No callback is registered for the status, or `on_unhandled` took the event.
    Unhandled,
    /// The hook `on_undecodable` took the body.
    Undecodable,
    /// The hook `on_other_webhook` took another of MX's webhooks.
    OtherWebhook,
    /// The callback failed permanently, and the hook `on_dead_letter` took the event.
    DeadLettered,
    /// An earlier delivery of the same event was acknowledged: see `DedupeLayer`. Or a worker of the queue has handled the
    /// event: see `JobQueue`.
    Duplicate,
    /// A later event of the same job was acknowledged: see `DedupeLayer`.
    Stale,
    /// The callback is running, and can still fail: see `AcknowledgeFirstLayer`.
    Accepted,
    /// The event is stored in a durable queue, and its callback runs later: see `JobQueue`.
    Queued,
}

impl Receipt {
    /// Returns a stable name for logs, metrics and alerts, such as `dead_lettered`.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Handled => "handled",
            Self::Unhandled => "unhandled",
            Self::Undecodable => "undecodable",
            Self::OtherWebhook => "other_webhook",
            Self::DeadLettered => "dead_lettered",
            Self::Duplicate => "duplicate",
            Self::Stale => "stale",
            Self::Accepted => "accepted",
            Self::Queued => "queued",
        }
    }
}

impl From<()> for Receipt {
    fn from((): ()) -> Self {
        Self::Handled
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_name_is_its_variant_in_snake_case() {
        let every = [
            (Receipt::Handled, "handled"),
            (Receipt::Unhandled, "unhandled"),
            (Receipt::Undecodable, "undecodable"),
            (Receipt::OtherWebhook, "other_webhook"),
            (Receipt::DeadLettered, "dead_lettered"),
            (Receipt::Duplicate, "duplicate"),
            (Receipt::Stale, "stale"),
            (Receipt::Accepted, "accepted"),
            (Receipt::Queued, "queued"),
        ];
        for (receipt, name) in every {
            assert_eq!(receipt.name(), name);
            let variant = format!("{receipt:?}").to_lowercase();
            assert_eq!(name.replace('_', ""), variant);
        }
    }
}
