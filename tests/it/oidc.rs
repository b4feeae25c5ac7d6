//! Tokens of an OpenID Connect issuer: which are accepted, what they open, and how the issuer's keys are fetched.

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use chrono::TimeDelta;
use futures_util::future::join_all;
use jsonwebtoken::{Algorithm, EncodingKey};
use serde_json::{Value, json};
use std::sync::Arc;

use crate::support::app::{Setup, TestApp};
use crate::support::issuer::{FALLBACK_PATH, Issuer, KEYS_PATH, Key, forged};
use crate::support::people::Person;
use crate::support::{eventually, run};

/// An issuer with one key, and an application that trusts it.
struct House {
    issuer: Issuer,
    key: Key,
    app: TestApp,
}

impl House {
    async fn new() -> Self {
        Self::with(|setup| setup).await
    }

    async fn with(configure: impl FnOnce(Setup) -> Setup) -> Self {
        let key = Key::rsa("first", Algorithm::RS256);
        let issuer = Issuer::publishing(&[&key]).await;
        let app = configure(trusting(&issuer)).start().await;
        Self { issuer, key, app }
    }

    /// Somebody with these claims.
    fn person(&self, changes: Value) -> Person {
        self.app.holder_of(&self.key.sign(&self.issuer.claims(changes)))
    }

    async fn accepts(&self, token: &str) {
        self.app.holder_of(token).get("/v1/health").await.ok();
    }

    async fn refuses(&self, token: &str, detail: &str) {
        let answer = self.app.holder_of(token).get("/v1/health").await;
        assert_eq!(answer.problem(401, "UNAUTHORIZED")["detail"], detail);
        assert_eq!(answer.header("www-authenticate"), Some("Bearer"));
    }

    /// 503, because nobody can tell.
    async fn cannot_tell(&self, token: &str) {
        let answer = self.app.holder_of(token).get("/v1/health").await;
        answer.problem(503, "SERVICE_UNAVAILABLE");
        assert_eq!(answer.header("retry-after"), Some("5"));
    }

    fn pass(&self, seconds: i64) {
        self.issuer.clock.pass(TimeDelta::seconds(seconds));
    }
}

fn trusting(issuer: &Issuer) -> Setup {
    let clock = Arc::clone(&issuer.clock);
    Setup::new().issuer(&issuer.uri()).clock(clock)
}

const REFUSED: &str = "Token validation failed.";

#[tokio::test]
async fn every_permitted_algorithm_is_accepted() {
    use Algorithm::{PS256, PS384, PS512, RS256, RS384, RS512};
    let mut keys = vec![Key::p256("es256"), Key::p384("es384")];
    keys.extend([RS256, RS384, RS512, PS256, PS384, PS512].map(|alg| Key::rsa(&format!("{alg:?}"), alg)));
    let issuer = Issuer::publishing(&keys.iter().collect::<Vec<_>>()).await;
    let app = trusting(&issuer).start().await;
    for key in &keys {
        app.holder_of(&key.sign(&issuer.claims(json!({})))).get("/v1/health").await.ok();
    }
}

#[tokio::test]
async fn a_key_that_states_no_algorithm_serves_every_one_of_its_type() {
    let key = Key::rsa("plain", Algorithm::RS256);
    let issuer = Issuer::publishing(&[]).await;
    let mut public = key.public();
    public.as_object_mut().expect("an object").remove("alg");
    issuer.publish_values(vec![json!({ "kty": "OKP" }), json!("no key"), public]);
    let app = trusting(&issuer).start().await;
    for algorithm in [Algorithm::RS256, Algorithm::RS512, Algorithm::PS256] {
        app.holder_of(&key.sign_as(algorithm, &issuer.claims(json!({})))).get("/v1/health").await.ok();
    }
}

#[tokio::test]
async fn tokens_with_wrong_claims_are_refused() {
    let house = House::new().await;
    house.accepts(&house.key.sign(&house.issuer.claims(json!({ "aud": ["other", "engramia"] })))).await;
    let now = house.issuer.claims(json!({}))["iat"].as_i64().expect("a time");
    for changes in [
        json!({ "aud": "somebody-else" }),
        json!({ "aud": ["somebody", "else"] }),
        json!({ "aud": null }),
        json!({ "iss": "http://evil.example" }),
        json!({ "iss": null }),
        json!({ "exp": now - 61 }),
        json!({ "exp": null }),
        json!({ "nbf": now + 120 }),
        json!({ "iat": now + 120 }),
    ] {
        house.refuses(&house.key.sign(&house.issuer.claims(changes)), REFUSED).await;
    }
    let none = house.key.sign(&house.issuer.claims(json!({ "org": null })));
    house.refuses(&none, "Token is missing the required tenant claim 'org'.").await;
    house.app.anonymous().get("/v1/health").await.problem(401, "UNAUTHORIZED");
}

