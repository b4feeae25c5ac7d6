//! The outside of a token: its three parts, its header, its signature (RFC 7515).

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use jsonwebtoken::{Algorithm, DecodingKey};
use serde::Deserialize;
use serde_json::Value;

use super::TokenError;
use crate::ports::Jwk;

/// A signature algorithm and the keys that it needs.
struct Scheme {
    name: &'static str,
    algorithm: Algorithm,
    kty: &'static str,
    crv: Option<&'static str>,
}

const fn rsa(name: &'static str, algorithm: Algorithm) -> Scheme {
    Scheme { name, algorithm, kty: "RSA", crv: None }
}

const fn ec(name: &'static str, algorithm: Algorithm, curve: &'static str) -> Scheme {
    Scheme { name, algorithm, kty: "EC", crv: Some(curve) }
}

/// All that is accepted. The library has no ES512; `none` and shared secrets are out for good.
static SCHEMES: [Scheme; 8] = [
    rsa("RS256", Algorithm::RS256),
    rsa("RS384", Algorithm::RS384),
    rsa("RS512", Algorithm::RS512),
    rsa("PS256", Algorithm::PS256),
    rsa("PS384", Algorithm::PS384),
    rsa("PS512", Algorithm::PS512),
    ec("ES256", Algorithm::ES256, "P-256"),
    ec("ES384", Algorithm::ES384, "P-384"),
];

/// Longest name of an algorithm that is repeated to the client.
const ALGORITHM_NAME: usize = 16;

#[derive(Deserialize)]
struct Header {
    alg: String,
    kid: Option<Value>,
    /// Extensions that must be understood; we understand none.
    crit: Option<Value>,
}

/// A token whose header is in order. Nothing is known of its signature yet.
pub(super) struct SignedToken<'a> {
    /// Id of the key.
    pub(super) kid: String,
    scheme: &'static Scheme,
    /// Header and payload, as they were signed.
    message: &'a str,
    payload: &'a str,
    signature: &'a str,
}

impl<'a> SignedToken<'a> {
    /// Takes a token apart and judges its header.
    pub(super) fn parse(token: &'a str) -> Result<Self, TokenError> {
        let (message, signature) = token.rsplit_once('.').ok_or(TokenError::Malformed)?;
        let (header, payload) = message.split_once('.').ok_or(TokenError::Malformed)?;
        let header: Header = serde_json::from_slice(&decoded(header)?).map_err(|_| TokenError::Malformed)?;
        if header.crit.is_some() {
            return Err(TokenError::Malformed);
        }
        let kid = match header.kid {
            Some(Value::String(kid)) if !kid.is_empty() => kid,
            _ => return Err(TokenError::NoKeyId),
        };
        let scheme = SCHEMES.iter().find(|scheme| scheme.name == header.alg);
        let scheme = scheme.ok_or_else(|| TokenError::Algorithm(shown(&header.alg)))?;
        Ok(Self { kid, scheme, message, payload, signature })
    }

    /// The payload, if `key` is meant for this signature and has made it.
    pub(super) fn verified(&self, key: &Jwk) -> Result<Vec<u8>, TokenError> {
        let key = decoding_key(self.scheme, key).ok_or(TokenError::UnfitKey)?;
        match jsonwebtoken::crypto::verify(self.signature, self.message.as_bytes(), &key, self.scheme.algorithm) {
            Ok(true) => decoded(self.payload),
            Ok(false) | Err(_) => Err(TokenError::Refused("wrong signature")),
        }
    }
}

fn decoded(part: &str) -> Result<Vec<u8>, TokenError> {
    URL_SAFE_NO_PAD.decode(part).map_err(|_| TokenError::Malformed)
}

/// A name that is safe to repeat.
fn shown(algorithm: &str) -> String {
    algorithm.chars().filter(|c| c.is_ascii_alphanumeric() || *c == '-').take(ALGORITHM_NAME).collect()
}

