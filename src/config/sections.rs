//! The sections of the configuration: closed types, each read by one function that holds its rules.
//!
//! The rules follow the user guide §4, `engramia/00-overview.md` §3 (authentication modes) and
//! `engramia/50-config-observability.md` §1 of the specification.

use std::net::IpAddr;
use std::num::NonZeroU32;
use std::path::PathBuf;
use std::time::Duration;

use ipnet::IpNet;
use secrecy::{ExposeSecret, SecretString};

use super::Reader;
use super::oidc::Oidc;
use super::parse::{Kind, printable};
use super::settings::{self as table, AuthStrategy, Provider, StorageKind};
use crate::domain::Role;

/// The HTTP server.
#[derive(Debug, Clone)]
pub struct Server {
    /// Address to listen on.
    pub host: IpAddr,
    /// Port to listen on; 0 takes any free port.
    pub port: u16,
    /// Largest request body, in bytes.
    pub max_body_size: usize,
    /// Who may call the API from a web page.
    pub cors_origins: CorsOrigins,
    /// Peers whose forwarding headers are believed.
    pub trusted_proxies: Vec<IpNet>,
    /// Whether everything but health answers 503.
    pub maintenance: bool,
    /// Whether the API documentation is served.
    pub docs: bool,
    /// Limit of one request.
    pub request_timeout: Duration,
    /// What running requests are given to finish when the server stops.
    pub shutdown_grace: Duration,
}

/// Who may call the API from a web page of another origin.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum CorsOrigins {
    /// Nobody: no CORS header is sent.
    Off,
    /// Every origin.
    Any,
    /// Origins as browsers send them: scheme, host and, unless it is the scheme's own, port.
    Only(Vec<String>),
}

impl Server {
    pub(super) fn read(reader: &mut Reader) -> Self {
        Self {
            host: reader.read(&table::HOST),
            port: reader.read(&table::PORT),
            max_body_size: reader.read(&table::MAX_BODY_SIZE),
            cors_origins: reader.read(&table::CORS_ORIGINS),
            trusted_proxies: reader.read(&table::TRUSTED_PROXIES),
            maintenance: reader.read(&table::MAINTENANCE),
            docs: reader.read(&table::DOCS),
            request_timeout: reader.read(&table::REQUEST_TIMEOUT),
            shutdown_grace: reader.read(&table::SHUTDOWN_GRACE),
        }
    }
}

/// Where everything is kept.
#[derive(Debug, Clone)]
pub enum Storage {
    /// The embedded store.
    Embedded {
        /// Its directory.
        root: PathBuf,
    },
    /// A PostgreSQL database.
    Postgres {
        /// Connection string, with its password.
        url: SecretString,
        /// Most connections.
        pool_size: u32,
        /// Memory for search indexes, in bytes.
        search_memory_bytes: usize,
    },
}

impl Storage {
    /// `ENGRAMIA_STORAGE` decides where it is set; where it is not, a database URL means PostgreSQL.
    pub(super) fn read(reader: &mut Reader) -> Self {
        let root = reader.read(&table::DATA_PATH);
        let url = reader.given(&table::DATABASE_URL);
        let stated = reader.is_set(&table::STORAGE);
        match (reader.read(&table::STORAGE), url) {
            (StorageKind::Embedded, None) => Self::Embedded { root },
            (StorageKind::Embedded, Some(_)) if stated => {
                reader.warn("ENGRAMIA_DATABASE_URL has no effect: ENGRAMIA_STORAGE selects the embedded store");
                Self::Embedded { root }
            }
            (_, Some(url)) => Self::Postgres {
                url,
                pool_size: reader.read(&table::DB_POOL_SIZE),
                search_memory_bytes: reader.read(&table::SEARCH_MEMORY) << 20,
            },
            (StorageKind::Postgres, None) => {
                reader.refuse(
                    &table::DATABASE_URL,
                    "is not set, and ENGRAMIA_STORAGE=postgres needs it",
                    "postgres://user:password@host:5432/database",
                );
                Self::Embedded { root }
            }
        }
    }
}

