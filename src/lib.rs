//! Receives MX's job-status webhooks inside an application that already exists.
//!
//! [MX](https://docs.mx.com) runs *jobs*, each of which connects to a bank for a user. When a job is
//! DENIED, PREVENTED, HALTED, COMPLETED or CHALLENGED, MX posts `{"job": {…}}`. This crate takes
//! those requests out of an application's traffic, and runs the async callback that the application
//! registered for the status:
//!
//! ```
//! use axum::{Router, routing::get};
//! use mx_job_webhook::{Credentials, JobRouter, JobWebhook};
//!
//! let jobs = JobRouter::new()
//!     .on_completed(|event| async move { println!("read accounts of {:?}", event.member_guid) })
//!     .on_challenged(|event| async move { println!("ask the user of {:?}", event.member_guid) });
//!
//! let app: Router = Router::new()
//!     .route("/accounts", get(|| async { "accounts" }))
//!     .layer(JobWebhook::new(Credentials::basic("mx", "secret")?, jobs).at("/admin/webhooks"));
//! # drop(app); Ok::<(), mx_job_webhook::credentials::CredentialsError>(())
//! ```
//!
//! # The flow
//!
//! Outside is HTTP, `Service<Request<B>>`; inside are events, `Service<JobEvent>`. The callbacks
//! are the innermost service, and everything between is ordinary tower middleware:
//!
//! ```text
//! Request ─▶ accept ─▶ authenticate ─▶ buffer ─▶ decode ─▶ Service<JobEvent> ─▶ respond ─▶ Response
//!    │ not ours                                             │
//!    ▼                                                      ├─ WatchLayer  (waiters of the job hear of it)
//!  inner service, untouched                                 ├─ DedupeLayer (duplicates and stale events end here)
//!                                                           ├─ tower's own (concurrency_limit, load_shed, …)
//!     read job ─▶ Failsafe ─▶ the same Service<JobEvent> ─▶ └─ JobRouter   (status ─▶ callback),
//!     JobQueue ─▶ Worker   ─▶ the same Service<JobEvent> ─▶                or a JobQueue in its place
//! ```
//!
//! # Guides
//!
//! - [`going_live`](guide::going_live): what to set and to check before MX delivers.
//! - [`guarantees`](guide::guarantees): each promise, its limits, and the tests behind it.
//! - [`answers`](guide::answers): the answer to each delivery, and how to see why.
//! - [`from_polling`](guide::from_polling): how to replace polling.
//! - [`durable_work`](guide::durable_work): callbacks that take minutes, and events that have failed.
//! - [`replicas`](guide::replicas): ledgers that several replicas share.
//! - [`observability`](guide::observability): spans, logs and metrics.
//! - [`performance`](guide::performance): what is fast and what is not.
//! - [`compare`](guide::compare): when to use something else.
//!
//! # Modules
//!
//! Each module may use those above it in this list, and no other:
//!
//! - `util`: catching panics, deadlines.
//! - [`background`]: [`Background`] tracks running callbacks and hands them to the runtime.
//! - [`error`]: [`Error`] says why a delivery was refused, [`Receipt`] why it was acknowledged.
//! - [`job`]: [`Job`], its [`Status`] and ids, and decoding them.
//! - [`event`]: [`JobEvent`], a job with the body and headers it arrived with.
//! - [`callback`]: callbacks and services of events, and how they are called.
//! - [`observe`]: spans and metrics.
//! - [`credentials`]: [`Credentials`] decide which senders may deliver.
//! - [`ledger`]: ledgers remember which events were handled.
//! - [`dedupe`]: [`DedupeLayer`] runs the callback for each event once.
//! - [`acknowledge_first`]: answers 204 before the callback runs.
//! - `watch`: `JobWatch` waits for jobs, and `Failsafe` reads those of which nothing was heard.
//! - [`router`]: [`JobRouter`] maps each status to its callback.
//! - `dead_letters`: `PostgresDeadLetters` keeps failed events, to look at them and run them again.
//! - `queue`: `JobQueue` stores events, and its workers run their callbacks.
//! - [`schema`]: `JSON Schema` and `OpenAPI`.
//! - `pipeline`: the steps of a delivery.
//! - [`mount`]: [`JobWebhook`] as a service or a layer, and the axum extractor.
//! - `testing`: a stand-in for MX, and the conformance suite of ledgers.
//!
//! # Promises
//!
//! [`guarantees`](guide::guarantees) states them in full, with their limits.
//!
//! 1. **A 2xx is a receipt.** It is sent only after the application's own code has taken charge of
//!    the event, in this delivery or an earlier one, or if nothing is registered for it. All other
//!    answers are error statuses, and MX's retries (12 in about 24 hours) keep the event.
//!    `AcknowledgeFirstLayer` alone gives this up.
//! 2. **A started callback finishes**, with the feature `tokio`, even if the sender hangs up. A
//!    callback that is cut short is reported. See [`Background`].
//! 3. **Every wait ends.** With the feature `tokio`, each deadline fires on time, unless the
//!    application's code blocks its thread.
//! 4. **Every request is authenticated before its body is read**, and bodies are bounded. A panic
//!    ends one delivery. New fields and statuses never fail decoding.
//! 5. **An expected job is never forgotten**, with `JobWatch` and `Failsafe`: it ends in a webhook, in
//!    a read of the job through the same callbacks, or in a hook that says that it was given up.
//!
//! # What does not happen
//!
//! - Nothing outside of `pipeline/respond.rs` chooses a status code.
//! - Nothing reads a body before `pipeline/authenticate.rs` has accepted the request. The types hold
//!   this: `buffer` takes only what was accepted, and `discard` only what was refused.
//! - Nothing spawns a task except `background`, `watch` for its listeners and reads, the workers of
//!   `queue`, and the ledgers on Redis and `PostgreSQL` for their connections.
//! - Nothing prints a credential, a user's id or a body.
//! - There is no `unsafe` code.
//!
//! # Features
//!
//! - `axum` (default): the extractor, and `IntoResponse` for [`Error`] and [`Receipt`].
//! - `tokio` (default): timeouts, callbacks that continue after the sender hangs up, and `watch`.
//!   Without it the layer needs no runtime.
//! - `redis`, `postgres`: ledgers and stores of expected jobs that several
//!   [replicas](guide::replicas) share. With `postgres`, the module `dead_letters` too.
//! - `queue`: durable work on `PostgreSQL`, with retries and dead letters: see
//!   [`durable_work`](guide::durable_work).
//! - `tracing`, `metrics`: spans, logs and metrics of each delivery: see
//!   [`observability`](guide::observability).
//! - `jiff`, `chrono`, `time`: conversions between [`Timestamp`](job::Timestamp) and the types of
//!   those crates.
//! - `schemars`: `JsonSchema` for [`JobEvent`], [`Job`] and its parts.
//! - `utoipa`: `ToSchema` for the same types, and `OpenApiWebhook`, which adds the webhook to an
//!   `OpenAPI` document.
//! - `test-util`: the module `testing`.
#![cfg_attr(docsrs, feature(doc_cfg))]
#![cfg_attr(
    test,
    allow(clippy::unwrap_used, reason = "a panic is how a test fails")
)]

pub mod acknowledge_first;
pub mod background;
pub mod callback;
pub mod credentials;
#[cfg(feature = "postgres")]
pub mod dead_letters;
pub mod dedupe;
pub mod error;
pub mod event;
pub mod guide;
pub mod job;
pub mod ledger;
pub mod mount;
pub mod observe;
mod pipeline;
#[cfg(feature = "queue")]
pub mod queue;
pub mod router;
pub mod schema;
#[cfg(feature = "test-util")]
pub mod testing;
mod util;
#[cfg(feature = "tokio")]
pub mod watch;

#[doc(inline)]
pub use background::Background;
#[doc(inline)]
pub use callback::BoxJobService;
#[doc(inline)]
pub use credentials::Credentials;
#[doc(inline)]
pub use dedupe::DedupeLayer;
#[doc(inline)]
pub use error::{Error, ErrorKind, Permanent, Receipt};
#[doc(inline)]
pub use event::JobEvent;
#[doc(inline)]
pub use job::{Job, Status};
#[doc(inline)]
pub use mount::JobWebhook;
#[doc(inline)]
pub use router::JobRouter;

#[cfg(all(doctest, feature = "axum", feature = "tokio"))]
#[doc = include_str!("../README.md")]
struct Readme;
