//! Dead letters of the queue: seeing them, running them once more, deleting them.

use bytes::Bytes;
use sqlx::Row as _;

use super::connections::{is_of_a_row, is_unanswered};
use super::letter_rows::{Choice, KeyValues, read};
use super::statement::{Statement, Value};
use super::{JobQueue, first};
use crate::dead_letters::{
    KeepFuture, Letter, LetterCursor, LetterFilter, LetterKind, LetterPage, ReplayError, Replayed,
    key,
};
use crate::event::{OtherWebhook, Undecodable};

/// How many letters one statement replays at most.
const BATCH: i64 = 1_000;

/// How many letters are listed at a time.
const PAGE: usize = 1_000;

/// The kinds of letters that are kept beside the queue.
const KEPT: [LetterKind; 2] = [LetterKind::Undecodable, LetterKind::OtherWebhook];

/// Dead letters.
///
/// They are the events whose callbacks have failed for the last time, and the bodies that
/// [`keep_undecodable`](Self::keep_undecodable) and [`keep_other_webhooks`](Self::keep_other_webhooks) keep.
impl JobQueue {
    /// Returns a page of dead letters, the newest failure first.
    ///
    /// To read on, pass [`LetterPage::next`] to [`LetterFilter::after`]. All conditions of the filter use an
    /// index, except those on the status and on the error.
    ///
    /// # Errors
    ///
    /// The database's error.
    ///
    /// # Example
    ///
    /// ```no_run
    /// use mx_job_webhook::dead_letters::LetterFilter;
    /// use mx_job_webhook::queue::JobQueue;
    ///
    /// # async fn show(queue: JobQueue) -> Result<(), Box<dyn std::error::Error>> {
    /// for letter in queue.dead_letters(&LetterFilter::new()).await?.letters() {
    ///     println!("{}: {} tries, {}", letter.name(), letter.tries(), letter.error());
    /// }
    /// // The fault is mended.
    /// let timeouts = LetterFilter::new().with_error_containing("the bank did not answer");
    /// let replayed = queue.replay_all(&timeouts).await?;
    /// println!("{} events are back in the queue", replayed.succeeded());
    /// # Ok(()) }
    /// ```
    pub async fn dead_letters(&self, filter: &LetterFilter) -> Result<LetterPage, sqlx::Error> {
        let limit = filter.limit();
        let mut letters = Vec::new();
        let mut has_more = false;
        if filter.kind().is_none_or(|kind| kind == LetterKind::Event) {
            letters = self.dead_events(filter, limit + 1).await?;
        }
        for kind in kept_kinds(filter) {
            let page = self.letters.list(&filter.clone().with_kind(kind)).await?;
            has_more |= page.next().is_some();
            letters.extend(page.into_letters());
        }
        letters.sort_by(|one, other| place(other).cmp(&place(one)));
        has_more |= letters.len() > limit;
        letters.truncate(limit);
        let next = letters.last().filter(|_| has_more).map(|last| {
            let (micros, name) = place(last);
            LetterCursor::new(micros, name)
        });
        Ok(LetterPage::new(letters, next))
    }

    /// Returns the body of a dead letter as it came, or `None` if there is no such letter.
    ///
    /// It can name a user.
    ///
    /// # Errors
    ///
    /// The database's error.
    pub async fn dead_letter_body(&self, name: &str) -> Result<Option<Bytes>, sqlx::Error> {
        if is_kept(name) {
            return self.letters.body(name).await;
        }
        let Some(values) = self.key_values(name) else {
            return Ok(None);
        };
        let body = Statement::new("body", include_str!("sql/body.sql"), &values.values());
        let rows = self.shared.connections.run(&body).await?;
        let body = rows.first().map(|row| row.try_get::<Vec<u8>, _>(1));
        Ok(body.transpose()?.map(Bytes::from))
    }

    /// Returns a dead letter to the queue, with as many tries as a new event. Returns whether there was one of this
    /// [`Letter::name`](crate::dead_letters::Letter::name), which is not the job's guid.
    ///
    /// The number of the [`Try`](super::Try) continues. A worker runs the event as soon as it can, and if it succeeds, the
    /// letter is gone. A second call changes nothing, and returns `false`.
    ///
    /// A body that was kept is decoded and stored as an event.
    ///
    /// # Errors
    ///
    /// If a body cannot be decoded, or the database fails. The letter then stays.
    pub async fn replay(&self, name: &str) -> Result<bool, ReplayError> {
        if is_kept(name) {
            return match self.letters.replay(name, self.enqueue()).await {
                Ok(_) => Ok(true),
                Err(error) if error.is_not_found() => Ok(false),
                Err(error) => Err(error),
            };
        }
        let Some(values) = self.key_values(name) else {
            return Ok(false);
        };
        let replay = Statement::new("replay", include_str!("sql/replay.sql"), &values.values());
        let replayed = self.changed(&replay).await;
        replayed.map_err(ReplayError::database)
    }

