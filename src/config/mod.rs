//! Configuration: read once from the environment, parsed into closed types, validated as a whole, then
//! frozen.
//!
//! Everything that is wrong is reported together ([`Findings`]), so that an operator mends a deployment in one
//! go. The variables are those of the user guide §4; the table in `settings` lists them all. This module is
//! the only reader of the process environment.

mod auth;
mod billing;
mod compose;
mod files;
mod models;
mod oidc;
mod parse;
mod place;
mod render;
mod sections;
mod settings;
mod telemetry;

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fmt;

pub use auth::{Auth, AuthMode, Bootstrap};
pub use billing::{Billing, StripeAccount};
pub use models::{EmbeddingChoice, LlmChoice, Models};
pub use oidc::Oidc;
pub use place::{BadPlace, database_at, store_at};
pub use render::{env_example, markdown_table};
pub use sections::{Backups, Build, CorsOrigins, Database, Governance, Jobs, Limits, Memory, Server, Storage};
pub use settings::Transport;
pub use telemetry::{Telemetry, Traces};

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
    /// Payments.
    pub billing: Billing,
    /// Background jobs.
    pub jobs: Jobs,
    /// The memory engine.
    pub memory: Memory,
    /// How long data are kept.
    pub governance: Governance,
    /// Logs, metrics and traces.
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
            billing: Billing::read(&mut reader, &server.cors_origins),
            jobs: Jobs::read(&mut reader),
            memory: Memory::read(&mut reader),
            governance: Governance::read(&mut reader),
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
    /// Trims every value and drops the empty ones: an empty variable counts as unset. Reads secrets from their files.
    fn new(vars: impl IntoIterator<Item = (String, String)>, mut findings: Vec<Finding>) -> Self {
        let mut vars = vars
            .into_iter()
            .map(|(name, value)| (name, value.trim().to_owned()))
            .filter(|(_, value)| !value.is_empty())
            .collect();
        files::fill(&mut vars, &mut findings);
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
mod tests;
