//! Tests by an outsider who read the documentation and the code and tried to break the promises.
//! Each fault found has been fixed and stays tested.

#[cfg(feature = "axum")]
mod callbacks;
mod commits;
#[cfg(all(
    feature = "axum",
    feature = "metrics",
    feature = "test-util",
    feature = "tracing"
))]
mod fitting;
#[cfg(all(
    feature = "axum",
    feature = "metrics",
    feature = "test-util",
    feature = "tracing"
))]
mod fitting_again;
#[cfg(feature = "axum")]
mod house;
#[cfg(all(feature = "postgres", feature = "redis", feature = "test-util"))]
mod names;
#[cfg(all(
    feature = "axum",
    feature = "metrics",
    feature = "test-util",
    feature = "tracing"
))]
mod runs;
#[cfg(all(
    feature = "axum",
    feature = "metrics",
    feature = "test-util",
    feature = "tracing"
))]
mod waiting;
#[cfg(all(
    feature = "axum",
    feature = "metrics",
    feature = "test-util",
    feature = "tracing"
))]
mod waiting_again;
#[cfg(all(
    feature = "axum",
    feature = "metrics",
    feature = "test-util",
    feature = "tracing"
))]
mod waiting_third;
