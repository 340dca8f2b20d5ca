//! The settings of the stand-in: how often, how fast, and in which order it delivers.

use std::marker::PhantomData;
use std::time::Duration;

use bytes::Bytes;

use super::{Losses, Mx};

/// Settings.
impl<B> Mx<B> {
    /// Sets how often it retries a delivery that is not answered 2xx. Defaults to 12.
    ///
    /// With 0 it never waits for a retry, so the clock need not be paused. On a real clock, shorten
    /// the waits with [`with_first_wait`](Self::with_first_wait).
    #[must_use]
    pub fn with_retries(mut self, retries: u32) -> Self {
        self.retries = retries;
        self
    }

    /// Sets the wait before the first retry, for tests on a real clock. Defaults to 21.1 s.
    ///
    /// All waits are scaled with it: each is twice as long as the one before, so that twelve take
    /// 4,095 times the first. By default this is 24 hours; with 1 ms, four seconds. A wait follows the
    /// answer, or [`with_patience`](Self::with_patience) if there is none.
    ///
    /// It does not scale the [interval](Self::with_interval) between samples or the patience. With
    /// this setting a retry does not panic if the clock runs.
    #[must_use]
    pub fn with_first_wait(mut self, first_wait: Duration) -> Self {
        self.first_wait = Some(first_wait);
        self
    }

    /// Sets how long it waits for an answer before it hangs up. Defaults to 30 s.
    ///
    /// MX does not publish its timeout.
    #[must_use]
    pub fn with_patience(mut self, patience: Duration) -> Self {
        self.patience = patience;
        self
    }

    /// Sets the interval between the first attempts of two samples. Defaults to 1 s.
    ///
    /// It does not wait for the answer to the earlier sample, so deliveries that take longer
    /// overlap.
    #[must_use]
    pub fn with_interval(mut self, interval: Duration) -> Self {
        self.interval = interval;
        self
    }

    /// Sets how many duplicates of each sample it sends. Defaults to 0.
    ///
    /// Duplicates are sent even if the sample was answered 2xx. Once all samples are sent, they are
    /// sent again from the first, and so on. For duplicates that overlap, call `deliver` twice at
    /// once (`tokio::join!`).
    #[must_use]
    pub fn with_duplicates(mut self, duplicates: u32) -> Self {
        self.duplicates = duplicates;
        self
    }

    /// Sets a seed for the order of the samples. Defaults to the order that is given.
    ///
    /// The same seed results in the same order. Each round of duplicates has an order of its own.
    #[must_use]
    pub fn with_reordering(mut self, seed: u64) -> Self {
        self.reordering = Some(seed);
        self
    }

    /// Sets the share of samples that are lost altogether: none of their attempts arrives.
    ///
    /// Defaults to 0. The same seed loses the same samples. A lost delivery has one attempt in the transcript,
    /// whose answer is [`Answer::Lost`](crate::testing::Answer::Lost).
    ///
    /// # Panics
    ///
    /// If the share is not between 0 and 1.
    #[must_use]
    #[track_caller]
    pub fn with_losses(mut self, share: f64, seed: u64) -> Self {
        assert!((0.0..=1.0).contains(&share), "a share is between 0 and 1");
        self.losses = Some(Losses { share, seed });
        self
    }

    /// Sets the type of the requests' bodies, for services that take one type only.
    #[must_use]
    pub fn with_body_type<Body: From<Bytes>>(self) -> Mx<Body> {
        Mx {
            uri: self.uri,
            headers: self.headers,
            patience: self.patience,
            interval: self.interval,
            retries: self.retries,
            first_wait: self.first_wait,
            duplicates: self.duplicates,
            reordering: self.reordering,
            losses: self.losses,
            jobs: self.jobs,
            body: PhantomData,
        }
    }
}
