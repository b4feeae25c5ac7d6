//! Who may call the API (`engramia/00-overview.md` §3 of the specification).

use std::net::IpAddr;

use secrecy::{ExposeSecret, SecretString};

use super::Reader;
use super::oidc::Oidc;
use super::parse::{Kind, printable};
use super::settings::{self as table, AuthStrategy};
use crate::domain::Role;

/// Who may call the API.
#[derive(Debug, Clone)]
pub struct Auth {
    /// How callers are told apart.
    pub mode: AuthMode,
    /// How the first owner key is asked for.
    pub bootstrap: Bootstrap,
}

/// How the first owner key is asked for.
#[derive(Debug, Clone)]
pub enum Bootstrap {
    /// It is not: the first start makes one.
    Off,
    /// By this token.
    Token(SecretString),
    /// By a token that is too easy to guess: not at all.
    TooShort,
}

/// How callers are told apart.
#[derive(Debug, Clone)]
pub enum AuthMode {
    /// Static keys, all of one role.
    EnvKeys {
        /// At least one.
        keys: Vec<SecretString>,
        /// The role of every key.
        role: Role,
    },
    /// Keys that are made and revoked through the API.
    StoreKeys,
    /// Tokens of an OpenID Connect issuer.
    Oidc(Oidc),
    /// Nobody is asked for a key.
    Open,
    /// Static keys are wanted and there are none: every authenticated route answers 503.
    NoKeys,
    /// Unauthenticated access is wanted and not allowed: every authenticated route answers 503.
    DevNotAllowed,
}

impl Auth {
    /// `host` is the address the server will listen on: unauthenticated access beyond loopback is refused.
    pub(super) fn read(reader: &mut Reader, host: IpAddr) -> Self {
        let strategy = reader.read(&table::AUTH_MODE);
        let keys = reader.read(&table::API_KEYS);
        let role = env_role(reader);
        let allow_open = reader.read(&table::ALLOW_NO_AUTH);
        let has_keys = !keys.is_empty();
        let has_database = reader.is_set(&table::DATABASE_URL);

        let mode = match strategy {
            AuthStrategy::Auto if has_database => AuthMode::StoreKeys,
            AuthStrategy::Auto | AuthStrategy::Env if has_keys => AuthMode::EnvKeys { keys, role },
            AuthStrategy::Auto | AuthStrategy::Env | AuthStrategy::Dev if allow_open => AuthMode::Open,
            AuthStrategy::Auto | AuthStrategy::Db => AuthMode::StoreKeys,
            AuthStrategy::Env => AuthMode::NoKeys,
            AuthStrategy::Dev => AuthMode::DevNotAllowed,
            // What is missing is a finding: the mode that stands in for it is never used.
            AuthStrategy::Oidc => Oidc::read(reader).map_or(AuthMode::StoreKeys, AuthMode::Oidc),
        };

        if has_keys && !matches!(mode, AuthMode::EnvKeys { .. }) {
            reader.warn("ENGRAMIA_API_KEYS has no effect in this authentication mode");
        }
        if strategy == AuthStrategy::Oidc && reader.is_set(&table::ENV_AUTH_ROLE) {
            reader.warn("ENGRAMIA_ENV_AUTH_ROLE has no effect in this authentication mode");
        }
        if strategy != AuthStrategy::Oidc && reader.is_set(&table::OIDC_ISSUER) {
            reader.warn("ENGRAMIA_OIDC_ISSUER has no effect: ENGRAMIA_AUTH_MODE is not oidc");
        }
        if allow_open && !matches!(mode, AuthMode::Open) {
            reader.warn("ENGRAMIA_ALLOW_NO_AUTH has no effect: this authentication mode asks for a key");
        }
        refuse_unsafe_opening(reader, strategy, &mode, host);
        let bootstrap = Bootstrap::read(reader);
        if !matches!((&bootstrap, &mode), (Bootstrap::Off, _) | (_, AuthMode::StoreKeys)) {
            reader.warn("ENGRAMIA_BOOTSTRAP_TOKEN has no effect in this authentication mode");
        }
        Self { mode, bootstrap }
    }
}

/// Least characters of a bootstrap token.
const BOOTSTRAP_TOKEN_CHARS: usize = 32;

impl Bootstrap {
    fn read(reader: &mut Reader) -> Self {
        match reader.given(&table::BOOTSTRAP_TOKEN) {
            None => Self::Off,
            Some(token) if token.expose_secret().chars().count() >= BOOTSTRAP_TOKEN_CHARS => Self::Token(token),
            Some(_) => {
                reader.warn(format!(
                    "ENGRAMIA_BOOTSTRAP_TOKEN is shorter than {BOOTSTRAP_TOKEN_CHARS} characters: POST \
                     /v1/keys/bootstrap answers 503, and no owner key is made"
                ));
                Self::TooShort
            }
        }
    }
}

/// The role of static keys. An unknown role is a warning and means owner, as the specification has it.
fn env_role(reader: &mut Reader) -> Role {
    let text = reader.read(&table::ENV_AUTH_ROLE);
    text.to_ascii_lowercase().parse().unwrap_or_else(|_| {
        reader.warn(format!(
            "ENGRAMIA_ENV_AUTH_ROLE={}: not a role, owner is used; accepted: {}",
            printable(&text),
            table::ENV_AUTH_ROLE.kind.accepts(),
        ));
        Role::Owner
    })
}

/// Adds a finding for each reason why unauthenticated access must not be served.
fn refuse_unsafe_opening(reader: &mut Reader, strategy: AuthStrategy, mode: &AuthMode, host: IpAddr) {
    let open = matches!(mode, AuthMode::Open);

    let environment = reader.read(&table::ENVIRONMENT).to_ascii_lowercase();
    let env = reader.read(&table::ENV).to_ascii_lowercase();
    let environment = environment.as_str();

    let local = matches!(environment, "" | "local" | "test" | "development" | "dev");
    if strategy == AuthStrategy::Dev && !local {
        reader.refuse(
            &table::ENVIRONMENT,
            "ENGRAMIA_AUTH_MODE=dev is refused in this environment",
            "local, test, development, or another authentication mode",
        );
    } else if open && matches!(environment, "production" | "prod" | "staging") {
        reader.refuse(
            &table::ENVIRONMENT,
            "unauthenticated access is refused in this environment",
            "another environment, or ENGRAMIA_ALLOW_NO_AUTH unset",
        );
    }
    if open && matches!(env.as_str(), "production" | "prod") {
        reader.refuse(
            &table::ENV,
            "unauthenticated access is refused in production",
            "another environment, or ENGRAMIA_ALLOW_NO_AUTH unset",
        );
    }
    if open && !host.to_canonical().is_loopback() && !matches!(environment, "local" | "development") {
        reader.refuse(
            &table::HOST,
            "unauthenticated access is refused beyond loopback",
            "127.0.0.1, or ENGRAMIA_ENVIRONMENT=local or development, or ENGRAMIA_ALLOW_NO_AUTH unset",
        );
    }
}
