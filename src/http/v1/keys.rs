//! `/v1/keys`: bootstrap, create, list, revoke, rotate.

use axum::Json;
use axum::extract::rejection::PathRejection;
use axum::extract::{FromRequestParts, Path, State};
use axum::http::request::Parts;
use axum::http::{HeaderName, StatusCode, header};
use secrecy::{ExposeSecret, SecretString};
use serde::Serialize;
use utoipa::ToSchema;

use super::Answer;
use crate::auth::{self, StoredKeys};
use crate::config::Bootstrap;
use crate::domain::Role;
use crate::domain::audit::AuditAction;
use crate::domain::credential;
use crate::domain::time::iso;
use crate::http::AppState;
use crate::http::caller::{Authorized, address, needs};
use crate::http::extract::Body;
use crate::http::fields::{Fields, FromFields, Text};
use crate::http::openapi::{ErrorBody, Errors};
use crate::http::problem::{ErrorCode, Problem};
use crate::service::ServiceError;
use crate::service::keys::{Founding, Issued, NewKey};
use crate::store::ApiKey;

/// Longest name.
const NAME: Text = Text::up_to(100).not_blank();
/// Most patterns that a key may allow.
const MOST_PATTERNS: i64 = 1_000_000;

/// Lets a request pass only if keys are in the store.
pub struct InStore;

impl FromRequestParts<AppState> for InStore {
    type Rejection = Problem;

    async fn from_request_parts(_: &mut Parts, state: &AppState) -> Result<Self, Problem> {
        stored(state).map(|_| Self)
    }
}

fn stored(state: &AppState) -> Result<&StoredKeys, Problem> {
    let text = "Key management requires DB auth mode (ENGRAMIA_AUTH_MODE=db).";
    state.authenticator.stored().ok_or_else(|| Problem::new(ErrorCode::Unavailable, text))
}

/// The configured bootstrap token.
pub struct BootstrapToken(SecretString);

impl FromRequestParts<AppState> for BootstrapToken {
    type Rejection = Problem;

    async fn from_request_parts(_: &mut Parts, state: &AppState) -> Result<Self, Problem> {
        match &state.config.auth.bootstrap {
            Bootstrap::Token(token) => Ok(Self(token.clone())),
            Bootstrap::Off | Bootstrap::TooShort => Err(Problem::new(
                ErrorCode::Unavailable,
                "Bootstrap is disabled. Set ENGRAMIA_BOOTSTRAP_TOKEN in the server environment and supply it as \
                 'bootstrap_token' in the request body.",
            )),
        }
    }
}

/// Who asks for the first key, and how things are to be called.
#[derive(ToSchema)]
pub struct BootstrapRequest {
    /// `ENGRAMIA_BOOTSTRAP_TOKEN` of the server.
    #[schema(max_length = 1000)]
    token: Option<String>,
    /// The same under its other name.
    #[schema(max_length = 1000)]
    bootstrap_token: Option<String>,
    /// Name of the tenant; noted in the audit log.
    #[schema(max_length = 100, default = "Default")]
    tenant_name: Option<String>,
    /// Name of the project.
    #[schema(max_length = 100, default = "default")]
    project_name: Option<String>,
    /// Name of the key.
    #[schema(max_length = 100, default = "Owner key")]
    key_name: Option<String>,
}

impl FromFields for BootstrapRequest {
    fn read(fields: &mut Fields) -> Self {
        let token = Text::up_to(1000);
        Self {
            token: fields.text("token", token),
            bootstrap_token: fields.text("bootstrap_token", token),
            tenant_name: fields.text("tenant_name", NAME),
            project_name: fields.text("project_name", NAME),
            key_name: fields.text("key_name", NAME),
        }
    }
}

/// A key to be made.
#[derive(ToSchema)]
#[expect(dead_code, reason = "documents the body that `FromFields for NewKey` reads")]
pub struct CreateKeyRequest {
    /// For people.
    #[schema(max_length = 100, example = "CI key")]
    name: String,
    /// What it may do; an admin makes editors and readers only.
    #[schema(pattern = "^(reader|editor|admin|owner)$", default = "editor")]
    role: Option<String>,
    /// Most patterns the project may hold when this key stores one more.
    #[schema(minimum = 1, maximum = 1_000_000)]
    max_patterns: Option<u32>,
    /// From when it opens nothing; ISO 8601.
    #[schema(example = "2027-01-01T00:00:00Z")]
    expires_at: Option<String>,
    /// Its project: 1 to 100 of `A-Z a-z 0-9 _ . -`. Another than the caller's only by owners; made on first use.
    #[schema(example = "billing-service")]
    project_id: Option<String>,
}

