//! What the configuration reads, warns of and refuses.

use super::*;
use crate::domain::Role;
use crate::domain::spend::{Nanos, Price};
use secrecy::{ExposeSecret, SecretString};
use std::path::Path;
use std::time::Duration;

fn load(vars: &[(&str, &str)]) -> Result<Loaded, Findings> {
    Config::load(vars.iter().map(|(name, value)| (name.to_string(), value.to_string())))
}

/// The configuration, which must come without a warning.
fn quiet(vars: &[(&str, &str)]) -> Config {
    let loaded = load(vars).expect("valid");
    assert_eq!(loaded.warnings, [""; 0]);
    loaded.config
}

/// The configuration and its only warning.
fn warned(vars: &[(&str, &str)]) -> (Config, String) {
    let mut loaded = load(vars).expect("valid");
    assert_eq!(loaded.warnings.len(), 1, "{:?}", loaded.warnings);
    (loaded.config, loaded.warnings.remove(0))
}

fn refused(vars: &[(&str, &str)]) -> Vec<String> {
    load(vars).expect_err("invalid").to_string().lines().map(str::to_owned).collect()
}

/// Asserts that there is one finding and that it is about `name`.
fn refused_for(name: &str, vars: &[(&str, &str)]) {
    let lines = refused(vars);
    assert!(lines.len() == 1 && lines[0].starts_with(&format!("{name}=")), "{lines:?}");
}

#[test]
fn defaults() {
    let Config { server, storage, models, auth, limits, jobs, memory, governance, telemetry, build, billing } =
        quiet(&[]);
    assert!(billing.stripe.is_none() && billing.prices.is_empty());
    assert!(server.host.is_loopback() && server.port == 8000);
    assert_eq!(server.max_body_size, 1_048_576);
    assert_eq!(server.cors_origins, CorsOrigins::Off);
    assert!(server.trusted_proxies.is_empty() && !server.maintenance && server.docs);
    assert_eq!(server.request_timeout, Duration::from_secs(120));
    assert_eq!(server.shutdown_grace, Duration::from_secs(20));
    assert!(matches!(storage, Storage::Embedded { root } if root == Path::new("./engramia_data")));
    assert!(matches!(models.embedding, EmbeddingChoice::BuiltIn));
    assert_eq!(models.embedding_cache_entries, 8192);
    assert!(matches!(models.llm, LlmChoice::NotConfigured { provider: "openai", missing: "OPENAI_API_KEY" }));
    assert_eq!(models.llm_timeout, Duration::from_secs(30));
    assert_eq!((models.llm_concurrency, models.max_response, models.price, models.budget), (10, 20_000, None, None));
    assert!(matches!(auth.mode, AuthMode::StoreKeys) && matches!(auth.bootstrap, Bootstrap::Off));
    assert_eq!(limits.max_projects, None);
    assert_eq!([limits.per_ip, limits.expensive, limits.per_key].map(u32::from), [60, 10, 120]);
    assert!(jobs.worker && server.web && jobs.max_concurrent == 3);
    assert_eq!([jobs.poll_interval, jobs.timeout], [2, 3600].map(Duration::from_secs));
    assert_eq!([jobs.expiry, jobs.retention], [2, 7].map(|days| Duration::from_secs(days * 24 * 3600)));
    assert!(memory.redaction && memory.compute_threads >= 1 && memory.compute_queue == 1024);
    assert_eq!([memory.tier_duplicate, memory.tier_adapt, memory.success_threshold], [0.92, 0.7, 5.0]);
    assert_eq!((governance.retention_days, governance.retention_is_set), (Some(365), false));
    assert_eq!(governance.dsr_sla_days, 30);
    assert!(!telemetry.json_logs && !telemetry.metrics && telemetry.metrics_token.is_none());
    assert_eq!(telemetry.log_filter, "info");
    assert_eq!([build.git_commit, build.build_time], ["unknown", "unknown"]);
}

