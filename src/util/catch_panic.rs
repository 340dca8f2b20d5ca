//! A panic in the application's code ends one delivery and nothing else.
//!
//! Code of the application runs when a callback is called, polled and dropped, when what it returned
//! is converted, and when a panic's own payload is dropped. Each of these can panic.

use std::any::Any;
use std::ops::{Deref, DerefMut};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::Pin;
use std::task::{Context, Poll};

use pin_project_lite::pin_project;

/// The code panicked. What it said is left to the panic hook: it may name a person.
#[derive(Debug)]
pub(crate) struct Panicked;

/// Runs synchronous code of the application.
///
/// Asserting unwind safety is sound here because whatever the code was given is dropped with the
/// delivery; what it shares with others is the application's, which chose how it is locked.
pub(crate) fn catch<T>(code: impl FnOnce() -> T) -> Result<T, Panicked> {
    catch_unwind(AssertUnwindSafe(code)).map_err(|payload| {
        drop_payload(payload);
        Panicked
    })
}

/// Drops the payload of a panic, which can panic in turn. What that one throws is leaked: its
/// destructor could go on like this without end.
#[cold]
fn drop_payload(payload: Box<dyn Any + Send>) {
    if let Err(thrown) = catch_unwind(AssertUnwindSafe(|| drop(payload))) {
        std::mem::forget(thrown);
    }
}

/// Drops a value of the application's.
pub(crate) fn drop_caught<T>(value: T) -> Result<(), Panicked> {
    catch(|| drop(value))
}

/// A value of the application's whose destructor may panic: nobody hears of it.
///
/// Where another panic is already under way, the second would end the process.
#[derive(Clone)]
pub(crate) struct CatchDrop<T>(Option<T>);

impl<T> CatchDrop<T> {
    pub(crate) fn new(value: T) -> Self {
        Self(Some(value))
    }
}

impl<T> Deref for CatchDrop<T> {
    type Target = T;

    fn deref(&self) -> &T {
        match &self.0 {
            Some(value) => value,
            None => unreachable!("only the destructor takes it"),
        }
    }
}

impl<T> DerefMut for CatchDrop<T> {
    fn deref_mut(&mut self) -> &mut T {
        match &mut self.0 {
            Some(value) => value,
            None => unreachable!("only the destructor takes it"),
        }
    }
}

impl<T> Drop for CatchDrop<T> {
    fn drop(&mut self) {
        let _ = drop_caught(self.0.take());
    }
}

pin_project! {
    /// Runs asynchronous code of the application: from the call that creates it, through the
    /// conversion of its output, to the end of its destructor.
    pub(crate) struct CatchPanic<F, T>
    where
        F: Future,
    {
        // Gone once it has ended: it is never polled again, and what it held (locks, permits) is
        // released before anyone hears how it ended.
        #[pin]
        future: Option<F>,
        convert: fn(F::Output) -> T,
    }

    impl<F, T> PinnedDrop for CatchPanic<F, T>
    where
        F: Future,
    {
        fn drop(this: Pin<&mut Self>) {
            let _ = this.drop_future();
        }
    }
}

impl<F: Future, T> CatchPanic<F, T> {
    pub(crate) fn start(start: impl FnOnce() -> F, convert: fn(F::Output) -> T) -> Self {
        Self {
            future: catch(start).ok(),
            convert,
        }
    }

    fn drop_future(self: Pin<&mut Self>) -> Result<(), Panicked> {
        let mut future = self.project().future;
        if future.is_none() {
            return Ok(());
        }
        catch(|| future.set(None))
    }
}

