//! Recording the tries that have ended.

use std::future::poll_fn;
use std::mem::take;
use std::pin::pin;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use sqlx::postgres::PgRow;
use tokio::sync::mpsc::UnboundedReceiver;
use tokio::task::yield_now;
use tokio::time::{Instant, sleep_until};

use super::ended::{Ended, settle};
use super::left_out::Trial;
use super::run::{Failing, Run};
use crate::callback::JobService;
use crate::observe;
use crate::queue::connections::is_of_a_row;

/// How many tries one statement records at most.
const BATCH: usize = 64;

const LOCKED: &str =
    "the rows are locked, a trigger keeps them, or a synchronous standby is absent";

pub(super) struct Recorder<J> {
    run: Arc<Run<J>>,
    ended: UnboundedReceiver<Ended>,
    /// Tries whose end is not recorded.
    unrecorded: Vec<Ended>,
    /// Since when the worker takes no further events.
    closed_at: Option<Instant>,
    /// Whether the last statement recorded a try by itself.
    was_alone: bool,
    failing: Option<Failing>,
}

/// Returns the tries that the next statement records, and the others. One that is recorded by itself, because the database may
/// refuse it, takes turns with the others.
fn next_batch(
    mut unrecorded: Vec<Ended>,
    was_alone: bool,
    now: Instant,
) -> (Vec<Ended>, Vec<Ended>) {
    let (mut due, mut later) = (Vec::<Ended>::new(), Vec::new());
    unrecorded.sort_by_key(|ended| ended.alone().is_some() == was_alone);
    for ended in unrecorded {
        let has_room = match due.first() {
            Some(first) => first.alone().is_none() && ended.alone().is_none() && due.len() < BATCH,
            None => true,
        };
        if has_room && ended.is_due(now) {
            due.push(ended);
        } else {
            later.push(ended);
        }
    }
    (due, later)
}

impl<J: JobService> Recorder<J> {
    pub(super) fn new(run: Arc<Run<J>>, ended: UnboundedReceiver<Ended>) -> Self {
        Self {
            run,
            ended,
            unrecorded: Vec::new(),
            closed_at: None,
            was_alone: false,
            failing: None,
        }
    }

    /// Records tries until the worker is closed and its last try is recorded.
    pub(super) async fn record_until_the_end(mut self) {
        let run = self.run.clone();
        loop {
            // It is created before the state is read, so that no change in between is missed.
            let changed = run.running.changed();
            self.receive();
            if run.running.is_closed() {
                self.give_up();
                if run.running.has_ended() {
                    return;
                }
            }
            let now = Instant::now();
            if self.unrecorded.iter().any(|ended| ended.is_due(now)) {
                // Callbacks that end at the same time share the statement.
                yield_now().await;
                self.receive();
                self.record().await;
            } else {
                self.wait(changed).await;
            }
        }
    }

    /// Gives up what could not be recorded for too long, but not sooner after the shutdown: an outage can have begun before
    /// it. Another worker takes the events over.
    fn give_up(&mut self) {
        self.closed_at.get_or_insert_with(Instant::now);
        let unrecorded = take(&mut self.unrecorded).into_iter();
        let (given_up, unrecorded): (Vec<_>, _) =
            unrecorded.partition(|ended| self.is_given_up(ended));
        self.unrecorded = unrecorded;
        if let Some(first) = given_up.first() {
            let queue = &self.run.worker.queue.name;
            observe::results_given_up(queue, given_up.len(), first.name());
        }
    }

    fn is_given_up(&self, ended: &Ended) -> bool {
        let closed_for = self.closed_at.map(|at| at.elapsed());
        let dead_after = self.run.worker.dead_after;
        closed_for.is_some_and(|closed_for| ended.failing_for().min(closed_for) >= dead_after)
    }

    fn receive(&mut self) {
        while let Ok(ended) = self.ended.try_recv() {
            self.unrecorded.push(ended);
        }
    }