#[test]
fn values_are_trimmed_and_empty_ones_count_as_unset() {
    let config = quiet(&[("ENGRAMIA_PORT", " 81 "), ("ENGRAMIA_HOST", "  "), ("OPENAI_API_KEY", "")]);
    assert_eq!(config.server.port, 81);
    assert!(config.server.host.is_loopback());
    assert!(matches!(config.models.embedding, EmbeddingChoice::BuiltIn));
}

#[test]
fn all_findings_are_reported_together() {
    let lines = refused(&[
        ("ENGRAMIA_PORT", "99999"),
        ("ENGRAMIA_JSON_LOGS", "maybe"),
        ("ENGRAMIA_LLM_PROVIDER", "gemini"),
        ("ENGRAMIA_RATE_LIMIT_PER_KEY", "0"),
        ("ENGRAMIA_TIER_ADAPT", "0.95"),
        ("ENGRAMIA_AUTH_MODE", "ldap"),
    ]);
    assert_eq!(
        lines,
        [
            "ENGRAMIA_PORT=99999: out of range; accepted: a whole number from 0 to 65535",
            "ENGRAMIA_LLM_PROVIDER=gemini: not a known value; accepted: openai, anthropic or none",
            "ENGRAMIA_AUTH_MODE=ldap: not a known value; accepted: auto, env, db, dev or oidc",
            "ENGRAMIA_RATE_LIMIT_PER_KEY=0: out of range; accepted: a whole number from 1 to 1000000000",
            "ENGRAMIA_TIER_ADAPT=0.95: 0.95 is not below the duplicate tier; accepted: less than ENGRAMIA_TIER_DUPLICATE=0.92",
            "ENGRAMIA_JSON_LOGS=maybe: neither true nor false; accepted: true or false (1/0, yes/no, on/off)",
        ]
    );
}

#[test]
fn storage_follows_its_variable_then_the_database_url() {
    const URL: (&str, &str) = ("ENGRAMIA_DATABASE_URL", "postgres://u:hunter2@db/x");
    for word in ["json", "embedded", "SQLite"] {
        assert!(matches!(quiet(&[("ENGRAMIA_STORAGE", word)]).storage, Storage::Embedded { .. }));
    }
    let (config, warning) = warned(&[("ENGRAMIA_STORAGE", "json"), URL]);
    assert!(matches!(config.storage, Storage::Embedded { .. }));
    assert!(warning.starts_with("ENGRAMIA_DATABASE_URL has no effect"), "{warning}");

    for vars in [vec![URL], vec![URL, ("ENGRAMIA_STORAGE", "postgres")]] {
        let config = quiet(&vars);
        assert!(matches!(config.storage, Storage::Postgres(Database { pool_size: 10, .. })));
        assert!(!format!("{config:?}").contains("hunter2"));
    }
    refused_for("ENGRAMIA_DATABASE_URL", &[("ENGRAMIA_STORAGE", "postgres")]);
    refused_for("ENGRAMIA_STORAGE", &[("ENGRAMIA_STORAGE", "mysql")]);
    refused_for("ENGRAMIA_DB_POOL_SIZE", &[URL, ("ENGRAMIA_DB_POOL_SIZE", "1")]);
}

#[test]
fn the_database_password_may_stand_apart_from_the_url() {
    let url = |url, password| {
        let vars = [("ENGRAMIA_DATABASE_URL", url), ("ENGRAMIA_DATABASE_PASSWORD", password)];
        let Storage::Postgres(Database { url, .. }) = quiet(&vars).storage else { panic!("a database") };
        url.expose_secret().to_owned()
    };
    assert_eq!(
        url("postgresql://u@db:5432/x?sslmode=require", "p@ss/w:rd"),
        "postgresql://u:p%40ss%2Fw%3Ard@db:5432/x?sslmode=require"
    );
    for place in ["postgres://u:p@db/x", "postgres:u", "no url"] {
        let vars = [("ENGRAMIA_DATABASE_URL", place), ("ENGRAMIA_DATABASE_PASSWORD", "hunter2")];
        refused_for("ENGRAMIA_DATABASE_PASSWORD", &vars);
        assert!(!refused(&vars).concat().contains("hunter2"));
    }
    let (_, warning) = warned(&[("ENGRAMIA_DATABASE_PASSWORD", "p")]);
    assert!(warning.starts_with("ENGRAMIA_DATABASE_PASSWORD has no effect"), "{warning}");
}

