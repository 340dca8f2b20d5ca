//! Calls that wait at the same time share a statement, and so its commit.

use std::collections::VecDeque;
use std::future::poll_fn;
use std::pin::{Pin, pin};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::Poll;

use tokio::sync::{AcquireError, Semaphore, SemaphorePermit, oneshot};

/// How many calls a statement serves at most.
pub(super) const BATCH: usize = 64;

/// How large the items of a statement are at most, in bytes, if it serves several calls.
const LARGEST: usize = 1 << 20;

/// Groups calls that arrive while earlier statements run.
///
/// No task of its own runs them. A call waits for its answer or for its turn, and then runs a statement for the calls
/// that wait. If its future is dropped meanwhile, they wait again.
pub(super) struct Batches<T, A> {
    waiting: Mutex<VecDeque<Call<T, A>>>,
    statements: Semaphore,
}

struct Call<T, A> {
    item: Arc<T>,
    size: usize,
    answer: oneshot::Sender<Answer<A>>,
}

enum Answer<A> {
    Is(Result<A, Arc<sqlx::Error>>),
    /// One of the items may have made the statement fail.
    RunAlone,
}

enum Turn<'a, A> {
    /// `None` if the future that ran the statement was dropped.
    Answered(Option<Answer<A>>),
    Runs(Result<SemaphorePermit<'a>, AcquireError>),
}

impl<T, A> Batches<T, A> {
    /// Runs at most this many statements at once.
    pub(super) fn new(statements: usize) -> Self {
        Self {
            waiting: Mutex::default(),
            statements: Semaphore::new(statements),
        }
    }

    /// Returns the answer for an item of this many bytes.
    ///
    /// `run` runs the statement, and returns an answer for each of its items, in their order.
    pub(super) async fn call<R>(
        &self,
        item: T,
        size: usize,
        run: impl Fn(Vec<Arc<T>>) -> R,
    ) -> Result<A, Arc<sqlx::Error>>
    where
        R: Future<Output = Result<Vec<A>, sqlx::Error>>,
    {
        let item = Arc::new(item);
        let mut receiver = self.wait(&item, size);
        loop {
            match self.turn(&mut receiver).await {
                Turn::Answered(Some(Answer::Is(answer))) => return answer,
                Turn::Answered(Some(Answer::RunAlone)) => return self.alone(item, run).await,
                Turn::Answered(None) => receiver = self.wait(&item, size),
                Turn::Runs(permit) => {
                    let calls = self.next();
                    // If none waits, another statement serves this call.
                    if !calls.is_empty() {
                        answer(calls, &run).await;
                        continue;
                    }
                    drop(permit);
                    match (&mut receiver).await {
                        Ok(Answer::Is(answer)) => return answer,
                        Ok(Answer::RunAlone) => return self.alone(item, run).await,
                        Err(_) => receiver = self.wait(&item, size),
                    }
                }
            }
        }
    }

    fn wait(&self, item: &Arc<T>, size: usize) -> oneshot::Receiver<Answer<A>> {
        let (answer, receiver) = oneshot::channel();
        let item = item.clone();
        self.lock().push_back(Call { item, size, answer });
        receiver
    }

    async fn turn(&self, receiver: &mut oneshot::Receiver<Answer<A>>) -> Turn<'_, A> {
        let mut permit = pin!(self.statements.acquire());
        poll_fn(|context| {
            if let Poll::Ready(answer) = Pin::new(&mut *receiver).poll(context) {
                return Poll::Ready(Turn::Answered(answer.ok()));
            }
            permit.as_mut().poll(context).map(Turn::Runs)
        })
        .await
    }

    /// Takes the calls of the next statement. Their callers still wait.
    fn next(&self) -> Vec<Call<T, A>> {
        let mut waiting = self.lock();
        waiting.retain(|call| !call.answer.is_closed());
        let mut size = 0;
        let fits = |call: &&Call<T, A>| {
            size += call.size;
            size <= LARGEST
        };
        let fitting = waiting.iter().take(BATCH).take_while(fits).count();
        let count = fitting.max(1).min(waiting.len());
        waiting.drain(..count).collect()
    }

    async fn alone<R>(
        &self,
        item: Arc<T>,
        run: impl Fn(Vec<Arc<T>>) -> R,
    ) -> Result<A, Arc<sqlx::Error>>
    where
        R: Future<Output = Result<Vec<A>, sqlx::Error>>,
    {
        let _permit = self.statements.acquire().await;
        let answers = run(vec![item]).await.map_err(Arc::new)?;
        let answer = answers.into_iter().next();
        answer.ok_or_else(|| Arc::new(sqlx::Error::RowNotFound))
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, VecDeque<Call<T, A>>> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Runs a statement for these calls, and answers them.
async fn answer<T, A, R>(calls: Vec<Call<T, A>>, run: impl Fn(Vec<Arc<T>>) -> R)
where
    R: Future<Output = Result<Vec<A>, sqlx::Error>>,
{
    let items = calls.iter().map(|call| call.item.clone()).collect();
    match run(items).await {
        Ok(answers) => {
            for (call, answer) in calls.into_iter().zip(answers) {
                let _ = call.answer.send(Answer::Is(Ok(answer)));
            }
        }
        Err(error) if calls.len() > 1 && is_of_an_item(&error) => {
            for call in calls {
                let _ = call.answer.send(Answer::RunAlone);
            }
        }
        Err(error) => {
            let error = Arc::new(error);
            for call in calls {
                let _ = call.answer.send(Answer::Is(Err(error.clone())));
            }
        }
    }
}

/// Returns whether one item may be the cause: its data, a constraint, a limit, or a trigger of the application.
fn is_of_an_item(error: &sqlx::Error) -> bool {
    let code = error.as_database_error().and_then(|error| error.code());
    code.is_some_and(|code| {
        ["22", "23", "54", "P0"]
            .iter()
            .any(|class| code.starts_with(class))
    })
}
