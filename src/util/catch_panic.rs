//! Catches panics of the application's code, so that a panic ends one delivery and nothing else.
//!
//! The application's code runs when a callback is called, polled and dropped, when its output is
//! converted, and when the payload of a panic is dropped. Each of these can panic.

use std::any::Any;
use std::ops::{Deref, DerefMut};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::Pin;
use std::task::{Context, Poll};

use pin_project_lite::pin_project;

/// The error of code that panicked.
///
/// It carries no message, because the message may name a person. The panic hook receives it.
#[derive(Debug)]
pub(crate) struct Panicked;

/// Runs synchronous code of the application, and catches its panic.
///
/// Asserting unwind safety is sound here: all that the code was given is dropped with the delivery,
/// and state that it shares is the application's, which chose how to lock it.
pub(crate) fn catch<T>(code: impl FnOnce() -> T) -> Result<T, Panicked> {
    catch_unwind(AssertUnwindSafe(code)).map_err(|payload| {
        drop_payload(payload);
        Panicked
    })
}

/// Drops the payload of a panic, which can panic in turn.
///
/// The payload of that second panic is leaked, because its destructor could panic again without
/// end.
#[cold]
fn drop_payload(payload: Box<dyn Any + Send>) {
    if let Err(second_payload) = catch_unwind(AssertUnwindSafe(|| drop(payload))) {
        std::mem::forget(second_payload);
    }
}

/// Drops a value of the application's, and catches the panic of its destructor.
pub(crate) fn drop_caught<T>(value: T) -> Result<(), Panicked> {
    catch(|| drop(value))
}

/// A value of the application's; a panic of its destructor is caught and ignored.
///
/// If another panic is already unwinding, an uncaught second one would end the process.
#[derive(Clone)]
pub(crate) struct CatchDrop<T>(Option<T>);

impl<T> CatchDrop<T> {
    pub(crate) fn new(value: T) -> Self {
        Self(Some(value))
    }

    pub(crate) fn into_inner(mut self) -> T {
        match self.0.take() {
            Some(value) => value,
            None => unreachable!("only the destructor takes the value"),
        }
    }
}

impl<T> Deref for CatchDrop<T> {
    type Target = T;

    fn deref(&self) -> &T {
        match &self.0 {
            Some(value) => value,
            None => unreachable!("only the destructor takes the value"),
        }
    }
}

impl<T> DerefMut for CatchDrop<T> {
    fn deref_mut(&mut self) -> &mut T {
        match &mut self.0 {
            Some(value) => value,
            None => unreachable!("only the destructor takes the value"),
        }
    }
}

impl<T> Drop for CatchDrop<T> {
    fn drop(&mut self) {
        let _ = drop_caught(self.0.take());
    }
}

pin_project! {
    /// A future of the application's whose panics are caught: when it is created, polled and
    /// dropped, and when its output is converted.
    pub(crate) struct CatchPanic<F, T>
    where
        F: Future,
    {
        // `None` once it has ended. It is never polled again, and the locks and permits that it
        // held are released before its outcome is returned.
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
        // A panic of the destructor counts as the callback's panic, whatever the callback returned.
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
    fn a_panic_is_caught_when_the_future_is_created_polled_or_converted() {
        let created = start(|| -> std::future::Ready<()> { panic!("created") });
        assert!(matches!(poll_once(created), Poll::Ready(Err(Panicked))));
        let polled = start(|| async { panic!("polled") });
        assert!(matches!(poll_once(polled), Poll::Ready(Err(Panicked))));
        let fine = start(|| async { 1 });
        assert!(matches!(poll_once(fine), Poll::Ready(Ok(1))));
        let converted = CatchPanic::start(|| async { 1 }, |_| -> () { panic!("converted") });
        assert!(matches!(poll_once(converted), Poll::Ready(Err(Panicked))));
    }

    #[test]
    fn a_panic_of_a_payloads_destructor_is_caught() {
        let drops = Arc::new(AtomicU32::new(0));
        let payload = PanicsWhenDropped(drops.clone());
        assert!(catch(|| std::panic::panic_any(payload)).is_err());
        assert_eq!(drops.load(Ordering::Relaxed), 1);
    }

    /// Returns `polled` or panics when it is polled, and panics when it is dropped.
    struct Scripted {
        polled: Poll<()>,
        panics: bool,
        _inner: PanicsWhenDropped,
    }

    impl Future for Scripted {
        type Output = ();

        fn poll(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<()> {
            assert!(!self.panics, "polled");
            self.polled
        }
    }

    #[test]
    fn a_destructor_that_panics_runs_once_and_is_caught() {
        let drops = Arc::new(AtomicU32::new(0));
        let cases = [
            (Poll::Ready(()), false),
            (Poll::Ready(()), true),
            (Poll::Pending, false),
        ];
        for (number, (polled, panics)) in (1..).zip(cases) {
            let future = Scripted {
                polled,
                panics,
                _inner: PanicsWhenDropped(drops.clone()),
            };
            let outcome = poll_once(start(|| future));
            assert_eq!(outcome.is_pending(), polled.is_pending());
            assert!(!matches!(outcome, Poll::Ready(Ok(()))), "it panicked");
            assert_eq!(drops.load(Ordering::Relaxed), number);
        }
        drop(CatchDrop::new(PanicsWhenDropped(drops.clone())));
        assert_eq!(drops.load(Ordering::Relaxed), 4);
    }

    #[test]
    fn a_future_that_panics_is_dropped_at_once() {
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