impl<F: Future, T> Future for CatchPanic<F, T> {
    type Output = Result<T, Panicked>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.as_mut().project();
        let Some(future) = this.future.as_pin_mut() else {
            return Poll::Ready(Err(Panicked));
        };
        let polled = catch(|| future.poll(context).map(*this.convert));
        let output = match polled {
            Ok(Poll::Pending) => return Poll::Pending,
            Ok(Poll::Ready(output)) => Ok(output),
            Err(panicked) => Err(panicked),
        };
        // A destructor that panics is the callback's panic, whatever it returned.
        Poll::Ready(match (output, self.drop_future()) {
            (Ok(output), Ok(())) => Ok(output),
            (output, _) => {
                let _ = drop_caught(output);
                Err(Panicked)
            }
        })
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicU32, Ordering};
    use std::task::Waker;

    use super::*;

    fn start<F: Future>(start: impl FnOnce() -> F) -> CatchPanic<F, F::Output> {
        CatchPanic::start(start, |output| output)
    }

    fn poll_once<F: Future, T>(future: CatchPanic<F, T>) -> Poll<Result<T, Panicked>> {
        let mut future = Box::pin(future);
        future
            .as_mut()
            .poll(&mut Context::from_waker(Waker::noop()))
    }

    /// Counts its drops, each of which panics.
    struct PanicsWhenDropped(Arc<AtomicU32>);

    impl Drop for PanicsWhenDropped {
        fn drop(&mut self) {
            self.0.fetch_add(1, Ordering::Relaxed);
            std::panic::resume_unwind(Box::new(()));
        }
    }

    #[test]
    fn a_panic_is_caught_when_the_future_is_made_and_when_it_is_polled() {
        let made = start(|| -> std::future::Ready<()> { panic!("made") });
        assert!(matches!(poll_once(made), Poll::Ready(Err(Panicked))));
        let polled = start(|| async { panic!("polled") });
        assert!(matches!(poll_once(polled), Poll::Ready(Err(Panicked))));
        let fine = start(|| async { 1 });
        assert!(matches!(poll_once(fine), Poll::Ready(Ok(1))));
        let converted = CatchPanic::start(|| async { 1 }, |_| -> () { panic!("converted") });
        assert!(matches!(poll_once(converted), Poll::Ready(Err(Panicked))));
    }

    #[test]
    fn a_payload_that_panics_when_it_is_dropped_is_caught() {
        let drops = Arc::new(AtomicU32::new(0));
        let payload = PanicsWhenDropped(drops.clone());
        assert!(catch(|| std::panic::panic_any(payload)).is_err());
        assert_eq!(drops.load(Ordering::Relaxed), 1);
    }

    /// Ends as it was told, and panics when it is dropped, once.
    struct Scripted {
        ends: Poll<()>,
        panics: bool,
        _held: PanicsWhenDropped,
    }

    impl Future for Scripted {
        type Output = ();

        fn poll(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<()> {
            assert!(!self.panics, "polled");
            self.ends
        }
    }

    #[test]
    fn a_destructor_that_panics_runs_once_and_is_caught_whenever_it_runs() {
        let drops = Arc::new(AtomicU32::new(0));
        let cases = [
            (Poll::Ready(()), false),
            (Poll::Ready(()), true),
            (Poll::Pending, false),
        ];
        for (number, (ends, panics)) in (1..).zip(cases) {
            let future = Scripted {
                ends,
                panics,
                _held: PanicsWhenDropped(drops.clone()),
            };
            let polled = poll_once(start(|| future));
            assert_eq!(polled.is_pending(), ends.is_pending());
            assert!(!matches!(polled, Poll::Ready(Ok(()))), "it panicked");
            assert_eq!(drops.load(Ordering::Relaxed), number);
        }
        drop(CatchDrop::new(PanicsWhenDropped(drops.clone())));
        assert_eq!(drops.load(Ordering::Relaxed), 4);
    }

    #[test]
    fn a_panicked_future_is_dropped_at_once() {
        struct Panicking(#[expect(dead_code, reason = "held")] Arc<()>);

        impl Future for Panicking {
            type Output = ();

            fn poll(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<()> {
                panic!("held")
            }
        }

        let held = Arc::new(());
        let inside = Panicking(held.clone());
        let mut future = Box::pin(start(|| inside));
        let _ = future
            .as_mut()
            .poll(&mut Context::from_waker(Waker::noop()));
        assert_eq!(Arc::strong_count(&held), 1);
    }
}
