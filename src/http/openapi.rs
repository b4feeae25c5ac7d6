//! The OpenAPI document: base, security, tags, and the errors that every operation may answer.

use std::collections::BTreeMap;

use axum::http::Method;
use utoipa::openapi::path::{Parameter, ParameterBuilder, ParameterIn};
use utoipa::openapi::schema::{ObjectBuilder, SchemaType, Type};
use utoipa::openapi::security::{HttpAuthScheme, HttpBuilder, SecurityScheme};
use utoipa::openapi::{ContentBuilder, HeaderBuilder, Ref, RefOr, Required, Response, ResponseBuilder};
use utoipa::{IntoParams, IntoResponses, Modify, OpenApi, ToSchema};

use super::idempotency;
use super::operation::JobAccepted;

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
        (name = "judgement", description = "Evaluate, compose, evolve; needs a language model"),
        (name = "skills", description = "Capability tags"),
        (name = "transfer", description = "Export and import"),
        (name = "keys", description = "API keys"),
        (name = "governance", description = "Erasure"),
        (name = "analytics", description = "What the memory is worth"),
        (name = "audit", description = "What was done, and by whom"),
        (name = "governance", description = "Retention, classification, exports, requests of data subjects"),
        (name = "jobs", description = "Operations in the background"),
        (name = "billing", description = "The plan of the tenant, and paying for it"),
        (name = "maintenance", description = "Time decay"),
        (name = "service", description = "Health, statistics, version")
    ),
    components(schemas(ErrorBody, JobAccepted)),
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

/// The errors of operations that need a language model.
pub struct ModelErrors;

impl IntoResponses for Errors {
    fn responses() -> BTreeMap<String, RefOr<Response>> {
        documented(&[
            ("401", "No or unknown key, or a token that is not accepted"),
            ("402", "A payment is due for too long, or the plan does not have the feature"),
            ("403", "The role lacks the permission"),
            ("404", "Unknown route or resource"),
            ("413", "Body too large"),
            ("422", "The input is wrong; every mistake is listed"),
            ("429", "Too many requests, see `Retry-After`; or a quota is reached"),
            ("503", "Storage or token issuer failed, maintenance, or the server is busy; see `Retry-After`"),
        ])
    }
}

impl IntoResponses for ModelErrors {
    fn responses() -> BTreeMap<String, RefOr<Response>> {
        documented(&[
            ("429", "Too many requests, see `Retry-After`; or the daily LLM budget is used up, see `reset_date`"),
            ("501", "No language model is configured"),
            ("502", "The provider of the language model failed, or answered what cannot be used"),
            ("503", "The provider keeps failing, the server is busy, or storage failed; see `Retry-After`"),
        ])
    }
}

fn documented(errors: &[(&str, &str)]) -> BTreeMap<String, RefOr<Response>> {
    let response = |description: &str| {
        let content = ContentBuilder::new().schema(Some(Ref::from_schema_name("ErrorBody"))).build();
        RefOr::T(ResponseBuilder::new().description(description).content("application/json", content).build())
    };
    errors.iter().map(|(status, description)| ((*status).to_owned(), response(description))).collect()
}

/// Adds the header `Idempotency-Key`, and what may come of it, to every operation that heeds it.
pub fn say_what_is_repeatable(document: &mut utoipa::openapi::OpenApi) {
    let conflict = "A request with the same Idempotency-Key is being carried out, see `Retry-After`";
    for (path, item) in &mut document.paths.paths {
        let operations = [
            (Method::POST, &mut item.post),
            (Method::PUT, &mut item.put),
            (Method::PATCH, &mut item.patch),
            (Method::DELETE, &mut item.delete),
        ];
        for (method, operation) in operations {
            let Some(operation) = operation.as_mut().filter(|_| idempotency::takes_part(&method, path)) else {
                continue;
            };
            operation.parameters.get_or_insert_default().push(RefOr::T(idempotency_key()));
            let responses = &mut operation.responses.responses;
            match responses.get_mut("409") {
                Some(RefOr::T(response)) => response.description = format!("{}. {conflict}", response.description),
                Some(RefOr::Ref(_)) => {}
                None => responses.extend(documented(&[("409", conflict)])),
            }
        }
    }
}

fn idempotency_key() -> Parameter {
    let text = "Repeating a request with the same key within 24 hours gives the first answer again, with \
                `Idempotent-Replayed: true`; 1 to 255 visible ASCII characters, best a random UUID";
    let schema = ObjectBuilder::new()
        .schema_type(SchemaType::new(Type::String))
        .min_length(Some(1))
        .max_length(Some(idempotency::LONGEST_KEY))
        .build();
    let parameter = ParameterBuilder::new().name("Idempotency-Key").parameter_in(ParameterIn::Header);
    parameter.required(Required::False).description(Some(text)).schema(Some(schema)).build()
}

/// The headers that make an operation a job, and the answer then.
pub struct Deferred;

impl IntoParams for Deferred {
    fn into_params(_: impl Fn() -> Option<ParameterIn>) -> Vec<Parameter> {
        [
            ("Prefer", Type::String, "`respond-async` (RFC 7240): answer 202 at once and run as a job"),
            ("X-Max-Execution-Seconds", Type::Integer, "Longest time of one attempt of the job, in whole seconds"),
        ]
        .into_iter()
        .map(|(name, kind, description)| {
            let schema = ObjectBuilder::new().schema_type(SchemaType::new(kind)).build();
            let parameter = ParameterBuilder::new().name(name).parameter_in(ParameterIn::Header);
            parameter.required(Required::False).description(Some(description)).schema(Some(schema)).build()
        })
        .collect()
    }
}

impl IntoResponses for Deferred {
    fn responses() -> BTreeMap<String, RefOr<Response>> {
        let content = ContentBuilder::new().schema(Some(Ref::from_schema_name("JobAccepted"))).build();
        let location = HeaderBuilder::new().description(Some("Where to ask for the job")).build();
        let response = ResponseBuilder::new()
            .description("Taken on as a job")
            .header("Location", location)
            .content("application/json", content);
        BTreeMap::from([("202".to_owned(), RefOr::T(response.build()))])
    }
}
