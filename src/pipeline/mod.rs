//! The steps of a delivery. A request takes them in their alphabetical order.
//!
//! `accept` → `authenticate` → `buffer` → `decode` → `deliver` → `respond`. [`Receive`] drives the
//! steps from `authenticate` to `decode`. `discard` reads the body of a request that one of them
//! refuses. Nothing outside of `respond` chooses a status code, and nothing reads a body before
//! `authenticate` has accepted the request.
//!
//! This module uses `background`, `callback`, `credentials`, `event`, `job`, `observe`, `error` and
//! `util`.

pub(crate) mod accept;
mod authenticate;
mod buffer;
mod decode;
mod deliver;
mod discard;
mod receive;
mod respond;
mod settings;

pub(crate) use deliver::{Answer, Deliver};
#[cfg(feature = "axum")]
pub(crate) use receive::{Receive, Refusal};
pub(crate) use respond::respond;
use settings::Limits;
pub(crate) use settings::Settings;

/// How many frames of a body are read before the deadline is checked, because a sender may always
/// have another frame ready.
const FRAMES_AT_A_TIME: u32 = 64;
