//! What somebody who had not written the crate tried against its promises, reading its documentation
//! and its code. What broke is mended, and stays tested.

#[cfg(feature = "axum")]
mod callbacks;
mod held;
#[cfg(feature = "axum")]
mod house;
#[cfg(all(feature = "postgres", feature = "redis", feature = "test-util"))]
mod names;
