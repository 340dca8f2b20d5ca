//! Holds a paused clock still while an attempt may wait for a socket.
//!
//! A paused clock jumps to the next timer as soon as the runtime is idle. tokio does not know whether
//! a task waits for a timer or for a socket, so a timeout would expire before a database can answer.

use std::future::{Future, poll_fn};
use std::pin::pin;
use std::sync::mpsc::{Sender, channel};
use std::time::{Duration, Instant as RealInstant};

use tokio::task::spawn_blocking;
use tokio::time::Instant;

/// The real time for which the clock is held still. An attempt that waits for a timer takes this
/// long for each, and one that waits longer for a socket fails.
const REAL_TIME: Duration = Duration::from_millis(500);

/// The real time for which the clock is held still in one attempt, however many timers it has.
const ATTEMPT: Duration = Duration::from_secs(2);

/// Drives a future, and holds a paused clock still for a while after each poll.
pub(super) async fn hold_still<F: Future>(future: F) -> F::Output {
    let mut future = pin!(future);
    let mut held_until = None;
    let mut guard = None;
    poll_fn(|context| {
        let polled = future.as_mut().poll(context);
        // Most futures are ready at once or soon, and those that are ready at once need no thread.
        if polled.is_pending() {
            let now = RealInstant::now();
            let until = *held_until.get_or_insert_with(|| is_paused().then(|| now + ATTEMPT));
            guard = until.filter(|until| *until > now).map(|_| hold());
        }
        polled
    })
    .await
}

/// Returns a guard. The clock is held still until it is dropped, but no longer than `REAL_TIME`.
fn hold() -> Sender<()> {
    let (guard, dropped) = channel();
    // tokio moves a paused clock by itself only while no blocking task exists.
    spawn_blocking(move || dropped.recv_timeout(REAL_TIME));
    guard
}

/// Returns whether tokio's clock stands still, which tokio itself does not tell.
fn is_paused() -> bool {
    let (before, real) = (Instant::now(), RealInstant::now());
    while real.elapsed() < Duration::from_micros(1) {
        std::hint::spin_loop();
    }
    Instant::now() == before
}

#[cfg(test)]
mod tests {
    use std::task::Poll;

    use tokio::time::sleep;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_paused_clock_is_recognised() {
        assert!(is_paused());
        tokio::time::resume();
        assert!(!is_paused());
    }

    #[tokio::test(start_paused = true)]
    async fn the_clock_stands_still_and_then_jumps() {
        let (real, start) = (RealInstant::now(), Instant::now());
        hold_still(sleep(Duration::from_secs(3_600))).await;
        assert!(real.elapsed() >= REAL_TIME);
        assert!(real.elapsed() < Duration::from_secs(60));
        assert_eq!(start.elapsed().as_secs(), 3_600);
    }

    #[tokio::test(start_paused = true)]
    async fn the_clock_jumps_once_the_future_is_dropped() {
        let real = RealInstant::now();
        let mut held = Box::pin(hold_still(std::future::pending::<()>()));
        let polled = poll_fn(|context| Poll::Ready(held.as_mut().poll(context))).await;
        assert!(polled.is_pending());
        drop(held);
        sleep(Duration::from_secs(3_600)).await;
        assert!(real.elapsed() < REAL_TIME, "{:?}", real.elapsed());
    }
}