impl FromFields for NewKey {
    fn read(fields: &mut Fields) -> Self {
        Self {
            name: fields.required_text("name", NAME),
            role: fields.word("role").unwrap_or(Role::Editor),
            max_patterns: fields.whole("max_patterns", 1, MOST_PATTERNS).map(|most| most as u32),
            expires_at: fields.time("expires_at"),
            project: fields.project("project_id"),
        }
    }
}

/// A new key. Its secret is shown only now.
#[derive(Serialize, ToSchema)]
pub struct IssuedKey {
    /// Id.
    id: String,
    /// The same.
    key_id: String,
    /// For people.
    name: String,
    /// The key itself, for the header `Authorization: Bearer <key>`.
    #[schema(example = "engramia_sk_...")]
    key: String,
    /// The same.
    #[schema(example = "engramia_sk_...")]
    secret: String,
    /// Its first characters, to recognise it by.
    key_prefix: String,
    /// What it may do.
    role: &'static str,
    /// Its tenant.
    tenant_id: String,
    /// Its project.
    project_id: String,
    /// Most patterns the project may hold when this key stores one more.
    max_patterns: Option<u32>,
    /// When it was made.
    created_at: String,
    /// From when it opens nothing.
    expires_at: Option<String>,
}

/// A key that has a new secret.
#[derive(Serialize, ToSchema)]
pub struct RotatedKey {
    /// Id, as before.
    id: String,
    /// The same.
    key_id: String,
    /// The key itself; shown only now.
    key: String,
    /// The same.
    secret: String,
    /// Its first characters, to recognise it by.
    key_prefix: String,
}

/// A key without its secret.
#[derive(Serialize, ToSchema)]
pub struct KeyView {
    /// Id.
    id: String,
    /// For people.
    name: String,
    /// Its first characters, to recognise it by.
    key_prefix: String,
    /// What it may do.
    role: &'static str,
    /// Its tenant.
    tenant_id: String,
    /// Its project.
    project_id: String,
    /// Most patterns the project may hold when this key stores one more.
    max_patterns: Option<u32>,
    /// When it was made.
    created_at: String,
    /// When it was last used, to the minute.
    last_used_at: Option<String>,
    /// From when it is dead for good.
    revoked_at: Option<String>,
    /// From when it opens nothing.
    expires_at: Option<String>,
}

/// Keys of a project.
#[derive(Serialize, ToSchema)]
pub struct KeyList {
    /// The newest first, revoked ones too.
    keys: Vec<KeyView>,
}

/// What happened to the key.
#[derive(Serialize, ToSchema)]
pub struct RevokedKey {
    /// Id.
    id: String,
    /// Always true.
    revoked: bool,
}

/// An answer that no cache may keep.
type Secret<T> = ([(HeaderName, &'static str); 1], Json<T>);

fn not_kept<T>(answer: T) -> Secret<T> {
    ([(header::CACHE_CONTROL, "no-store")], Json(answer))
}

fn issued(Issued { key, secret }: Issued) -> (StatusCode, Secret<IssuedKey>) {
    let secret = secret.expose_secret();
    let answer = IssuedKey {
        id: key.id.clone(),
        key_id: key.id,
        name: key.name,
        key: secret.to_owned(),
        secret: secret.to_owned(),
        key_prefix: key.prefix,
        role: key.role.as_str(),
        tenant_id: key.scope.tenant().to_owned(),
        project_id: key.scope.project().to_owned(),
        max_patterns: key.max_patterns,
        created_at: iso(key.created_at),
        expires_at: key.expires_at.map(iso),
    };
    (StatusCode::CREATED, not_kept(answer))
}

impl From<ApiKey> for KeyView {
    fn from(key: ApiKey) -> Self {
        Self {
            id: key.id,
            name: key.name,
            key_prefix: key.prefix,
            role: key.role.as_str(),
            tenant_id: key.scope.tenant().to_owned(),
            project_id: key.scope.project().to_owned(),
            max_patterns: key.max_patterns,
            created_at: iso(key.created_at),
            last_used_at: key.last_used_at.map(iso),
            revoked_at: key.revoked_at.map(iso),
            expires_at: key.expires_at.map(iso),
        }
    }
}

/// Make the first owner key. Works once, with the token of the server's configuration.
#[utoipa::path(post, path = "/v1/keys/bootstrap", operation_id = "bootstrap", tag = "keys", security(()),
    request_body = BootstrapRequest,
    responses((status = 201, body = IssuedKey), (status = 409, body = ErrorBody, description = "Done already"), Errors))]
pub async fn bootstrap(
    State(state): State<AppState>,
    _: InStore,
    BootstrapToken(token): BootstrapToken,
    parts: Parts,
    Body(sent): Body<BootstrapRequest>,
) -> Result<(StatusCode, Secret<IssuedKey>), Problem> {
    let BootstrapRequest { token: first, bootstrap_token: second, tenant_name, project_name, key_name } = sent;
    let known = [credential::hash(token.expose_secret())];
    let (services, address) = (&state.services, address(&parts));
    if ![first, second].iter().flatten().any(|sent| auth::is_one_of(&known, sent.trim())) {
        let event = services.audit.event(AuditAction::AuthFailure, None, address);
        services.audit.note(None, event.with("reason", "invalid_bootstrap_token"));
        return Err(Problem::new(ErrorCode::Unauthorized, "Invalid bootstrap token."));
    }
    let names = Founding {
        key: key_name.unwrap_or_else(|| Founding::KEY.to_owned()),
        project: project_name.unwrap_or_else(|| Founding::PROJECT.to_owned()),
        tenant: tenant_name,
        source: "bootstrap",
    };
    let made = services.draft_owner_key(&names.key);
    if !services.found(&made.key, &names, address).await? {
        return Err(ServiceError::Founded.into());
    }
    Ok(issued(made))
}

/// Make a key.
#[utoipa::path(post, path = "/v1/keys", operation_id = "create_key", tag = "keys", request_body = CreateKeyRequest,
    responses((status = 201, body = IssuedKey), Errors))]
