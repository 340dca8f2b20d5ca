//! Schemas of the webhook, for API descriptions with schemars or utoipa.
//!
//! The schemas contain what MX documents, and allow null wherever MX may send it. Decoding accepts
//! more, such as MX's misspelling `insitution_guid` and a partner's id that is a number. Everything
//! that a schema allows can be read, except what a schema cannot express: a field that appears
//! twice, or a text that is not a date.
//!
//! All schemas are made from one table. This module uses `job` and `event`.

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