    /// Waits until a try ends, or has to be recorded again, or until the worker changes.
    async fn wait(&mut self, changed: impl Future) {
        let again_at = self.unrecorded.iter().filter_map(Ended::again_at).min();
        let mut changed = pin!(changed);
        let mut timer = pin!(async {
            match again_at {
                Some(again_at) => sleep_until(again_at).await,
                None => std::future::pending().await,
            }
        });
        poll_fn(|context| {
            if let Poll::Ready(Some(ended)) = self.ended.poll_recv(context) {
                self.unrecorded.push(ended);
                return Poll::Ready(());
            }
            let is_woken = changed.as_mut().poll(context).is_ready()
                || timer.as_mut().poll(context).is_ready();
            if is_woken {
                Poll::Ready(())
            } else {
                Poll::Pending
            }
        })
        .await;
    }

    async fn record(&mut self) {
        let (due, later) = next_batch(take(&mut self.unrecorded), self.was_alone, Instant::now());
        let alone = due.first().and_then(Ended::alone);
        self.was_alone = alone.is_some();
        self.unrecorded = later;
        let limit = alone.and_then(Trial::limit);
        match self.settle(&due, limit).await {
            Ok(rows) => {
                self.failing = None;
                self.recorded(due, &rows);
            }
            Err(error) if is_of_a_row(&error) && self.records_none().await => {
                self.refused(due, error);
            }
            Err(error) => {
                self.run.fails(&mut self.failing, error);
                self.record_later(due);
            }
        }
    }

    /// Returns whether a statement succeeds that records no try. Otherwise no try is the cause of a failure.
    async fn records_none(&self) -> bool {
        self.settle(&[], None).await.is_ok()
    }

    async fn settle(
        &self,
        due: &[Ended],
        limit: Option<Duration>,
    ) -> Result<Vec<PgRow>, sqlx::Error> {
        // While many other calls wait for connections, the worker waits for longer than these.
        let settle = || settle(&self.run.name, due).within(limit);
        self.run.worker.queue.connections.run_late(settle).await
    }

    fn recorded(&mut self, due: Vec<Ended>, rows: &[PgRow]) {
        // An event whose answer cannot be read returns to the queue when this worker does not know it any more.
        let again = due
            .into_iter()
            .filter_map(|ended| ended.recorded(rows).unwrap_or_default());
        let mut again: Vec<_> = again.collect();
        let locked = again
            .iter_mut()
            .filter_map(|ended| ended.is_locked_for_long().then_some(ended.name()));
        let locked: Vec<&str> = locked.collect();
        if let Some(first) = locked.first() {
            observe::left_out(
                &self.run.worker.queue.name,
                locked.len(),
                first,
                &LOCKED.into(),
            );
        }
        self.unrecorded.extend(again);
    }

    /// The database refuses to record one of these.
    fn refused(&mut self, mut due: Vec<Ended>, error: sqlx::Error) {
        match &mut *due {
            [ended] if ended.alone().is_some() => {
                ended.refused(&self.run.worker.queue.name, error);
            }
            due => due.iter_mut().for_each(Ended::suspect),
        }
        self.unrecorded.extend(due);
    }

    /// The database records none at present, so none of them is the cause.
    fn record_later(&mut self, due: Vec<Ended>) {
        let suspects = take(&mut self.unrecorded);
        let (suspects, others): (Vec<_>, Vec<_>) = suspects
            .into_iter()
            .partition(|ended| ended.alone().is_some_and(|it| it.limit().is_some()));
        self.unrecorded = others;
        for mut ended in due.into_iter().chain(suspects) {
            ended.try_again_later();
            self.unrecorded.push(ended);
        }
    }
}

#[cfg(test)]
mod tests {
    use sqlx::Error::PoolTimedOut;
    use sqlx::postgres::{PgConnectOptions, PgPoolOptions};
    use tokio::time::advance;

    use super::*;
    use crate::queue::{Enqueue, JobQueue};

    fn recorder() -> Recorder<Enqueue> {
        let pool = PgPoolOptions::new().connect_lazy_with(PgConnectOptions::new());
        let queue = JobQueue::postgres(pool);
        let (run, ended) = Run::new(queue.worker(queue.enqueue()));
        Recorder::new(run, ended)
    }

