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
// Pages of rustdoc cannot load a file of the repository, so the picture is a part of the page. The guide defines its
// path too, for readers of the repository: the first definition counts.
#[doc = concat!("[dead_letters]: data:image/png;base64,", include_str!("docs/images/dead_letters.base64"))]
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

#[cfg(test)]
mod tests {
    use base64::Engine as _;
    use base64::engine::general_purpose::STANDARD;

    #[test]
    fn the_picture_in_the_page_is_that_of_the_repository() {
        let text = include_str!("docs/images/dead_letters.base64").trim_end();
        let picture = include_bytes!("docs/images/dead_letters.png");
        assert_eq!(STANDARD.decode(text).unwrap(), picture);
    }
}
