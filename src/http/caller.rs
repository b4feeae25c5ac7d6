//! The caller of a request: authentication, the limit of its key, its scope, its permission; in this order.

use std::marker::PhantomData;

use axum::extract::FromRequestParts;
use axum::http::header;
use axum::http::request::Parts;

use super::AppState;
use super::client::Client;
use super::problem::{ErrorCode, Problem};
use crate::auth::{AuthError, Principal};
use crate::domain::{Caller, Permission, Scope};
use crate::service::ServiceError;

/// A caller that holds the permission `P`. A handler's signature thus says what it needs.
pub struct Authorized<P> {
    /// The caller.
    pub caller: Caller,
    permission: PhantomData<P>,
}

/// Names a permission in a type.
pub trait Needs: Send + Sync {
    /// The permission.
    const PERMISSION: Permission;
}

/// Types that name permissions, for [`Authorized`].
pub mod needs {
    use super::Needs;
    use crate::domain::Permission;

    macro_rules! needs {
        ($($name:ident),+ $(,)?) => {
            $(
                #[doc = concat!("`Permission::", stringify!($name), "`.")]
                pub struct $name;
                impl Needs for $name {
                    const PERMISSION: Permission = Permission::$name;
                }
            )+
        };
    }
    needs!(
        Health,
        Metrics,
        Recall,
        FeedbackRead,
        SkillsSearch,
        Learn,
        SkillsRegister,
        Aging,
        FeedbackDecay,
        Import,
        Export
    );
}

impl<P: Needs> FromRequestParts<AppState> for Authorized<P> {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, state: &AppState) -> Result<Self, Problem> {
        let caller = authenticated(parts, state).await?;
        require(&caller, P::PERMISSION)?;
        Ok(Self { caller, permission: PhantomData })
    }
}

/// Refuses a caller whose role lacks a permission.
pub fn require(caller: &Caller, permission: Permission) -> Result<(), Problem> {
    if caller.role.allows(permission) {
        return Ok(());
    }
    Err(ServiceError::Forbidden(caller.role, permission).into())
}

/// The caller, without any permission checked.
pub async fn authenticated(parts: &Parts, state: &AppState) -> Result<Caller, Problem> {
    let address = parts.extensions.get::<Client>().and_then(|client| client.0);
    let token = bearer(parts);
    let principal = state.authenticator.check(token).await.map_err(|error| {
        let refused = matches!(error, AuthError::Missing | AuthError::Unknown);
        if refused {
            let reason = if token.is_some() { "invalid_key" } else { "missing_or_malformed_header" };
            tracing::warn!(target: "engramia::audit", event = "auth_failure", reason, ip = address.map(|ip| ip.to_string()), "AUDIT");
        }
        match error {
            AuthError::Missing => Problem::missing_credentials(),
            AuthError::Unknown => Problem::invalid_key(),
            AuthError::Closed(reason) => Problem::new(ErrorCode::Unavailable, reason),
            AuthError::Store(error) => Problem::from(error),
        }
    })?;
    if let Some(key) = &principal.key_id {
        state.limits.check_key(limit_key(key, token))?;
    }
    let scope = scope(parts, &principal)?;
    let span = tracing::Span::current();
    span.record("tenant_id", scope.tenant());
    span.record("project_id", scope.project());
    Ok(Caller { scope, role: principal.role, key_id: principal.key_id, address })
}

/// Static keys share one id, so that their limit goes by the key itself.
fn limit_key(key_id: &str, token: Option<&str>) -> u64 {
    use std::hash::BuildHasher;
    static SEED: std::sync::LazyLock<std::hash::RandomState> = std::sync::LazyLock::new(Default::default);
    SEED.hash_one((key_id, token))
}

/// The token after `Bearer`, in any case; `None` where there is none.
fn bearer(parts: &Parts) -> Option<&str> {
    // Not `to_str`: a token may hold any bytes, and such a token is unknown, not malformed.
    let header = std::str::from_utf8(parts.headers.get(header::AUTHORIZATION)?.as_bytes()).ok()?;
    let (scheme, token) = header.split_once(' ')?;
    let token = token.trim();
    (scheme.eq_ignore_ascii_case("bearer") && !token.is_empty()).then_some(token)
}

/// Static keys and open mode pin no project, so that `X-Project-Id` may choose one inside the tenant. A stored key
/// may name its own project; an owner may name any project of its tenant (`spec/engramia/00` §1).
fn scope(parts: &Parts, principal: &Principal) -> Result<Scope, Problem> {
    let Some(wanted) = parts.headers.get("x-project-id") else { return Ok(principal.scope.clone()) };
    let refused = |text: &str| Problem::new(ErrorCode::Forbidden, text);
    let wanted = wanted.to_str().ok().map(str::trim).filter(|name| Scope::is_project_name(name));
    let Some(wanted) = wanted else {
        return Err(refused("X-Project-Id must be 1 to 100 characters of A-Z, a-z, 0-9, '_', '.', '-'."));
    };
    let pinned = principal.key_id.as_deref().is_some_and(|id| id != crate::auth::STATIC_KEY_ID);
    if pinned && wanted != principal.scope.project() && principal.role != crate::domain::Role::Owner {
        return Err(refused("This key is bound to another project."));
    }
    Ok(Scope::verified(principal.scope.tenant(), wanted))
}
