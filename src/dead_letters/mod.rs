//! Failed events that can be seen, understood and run once more.
//!
//! [`PostgresDeadLetters`] keeps events whose callback failed permanently, bodies that could not be
//! decoded, and MX's other webhooks that no hook took. List them, read their errors, run them again
//! after a fix, or discard them.
//!
//! # What is kept
//!
//! - **Events**, by [`keep_dead_letters`](PostgresDeadLetters::keep_dead_letters) as the hook
//!   [`on_dead_letter`](crate::JobRouter::on_dead_letter). A mount answers an ordinary failure with
//!   500, and MX's retries come first: up to 12 in about 24 hours. The hook takes an event if its
//!   callback returns [`Permanent`](crate::Permanent). MX sends no number of the retry. To keep
//!   events whose callback fails again and again, set
//!   [`with_dead_letters_after`](crate::JobRouter::with_dead_letters_after): some hours after
//!   `updated_at`, each failure counts as permanent.
//! - **Undecodable bodies**, by [`keep_undecodable`](PostgresDeadLetters::keep_undecodable) as the
//!   hook [`on_undecodable`](crate::JobWebhook::on_undecodable). Run them once a new version of the
//!   crate can decode them.
//! - **MX's other webhooks**, by [`keep_other_webhooks`](PostgresDeadLetters::keep_other_webhooks) as
//!   the hook [`on_other_webhook`](crate::JobWebhook::on_other_webhook).
//!
//! A delivery that is kept is answered 204. If the letter cannot be kept, the answer is 500, and MX
//! delivers it again.
//!
//! # Replays
//!
//! [`replay`](PostgresDeadLetters::replay) runs the event at once, in this process. Pass the service
//! that runs the callbacks, **without a [`DedupeLayer`](crate::DedupeLayer)**: the ledger knows a
//! letter that was acknowledged, and would answer [`Duplicate`](crate::Receipt::Duplicate). Such a
//! replay is an error, and the letter stays. A callback sees the source
//! [`Replay`](crate::event::Source::Replay), and no headers.
//!
//! # Example
//!
//! ```
//! use std::time::Duration;
//! use mx_job_webhook::dead_letters::{LetterFilter, PostgresDeadLetters};
//! use mx_job_webhook::{Background, ErrorKind, JobEvent, JobRouter, Permanent};
//! use sqlx::postgres::PgPoolOptions;
//!
//! /// Runs all events once more whose error says so, and prints what is left.
//! async fn after_the_fix(letters: &PostgresDeadLetters, jobs: JobRouter) -> Result<(), sqlx::Error> {
//!     let unknown = LetterFilter::new().with_error_containing("unknown member");
//!     let replayed = letters.replay_all(&unknown, jobs).await?;
//!     println!("{} succeeded, {} failed", replayed.succeeded(), replayed.failed());
//!
//!     for letter in letters.list(&LetterFilter::new()).await?.letters() {
//!         println!("{} failed {} times: {}", letter.name(), letter.tries(), letter.error());
//!     }
//!     Ok(())
//! }
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! # let url = "postgres://127.0.0.1:1/app"; // No server listens there.
//! let pool = PgPoolOptions::new().acquire_timeout(Duration::from_millis(50)).connect_lazy(url)?;
//! let letters = PostgresDeadLetters::new(pool); // Then, once: `letters.create_table().await?`
//! let jobs = JobRouter::new()
//!     .on_completed(|_| async { Err(Permanent::new("unknown member")) })
//!     .on_dead_letter(letters.keep_dead_letters());
//!
//! // Until the database can be reached, the delivery fails and MX keeps the event.
//! let event = JobEvent::decode(r#"{"job": {"guid": "JOB-1", "status_name": "COMPLETED"}}"#)?;
//! let kept = Background::new().run(jobs.clone(), event).await;
//! assert_eq!(kept.unwrap_err().kind(), ErrorKind::CallbackFailed);
//! assert!(after_the_fix(&letters, jobs).await.is_err());
//! # Ok(()) }
//! ```
//!
//! This module uses `router`, `ledger`, `callback`, `background`, `event`, `job`, `error` and `util`.

mod cursor;
mod filter;
mod keep;
pub(crate) mod key;
mod letter;
#[cfg(feature = "queue")]
mod own_connections;
#[cfg(not(feature = "queue"))]
#[path = "no_own_connections.rs"]
mod own_connections;
mod page;
mod read;
mod replay;
mod replay_error;
mod run;
mod store;
mod table;

pub use cursor::{LetterCursor, ParseLetterCursorError};
pub use filter::LetterFilter;
#[cfg(feature = "queue")]
pub(crate) use filter::timestamp;
pub use keep::{KeepError, KeepFuture};
pub use letter::{Letter, LetterKind};
#[cfg(feature = "queue")]
pub(crate) use letter::{LetterParts, error_text};
pub use page::LetterPage;
pub use replay::Replayed;
pub use replay_error::ReplayError;
pub use store::PostgresDeadLetters;
