//! The signing keys of a token issuer: found by way of its discovery document, kept for an hour, fetched again when
//! they are old or when a token names a key that is not among them (W-35).

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use reqwest::header::HeaderMap;
use reqwest::{Client, Url};
use serde::Deserialize;
use serde_json::Value;

use super::http;
use super::retry::Failure;
use crate::domain::Timestamp;
use crate::ports::{Clock, IssuerUnavailable, Jwk, KeySource};

/// Time one request may take.
const TIMEOUT: Duration = Duration::from_secs(5);
/// Longest answer that is read.
const MAX_ANSWER: usize = 512 * 1024;
/// How long keys are used without asking again.
const KEPT_FOR: Duration = Duration::from_secs(3600);
/// After a failure nobody is asked for so long.
const PAUSE: Duration = Duration::from_secs(5);
/// In this time a key that the issuer did not have is asked for once, and [`MAX_MISSES`] such keys in all: whoever
/// makes up keys makes few requests, and a new key of the issuer need not wait for them.
const MISS_FOR: Duration = Duration::from_secs(60);
const MAX_MISSES: usize = 3;

/// The keys of one issuer.
pub struct IssuerKeys(Arc<Shared>);

struct Shared {
    issuer: String,
    client: Client,
    clock: Arc<dyn Clock>,
    state: Mutex<State>,
    /// Held while keys are fetched: who waits for it shares what comes.
    turn: tokio::sync::Mutex<()>,
}

#[derive(Default)]
struct State {
    keys: HashMap<String, Arc<Jwk>>,
    /// When they came.
    fetched: Option<Timestamp>,
    /// When the last attempt failed, if it did.
    failed: Option<Timestamp>,
    /// Keys that the issuer did not have, and when.
    missed: Vec<(String, Timestamp)>,
    /// Attempts so far.
    attempts: u64,
}

/// Whether keys should be fetched before somebody is answered.
#[derive(Debug, PartialEq, Eq)]
enum Need {
    No,
    /// The answer can do without.
    Later,
    Now,
}

impl IssuerKeys {
    /// Begins to fetch the keys of `issuer`, so that the first caller need not wait and a mistake is in the log at once.
    ///
    /// # Errors
    /// When TLS cannot be set up.
    pub fn start(issuer: &str, clock: Arc<dyn Clock>) -> anyhow::Result<Self> {
        let client = http::client(HeaderMap::new(), TIMEOUT)?;
        let (state, turn) = Default::default();
        let shared = Arc::new(Shared { issuer: issuer.to_owned(), client, clock, state, turn });
        let first = Arc::clone(&shared);
        tokio::spawn(async move { first.fetch(0, None).await });
        Ok(Self(shared))
    }
}

#[async_trait]
impl KeySource for IssuerKeys {
    async fn find(&self, kid: &str) -> Result<Option<Arc<Jwk>>, IssuerUnavailable> {
        let (need, attempts) = {
            let state = self.0.state();
            (state.need(kid, self.0.clock.now()), state.attempts)
        };
        let under_way = || self.0.turn.try_lock().is_err();
        if need == Need::Now || need == Need::Later && !under_way() {
            let (shared, wanted) = (Arc::clone(&self.0), kid.to_owned());
            // A task of its own: a caller that goes away does not break it off for the others.
            let fetch = tokio::spawn(async move { shared.fetch(attempts, Some(&wanted)).await });
            if need == Need::Now
                && let Err(error) = fetch.await
            {
                tracing::error!(%error, "fetching the keys of the token issuer broke off");
            }
        }
        self.0.state().answer(kid)
    }
}

impl State {
    fn need(&self, kid: &str, now: Timestamp) -> Need {
        let known = self.keys.contains_key(kid);
        if let Some(failed) = self.failed {
            return match known {
                _ if is_within(PAUSE, failed, now) => Need::No,
                true => Need::Later,
                false => Need::Now,
            };
        }
        if !self.fetched.is_some_and(|at| is_within(KEPT_FOR, at, now)) {
            return Need::Now;
        }
        let mut recent = self.missed.iter().filter(|(_, at)| is_within(MISS_FOR, *at, now));
        let give_up = known || recent.clone().count() >= MAX_MISSES || recent.any(|(missed, _)| missed == kid);
        if give_up { Need::No } else { Need::Now }
    }

    /// An issuer that failed may have got a new key since.
    fn answer(&self, kid: &str) -> Result<Option<Arc<Jwk>>, IssuerUnavailable> {
        match self.keys.get(kid) {
            Some(key) => Ok(Some(Arc::clone(key))),
            None if self.failed.is_some() || self.fetched.is_none() => Err(IssuerUnavailable { retry_after: PAUSE }),
            None => Ok(None),
        }
    }
}

/// A clock that was put back makes everything old: better once too often than never again.
fn is_within(span: Duration, since: Timestamp, now: Timestamp) -> bool {
    (now - since).to_std().is_ok_and(|age| age < span)
}

#[derive(Deserialize)]
struct Discovery {
    issuer: String,
    jwks_uri: String,
}

