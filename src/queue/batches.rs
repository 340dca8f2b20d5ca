//! Events that are stored at the same time share a statement, and so its commit.

use std::collections::VecDeque;
use std::future::poll_fn;
use std::pin::{Pin, pin};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::Poll;
use std::time::Duration;

use tokio::sync::{AcquireError, Semaphore, SemaphorePermit, oneshot};
use tokio::task::yield_now;
use tokio::time::{Instant, timeout, timeout_at};

use super::connections::is_of_an_item;
use super::enqueue::NewRow;
use crate::error::Receipt;

/// How many calls a statement serves at most.
pub(super) const BATCH: usize = 64;

/// How large the bodies of a statement are at most, in bytes, if it serves several calls.
const LARGEST: usize = 1 << 20;

/// How long a call waits for a statement that runs, before it has a statement of its own. Most commits take less, and what
/// comes meanwhile shares the next one.
const GATHERING: Duration = Duration::from_millis(10);

/// How long a call waits for its turn or its answer at most. A sender that waits longer hears nothing of an outage, and the
/// application may hold the future that runs the statement without polling it.
const LONGEST_WAIT: Duration = Duration::from_secs(10);

/// Groups calls that arrive while earlier statements run.
///
/// No task of its own runs them. A call waits for its answer or for its turn, and then runs a statement for the calls
/// that wait. If its future is dropped meanwhile, they wait again.
pub(super) struct Batches {
    waiting: Mutex<VecDeque<Call>>,
    /// The statement that usually runs.
    first: Semaphore,
    /// Those that run if it takes longer.
    further: Semaphore,
}

struct Call {
    row: Arc<NewRow>,
    answer: oneshot::Sender<Answer>,
}

/// A call that may wait. When it ends, its row leaves the memory, although no statement runs that would notice.
struct Waiting<'a> {
    batches: &'a Batches,
    row: Arc<NewRow>,
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        let is_another = |call: &Call| !Arc::ptr_eq(&call.row, &self.row);
        self.batches.lock().retain(is_another);
    }
}

enum Answer {
    Is(Result<Receipt, Arc<sqlx::Error>>),
    /// One of the rows may have made the statement fail.
    RunAlone,
}

enum Turn<'a> {
    /// `None` if the future that ran the statement was dropped.
    Answered(Option<Answer>),
    Runs(Result<SemaphorePermit<'a>, AcquireError>),
}

impl Batches {
    /// Runs at most this many statements at once.
    pub(super) fn new(statements: usize) -> Self {
        Self {
            waiting: Mutex::default(),
            first: Semaphore::new(1),
            further: Semaphore::new(statements.saturating_sub(1)),
        }
    }

    /// Stores a row, perhaps together with others. `run` runs the statement, and returns a receipt for each row.
    pub(super) async fn call<R>(
        &self,
        row: NewRow,
        run: impl Fn(Vec<Arc<NewRow>>) -> R,
    ) -> Result<Receipt, Arc<sqlx::Error>>
    where
        R: Future<Output = Result<Vec<Receipt>, sqlx::Error>>,
    {
        let row = Arc::new(row);
        let _waiting = Waiting {
            batches: self,
            row: row.clone(),
        };
        let mut receiver = self.wait(&row);
        let end = Instant::now() + LONGEST_WAIT;
        loop {
            let turn = timeout_at(end, self.turn(&mut receiver)).await;
            match turn.map_err(|_| waited_too_long())? {
                Turn::Answered(Some(Answer::Is(answer))) => return answer,
                Turn::Answered(Some(Answer::RunAlone)) => return self.alone(row, run, end).await,
                Turn::Answered(None) => receiver = self.wait(&row),
                Turn::Runs(permit) => {
                    let calls = self.next();
                    // If none waits, another statement serves this call.
                    if !calls.is_empty() {
                        answer(calls, &run).await;
                        continue;
                    }
                    drop(permit);
                    let answer = timeout_at(end, &mut receiver).await;
                    match answer.map_err(|_| waited_too_long())? {
                        Ok(Answer::Is(answer)) => return answer,
                        Ok(Answer::RunAlone) => return self.alone(row, run, end).await,
                        Err(_) => receiver = self.wait(&row),
                    }
                }
            }
        }
    }

    fn wait(&self, row: &Arc<NewRow>) -> oneshot::Receiver<Answer> {
        let (answer, receiver) = oneshot::channel();
        let row = row.clone();
        self.lock().push_back(Call { row, answer });
        receiver
    }

