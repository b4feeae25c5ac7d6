//! Configuration: read once from the environment, parsed into closed types, validated as a whole, then
//! frozen.
//!
//! Everything that is wrong is reported together ([`Findings`]), so that an operator mends a deployment in one
//! go. The variables are those of the user guide §4; the table in `settings` lists them all. This module is
//! the only reader of the process environment.

mod oidc;
mod parse;
mod place;
mod render;
mod sections;
mod settings;

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fmt;

pub use oidc::Oidc;
pub use place::{BadPlace, database_at, store_at};
pub use render::{env_example, markdown_table};
pub use sections::{
    Auth, AuthMode, Bootstrap, Build, CorsOrigins, EmbeddingChoice, Limits, LlmChoice, Memory, Models, Server, Storage,
    Telemetry,
};

use parse::{HIDDEN, Kind};
use settings::Setting;

/// The whole configuration. Its `Debug` shows no secret.
#[derive(Debug, Clone)]
pub struct Config {
    /// The HTTP server.
    pub server: Server,
    /// Where everything is kept.
    pub storage: Storage,
    /// Embedding model and language model.
    pub models: Models,
    /// Who may call the API.
    pub auth: Auth,
    /// Rate limits and quotas.
    pub limits: Limits,
    /// The memory engine.
    pub memory: Memory,
    /// Logs and metrics.
    pub telemetry: Telemetry,
    /// Where this binary comes from.
    pub build: Build,
}

/// A valid configuration and what the operator should still hear about it.
#[derive(Debug)]
pub struct Loaded {
    /// What was read.
    pub config: Config,
    /// One line each, without secrets.
    pub warnings: Vec<String>,
}

/// Everything that keeps the server from starting, one line each, without secrets.
#[derive(Debug)]
pub struct Findings(Vec<Finding>);

/// One thing that is wrong.
#[derive(Debug)]
struct Finding {
    name: String,
    /// As it may be shown; empty where the variable is unset.
    value: String,
    problem: String,
    accepted: String,
}

impl Config {
    /// Reads the configuration from `vars`, every (name, value) of the environment.
    ///
    /// # Errors
    /// All values that are invalid and all combinations that are unsafe or not supported.
    pub fn load(vars: impl IntoIterator<Item = (String, String)>) -> Result<Loaded, Findings> {
        Self::assemble(Reader::new(vars, Vec::new()))
    }

    /// Reads the configuration from the environment of the process.
    ///
    /// # Errors
    /// As [`Config::load`]; also values of our variables that are not Unicode.
    pub fn from_env() -> Result<Loaded, Findings> {
        Self::from_os(std::env::vars_os())
    }

    fn from_os(vars: impl IntoIterator<Item = (OsString, OsString)>) -> Result<Loaded, Findings> {
        let mut readable = Vec::new();
        let mut findings = Vec::new();
        for (name, value) in vars {
            let Ok(name) = name.into_string() else {
                continue;
            };
            match value.into_string() {
                Ok(value) => readable.push((name, value)),
                Err(_) if settings::is_ours(&name) => findings.push(Finding {
                    name,
                    value: HIDDEN.into(),
                    problem: "not Unicode".into(),
                    accepted: "text in UTF-8".into(),
                }),
                Err(_) => {}
            }
        }
        Self::assemble(Reader::new(readable, findings))
    }

    fn assemble(mut reader: Reader) -> Result<Loaded, Findings> {
        let advice: Vec<_> = reader.names().filter_map(settings::advice).collect();
        advice.into_iter().for_each(|line| reader.warn(line));

        let server = Server::read(&mut reader);
        let config = Self {
            storage: Storage::read(&mut reader),
            models: Models::read(&mut reader),
            auth: Auth::read(&mut reader, server.host),
            limits: Limits::read(&mut reader),
            memory: Memory::read(&mut reader),
            telemetry: Telemetry::read(&mut reader),
            build: Build::read(&mut reader),
            server,
        };
        reader.finish(config)
    }
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { name, value, problem, accepted } = self;
        write!(f, "{name}={value}: {problem}; accepted: {accepted}")
    }
}