/// `None` where the key is of another kind or meant for something else.
fn decoding_key(scheme: &Scheme, key: &Jwk) -> Option<DecodingKey> {
    let fits = key.kty == scheme.kty
        && (scheme.crv.is_none() || key.crv.as_deref() == scheme.crv)
        && key.alg.as_deref().is_none_or(|alg| alg == scheme.name)
        && key.usage.as_deref().is_none_or(|usage| usage == "sig")
        && key.key_ops.as_ref().is_none_or(|ops| ops.iter().any(|op| op == "verify"));
    if !fits {
        return None;
    }
    match scheme.crv {
        None => DecodingKey::from_rsa_components(key.n.as_deref()?, key.e.as_deref()?).ok(),
        Some(_) => DecodingKey::from_ec_components(key.x.as_deref()?, key.y.as_deref()?).ok(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(header: &str) -> Result<String, TokenError> {
        let token = format!("{}.e30.c2ln", URL_SAFE_NO_PAD.encode(header));
        SignedToken::parse(&token).map(|token| token.kid)
    }

    #[test]
    fn a_header_names_a_key_and_an_accepted_algorithm() {
        for scheme in &SCHEMES {
            assert_eq!(parse(&format!(r#"{{"alg":"{}","kid":"k"}}"#, scheme.name)), Ok("k".into()));
        }
        for alg in ["none", "HS256", "HS512", "ES512", "EdDSA", "rs256"] {
            let refused = parse(&format!(r#"{{"alg":"{alg}","kid":"k"}}"#));
            assert_eq!(refused, Err(TokenError::Algorithm(alg.into())));
        }
        let long = parse(r#"{"alg":"<b>nonenonenonenonenone\u0000","kid":"k"}"#);
        assert_eq!(long, Err(TokenError::Algorithm("bnonenonenonenon".into())));
        for header in [r#"{"alg":"RS256"}"#, r#"{"alg":"RS256","kid":""}"#, r#"{"alg":"RS256","kid":7}"#] {
            assert_eq!(parse(header), Err(TokenError::NoKeyId), "{header}");
        }
        for header in ["", "[]", "{}", r#"{"alg":7,"kid":"k"}"#, r#"{"alg":"RS256","kid":"k","crit":["b64"]}"#] {
            assert_eq!(parse(header), Err(TokenError::Malformed), "{header}");
        }
        assert_eq!(parse(r#"{"alg":"RS256","alg":"none","kid":"k"}"#), Err(TokenError::Malformed), "said twice");
    }

    #[test]
    fn garbage_is_no_token() {
        for text in ["", "abc", "a.b", "a.b.c", "..", "...", "e30.e30.e30.e30", "ž.ž.ž", "eyJhbGciOiJSUzI1NiJ9.."] {
            let refused = SignedToken::parse(text).map(|token| token.kid);
            assert!(matches!(refused, Err(TokenError::Malformed | TokenError::NoKeyId)), "{text}: {refused:?}");
        }
    }

    fn key(members: Value) -> Jwk {
        let mut all = serde_json::json!({ "kid": "k", "kty": "EC", "crv": "P-256", "x": "AA", "y": "AA" });
        let Value::Object(members) = members else { panic!("no members") };
        all.as_object_mut().expect("an object").extend(members);
        serde_json::from_value(all).expect("a key")
    }

    #[test]
    fn a_key_is_used_only_for_what_it_is_meant_for() {
        let fits = |members| {
            let es256 = SCHEMES.iter().find(|scheme| scheme.name == "ES256").expect("accepted");
            decoding_key(es256, &key(members)).is_some()
        };
        assert!(fits(serde_json::json!({})));
        assert!(fits(serde_json::json!({ "alg": "ES256", "use": "sig", "key_ops": ["verify"] })));
        for other in [
            serde_json::json!({ "kty": "RSA", "n": "AA", "e": "AQAB" }),
            serde_json::json!({ "kty": "oct", "k": "AA" }),
            serde_json::json!({ "crv": "P-384" }),
            serde_json::json!({ "alg": "ES384" }),
            serde_json::json!({ "use": "enc" }),
            serde_json::json!({ "key_ops": ["encrypt"] }),
            serde_json::json!({ "x": null }),
            serde_json::json!({ "y": "not base64!" }),
        ] {
            assert!(!fits(other.clone()), "{other}");
        }
    }
}