#[test]
fn a_secret_may_lie_in_a_file() {
    let folder = tempfile::tempdir().expect("a folder");
    let file = |name: &str, text: &str| {
        let path = folder.path().join(name);
        std::fs::write(&path, text).expect("written");
        path.to_str().expect("text").to_owned()
    };
    let (keys, url, empty) =
        (file("keys", " one, two \r\nmore\n"), file("url", "postgres://u:p@db/x"), file("empty", "\n"));
    let config = quiet(&[("ENGRAMIA_API_KEYS_FILE", &keys), ("ENGRAMIA_METRICS_TOKEN_FILE", &empty)]);
    assert!(
        matches!(config.auth.mode, AuthMode::EnvKeys { keys, .. } if keys[1].expose_secret() == "two" && keys.len() == 2)
    );
    assert!(config.telemetry.metrics_token.is_none(), "an empty file counts as unset");
    let config = quiet(&[("ENGRAMIA_DATABASE_URL_FILE", &url)]);
    assert!(matches!(config.storage, Storage::Postgres(_)) && matches!(config.auth.mode, AuthMode::StoreKeys));
    let config = quiet(&[("ENGRAMIA_METRICS_TOKEN", "t"), ("ENGRAMIA_METRICS_TOKEN_FILE", &empty)]);
    assert!(config.telemetry.metrics_token.is_some(), "the file says nothing against it");

    let missing = folder.path().join("missing");
    let missing = missing.to_str().expect("text");
    let lines =
        refused(&[("OPENAI_API_KEY_FILE", missing), ("STRIPE_SECRET_KEY", "sk-1"), ("STRIPE_SECRET_KEY_FILE", &keys)]);
    let expected = format!("OPENAI_API_KEY_FILE={missing}: cannot be read: No such file or directory");
    assert!(lines.len() == 2 && lines[0].starts_with(&expected), "{lines:?}");
    assert!(
        lines[1].starts_with(&format!("STRIPE_SECRET_KEY_FILE={keys}: STRIPE_SECRET_KEY is set, too")),
        "{lines:?}"
    );
    assert!(!lines.concat().contains("one, two"), "no secret is shown");
    let (_, warning) = warned(&[("ENGRAMIA_PORT_FILE", &keys)]);
    assert!(warning.starts_with("ENGRAMIA_PORT_FILE is not a known setting"), "{warning}");
}

#[test]
fn jobs_do_not_expire_before_they_are_looked_at() {
    let slow = ("ENGRAMIA_JOB_POLL_INTERVAL", "3600");
    assert_eq!(quiet(&[slow]).jobs.poll_interval, Duration::from_secs(3600));
    refused_for("ENGRAMIA_JOB_EXPIRY", &[slow, ("ENGRAMIA_JOB_EXPIRY", "3600")]);
    refused_for("ENGRAMIA_JOB_MAX_CONCURRENT", &[("ENGRAMIA_JOB_MAX_CONCURRENT", "0")]);
}

#[test]
fn embedding_rules() {
    const KEY: (&str, &str) = ("OPENAI_API_KEY", "sk-1");
    let choice = |vars: &[_]| quiet(vars).models.embedding;
    let model = |name| ("ENGRAMIA_EMBEDDING_MODEL", name);
    assert!(matches!(choice(&[KEY, model("None")]), EmbeddingChoice::Off));
    assert!(matches!(choice(&[KEY, model("all-minilm-l6-V2")]), EmbeddingChoice::BuiltIn));
    assert!(matches!(choice(&[KEY, ("ENGRAMIA_LOCAL_EMBEDDINGS", "yes please")]), EmbeddingChoice::BuiltIn));
    assert!(matches!(
        choice(&[KEY, ("ENGRAMIA_LOCAL_EMBEDDINGS", "off")]),
        EmbeddingChoice::OpenAi { model, key, base_url } if model == "text-embedding-3-small"
            && key.expose_secret() == "sk-1" && base_url == "https://api.openai.com/v1"
    ));
    assert!(matches!(
        choice(&[KEY, model("own"), ("OPENAI_BASE_URL", "http://localhost:9/v1/")]),
        EmbeddingChoice::OpenAi { model, base_url, .. } if model == "own" && base_url == "http://localhost:9/v1"
    ));
    let (config, warning) = warned(&[model("text-embedding-3-large")]);
    assert!(matches!(config.models.embedding, EmbeddingChoice::BuiltIn));
    assert!(warning.contains("text-embedding-3-large") && warning.contains("OPENAI_API_KEY"), "{warning}");
    refused_for("OPENAI_BASE_URL", &[("OPENAI_BASE_URL", "localhost:9")]);
}

