//! A place that is taken, by a callback or by what runs on of it.

use std::cell::Cell;
use std::future::poll_fn;
use std::pin::Pin;
use std::sync::Arc;

use super::task::tokio_is_here;
use super::{Background, BackgroundTask};
use crate::observe::Observed;
use crate::panic::drop_caught;

thread_local! {
    /// The `Background` whose callback this thread runs just now.
    static CURRENT: Cell<Option<Identity>> = const { Cell::new(None) };
}

/// Which `Background` it is, among those that are alive.
type Identity = usize;

/// The place of one callback, free again when it is dropped.
pub(crate) struct Place {
    background: Background,
    /// Whether it was made within a callback of the same `Background`. What a callback calls
    /// and awaits is part of it, and shares its place: or a router behind a service of the
    /// application's would count twice, and be refused at shutdown in mid-callback.
    is_within: bool,
    /// Whether it counts by itself. One that is made within a callback does until it is polled
    /// there: it may yet be sent elsewhere, and a drain has to wait for it.
    counts: bool,
}

impl Place {
    /// A place that was taken.
    pub(super) fn taken(background: &Background) -> Self {
        Self {
            background: background.clone(),
            is_within: false,
            counts: true,
        }
    }

    /// A place within the callback that this thread runs, if it is one of this `Background`'s.
    pub(super) fn within_callback(background: &Background) -> Option<Self> {
        is_current(background).then(|| {
            background.0.places.take_anyway();
            let mut place = Self::taken(background);
            place.is_within = true;
            place
        })
    }

    /// Whether there is a runtime to hand a future to.
    pub(crate) fn can_spawn(&self) -> bool {
        self.background.0.spawn.is_some() || tokio_is_here()
    }

    /// Until what this gives is dropped, the code of this thread is the callback's.
    pub(crate) fn enter(&mut self) -> Entered {
        if self.is_within {
            self.set_counts(!is_current(&self.background));
        }
        Entered {
            before: CURRENT.replace(Some(identity(&self.background))),
        }
    }

    /// Hands the rest of a delivery to the runtime, or cancels it where there is none.
    ///
    /// The place goes along. It is free when nothing of the delivery is left: neither the callback
    /// nor what it returned, whose destructors may take their time.
    pub(crate) fn spawn(mut self, mut delivery: Observed) {
        self.set_counts(true);
        let background = self.background.clone();
        background.spawn_task(BackgroundTask::new(Box::pin(async move {
            let outcome = poll_fn(|context| {
                let _entered = self.enter();
                Pin::new(&mut delivery).poll(context)
            })
            .await;
            let _ = drop_caught((outcome, delivery));
            drop(self);
        })));
    }

    fn set_counts(&mut self, counts: bool) {
        let places = &self.background.0.places;
        match (self.counts, counts) {
            (false, true) => places.take_anyway(),
            (true, false) => places.give_back(),
            _ => {}
        }
        self.counts = counts;
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.set_counts(false);
    }
}

/// What [`Place::enter`] gives.
#[must_use]
pub(crate) struct Entered {
    before: Option<Identity>,
}

impl Drop for Entered {
    fn drop(&mut self) {
        CURRENT.set(self.before);
    }
}

fn is_current(background: &Background) -> bool {
    CURRENT.get() == Some(identity(background))
}

fn identity(background: &Background) -> Identity {
    Arc::as_ptr(&background.0).addr()
}
