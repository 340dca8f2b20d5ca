//! The calls that wait for a worker.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::oneshot;
use tokio::time::Instant;

use super::call::{Answer, Call, Kind};

/// The maximum number of calls in a statement, which take the server some milliseconds.
const MAX_CALLS: usize = 128;

/// The time from a connection that was refused to the next attempt, while another worker is
/// connected.
const DIAL_INTERVAL: Duration = Duration::from_millis(200);

pub(super) type Outcome = Result<Answer, Arc<sqlx::Error>>;

/// A call that waits for its answer. If its caller has given up, the channel is closed.
pub(super) struct PendingCall {
    pub(super) call: Call,
    pub(super) answer: oneshot::Sender<Outcome>,
}

/// Wakes a worker that waits for calls.
pub(super) type IdleWorker = oneshot::Sender<()>;

#[derive(Default)]
pub(super) struct Queue {
    pub(super) calls: VecDeque<PendingCall>,
    /// How many workers there are. Each has a session, or opens one.
    pub(super) workers: usize,
    pub(super) idle: Vec<IdleWorker>,
    /// How many workers have a session.
    pub(super) connected: usize,
    /// How many workers run a commit.
    pub(super) committing: usize,
    /// When a session could not be opened.
    pub(super) refused_at: Option<Instant>,
    pub(super) is_closed: bool,
}

/// The remains of a worker that has left. Pass them to `WakeUp::after` once the queue is unlocked.
#[must_use]
pub(super) struct Departure {
    /// The calls, if this was the last worker. Their callers learn that no worker is left.
    pub(super) abandoned: VecDeque<PendingCall>,
    /// A worker that can take the calls that waited for this one.
    pub(super) successor: Option<IdleWorker>,
}

impl Queue {
    /// Removes a worker.
    pub(super) fn leave(&mut self, was_connected: bool, was_committing: bool) -> Departure {
        self.workers -= 1;
        self.connected -= usize::from(was_connected);
        self.committing -= usize::from(was_committing);
        if self.workers == 0 {
            return Departure {
                abandoned: std::mem::take(&mut self.calls),
                successor: None,
            };
        }
        Departure {
            abandoned: VecDeque::new(),
            successor: self.next_idle(),
        }
    }

    pub(super) fn next_idle(&mut self) -> Option<IdleWorker> {
        self.idle.retain(|worker| !worker.is_closed());
        self.idle.pop()
    }

    /// Returns whether one more worker may commit.
    ///
    /// A commit waits for the disk and for standbys. Claims wait for neither, so the last
    /// connection is left to them.
    fn may_commit(&self, max_workers: usize) -> bool {
        self.committing + 1 < max_workers.max(2)
    }

    /// Returns whether a connection was refused a moment ago, although another worker is connected.
    pub(super) fn was_just_refused(&self) -> bool {
        let is_recent = |refused_at: Instant| refused_at.elapsed() < DIAL_INTERVAL;
        self.connected > 0 && self.refused_at.is_some_and(is_recent)
    }

    /// Returns whether there is a call that a worker may take now.
    pub(super) fn has_calls(&self, max_workers: usize) -> bool {
        let may_commit = self.may_commit(max_workers);
        let is_takeable = |pending: &PendingCall| {
            (may_commit || pending.call.kind != Kind::Commit) && !pending.answer.is_closed()
        };
        self.calls.iter().any(is_takeable)
    }

    /// Takes the first call, and the later ones that fit into the same statement.
    ///
    /// These are calls of the same kind, each for another event, because a statement does not see
    /// its own changes.
    pub(super) fn take(&mut self, max_workers: usize) -> Vec<PendingCall> {
        let may_commit = self.may_commit(max_workers);
        let mut taken: Vec<PendingCall> = Vec::new();
        let mut left = VecDeque::new();
        while let Some(pending) = self.calls.pop_front() {
            if pending.answer.is_closed() {
                continue;
            }
            let fits = match taken.first() {
                None => may_commit || pending.call.kind != Kind::Commit,
                Some(_) => fits_into_statement(&pending.call, &taken),
            };
            if fits {
                taken.push(pending);
            } else {
                left.push_back(pending);
            }
            if taken.len() == MAX_CALLS {
                break;
            }
        }
        left.append(&mut self.calls);
        self.calls = left;
        taken
    }
}