#[derive(Deserialize)]
struct KeySet {
    keys: Vec<Value>,
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Fetches the keys, unless somebody did since `attempts` were counted. A failure keeps the old ones.
    async fn fetch(&self, attempts: u64, wanted: Option<&str>) {
        let _turn = self.turn.lock().await;
        if self.state().attempts != attempts {
            return;
        }
        let outcome = self.download().await;
        let now = self.clock.now();
        let mut state = self.state();
        state.attempts += 1;
        match outcome {
            Ok(keys) => {
                if state.failed.take().is_some() {
                    tracing::info!(issuer = self.issuer, "the token issuer answers again");
                }
                state.missed.retain(|(_, at)| is_within(MISS_FOR, *at, now));
                if let Some(kid) = wanted.filter(|kid| !keys.contains_key(*kid)) {
                    state.missed.push((kid.to_owned(), now));
                }
                state.fetched = Some(now);
                state.keys = keys;
            }
            Err(failure) => {
                state.failed = Some(now);
                let kept = state.keys.len();
                let error = format!("{:#}", anyhow::Error::from(failure));
                tracing::warn!(issuer = self.issuer, error, kept, "the keys of the token issuer cannot be fetched");
            }
        }
    }

    async fn download(&self) -> Result<HashMap<String, Arc<Jwk>>, Failure> {
        let body = self.get(&self.key_address().await?).await?;
        let set: KeySet = serde_json::from_slice(&body).map_err(|error| http::unusable(&error))?;
        // A key of a kind that we do not know must not spoil the others.
        let keys = set.keys.into_iter().filter_map(|key| serde_json::from_value::<Jwk>(key).ok());
        Ok(keys.map(|key| (key.kid.clone(), Arc::new(key))).collect())
    }

    /// Where the keys are: as the discovery document says, or where the original looked if there is none.
    async fn key_address(&self) -> Result<String, Failure> {
        let fallback = || Ok(format!("{}/.well-known/jwks.json", self.issuer));
        let body = match self.get(&format!("{}/.well-known/openid-configuration", self.issuer)).await {
            Err(failure) if failure.is_refusal() => return fallback(),
            other => other?,
        };
        let Ok(document) = serde_json::from_slice::<Discovery>(&body) else { return fallback() };
        if document.issuer.strip_suffix('/').unwrap_or(&document.issuer) != self.issuer {
            return Err(Failure::Unusable("the discovery document is that of another issuer".into()));
        }
        let scheme = Url::parse(&document.jwks_uri).map(|url| url.scheme().to_owned()).unwrap_or_default();
        // Keys that anybody on the way could exchange would undo the encryption of the way here.
        if scheme == "https" || scheme == "http" && self.issuer.starts_with("http://") {
            return Ok(document.jwks_uri);
        }
        Err(Failure::Unusable("the discovery document names no safe address of keys".into()))
    }

    async fn get(&self, address: &str) -> Result<Vec<u8>, Failure> {
        let response = http::checked(self.client.get(address).send().await).await?;
        http::body(response, MAX_ANSWER).await
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use chrono::DateTime;

    fn at(seconds: i64) -> Timestamp {
        DateTime::from_timestamp(1_750_000_000 + seconds, 0).expect("a time")
    }

    fn holding(kid: &str) -> State {
        let key: Jwk = serde_json::from_value(serde_json::json!({ "kid": kid, "kty": "EC" })).expect("a key");
        State { keys: HashMap::from([(kid.to_owned(), Arc::new(key))]), fetched: Some(at(0)), ..State::default() }
    }

    #[test]
    fn keys_are_fetched_when_they_are_missing_or_an_hour_old() {
        assert_eq!(State::default().need("a", at(0)), Need::Now);
        assert!(State::default().answer("a").is_err());
        let state = holding("a");
        assert_eq!(state.need("a", at(3599)), Need::No);
        assert_eq!(state.need("a", at(3600)), Need::Now);
        assert_eq!(state.need("a", at(-1)), Need::Now, "the clock was put back");
        assert!(matches!(state.answer("a"), Ok(Some(_))));
        assert!(matches!(state.answer("b"), Ok(None)));
    }

    #[test]
    fn a_missing_key_is_asked_for_once_a_minute_and_few_in_all() {
        let mut state = holding("a");
        assert_eq!(state.need("b", at(1)), Need::Now);
        state.missed.push(("b".into(), at(1)));
        assert_eq!(state.need("b", at(60)), Need::No);
        assert_eq!(state.need("b", at(61)), Need::Now);
        assert_eq!(state.need("c", at(2)), Need::Now);
        state.missed.extend([("c".into(), at(2)), ("d".into(), at(3))]);
        assert_eq!(state.need("e", at(4)), Need::No);
        assert_eq!(state.need("e", at(61)), Need::Now, "a minute after the first");
    }

    #[test]
    fn after_a_failure_there_is_a_pause_and_known_keys_need_not_wait() {
        let state = State { failed: Some(at(3600)), ..holding("a") };
        assert_eq!(state.need("a", at(3604)), Need::No);
        assert_eq!(state.need("a", at(3605)), Need::Later);
        assert_eq!(state.need("b", at(3604)), Need::No);
        assert_eq!(state.need("b", at(3605)), Need::Now);
        assert!(matches!(state.answer("a"), Ok(Some(_))));
        assert!(state.answer("b").is_err(), "it may be a new key");
    }
}