    async fn turn(&self, receiver: &mut oneshot::Receiver<Answer>) -> Turn<'_> {
        let mut permit = pin!(self.permit());
        poll_fn(|context| {
            if let Poll::Ready(answer) = Pin::new(&mut *receiver).poll(context) {
                return Poll::Ready(Turn::Answered(answer.ok()));
            }
            permit.as_mut().poll(context).map(Turn::Runs)
        })
        .await
    }

    /// Waits for the right to run a statement.
    async fn permit(&self) -> Result<SemaphorePermit<'_>, AcquireError> {
        if let Ok(permit) = self.first.try_acquire() {
            return Ok(permit);
        }
        let permit = self.next_permit().await;
        // Senders that the statement before has answered send their next events meanwhile.
        yield_now().await;
        permit
    }

    async fn next_permit(&self) -> Result<SemaphorePermit<'_>, AcquireError> {
        let mut first = pin!(self.first.acquire());
        if let Ok(permit) = timeout(GATHERING, first.as_mut()).await {
            return permit;
        }
        let mut further = pin!(self.further.acquire());
        poll_fn(|context| {
            if let Poll::Ready(permit) = first.as_mut().poll(context) {
                return Poll::Ready(permit);
            }
            further.as_mut().poll(context)
        })
        .await
    }

    /// Takes the calls of the next statement. Their callers still wait.
    fn next(&self) -> Vec<Call> {
        let mut waiting = self.lock();
        waiting.retain(|call| !call.answer.is_closed());
        let mut size = 0;
        let fits = |call: &&Call| {
            size += call.row.body.len();
            size <= LARGEST
        };
        let fitting = waiting.iter().take(BATCH).take_while(fits).count();
        let count = fitting.max(1).min(waiting.len());
        waiting.drain(..count).collect()
    }

    async fn alone<R>(
        &self,
        row: Arc<NewRow>,
        run: impl Fn(Vec<Arc<NewRow>>) -> R,
        end: Instant,
    ) -> Result<Receipt, Arc<sqlx::Error>>
    where
        R: Future<Output = Result<Vec<Receipt>, sqlx::Error>>,
    {
        let permit = timeout_at(end, self.permit()).await;
        let _permit = permit.map_err(|_| waited_too_long())?;
        let receipts = run(vec![row]).await?;
        Ok(receipts.first().copied().unwrap_or(Receipt::Queued))
    }

    fn lock(&self) -> MutexGuard<'_, VecDeque<Call>> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn waited_too_long() -> Arc<sqlx::Error> {
    Arc::new(sqlx::Error::PoolTimedOut)
}

