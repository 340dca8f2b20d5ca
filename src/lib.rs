//! Receives MX's job-status webhooks inside an application that already exists.
//!
//! [MX](https://docs.mx.com) runs *jobs*, each of which connects to a bank for a user. When one
//! is DENIED, PREVENTED, HALTED, COMPLETED or CHALLENGED it posts `{"job": {…}}`. This crate
//! takes those requests out of an application's traffic, and runs the async callback that the
//! application registered for the status:
//!
//! ```
//! use axum::{Router, routing::get};
//! use mx_job_webhook::{Credentials, JobRouter, JobWebhookLayer};
//!
//! let jobs = JobRouter::new()
//!     .on_completed(|event| async move { println!("read accounts of {:?}", event.member_guid) })
//!     .on_challenged(|event| async move { println!("ask the user of {:?}", event.member_guid) });
//!
//! let app: Router = Router::new()
//!     .route("/accounts", get(|| async { "accounts" }))
//!     .layer(JobWebhookLayer::new("/admin/webhooks", Credentials::basic("mx", "secret")?, jobs));
//! assert!(app.has_routes());
//! # Ok::<(), mx_job_webhook::CredentialsError>(())
//! ```
//!
//! # The flow
//!
//! Outside is HTTP, `Service<Request<B>>`; inside are events, `Service<JobEvent>`. The callbacks
//! are the innermost service, and what stands between is ordinary tower middleware:
//!
//! ```text
//! Request ─▶ accept ─▶ authenticate ─▶ buffer ─▶ decode ─▶ Service<JobEvent> ─▶ respond ─▶ Response
//!    │ not ours                                             │
//!    ▼                                                      ├─ DedupeLayer (duplicates and stale events end here)
//!  inner service, untouched                                 ├─ tower's own (concurrency_limit, load_shed, …)
//!                                                           └─ JobRouter   (status ─▶ callback)
//! ```
//!
//! - [`JobWebhookLayer`] mounts it on a router or around any service, [`JobWebhookEndpoint`] on a
//!   route, and [`JobEvent`] is an axum extractor. All three are one pipeline.
//! - [`JobRouter`] goes from status to callback; [`Job`] is what a callback reads.
//! - [`Credentials`] decide who may deliver.
//! - [`DedupeLayer`] and a [`Ledger`] have each event handled once, by however many [`replicas`], and
//!   [`Background`] has what was started finished.
//! - [`Error`] says why a delivery was refused, and [`Receipt`] what an acknowledged one came to.
//!
//! # What is promised
//!
//! In full, with its limits, in [`guarantees`].
//!
//! 1. **A 2xx is a receipt.** It goes out after the application's own code returned success for
//!    the event, or if the application registered nothing for it. Anything else is an error
//!    status, and MX's retries (12 in about 24 hours) keep the event alive.
//! 2. **A callback that started, finishes**, with the feature `tokio`: also if the sender hangs
//!    up. One that is cut short is reported. See [`Background`].
//! 3. **Every wait ends.** Each deadline passes on time, whatever the code it bounds does.
//! 4. **Nobody gets in, nothing blows up.** Credentials are decided before a byte of body is
//!    read. Bodies are bounded. A panic ends one delivery. What is new in a payload never fails
//!    decoding.
//!
//! # What does not happen
//!
//! Nothing outside `pipeline/respond.rs` chooses a status code. Nothing reads a body before
//! `pipeline/authenticate.rs` has decided: what it accepts is all that `pipeline/buffer.rs`
//! takes, and what it refuses is all that `pipeline/discard.rs` throws away. Nothing spawns a task
//! but `background`, and the ledgers on Redis and Postgres for their connections. Nothing prints a
//! credential, a user's id or a body. There is no `unsafe`.
//!
//! # Guides
//!
//! [`from_polling`], for who asks the API today; [`going_live`], before MX delivers; [`replicas`];
//! [`guarantees`]; and [`compare`], which says when to use something else.
//!
//! # Features
//!
//! - `axum` (default): the extractor, and `IntoResponse` for [`Error`] and [`Receipt`].
//! - `tokio` (default): the read timeout, and callbacks that run on. Without it the layer
//!   needs no runtime.
//! - `redis`, `postgres`: ledgers that several [`replicas`] share.
//! - `tracing`, `metrics`: what there is to see of each delivery, in [`observability`].
//! - `jiff`, `chrono`, `time`: conversions of [`Timestamp`] from and to those crates' types.
//! - `schemars`: `JsonSchema` for [`JobEvent`], [`Job`] and what it consists of.
//! - `utoipa`: `ToSchema` for the same, and `OpenApiWebhook`, which puts the webhook into an
//!   `OpenAPI` document.
//! - `test-util`: the module `testing`, with a stand-in for MX, and the conformance suite of ledgers.
#![cfg_attr(docsrs, feature(doc_cfg))]
#![cfg_attr(
    test,
    allow(clippy::unwrap_used, reason = "a panic is how a test fails")
)]

