//! A worker: a task that makes the ledger's calls on a session of its own.

use std::future::poll_fn;
use std::pin::pin;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use tokio::sync::oneshot;
use tokio::time::{Instant, timeout, timeout_at};

use super::call::{Answer, Kind};
use super::connections::{Shared, WakeUp};
use super::queue::{Outcome, PendingCall};
use super::session::{Session, execute};
use crate::util::postgres::Opener;

/// How long a connection stays open without a call.
///
/// Firewalls and load balancers drop idle connections silently, but only after a longer time.
const IDLE_TIMEOUT: Duration = Duration::from_secs(10);

/// How long releasing the claims of callers that have given up may take.
const RELEASE_TIMEOUT: Duration = Duration::from_secs(5);

/// One of the ledger's workers. When it ends, for any reason, it leaves the queue.
pub(super) struct Worker {
    shared: Arc<Shared>,
    is_connected: bool,
    is_committing: bool,
    has_left: bool,
}

impl Worker {
    pub(super) fn new(shared: &Arc<Shared>) -> Self {
        Self {
            shared: shared.clone(),
            is_connected: false,
            is_committing: false,
            has_left: false,
        }
    }

    /// Makes calls until there are none for [`IDLE_TIMEOUT`].
    pub(super) async fn run(mut self) {
        let mut session = None;
        while self.wait_for_calls(IDLE_TIMEOUT).await {
            // The session comes first: other workers may take the calls while it is opened, and
            // opening it may take longer than their callers wait.
            if session.is_none() {
                self.wake_another();
                match Session::connect(&self.shared.opener).await {
                    Ok(connected) => session = Some(connected),
                    Err(error) => {
                        self.refuse(error);
                        if self.is_another_connected() {
                            return;
                        }
                        continue;
                    }
                }
                self.set_connected(true);
            }
            let calls = self.take();
            if !calls.is_empty() {
                serve(&mut session, &self.shared.opener, calls).await;
                self.set_connected(session.is_some());
            }
        }
        if let Some(session) = session {
            session.close().await;
        }
    }

    /// Waits until there is a call to take.
    ///
    /// Returns false if there is none within the timeout, or if the ledger was dropped. The worker
    /// has then left the queue.
    async fn wait_for_calls(&mut self, timeout: Duration) -> bool {
        let deadline = Instant::now() + timeout;
        loop {
            let woken = {
                let mut queue = self.shared.queue();
                queue.committing -= usize::from(std::mem::take(&mut self.is_committing));
                if queue.has_calls(self.shared.max_workers) {
                    return true;
                }
                if queue.is_closed || Instant::now() >= deadline {
                    self.has_left = true;
                    let departure = queue.leave(self.is_connected, false);
                    drop(queue);
                    WakeUp::after(departure).perform();
                    return false;
                }
                let (idle, woken) = oneshot::channel();
                queue.idle.push(idle);
                woken
            };
            let _ = timeout_at(deadline, woken).await;
        }
    }

    /// Takes the calls for one statement. There may be none, if another worker was faster.
    fn take(&mut self) -> Vec<PendingCall> {
        let mut queue = self.shared.queue();
        let calls = queue.take(self.shared.max_workers);
        if let Some(PendingCall { call, .. }) = calls.first() {
            self.is_committing = call.kind == Kind::Commit;
            queue.committing += usize::from(self.is_committing);
        }
        // Another worker takes the calls that do not fit into this statement.
        let wake_up = self.shared.wake_up(&mut queue);
        drop(queue);
        wake_up.perform();
        calls
    }

    /// Wakes another idle worker, which may already have a session.
    fn wake_another(&self) {
        let idle = self.shared.queue().next_idle();
        idle.map_or(WakeUp::None, WakeUp::Idle).perform();
    }

    fn set_connected(&mut self, is_connected: bool) {
        let mut queue = self.shared.queue();
        queue.connected -= usize::from(self.is_connected);
        queue.connected += usize::from(is_connected);
        self.is_connected = is_connected;
    }

