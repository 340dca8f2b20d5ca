//! The queue behind poolers and through failovers.