/// Embedding model and language model.
#[derive(Debug, Clone)]
pub struct Models {
    /// What turns texts into vectors.
    pub embedding: EmbeddingChoice,
    /// Embeddings of recent texts kept in memory; 0 keeps none.
    pub embedding_cache_entries: usize,
    /// What evaluates, composes and evolves.
    pub llm: LlmChoice,
    /// Limit of one call to the language model.
    pub llm_timeout: Duration,
}

/// The embedding model.
#[derive(Debug, Clone)]
pub enum EmbeddingChoice {
    /// The model in the binary.
    BuiltIn,
    /// OpenAI or a compatible service.
    OpenAi {
        /// Model name.
        model: String,
        /// API key.
        key: SecretString,
        /// Address of the service, without a trailing slash.
        base_url: String,
    },
    /// Switched off by the operator.
    Off,
}

/// The language model.
#[derive(Debug, Clone)]
pub enum LlmChoice {
    /// Switched off by the operator.
    Off,
    /// Wanted, but without its key: the server starts and says so.
    NotConfigured {
        /// The provider as `ENGRAMIA_LLM_PROVIDER` names it.
        provider: &'static str,
        /// The variable that is not set.
        missing: &'static str,
    },
    /// OpenAI or a compatible service.
    OpenAi {
        /// Model name.
        model: String,
        /// API key.
        key: SecretString,
        /// Address of the service, without a trailing slash.
        base_url: String,
    },
    /// Anthropic or a compatible service.
    Anthropic {
        /// Model name.
        model: String,
        /// API key.
        key: SecretString,
        /// Address of the service, without a trailing slash.
        base_url: String,
    },
}

/// The name under which the built-in embedding model is asked for.
const BUILT_IN_EMBEDDING: &str = "all-MiniLM-L6-v2";

const ANTHROPIC_DEFAULT_MODEL: &str = "claude-sonnet-4-5";

/// What both uses of OpenAI share.
struct OpenAi {
    key: Option<SecretString>,
    base_url: String,
}

impl Models {
    pub(super) fn read(reader: &mut Reader) -> Self {
        let openai =
            OpenAi { key: reader.given(&table::OPENAI_API_KEY), base_url: reader.read(&table::OPENAI_BASE_URL) };
        Self {
            embedding: EmbeddingChoice::read(reader, &openai),
            embedding_cache_entries: reader.read(&table::EMBEDDING_CACHE),
            llm: LlmChoice::read(reader, openai),
            llm_timeout: reader.read(&table::LLM_TIMEOUT),
        }
    }
}

impl EmbeddingChoice {
    fn read(reader: &mut Reader, openai: &OpenAi) -> Self {
        let named = reader.given(&table::EMBEDDING_MODEL);
        let is_named = |name: &str| named.as_deref().is_some_and(|model| model.eq_ignore_ascii_case(name));
        if is_named("none") {
            return Self::Off;
        }
        if reader.read(&table::LOCAL_EMBEDDINGS) || is_named(BUILT_IN_EMBEDDING) {
            return Self::BuiltIn;
        }
        if let Some(key) = &openai.key {
            return Self::OpenAi {
                model: reader.read(&table::EMBEDDING_MODEL),
                key: key.clone(),
                base_url: openai.base_url.clone(),
            };
        }
        if let Some(model) = named {
            reader.warn(format!(
                "ENGRAMIA_EMBEDDING_MODEL={}: needs OPENAI_API_KEY, which is not set; the built-in model \
                 {BUILT_IN_EMBEDDING} is used",
                printable(&model),
            ));
        }
        Self::BuiltIn
    }
}

impl LlmChoice {
    fn read(reader: &mut Reader, openai: OpenAi) -> Self {
        let anthropic_key = reader.given(&table::ANTHROPIC_API_KEY);
        let anthropic_url = reader.read(&table::ANTHROPIC_BASE_URL);
        match reader.read(&table::LLM_PROVIDER) {
            Provider::None => Self::Off,
            Provider::OpenAi => match openai.key {
                Some(key) => Self::OpenAi { model: reader.read(&table::LLM_MODEL), key, base_url: openai.base_url },
                None => Self::NotConfigured { provider: "openai", missing: table::OPENAI_API_KEY.name },
            },
            Provider::Anthropic => match anthropic_key {
                Some(key) => Self::Anthropic {
                    model: reader.given(&table::LLM_MODEL).unwrap_or_else(|| ANTHROPIC_DEFAULT_MODEL.into()),
                    key,
                    base_url: anthropic_url,
                },
                None => Self::NotConfigured { provider: "anthropic", missing: table::ANTHROPIC_API_KEY.name },
            },
        }
    }
}

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

