//! Engines of a test's own, as production has them: poolers, standbys, Sentinels, clusters, other versions.

pub(crate) mod redis;