#[test]
fn a_budget_needs_a_price() {
    const KEY: (&str, &str) = ("OPENAI_API_KEY", "sk");
    const BUDGET: &str = "ENGRAMIA_LLM_DAILY_BUDGET_USD";
    let models = |vars: &[_]| quiet(vars).models;
    let listed = models(&[KEY, (BUDGET, "5, eval=3,architect=0.5")]);
    let budget = listed.budget.expect("a budget");
    assert_eq!(
        (budget.total, budget.eval, budget.architect),
        (Nanos::of_usd(5.0), Some(Nanos::of_usd(3.0)), Some(Nanos::of_usd(0.5)))
    );
    assert_eq!(listed.price, Some(Price { input: 2.0, output: 8.0 }));
    let own = ("ENGRAMIA_LLM_MODEL", "own=model");
    let priced = models(&[KEY, own, (BUDGET, "1"), ("ENGRAMIA_LLM_PRICES", "gpt-4.1=1/1, own=model=0.5/0")]);
    assert_eq!(priced.price, Some(Price { input: 0.5, output: 0.0 }));
    assert_eq!(models(&[KEY, own]).price, None);
    assert!(models(&[(BUDGET, "1"), own]).budget.is_some(), "without a key there is no model");
    let lines = refused(&[KEY, own, (BUDGET, "1")]);
    assert!(lines[0].contains("the price of the model own=model is not known"), "{lines:?}");
    for bad in ["x", "-1", "eval=1", "5,eval", "5,cook=1", "5,eval=1,eval=2", "1e9", "nan"] {
        refused_for(BUDGET, &[(BUDGET, bad)]);
    }
    for bad in ["m", "m=1", "m=1/x", "=1/1", "m=-1/1"] {
        refused_for("ENGRAMIA_LLM_PRICES", &[("ENGRAMIA_LLM_PRICES", bad)]);
    }
}

#[test]
fn llm_rules() {
    let llm = |vars: &[_]| quiet(vars).models.llm;
    let anthropic = ("ENGRAMIA_LLM_PROVIDER", "anthropic");
    let model = ("ENGRAMIA_LLM_MODEL", "m");
    assert!(matches!(llm(&[("ENGRAMIA_LLM_PROVIDER", "none")]), LlmChoice::Off));
    assert!(matches!(
        llm(&[("OPENAI_API_KEY", "sk")]),
        LlmChoice::OpenAi { model, .. } if model == "gpt-4.1"
    ));
    assert!(matches!(llm(&[anthropic]), LlmChoice::NotConfigured { missing: "ANTHROPIC_API_KEY", .. }));
    assert!(matches!(
        llm(&[anthropic, ("ANTHROPIC_API_KEY", "a")]),
        LlmChoice::Anthropic { model, base_url, .. }
            if model == "claude-sonnet-4-5" && base_url == "https://api.anthropic.com"
    ));
    assert!(matches!(
        llm(&[anthropic, ("ANTHROPIC_API_KEY", "a"), model]),
        LlmChoice::Anthropic { model, .. } if model == "m"
    ));
}

const KEYS: (&str, &str) = ("ENGRAMIA_API_KEYS", "k1, k2,");
const ALLOW: (&str, &str) = ("ENGRAMIA_ALLOW_NO_AUTH", "true");