    /// Ends the pause of an event that has failed and has tries left, so that a worker runs it as soon as it can. Returns whether it
    /// paused.
    ///
    /// Its name is the text of its [`EventName`](crate::ledger::EventName), as in the guide's
    /// [SQL](crate::guide::durable_work#how-to-look).
    ///
    /// # Errors
    ///
    /// The database's error.
    pub async fn run_now(&self, name: &str) -> Result<bool, sqlx::Error> {
        let Some(values) = self.key_values(name) else {
            return Ok(false);
        };
        let run_now = Statement::new("run_now", include_str!("sql/run_now.sql"), &values.values());
        self.changed(&run_now).await
    }

    /// Returns all dead letters that match to the queue, in the order in which they failed.
    ///
    /// Letters that fail while this runs stay. The filter's limit and cursor are those of a page, and are ignored. The
    /// counts are those of letters that were returned to the queue, and of those that stay: bodies that cannot be decoded, and
    /// rows that the database refuses to change.
    ///
    /// # Errors
    ///
    /// The database's error. Letters that were returned before stay in the queue. If the server has not answered in time, letters may have
    /// been returned or not. The others are tried nevertheless, unless no transaction ends at present, such as without a synchronous
    /// standby. Call it again then.
    ///
    /// # Cancellation
    ///
    /// If the future is dropped, it stops after the current thousand, or after the current letter if the database refuses to
    /// change one of them.
    pub async fn replay_all(&self, filter: &LetterFilter) -> Result<Replayed, sqlx::Error> {
        let mut replayed = Replayed::default();
        if filter.kind().is_none_or(|kind| kind == LetterKind::Event) {
            replayed = self.replay_events(filter).await?;
        }
        for kind in kept_kinds(filter) {
            let filter = filter.clone().with_kind(kind);
            replayed.add(self.letters.replay_all(&filter, self.enqueue()).await?);
        }
        Ok(replayed)
    }

    /// Deletes a dead letter. Returns whether there was one.
    ///
    /// If MX delivers the event again, it is a new one.
    ///
    /// # Errors
    ///
    /// The database's error.
    pub async fn discard(&self, name: &str) -> Result<bool, sqlx::Error> {
        if is_kept(name) {
            return self.letters.discard(name).await;
        }
        let Some(values) = self.key_values(name) else {
            return Ok(false);
        };
        let discard = Statement::new("discard", include_str!("sql/discard.sql"), &values.values());
        self.changed(&discard).await
    }

