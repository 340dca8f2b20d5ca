//! The metrics of a queue.

use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::sleep;

use super::running::Running;
use crate::observe;
use crate::queue::Shared;
use crate::util::until::until;

/// How often they are set.
const COUNT_INTERVAL: Duration = Duration::from_secs(10);

/// Sets the metrics now and then, on a task of its own, because a count can be slow.
pub(super) async fn count_until_the_end(queue: Arc<Shared>, running: Arc<Running>) {
    let ended = pin!(running.ended());
    let count = async {
        loop {
            if let Ok(counts) = queue.counts().await {
                let oldest = counts.oldest.unwrap_or_default();
                let (waiting, running, dead) = (counts.waiting, counts.running, counts.dead);
                observe::queued_events(&queue.name, waiting, running, dead, oldest);
            }
            sleep(COUNT_INTERVAL).await;
        }
    };
    until(ended, count).await;
}
