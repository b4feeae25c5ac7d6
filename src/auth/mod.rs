//! From a bearer token to a caller.

use std::sync::Arc;
use std::time::Duration;

use moka::sync::Cache;
use secrecy::{ExposeSecret, SecretString};
use sha2::{Digest, Sha256};
use subtle::ConstantTimeEq;

use crate::domain::{Role, Scope, Timestamp};
use crate::ports::Entropy;
use crate::store::{ApiKey, Store, StoreError};

/// How long a key that was found is taken for valid without asking again.
const CACHED_FOR: Duration = Duration::from_secs(5);
/// Keys that are remembered.
const CACHED: u64 = 4_096;
/// What every key of ours starts with.
const KEY_PREFIX: &str = "engramia_sk_";
/// Key id of every static key.
pub const STATIC_KEY_ID: &str = "env-key";

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
    Stored {
        /// Where they are.
        store: Arc<dyn Store>,
        /// Those seen lately. Unknown tokens and failures are never remembered.
        seen: Cache<[u8; 32], Principal>,
    },
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

    /// Keys of the store.
    pub fn of_store(store: Arc<dyn Store>) -> Self {
        Self::Stored { store, seen: Cache::builder().max_capacity(CACHED).time_to_live(CACHED_FOR).build() }
    }

    /// Finds out who sent `token`.
    pub async fn check(&self, token: Option<&str>) -> Result<Principal, AuthError> {
        match self {
            Self::Open => Ok(Principal { scope: Scope::default(), role: Role::Owner, key_id: None }),
            Self::Closed(reason) => Err(AuthError::Closed(reason)),
            Self::Static { hashes, role } => {
                let sent = hash(token.ok_or(AuthError::Missing)?);
                // Every key is compared, so that the time tells nothing.
                let known = hashes.iter().fold(0u8, |any, key| any | key.ct_eq(&sent).unwrap_u8());
                if known == 0 {
                    return Err(AuthError::Unknown);
                }
                Ok(Principal { scope: Scope::default(), role: *role, key_id: Some(STATIC_KEY_ID.into()) })
            }
            Self::Stored { store, seen } => {
                let sent = hash(token.ok_or(AuthError::Missing)?);
                if let Some(principal) = seen.get(&sent) {
                    return Ok(principal);
                }
                let key = store.api_keys().find(&sent).await?.ok_or(AuthError::Unknown)?;
                let principal = Principal { scope: key.scope, role: key.role, key_id: Some(key.id.into()) };
                seen.insert(sent, principal.clone());
                Ok(principal)
            }
        }
    }
}

/// SHA-256 of a token; tokens are long and random, so that no slow hash is needed.
pub fn hash(token: &str) -> [u8; 32] {
    Sha256::digest(token.as_bytes()).into()
}

/// A new key of 256 random bits and what is stored of it.
pub fn new_key(
    id: String,
    scope: Scope,
    name: &str,
    role: Role,
    now: Timestamp,
    entropy: &dyn Entropy,
) -> (SecretString, ApiKey) {
    let mut random = [0; 32];
    entropy.fill(&mut random);
    let secret = format!("{KEY_PREFIX}{}", base64url(&random));
    let prefix = format!("{}...", &secret[..KEY_PREFIX.len() + 8]);
    let key = ApiKey { id, scope, name: name.to_owned(), prefix, hash: hash(&secret), role, created_at: now };
    (SecretString::from(secret), key)
}

/// Base64 for URLs without padding.
fn base64url(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
    let mut text = String::with_capacity(bytes.len().div_ceil(3) * 4);
    for chunk in bytes.chunks(3) {
        let group = chunk.iter().enumerate().fold(0u32, |group, (at, byte)| group | u32::from(*byte) << (16 - 8 * at));
        for digit in 0..=chunk.len() {
            text.push(char::from(DIGITS[(group >> (18 - 6 * digit)) as usize & 63]));
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Counting;
    impl Entropy for Counting {
        fn fill(&self, bytes: &mut [u8]) {
            bytes.iter_mut().zip(0..).for_each(|(byte, n)| *byte = n);
        }
    }

    #[test]
    fn keys_look_as_documented() {
        let (secret, key) =
            new_key("id".into(), Scope::default(), "Owner key", Role::Owner, Timestamp::UNIX_EPOCH, &Counting);
        let secret = secret.expose_secret();
        assert_eq!(secret, "engramia_sk_AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8");
        assert_eq!(secret.len(), 55);
        assert_eq!(key.prefix, "engramia_sk_AAECAwQF...");
        assert_eq!(key.hash, hash(secret));
    }

    #[tokio::test]
    async fn static_keys_compare_any_bytes() {
        let auth = Authenticator::of_static_keys(&["k1".into(), "k2".into()], Role::Editor);
        assert_eq!(auth.check(Some("k2")).await.expect("known").role, Role::Editor);
        assert!(matches!(auth.check(Some("klíč")).await, Err(AuthError::Unknown)));
        assert!(matches!(auth.check(None).await, Err(AuthError::Missing)));
    }
}
