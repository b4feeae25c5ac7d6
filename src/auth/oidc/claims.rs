//! The inside of a token: which claims must hold, and what they say about the caller.

use serde_json::{Map, Value};

use super::TokenError;
use crate::auth::{Credential, Principal};
use crate::config::Oidc;
use crate::domain::{Role, Scope};

/// How far the clocks of issuer and server may be apart, in seconds.
const SKEW: f64 = 60.0;
/// Longest tenant and longest subject, in bytes.
const MAX_NAME: usize = 255;
/// Key id of a token without a subject.
const NO_SUBJECT: &str = "oidc-unknown";

/// The claims of a token whose signature is right.
pub(super) struct Claims(Map<String, Value>);

impl Claims {
    /// Reads the payload.
    pub(super) fn parse(payload: &[u8]) -> Result<Self, TokenError> {
        serde_json::from_slice(payload).map(Self).map_err(|_| TokenError::Malformed)
    }

    /// A claim; `null` is as good as absent.
    fn get(&self, name: &str) -> Option<&Value> {
        self.0.get(name).filter(|value| !value.is_null())
    }

    /// Judges what every token says (RFC 7519 §4.1) and gives the time, in seconds, at which it ends to be valid.
    pub(super) fn check(&self, rules: &Oidc, now: f64) -> Result<f64, TokenError> {
        let end = self.time("exp")?.ok_or(TokenError::Refused("no exp"))? + SKEW;
        if now >= end {
            return Err(TokenError::Refused("expired"));
        }
        if self.time("nbf")?.is_some_and(|begin| begin > now + SKEW) {
            return Err(TokenError::Refused("not valid yet"));
        }
        if self.time("iat")?.is_some_and(|issued| issued > now + SKEW) {
            return Err(TokenError::Refused("issued in the future"));
        }
        // Some issuers end their name with a slash; the setting never does.
        let issuer = self.get("iss").and_then(Value::as_str).map(|issuer| issuer.strip_suffix('/').unwrap_or(issuer));
        if issuer != Some(&rules.issuer) {
            return Err(TokenError::Refused("another issuer"));
        }
        let is_meant = match self.get("aud") {
            Some(Value::Array(several)) => several.iter().any(|one| *one == rules.audience),
            Some(one) => *one == rules.audience,
            None => false,
        };
        if is_meant { Ok(end) } else { Err(TokenError::Refused("another audience")) }
    }

    fn time(&self, name: &str) -> Result<Option<f64>, TokenError> {
        let time = |value: &Value| value.as_f64().ok_or(TokenError::Refused("a time that is no number"));
        self.get(name).map(time).transpose()
    }

    /// Who the token belongs to.
    pub(super) fn principal(&self, rules: &Oidc) -> Result<Principal, TokenError> {
        let tenant = self.tenant(&rules.tenant_claim)?;
        let project = match &rules.project_claim {
            Some(claim) => self.project(claim, &tenant)?,
            None => Scope::DEFAULT_NAME.to_owned(),
        };
        Ok(Principal {
            max_patterns: None,
            scope: Scope::verified(&tenant, &project),
            role: self.role(rules),
            key_id: Some(self.subject()?.into()),
            credential: Credential::Token { names_project: rules.project_claim.is_some() },
        })
    }

    fn tenant(&self, claim: &str) -> Result<String, TokenError> {
        let tenant = self.get(claim).and_then(text).filter(|tenant| !tenant.trim().is_empty());
        let tenant = tenant.ok_or_else(|| TokenError::NoTenant(claim.to_owned()))?;
        if is_name(&tenant) { Ok(tenant) } else { Err(TokenError::Malformed) }
    }

    fn project(&self, claim: &str, tenant: &str) -> Result<String, TokenError> {
        let Some(project) = self.get(claim) else {
            tracing::warn!(claim, tenant, "a token without the project claim uses the project default");
            return Ok(Scope::DEFAULT_NAME.to_owned());
        };
        text(project).filter(|name| Scope::is_project_name(name)).ok_or(TokenError::Malformed)
    }

    /// A role that is not one of ours gives the least.
    fn role(&self, rules: &Oidc) -> Role {
        match self.get(&rules.role_claim) {
            None => rules.default_role,
            Some(role) => role.as_str().and_then(|role| role.to_ascii_lowercase().parse().ok()).unwrap_or(Role::Reader),
        }
    }

    fn subject(&self) -> Result<&str, TokenError> {
        match self.get("sub") {
            None => Ok(NO_SUBJECT),
            Some(Value::String(subject)) if subject.is_empty() => Ok(NO_SUBJECT),
            Some(Value::String(subject)) if is_name(subject) => Ok(subject),
            Some(_) => Err(TokenError::Malformed),
        }
    }
}

/// A string, or a number as a string.
fn text(value: &Value) -> Option<String> {
    match value {
        Value::String(text) => Some(text.clone()),
        Value::Number(number) => Some(number.to_string()),
        _ => None,
    }
}

