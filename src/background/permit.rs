//! The permit that a running callback holds.

use std::cell::RefCell;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use super::Background;
use super::task::tokio_is_here;

thread_local! {
    /// The callbacks that this thread is polling, the innermost last.
    static RUNNING: RefCell<Vec<Frame>> = const { RefCell::new(Vec::new()) };
}

struct Frame {
    background: Background,
    /// The callback's permit, once a call within it has borrowed it.
    loan: Option<Arc<Loan>>,
}

/// The permit of one callback, which returns to its `Background` when it is dropped.
///
/// A callback lends its permit to an event that it runs through the same `Background`, to one at a
/// time. So the two count once, a drain that begins in the middle of the outer callback does not
/// refuse the inner one, and the permit returns when both have ended. Further events that the
/// callback runs meanwhile need permits of their own.
pub(crate) struct Permit {
    background: Background,
    /// `None` until a call within the callback borrows the permit.
    loan: Option<Arc<Loan>>,
}

/// A permit that a callback can lend, and that it may have borrowed itself.
struct Loan {
    background: Background,
    lender: Option<Arc<Loan>>,
    is_lent: AtomicBool,
}

impl Loan {
    fn new(background: &Background, lender: Option<Arc<Self>>) -> Arc<Self> {
        Arc::new(Self {
            background: background.clone(),
            lender,
            is_lent: AtomicBool::new(false),
        })
    }
}

/// Runs once the callback, and the one that borrowed its permit, have ended.
impl Drop for Loan {
    fn drop(&mut self) {
        match &self.lender {
            Some(lender) => lender.is_lent.store(false, Ordering::SeqCst),
            None => self.background.0.permits.release(),
        }
    }
}

impl Permit {
    /// Wraps a permit that was acquired.
    pub(super) fn acquired(background: &Background) -> Self {
        Self {
            background: background.clone(),
            loan: None,
        }
    }

    /// Borrows the permit of the callback that this thread is polling, if `background` tracks it
    /// and the permit is not lent.
    pub(super) fn borrow_from_current_callback(background: &Background) -> Option<Self> {
        with_running(|running| {
            let frame = running
                .iter_mut()
                .rev()
                .find(|frame| frame.background.is(background))?;
            let lender = frame
                .loan
                .get_or_insert_with(|| Loan::new(background, None));
            if lender.is_lent.swap(true, Ordering::SeqCst) {
                return None;
            }
            Some(Self {
                background: background.clone(),
                loan: Some(Loan::new(background, Some(lender.clone()))),
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
            background: self.background.clone(),
            loan: self.loan.clone(),
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
        if self.loan.is_none() {
            self.background.0.permits.release();
        }
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
            loan: Some(loan), ..
        })) = with_running(Vec::pop)
        {
            self.permit.loan = Some(loan);
        }
    }
}

/// Returns the `Background` of the callback that this thread is polling.
pub(super) fn of_current_callback() -> Option<Background> {
    with_running(|running| Some(running.last()?.background.clone()))?
}

/// Changes the list of this thread's callbacks. Returns `None` if the thread is ending and its
/// locals are gone.
fn with_running<T>(change: impl FnOnce(&mut Vec<Frame>) -> T) -> Option<T> {
    RUNNING
        .try_with(|running| change(&mut running.borrow_mut()))
        .ok()
}
