//! A panic in the application's code ends one delivery and nothing else.

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
    catch_unwind(AssertUnwindSafe(code)).map_err(|_| Panicked)
}

pin_project! {
    /// Runs asynchronous code of the application, from the call that creates it to the conversion
    /// of what it ends in.
    #[project = CatchPanicProjection]
    pub(crate) enum CatchPanic<F, T>
    where
        F: Future,
    {
        Running { #[pin] future: F, convert: fn(F::Output) -> T },
        Panicked,
    }
}

impl<F: Future, T> CatchPanic<F, T> {
    pub(crate) fn start(start: impl FnOnce() -> F, convert: fn(F::Output) -> T) -> Self {
        catch(start).map_or(Self::Panicked, |future| Self::Running { future, convert })
    }
}

impl<F: Future, T> Future for CatchPanic<F, T> {
    type Output = Result<T, Panicked>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        let CatchPanicProjection::Running { future, convert } = self.as_mut().project() else {
            return Poll::Ready(Err(Panicked));
        };
        match catch(|| future.poll(context).map(convert)) {
            Ok(poll) => poll.map(Ok),
            Err(panicked) => {
                // Dropped now: a future that panicked must not be polled again, and what it
                // holds (locks, permits) is released before anyone hears of the panic.
                self.set(Self::Panicked);
                Poll::Ready(Err(panicked))
            }
        }
    }
}

#[cfg(test)]
mod tests {
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

    /// Keeps what it holds when it panics, as an `async` block would not.
    struct Panicking(#[expect(dead_code, reason = "held")] std::sync::Arc<()>);

    impl Future for Panicking {
        type Output = ();

        fn poll(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<()> {
            panic!("held")
        }
    }

    #[test]
    fn what_a_panicked_future_held_is_released_at_once() {
        let held = std::sync::Arc::new(());
        let inside = Panicking(held.clone());
        let mut future = Box::pin(start(|| inside));
        let _ = future
            .as_mut()
            .poll(&mut Context::from_waker(Waker::noop()));
        assert_eq!(std::sync::Arc::strong_count(&held), 1);
    }
}
