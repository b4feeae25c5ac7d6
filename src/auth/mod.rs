//! From a bearer token to a caller.

pub mod oidc;
mod stored;
mod uses;

use std::sync::Arc;

use secrecy::{ExposeSecret, SecretString};
use subtle::ConstantTimeEq;

use crate::domain::credential::hash;
use crate::domain::{Role, Scope};
use crate::ports::IssuerUnavailable;
use crate::store::StoreError;
use oidc::{TokenError, TokenVerifier};

pub use stored::StoredKeys;

/// Key id of every static key.
const STATIC_KEY_ID: &str = "env-key";

/// How tokens are checked.
pub enum Authenticator {
    /// Static keys of the environment, all with one role.
    Static {
        /// SHA-256 of each key: equal lengths compare in constant time, and any bytes may be sent.
        hashes: Vec<[u8; 32]>,
        /// Their role.
        role: Role,
    },
    /// Keys in the store.
    Stored(StoredKeys),
    /// Tokens of an OpenID Connect issuer.
    Oidc(TokenVerifier),
    /// Nobody is asked (`ENGRAMIA_ALLOW_NO_AUTH`).
    Open,
    /// Nobody can enter: the text says what to configure.
    Closed(&'static str),
}

/// Who a token belongs to.
#[derive(Debug, Clone)]
pub struct Principal {
    /// What it opens.
    pub scope: Scope,
    /// What it may do.
    pub role: Role,
    /// Id of the key; `None` in open mode.
    pub key_id: Option<Arc<str>>,
    /// Most patterns its scope may hold when it stores one more.
    pub max_patterns: Option<u32>,
    /// How it proved itself.
    pub credential: Credential,
}

/// How a principal proved itself: this decides which projects it may name and whose rate limit it uses up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Credential {
    /// Not at all: nobody was asked.
    None,
    /// A static key. They share one key id.
    StaticKey,
    /// A key of the store, bound to its project.
    StoredKey,
    /// A token of an issuer.
    Token {
        /// Whether its claims name the project.
        names_project: bool,
    },
}

/// Why a request has no principal.
#[derive(Debug, thiserror::Error)]
pub enum AuthError {
    /// No token.
    #[error("no credentials")]
    Missing,
    /// A token that opens nothing.
    #[error("unknown key")]
    Unknown,
    /// A token of an issuer that is not accepted.
    #[error(transparent)]
    Token(#[from] TokenError),
    /// The issuer's keys are not at hand: this says nothing about the token.
    #[error(transparent)]
    Issuer(#[from] IssuerUnavailable),
    /// A token that opens nothing any more.
    #[error("{state} key")]
    Dead {
        /// Whose it was.
        principal: Box<Principal>,
        /// `revoked` or `expired`.
        state: &'static str,
    },
    /// The server has no way to check.
    #[error("{0}")]
    Closed(&'static str),
    /// The store failed: this says nothing about the key.
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl Authenticator {
    /// Static keys.
    pub fn of_static_keys(keys: &[SecretString], role: Role) -> Self {
        Self::Static { hashes: keys.iter().map(|key| hash(key.expose_secret())).collect(), role }
    }

    /// Keys in the store, if that is where they are.
    pub fn stored(&self) -> Option<&StoredKeys> {
        match self {
            Self::Stored(keys) => Some(keys),
            Self::Static { .. } | Self::Oidc(_) | Self::Open | Self::Closed(_) => None,
        }
    }

    /// Finds out who sent `token`.
    ///
    /// # Errors
    /// When nobody known did, or that cannot be told.
    pub async fn check(&self, token: Option<&str>) -> Result<Principal, AuthError> {
        let everything = |role, key_id, credential| Principal {
            scope: Scope::default(),
            role,
            key_id,
            max_patterns: None,
            credential,
        };
        match self {
            Self::Open => Ok(everything(Role::Owner, None, Credential::None)),
            Self::Oidc(verifier) => verifier.check(token.ok_or(AuthError::Missing)?).await,
            Self::Closed(reason) => Err(AuthError::Closed(reason)),
            Self::Static { hashes, role } => {
                if !is_one_of(hashes, token.ok_or(AuthError::Missing)?) {
                    return Err(AuthError::Unknown);
                }
                Ok(everything(*role, Some(STATIC_KEY_ID.into()), Credential::StaticKey))
            }
            Self::Stored(keys) => keys.check(token.ok_or(AuthError::Missing)?).await,
        }
    }
}

impl Authenticator {
    /// What somebody who was accepted earlier may do now, long after the request: at most what was allowed then.
    /// Tokens of an issuer are judged once; a key has to be alive still.
    ///
    /// # Errors
    /// When the key opens nothing any more, or that cannot be told.
    pub async fn recheck(
        &self,
        key_id: Option<&str>,
        role: Role,
        max_patterns: Option<u32>,
    ) -> Result<(Role, Option<u32>), AuthError> {
        match (self, key_id) {
            (Self::Open, _) | (Self::Oidc(_), Some(_)) => Ok((role, max_patterns)),
            (Self::Closed(reason), _) => Err(AuthError::Closed(reason)),
            (_, None) => Err(AuthError::Missing),
            (Self::Static { role: now, .. }, Some(STATIC_KEY_ID)) => Ok((role.min(*now), max_patterns)),
            (Self::Static { .. }, Some(_)) => Err(AuthError::Unknown),
            (Self::Stored(keys), Some(id)) => {
                let now = keys.recheck(id).await?;
                Ok((role.min(now.role), now.max_patterns))
            }
        }
    }
}

/// Whether a token has one of these hashes. Every one is compared, so that the time tells nothing.
pub fn is_one_of(hashes: &[[u8; 32]], token: &str) -> bool {
    let sent = hash(token);
    hashes.iter().fold(0u8, |any, known| any | known.ct_eq(&sent).unwrap_u8()) != 0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn static_keys_compare_any_bytes() {
        let auth = Authenticator::of_static_keys(&["k1".into(), "k2".into()], Role::Editor);
        assert_eq!(auth.check(Some("k2")).await.expect("known").role, Role::Editor);
        assert!(matches!(auth.check(Some("klíč")).await, Err(AuthError::Unknown)));
        assert!(matches!(auth.check(None).await, Err(AuthError::Missing)));
    }
}
