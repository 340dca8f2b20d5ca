//! The webhook as an `OpenAPI` document tells of it: what comes, with which credentials, and what
//! it is answered.

use serde_json::{Value, json};
use utoipa::openapi::extensions::Extensions;
use utoipa::openapi::header::HeaderBuilder;
use utoipa::openapi::path::{HttpMethod, Operation, PathItem};
use utoipa::openapi::request_body::RequestBody;
use utoipa::openapi::security::{Http, HttpAuthScheme, SecurityRequirement, SecurityScheme};
use utoipa::openapi::{Content, Object, OpenApi, Ref, Required, Response, Responses, Type};
use utoipa::{Modify, PartialSchema as _, ToSchema as _};

use crate::event::JobEvent;

/// Puts the job webhook into an application's `OpenAPI` document.
///
/// As utoipa's `Modify` it adds to the document the entry under `webhooks` (`OpenAPI` 3.1's place
/// for requests that others send, without a path), the schemas that it refers to, under names
/// that begin with `Mx`, and the credentials that it was told of. What is in the document
/// already stays.
///
/// utoipa 5 has no field for `webhooks`. The entry stands among the document's extensions, is
/// written where it belongs, and is lost where a document is read again with utoipa.
///
/// # Example
///
/// ```
/// use mx_job_webhook::schema::OpenApiWebhook;
/// use utoipa::OpenApi;
///
/// const WEBHOOK: OpenApiWebhook = OpenApiWebhook::new().with_basic();
///
/// #[derive(OpenApi)]
/// #[openapi(modifiers(&WEBHOOK))]
/// struct Api;
///
/// let document = serde_json::to_value(Api::openapi())?;
/// let answers = &document["webhooks"]["mxJob"]["post"]["responses"];
/// assert_eq!(answers["204"]["description"], "Handled, or nothing to do.");
/// # Ok::<(), serde_json::Error>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub struct OpenApiWebhook {
    name: &'static str,
    basic: bool,
    bearer: bool,
}

impl OpenApiWebhook {
    /// The webhook under the name `mxJob`, without credentials.
    ///
    /// For [`Credentials::unauthenticated`](crate::Credentials::unauthenticated), which a
    /// proxy or mutual TLS may stand before; else say which there are.
    pub const fn new() -> Self {
        Self {
            name: "mxJob",
            basic: false,
            bearer: false,
        }
    }

    /// Another name for the entry, which no request ever contains.
    pub const fn with_name(mut self, name: &'static str) -> Self {
        self.name = name;
        self
    }

    /// A user and a password are taken, as by [`Credentials::basic`](crate::Credentials::basic).
    ///
    /// The scheme is called `mxBasic`. With [`with_bearer`](Self::with_bearer) too, either will do.
    pub const fn with_basic(mut self) -> Self {
        self.basic = true;
        self
    }

    /// A token is taken, as by [`Credentials::bearer`](crate::Credentials::bearer).
    ///
    /// The scheme is called `mxBearer`. With [`with_basic`](Self::with_basic) too, either will do.
    pub const fn with_bearer(mut self) -> Self {
        self.bearer = true;
        self
    }

    /// The entry alone, to change it or to have it elsewhere, such as under `paths`.
    ///
    /// It refers to the schema of [`JobEvent`] and the schemes by name.
    #[must_use]
    pub fn path_item(&self) -> PathItem {
        let body = Content::builder()
            .schema(Some(Ref::from_schema_name(JobEvent::name())))
            .example(Some(example()))
            .build();
        let body = RequestBody::builder()
            .content("application/json", body)
            .required(Some(Required::True))
            .build();
        let operation = Operation::builder()
            .operation_id(Some(self.name))
            .summary(Some("MX tells of a job's status"))
            .description(Some(DESCRIPTION))
            .request_body(Some(body))
            .responses(responses())
            .securities(Some(
                self.schemes()
                    .map(|(name, _)| SecurityRequirement::new(name, [] as [&str; 0])),
            ));
        PathItem::new(HttpMethod::Post, operation)
    }

