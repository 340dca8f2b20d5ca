//! What a job webhook looks like, for descriptions of an API: one table, and an impl for each crate
//! that asks for it.
//!
//! The schemas say what MX documents, with null wherever MX may send it. Decoding takes more than
//! that (MX's misspelling `insitution_guid`, a partner's id that is a number), but nothing that a
//! schema allows is refused, except what no schema can say: a field twice, a text that is no date.

#[cfg(any(feature = "schemars", feature = "utoipa"))]
mod fields;
#[cfg(feature = "schemars")]
mod json_schema;
#[cfg(feature = "utoipa")]
mod to_schema;
#[cfg(feature = "utoipa")]
mod webhook;

#[cfg(feature = "utoipa")]
pub use webhook::OpenApiWebhook;