fn fits_into_statement(call: &Call, taken: &[PendingCall]) -> bool {
    taken
        .iter()
        .all(|other| other.call.kind == call.kind && !other.call.is_for_same_event(call))
}

#[cfg(test)]
impl PendingCall {
    /// A call, and where its caller waits.
    pub(super) fn sample(kind: Kind) -> (Self, oneshot::Receiver<Outcome>) {
        let (answer, answered) = oneshot::channel();
        let call = Call {
            kind,
            job: "JOB-1".to_owned(),
            event: "COMPLETED 1".to_owned(),
            time: None,
            number: 1,
        };
        (Self { call, answer }, answered)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_refusal_delays_other_connections_for_a_moment_while_one_works() {
        let mut queue = Queue::default();
        assert!(!queue.was_just_refused());
        queue.connected = 1;
        assert!(!queue.was_just_refused());
        queue.refused_at = Some(Instant::now());
        assert!(queue.was_just_refused());
        queue.connected = 0;
        assert!(!queue.was_just_refused(), "no connection works");
        queue.connected = 2;
        tokio::time::advance(Duration::from_millis(199)).await;
        assert!(queue.was_just_refused());
        tokio::time::advance(Duration::from_millis(1)).await;
        assert!(!queue.was_just_refused());
    }

    #[test]
    fn commits_leave_the_last_connection_to_claims() {
        for (max_workers, committing, may_commit) in [
            (4, 2, true),
            (4, 3, false),
            (2, 0, true),
            (2, 1, false),
            // The only connection is for both.
            (1, 0, true),
        ] {
            for kind in [Kind::Claim, Kind::Commit] {
                let (call, _answered) = PendingCall::sample(kind);
                let mut queue = Queue {
                    calls: [call].into(),
                    committing,
                    ..Queue::default()
                };
                let expected = may_commit || kind == Kind::Claim;
                assert_eq!(queue.has_calls(max_workers), expected);
                assert_eq!(queue.take(max_workers).len(), usize::from(expected));
                assert_eq!(queue.calls.len(), usize::from(!expected), "it still waits");
            }
        }
    }

    #[test]
    fn a_call_whose_caller_has_given_up_is_not_made() {
        let (call, answered) = PendingCall::sample(Kind::Claim);
        drop(answered);
        let mut queue = Queue::default();
        queue.calls.push_back(call);
        assert!(!queue.has_calls(4));
        assert!(queue.take(4).is_empty() && queue.calls.is_empty());
    }

    #[test]
    fn a_worker_that_leaves_no_longer_counts() {
        let (call, _answered) = PendingCall::sample(Kind::Claim);
        let (idle, _woken) = oneshot::channel();
        let mut queue = Queue {
            calls: [call].into(),
            workers: 3,
            idle: vec![idle],
            connected: 2,
            committing: 1,
            ..Queue::default()
        };
        let counts = |queue: &Queue| (queue.workers, queue.connected, queue.committing);
        let departure = queue.leave(true, true);
        assert_eq!(counts(&queue), (2, 1, 0));
        assert!(departure.abandoned.is_empty() && departure.successor.is_some());
        let departure = queue.leave(false, false);
        assert_eq!(counts(&queue), (1, 1, 0));
        assert!(departure.abandoned.is_empty() && departure.successor.is_none());
        let departure = queue.leave(true, false);
        assert_eq!(counts(&queue), (0, 0, 0));
        assert!(departure.abandoned.len() == 1 && queue.calls.is_empty());
    }
}
