//! The table of every environment variable: name, default, accepted values, meaning, section.
//!
//! It is the single source for reading ([`super::Reader`] takes names, defaults and ranges from here),
//! for `.env.example` and for the table in the documentation ([`super::render`]). Names and defaults follow
//! the user guide §4 ("Configuration"); names of our own are additive.

use std::net::IpAddr;
use std::num::NonZeroU32;
use std::path::PathBuf;

use super::compose;
use super::parse::{
    BaseUrl, Choice, Collector, DailyBudget, Flag, IssuerUrl, Kind, ModelPrices, Networks, Number, Origins, Parsed,
    PlanPrices, Presence, ReturnOrigins, Seconds, Secret, Secrets,
};
use crate::domain::Role;

/// One environment variable whose values are of the kind `K`.
pub struct Setting<K> {
    pub name: &'static str,
    /// The text that stands for an unset variable; empty where being unset is a state of its own.
    pub default: &'static str,
    pub kind: K,
    pub about: &'static str,
}

/// A [`Setting`] without its type, as the documentation shows it.
pub struct Row {
    pub name: &'static str,
    pub default: &'static str,
    pub accepts: String,
    pub about: &'static str,
}

/// The rows of one heading.
pub struct Section {
    pub title: &'static str,
    pub rows: Vec<Row>,
}

impl<K: Kind> Setting<K> {
    fn row(&self) -> Row {
        Row { name: self.name, default: self.default, accepts: self.kind.accepts(), about: self.about }
    }
}

/// What `ENGRAMIA_STORAGE` can say.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StorageKind {
    Embedded,
    Postgres,
}

/// What `ENGRAMIA_LLM_PROVIDER` can say.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Provider {
    OpenAi,
    Anthropic,
    None,
}

/// What `ENGRAMIA_AUTH_MODE` can say.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AuthStrategy {
    Auto,
    Env,
    Db,
    Dev,
    Oidc,
}

/// What `OTEL_EXPORTER_OTLP_PROTOCOL` can say.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Transport {
    /// OTLP over gRPC.
    Grpc,
    /// OTLP over HTTP, in binary messages.
    Http,
}

const REQUESTS_PER_MINUTE: Number<NonZeroU32> = Number::whole(NonZeroU32::MIN, non_zero(1_000_000_000));

const fn non_zero(number: u32) -> NonZeroU32 {
    match NonZeroU32::new(number) {
        Some(number) => number,
        None => NonZeroU32::MIN,
    }
}

/// Declares one constant per variable and lists them all in [`sections`], so that no variable can be read
/// without being documented.
macro_rules! settings {
    ($($section:literal { $($id:ident: $kind:ty = $name:literal, $default:literal, $value:expr, $about:literal;)* })*) => {
        $($(
            #[doc = $about]
            pub const $id: Setting<$kind> =
                Setting { name: $name, default: $default, kind: $value, about: $about };
        )*)*

        /// Every setting, in the order of the documentation.
        pub fn sections() -> Vec<Section> {
            vec![$(Section { title: $section, rows: vec![$($id.row()),*] }),*]
        }

        const NAMES: &[&str] = &[$($($name),*),*];

        /// The settings that no message ever shows, but for the key of the client commands: those read it themselves.
        pub fn secrets() -> impl Iterator<Item = &'static str> {
            let secret = [$($($id.kind.is_secret()),*),*];
            NAMES.iter().zip(secret).filter(|(name, secret)| *secret && **name != API_KEY.name).map(|(name, _)| *name)
        }
    };
}

