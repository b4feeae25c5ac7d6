//! The caller of a request: authentication, the limit of its key, its scope, its permission; in this order.

use std::marker::PhantomData;
use std::net::IpAddr;

use axum::extract::FromRequestParts;
use axum::http::header;
use axum::http::request::Parts;

use super::client::Client;
use super::problem::{ErrorCode, Problem};
use super::{AppState, context};
use crate::auth::{AuthError, Authenticator, Credential, Principal};
use crate::domain::audit::AuditAction;
use crate::domain::{Caller, Feature, Permission, Role, Scope};
use crate::service::ServiceError;
use crate::store::StoreError;

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
        JobsList,
        JobsRead,
        AnalyticsRead,
        Learn,
        Evaluate,
        Compose,
        Evolve,
        AnalyzeFailures,
        SkillsRegister,
        Aging,
        FeedbackDecay,
        JobsCancel,
        AnalyticsRollup,
        Import,
        Export,
        KeysCreate,
        KeysList,
        KeysRevoke,
        KeysRotate,
        AuditRead,
        GovernanceRead,
        GovernanceWrite,
        GovernanceAdmin,
        GovernanceDelete,
        TenantDelete,
        BillingRead,
        BillingManage
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

/// The caller, without any permission checked. Whoever was found out before is not asked again.
pub async fn authenticated(parts: &Parts, state: &AppState) -> Result<Caller, Problem> {
    if let Some(known) = parts.extensions.get::<Caller>() {
        return Ok(known.clone());
    }
    let address = address(parts);
    let token = bearer(parts);
    let principal = match state.authenticator.check(token).await {
        Ok(principal) => principal,
        Err(error) => return Err(refused(state, address, token.is_some(), error)),
    };
    if let Some(key) = &principal.key_id {
        state.limits.check_key(limit_key(&principal, key, token)).map_err(|(limit, problem)| {
            let event = state.services.audit.event(AuditAction::RateLimited, Some(key), address);
            let event = event.with("path", parts.uri.path()).with("limit", limit);
            state.services.audit.note(Some(&principal.scope), event);
            problem
        })?;
    }
    if let Credential::Token { .. } = principal.credential {
        state.services.entitled(principal.scope.tenant(), Feature::Sso).await?;
    }
    let scope = scope(parts, state, &principal).await?;
    if state.services.erasures.has(&scope) {
        return Err(StoreError::Erased.into());
    }
    context::identified(&scope);
    let Principal { role, key_id, max_patterns, .. } = principal;
    Ok(Caller { scope, role, key_id, max_patterns, address, request_id: context::request_id() })
}

/// Address of the client.
pub fn address(parts: &Parts) -> Option<IpAddr> {
    parts.extensions.get::<Client>().and_then(|client| client.0)
}

/// Records a failed authentication, and answers it.
fn refused(state: &AppState, address: Option<IpAddr>, has_token: bool, error: AuthError) -> Problem {
    let audit = &state.services.audit;
    let failure = |actor: Option<&str>, reason: &str| {
        audit.event(AuditAction::AuthFailure, actor, address).with("reason", reason)
    };
    match error {
        AuthError::Missing | AuthError::Unknown => {
            audit.note(None, failure(None, if has_token { "invalid_key" } else { "missing_or_malformed_header" }));
            if has_token { Problem::invalid_key() } else { Problem::missing_credentials() }
        }
        AuthError::Dead { principal, state } => {
            let event = failure(principal.key_id.as_deref(), "invalid_key").with("state", state);
            audit.note(Some(&principal.scope), event);
            Problem::invalid_key()
        }
        AuthError::Token(error) => {
            audit.note(None, failure(None, "invalid_token"));
            Problem::new(ErrorCode::Unauthorized, error.to_string())
        }
        AuthError::Issuer(error) => {
            Problem::new(ErrorCode::Unavailable, error.to_string()).retry_after(error.retry_after)
        }
        AuthError::Closed(reason) => Problem::new(ErrorCode::Unavailable, reason),
        AuthError::Store(error) => Problem::from(error),
    }
}

/// What the caller proves itself by, if that is the same whenever it comes back: an issuer's tokens are soon replaced.
pub fn lasting_secret<'a>(parts: &'a Parts, state: &AppState) -> Option<&'a str> {
    bearer(parts).filter(|_| matches!(*state.authenticator, Authenticator::Static { .. } | Authenticator::Stored(_)))
}

/// Static keys share one id, so that their limit goes by the key itself. A subject has many tokens and one limit.
fn limit_key(principal: &Principal, key_id: &str, token: Option<&str>) -> u64 {
    use std::hash::BuildHasher;
    static SEED: std::sync::LazyLock<std::hash::RandomState> = std::sync::LazyLock::new(Default::default);
    let token = token.filter(|_| principal.credential == Credential::StaticKey);
    SEED.hash_one((principal.scope.tenant(), key_id, token))
}

/// The token after `Bearer`, in any case; `None` where there is none.
fn bearer(parts: &Parts) -> Option<&str> {
    // Not `to_str`: a token may hold any bytes, and such a token is unknown, not malformed.
    let header = std::str::from_utf8(parts.headers.get(header::AUTHORIZATION)?.as_bytes()).ok()?;
    let (scheme, token) = header.split_once(' ')?;
    let token = token.trim();
    (scheme.eq_ignore_ascii_case("bearer") && !token.is_empty()).then_some(token)
}

/// Static keys, open mode and tokens that name no project leave it to `X-Project-Id` to choose one inside the tenant. A
/// stored key may name its own project; an owner may name any project of its tenant (`spec/engramia/00` §1). A token
/// that names a project opens no other, whatever its role: the issuer has decided.
async fn scope(parts: &Parts, state: &AppState, principal: &Principal) -> Result<Scope, Problem> {
    let Some(wanted) = parts.headers.get("x-project-id") else { return Ok(principal.scope.clone()) };
    let refused = |text: &str| Err(Problem::new(ErrorCode::Forbidden, text));
    let wanted = wanted.to_str().ok().map(str::trim).filter(|name| Scope::is_project_name(name));
    let Some(wanted) = wanted else {
        return refused("X-Project-Id must be 1 to 100 characters of A-Z, a-z, 0-9, '_', '.', '-'.");
    };
    let scope = Scope::verified(principal.scope.tenant(), wanted);
    if scope == principal.scope {
        return Ok(scope);
    }
    match (principal.credential, state.authenticator.stored()) {
        (Credential::Token { names_project: true }, _) => refused("This token is bound to another project."),
        (Credential::StoredKey, _) if principal.role != Role::Owner => refused("This key is bound to another project."),
        (Credential::StoredKey, Some(keys)) if !keys.is_project(&scope).await? => {
            refused("The tenant of this key has no such project.")
        }
        _ => Ok(scope),
    }
}
