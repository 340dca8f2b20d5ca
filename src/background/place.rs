//! A place that is taken, by a callback or by what runs on of it.

use std::cell::RefCell;
use std::sync::Arc;

use super::Background;
use super::task::tokio_is_here;

thread_local! {
    /// The callbacks that this thread runs just now, one within the other.
    static RUNNING: RefCell<Vec<Frame>> = const { RefCell::new(Vec::new()) };
}

struct Frame {
    background: Identity,
    /// The callback's place, once something within it shares that.
    shared: Option<Arc<Taken>>,
}

/// Which `Background` it is, among those that are alive.
type Identity = usize;

/// The place of one callback, free again when it is dropped.
///
/// A callback that calls a router of the same `Background`, as a service of the application's own
/// may, is one callback still. Both share the place, which is free when neither has it any more:
/// they count once, the inner one is not refused at shutdown in the middle of the outer one, and
/// a drain waits for either, wherever it went.
pub(crate) struct Place {
    background: Background,
    /// `None` until a call within the callback shares it.
    shared: Option<Arc<Taken>>,
}

/// A place that is taken until this is dropped.
struct Taken(Background);

impl Place {
    /// The place that was taken.
    pub(super) fn taken(background: &Background) -> Self {
        Self {
            background: background.clone(),
            shared: None,
        }
    }

    /// The place of the callback that this thread runs, if it is one of this `Background`'s.
    pub(super) fn of_current_callback(background: &Background) -> Option<Self> {
        let identity = identity(background);
        with_running(|running| {
            let frame = running
                .iter_mut()
                .rev()
                .find(|frame| frame.background == identity)?;
            let shared = frame
                .shared
                .get_or_insert_with(|| Arc::new(Taken(background.clone())));
            Some(Self {
                background: background.clone(),
                shared: Some(shared.clone()),
            })
        })?
    }

    /// Whether there is a runtime to hand a future to.
    pub(crate) fn can_spawn(&self) -> bool {
        self.background.0.spawn.is_some() || tokio_is_here()
    }

    /// Until what this gives is dropped, the code of this thread is the callback's.
    pub(crate) fn enter(&mut self) -> Entered<'_> {
        let frame = Frame {
            background: identity(&self.background),
            shared: self.shared.clone(),
        };
        let _ = with_running(|running| running.push(frame));
        Entered { place: self }
    }

    pub(super) fn background(&self) -> &Background {
        &self.background
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        if self.shared.is_none() {
            self.background.0.places.give_back();
        }
    }
}

impl Drop for Taken {
    fn drop(&mut self) {
        self.0.0.places.give_back();
    }
}

/// What [`Place::enter`] gives.
#[must_use]
pub(crate) struct Entered<'a> {
    place: &'a mut Place,
}

impl Drop for Entered<'_> {
    fn drop(&mut self) {
        if let Some(Some(Frame {
            shared: Some(shared),
            ..
        })) = with_running(Vec::pop)
        {
            self.place.shared = Some(shared);
        }
    }
}

/// Nothing, where the thread ends and its locals are gone.
fn with_running<T>(change: impl FnOnce(&mut Vec<Frame>) -> T) -> Option<T> {
    RUNNING
        .try_with(|running| change(&mut running.borrow_mut()))
        .ok()
}

fn identity(background: &Background) -> Identity {
    Arc::as_ptr(&background.0).addr()
}