settings! {
    "Server" {
        HOST: Parsed<IpAddr> = "ENGRAMIA_HOST", "127.0.0.1",
            Parsed::new("an IP address"), "Address to listen on; `0.0.0.0` for every IPv4 interface.";
        PORT: Number<u16> = "ENGRAMIA_PORT", "8000",
            Number::whole(0, u16::MAX), "Port to listen on; 0 takes any free port.";
        MAX_BODY_SIZE: Number<usize> = "ENGRAMIA_MAX_BODY_SIZE", "1048576",
            Number::whole(1024, 1 << 30), "Largest request body, in bytes.";
        CORS_ORIGINS: Origins = "ENGRAMIA_CORS_ORIGINS", "",
            Origins, "Origins whose web pages may call the API. CORS is off when unset.";
        TRUSTED_PROXIES: Networks = "ENGRAMIA_TRUSTED_PROXIES", "",
            Networks, "Proxies whose forwarding headers name the client. None is trusted when unset.";
        MAINTENANCE: Flag = "ENGRAMIA_MAINTENANCE", "false",
            Flag, "Maintenance mode: 503 on every endpoint except health.";
        DOCS: Flag = "ENGRAMIA_DOCS", "true",
            Flag, "Serve the API documentation and the OpenAPI document.";
        REQUEST_TIMEOUT: Seconds = "ENGRAMIA_REQUEST_TIMEOUT", "120",
            Seconds::between(1.0, 86_400.0), "Time a request may take before it is answered with an error.";
        SHUTDOWN_GRACE: Seconds = "ENGRAMIA_SHUTDOWN_GRACE", "20",
            Seconds::between(0.0, 86_400.0), "Time running requests are given to finish when the server stops.";
    }
    "Storage" {
        STORAGE: Choice<StorageKind> = "ENGRAMIA_STORAGE", "json",
            Choice(&[
                ("json", StorageKind::Embedded),
                ("embedded", StorageKind::Embedded),
                ("sqlite", StorageKind::Embedded),
                ("postgres", StorageKind::Postgres),
            ]),
            "Storage backend. `json` (synonyms `embedded`, `sqlite`) is the embedded store; `postgres` is the \
             default where ENGRAMIA_DATABASE_URL is set.";
        DATA_PATH: Parsed<PathBuf> = "ENGRAMIA_DATA_PATH", "./engramia_data",
            Parsed::new("a path"), "Directory of the embedded store.";
        DATABASE_URL: Secret = "ENGRAMIA_DATABASE_URL", "",
            Secret, "PostgreSQL connection string. Required when ENGRAMIA_STORAGE=postgres.";
        DATABASE_PASSWORD: Secret = "ENGRAMIA_DATABASE_PASSWORD", "",
            Secret, "Password of the login in ENGRAMIA_DATABASE_URL, where the URL holds none.";
        DB_POOL_SIZE: Number<u32> = "ENGRAMIA_DB_POOL_SIZE", "10",
            Number::whole(2, 1000), "Most connections of one process to PostgreSQL.";
        SEARCH_MEMORY: Number<usize> = "ENGRAMIA_SEARCH_MEMORY", "1024",
            Number::whole(0, 1 << 20), "Memory of one process for search indexes over PostgreSQL, in MiB. Projects that \
             find no room are searched in the database, all of them where it is 0.";
    }
    "Backups" {
        BACKUP_DIR: Parsed<PathBuf> = "ENGRAMIA_BACKUP_DIR", "",
            Parsed::new("a path"), "Directory into which the server makes backups by itself. None are made when unset.";
        BACKUP_INTERVAL: Seconds = "ENGRAMIA_BACKUP_INTERVAL", "86400",
            Seconds::between(1.0, 31_536_000.0), "Time from one backup to the next.";
        BACKUP_KEEP: Number<usize> = "ENGRAMIA_BACKUP_KEEP", "7",
            Number::whole(1, 10_000), "Backups that are kept in ENGRAMIA_BACKUP_DIR; older ones are removed.";
    }
    "Models" {
        LLM_PROVIDER: Choice<Provider> = "ENGRAMIA_LLM_PROVIDER", "openai",
            Choice(&[
                ("openai", Provider::OpenAi),
                ("anthropic", Provider::Anthropic),
                ("none", Provider::None),
            ]),
            "LLM backend. Without one, or without its key, evaluate, compose and evolve answer 501.";
        LLM_MODEL: Parsed<String> = "ENGRAMIA_LLM_MODEL", "gpt-4.1",
            Parsed::new("a model name"), "Model of the LLM provider; `claude-sonnet-4-5` where unset and the provider is anthropic.";
        LLM_TIMEOUT: Seconds = "ENGRAMIA_LLM_TIMEOUT", "30.0",
            Seconds::between(0.1, 3600.0), "Time one LLM call may take.";
        LLM_CONCURRENCY: Number<usize> = "ENGRAMIA_LLM_CONCURRENCY", "10",
            Number::whole(1, 10_000), "LLM calls at once, of all requests to one process.";
        MAX_LLM_RESPONSE: Number<usize> = "ENGRAMIA_MAX_LLM_RESPONSE", "20000",
            Number::whole(100, 10_000_000), "Longest text of an LLM in an answer, in characters; the rest is cut off.";
        LLM_DAILY_BUDGET: DailyBudget = "ENGRAMIA_LLM_DAILY_BUDGET_USD", "",
            DailyBudget,
            "What each tenant may spend on LLM calls a day (UTC), in dollars, and of it each role: `5` or \
             `5,eval=3,architect=1`. No limit when unset.";
        LLM_PRICES: ModelPrices = "ENGRAMIA_LLM_PRICES", "",
            ModelPrices,
            "Prices of models in dollars for a million tokens, input and output: `my-model=2/8`. They override the \
             table in docs/judgement.md.";
        EMBEDDING_MODEL: Parsed<String> = "ENGRAMIA_EMBEDDING_MODEL", "text-embedding-3-small",
            Parsed::new("none, all-MiniLM-L6-v2 or an OpenAI model name"),
            "Embedding model. `none` switches embeddings off, `all-MiniLM-L6-v2` is built in; any other is asked \
             of OpenAI and needs OPENAI_API_KEY. Without that key the built-in model is used.";
        LOCAL_EMBEDDINGS: Presence = "ENGRAMIA_LOCAL_EMBEDDINGS", "",
            Presence, "Use the built-in embedding model, whatever keys are set.";
        EMBEDDING_CACHE: Number<usize> = "ENGRAMIA_EMBEDDING_CACHE", "8192",
            Number::whole(0, 10_000_000), "Embeddings of recent texts kept in memory; 0 keeps none.";
        OPENAI_API_KEY: Secret = "OPENAI_API_KEY", "",
            Secret, "Required when using OpenAI LLM or embeddings.";
        OPENAI_BASE_URL: BaseUrl = "OPENAI_BASE_URL", "https://api.openai.com/v1",
            BaseUrl, "OpenAI or a compatible service.";
        ANTHROPIC_API_KEY: Secret = "ANTHROPIC_API_KEY", "",
            Secret, "Required when ENGRAMIA_LLM_PROVIDER=anthropic.";
        ANTHROPIC_BASE_URL: BaseUrl = "ANTHROPIC_BASE_URL", "https://api.anthropic.com",
            BaseUrl, "Anthropic or a compatible service.";
    }
    "Authentication" {
        AUTH_MODE: Choice<AuthStrategy> = "ENGRAMIA_AUTH_MODE", "auto",
            Choice(&[
                ("auto", AuthStrategy::Auto),
                ("env", AuthStrategy::Env),
                ("db", AuthStrategy::Db),
                ("dev", AuthStrategy::Dev),
                ("oidc", AuthStrategy::Oidc),
            ]),
            "Auth strategy. `auto`: static keys if ENGRAMIA_API_KEYS is set and ENGRAMIA_DATABASE_URL is not, \
             else keys in the store. `oidc` takes the tokens of an OpenID Connect issuer.";
        API_KEYS: Secrets = "ENGRAMIA_API_KEYS", "",
            Secrets, "Static API keys for env auth mode.";
        ENV_AUTH_ROLE: Parsed<String> = "ENGRAMIA_ENV_AUTH_ROLE", "owner",
            Parsed::new("owner, admin, editor or reader"), "Role of requests with a static API key.";
        ALLOW_NO_AUTH: Flag = "ENGRAMIA_ALLOW_NO_AUTH", "false",
            Flag, "Allow unauthenticated access where no key is configured. Never in production.";
        BOOTSTRAP_TOKEN: Secret = "ENGRAMIA_BOOTSTRAP_TOKEN", "",
            Secret,
            "Token for POST /v1/keys/bootstrap, which makes the first owner key. Min 32 characters. Where it is set, \
             the first start makes no owner key by itself.";
        ENVIRONMENT: Parsed<String> = "ENGRAMIA_ENVIRONMENT", "",
            Parsed::new("a label"),
            "Deployment environment. Unauthenticated access is refused in production, prod and staging; beyond \
             loopback it needs local or development.";
        ENV: Parsed<String> = "ENGRAMIA_ENV", "",
            Parsed::new("a label"), "Older environment label; production and prod refuse unauthenticated access.";
        OIDC_ISSUER: IssuerUrl = "ENGRAMIA_OIDC_ISSUER", "",
            IssuerUrl, "Issuer whose tokens are taken, as in their claim `iss`. Required in oidc auth mode.";
        OIDC_AUDIENCE: Parsed<String> = "ENGRAMIA_OIDC_AUDIENCE", "",
            Parsed::new("a text"), "What the claim `aud` of a token must contain. Required in oidc auth mode.";
        OIDC_ROLE_CLAIM: Parsed<String> = "ENGRAMIA_OIDC_ROLE_CLAIM", "engramia_role",
            Parsed::new("a claim name"), "Claim that holds the role; an unknown role counts as reader.";
        OIDC_DEFAULT_ROLE: Choice<Role> = "ENGRAMIA_OIDC_DEFAULT_ROLE", "reader",
            Choice(&[
                ("reader", Role::Reader),
                ("editor", Role::Editor),
                ("admin", Role::Admin),
                ("owner", Role::Owner),
            ]),
            "Role of tokens without the role claim.";
        OIDC_TENANT_CLAIM: Parsed<String> = "ENGRAMIA_OIDC_TENANT_CLAIM", "",
            Parsed::new("a claim name"), "Claim that holds the tenant. Required in oidc auth mode.";
        OIDC_PROJECT_CLAIM: Parsed<String> = "ENGRAMIA_OIDC_PROJECT_CLAIM", "",
            Parsed::new("a claim name"),
            "Claim that holds the project; a token without it gets `default`. Where unset, X-Project-Id chooses.";
    }
    "Limits" {
        RATE_LIMIT_DEFAULT: Number<NonZeroU32> = "ENGRAMIA_RATE_LIMIT_DEFAULT", "60",
            REQUESTS_PER_MINUTE, "Requests per minute and IP address to standard endpoints.";
        RATE_LIMIT_EXPENSIVE: Number<NonZeroU32> = "ENGRAMIA_RATE_LIMIT_EXPENSIVE", "10",
            REQUESTS_PER_MINUTE, "Requests per minute and IP address to LLM endpoints.";
        RATE_LIMIT_PER_KEY: Number<NonZeroU32> = "ENGRAMIA_RATE_LIMIT_PER_KEY", "120",
            REQUESTS_PER_MINUTE, "Requests per minute and API key, all paths together.";
        MAX_PROJECTS: Number<u32> = "ENGRAMIA_MAX_PROJECTS", "",
            Number::whole(1, 1_000_000), "Projects a tenant may have. No limit when unset.";
        ENFORCE_QUOTAS: Flag = "ENGRAMIA_ENFORCE_QUOTAS", "",
            Flag, "Whether the limits of a plan are kept: patterns, evaluations, payments that are due. When unset, they \
             are where STRIPE_SECRET_KEY is set.";
        ENFORCE_ENTITLEMENTS: Flag = "ENGRAMIA_ENFORCE_ENTITLEMENTS", "false",
            Flag, "Whether the number of projects and the features of a plan are kept, too: background jobs and the \
             governance export (Team), OIDC (Enterprise).";
        PROJECT_QUOTA_PCT: Number<f64> = "ENGRAMIA_PROJECT_QUOTA_PCT", "0.8",
            Number::real(0.01, 1e9), "Share of the tenant's patterns that one project may hold, on plans with several \
             projects; 1 or more for no limit of its own.";
    }
    "Billing" {
        STRIPE_SECRET_KEY: Secret = "STRIPE_SECRET_KEY", "",
            Secret, "Stripe API key. Without it nobody can subscribe: every tenant has the plan Sandbox.";
        STRIPE_WEBHOOK_SECRET: Secret = "STRIPE_WEBHOOK_SECRET", "",
            Secret, "Stripe webhook signing secret, of the endpoint that sends to /v1/billing/webhook.";
        STRIPE_API_BASE: BaseUrl = "STRIPE_API_BASE", "https://api.stripe.com",
            BaseUrl, "Stripe, or a stand-in for tests.";
        STRIPE_PRICES: PlanPrices = "ENGRAMIA_STRIPE_PRICES", "",
            PlanPrices, "What prices at Stripe stand for, such as `price_1Abc=pro,price_1Def=team`. Where it is set, \
             nothing else can be bought; where a price is not named, its metadata `plan_tier` count.";
        BILLING_RETURN_URLS: ReturnOrigins = "ENGRAMIA_BILLING_RETURN_URLS", "",
            ReturnOrigins, "Where customers may return to from Stripe's portal, beside ENGRAMIA_DASHBOARD_URL and \
             ENGRAMIA_CORS_ORIGINS. Where none of them is set, any https address.";
        DASHBOARD_URL: BaseUrl = "ENGRAMIA_DASHBOARD_URL", "",
            BaseUrl, "Web page to which customers return from Stripe's portal, if the request does not name another.";
    }
    "Jobs" {
        JOB_POLL_INTERVAL: Seconds = "ENGRAMIA_JOB_POLL_INTERVAL", "2.0",
            Seconds::between(0.05, 86_400.0),
            "How often the worker looks for jobs; it is also told of new ones at once. Above 60, jobs begin at this \
             interval only, as batches.";
        JOB_MAX_CONCURRENT: Number<usize> = "ENGRAMIA_JOB_MAX_CONCURRENT", "3",
            Number::whole(1, 1000), "Jobs that run at once in one process.";
        JOB_TIMEOUT: Seconds = "ENGRAMIA_JOB_TIMEOUT", "3600",
            Seconds::between(1.0, 604_800.0),
            "Time one attempt of a job may take, where the request has no X-Max-Execution-Seconds.";
        JOB_EXPIRY: Seconds = "ENGRAMIA_JOB_EXPIRY", "172800",
            Seconds::between(60.0, 2_592_000.0),
            "Time from the submission of a job after which it is not done any more; above ENGRAMIA_JOB_POLL_INTERVAL.";
        JOB_RETENTION_DAYS: Number<u32> = "ENGRAMIA_JOB_RETENTION_DAYS", "7",
            Number::whole(1, 3650), "Days for which jobs that came to their end can be asked for.";
    }
    "Memory" {
        REDACTION: Flag = "ENGRAMIA_REDACTION", "true",
            Flag, "Remove personal data and secrets before anything is stored. Only disable in dev.";
        TIER_DUPLICATE: Number<f64> = "ENGRAMIA_TIER_DUPLICATE", "0.92",
            Number::real(0.0, 1.0), "Similarity from which a match is of the tier `duplicate`.";
        TIER_ADAPT: Number<f64> = "ENGRAMIA_TIER_ADAPT", "0.70",
            Number::real(0.0, 1.0), "Similarity from which a match is of the tier `adapt`; below ENGRAMIA_TIER_DUPLICATE.";
        SUCCESS_THRESHOLD: Number<f64> = "ENGRAMIA_SUCCESS_THRESHOLD", "5.0",
            Number::real(0.0, 10.0), "Score from which a run counts as a success.";
        COMPUTE_THREADS: Number<usize> = "ENGRAMIA_COMPUTE_THREADS", "",
            Number::whole(1, MAX_COMPUTE_THREADS), "Threads for embedding and search; as many as the machine has cores when unset.";
        COMPUTE_QUEUE: Number<usize> = "ENGRAMIA_COMPUTE_QUEUE", "1024",
            Number::whole(1, 1_000_000), "Tasks that may wait for a compute thread; beyond it the answer is 503.";
    }
    "Governance" {
        RETENTION_DAYS: Number<u32> = "ENGRAMIA_RETENTION_DAYS", "",
            Number::whole(0, 36_500), "Days after which patterns are removed where neither project nor tenant says \
            otherwise; 0 keeps them for ever. When unset, 365 days are what POST /v1/governance/retention/apply goes \
            by, and nothing is removed by itself.";
        DSR_SLA_DAYS: Number<u32> = "ENGRAMIA_DSR_SLA_DAYS", "30",
            Number::whole(1, 3650), "Days in which requests of data subjects must be answered.";
    }
    "Observability" {
        JSON_LOGS: Flag = "ENGRAMIA_JSON_LOGS", "false",
            Flag, "Structured JSON log output.";
        LOG: Parsed<String> = "ENGRAMIA_LOG", "info",
            Parsed::new("a level or a filter such as info,engramia=debug"), "What is logged.";
        RUST_LOG: Parsed<String> = "RUST_LOG", "",
            Parsed::new("as ENGRAMIA_LOG"), "Read where ENGRAMIA_LOG is unset.";
        METRICS: Flag = "ENGRAMIA_METRICS", "false",
            Flag, "Prometheus metrics at /metrics.";
        METRICS_TOKEN: Secret = "ENGRAMIA_METRICS_TOKEN", "",
            Secret, "Bearer token for /metrics.";
        TELEMETRY: Flag = "ENGRAMIA_TELEMETRY", "false",
            Flag, "OpenTelemetry traces, sent to ENGRAMIA_OTEL_ENDPOINT. Nothing is sent where it is off.";
        OTEL_ENDPOINT: Collector = "ENGRAMIA_OTEL_ENDPOINT", "http://localhost:4317",
            Collector, "Collector of traces. https means TLS; `http://localhost:4318` where unset and the protocol is \
             http/protobuf.";
        OTEL_SERVICE_NAME: Parsed<String> = "ENGRAMIA_OTEL_SERVICE_NAME", "engramia-api",
            Parsed::new("a text"), "Name of this service in traces.";
        OTEL_PROTOCOL: Choice<Transport> = "OTEL_EXPORTER_OTLP_PROTOCOL", "grpc",
            Choice(&[("grpc", Transport::Grpc), ("http/protobuf", Transport::Http)]),
            "How traces are sent.";
        OTEL_INSECURE: Flag = "OTEL_EXPORTER_OTLP_INSECURE", "false",
            Flag, "Whether an ENGRAMIA_OTEL_ENDPOINT without http:// or https:// is spoken to without TLS.";
        OTEL_SAMPLED: Number<f64> = "OTEL_TRACES_SAMPLER_ARG", "1.0",
            Number::real(0.0, 1.0), "Share of the traces that begin here and are sent. Callers that send a traceparent \
             decide about theirs.";
    }
    "Build" {
        GIT_COMMIT: Parsed<String> = "GIT_COMMIT", "unknown",
            Parsed::new("a text"), "Commit shown by /v1/version; set by the image.";
        BUILD_TIME: Parsed<String> = "BUILD_TIME", "unknown",
            Parsed::new("a text"), "Build time shown by /v1/version; set by the image.";
    }
    "Command line" {
        API_URL: BaseUrl = "ENGRAMIA_API_URL", "http://127.0.0.1:8000",
            BaseUrl, "Server the client commands talk to. The server itself does not read it.";
        API_KEY: Secret = "ENGRAMIA_API_KEY", "",
            Secret, "API key of the client commands. The server itself does not read it.";
    }
}