/// Runs a statement for these calls, and answers them.
async fn answer<R>(mut calls: Vec<Call>, run: impl Fn(Vec<Arc<NewRow>>) -> R)
where
    R: Future<Output = Result<Vec<Receipt>, sqlx::Error>>,
{
    // In one order, so that statements with the same events do not wait for each other.
    calls.sort_by(|a, b| a.row.key.cmp(&b.row.key));
    let rows = calls.iter().map(|call| call.row.clone()).collect();
    let receipts = match run(rows).await {
        Ok(receipts) => receipts,
        Err(error) => {
            // If no row is the cause, a statement without rows fails too.
            let is_for_each =
                calls.len() > 1 && is_of_an_item(&error) && run(Vec::new()).await.is_ok();
            let error = Arc::new(error);
            for call in calls {
                let answer = if is_for_each {
                    Answer::RunAlone
                } else {
                    Answer::Is(Err(error.clone()))
                };
                let _ = call.answer.send(answer);
            }
            return;
        }
    };
    for (call, receipt) in calls.into_iter().zip(receipts) {
        let _ = call.answer.send(Answer::Is(Ok(receipt)));
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use tokio::time::sleep;

    use super::*;
    use crate::util::postgres::tests::Refused;

    /// "Every wait ends": the application holds the future that runs the statement, and does not poll it.
    #[tokio::test(start_paused = true)]
    async fn calls_wait_for_a_while_for_a_future_that_is_not_polled() {
        for served_by_it in [false, true] {
            let batches = Batches::new(1);
            let pending = |_| std::future::pending::<Result<Vec<Receipt>, sqlx::Error>>();
            let mut call = pin!(batches.call(NewRow::sample(), pending));
            let mut other = pin!(batches.call(NewRow::sample(), pending));
            if served_by_it {
                // Both wait before the statement begins, and the first one runs it.
                let permit = batches.first.acquire().await;
                poll_once(call.as_mut()).await;
                poll_once(other.as_mut()).await;
                drop(permit);
            }
            poll_once(call.as_mut()).await;
            let start = Instant::now();
            let waited = other.await;
            assert!(matches!(&*waited.unwrap_err(), sqlx::Error::PoolTimedOut));
            assert_eq!(start.elapsed(), LONGEST_WAIT);
        }
    }

    /// "Events that are stored at the same time share statements": those that come while one runs share the next one, as do
    /// those that senders send once they have their answers.
    #[tokio::test(start_paused = true)]
    async fn calls_gather_while_a_statement_runs() {
        let batches = Batches::new(4);
        let rows = Mutex::new(Vec::new());
        let run = |calls: Vec<Arc<NewRow>>| {
            rows.lock().unwrap().push(calls.len());
            async move {
                sleep(GATHERING / 2).await;
                Ok(vec![Receipt::Queued; calls.len()])
            }
        };
        let sender = async |pause| {
            sleep(pause).await;
            for _ in 0..3 {
                let stored = batches.call(NewRow::sample(), run).await;
                assert_eq!(stored.unwrap(), Receipt::Queued);
            }
        };
        let pause = GATHERING / 4;
        tokio::join!(
            sender(Duration::ZERO),
            sender(pause),
            sender(pause),
            sender(pause)
        );
        assert_eq!(*rows.lock().unwrap(), [1, 4, 4, 3]);
    }

    /// The rows of calls that have been dropped, or have waited too long, leave the memory.
    #[tokio::test(start_paused = true)]
    async fn calls_that_have_ended_keep_no_row() {
        let batches = Batches::new(1);
        let pending = |_| std::future::pending::<Result<Vec<Receipt>, sqlx::Error>>();
        let mut held = pin!(batches.call(NewRow::sample(), pending));
        poll_once(held.as_mut()).await;
        let mut dropped = Box::pin(batches.call(NewRow::sample(), pending));
        poll_once(dropped.as_mut()).await;
        assert_eq!(batches.lock().len(), 1);
        drop(dropped);
        assert!(batches.call(NewRow::sample(), pending).await.is_err());
        assert_eq!(batches.lock().len(), 0);
    }

    /// A statement that takes long, such as one whose network hangs, keeps others waiting for a moment only.
    #[tokio::test(start_paused = true)]
    async fn as_many_statements_run_as_there_are_connections() {
        let batches = Batches::new(3);
        let most = AtomicUsize::new(0);
        let start = Instant::now();
        let hangs = |_: Vec<Arc<NewRow>>| {
            most.fetch_add(1, Ordering::SeqCst);
            std::future::pending::<Result<Vec<Receipt>, sqlx::Error>>()
        };
        let mut calls = Vec::new();
        for number in 0..5 {
            let mut call = Box::pin(batches.call(NewRow::sample(), hangs));
            assert!(timeout(2 * GATHERING, call.as_mut()).await.is_err());
            calls.push(call);
            assert_eq!(most.load(Ordering::SeqCst), (number + 1).min(3));
        }
        assert_eq!(start.elapsed(), 10 * GATHERING);
    }

    /// "Whose bodies are 1 MiB at most", unless a single one is larger.
    #[tokio::test]
    async fn bodies_that_do_not_fit_wait_for_the_next_statement() {
        let batches = Batches::new(1);
        let wait = |size| {
            let mut row = NewRow::sample();
            row.body = vec![0; size].into();
            batches.wait(&Arc::new(row))
        };
        let _receivers = [LARGEST / 2, LARGEST / 2, 1, LARGEST + 1, 1].map(wait);
        let mut served = Vec::new();
        while !batches.lock().is_empty() {
            served.push(batches.next().len());
        }
        assert_eq!(served, [2, 1, 1, 1]);
    }

    /// A row that the database refuses fails no other one. Nothing runs again if there is no other one, or if no row is the cause.
    #[tokio::test(start_paused = true)]
    async fn rows_are_stored_one_by_one_if_one_of_several_may_be_refused() {
        for (calls, is_of_a_row, expected) in [
            (2, true, &[2, 0, 1, 1][..]),
            (1, true, &[1]),
            (2, false, &[2]),
            (1, false, &[1]),
        ] {
            let (batches, rows) = (Batches::new(2), &Mutex::new(Vec::new()));
            let run = move |calls: Vec<Arc<NewRow>>| {
                rows.lock().unwrap().push(calls.len());
                async move {
                    match is_of_a_row {
                        _ if calls.is_empty() => Ok(Vec::new()),
                        true => Err(sqlx::Error::Database(Box::new(Refused("23514")))),
                        false => Err(sqlx::Error::PoolTimedOut),
                    }
                }
            };
            let permit = batches.first.acquire().await;
            let mut waiting = Vec::new();
            for _ in 0..calls {
                let mut call = Box::pin(batches.call(NewRow::sample(), run));
                poll_once(call.as_mut()).await;
                waiting.push(call);
            }
            drop(permit);
            for call in waiting {
                assert!(call.await.is_err());
            }
            assert_eq!(*rows.lock().unwrap(), expected);
        }
    }

    async fn poll_once(mut future: Pin<&mut impl Future>) {
        poll_fn(|context| {
            assert!(future.as_mut().poll(context).is_pending());
            Poll::Ready(())
        })
        .await;
    }
}
