//! What logs and metrics see: nothing at all without the features `tracing` and `metrics`.

mod callback;
mod future;
#[cfg(feature = "metrics")]
mod metrics;
#[cfg(feature = "tracing")]
mod trace;

#[cfg(any(feature = "metrics", feature = "tracing"))]
mod delivery;
#[cfg(not(any(feature = "metrics", feature = "tracing")))]
#[path = "nothing.rs"]
mod delivery;
#[cfg(any(feature = "metrics", feature = "tracing"))]
mod outcome;

#[cfg(feature = "metrics")]
pub use self::metrics::describe_metrics;
pub(crate) use callback::Timer;
#[cfg(any(feature = "metrics", feature = "tracing"))]
pub(crate) use delivery::Mark;
pub(crate) use delivery::{Entered, Observation};
pub(crate) use future::Observed;