    /// Under steady load, a result that the database has refused once is recorded once the database takes it.
    #[tokio::test(start_paused = true)]
    async fn refused_tries_take_turns_with_others() {
        let others = || std::iter::repeat_with(Ended::sample).take(BATCH);
        let mut unrecorded: Vec<_> = others().collect();
        for _ in 0..2 {
            let mut refused = Ended::sample();
            refused.refused("mx-jobs", sqlx::Error::PoolTimedOut);
            unrecorded.push(refused);
        }
        let now = unrecorded.iter().filter_map(Ended::again_at).max().unwrap();
        let mut was_alone = false;
        for expected in [1, BATCH, 1, BATCH, BATCH] {
            let (due, later) = next_batch(unrecorded, was_alone, now);
            assert_eq!(due.len(), expected);
            was_alone = due[0].alone().is_some();
            assert_eq!(was_alone, expected == 1);
            unrecorded = later;
            unrecorded.extend(others());
        }
    }

    /// Tries that are not due, or for which there is no room, are recorded later.
    #[tokio::test(start_paused = true)]
    async fn a_statement_records_the_tries_that_are_due() {
        let mut later = Ended::sample();
        later.try_again_later();
        let mut unrecorded = vec![later];
        unrecorded.extend(std::iter::repeat_with(Ended::sample).take(BATCH + 1));
        let (due, later) = next_batch(unrecorded, false, Instant::now());
        assert_eq!((due.len(), later.len()), (BATCH, 2));
        assert!(due.iter().all(|ended| ended.again_at().is_none()));
    }

    /// One that is refused among others may not be the cause. One that is refused by itself is.
    #[tokio::test(start_paused = true)]
    async fn ends_that_are_refused_together_are_recorded_by_themselves_before_one_waits() {
        for count in [1, 2] {
            let mut recorder = recorder();
            let due = std::iter::repeat_with(Ended::sample).take(count);
            recorder.refused(due.collect(), PoolTimedOut);
            assert_eq!(recorder.unrecorded.len(), count);
            for ended in &recorder.unrecorded {
                assert_eq!(ended.alone(), Some(Trial::First));
            }
            let first = recorder.unrecorded.remove(0);
            recorder.refused(vec![first], PoolTimedOut);
            assert_eq!(recorder.unrecorded.len(), count);
            let refused = recorder.unrecorded.last().and_then(Ended::alone);
            assert!(matches!(refused, Some(Trial::Again(_))));
        }
    }

    #[tokio::test(start_paused = true)]
    async fn no_end_is_suspected_while_nothing_can_be_recorded() {
        let mut recorder = recorder();
        let [mut due, mut suspect, mut refused] = [(); 3].map(|()| Ended::sample());
        due.suspect();
        suspect.suspect();
        refused.refused("mx-jobs", PoolTimedOut);
        recorder.unrecorded = vec![suspect, refused, Ended::sample()];
        recorder.record_later(vec![due]);
        let now = Instant::now();
        let states = recorder.unrecorded.iter();
        let mut states: Vec<_> = states
            .map(|it| (it.alone().is_some(), it.is_due(now)))
            .collect();
        states.sort_unstable();
        assert_eq!(
            states,
            [(false, false), (false, false), (false, true), (true, false)]
        );
    }

    /// An outage can have begun before the shutdown.
    #[tokio::test(start_paused = true)]
    async fn an_end_is_given_up_if_it_fails_for_too_long_after_the_shutdown() {
        const ONE: Duration = Duration::from_millis(1);
        let mut recorder = recorder();
        let dead_after = recorder.run.worker.dead_after;
        let [mut before, mut after] = [(); 2].map(|()| Ended::sample());
        before.try_again_later();
        recorder.unrecorded = vec![Ended::sample(), before];
        advance(2 * dead_after).await;
        recorder.give_up();
        assert_eq!(recorder.unrecorded.len(), 2, "the shutdown has only begun");
        advance(ONE).await;
        after.try_again_later();
        recorder.unrecorded.push(after);
        advance(dead_after - 3 * ONE).await;
        for left in [3, 2, 1] {
            advance(ONE).await;
            recorder.give_up();
            assert_eq!(recorder.unrecorded.len(), left);
        }
        assert!(recorder.unrecorded[0].again_at().is_none());
    }
}