mod acknowledge_first;
mod background;
mod callback;
mod credentials;
mod deadline;
mod dedupe;
mod error;
mod event;
#[cfg(feature = "axum")]
mod extract;
mod failure;
mod future;
mod guid;
mod id;
mod job;
mod json;
mod layer;
mod observe;
mod options;
mod panic;
mod partner_id;
mod pass_through;
mod permanent;
mod pipeline;
mod receipt;
mod router;
mod schema;
mod service;
mod status;
#[cfg(feature = "test-util")]
pub mod testing;
mod timestamp;
mod undecodable;
mod white_space;

pub use acknowledge_first::{AcknowledgeFirst, AcknowledgeFirstLayer};
pub use background::{Background, BackgroundTask, RunOn};
pub use callback::{Callback, CallbackFuture, CallbackOutput, StateCallback};
pub use credentials::{Credentials, CredentialsError, CredentialsHandle, Verdict};
pub use dedupe::{
    Claim, Commit, Dedupe, DedupeFuture, DedupeLayer, EventName, FencingToken, Ledger, MemoryLedger,
};
#[cfg(feature = "postgres")]
pub use dedupe::{CommitInError, PostgresLedger};
#[cfg(feature = "redis")]
pub use dedupe::{Reconnecting, RedisLedger, Sentinels};
pub use error::{Error, ErrorKind};
pub use event::JobEvent;
#[cfg(feature = "axum")]
pub use extract::JobEventRejection;
pub use failure::Failure;
pub use future::ResponseFuture;
pub use guid::{InstitutionGuid, JobGuid, MemberGuid, UserGuid};
pub use id::BlankIdError;
pub use job::Job;
pub use layer::JobWebhookLayer;
#[cfg(feature = "metrics")]
pub use observe::describe_metrics;
pub use partner_id::{MemberId, UserId};
pub use permanent::{DeadLetter, Permanent};
pub use receipt::Receipt;
pub use router::{JobRouter, JobRouterFuture, NoState, Unhandled, WithState};
#[cfg(feature = "utoipa")]
pub use schema::OpenApiWebhook;
pub use service::{JobWebhook, JobWebhookEndpoint};
pub use status::{OtherStatus, Status};
#[cfg(any(feature = "jiff", feature = "chrono", feature = "time"))]
pub use timestamp::TimestampRangeError;
pub use timestamp::{ParseTimestampError, Timestamp};
pub use undecodable::Undecodable;

#[cfg(all(doctest, feature = "axum", feature = "tokio"))]
#[doc = include_str!("../README.md")]
struct Readme;

#[doc = include_str!("compare.md")]
pub mod compare {}

#[doc = include_str!("from_polling.md")]
pub mod from_polling {}

#[doc = include_str!("going_live.md")]
pub mod going_live {}

#[doc = include_str!("guarantees.md")]
pub mod guarantees {}

#[doc = include_str!("observability.md")]
pub mod observability {}

#[doc = include_str!("replicas.md")]
pub mod replicas {}
