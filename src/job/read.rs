//! Reads a job from JSON text, or from any self-describing format through serde.

use serde::de::{
    Deserialize, DeserializeSeed as _, Deserializer, Error as _, IgnoredAny, MapAccess,
};

use crate::error::Error;
use crate::job::{
    InstitutionGuid, Job, JobGuid, MemberGuid, MemberId, Status, Timestamp, UserGuid, UserId,
};

use super::Scalar;
use super::object::{FromKey, Key, ReadEntries, ReadObject};
use crate::job::json::{Cursor, Malformed};
use crate::job::white_space::is_blank;

impl<'de> Deserialize<'de> for Job {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let mut partial = PartialJob::default();
        if !ReadObject(&mut partial).deserialize(deserializer)? {
            return Err(D::Error::custom("a job must be an object"));
        }
        partial.finish().map_err(D::Error::custom)
    }
}

/// The fields of a job object that have been read so far.
#[derive(Default)]
pub(crate) struct PartialJob {
    /// The documented fields that have been read, one bit for each.
    seen: u16,
    repeated: Option<&'static str>,
    guid: Option<JobGuid>,
    status_name: Option<Status>,
    status_code: Option<i64>,
    created_at: Option<Timestamp>,
    started_at: Option<Timestamp>,
    finished_at: Option<Timestamp>,
    updated_at: Option<Timestamp>,
    error_message: Option<String>,
    institution_guid: Option<InstitutionGuid>,
    insitution_guid: Option<InstitutionGuid>,
    is_authenticated: Option<bool>,
    member_guid: Option<MemberGuid>,
    member_id: Option<MemberId>,
    user_guid: Option<UserGuid>,
    user_id: Option<UserId>,
}

impl PartialJob {
    /// Returns the job, if it has a GUID and a status and no field twice.
    pub(crate) fn finish(self) -> Result<Job, Error> {
        // If a field has two values, either could be the wrong one to act on.
        if let Some(field) = self.repeated {
            return Err(Error::invalid_job(field, "appears more than once"));
        }
        let guid = self.guid.ok_or_else(|| {
            Error::invalid_job(
                "guid",
                match self.seen & Field::Guid.bit() {
                    0 => "is missing",
                    _ => "is not a string, or is blank",
                },
            )
        })?;
        let status = self
            .status_name
            .or_else(|| self.status_code.map(Status::from))
            .ok_or_else(|| {
                Error::invalid_job("status", "and `status_name` are both missing or unusable")
            })?;
        Ok(Job {
            guid,
            status,
            status_code: self.status_code,
            created_at: self.created_at,
            started_at: self.started_at,
            finished_at: self.finished_at,
            updated_at: self.updated_at,
            error_message: self.error_message,
            institution_guid: self.institution_guid.or(self.insitution_guid),
            is_authenticated: self.is_authenticated,
            member_guid: self.member_guid,
            member_id: self.member_id,
            user_guid: self.user_guid,
            user_id: self.user_id,
        })
    }

    /// Reads the remaining entries of the object that the cursor has entered, and leaves it.
    #[inline]
    pub(crate) fn read(&mut self, json: &mut Cursor<'_>) -> Result<(), Malformed> {
        let mut first = true;
        while let Some(key) = json.next_key(first)? {
            first = false;
            let value = json.next_value()?;
            if let Some(field) = key.text().and_then(|key| FromKey::from_key(&key)) {
                self.set(field, &value.into());
            }
        }
        Ok(())
    }

    fn set(&mut self, field: Field, value: &Scalar<'_>) {
        if self.seen & field.bit() != 0 {
            self.repeated.get_or_insert(field.name());
            return;
        }
        self.seen |= field.bit();
        match field {
            Field::Guid => self.guid = text(value).and_then(JobGuid::from_text),
            Field::StatusName => {
                self.status_name = text(value).filter(|name| !is_blank(name)).map(Status::from);
            }
            Field::Status => self.status_code = value.integer(),
            Field::CreatedAt => self.created_at = Timestamp::from_scalar(value),
            Field::StartedAt => self.started_at = Timestamp::from_scalar(value),
            Field::FinishedAt => self.finished_at = Timestamp::from_scalar(value),
            Field::UpdatedAt => self.updated_at = Timestamp::from_scalar(value),
            Field::ErrorMessage => self.error_message = text(value).map(str::to_owned),
            Field::InstitutionGuid => {
                self.institution_guid = text(value).and_then(InstitutionGuid::from_text);
            }
            Field::InsitutionGuid => {
                self.insitution_guid = text(value).and_then(InstitutionGuid::from_text);
            }
            Field::IsAuthenticated => {
                self.is_authenticated = match value {
                    Scalar::Bool(value) => Some(*value),
                    _ => None,
                }
            }
            Field::MemberGuid => self.member_guid = text(value).and_then(MemberGuid::from_text),
            Field::MemberId => self.member_id = partner_id(value, MemberId::from_text),
            Field::UserGuid => self.user_guid = text(value).and_then(UserGuid::from_text),
            Field::UserId => self.user_id = partner_id(value, UserId::from_text),
        }
    }
}

fn text<'a>(value: &'a Scalar<'_>) -> Option<&'a str> {
    match value {
        Scalar::Text(text) => Some(text),
        _ => None,
    }
}

/// Reads a partner's own id. Many partners use numbers: `7` and `"7"` are the same id.
fn partner_id<T>(value: &Scalar<'_>, from_text: fn(&str) -> Option<T>) -> Option<T> {
    match value {
        Scalar::Text(text) => from_text(text),
        number => from_text(&number.integer()?.to_string()),
    }
}

impl<'de> ReadEntries<'de> for PartialJob {
    fn read_entries<A: MapAccess<'de>>(&mut self, mut map: A) -> Result<(), A::Error> {
        while let Some(Key(field)) = map.next_key::<Key<Option<Field>>>()? {
            match field {
                Some(field) => self.set(field, &map.next_value::<Scalar<'_>>()?),
                None => _ = map.next_value::<IgnoredAny>()?,
            }
        }
        Ok(())
    }
}

/// Defines the fields that are read, and their names.
macro_rules! fields {
    ($($field:ident = $name:literal),+ $(,)?) => {
        #[derive(Clone, Copy)]
        enum Field {
            $($field),+
        }

        impl FromKey for Option<Field> {
            fn from_key(key: &str) -> Self {
                match key {
                    $($name => Some(Field::$field),)+
                    _ => None,
                }
            }
        }

        impl Field {
            fn name(self) -> &'static str {
                match self {
                    $(Self::$field => $name),+
                }
            }

            fn bit(self) -> u16 {
                1 << self as u16
            }
        }
    };
}

fields! {
    Guid = "guid",
    Status = "status",
    StatusName = "status_name",
    CreatedAt = "created_at",
    StartedAt = "started_at",
    FinishedAt = "finished_at",
    UpdatedAt = "updated_at",
    ErrorMessage = "error_message",
    InstitutionGuid = "institution_guid",
    // The field table on MX's page misspells the name; its sample does not.
    InsitutionGuid = "insitution_guid",
    IsAuthenticated = "is_authenticated",
    MemberGuid = "member_guid",
    MemberId = "member_id",
    UserGuid = "user_guid",
    UserId = "user_id",
}