    /// Returns a hook for [`on_undecodable`](crate::JobWebhook::on_undecodable) that keeps the body beside the dead
    /// letters of the queue.
    ///
    /// A later release of this crate or of the application may be able to decode it: then [`replay`](Self::replay) it.
    ///
    /// # Errors
    ///
    /// The hook fails if the database does, and if the body is longer than 1 MiB. The delivery is then answered 500.
    pub fn keep_undecodable(
        &self,
    ) -> impl Fn(Undecodable) -> KeepFuture + Clone + Send + Sync + 'static + use<> {
        self.letters.keep_undecodable()
    }

    /// Returns a hook for [`on_other_webhook`](crate::JobWebhook::on_other_webhook) that keeps the body beside the dead
    /// letters of the queue.
    ///
    /// # Errors
    ///
    /// The same as for [`keep_undecodable`](Self::keep_undecodable).
    pub fn keep_other_webhooks(
        &self,
    ) -> impl Fn(OtherWebhook) -> KeepFuture + Clone + Send + Sync + 'static + use<> {
        self.letters.keep_other_webhooks()
    }

    async fn dead_events(
        &self,
        filter: &LetterFilter,
        limit: usize,
    ) -> Result<Vec<Letter>, sqlx::Error> {
        if filter.is_impossible() {
            return Ok(Vec::new());
        }
        let choice = Choice::of(filter);
        let limit = Value::Number(i64::try_from(limit).unwrap_or(i64::MAX));
        let (micros, name) = match filter.cursor() {
            Some(cursor) => (Value::Time(cursor.micros()), Value::Text(cursor.name())),
            None => (Value::Null, Value::Null),
        };
        let [queue, status, error, since, until] = choice.values(&self.shared.name, None);
        let values = [queue, status, error, since, until, micros, name, limit];
        let list = include_str!("sql/dead_letters.sql");
        let list = Statement::new("dead_letters", list, &values);
        let rows = self.shared.connections.run(&list).await?;
        rows.iter().map(read).collect()
    }

    async fn replay_events(&self, filter: &LetterFilter) -> Result<Replayed, sqlx::Error> {
        if filter.is_impossible() {
            return Ok(Replayed::default());
        }
        let now = Statement::new("now", include_str!("sql/now.sql"), &[]);
        let rows = self.shared.connections.run(&now).await?;
        let now: i64 = first(&rows, "now")?.try_get(1)?;
        let choice = Choice::of(filter);
        let [queue, status, error, since, until] = choice.values(&self.shared.name, Some(now));
        let values = [queue, status, error, since, until, Value::Number(BATCH)];
        let replay = include_str!("sql/replay_all.sql");
        let replay = Statement::new("replay_all", replay, &values);
        let mut total = Replayed::default();
        loop {
            let rows = match self.shared.connections.run_once(&replay).await {
                Err(error) if is_of_a_row(&error) => {
                    // If no letter is the cause, a statement that replays none fails too.
                    let [queue, status, error_part, since, until] =
                        choice.values(&self.shared.name, Some(now));
                    let values = [queue, status, error_part, since, until, Value::Number(0)];
                    let none = include_str!("sql/replay_all.sql");
                    let none = Statement::new("replay_all", none, &values);
                    self.shared.connections.run(&none).await?;
                    let unanswered = self.unanswered(error).await?;
                    total.add(self.replay_one_by_one(filter, now).await?);
                    return unanswered.map_or(Ok(total), Err);
                }
                rows => rows?,
            };
            let row = first(&rows, "replay_all")?;
            let (replayed, chosen): (i64, i64) = (row.try_get(1)?, row.try_get(2)?);
            total.add(Replayed::of(replayed.unsigned_abs(), 0));
            self.shared.stored.notify_one();
            if replayed < chosen {
                // A trigger has kept letters, which would be chosen again.
                total.add(self.replay_one_by_one(filter, now).await?);
                return Ok(total);
            }
            if chosen < BATCH {
                return Ok(total);
            }
        }
    }

    /// If a statement was not answered, it may have replayed letters: returns its error, after which to try the others. Fails with it
    /// if no transaction ends at present.
    async fn unanswered(&self, error: sqlx::Error) -> Result<Option<sqlx::Error>, sqlx::Error> {
        if !is_unanswered(&error) {
            return Ok(None);
        }
        match self.shared.connections.commits().await {
            true => Ok(Some(error)),
            false => Err(error),
        }
    }

    /// Replays each letter that failed before this time by itself, because the database may refuse to change the row of one of
    /// them.
    async fn replay_one_by_one(
        &self,
        filter: &LetterFilter,
        now: i64,
    ) -> Result<Replayed, sqlx::Error> {
        let mut names = Vec::new();
        let mut next = Some(filter.clone().without_cursor());
        while let Some(filter) = next.take() {
            let letters = self.dead_events(&filter, PAGE).await?;
            let cursor = |letter: &Letter| {
                let (micros, name) = place(letter);
                LetterCursor::new(micros, name)
            };
            if letters.len() == PAGE {
                next = letters
                    .last()
                    .map(|last| filter.clone().after(cursor(last)));
            }
            let is_before = |letter: &Letter| place(letter).0 < now;
            names.extend(
                letters
                    .iter()
                    .filter(|it| is_before(it))
                    .map(|it| it.name().to_owned()),
            );
        }
        let (mut total, mut unanswered) = (Replayed::default(), None);
        // Pages begin with the latest.
        for name in names.iter().rev() {
            let Some(values) = self.key_values(name) else {
                continue;
            };
            let replay = Statement::new("replay", include_str!("sql/replay.sql"), &values.values());
            match self.shared.connections.run(&replay).await {
                Ok(rows) => {
                    let row = first(&rows, "replay")?;
                    let (has_changed, is_found): (bool, bool) = (row.try_get(1)?, row.try_get(2)?);
                    total.add(Replayed::of(
                        has_changed.into(),
                        (is_found && !has_changed).into(),
                    ));
                    self.shared.stored.notify_one();
                }
                Err(error) if is_of_a_row(&error) => {
                    total.add(Replayed::of(0, 1));
                    unanswered = self.unanswered(error).await?.or(unanswered);
                }
                Err(error) => return Err(error),
            }
        }
        unanswered.map_or(Ok(total), Err)
    }

    /// Runs a statement that says whether it has changed a row.
    async fn changed(&self, statement: &Statement) -> Result<bool, sqlx::Error> {
        let rows = self.shared.connections.run_once(statement).await?;
        let has_changed = first(&rows, statement.name)?.try_get(1)?;
        if has_changed {
            self.shared.stored.notify_one();
        }
        Ok(has_changed)
    }

    fn key_values(&self, name: &str) -> Option<KeyValues<'_>> {
        Some(KeyValues {
            queue: &self.shared.name,
            key: key::find(name)?,
        })
    }
}

/// Returns the kinds of kept bodies that the filter chooses.
fn kept_kinds(filter: &LetterFilter) -> impl Iterator<Item = LetterKind> {
    let kind = filter.kind();
    let has_status = filter.status_text().is_some();
    KEPT.into_iter()
        .filter(move |kept| !has_status && kind.is_none_or(|kind| kind == *kept))
}

/// Returns whether the letter is a body that was kept beside the queue.
fn is_kept(name: &str) -> bool {
    key::is_of_body(name)
}

/// Returns the letter's place in the order of pages.
fn place(letter: &Letter) -> (i64, &str) {
    let failed_at = letter.failed_at();
    let micros = failed_at.unix_seconds().saturating_mul(1_000_000);
    let micros = micros.saturating_add(i64::from(failed_at.subsec_nanos()) / 1_000);
    (micros, letter.name())
}