    fn schemes(self) -> impl Iterator<Item = (&'static str, HttpAuthScheme)> {
        let basic = self.basic.then_some(("mxBasic", HttpAuthScheme::Basic));
        let bearer = self.bearer.then_some(("mxBearer", HttpAuthScheme::Bearer));
        basic.into_iter().chain(bearer)
    }
}

impl Default for OpenApiWebhook {
    fn default() -> Self {
        Self::new()
    }
}

impl Modify for OpenApiWebhook {
    fn modify(&self, openapi: &mut OpenApi) {
        let components = openapi.components.get_or_insert_default();
        let mut schemas = vec![(JobEvent::name().into_owned(), JobEvent::schema())];
        JobEvent::schemas(&mut schemas);
        components.schemas.extend(schemas);
        for (name, scheme) in self.schemes() {
            components.add_security_scheme(name, SecurityScheme::Http(Http::new(scheme)));
        }
        // Fails for keys that are not strings, which a description does not have.
        let item = serde_json::to_value(self.path_item()).unwrap_or_default();
        let extensions = openapi.extensions.get_or_insert_with(Extensions::default);
        let webhooks = extensions.entry("webhooks".to_owned()).or_insert(json!({}));
        if let Value::Object(webhooks) = webhooks {
            webhooks.insert(self.name.to_owned(), item);
        }
    }
}

const DESCRIPTION: &str = "Sent when a job is CHALLENGED, COMPLETED, PREVENTED, DENIED or HALTED. \
    An answer that is not 2xx has it sent again, up to 12 times in about 24 hours.";

/// A status, when it is answered, and the header that comes with it.
type Answer = (
    &'static str,
    &'static str,
    Option<(&'static str, &'static str)>,
);

#[rustfmt::skip]
const ANSWERS: [Answer; 10] = [
    ("204", "Handled, or nothing to do.", None),
    ("400", "The body broke off.", None),
    ("401", "The credentials are missing or wrong.", Some(("WWW-Authenticate", "The schemes that are taken."))),
    ("405", "Another method, on a route of its own.", Some(("Allow", "POST"))),
    ("408", "The body came too slowly.", None),
    ("413", "The body is too large.", None),
    ("415", "The content type is not JSON.", None),
    ("422", "The body is no job webhook.", None),
    ("500", "Handling it failed.", None),
    ("503", "Not now: under way already, overloaded, too slow, or shutting down.", Some(("Retry-After", "In seconds."))),
];

fn responses() -> Responses {
    ANSWERS.iter().fold(Responses::new(), |mut all, answer| {
        let (status, text, header) = *answer;
        let mut response = Response::builder().description(text);
        if let Some((name, text)) = header {
            let header = HeaderBuilder::new()
                .schema(Object::with_type(Type::String))
                .description(Some(text));
            response = response.header(name, header.build());
        }
        all.responses
            .insert(status.to_owned(), response.build().into());
        all
    })
}

/// The sample of MX's *Job Status* page.
fn example() -> Value {
    json!({ "job": {
        "created_at": 1_471_281_212,
        "error_message": null,
        "finished_at": 1_471_281_215,
        "guid": "JOB-a177e002-e5b8-0680-3427-39556fa93c6e",
        "institution_guid": "INS-3aeb38da-26e4-3818-e0fa-673315ab7754",
        "is_authenticated": true,
        "member_guid": "MBR-48d9a481-f2a2-7e13-2685-62869cf0d33a",
        "member_id": null,
        "started_at": 1_471_281_213,
        "status": 6,
        "status_name": "COMPLETED",
        "updated_at": 1_471_281_218,
        "user_guid": "USR-eaf4ac68-d17d-5e9b-7b46-959a5b315a9e",
        "user_id": "7834372140",
    } })
}
