//! Tokens of an OpenID Connect issuer: from a JWT to a principal (`spec/engramia/30` §3).
//!
//! No I/O but the port that finds the issuer's keys. Signatures are checked by a library, claims here, because the time
//! comes from the clock port.

mod claims;
mod token;

use std::sync::Arc;
use std::time::Duration;

use moka::sync::Cache;

use super::{AuthError, Principal};
use crate::config::Oidc;
use crate::domain::Timestamp;
use crate::ports::{Clock, KeySource};
use claims::Claims;
use token::SignedToken;

/// Longer tokens are not looked at.
const MAX_TOKEN: usize = 16 * 1024;
/// How long a verified token is taken for valid without checking its signature again.
const CACHED_FOR: Duration = Duration::from_secs(60);
/// Tokens that are remembered.
const CACHED: u64 = 4_096;

/// Why a token is not accepted. The texts are for the client (`spec/engramia/00` §5.2).
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TokenError {
    /// It is no JWT, or what it says cannot be used.
    #[error("Invalid token.")]
    Malformed,
    /// Its header does not name the key.
    #[error("Token missing 'kid' header.")]
    NoKeyId,
    /// It is signed in a way that is not accepted.
    #[error("Signing algorithm '{0}' is not permitted.")]
    Algorithm(String),
    /// The issuer publishes no such key.
    #[error("Token signing key not found.")]
    UnknownKey,
    /// The key is not meant for this signature.
    #[error("Invalid signing key.")]
    UnfitKey,
    /// Signature or claims are wrong; what exactly is for the log only.
    #[error("Token validation failed.")]
    Refused(&'static str),
    /// It belongs to no tenant.
    #[error("Token is missing the required tenant claim '{0}'.")]
    NoTenant(String),
}

/// Checks tokens.
pub struct TokenVerifier {
    rules: Oidc,
    keys: Arc<dyn KeySource>,
    clock: Arc<dyn Clock>,
    /// Those seen lately, by SHA-256.
    seen: Cache<[u8; 32], Accepted>,
}

#[derive(Clone)]
struct Accepted {
    principal: Principal,
    /// Seconds since 1970.
    until: f64,
}

impl TokenVerifier {
    /// Takes the tokens that `rules` describe, signed with one of `keys`.
    pub fn new(rules: Oidc, keys: Arc<dyn KeySource>, clock: Arc<dyn Clock>) -> Self {
        let seen = Cache::builder().max_capacity(CACHED).time_to_live(CACHED_FOR).build();
        Self { rules, keys, clock, seen }
    }

    /// Finds out who sent `token`.
    ///
    /// # Errors
    /// [`AuthError::Token`] if it is not accepted, [`AuthError::Issuer`] if that cannot be told now.
    pub async fn check(&self, token: &str) -> Result<Principal, AuthError> {
        if token.len() > MAX_TOKEN {
            return Err(TokenError::Malformed.into());
        }
        let digest = super::hash(token);
        let now = seconds(self.clock.now());
        if let Some(accepted) = self.seen.get(&digest).filter(|accepted| now < accepted.until) {
            return Ok(accepted.principal);
        }
        let accepted = self.verify(token, now).await.inspect_err(|error| {
            tracing::debug!(?error, "a token is not accepted");
        })?;
        self.seen.insert(digest, accepted.clone());
        Ok(accepted.principal)
    }

    async fn verify(&self, token: &str, now: f64) -> Result<Accepted, AuthError> {
        let token = SignedToken::parse(token)?;
        let key = self.keys.find(&token.kid).await?.ok_or(TokenError::UnknownKey)?;
        let claims = Claims::parse(&token.verified(&key)?)?;
        let end = claims.check(&self.rules, now)?;
        let principal = claims.principal(&self.rules)?;
        Ok(Accepted { principal, until: end.min(now + CACHED_FOR.as_secs_f64()) })
    }
}

fn seconds(time: Timestamp) -> f64 {
    time.timestamp_micros() as f64 / 1e6
}
