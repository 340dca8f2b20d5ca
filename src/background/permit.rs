//! The permit that a running callback holds.

use std::cell::RefCell;
use std::sync::Arc;

use super::Background;
use super::task::tokio_is_here;

thread_local! {
    /// The callbacks that this thread is polling, the innermost last.
    static RUNNING: RefCell<Vec<Frame>> = const { RefCell::new(Vec::new()) };
}

struct Frame {
    background: Identity,
    /// The callback's permit, once a call within it shares it.
    shared: Option<Arc<Acquired>>,
}

/// The address of a `Background`, unique among those that are alive.
type Identity = usize;

/// The permit of one callback, which returns to its `Background` when it is dropped.
///
/// If a callback runs an event through the same `Background`, the outer and the inner callback
/// share one permit, which returns when both have dropped it. So they count once, a shutdown in the
/// middle of the outer callback does not refuse the inner one, and a drain waits for both.
pub(crate) struct Permit {
    background: Background,
    /// `None` until a call within the callback shares it.
    shared: Option<Arc<Acquired>>,
}

/// A permit that several callbacks share, until the last one drops it.
struct Acquired(Background);

impl Permit {
    /// Wraps a permit that was acquired.
    pub(super) fn acquired(background: &Background) -> Self {
        Self {
            background: background.clone(),
            shared: None,
        }
    }

    /// Shares the permit of the callback that this thread is polling, if `background` tracks it.
    pub(super) fn of_current_callback(background: &Background) -> Option<Self> {
        let identity = identity(background);
        with_running(|running| {
            let frame = running
                .iter_mut()
                .rev()
                .find(|frame| frame.background == identity)?;
            let shared = frame
                .shared
                .get_or_insert_with(|| Arc::new(Acquired(background.clone())));
            Some(Self {
                background: background.clone(),
                shared: Some(shared.clone()),
            })
        })?
    }

    /// Returns whether there is a runtime to hand a future to.
    pub(crate) fn can_spawn(&self) -> bool {
        self.background.0.spawn.is_some() || tokio_is_here()
    }

    /// Marks this thread as polling the callback, until the guard is dropped.
    pub(crate) fn enter(&mut self) -> Entered<'_> {
        let frame = Frame {
            background: identity(&self.background),
            shared: self.shared.clone(),
        };
        let _ = with_running(|running| running.push(frame));
        Entered { permit: self }
    }

    pub(super) fn background(&self) -> &Background {
        &self.background
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        if self.shared.is_none() {
            self.background.0.permits.release();
        }
    }
}

impl Drop for Acquired {
    fn drop(&mut self) {
        self.0.0.permits.release();
    }
}

/// The guard of [`Permit::enter`].
#[must_use]
pub(crate) struct Entered<'a> {
    permit: &'a mut Permit,
}

impl Drop for Entered<'_> {
    fn drop(&mut self) {
        if let Some(Some(Frame {
            shared: Some(shared),
            ..
        })) = with_running(Vec::pop)
        {
            self.permit.shared = Some(shared);
        }
    }
}

/// Changes the list of this thread's callbacks. Returns `None` if the thread is ending and its
/// locals are gone.
fn with_running<T>(change: impl FnOnce(&mut Vec<Frame>) -> T) -> Option<T> {
    RUNNING
        .try_with(|running| change(&mut running.borrow_mut()))
        .ok()
}

fn identity(background: &Background) -> Identity {
    Arc::as_ptr(&background.0).addr()
}
