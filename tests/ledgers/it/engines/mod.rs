//! Engines for one test as in production: poolers, standbys, Sentinels, clusters, other versions.

pub(crate) mod pgbouncer;
pub(crate) mod postgres;
pub(crate) mod redis;

use std::path::PathBuf;

/// The folder of an engine's programs, from this variable.
pub(crate) fn programs(variable: &str) -> PathBuf {
    match std::env::var_os(variable) {
        Some(folder) => folder.into(),
        None => panic!("{variable} is not set: `.ci/servers engines target/engines` prints it"),
    }
}
