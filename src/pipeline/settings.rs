//! The settings of a mount.

use crate::background::Background;
use crate::callback::{BoxedCallback, FailureHook};
use crate::credentials::Credentials;
use crate::event::{OtherWebhook, Undecodable};
use crate::util::catch_panic::CatchDrop;
use crate::util::deadline::Timeout;

/// The settings that the clones of a mount share.
#[derive(Clone)]
pub(crate) struct Settings<J> {
    pub(crate) credentials: Credentials,
    pub(crate) limits: Limits,
    pub(crate) answer_deadline: Timeout,
    pub(crate) background: Background,
    pub(crate) on_undecodable: Option<BoxedCallback<Undecodable>>,
    pub(crate) on_other_webhook: Option<BoxedCallback<OtherWebhook>>,
    pub(crate) on_error: Option<FailureHook>,
    pub(crate) jobs: CatchDrop<J>,
}

impl<J> Settings<J> {
    pub(crate) fn new(credentials: Credentials, jobs: J) -> Self {
        Self {
            credentials,
            limits: Limits::default(),
            answer_deadline: Timeout::NONE,
            background: Background::new(),
            on_undecodable: None,
            on_other_webhook: None,
            on_error: None,
            jobs: CatchDrop::new(jobs),
        }
    }

    /// Returns the same settings for another service.
    pub(crate) fn map_jobs<K>(self, map: impl FnOnce(J) -> K) -> Settings<K> {
        Settings {
            credentials: self.credentials,
            limits: self.limits,
            answer_deadline: self.answer_deadline,
            background: self.background,
            on_undecodable: self.on_undecodable,
            on_other_webhook: self.on_other_webhook,
            on_error: self.on_error,
            jobs: CatchDrop::new(map(self.jobs.into_inner())),
        }
    }
}

/// The limits of what a request may cost.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Limits {
    /// The longest body, in bytes.
    pub(crate) body: usize,
    pub(crate) read_timeout: Timeout,
    /// How much of a refused body is discarded, in bytes, if it is more than `body`; 0 disables it.
    pub(crate) discard: u64,
    pub(crate) discard_timeout: Timeout,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            body: 64 * 1024,
            read_timeout: Timeout::READ,
            discard: 8 * 1024 * 1024,
            discard_timeout: Timeout::DISCARD,
        }
    }
}
