//! Requests that a client may repeat without their being carried out again (`docs/idempotency.md`).
//!
//! A request with a key takes a place in the store before it is carried out, and holds it by a lease that is renewed
//! until it is answered. The answer is kept as only the client can read it: see `seal`.

mod seal;

use std::time::Duration;

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use self::seal::Seal;
use super::{Result, Services};
use crate::domain::{Caller, Scope};
use crate::store::StoreError;
use crate::store::idempotency::{Application, Hold, Place};

/// How long an answer is kept.
const KEPT: Duration = Duration::from_secs(24 * 3600);
/// How long a request is believed to be under way without a word of the server that carries it out.
const LEASE: Duration = Duration::from_secs(30);
/// How often that server gives a word.
pub const BEAT: Duration = Duration::from_secs(10);
/// Longest body that is kept.
pub const MOST_KEPT: u64 = 1 << 20;

/// What a client sends to be able to repeat a request.
#[derive(Clone, Copy)]
pub struct Sent<'a> {
    /// The idempotency key.
    pub key: &'a str,
    /// The key that it came with, where it comes with the same one again.
    pub secret: Option<&'a str>,
    /// Method, path and query, body.
    pub request: [&'a [u8]; 3],
}

/// An answer to be kept.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Kept {
    /// Status and headers.
    pub head: Head,
    /// Body.
    pub body: Vec<u8>,
}

/// The beginning of an answer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Head {
    /// Status.
    pub status: u16,
    /// Names and values.
    pub headers: Vec<(String, String)>,
}

/// What is to be done with a request.
pub enum Admission {
    /// It is carried out.
    First(UnderWay),
    /// It was carried out, and this is what it was answered.
    Again(Kept),
    /// It was carried out, and what it was answered is not kept.
    Unknown,
    /// It is being carried out.
    Running,
    /// Its key was used for another request.
    Other,
}

/// A request that is being carried out.
pub struct UnderWay {
    scope: Scope,
    hold: Hold,
    seal: Seal,
}

impl Services {
    /// Finds out what is to be done with a request that somebody may have sent before.
    ///
    /// # Errors
    /// When the store fails.
    pub async fn admit(&self, caller: &Caller, sent: Sent<'_>) -> Result<Admission> {
        let key_id = caller.key_id.as_deref().unwrap_or_default();
        // Whoever has another role by now may not see what it was answered before.
        let of = [sent.key, key_id, caller.role.as_str(), sent.secret.unwrap_or_default()];
        let seal = Seal::of(&of.map(str::as_bytes)).map_err(unusable)?;
        let hold = Hold { name: seal.name(), holder: self.new_id() };
        let now = self.clock.now();
        let application = Application {
            request: seal.digest(&digest(&sent.request)).map_err(unusable)?,
            now,
            lease_until: now + LEASE,
            expires_at: now + KEPT,
            hold,
        };
        Ok(match self.store.repeatable().take(&caller.scope, &application).await? {
            Place::Free => Admission::First(UnderWay { scope: caller.scope.clone(), hold: application.hold, seal }),
            Place::Held => Admission::Running,
            Place::Taken => Admission::Other,
            Place::Done(None) => Admission::Unknown,
            Place::Done(Some(sealed)) => {
                Admission::Again(seal.open(sealed).ok().and_then(|plain| read(&plain)).ok_or_else(corrupt)?)
            }
        })
    }

    /// Says that a request is still being carried out.
    pub async fn still_under_way(&self, request: &UnderWay) {
        let until = self.clock.now() + LEASE;
        if let Err(error) = self.store.repeatable().renew(&request.scope, &request.hold, until).await {
            tracing::warn!(%error, "a repetition may be carried out while the first request is under way");
        }
    }

    /// Keeps the answer of a request that was carried out; without one, only that it was.
    pub async fn carried_out(&self, request: &UnderWay, answer: Option<&Kept>) {
        let mut nonce = [0; seal::NONCE];
        self.entropy.fill(&mut nonce);
        // What cannot be kept is as if it was too long: the request was carried out.
        let sealed = answer.and_then(|answer| request.seal.close(nonce, written(answer)?).ok());
        let keeping = self.store.repeatable().keep(&request.scope, &request.hold, sealed.as_deref());
        if let Err(error) = keeping.await {
            tracing::warn!(%error, "a request that was carried out may be carried out again");
        }
    }

    /// Says that nothing came of a request: the key is free again.
    pub async fn not_carried_out(&self, request: &UnderWay) {
        if let Err(error) = self.store.repeatable().release(&request.scope, &request.hold).await {
            tracing::warn!(%error, "a key stays in use until its lease is over");
        }
    }
}

/// SHA-256 of parts, each with its length, so that no part can pass for another's end.
fn digest(parts: &[&[u8]]) -> [u8; 32] {
    let mut digest = Sha256::new();
    for part in parts {
        digest.update((part.len() as u64).to_le_bytes());
        digest.update(part);
    }
    digest.finalize().into()
}

/// The head as a line of JSON, then the body.
fn written(answer: &Kept) -> Option<Vec<u8>> {
    let mut plain = serde_json::to_vec(&answer.head).ok()?;
    plain.push(b'\n');
    plain.extend_from_slice(&answer.body);
    Some(plain)
}

fn read(plain: &[u8]) -> Option<Kept> {
    let end = memchr::memchr(b'\n', plain)?;
    Some(Kept { head: serde_json::from_slice(&plain[..end]).ok()?, body: plain[end + 1..].to_vec() })
}

fn corrupt() -> StoreError {
    StoreError::Corrupt { table: "idempotency_keys", what: "an answer that cannot be read".into() }
}

fn unusable(error: seal::Broken) -> StoreError {
    StoreError::Backend(anyhow::Error::new(error))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_do_not_run_into_each_other() {
        assert_ne!(digest(&[b"ab", b"c"]), digest(&[b"a", b"bc"]));
        assert_ne!(digest(&[b"", b"a"]), digest(&[b"a", b""]));
    }

    #[test]
    fn an_answer_is_read_as_it_was_written() {
        let headers = vec![("location".to_owned(), "/v1/jobs/1\n\"".to_owned())];
        for body in [&b""[..], b"\n{\n", &[0, 255, 10]] {
            let kept = Kept { head: Head { status: 202, headers: headers.clone() }, body: body.to_vec() };
            assert_eq!(written(&kept).and_then(|plain| read(&plain)), Some(kept));
        }
    }
}
