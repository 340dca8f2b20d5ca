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

use serde::de::{DeserializeSeed as _, IgnoredAny, MapAccess};

use crate::job::{Draft, Fill, FromKey, Key, Object};
use crate::{Error, ErrorKind, Job};

pub(crate) fn decode(body: &[u8]) -> Result<Job, Error> {
    // Checked once here, so that serde_json need not check each string.
    let text = std::str::from_utf8(body).map_err(|_| Error::not_json("it is not UTF-8"))?;
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    let mut json = serde_json::Deserializer::from_str(text);
    let mut root = Root::default();
    let is_object = Object(&mut root)
        .deserialize(&mut json)
        .and_then(|is_object| json.end().map(|()| is_object))
        .map_err(|error| Error::not_json_at(error.line(), error.column()))?;

    if !is_object {
        return Err(Error::no_job("the root is not an object"));
    }
    match root.job {
        Found::Repeated => Err(Error::invalid_job("job", "appears more than once")),
        Found::Object => root.draft.finish(),
        Found::AnotherType => Err(Error::no_job("`job` is not an object")),
        Found::Missing if root.other_webhook => Err(Error::new(ErrorKind::OtherWebhook)),
        Found::Missing => Err(Error::no_job("the root has no `job`")),
    }
}

#[derive(Default)]
struct Root {
    job: Found,
    draft: Draft,
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

impl<'de> Fill<'de> for Root {
    fn fill<A: MapAccess<'de>>(&mut self, mut map: A) -> Result<(), A::Error> {
        while let Some(key) = map.next_key::<Key<RootKey>>()? {
            match key.0 {
                RootKey::Job => {
                    let is_object = map.next_value_seed(Object(&mut self.draft))?;
                    self.job = match (&self.job, is_object) {
                        (Found::Missing, true) => Found::Object,
                        (Found::Missing, false) => Found::AnotherType,
                        _ => Found::Repeated,
                    };
                    continue;
                }
                RootKey::TypeOrAction => self.other_webhook = true,
                RootKey::Unknown => {}
            }
            map.next_value::<IgnoredAny>()?;
        }
        Ok(())
    }
}

enum RootKey {
    Job,
    TypeOrAction,
    Unknown,
}

impl FromKey for RootKey {
    fn from_key(key: &str) -> Self {
        match key {
            "job" => Self::Job,
            "type" | "action" => Self::TypeOrAction,
            _ => Self::Unknown,
        }
    }
}
