//! What an acknowledged delivery came to.

/// Why a delivery is acknowledged: the answer 204 is a receipt.
///
/// The response of every `Service<JobEvent>` in this crate. A service of your own may
/// respond with `()`, which becomes [`Receipt::Handled`].
///
/// With the feature `axum` it is `IntoResponse`: 204 with an empty body, for each.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Receipt {
    /// The callback registered for the status returned success.
    Handled,
    /// There was no callback for the status, or `on_unhandled` took it.
    Unhandled,
    /// The hook `on_undecodable` took the body.
    Undecodable,
    /// The callback failed for good, and the hook `on_dead_letter` took the event.
    DeadLettered,
    /// An earlier delivery of the same event was acknowledged: see `DedupeLayer`.
    Duplicate,
    /// A later event of the same job was acknowledged: see `DedupeLayer`.
    Stale,
    /// The callback is under way; nobody knows yet: see `AcknowledgeFirstLayer`.
    Accepted,
}

impl Receipt {
    /// A name for logs, metrics and alerts, which stays as it is: `dead_lettered`.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Handled => "handled",
            Self::Unhandled => "unhandled",
            Self::Undecodable => "undecodable",
            Self::DeadLettered => "dead_lettered",
            Self::Duplicate => "duplicate",
            Self::Stale => "stale",
            Self::Accepted => "accepted",
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
    fn each_name_is_the_variants_in_snake_case() {
        let every = [
            (Receipt::Handled, "handled"),
            (Receipt::Unhandled, "unhandled"),
            (Receipt::Undecodable, "undecodable"),
            (Receipt::DeadLettered, "dead_lettered"),
            (Receipt::Duplicate, "duplicate"),
            (Receipt::Stale, "stale"),
            (Receipt::Accepted, "accepted"),
        ];
        for (receipt, name) in every {
            assert_eq!(receipt.name(), name);
            let variant = format!("{receipt:?}").to_lowercase();
            assert_eq!(name.replace('_', ""), variant);
        }
    }
}