#[tokio::test]
async fn tokens_that_are_not_signed_by_the_issuer_are_refused() {
    let house = House::new().await;
    let claims = house.issuer.claims(json!({}));
    let good = house.key.sign(&claims);
    let (message, signature) = good.rsplit_once('.').expect("three parts");
    let header = |alg: &str| json!({ "alg": alg, "typ": "JWT", "kid": "first" });

    let none = forged(&header("none"), &claims, |_| String::new());
    house.refuses(&none, "Signing algorithm 'none' is not permitted.").await;

    let modulus = house.key.public()["n"].as_str().expect("a modulus").to_owned();
    for secret in [modulus.clone().into_bytes(), URL_SAFE_NO_PAD.decode(modulus).expect("base64")] {
        let shared = EncodingKey::from_secret(&secret);
        let sign = |message: &str| jsonwebtoken::crypto::sign(message.as_bytes(), &shared, Algorithm::HS256);
        let hmac = forged(&header("HS256"), &claims, |message| sign(message).expect("a signature"));
        house.refuses(&hmac, "Signing algorithm 'HS256' is not permitted.").await;
        let disguised = forged(&header("RS256"), &claims, |message| sign(message).expect("a signature"));
        house.refuses(&disguised, REFUSED).await;
    }

    house.refuses(&Key::other_rsa("first").sign(&claims), REFUSED).await;
    house.refuses(&Key::other_rsa("nobody").sign(&claims), "Token signing key not found.").await;
    let unnamed = forged(&json!({ "alg": "RS256" }), &claims, |_| signature.to_owned());
    house.refuses(&unnamed, "Token missing 'kid' header.").await;
    house.refuses(&Key::p256("first").sign(&claims), "Invalid signing key.").await;

    let reversed: String = signature.chars().rev().collect();
    let others = forged(&header("RS256"), &house.issuer.claims(json!({ "org": "other" })), |_| signature.to_owned());
    for token in [format!("{message}.{reversed}"), format!("{message}."), format!("{message}.!"), others] {
        house.refuses(&token, REFUSED).await;
    }
    for garbage in ["abc", "a.b.c", "..", "eyJhbGciOiJSUzI1NiJ9..", "žluťoučký.kůň.pěl", &"x".repeat(5000)] {
        let answer = house.app.holder_of(garbage).get("/v1/health").await;
        answer.problem(401, "UNAUTHORIZED");
    }
    house.accepts(&good).await;
}

#[tokio::test]
async fn a_huge_token_is_not_looked_at() {
    let house = House::new().await;
    let padded = |bytes: usize| house.key.sign(&house.issuer.claims(json!({ "padding": "x".repeat(bytes) })));
    house.accepts(&padded(11_000)).await;
    house.refuses(&padded(13_000), "Invalid token.").await;
}

#[tokio::test]
async fn a_key_that_is_meant_for_something_else_verifies_nothing() {
    let key = Key::rsa("first", Algorithm::RS256);
    for (member, value) in [("use", json!("enc")), ("alg", json!("RS512")), ("key_ops", json!(["encrypt"]))] {
        let issuer = Issuer::publishing(&[]).await;
        let mut public = key.public();
        public[member] = value;
        issuer.publish_values(vec![public]);
        let app = trusting(&issuer).start().await;
        let answer = app.holder_of(&key.sign(&issuer.claims(json!({})))).get("/v1/health").await;
        assert_eq!(answer.problem(401, "UNAUTHORIZED")["detail"], "Invalid signing key.", "{member}");
    }
}

#[tokio::test]
async fn a_remembered_token_still_ends_in_time() {
    let house = House::new().await;
    let token = house.key.sign(&house.issuer.claims(json!({})));
    house.accepts(&token).await;
    house.pass(359);
    house.accepts(&token).await;
    house.pass(1);
    house.refuses(&token, REFUSED).await;
}

