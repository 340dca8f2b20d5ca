//! A closable semaphore; callers can wait until all permits return.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};
use std::task::{Context, Poll, Waker};

use crate::util::catch_panic::catch;

pub(super) struct Permits {
    capacity: usize,
    /// The number of permits that are taken. The highest bit is set once it is closed.
    state: AtomicUsize,
    /// The wakers of callers that wait for all permits. Empty until it is closed.
    wakers: Mutex<Vec<Waker>>,
}

const CLOSED: usize = !(usize::MAX >> 1);

/// The reason why no permit was given.
#[derive(Clone, Copy)]
pub(crate) enum NoPermit {
    /// All permits are taken.
    AllTaken,
    /// The `Background` is being drained.
    Closed,
}

impl Permits {
    pub(super) fn new(capacity: usize) -> Self {
        Self {
            capacity: capacity.min(!CLOSED),
            state: AtomicUsize::new(0),
            wakers: Mutex::default(),
        }
    }

    pub(super) fn capacity(&self) -> usize {
        self.capacity
    }

    pub(super) fn taken(&self) -> usize {
        self.state.load(Ordering::SeqCst) & !CLOSED
    }

    pub(super) fn acquire(&self) -> Result<(), NoPermit> {
        let more = |state| (state < self.capacity).then_some(state + 1);
        self.state
            .fetch_update(Ordering::SeqCst, Ordering::SeqCst, more)
            .map(|_| ())
            .map_err(|state| match state & CLOSED {
                0 => NoPermit::AllTaken,
                _ => NoPermit::Closed,
            })
    }

    /// Acquires a permit even if all are taken or it is closed.
    pub(super) fn acquire_beyond_capacity(&self) {
        self.state.fetch_add(1, Ordering::SeqCst);
    }

    pub(super) fn release(&self) {
        if self.state.fetch_sub(1, Ordering::SeqCst) == CLOSED | 1 {
            // The lock is released first, because a waker may poll at once.
            let wakers = std::mem::take(&mut *self.lock_wakers());
            for waker in wakers {
                // If one panics, the others are still woken.
                let _ = catch(|| waker.wake());
            }
        }
    }

    pub(super) fn close(&self) {
        self.state.fetch_or(CLOSED, Ordering::SeqCst);
    }

    /// Returns ready once all permits have returned. Call it after `close`.
    pub(super) fn poll_all_returned(&self, context: &mut Context<'_>) -> Poll<()> {
        if self.taken() == 0 {
            return Poll::Ready(());
        }
        // The waker is stored before the count is read again. A permit that returns in between is
        // seen here, or it finds the waker.
        let mut wakers = self.lock_wakers();
        if !wakers.iter().any(|waker| waker.will_wake(context.waker())) {
            wakers.push(context.waker().clone());
        }
        if self.taken() == 0 {
            Poll::Ready(())
        } else {
            Poll::Pending
        }
    }

    fn lock_wakers(&self) -> std::sync::MutexGuard<'_, Vec<Waker>> {
        // No code panics while the lock is held.
        self.wakers.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::AtomicBool;
    use std::task::Wake;

    use super::*;

    #[derive(Default)]
    struct Woken(AtomicBool);

    impl Wake for Woken {
        fn wake(self: Arc<Self>) {
            self.0.store(true, Ordering::SeqCst);
        }
    }

    #[test]
    fn no_permit_is_given_beyond_the_capacity_or_after_closing() {
        let permits = Permits::new(2);
        assert!(permits.acquire().is_ok() && permits.acquire().is_ok());
        assert!(matches!(permits.acquire(), Err(NoPermit::AllTaken)));
        permits.release();
        assert!(permits.acquire().is_ok());
        permits.close();
        assert!(matches!(permits.acquire(), Err(NoPermit::Closed)));
        permits.release();
        assert!(matches!(permits.acquire(), Err(NoPermit::Closed)));
        assert_eq!(permits.taken(), 1);
    }

    /// Polls as soon as it is woken, as some executors do.
    struct PollsAtOnce(Arc<Permits>);

    impl Wake for PollsAtOnce {
        fn wake(self: Arc<Self>) {
            let polled = self
                .0
                .poll_all_returned(&mut Context::from_waker(Waker::noop()));
            assert!(polled.is_ready());
        }
    }

    #[test]
    fn a_waker_can_poll_at_once_without_a_deadlock() {
        let permits = Arc::new(Permits::new(1));
        assert!(permits.acquire().is_ok());
        permits.close();
        let waker = Waker::from(Arc::new(PollsAtOnce(permits.clone())));
        assert!(
            permits
                .poll_all_returned(&mut Context::from_waker(&waker))
                .is_pending()
        );
        permits.release();
        assert!(permits.lock_wakers().is_empty());
    }

    #[test]
    fn the_last_permit_that_returns_wakes_all_waiters() {
        let permits = Permits::new(usize::MAX);
        assert!(permits.acquire().is_ok() && permits.acquire().is_ok());
        permits.close();
        let woken = Arc::new(Woken::default());
        let waker = Waker::from(woken.clone());
        let context = &mut Context::from_waker(&waker);
        assert!(permits.poll_all_returned(context).is_pending());
        permits.release();
        assert!(!woken.0.load(Ordering::SeqCst));
        assert!(permits.poll_all_returned(context).is_pending());
        permits.release();
        assert!(woken.0.load(Ordering::SeqCst));
        assert!(permits.poll_all_returned(context).is_ready());
    }
}
