//! API keys as texts: how one is made, recognised and compared.

use secrecy::{ExposeSecret, SecretString};
use sha2::{Digest, Sha256};

/// What every key of ours starts with.
const KEY_PREFIX: &str = "engramia_sk_";
/// So many characters of a key's random part are kept to recognise it by.
const SHOWN: usize = 8;

/// A new key and what is stored of it.
pub struct Credential {
    /// The key itself; shown once, stored nowhere.
    pub secret: SecretString,
    /// Its first characters.
    pub prefix: String,
    /// See [`hash`].
    pub hash: [u8; 32],
}

impl Credential {
    /// The key of 256 random bits.
    pub fn of(random: &[u8; 32]) -> Self {
        let secret = SecretString::from(format!("{KEY_PREFIX}{}", base64url(random)));
        let text = secret.expose_secret();
        let (prefix, hash) = (format!("{}...", &text[..KEY_PREFIX.len() + SHOWN]), hash(text));
        Self { secret, prefix, hash }
    }
}

/// SHA-256 of a token; tokens are long and random, so that no slow hash is needed.
pub fn hash(token: &str) -> [u8; 32] {
    Sha256::digest(token.as_bytes()).into()
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

    #[test]
    fn keys_look_as_documented() {
        let random: [u8; 32] = std::array::from_fn(|at| at as u8);
        let made = Credential::of(&random);
        let secret = made.secret.expose_secret();
        assert_eq!(secret, "engramia_sk_AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8");
        assert_eq!(secret.len(), 55);
        assert_eq!(made.prefix, "engramia_sk_AAECAwQF...");
        assert_eq!(made.hash, hash(secret));
    }
}