#[tokio::test]
async fn the_role_claim_decides_what_a_caller_may_do() {
    let house = House::with(|setup| setup.var("ENGRAMIA_OIDC_ROLE_CLAIM", "https://example.com/role")).await;
    for (role, learns, exports) in [
        (json!("owner"), true, true),
        (json!("Admin"), true, true),
        (json!("EDITOR"), true, false),
        (json!("reader"), false, false),
        (json!("superuser"), false, false),
        (json!(["owner"]), false, false),
        (json!(null), false, false),
    ] {
        let person = house.person(json!({ "https://example.com/role": role }));
        person.get("/v1/health").await.ok();
        let status = |may| if may { 200 } else { 403 };
        let answer = person.post("/v1/learn", &run("role", &role.to_string(), 7.0)).await;
        assert_eq!(answer.status, status(learns), "{role}");
        assert_eq!(person.get("/v1/export").await.status, status(exports), "{role}");
    }
}

#[tokio::test]
async fn a_token_without_a_role_has_the_default_role() {
    let house = House::with(|setup| setup.var("ENGRAMIA_OIDC_DEFAULT_ROLE", "editor")).await;
    let learn = |role: Value| {
        let person = house.person(json!({ "engramia_role": role }));
        async move { person.post("/v1/learn", &run("default role", "x", 7.0)).await }
    };
    learn(json!(null)).await.ok();
    learn(json!("superuser")).await.problem(403, "FORBIDDEN");
}

async fn patterns_of(person: &Person) -> Value {
    person.get("/v1/health").await.ok()["pattern_count"].clone()
}

#[tokio::test]
async fn tenants_are_isolated() {
    let house = House::new().await;
    let of = |tenant: Value| house.person(json!({ "org": tenant }));
    let learned = of(json!("a")).post("/v1/learn", &run("sort a list of names", "sorted(names)", 8.0)).await.ok();
    let key = learned["pattern_key"].as_str().expect("a key").to_owned();

    let stranger = of(json!("b"));
    let found = stranger.post("/v1/recall", &json!({ "task": "sort a list of names" })).await.ok();
    assert_eq!(found["matches"], json!([]));
    assert_eq!(patterns_of(&stranger).await, 0);
    assert_eq!(stranger.delete(&format!("/v1/patterns/{key}")).await.ok()["deleted"], false);
    let reaching = stranger.get("/v1/health").header("x-project-id", "a").await.ok();
    assert_eq!(reaching["pattern_count"], 0);
    assert_eq!(patterns_of(&of(json!("a"))).await, 1);

    for odd in ["../other", "..", "a/b", "t\\x", "tenant with spaces", "ünï", "%2e%2e", "A", &"a".repeat(255)] {
        let person = of(json!(odd));
        assert_eq!(patterns_of(&person).await, 0, "{odd}");
        person.post("/v1/learn", &run("odd", "x", 7.0)).await.ok();
        assert_eq!(patterns_of(&person).await, 1, "{odd}");
    }
    of(json!("a".repeat(300))).get("/v1/health").await.problem(401, "UNAUTHORIZED");
    assert_eq!(patterns_of(&of(json!(5))).await, 0);
}

#[tokio::test]
async fn without_a_project_claim_the_header_chooses_the_project() {
    let house = House::new().await;
    let reader = house.person(json!({ "engramia_role": "reader" }));
    let owner = house.person(json!({ "project": "ignored" }));
    owner.post("/v1/learn", &run("in a project", "x", 7.0)).header("x-project-id", "one").await.ok();
    assert_eq!(patterns_of(&owner).await, 0);
    assert_eq!(reader.get("/v1/health").header("x-project-id", "one").await.ok()["pattern_count"], 1);
    reader.get("/v1/health").header("x-project-id", "../one").await.problem(403, "FORBIDDEN");
}

