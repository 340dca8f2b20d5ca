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

use serde::de::{Deserialize, IgnoredAny, MapAccess};

use crate::job::{Draft, FromKey, FromMap, Key, ObjectOr};
use crate::{Error, ErrorKind, Job};

pub(crate) fn decode(body: &[u8]) -> Result<Job, Error> {
    // Checked once here, so that serde_json need not check each string.
    let text = std::str::from_utf8(body).map_err(|_| Error::not_json("it is not UTF-8"))?;
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    let mut json = serde_json::Deserializer::from_str(text);
    let root = ObjectOr::<Root>::deserialize(&mut json)
        .and_then(|root| json.end().map(|()| root))
        .map_err(|error| Error::not_json_at(error.line(), error.column()))?;

    let Some(root) = root.0 else {
        return Err(Error::no_job("the root is not an object"));
    };
    match root.job {
        _ if root.repeated => Err(Error::invalid_job("job", "appears more than once")),
        Some(ObjectOr(Some(draft))) => draft.finish(),
        Some(ObjectOr(None)) => Err(Error::no_job("`job` is not an object")),
        None if root.other_webhook => Err(Error::new(ErrorKind::OtherWebhook)),
        None => Err(Error::no_job("the root has no `job`")),
    }
}

#[derive(Default)]
struct Root {
    job: Option<ObjectOr<Draft>>,
    repeated: bool,
    /// Every other webhook of MX has one of these keys at its root, and no job webhook has.
    other_webhook: bool,
}

impl<'de> FromMap<'de> for Root {
    fn from_map<A: MapAccess<'de>>(mut map: A) -> Result<Self, A::Error> {
        let mut root = Self::default();
        while let Some(key) = map.next_key::<Key<RootKey>>()? {
            match key.0 {
                RootKey::Job => {
                    root.repeated |= root.job.is_some();
                    root.job = Some(map.next_value()?);
                    continue;
                }
                RootKey::TypeOrAction => root.other_webhook = true,
                RootKey::Unknown => {}
            }
            map.next_value::<IgnoredAny>()?;
        }
        Ok(root)
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