fn is_name(text: &str) -> bool {
    text.len() <= MAX_NAME && !text.chars().any(char::is_control)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    const NOW: f64 = 1e9;

    fn rules() -> Oidc {
        Oidc {
            issuer: "https://id.example".into(),
            audience: "engramia".into(),
            role_claim: "role".into(),
            default_role: Role::Editor,
            tenant_claim: "org".into(),
            project_claim: Some("project".into()),
        }
    }

    /// The claims of a good token, with some of them changed; `null` takes one out.
    fn with(changes: Value) -> Claims {
        let mut all = json!({
            "iss": "https://id.example", "aud": "engramia", "sub": "me", "exp": NOW + 300.0, "iat": NOW,
            "org": "acme", "project": "web", "role": "Admin"
        });
        let Value::Object(changes) = changes else { panic!("no members") };
        all.as_object_mut().expect("an object").extend(changes);
        Claims::parse(all.to_string().as_bytes()).expect("claims")
    }

    #[test]
    fn a_token_ends_with_its_time_and_a_minute_for_the_clocks() {
        assert_eq!(with(json!({})).check(&rules(), NOW), Ok(NOW + 360.0));
        for good in [
            json!({ "exp": NOW - 59.0 }),
            json!({ "nbf": NOW + 60.0 }),
            json!({ "iat": NOW + 60.0 }),
            json!({ "iat": null }),
            json!({ "iss": "https://id.example/" }),
            json!({ "aud": ["other", "engramia"] }),
        ] {
            assert!(with(good.clone()).check(&rules(), NOW).is_ok(), "{good}");
        }
    }

    #[test]
    fn a_token_of_another_time_issuer_or_audience_is_refused() {
        for (bad, reason) in [
            (json!({ "exp": null }), "no exp"),
            (json!({ "exp": NOW - 60.0 }), "expired"),
            (json!({ "exp": "4102444800" }), "a time that is no number"),
            (json!({ "nbf": NOW + 61.0 }), "not valid yet"),
            (json!({ "nbf": [] }), "a time that is no number"),
            (json!({ "iat": NOW + 61.0 }), "issued in the future"),
            (json!({ "iss": null }), "another issuer"),
            (json!({ "iss": "https://id.example.evil" }), "another issuer"),
            (json!({ "iss": "https://id.example//" }), "another issuer"),
            (json!({ "iss": ["https://id.example"] }), "another issuer"),
            (json!({ "aud": null }), "another audience"),
            (json!({ "aud": "Engramia" }), "another audience"),
            (json!({ "aud": [] }), "another audience"),
            (json!({ "aud": { "engramia": true } }), "another audience"),
        ] {
            assert_eq!(with(bad.clone()).check(&rules(), NOW), Err(TokenError::Refused(reason)), "{bad}");
        }
    }

    #[test]
    fn claims_become_a_principal() {
        let of = |changes| with(changes).principal(&rules()).expect("a principal");
        let principal = of(json!({}));
        assert_eq!((principal.scope.tenant(), principal.scope.project()), ("acme", "web"));
        assert_eq!((principal.role, principal.key_id.as_deref()), (Role::Admin, Some("me")));
        assert_eq!(principal.credential, Credential::Token { names_project: true });

        assert_eq!(of(json!({ "role": null })).role, Role::Editor, "the default role");
        for unknown in [json!("superuser"), json!(""), json!(["owner"]), json!(1), json!(true)] {
            assert_eq!(of(json!({ "role": unknown })).role, Role::Reader, "{unknown}");
        }
        assert_eq!(of(json!({ "project": null })).scope.project(), "default");
        assert_eq!(of(json!({ "project": 7 })).scope.project(), "7");
        assert_eq!(of(json!({ "org": 42 })).scope.tenant(), "42");
        for odd in ["../other", "..", "t\\x", "tenant with spaces", "ünï", "%2e%2e", &"a".repeat(255)] {
            assert_eq!(of(json!({ "org": odd })).scope.tenant(), odd);
        }
        for nobody in [json!(null), json!("")] {
            assert_eq!(of(json!({ "sub": nobody })).key_id.as_deref(), Some("oidc-unknown"));
        }

        let free = Oidc { project_claim: None, ..rules() };
        let principal = with(json!({})).principal(&free).expect("a principal");
        assert_eq!(principal.scope.project(), "default", "a claim that is not configured says nothing");
        assert_eq!(principal.credential, Credential::Token { names_project: false });
    }

    #[test]
    fn claims_that_name_nothing_usable_are_refused() {
        let of = |changes| with(changes).principal(&rules()).expect_err("refused");
        for missing in [json!(null), json!(""), json!("  "), json!(true), json!(["acme"]), json!({})] {
            assert_eq!(of(json!({ "org": missing })), TokenError::NoTenant("org".into()), "{missing}");
        }
        for bad in ["a".repeat(256), "a\nb".into(), "a\0".into(), "a\u{85}".into()] {
            assert_eq!(of(json!({ "org": bad })), TokenError::Malformed);
            assert_eq!(of(json!({ "sub": bad })), TokenError::Malformed);
        }
        for bad in [json!(""), json!(".."), json!("a/b"), json!("ž"), json!([]), json!("x".repeat(101))] {
            assert_eq!(of(json!({ "project": bad })), TokenError::Malformed, "{bad}");
        }
        assert!(Claims::parse(b"[]").is_err() && Claims::parse(b"").is_err() && Claims::parse(b"{}x").is_err());
    }
}
