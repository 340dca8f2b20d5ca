//! A count of places, with a bound, a door that closes, and somebody who waits until it is empty.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};
use std::task::{Context, Poll, Waker};

use crate::panic::catch;

pub(crate) struct Places {
    capacity: usize,
    /// How many are taken, and in the highest bit whether the door is closed.
    state: AtomicUsize,
    /// Touched only once the door is closed.
    waiting: Mutex<Vec<Waker>>,
}

const CLOSED: usize = !(usize::MAX >> 1);

pub(crate) enum NoPlace {
    Full,
    Closed,
}

impl Places {
    pub(crate) fn new(capacity: usize) -> Self {
        Self {
            capacity: capacity.min(!CLOSED),
            state: AtomicUsize::new(0),
            waiting: Mutex::default(),
        }
    }

    pub(crate) fn capacity(&self) -> usize {
        self.capacity
    }

    pub(crate) fn taken(&self) -> usize {
        self.state.load(Ordering::SeqCst) & !CLOSED
    }

    pub(crate) fn take(&self) -> Result<(), NoPlace> {
        let more = |state| (state < self.capacity).then_some(state + 1);
        self.state
            .fetch_update(Ordering::SeqCst, Ordering::SeqCst, more)
            .map(|_| ())
            .map_err(|state| match state & CLOSED {
                0 => NoPlace::Full,
                _ => NoPlace::Closed,
            })
    }

    /// Takes one though there may be none.
    pub(crate) fn take_anyway(&self) {
        self.state.fetch_add(1, Ordering::SeqCst);
    }

    pub(crate) fn give_back(&self) {
        if self.state.fetch_sub(1, Ordering::SeqCst) == CLOSED | 1 {
            // Woken when the lock is free again: a waker may poll at once.
            let wakers = std::mem::take(&mut *self.wakers());
            for waker in wakers {
                // One that panics leaves the others to be woken.
                let _ = catch(|| waker.wake());
            }
        }
    }

    pub(crate) fn close(&self) {
        self.state.fetch_or(CLOSED, Ordering::SeqCst);
    }

    /// Ready when nothing is taken any more; asked after the door was closed.
    pub(crate) fn poll_empty(&self, context: &mut Context<'_>) -> Poll<()> {
        if self.taken() == 0 {
            return Poll::Ready(());
        }
        // The waker is there before the count is read again: whoever gives the last place back
        // either is seen here, or finds the waker.
        let mut wakers = self.wakers();
        if !wakers.iter().any(|waker| waker.will_wake(context.waker())) {
            wakers.push(context.waker().clone());
        }
        if self.taken() == 0 {
            Poll::Ready(())
        } else {
            Poll::Pending
        }
    }

    fn wakers(&self) -> std::sync::MutexGuard<'_, Vec<Waker>> {
        // Nothing panics while it is held.
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
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
    fn no_more_than_there_are_and_none_after_the_door_is_closed() {
        let places = Places::new(2);
        assert!(places.take().is_ok() && places.take().is_ok());
        assert!(matches!(places.take(), Err(NoPlace::Full)));
        places.give_back();
        assert!(places.take().is_ok());
        places.close();
        assert!(matches!(places.take(), Err(NoPlace::Closed)));
        places.give_back();
        assert!(matches!(places.take(), Err(NoPlace::Closed)));
        assert_eq!(places.taken(), 1);
    }

    /// Polls when it is woken, as some executors do.
    struct PollsAtOnce(Arc<Places>);

    impl Wake for PollsAtOnce {
        fn wake(self: Arc<Self>) {
            let polled = self.0.poll_empty(&mut Context::from_waker(Waker::noop()));
            assert!(polled.is_ready());
        }
    }

    #[test]
    fn a_waker_may_poll_at_once() {
        let places = Arc::new(Places::new(1));
        assert!(places.take().is_ok());
        places.close();
        let waker = Waker::from(Arc::new(PollsAtOnce(places.clone())));
        assert!(
            places
                .poll_empty(&mut Context::from_waker(&waker))
                .is_pending()
        );
        places.give_back();
        assert!(places.wakers().is_empty());
    }

    #[test]
    fn the_last_to_leave_wakes_whoever_waits() {
        let places = Places::new(usize::MAX);
        assert!(places.take().is_ok() && places.take().is_ok());
        places.close();
        let woken = Arc::new(Woken::default());
        let waker = Waker::from(woken.clone());
        let context = &mut Context::from_waker(&waker);
        assert!(places.poll_empty(context).is_pending());
        places.give_back();
        assert!(!woken.0.load(Ordering::SeqCst));
        assert!(places.poll_empty(context).is_pending());
        places.give_back();
        assert!(woken.0.load(Ordering::SeqCst));
        assert!(places.poll_empty(context).is_ready());
    }
}