/// Upper bound of `ENGRAMIA_COMPUTE_THREADS`, also for the number of cores that stands in for it.
pub const MAX_COMPUTE_THREADS: usize = 1024;

/// Names whose feature this version does not have yet; `*` at the end stands for any rest.
pub const RESERVED: &[&str] = &[
    "ENGRAMIA_BASE_URL",
    "ENGRAMIA_BYOK_ENABLED",
    "ENGRAMIA_CREDENTIALS_BACKEND",
    "ENGRAMIA_GOOGLE_CLIENT_ID",
    "ENGRAMIA_JWT_*",
    "ENGRAMIA_MCP_HOSTED_ENABLED",
    "ENGRAMIA_REDIS_URL",
    "ENGRAMIA_REGISTRATION_ENABLED",
    "ENGRAMIA_SKIP_AUTO_APP",
    "ENAGRAM_*",
];

const PREFIX: &str = "ENGRAMIA_";

/// Least similarity, in [0, 1], from which a known name is offered for an unknown one.
const CLOSE: f64 = 0.6;

/// The variable that names the file of a secret.
pub fn file_variable(secret: &str) -> String {
    format!("{secret}_FILE")
}

fn names_a_file(name: &str) -> bool {
    secrets().any(|secret| file_variable(secret) == name)
}

