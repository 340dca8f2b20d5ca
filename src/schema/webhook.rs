//! The webhook in an `OpenAPI` document: its body, its credentials and its answers.

use serde_json::{Value, json};
use utoipa::openapi::extensions::Extensions;
use utoipa::openapi::header::HeaderBuilder;
use utoipa::openapi::path::{HttpMethod, Operation, PathItem};
use utoipa::openapi::request_body::RequestBody;
use utoipa::openapi::security::{Http, HttpAuthScheme, SecurityRequirement, SecurityScheme};
use utoipa::openapi::{Content, Object, OpenApi, Ref, Required, Response, Responses, Type};
use utoipa::{Modify, PartialSchema as _, ToSchema as _};

use crate::event::JobEvent;

/// A modifier that adds the job webhook to an application's `OpenAPI` document.
///
/// It implements utoipa's `Modify`, and adds to a document:
///
/// - the entry under `webhooks`, which is `OpenAPI` 3.1's place for incoming requests without a
///   path;
/// - the schemas that the entry refers to, whose names begin with `Mx`;
/// - the security schemes of [`with_basic`](Self::with_basic) and
///   [`with_bearer`](Self::with_bearer).
///
/// The rest of the document stays as it is.
///
/// utoipa 5 has no field for `webhooks`, so the entry is one of the document's extensions. It is
/// serialised in the right place. It is lost if utoipa deserialises the document.
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
    /// Returns a modifier for an entry with the name `mxJob` and without credentials.
    ///
    /// This describes [`Credentials::unauthenticated`](crate::Credentials::unauthenticated), for
    /// example behind a proxy or mutual TLS. Otherwise add the schemes that you accept.
    pub const fn new() -> Self {
        Self {
            name: "mxJob",
            basic: false,
            bearer: false,
        }
    }

    /// Sets the name of the entry. Defaults to `mxJob`. No request contains it.
    pub const fn with_name(mut self, name: &'static str) -> Self {
        self.name = name;
        self
    }

    /// Adds HTTP Basic, for [`Credentials::basic`](crate::Credentials::basic).
    ///
    /// The scheme is called `mxBasic`. Together with [`with_bearer`](Self::with_bearer), either is
    /// accepted.
    pub const fn with_basic(mut self) -> Self {
        self.basic = true;
        self
    }

    /// Adds a bearer token, for [`Credentials::bearer`](crate::Credentials::bearer).
    ///
    /// The scheme is called `mxBearer`. Together with [`with_basic`](Self::with_basic), either is
    /// accepted.
    pub const fn with_bearer(mut self) -> Self {
        self.bearer = true;
        self
    }

    /// Returns the entry, to change it or to add it elsewhere, for example under `paths`.
    ///
    /// It refers to the schema of [`JobEvent`] and to the security schemes by name.
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
            .summary(Some("MX reports a job's status"))
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
        // This fails only for keys that are not strings, which an entry does not have.
        let item = serde_json::to_value(self.path_item()).unwrap_or_default();
        let extensions = openapi.extensions.get_or_insert_with(Extensions::default);
        let webhooks = extensions.entry("webhooks".to_owned()).or_insert(json!({}));
        if let Value::Object(webhooks) = webhooks {
            webhooks.insert(self.name.to_owned(), item);
        }
    }
}

const DESCRIPTION: &str = "Sent when a job is CHALLENGED, COMPLETED, PREVENTED, DENIED or HALTED. \
    If the answer is not 2xx, MX sends it again, up to 12 times in about 24 hours.";

/// A status code, its description, and its header with a description.
type Answer = (
    &'static str,
    &'static str,
    Option<(&'static str, &'static str)>,
);

#[rustfmt::skip]
const ANSWERS: [Answer; 10] = [
    ("204", "Handled, or nothing to do.", None),
    ("400", "The body broke off.", None),
    ("401", "The credentials are missing or wrong.", Some(("WWW-Authenticate", "The schemes that are accepted."))),
    ("405", "The method is not POST.", Some(("Allow", "POST"))),
    ("408", "The body arrived too slowly.", None),
    ("413", "The body is too large.", None),
    ("415", "The content type is not JSON, or the body has a content coding.", None),
    ("422", "The body is not a job webhook.", None),
    ("500", "The callback failed.", None),
    ("503", "Try again later: the event is in flight, or the server is overloaded, too slow or shutting down.", Some(("Retry-After", "In seconds."))),
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

/// Returns the sample of MX's *Job Status* page.
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
