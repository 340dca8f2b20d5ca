//! Where events come from.

/// How an event came to this process.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Source {
    /// A mount or the extractor has received it from a sender with the right credentials.
    Webhook,
    /// A failsafe has read the job.
    Failsafe,
    /// A worker has taken it from a durable queue.
    Queue,
    /// The application has made it, decoded it or stored it, and called
    /// [`Background::run`](crate::Background::run) with it.
    Call,
    /// It was kept as a dead letter, and is run once more: see the module `dead_letters`.
    Replay,
}

impl Source {
    /// Returns a stable name for logs, metrics and alerts, such as `webhook`.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Webhook => "webhook",
            Self::Failsafe => "failsafe",
            Self::Queue => "queue",
            Self::Call => "call",
            Self::Replay => "replay",
        }
    }
}
