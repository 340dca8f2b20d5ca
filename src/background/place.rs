//! A place that is taken, by a callback or by what runs on of it.

use super::task::tokio_is_here;
use super::{Background, BackgroundTask};
use crate::observe::Observed;
use crate::panic::drop_caught;

/// The place of one callback, free again when it is dropped.
pub(crate) struct Place(pub(super) Background);

impl Place {
    /// Whether there is a runtime to hand a future to.
    pub(crate) fn can_spawn(&self) -> bool {
        self.0.0.spawn.is_some() || tokio_is_here()
    }

    /// Hands the rest of a delivery to the runtime, or cancels it where there is none.
    ///
    /// The place goes along. It is free when nothing of the delivery is left: neither the callback
    /// nor what it returned, whose destructors may take their time.
    pub(crate) fn spawn(self, delivery: Observed) {
        let background = self.0.clone();
        background.spawn_task(BackgroundTask::new(Box::pin(async move {
            let outcome = delivery.await;
            let _ = drop_caught(outcome);
            drop(self);
        })));
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.0.0.places.give_back();
    }
}