/// Rate limits, in requests per minute, and quotas.
#[derive(Debug, Clone)]
pub struct Limits {
    /// Per IP address, standard endpoints.
    pub per_ip: NonZeroU32,
    /// Per IP address, endpoints that call a language model.
    pub expensive: NonZeroU32,
    /// Per API key, all endpoints together.
    pub per_key: NonZeroU32,
    /// Projects a tenant may have; `None` for no limit.
    pub max_projects: Option<u32>,
}

impl Limits {
    pub(super) fn read(reader: &mut Reader) -> Self {
        Self {
            per_ip: reader.read(&table::RATE_LIMIT_DEFAULT),
            expensive: reader.read(&table::RATE_LIMIT_EXPENSIVE),
            per_key: reader.read(&table::RATE_LIMIT_PER_KEY),
            max_projects: reader.given(&table::MAX_PROJECTS),
        }
    }
}

/// The memory engine.
#[derive(Debug, Clone)]
pub struct Memory {
    /// Whether personal data and secrets are removed before anything is stored.
    pub redaction: bool,
    /// Similarity in [0, 1] from which a match is a duplicate.
    pub tier_duplicate: f64,
    /// Similarity in [0, 1] from which a match is worth adapting; below `tier_duplicate`.
    pub tier_adapt: f64,
    /// Score in [0, 10] from which a run counts as a success.
    pub success_threshold: f64,
    /// Threads for embedding and search; at least 1.
    pub compute_threads: usize,
    /// Tasks that may wait for a thread; at least 1.
    pub compute_queue: usize,
}

impl Memory {
    pub(super) fn read(reader: &mut Reader) -> Self {
        let tier_duplicate = reader.read(&table::TIER_DUPLICATE);
        let tier_adapt = reader.read(&table::TIER_ADAPT);
        if tier_adapt >= tier_duplicate {
            reader.refuse(
                &table::TIER_ADAPT,
                format!("{tier_adapt} is not below the duplicate tier"),
                format!("less than ENGRAMIA_TIER_DUPLICATE={tier_duplicate}"),
            );
        }
        Self {
            redaction: reader.read(&table::REDACTION),
            tier_duplicate,
            tier_adapt,
            success_threshold: reader.read(&table::SUCCESS_THRESHOLD),
            compute_threads: reader.given(&table::COMPUTE_THREADS).unwrap_or_else(cores),
            compute_queue: reader.read(&table::COMPUTE_QUEUE),
        }
    }
}

fn cores() -> usize {
    std::thread::available_parallelism().map_or(1, |cores| cores.get().min(table::MAX_COMPUTE_THREADS))
}

/// Logs and metrics.
#[derive(Debug, Clone)]
pub struct Telemetry {
    /// Whether a log line is a JSON object.
    pub json_logs: bool,
    /// Directives of a tracing filter; not checked here.
    pub log_filter: String,
    /// Whether metrics are served.
    pub metrics: bool,
    /// Bearer token the metrics ask for.
    pub metrics_token: Option<SecretString>,
}

impl Telemetry {
    pub(super) fn read(reader: &mut Reader) -> Self {
        let log = reader.given(&table::LOG).or_else(|| reader.given(&table::RUST_LOG));
        Self {
            json_logs: reader.read(&table::JSON_LOGS),
            log_filter: log.unwrap_or_else(|| reader.read(&table::LOG)),
            metrics: reader.read(&table::METRICS),
            metrics_token: reader.given(&table::METRICS_TOKEN),
        }
    }
}

/// Where this binary comes from.
#[derive(Debug, Clone)]
pub struct Build {
    /// Commit, or `unknown`.
    pub git_commit: String,
    /// Time of the build as its builder wrote it, or `unknown`.
    pub build_time: String,
}

impl Build {
    pub(super) fn read(reader: &mut Reader) -> Self {
        Self { git_commit: reader.read(&table::GIT_COMMIT), build_time: reader.read(&table::BUILD_TIME) }
    }
}
