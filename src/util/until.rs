//! Polling a future beside another one.

use std::future::poll_fn;
use std::pin::{Pin, pin};
use std::task::Poll;

/// Polls a future until `end` or it is ready. `end` is polled first.
pub(crate) async fn until<T>(
    mut end: Pin<&mut impl Future>,
    future: impl Future<Output = T>,
) -> Option<T> {
    let mut future = pin!(future);
    poll_fn(|context| {
        if end.as_mut().poll(context).is_ready() {
            return Poll::Ready(None);
        }
        future.as_mut().poll(context).map(Some)
    })
    .await
}

/// Polls a future, and beside it the futures of `again`, one after the other.
pub(crate) async fn while_repeating<T, F>(
    future: impl Future<Output = T>,
    again: impl Fn() -> F,
) -> T
where
    F: Future,
{
    let mut future = pin!(future);
    loop {
        let mut beside = pin!(again());
        let ended = poll_fn(|context| {
            if let Poll::Ready(output) = future.as_mut().poll(context) {
                return Poll::Ready(Some(output));
            }
            beside.as_mut().poll(context).map(|_| None)
        });
        if let Some(output) = ended.await {
            return output;
        }
    }
}