const fn mode(word: &str) -> (&str, &str) {
    ("ENGRAMIA_AUTH_MODE", word)
}

const fn environment(word: &str) -> (&str, &str) {
    ("ENGRAMIA_ENVIRONMENT", word)
}

#[test]
fn authentication_modes() {
    let auth = |vars: &[_]| quiet(vars).auth.mode;
    for vars in [&[KEYS][..], &[KEYS, mode("env")]] {
        let AuthMode::EnvKeys { keys, role } = auth(vars) else { panic!("not static keys") };
        assert_eq!(keys.iter().map(SecretString::expose_secret).collect::<Vec<_>>(), ["k1", "k2"]);
        assert_eq!(role, Role::Owner);
    }
    assert!(matches!(auth(&[ALLOW]), AuthMode::Open));
    assert!(matches!(auth(&[ALLOW, mode("env")]), AuthMode::Open));
    assert!(matches!(auth(&[ALLOW, mode("dev")]), AuthMode::Open));
    assert!(matches!(auth(&[mode("env")]), AuthMode::NoKeys));
    assert!(matches!(auth(&[mode("dev")]), AuthMode::DevNotAllowed));
    assert!(matches!(auth(&[mode("DB")]), AuthMode::StoreKeys));
    refused_for("ENGRAMIA_AUTH_MODE", &[mode("none")]);

    assert!(matches!(warned(&[KEYS, ALLOW]).0.auth.mode, AuthMode::EnvKeys { .. }));
    assert!(matches!(warned(&[KEYS, mode("db")]).0.auth.mode, AuthMode::StoreKeys));
    let database = [("ENGRAMIA_STORAGE", "json"), ("ENGRAMIA_DATABASE_URL", "postgres://db/x")];
    for variable in [KEYS, ALLOW] {
        let loaded = load(&[database[0], database[1], variable]).expect("valid");
        assert!(matches!(loaded.config.auth.mode, AuthMode::StoreKeys));
        assert!(loaded.warnings.iter().any(|line| line.starts_with(variable.0)));
    }
}

#[test]
fn a_bootstrap_token_has_32_characters() {
    let token = |characters: usize| "ž".repeat(characters);
    let config = quiet(&[("ENGRAMIA_BOOTSTRAP_TOKEN", &token(32))]);
    assert!(matches!(config.auth.bootstrap, Bootstrap::Token(secret) if secret.expose_secret() == token(32)));
    let (config, warning) = warned(&[("ENGRAMIA_BOOTSTRAP_TOKEN", &token(31))]);
    assert!(matches!(config.auth.bootstrap, Bootstrap::TooShort));
    assert!(warning.contains("shorter than 32 characters") && !warning.contains('ž'), "{warning}");
    let (_, warning) = warned(&[("ENGRAMIA_BOOTSTRAP_TOKEN", &token(32)), KEYS]);
    assert_eq!(warning, "ENGRAMIA_BOOTSTRAP_TOKEN has no effect in this authentication mode");
}

#[test]
fn static_keys_have_the_role_asked_for() {
    let (config, warning) = warned(&[KEYS, ("ENGRAMIA_ENV_AUTH_ROLE", "boss")]);
    assert!(matches!(config.auth.mode, AuthMode::EnvKeys { role: Role::Owner, .. }));
    assert!(warning.starts_with("ENGRAMIA_ENV_AUTH_ROLE=boss"), "{warning}");
    let config = quiet(&[KEYS, ("ENGRAMIA_ENV_AUTH_ROLE", "Reader")]);
    assert!(matches!(config.auth.mode, AuthMode::EnvKeys { role: Role::Reader, .. }));
}

