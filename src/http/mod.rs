//! The HTTP face: translate, authorise, call one service. Every route stands in [`router`].

pub mod caller;
pub mod client;
pub mod context;
mod cors;
pub mod extract;
pub mod fields;
mod guard;
pub mod idempotency;
pub mod limit;
pub mod openapi;
pub mod operation;
pub mod problem;
mod usage;
pub mod v1;
mod web;

use std::sync::Arc;

use axum::Router;
use axum::extract::{Request, State};
use axum::http::request::Parts;
use axum::middleware;
use axum::response::{IntoResponse, Redirect, Response};
use axum::routing::get;
use utoipa::OpenApi;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use crate::auth::Authenticator;
use crate::config::Config;
use crate::service::Services;
use crate::service::health::Prober;
use crate::telemetry::metrics::Metrics;
use problem::{ErrorCode, Problem};

/// What handlers share. Cheap to clone.
#[derive(Clone)]
pub struct AppState {
    /// Use cases.
    pub services: Arc<Services>,
    /// Settings.
    pub config: Arc<Config>,
    /// Who is who.
    pub authenticator: Arc<Authenticator>,
    /// Rate limits.
    pub limits: Arc<limit::Limits>,
    /// Metrics.
    pub metrics: Arc<Metrics>,
    /// Deep health.
    pub prober: Arc<Prober>,
    /// The OpenAPI document as JSON.
    pub openapi: Arc<str>,
    /// When the process started.
    pub started: tokio::time::Instant,
}

/// Operations and their documentation, registered together.
fn operations() -> OpenApiRouter<AppState> {
    OpenApiRouter::with_openapi(openapi::Base::openapi())
        .routes(routes!(v1::learn::learn))
        .routes(routes!(v1::recall::recall))
        .routes(routes!(v1::evaluate::evaluate))
        .routes(routes!(v1::compose::compose))
        .routes(routes!(v1::evolve::evolve))
        .routes(routes!(v1::feedback::feedback))
        .routes(routes!(v1::failures::analyze_failures))
        .routes(routes!(v1::aging::aging))
        .routes(routes!(v1::aging::feedback_decay))
        .routes(routes!(v1::skills::register))
        .routes(routes!(v1::skills::search))
        .routes(routes!(v1::transfer::export))
        .routes(routes!(v1::transfer::import))
        .routes(routes!(v1::keys::bootstrap))
        .routes(routes!(v1::keys::create, v1::keys::list))
        .routes(routes!(v1::keys::revoke))
        .routes(routes!(v1::keys::rotate))
        .routes(routes!(v1::audit::audit))
        .routes(routes!(v1::erasure::erase_project))
        .routes(routes!(v1::erasure::erase_tenant))
        .routes(routes!(v1::analytics::rollup))
        .routes(routes!(v1::analytics::last_rollup))
        .routes(routes!(v1::analytics::events))
        .routes(routes!(v1::jobs::list))
        .routes(routes!(v1::jobs::get))
        .routes(routes!(v1::jobs::cancel))
        .routes(routes!(v1::billing::status))
        .routes(routes!(v1::billing::checkout))
        .routes(routes!(v1::billing::portal))
        .routes(routes!(v1::billing::overage))
        .routes(routes!(v1::billing::webhook))
        .routes(routes!(v1::retention::get, v1::retention::set))
        .routes(routes!(v1::retention::apply))
        .routes(routes!(v1::scope_export::export))
        .routes(routes!(v1::subjects::create, v1::subjects::list))
        .routes(routes!(v1::subjects::get, v1::subjects::update))
        .routes(routes!(v1::health::health))
        .routes(routes!(v1::health::health_deep))
        .routes(routes!(v1::health::metrics))
        .routes(routes!(v1::health::version))
}

/// The OpenAPI document.
pub fn openapi_document() -> utoipa::openapi::OpenApi {
    // The key of a pattern has a slash in it: axum needs a wildcard, OpenAPI a plain parameter.
    let mut document = operations()
        .routes(routes!(v1::patterns::delete_pattern))
        .routes(routes!(v1::outcome::record_outcome))
        .routes(routes!(v1::classification::classify))
        .into_openapi();
    openapi::say_what_is_repeatable(&mut document);
    document
}

/// What a server answers that only works on jobs.
pub fn probes(state: AppState) -> Router {
    Router::new()
        .route("/livez", get(web::livez))
        .route("/readyz", get(web::readyz))
        .route("/metrics", get(web::metrics))
        .route("/metrics/", get(web::metrics))
        .fallback(|| async { web::not_found() })
        .layer(middleware::from_fn_with_state(state.clone(), context::layer))
        .with_state(state)
}

/// Every route, behind every layer. The last layer added is the first a request meets.
pub fn router(state: AppState) -> Router {
    let (operations, _) = operations().split_for_parts();
    operations
        .route(
            "/v1/patterns/{*key}",
            axum::routing::delete(v1::patterns::delete_pattern).post(v1::outcome::record_outcome),
        )
        .route("/v1/governance/patterns/{*key}", axum::routing::put(v1::classification::classify))
        .route("/livez", get(web::livez))
        .route("/readyz", get(web::readyz))
        .route("/metrics", get(web::metrics))
        .route("/metrics/", get(web::metrics))
        .route("/openapi.json", get(web::openapi))
        .route("/docs", get(web::docs))
        .route("/docs/", get(web::docs))
        .route("/docs/{*file}", get(web::docs_file))
        .fallback(unknown_route)
        .method_not_allowed_fallback(wrong_method)
        .layer(middleware::from_fn_with_state(state.clone(), idempotency::layer))
        .layer(middleware::from_fn_with_state(state.clone(), guard::open_mode))
        .layer(middleware::from_fn_with_state(state.clone(), guard::maintenance))
        .layer(middleware::from_fn_with_state(state.clone(), limit::layer))
        .layer(tower::util::option_layer(cors::layer(&state.config.server.cors_origins)))
        .layer(middleware::from_fn_with_state(state.clone(), context::layer))
        .with_state(state)
}

/// 404, or the way to the same path without its last slash. Inside the API only for a known caller, so that nobody
/// else learns which routes exist.
async fn unknown_route(State(state): State<AppState>, request: Request) -> Response {
    let (parts, _) = request.into_parts();
    if let Err(problem) = known_caller(&parts, &state).await {
        return problem.into_response();
    }
    match parts.uri.path().strip_suffix('/') {
        // Two slashes at the start would name another host.
        Some(path) if path.starts_with("/v1/") => {
            let query = parts.uri.query().map(|query| format!("?{query}")).unwrap_or_default();
            Redirect::temporary(&format!("{path}{query}")).into_response()
        }
        _ => web::not_found().into_response(),
    }
}

/// 405; axum adds `Allow`.
async fn wrong_method(State(state): State<AppState>, request: Request) -> Problem {
    let (parts, _) = request.into_parts();
    match known_caller(&parts, &state).await {
        Ok(()) => Problem::new(ErrorCode::MethodNotAllowed, "Method Not Allowed"),
        Err(problem) => problem,
    }
}

async fn known_caller(parts: &Parts, state: &AppState) -> Result<(), Problem> {
    if parts.uri.path().starts_with("/v1/") {
        caller::authenticated(parts, state).await?;
    }
    Ok(())
}
