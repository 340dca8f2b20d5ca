//! How it delivers: how often, how fast, and in which order.

use std::marker::PhantomData;
use std::time::Duration;

use bytes::Bytes;

use super::Mx;

/// How it delivers.
impl<B> Mx<B> {
    /// Sets how often it sends what is not answered 2xx again; 12 times unless set.
    ///
    /// With 0 it never waits for a day to pass, and needs no clock that is paused.
    #[must_use]
    pub fn with_retries(mut self, retries: u32) -> Self {
        self.retries = retries;
        self
    }

    /// Sets how long it waits for an answer before it hangs up; 30 s unless set.
    ///
    /// MX does not publish its own.
    #[must_use]
    pub fn with_patience(mut self, patience: Duration) -> Self {
        self.patience = patience;
        self
    }

    /// Sets how long after one sample it sends the next; 1 s unless set.
    ///
    /// It does not wait for an answer before: what takes longer overlaps.
    #[must_use]
    pub fn with_interval(mut self, interval: Duration) -> Self {
        self.interval = interval;
        self
    }

    /// Sends everything so many times more, though it was answered 2xx.
    ///
    /// When all samples were sent they are sent once more from the first, and so on. For
    /// copies that overlap, deliver twice at once (`tokio::join!`).
    #[must_use]
    pub fn with_duplicates(mut self, duplicates: u32) -> Self {
        self.duplicates = duplicates;
        self
    }

    /// Sends in an order that it draws from this seed: one seed, one order.
    ///
    /// Each round of copies has an order of its own. To choose the order, give the samples in it.
    #[must_use]
    pub fn with_reordering(mut self, seed: u64) -> Self {
        self.reordering = Some(seed);
        self
    }

    /// Sets the type of the requests' bodies, for services that take only one.
    #[must_use]
    pub fn with_body_type<Body: From<Bytes>>(self) -> Mx<Body> {
        Mx {
            uri: self.uri,
            headers: self.headers,
            patience: self.patience,
            interval: self.interval,
            retries: self.retries,
            duplicates: self.duplicates,
            reordering: self.reordering,
            body: PhantomData,
        }
    }
}