#[test]
fn unauthenticated_access_is_refused_where_it_is_unsafe() {
    for word in ["production", "Prod", "staging"] {
        for strategy in ["auto", "env", "dev"] {
            refused_for("ENGRAMIA_ENVIRONMENT", &[ALLOW, mode(strategy), environment(word)]);
        }
    }
    for word in ["", "local", "test", "development", "dev"] {
        quiet(&[ALLOW, mode("dev"), environment(word)]);
    }
    quiet(&[ALLOW, environment("lab")]);
    refused_for("ENGRAMIA_ENVIRONMENT", &[ALLOW, mode("dev"), environment("lab")]);
    refused_for("ENGRAMIA_ENVIRONMENT", &[mode("dev"), environment("lab")]);
    refused_for("ENGRAMIA_ENV", &[ALLOW, ("ENGRAMIA_ENV", "prod")]);
    quiet(&[KEYS, ("ENGRAMIA_ENV", "prod"), environment("production")]);

    let everywhere = ("ENGRAMIA_HOST", "0.0.0.0");
    refused_for("ENGRAMIA_HOST", &[ALLOW, everywhere]);
    refused_for("ENGRAMIA_HOST", &[ALLOW, everywhere, environment("test")]);
    for word in ["local", "development"] {
        quiet(&[ALLOW, everywhere, environment(word)]);
    }
    for loopback in ["127.9.9.9", "::1", "::ffff:127.0.0.1"] {
        quiet(&[ALLOW, ("ENGRAMIA_HOST", loopback)]);
    }
    quiet(&[everywhere]);
    assert_eq!(refused(&[ALLOW, everywhere, ("ENGRAMIA_ENV", "prod"), environment("prod")]).len(), 3);
}

#[test]
fn the_log_filter_has_two_names() {
    let filter = |vars: &[_]| quiet(vars).telemetry.log_filter;
    assert_eq!(filter(&[("RUST_LOG", "warn")]), "warn");
    assert_eq!(filter(&[("RUST_LOG", "warn"), ("ENGRAMIA_LOG", "debug")]), "debug");
}

#[test]
fn unknown_and_reserved_names_are_warnings() {
    let (_, warning) = warned(&[("ENGRAMIA_PROT", "1"), ("ENGRAMIA_EMPTY", ""), ("PATH", "x")]);
    assert!(warning.ends_with("did you mean ENGRAMIA_PORT?"), "{warning}");
    let (_, warning) = warned(&[("ENGRAMIA_REDIS_URL", "s3cret")]);
    assert_eq!(warning, "ENGRAMIA_REDIS_URL is known, but has no effect in this version");
}

#[test]
fn debug_shows_no_secret() {
    let secrets = ["s3cret-a", "s3cret-b", "s3cret-c", "s3cret-d", "s3cret-e"];
    let loaded = load(&[
        ("ENGRAMIA_API_KEYS", secrets[0]),
        ("OPENAI_API_KEY", secrets[1]),
        ("ANTHROPIC_API_KEY", secrets[2]),
        ("ENGRAMIA_METRICS_TOKEN", secrets[3]),
        ("ENGRAMIA_LLM_PROVIDER", "anthropic"),
        ("ENGRAMIA_API_KEY", secrets[4]),
        ("ENGRAMIA_BOOTSTRAP_TOKEN", "s3cret-f that has at least 32 characters"),
    ]);
    let shown = format!("{loaded:?}");
    assert!(shown.contains("EnvKeys") && shown.contains("Anthropic"));
    assert!(!shown.contains("s3cret"), "{shown}");
    let shown =
        format!("{:?}", Storage::Postgres(Database { url: "s3cret".into(), pool_size: 2, search_memory_bytes: 0 }));
    assert!(!shown.contains("s3cret"), "{shown}");
}

#[cfg(unix)]
#[test]
fn values_that_are_not_unicode_are_findings_if_they_are_ours() {
    use std::os::unix::ffi::OsStringExt;
    let broken = |name: &str| (OsString::from(name), OsString::from_vec(vec![0xff]));
    assert!(Config::from_os([broken("LS_COLORS")]).is_ok());
    let findings = Config::from_os([broken("ENGRAMIA_X"), broken("OPENAI_API_KEY")]);
    assert_eq!(
        findings.expect_err("invalid").to_string(),
        "ENGRAMIA_X=(hidden): not Unicode; accepted: text in UTF-8\n\
         OPENAI_API_KEY=(hidden): not Unicode; accepted: text in UTF-8",
    );
}