/// Whether a variable of this name is meant for this program.
pub fn is_ours(name: &str) -> bool {
    name.starts_with(PREFIX) || NAMES.contains(&name) || names_a_file(name)
}

/// The warning due when a variable of this name is set, if any: it is reserved, or it looks like ours and
/// is not known.
pub fn advice(name: &str) -> Option<String> {
    if NAMES.contains(&name) || names_a_file(name) || compose::knows(name) {
        return None;
    }
    if RESERVED.iter().any(|pattern| matches(pattern, name)) {
        return Some(format!("{name} is known, but has no effect in this version"));
    }
    let rest = name.strip_prefix(PREFIX)?;
    Some(match nearest(rest) {
        Some(known) => {
            format!("{name} is not a known setting and is ignored; did you mean {known}?")
        }
        None => format!("{name} is not a known setting and is ignored"),
    })
}

fn matches(pattern: &str, name: &str) -> bool {
    match pattern.strip_suffix('*') {
        Some(start) => name.starts_with(start),
        None => name == pattern,
    }
}

/// The known name closest to `PREFIX` + `rest`, compared without the prefix, which all of them share.
fn nearest(rest: &str) -> Option<&'static str> {
    NAMES
        .iter()
        .chain(RESERVED.iter().filter(|name| !name.ends_with('*')))
        .filter_map(|name| {
            let closeness = strsim::normalized_damerau_levenshtein(name.strip_prefix(PREFIX)?, rest);
            (closeness >= CLOSE).then_some((*name, closeness))
        })
        .max_by(|left, right| left.1.total_cmp(&right.1))
        .map(|(name, _)| name)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn names_are_unique_and_not_reserved() {
        let unique: BTreeSet<_> = NAMES.iter().collect();
        assert_eq!(unique.len(), NAMES.len());
        for name in NAMES {
            assert!(!RESERVED.iter().any(|pattern| matches(pattern, name)), "{name}");
        }
    }

    #[test]
    fn advice_tells_reserved_misspelt_and_strange_names_apart() {
        assert_eq!(advice("ENGRAMIA_PORT"), None);
        assert_eq!(advice("PATH"), None);
        assert_eq!(
            advice("ENGRAMIA_REDIS_URL").as_deref(),
            Some("ENGRAMIA_REDIS_URL is known, but has no effect in this version"),
        );
        assert_eq!(
            advice("ENGRAMIA_CORS_ORIGIN").as_deref(),
            Some("ENGRAMIA_CORS_ORIGIN is not a known setting and is ignored; did you mean ENGRAMIA_CORS_ORIGINS?"),
        );
        assert_eq!(
            advice("ENGRAMIA_TELEMETRIE").as_deref(),
            Some("ENGRAMIA_TELEMETRIE is not a known setting and is ignored; did you mean ENGRAMIA_TELEMETRY?"),
        );
        assert_eq!(advice("ENGRAMIA_QQQQ").as_deref(), Some("ENGRAMIA_QQQQ is not a known setting and is ignored"),);
    }

    #[test]
    fn names_of_the_command_line_are_known() {
        assert_eq!(advice("ENGRAMIA_API_URL"), None);
        assert_eq!(advice("ENGRAMIA_API_KEY"), None);
    }
}