#[tokio::test]
async fn with_a_project_claim_the_header_may_only_repeat_it() {
    let house = House::with(|setup| setup.var("ENGRAMIA_OIDC_PROJECT_CLAIM", "project")).await;
    let of = |project: Value| house.person(json!({ "project": project }));
    of(json!("one")).post("/v1/learn", &run("in a project", "x", 7.0)).await.ok();
    assert_eq!(patterns_of(&of(json!("one"))).await, 1);
    assert_eq!(patterns_of(&of(json!("two"))).await, 0);
    assert_eq!(of(json!("one")).get("/v1/health").header("x-project-id", "one").await.ok()["pattern_count"], 1);
    let refused = of(json!("two")).get("/v1/health").header("x-project-id", "one").await;
    assert_eq!(refused.problem(403, "FORBIDDEN")["detail"], "This token is bound to another project.");

    let unnamed = of(json!(null));
    assert_eq!(unnamed.get("/v1/health").header("x-project-id", "default").await.ok()["pattern_count"], 0);
    unnamed.get("/v1/health").header("x-project-id", "one").await.problem(403, "FORBIDDEN");
    for bad in ["..", "a/b", "", "ž"] {
        let answer = of(json!(bad)).get("/v1/health").await;
        assert_eq!(answer.problem(401, "UNAUTHORIZED")["detail"], "Invalid token.", "{bad}");
    }
}

#[tokio::test]
async fn a_subject_is_the_author_of_its_patterns_whatever_token_it_has() {
    let house = House::new().await;
    let editor = |sub: &str, nonce: u8| house.person(json!({ "engramia_role": "editor", "sub": sub, "jti": nonce }));
    let learned = editor("anna", 1).post("/v1/learn", &run("authored", "x", 7.0)).await.ok();
    let path = format!("/v1/patterns/{}", learned["pattern_key"].as_str().expect("a key"));
    editor("boris", 1).delete(&path).await.problem(403, "FORBIDDEN");
    editor("anna", 2).delete(&path).await.ok();
}

#[tokio::test]
async fn the_limit_goes_by_subject_and_tenant() {
    let house = House::with(|setup| setup.var("ENGRAMIA_RATE_LIMIT_PER_KEY", "2")).await;
    let get = |sub: &str, org: &str, nonce: u8| {
        let person = house.person(json!({ "sub": sub, "org": org, "jti": nonce }));
        async move { person.get("/v1/health").await }
    };
    get("anna", "a", 1).await.ok();
    get("anna", "a", 2).await.ok();
    get("anna", "a", 3).await.problem(429, "RATE_LIMITED");
    get("anna", "b", 1).await.ok();
    get("boris", "a", 1).await.ok();
}

#[tokio::test]
async fn a_new_key_of_the_issuer_works_at_once() {
    let house = House::new().await;
    let claims = house.issuer.claims(json!({}));
    house.accepts(&house.key.sign(&claims)).await;
    // Somebody's misspelt key just before is no obstacle.
    house.refuses(&Key::other_rsa("nobody").sign(&claims), "Token signing key not found.").await;
    let next = Key::other_rsa("second");
    house.issuer.publish(&[&house.key, &next]);
    house.accepts(&next.sign(&claims)).await;
    house.accepts(&house.key.sign(&claims)).await;
    assert_eq!(house.issuer.asked(KEYS_PATH).await, 3);
}

#[tokio::test]
async fn a_key_that_the_issuer_withdrew_is_forgotten_within_the_hour() {
    let house = House::new().await;
    let token = |nonce: u8| house.key.sign(&house.issuer.claims(json!({ "jti": nonce })));
    house.accepts(&token(1)).await;
    house.issuer.publish(&[&Key::other_rsa("second")]);
    house.pass(3599);
    house.accepts(&token(2)).await;
    house.pass(1);
    house.refuses(&token(3), "Token signing key not found.").await;
}

#[tokio::test]
async fn a_flood_of_unknown_keys_makes_few_requests() {
    let house = House::new().await;
    let claims = house.issuer.claims(json!({}));
    house.accepts(&house.key.sign(&claims)).await;
    assert_eq!(house.issuer.asked(KEYS_PATH).await, 1);
    let tokens: Vec<_> = (0..40).map(|n| Key::p256(&format!("nobody-{n}")).sign(&claims)).collect();
    for _ in 0..2 {
        join_all(tokens.iter().map(|token| house.refuses(token, "Token signing key not found."))).await;
        for token in &tokens {
            house.refuses(token, "Token signing key not found.").await;
        }
    }
    assert!(house.issuer.asked(KEYS_PATH).await <= 4, "the first, and three in a minute");
    house.accepts(&house.key.sign(&claims)).await;

    let next = Key::other_rsa("second");
    house.issuer.publish(&[&house.key, &next]);
    house.pass(60);
    house.accepts(&next.sign(&claims)).await;
}

