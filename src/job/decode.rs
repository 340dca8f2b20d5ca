//! Decodes the bytes of a body into a job.
//!
//! Decoding fails for these reasons, checked in this order:
//!
//! 1. The bytes are not UTF-8, or not exactly one JSON document.
//! 2. The root is not an object, or has no object `job`. If it has `type` or `action`, it is
//!    reported as one of MX's other webhooks.
//! 3. A documented field of the job appears twice, or there is no usable `guid` or no status.
//!
//! Everything else that is unknown is skipped.

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
        JobKey::Repeated => Err(Error::invalid_job("job", "appears more than once")),
        JobKey::Object => root.partial.finish(),
        JobKey::Missing | JobKey::NotAnObject if root.other_webhook => {
            Err(Error::new(ErrorKind::UnexpectedWebhook))
        }
        JobKey::NotAnObject => Err(Error::no_job("`job` is not an object")),
        JobKey::Missing => Err(Error::no_job("the root has no `job`")),
    }
}

/// Returns the error for a text that is not JSON. `serde_json` finds its line and column.
fn not_json(text: &str) -> Error {
    match serde_json::from_str::<IgnoredAny>(text) {
        Err(error) => Error::not_json_at(error.line(), error.column()),
        Ok(IgnoredAny) => Error::not_json("syntax error"),
    }
}

#[derive(Default)]
struct Root {
    job: JobKey,
    partial: PartialJob,
    /// Whether there is a root key `type` or `action`. Each of MX's other webhooks has one of them,
    /// and no job webhook does.
    other_webhook: bool,
}

/// The value under the key `job`.
#[derive(Default)]
enum JobKey {
    #[default]
    Missing,
    Object,
    NotAnObject,
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
            (JobKey::Missing, true) => JobKey::Object,
            (JobKey::Missing, false) => JobKey::NotAnObject,
            _ => JobKey::Repeated,
        };
        Ok(())
    }
}