pub async fn create(
    State(state): State<AppState>,
    Authorized { caller, .. }: Authorized<needs::KeysCreate>,
    _: InStore,
    Body(new): Body<NewKey>,
) -> Result<(StatusCode, Secret<IssuedKey>), Problem> {
    Ok(issued(state.services.create_key(&caller, new).await?))
}

/// List the keys of the project, without their secrets.
#[utoipa::path(get, path = "/v1/keys", operation_id = "list_keys", tag = "keys",
    responses((status = 200, body = KeyList), Errors))]
pub async fn list(
    State(state): State<AppState>,
    Authorized { caller, .. }: Authorized<needs::KeysList>,
    _: InStore,
) -> Answer<KeyList> {
    let keys = state.services.list_keys(&caller).await?;
    Ok(Json(KeyList { keys: keys.into_iter().map(KeyView::from).collect() }))
}

/// Revoke a key: it is dead at once, and for good.
#[utoipa::path(delete, path = "/v1/keys/{key_id}", operation_id = "revoke_key", tag = "keys",
    params(("key_id" = String, Path, description = "Id of the key")),
    responses((status = 200, body = RevokedKey), (status = 409, body = ErrorBody, description = "Revoked already"), Errors))]
pub async fn revoke(
    State(state): State<AppState>,
    Authorized { caller, .. }: Authorized<needs::KeysRevoke>,
    _: InStore,
    id: Result<Path<String>, PathRejection>,
) -> Answer<RevokedKey> {
    let outcome = state.services.revoke_key(&caller, &text_of(id)).await;
    // Whatever came of it: a commit may have gone through although it failed.
    stored(&state)?.forget();
    Ok(Json(RevokedKey { id: outcome?, revoked: true }))
}

/// Give a key a new secret: the old one is dead at once.
#[utoipa::path(post, path = "/v1/keys/{key_id}/rotate", operation_id = "rotate_key", tag = "keys",
    params(("key_id" = String, Path, description = "Id of the key")),
    responses((status = 200, body = RotatedKey), (status = 409, body = ErrorBody, description = "Revoked"), Errors))]
pub async fn rotate(
    State(state): State<AppState>,
    Authorized { caller, .. }: Authorized<needs::KeysRotate>,
    _: InStore,
    id: Result<Path<String>, PathRejection>,
) -> Result<Secret<RotatedKey>, Problem> {
    let outcome = state.services.rotate_key(&caller, &text_of(id)).await;
    let keys = stored(&state)?;
    keys.forget();
    let Issued { key, secret } = outcome?;
    keys.forget_uses(&key.id);
    let secret = secret.expose_secret();
    Ok(not_kept(RotatedKey {
        id: key.id.clone(),
        key_id: key.id,
        key: secret.to_owned(),
        secret: secret.to_owned(),
        key_prefix: key.prefix,
    }))
}

/// An id that is not text is the id of no key.
fn text_of(id: Result<Path<String>, PathRejection>) -> String {
    id.map(|Path(id)| id).unwrap_or_default()
}