#[tokio::test]
async fn callers_at_the_same_time_share_one_request() {
    let house = House::new().await;
    let token = house.key.sign(&house.issuer.claims(json!({})));
    join_all((0..20).map(|_| house.accepts(&token))).await;
    assert_eq!(house.issuer.asked(KEYS_PATH).await, 1);
}

#[tokio::test]
async fn known_keys_outlive_their_issuer() {
    let house = House::new().await;
    let token = |key: &Key, nonce: u8| key.sign(&house.issuer.claims(json!({ "jti": nonce })));
    house.accepts(&token(&house.key, 1)).await;
    house.issuer.down(true);
    house.pass(2 * 3600);
    house.accepts(&token(&house.key, 2)).await;
    house.cannot_tell(&token(&Key::other_rsa("second"), 1)).await;
    house.pass(10);
    house.accepts(&token(&house.key, 3)).await;

    house.issuer.down(false);
    house.issuer.publish(&[&house.key, &Key::other_rsa("second")]);
    // An attempt in the background may still be failing.
    eventually("the issuer is asked again", || async {
        house.pass(5);
        let person = house.app.holder_of(&token(&Key::other_rsa("second"), 2));
        (person.get("/v1/health").await.status == 200).then_some(())
    })
    .await;
}

#[tokio::test]
async fn while_no_key_is_at_hand_nobody_is_called_a_stranger() {
    let key = Key::rsa("first", Algorithm::RS256);
    let issuer = Issuer::publishing(&[&key]).await;
    issuer.down(true);
    let app = trusting(&issuer).start().await;
    let house = House { issuer, key, app };
    let token = house.key.sign(&house.issuer.claims(json!({})));
    house.cannot_tell(&token).await;
    house.cannot_tell(&token).await;
    house.refuses("garbage", "Invalid token.").await;
    house.issuer.down(false);
    house.cannot_tell(&token).await;
    house.pass(5);
    house.accepts(&token).await;
}

#[tokio::test]
async fn an_issuer_without_a_discovery_document_is_asked_where_the_original_asked() {
    let key = Key::rsa("first", Algorithm::RS256);
    for is_html in [false, true] {
        let issuer = Issuer::without_documents().await;
        issuer.serve(FALLBACK_PATH, json!({ "keys": [key.public()] }));
        if is_html {
            issuer.discovery(json!("a page for people"));
        }
        let app = trusting(&issuer).start().await;
        app.holder_of(&key.sign(&issuer.claims(json!({})))).get("/v1/health").await.ok();
        assert_eq!(issuer.asked(FALLBACK_PATH).await, 1);
    }
}

#[tokio::test]
async fn a_discovery_document_of_another_issuer_is_not_followed() {
    for document in [
        json!({ "issuer": "https://evil.example", "jwks_uri": "KEYS" }),
        json!({ "issuer": "SELF", "jwks_uri": "file:///etc/keys" }),
        json!({ "issuer": "SELF", "jwks_uri": "keys" }),
    ] {
        let key = Key::rsa("first", Algorithm::RS256);
        let issuer = Issuer::publishing(&[&key]).await;
        let (uri, keys) = (issuer.uri(), format!("{}{KEYS_PATH}", issuer.uri()));
        let text = document.to_string().replace("KEYS", &keys).replace("SELF", &uri);
        issuer.discovery(serde_json::from_str(&text).expect("JSON"));
        issuer.serve(FALLBACK_PATH, json!({ "keys": [key.public()] }));
        let app = trusting(&issuer).start().await;
        let house = House { issuer, key, app };
        house.cannot_tell(&house.key.sign(&house.issuer.claims(json!({})))).await;
        assert_eq!(house.issuer.asked(KEYS_PATH).await + house.issuer.asked(FALLBACK_PATH).await, 0, "{document}");
    }
}

#[tokio::test]
async fn an_endless_answer_is_not_read_to_its_end() {
    let house = House::new().await;
    house.issuer.publish_values(vec![json!({ "padding": "x".repeat(600 * 1024) })]);
    let app = trusting(&house.issuer).start().await;
    let house = House { app, ..house };
    house.cannot_tell(&house.key.sign(&house.issuer.claims(json!({})))).await;
}
