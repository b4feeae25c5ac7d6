//! An issuer of tokens: keys of a fixture, a discovery document, a set of public keys, and tokens of every kind.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

use base64::Engine;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use engramia::domain::Timestamp;
use jsonwebtoken::jwk::Jwk;
use jsonwebtoken::{Algorithm, EncodingKey, Header};
use serde_json::{Value, json};
use wiremock::matchers::any;
use wiremock::{Mock, MockServer, Request, ResponseTemplate};

use super::fakes::StoppedClock;

/// The audience that the application asks for.
pub const AUDIENCE: &str = "engramia";
/// Where the set of public keys is, as the discovery document says.
pub const KEYS_PATH: &str = "/keys";
/// Where it is if there is no such document.
pub const FALLBACK_PATH: &str = "/.well-known/jwks.json";
const DISCOVERY_PATH: &str = "/.well-known/openid-configuration";

/// A key pair.
#[derive(Clone)]
pub struct Key {
    kid: String,
    algorithm: Algorithm,
    private: EncodingKey,
}

impl Key {
    fn new(kid: &str, algorithm: Algorithm, private: fn(&[u8]) -> EncodingKey, fixture: &str) -> Self {
        let der = STANDARD.decode(fixture.replace(char::is_whitespace, "")).expect("base64");
        Self { kid: kid.to_owned(), algorithm, private: private(&der) }
    }

    /// An RSA key of 2,048 bits.
    pub fn rsa(kid: &str, algorithm: Algorithm) -> Self {
        let fixture = include_str!("../../fixtures/oidc/rsa-1.pkcs1.b64");
        Self::new(kid, algorithm, EncodingKey::from_rsa_der, fixture)
    }

    /// Another RSA key.
    pub fn other_rsa(kid: &str) -> Self {
        let fixture = include_str!("../../fixtures/oidc/rsa-2.pkcs1.b64");
        Self::new(kid, Algorithm::RS256, EncodingKey::from_rsa_der, fixture)
    }

    /// A key on the curve P-256.
    pub fn p256(kid: &str) -> Self {
        let fixture = include_str!("../../fixtures/oidc/p256.pkcs8.b64");
        Self::new(kid, Algorithm::ES256, EncodingKey::from_ec_der, fixture)
    }

    /// A key on the curve P-384.
    pub fn p384(kid: &str) -> Self {
        let fixture = include_str!("../../fixtures/oidc/p384.pkcs8.b64");
        Self::new(kid, Algorithm::ES384, EncodingKey::from_ec_der, fixture)
    }

    /// As the issuer publishes it.
    pub fn public(&self) -> Value {
        let jwk = Jwk::from_encoding_key(&self.private, self.algorithm).expect("a public key");
        let mut jwk = serde_json::to_value(jwk).expect("JSON");
        jwk["kid"] = json!(self.kid);
        jwk
    }

    /// Signs claims; the header names `algorithm` and this key.
    pub fn sign_as(&self, algorithm: Algorithm, claims: &Value) -> String {
        let header = Header { kid: Some(self.kid.clone()), ..Header::new(algorithm) };
        jsonwebtoken::encode(&header, claims, &self.private).expect("a token")
    }

    /// Signs claims as the key is meant to.
    pub fn sign(&self, claims: &Value) -> String {
        self.sign_as(self.algorithm, claims)
    }
}

/// A token with any header and any signature.
pub fn forged(header: &Value, claims: &Value, sign: impl FnOnce(&str) -> String) -> String {
    let part = |value: &Value| URL_SAFE_NO_PAD.encode(value.to_string());
    let message = format!("{}.{}", part(header), part(claims));
    let signature = sign(&message);
    format!("{message}.{signature}")
}

/// A service that publishes keys.
pub struct Issuer {
    server: MockServer,
    documents: Arc<Mutex<HashMap<String, Value>>>,
    is_down: Arc<AtomicBool>,
    /// The time of the tokens it makes.
    pub clock: Arc<StoppedClock>,
}

impl Issuer {
    /// Publishes these keys at the address that its discovery document names.
    pub async fn publishing(keys: &[&Key]) -> Self {
        let issuer = Self::without_documents().await;
        let document = json!({ "issuer": issuer.uri(), "jwks_uri": format!("{}{KEYS_PATH}", issuer.uri()) });
        issuer.serve(DISCOVERY_PATH, document);
        issuer.publish(keys);
        issuer
    }

    /// Answers 404 to everything.
    pub async fn without_documents() -> Self {
        let server = MockServer::start().await;
        let documents: Arc<Mutex<HashMap<String, Value>>> = Arc::default();
        let is_down: Arc<AtomicBool> = Arc::default();
        let (shelf, closed) = (Arc::clone(&documents), Arc::clone(&is_down));
        let answer = move |request: &Request| match shelf.lock().expect("no panic").get(request.url.path()) {
            _ if closed.load(Ordering::Relaxed) => ResponseTemplate::new(503),
            Some(document) => ResponseTemplate::new(200).set_body_json(document),
            None => ResponseTemplate::new(404),
        };
        Mock::given(any()).respond_with(answer).mount(&server).await;
        Self { server, documents, is_down, clock: Arc::new(StoppedClock::new()) }
    }

    /// Its web address.
    pub fn uri(&self) -> String {
        self.server.uri()
    }

    /// Replaces the published keys.
    pub fn publish(&self, keys: &[&Key]) {
        self.publish_values(keys.iter().map(|key| key.public()).collect());
    }

    /// Replaces the published keys by anything.
    pub fn publish_values(&self, keys: Vec<Value>) {
        self.serve(KEYS_PATH, json!({ "keys": keys }));
    }

    /// Replaces the discovery document.
    pub fn discovery(&self, document: Value) {
        self.serve(DISCOVERY_PATH, document);
    }

    /// Replaces what is at an address.
    pub fn serve(&self, at: &str, body: Value) {
        self.documents.lock().expect("no panic").insert(at.to_owned(), body);
    }

    /// Whether every answer is 503.
    pub fn down(&self, down: bool) {
        self.is_down.store(down, Ordering::Relaxed);
    }

    /// How often an address was asked.
    pub async fn asked(&self, at: &str) -> usize {
        let requests = self.server.received_requests().await.expect("recorded");
        requests.iter().filter(|request| request.url.path() == at).count()
    }

    /// Claims of an owner of the tenant `acme`, with some of them changed; `null` takes one out.
    pub fn claims(&self, changes: Value) -> Value {
        let now: Timestamp = engramia::ports::Clock::now(self.clock.as_ref());
        let mut claims = json!({
            "iss": self.uri(), "aud": AUDIENCE, "sub": "somebody", "iat": now.timestamp(), "exp": now.timestamp() + 300,
            "org": "acme", "engramia_role": "owner"
        });
        let (Value::Object(changes), Value::Object(all)) = (changes, &mut claims) else { panic!("no members") };
        all.extend(changes);
        all.retain(|_, value| !value.is_null());
        claims
    }
}
