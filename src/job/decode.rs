//! Decode: the bytes of a body become a job.
//!
//! What fails, in the order in which it is looked at:
//! 1. bytes that are not UTF-8, or not exactly one JSON document;
//! 2. a root that is not an object, or has no object `job`; a root with `type` or `action`
//!    instead is one of MX's other webhooks and is told apart;
//! 3. a job in which a documented field appears twice, or without a usable `guid`, or without
//!    any status.
//!
//! Everything else is novelty, and novelty is read around.

use serde::de::IgnoredAny;

use super::PartialJob;
use crate::error::{Error, ErrorKind};
use crate::job::Job;
use crate::job::json::{Cursor, Malformed};

pub(crate) fn decode(body: &[u8]) -> Result<Job, Error> {
    let text = std::str::from_utf8(body).map_err(|_| Error::not_json("it is not UTF-8"))?;
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    let mut root = Root::default();
    let is_object = root.read(text).map_err(|Malformed| not_json(text))?;

    if !is_object {
        return Err(Error::no_job("the root is not an object"));
    }
    match root.job {
        Found::Repeated => Err(Error::invalid_job("job", "appears more than once")),
        Found::Object => root.partial.finish(),
        Found::AnotherType => Err(Error::no_job("`job` is not an object")),
        Found::Missing if root.other_webhook => Err(Error::new(ErrorKind::OtherWebhook)),
        Found::Missing => Err(Error::no_job("the root has no `job`")),
    }
}

/// Says where it is no JSON, which `serde_json` counts in lines.
fn not_json(text: &str) -> Error {
    match serde_json::from_str::<IgnoredAny>(text) {
        Err(error) => Error::not_json_at(error.line(), error.column()),
        Ok(IgnoredAny) => Error::not_json("its grammar is broken"),
    }
}

#[derive(Default)]
struct Root {
    job: Found,
    partial: PartialJob,
    /// Every other webhook of MX has one of these keys at its root, and no job webhook has.
    other_webhook: bool,
}

/// What stands behind the key `job`.
#[derive(Default)]
enum Found {
    #[default]
    Missing,
    Object,
    AnotherType,
    Repeated,
}

impl Root {
    /// Reads the document, and returns whether it is an object.
    fn read(&mut self, text: &str) -> Result<bool, Malformed> {
        let json = &mut Cursor::new(text);
        let is_object = json.enter_object();
        if is_object {
            self.read_entries(json)?;
        } else {
            json.next_value()?;
        }
        json.end()?;
        Ok(is_object)
    }

    fn read_entries(&mut self, json: &mut Cursor<'_>) -> Result<(), Malformed> {
        let mut first = true;
        while let Some(key) = json.next_key(first)? {
            first = false;
            match key.text().as_deref() {
                Some("job") => self.read_job(json)?,
                Some("type" | "action") => {
                    self.other_webhook = true;
                    json.next_value()?;
                }
                _ => _ = json.next_value()?,
            }
        }
        Ok(())
    }

    fn read_job(&mut self, json: &mut Cursor<'_>) -> Result<(), Malformed> {
        let is_object = json.enter_object();
        if is_object {
            self.partial.read(json)?;
        } else {
            json.next_value()?;
        }
        self.job = match (&self.job, is_object) {
            (Found::Missing, true) => Found::Object,
            (Found::Missing, false) => Found::AnotherType,
            _ => Found::Repeated,
        };
        Ok(())
    }
}
