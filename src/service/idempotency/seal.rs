//! What keeps an answer from everybody but the client that it was given to.
//!
//! The idempotency key and the key that it came with are stretched (HKDF-SHA256) to the name of the row, to the digest
//! of the request, and to the key that encrypts the answer (AES-256-GCM). The store knows neither of the two.

use aws_lc_rs::aead::{AES_256_GCM, Aad, LessSafeKey, Nonce, UnboundKey};
use aws_lc_rs::error::Unspecified;
use aws_lc_rs::hkdf::{HKDF_SHA256, Prk, Salt};

/// Length of the random bytes of every encryption.
pub(super) const NONCE: usize = 12;
/// What nothing else is derived with.
const PURPOSE: &[u8] = b"engramia idempotency 1";

/// Something was not encrypted with this seal, or cannot be encrypted.
#[derive(Debug, thiserror::Error)]
#[error("an answer cannot be sealed or opened")]
pub(super) struct Broken;

impl From<Unspecified> for Broken {
    fn from(_: Unspecified) -> Self {
        Self
    }
}

/// The secret of a client and an idempotency key.
pub(super) struct Seal {
    secret: Prk,
    name: [u8; 32],
}

impl Seal {
    /// The one of these parts in this order.
    pub(super) fn of(parts: &[&[u8]]) -> Result<Self, Broken> {
        let mut whole = Vec::new();
        for part in parts {
            whole.extend_from_slice(&(part.len() as u64).to_le_bytes());
            whole.extend_from_slice(part);
        }
        let secret = Salt::new(HKDF_SHA256, PURPOSE).extract(&whole);
        let name = derived(&secret, &[b"name"])?;
        Ok(Self { secret, name })
    }

    /// What the row is called.
    pub(super) fn name(&self) -> [u8; 32] {
        self.name
    }

    /// What stands for a request: without the seal nobody can tell whether a guess is right.
    pub(super) fn digest(&self, request: &[u8; 32]) -> Result<[u8; 32], Broken> {
        derived(&self.secret, &[b"request", request])
    }

    /// Encrypts; `nonce` must be random.
    pub(super) fn close(&self, nonce: [u8; NONCE], mut plain: Vec<u8>) -> Result<Vec<u8>, Broken> {
        self.key()?.seal_in_place_append_tag(Nonce::assume_unique_for_key(nonce), Aad::from(&self.name), &mut plain)?;
        plain.extend_from_slice(&nonce);
        Ok(plain)
    }

    /// Decrypts what was encrypted by the same seal.
    pub(super) fn open(&self, mut sealed: Vec<u8>) -> Result<Vec<u8>, Broken> {
        let nonce: [u8; NONCE] = *sealed.last_chunk().ok_or(Broken)?;
        sealed.truncate(sealed.len() - NONCE);
        let nonce = Nonce::assume_unique_for_key(nonce);
        let length = self.key()?.open_in_place(nonce, Aad::from(&self.name), &mut sealed)?.len();
        sealed.truncate(length);
        Ok(sealed)
    }

    fn key(&self) -> Result<LessSafeKey, Broken> {
        let key = derived(&self.secret, &[b"answer"])?;
        Ok(LessSafeKey::new(UnboundKey::new(&AES_256_GCM, &key)?))
    }
}

fn derived(secret: &Prk, info: &[&[u8]]) -> Result<[u8; 32], Broken> {
    let mut bytes = [0; 32];
    secret.expand(info, HKDF_SHA256)?.fill(&mut bytes)?;
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seal(parts: [&str; 2]) -> Seal {
        Seal::of(&parts.map(str::as_bytes)).expect("a seal")
    }

    #[test]
    fn only_the_same_parts_open_what_was_closed() {
        let plain = b"secret answer".to_vec();
        let sealed = seal(["key", "token"]).close([7; NONCE], plain.clone()).expect("closed");
        assert!(!sealed.windows(6).any(|bytes| bytes == b"secret"));
        assert_eq!(seal(["key", "token"]).open(sealed.clone()).expect("opened"), plain);
        for parts in [["key", "other"], ["other", "token"], ["keyt", "oken"], ["", "keytoken"]] {
            assert!(seal(parts).open(sealed.clone()).is_err(), "{parts:?}");
            assert_ne!(seal(parts).name(), seal(["key", "token"]).name());
        }
        for at in 0..sealed.len() {
            let mut broken = sealed.clone();
            broken[at] ^= 1;
            assert!(seal(["key", "token"]).open(broken).is_err());
        }
        for short in 0..NONCE + 16 {
            assert!(seal(["key", "token"]).open(sealed[..short].to_vec()).is_err());
        }
    }
}
