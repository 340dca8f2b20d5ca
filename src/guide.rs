//! The guides.
#![cfg_attr(
    not(feature = "tokio"),
    allow(
        rustdoc::broken_intra_doc_links,
        reason = "they link to `watch`, which needs the feature"
    )
)]

#[doc = include_str!("docs/answers.md")]
pub mod answers {}

#[doc = include_str!("docs/compare.md")]
pub mod compare {}

#[cfg_attr(
    not(feature = "queue"),
    allow(
        rustdoc::broken_intra_doc_links,
        reason = "it links to `queue`, which needs the feature"
    )
)]
#[doc = include_str!("docs/durable_work.md")]
pub mod durable_work {}

// Its examples need the feature.
#[cfg_attr(
    any(not(doctest), feature = "tokio"),
    doc = include_str!("docs/from_polling.md")
)]
pub mod from_polling {}

#[doc = include_str!("docs/going_live.md")]
pub mod going_live {}

#[doc = include_str!("docs/guarantees.md")]
pub mod guarantees {}

#[doc = include_str!("docs/observability.md")]
pub mod observability {}

#[doc = include_str!("docs/performance.md")]
pub mod performance {}

#[doc = include_str!("docs/replicas.md")]
pub mod replicas {}