impl fmt::Display for Findings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, finding) in self.0.iter().enumerate() {
            if index > 0 {
                writeln!(f)?;
            }
            write!(f, "{finding}")?;
        }
        Ok(())
    }
}

impl std::error::Error for Findings {}

/// The environment, with what was found while reading it.
struct Reader {
    vars: BTreeMap<String, String>,
    findings: Vec<Finding>,
    warnings: Vec<String>,
}

impl Reader {
    /// Trims every value and drops the empty ones: an empty variable counts as unset.
    fn new(vars: impl IntoIterator<Item = (String, String)>, findings: Vec<Finding>) -> Self {
        let vars = vars
            .into_iter()
            .map(|(name, value)| (name, value.trim().to_owned()))
            .filter(|(_, value)| !value.is_empty())
            .collect();
        Self { vars, findings, warnings: Vec::new() }
    }

    /// The names of all variables that are set.
    fn names(&self) -> impl Iterator<Item = &str> {
        self.vars.keys().map(String::as_str)
    }

    fn is_set<K>(&self, setting: &Setting<K>) -> bool {
        self.vars.contains_key(setting.name)
    }

    /// The value of a setting that is set and valid.
    fn given<K: Kind>(&mut self, setting: &Setting<K>) -> Option<K::Value> {
        match setting.kind.parse(self.vars.get(setting.name)?) {
            Ok(value) => Some(value),
            Err(problem) => {
                self.refuse(setting, problem, setting.kind.accepts());
                None
            }
        }
    }

    /// The value of a setting, its default where it is unset or (with a finding) invalid.
    fn read<K: Kind>(&mut self, setting: &Setting<K>) -> K::Value {
        self.given(setting).unwrap_or_else(|| {
            let default = setting.kind.parse(setting.default);
            default.expect("a setting that is read has a valid default in the table")
        })
    }

    /// Adds a finding about the value of a setting, set or not.
    fn refuse<K: Kind>(&mut self, setting: &Setting<K>, problem: impl Into<String>, accepted: impl Into<String>) {
        let value = self.vars.get(setting.name).map(|text| setting.kind.shown(text));
        self.findings.push(Finding {
            name: setting.name.into(),
            value: value.unwrap_or_default(),
            problem: problem.into(),
            accepted: accepted.into(),
        });
    }

    fn warn(&mut self, warning: impl Into<String>) {
        self.warnings.push(warning.into());
    }

    /// Everything that was read, or everything that was wrong.
    fn finish(self, config: Config) -> Result<Loaded, Findings> {
        if self.findings.is_empty() {
            Ok(Loaded { config, warnings: self.warnings })
        } else {
            Err(Findings(self.findings))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::Role;
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
        let Config { server, storage, models, auth, limits, memory, telemetry, build } = quiet(&[]);
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
        assert!(matches!(auth.mode, AuthMode::StoreKeys) && matches!(auth.bootstrap, Bootstrap::Off));
        assert_eq!(limits.max_projects, None);
        assert_eq!([limits.per_ip, limits.expensive, limits.per_key].map(u32::from), [60, 10, 120]);
        assert!(memory.redaction && memory.compute_threads >= 1 && memory.compute_queue == 1024);
        assert_eq!([memory.tier_duplicate, memory.tier_adapt, memory.success_threshold], [0.92, 0.7, 5.0]);
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
            assert!(matches!(config.storage, Storage::Postgres { pool_size: 10, .. }));
            assert!(!format!("{config:?}").contains("hunter2"));
        }
        refused_for("ENGRAMIA_DATABASE_URL", &[("ENGRAMIA_STORAGE", "postgres")]);
        refused_for("ENGRAMIA_STORAGE", &[("ENGRAMIA_STORAGE", "mysql")]);
        refused_for("ENGRAMIA_DB_POOL_SIZE", &[URL, ("ENGRAMIA_DB_POOL_SIZE", "1")]);
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
        let shown = format!("{:?}", Storage::Postgres { url: "s3cret".into(), pool_size: 2, search_memory_bytes: 0 });
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
}