    /// Reports that no session could be opened.
    ///
    /// All pending calls fail with the error, unless another worker has a session.
    fn refuse(&mut self, error: sqlx::Error) {
        let error = Arc::new(error);
        let calls = {
            let mut queue = self.shared.queue();
            if queue.connected > 0 {
                queue.refused_at = Some(Instant::now());
                return;
            }
            std::mem::take(&mut queue.calls)
        };
        for pending in calls {
            let _ = pending.answer.send(Err(error.clone()));
        }
    }

    fn is_another_connected(&self) -> bool {
        self.shared.queue().connected > 0
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        if !self.has_left {
            let departure = self
                .shared
                .queue()
                .leave(self.is_connected, self.is_committing);
            WakeUp::after(departure).perform();
        }
    }
}

/// Makes the calls, and sends the answers to their callers.
async fn serve(session: &mut Option<Session>, opener: &Opener, pending: Vec<PendingCall>) {
    let (calls, mut callers): (Vec<_>, Vec<_>) = pending
        .into_iter()
        .map(|pending| (pending.call, pending.answer))
        .unzip();
    let outcomes = while_a_caller_waits(&mut callers, execute(session, opener, &calls)).await;
    let Some(outcomes) = outcomes else { return };
    let abandoned: Vec<_> = calls
        .iter()
        .zip(callers)
        .zip(outcomes)
        .filter_map(|((call, caller), outcome)| match caller.send(outcome) {
            Err(Ok(Answer::Granted(token))) => call.release_of(token),
            _ => None,
        })
        .collect();
    // These claims were granted after their callers had given up. If the release fails, they
    // expire.
    if !abandoned.is_empty() {
        let _ = timeout(RELEASE_TIMEOUT, execute(session, opener, &abandoned)).await;
    }
}

/// Waits for the outcomes, or returns `None` if all callers give up before.
///
/// The future is then dropped, which closes a connection that stalls. The server may continue its
/// statement.
async fn while_a_caller_waits(
    callers: &mut [oneshot::Sender<Outcome>],
    execution: impl Future<Output = Vec<Outcome>>,
) -> Option<Vec<Outcome>> {
    let mut execution = pin!(execution);
    poll_fn(|context| {
        if let Poll::Ready(outcomes) = execution.as_mut().poll(context) {
            return Poll::Ready(Some(outcomes));
        }
        // Each caller is polled, so that each can wake this task.
        let mut have_given_up = true;
        for caller in &mut *callers {
            have_given_up &= caller.poll_closed(context).is_ready();
        }
        if have_given_up {
            Poll::Ready(None)
        } else {
            Poll::Pending
        }
    })
    .await
}

#[cfg(test)]
mod tests {
    use sqlx::postgres::{PgConnectOptions, PgPoolOptions};

    use super::*;
    use crate::ledger::postgres::connections::Connections;

    #[tokio::test]
    async fn a_worker_counts_by_what_it_has_and_does() {
        let pool = PgPoolOptions::new().connect_lazy_with(PgConnectOptions::new());
        let connections = Connections::new(&pool, 4);
        let shared = connections.shared();
        shared.queue().workers = 1;
        let mut worker = Worker::new(shared);
        for is_connected in [true, true, false, false, true] {
            worker.set_connected(is_connected);
            assert_eq!(shared.queue().connected, usize::from(is_connected));
        }
        for kind in [Kind::Claim, Kind::Commit] {
            let (call, _answered) = PendingCall::sample(kind);
            shared.queue().calls.push_back(call);
            assert_eq!(worker.take().len(), 1);
            let committing = usize::from(kind == Kind::Commit);
            assert_eq!(shared.queue().committing, committing);
        }
        let (idle, mut woken) = oneshot::channel();
        shared.queue().idle.push(idle);
        worker.wake_another();
        assert_eq!(woken.try_recv(), Ok(()));
        drop(worker);
        let queue = shared.queue();
        let counts = (queue.workers, queue.connected, queue.committing);
        assert_eq!(counts, (0, 0, 0));
    }
}
