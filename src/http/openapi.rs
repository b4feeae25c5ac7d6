//! The OpenAPI document: base, security, tags, and the errors that every operation may answer.

use std::collections::BTreeMap;

use utoipa::openapi::security::{HttpAuthScheme, HttpBuilder, SecurityScheme};
use utoipa::openapi::{ContentBuilder, Ref, RefOr, Response, ResponseBuilder};
use utoipa::{IntoResponses, Modify, OpenApi, ToSchema};

/// Info, tags, security scheme and shared schemas; paths are added by the router.
#[derive(OpenApi)]
#[openapi(
    info(
        title = "Engramia",
        description = "Memory for AI agents: learn what worked, recall it by meaning, judge it, get better with every \
                       outcome.\n\nPress **Authorize** and paste an API key, or a token of the configured issuer. Unknown \
                       request fields are ignored; fields are only ever added within v1.",
        license(name = "Apache-2.0", identifier = "Apache-2.0")
    ),
    tags(
        (name = "memory", description = "Learn, recall, feedback"),
        (name = "skills", description = "Capability tags"),
        (name = "transfer", description = "Export and import"),
        (name = "keys", description = "API keys"),
        (name = "audit", description = "What was done, and by whom"),
        (name = "maintenance", description = "Time decay"),
        (name = "service", description = "Health, statistics, version")
    ),
    components(schemas(ErrorBody)),
    modifiers(&BearerKey),
    security(("api_key" = []))
)]
pub struct Base;

struct BearerKey;

impl Modify for BearerKey {
    fn modify(&self, openapi: &mut utoipa::openapi::OpenApi) {
        let bearer = HttpBuilder::new()
            .scheme(HttpAuthScheme::Bearer)
            .description(Some("An API key, or in OIDC mode a token of the issuer: `Authorization: Bearer <key>`"))
            .build();
        openapi.components.get_or_insert_default().add_security_scheme("api_key", SecurityScheme::Http(bearer));
    }
}

/// Every error has this shape.
#[derive(ToSchema)]
#[expect(dead_code, reason = "documents what `Problem` writes")]
pub struct ErrorBody {
    /// Machine-readable cause.
    #[schema(example = "VALIDATION_ERROR")]
    error_code: String,
    /// For people; for `VALIDATION_ERROR` of a request an array with one item a mistake, each with `type`, `loc`, `msg`.
    #[schema(value_type = Object)]
    detail: String,
    /// Numbers that go with the error, such as `retry_after` or `max_bytes`.
    #[schema(value_type = Option<Object>)]
    error_context: Option<String>,
    /// Also in the header `X-Request-ID`, and in the log.
    request_id: String,
}

/// The errors that every operation may answer.
pub struct Errors;

impl IntoResponses for Errors {
    fn responses() -> BTreeMap<String, RefOr<Response>> {
        [
            ("401", "No or unknown key, or a token that is not accepted"),
            ("403", "The role lacks the permission"),
            ("404", "Unknown route or resource"),
            ("413", "Body too large"),
            ("422", "The input is wrong; every mistake is listed"),
            ("429", "Too many requests, see `Retry-After`; or a quota is reached"),
            ("503", "Storage or token issuer failed, maintenance, or the server is busy; see `Retry-After`"),
        ]
        .into_iter()
        .map(|(status, description)| {
            let content = ContentBuilder::new().schema(Some(Ref::from_schema_name("ErrorBody"))).build();
            let response = ResponseBuilder::new().description(description).content("application/json", content);
            (status.to_owned(), RefOr::T(response.build()))
        })
        .collect()
    }
}
