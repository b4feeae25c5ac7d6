//! The sections of the configuration: closed types, each read by one function that holds its rules.
//!
//! The rules follow the user guide §4 and `engramia/50-config-observability.md` §1 of the specification; larger sections
//! have files of their own.

use std::net::IpAddr;
use std::num::NonZeroU32;
use std::path::PathBuf;
use std::time::Duration;

use ipnet::IpNet;
use secrecy::{ExposeSecret, SecretString};
use url::Url;

use super::Reader;
use super::settings::{self as table, StorageKind};

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
    /// Whether the API is served; no variable says so, but `engramia serve --worker` does.
    pub web: bool,
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
            web: true,
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
    Postgres(Database),
}

/// A PostgreSQL database, and what one process may use of it and for it.
#[derive(Debug, Clone)]
pub struct Database {
    /// Connection string, with its password.
    pub url: SecretString,
    /// Most connections.
    pub pool_size: u32,
    /// Memory for search indexes, in bytes.
    pub search_memory_bytes: usize,
}

impl Storage {
    /// `ENGRAMIA_STORAGE` decides where it is set; where it is not, a database URL means PostgreSQL.
    pub(super) fn read(reader: &mut Reader) -> Self {
        let root = reader.read(&table::DATA_PATH);
        let url = database_url(reader);
        let stated = reader.is_set(&table::STORAGE);
        match (reader.read(&table::STORAGE), url) {
            (StorageKind::Embedded, None) => Self::Embedded { root },
            (StorageKind::Embedded, Some(_)) if stated => {
                reader.warn("ENGRAMIA_DATABASE_URL has no effect: ENGRAMIA_STORAGE selects the embedded store");
                Self::Embedded { root }
            }
            (_, Some(url)) => Self::Postgres(Database {
                url,
                pool_size: reader.read(&table::DB_POOL_SIZE),
                search_memory_bytes: reader.read(&table::SEARCH_MEMORY) << 20,
            }),
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

/// The connection string, with the password that is given apart from it.
fn database_url(reader: &mut Reader) -> Option<SecretString> {
    let (url, password) = (reader.given(&table::DATABASE_URL), reader.given(&table::DATABASE_PASSWORD));
    let Some(password) = password else {
        return url;
    };
    let Some(url) = url else {
        reader.warn("ENGRAMIA_DATABASE_PASSWORD has no effect: ENGRAMIA_DATABASE_URL is not set");
        return None;
    };
    let parsed = Url::parse(url.expose_secret()).ok().filter(|url| url.password().is_none());
    let whole = parsed.and_then(|mut url| url.set_password(Some(password.expose_secret())).ok().map(|()| url));
    if whole.is_none() {
        reader.refuse(
            &table::DATABASE_PASSWORD,
            "ENGRAMIA_DATABASE_URL holds a password, too, or has no place for one",
            "a password in one of them; a URL such as postgres://user@host:5432/database",
        );
    }
    Some(whole.map_or(url, |whole| String::from(whole).into()))
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
    /// Whether the limits of plans are kept; `None` leaves it to whether payments are taken.
    pub quotas: Option<bool>,
    /// Whether the number of projects and the features of plans are kept, too.
    pub entitlements: bool,
    /// Share of the tenant's patterns that one project may hold.
    pub project_share: f64,
}

impl Limits {
    pub(super) fn read(reader: &mut Reader) -> Self {
        Self {
            per_ip: reader.read(&table::RATE_LIMIT_DEFAULT),
            expensive: reader.read(&table::RATE_LIMIT_EXPENSIVE),
            per_key: reader.read(&table::RATE_LIMIT_PER_KEY),
            max_projects: reader.given(&table::MAX_PROJECTS),
            quotas: reader.given(&table::ENFORCE_QUOTAS),
            entitlements: reader.read(&table::ENFORCE_ENTITLEMENTS),
            project_share: reader.read(&table::PROJECT_QUOTA_PCT),
        }
    }
}

/// Backups that the server makes by itself.
#[derive(Debug, Clone)]
pub struct Backups {
    /// Where they are kept.
    pub directory: PathBuf,
    /// From one to the next.
    pub every: Duration,
    /// How many are kept; at least 1.
    pub keep: usize,
}

impl Backups {
    fn read(reader: &mut Reader) -> Option<Self> {
        let (every, keep) = (reader.read(&table::BACKUP_INTERVAL), reader.read(&table::BACKUP_KEEP));
        Some(Self { directory: reader.given(&table::BACKUP_DIR)?, every, keep })
    }
}

/// Background jobs.
#[derive(Debug, Clone)]
pub struct Jobs {
    /// Whether this process works on jobs; no variable says so, but `engramia serve --web` does.
    pub worker: bool,
    /// How often the worker looks for jobs.
    pub poll_interval: Duration,
    /// Jobs that run at once; at least 1.
    pub max_concurrent: usize,
    /// Limit of one attempt.
    pub timeout: Duration,
    /// Limit from the submission to the end.
    pub expiry: Duration,
    /// How long jobs are kept that came to their end.
    pub retention: Duration,
    /// Backups, which are the workers' matter as well; `None` where none are wanted.
    pub backups: Option<Backups>,
}

impl Jobs {
    pub(super) fn read(reader: &mut Reader) -> Self {
        let (poll_interval, expiry) = (reader.read(&table::JOB_POLL_INTERVAL), reader.read(&table::JOB_EXPIRY));
        if expiry <= poll_interval {
            reader.refuse(
                &table::JOB_EXPIRY,
                "jobs would expire before the worker looks at them",
                format!("more than ENGRAMIA_JOB_POLL_INTERVAL={}", poll_interval.as_secs_f64()),
            );
        }
        Self {
            worker: true,
            poll_interval,
            max_concurrent: reader.read(&table::JOB_MAX_CONCURRENT),
            timeout: reader.read(&table::JOB_TIMEOUT),
            expiry,
            retention: Duration::from_secs(24 * 3600) * reader.read(&table::JOB_RETENTION_DAYS),
            backups: Backups::read(reader),
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

/// How long data are kept, and requests of data subjects take.
#[derive(Debug, Clone)]
pub struct Governance {
    /// Days that patterns are kept where neither project nor tenant says otherwise; `None` for ever.
    pub retention_days: Option<u32>,
    /// Whether the operator says so: what nobody has asked for is not removed by itself.
    pub retention_is_set: bool,
    /// Days in which requests of data subjects must be answered.
    pub dsr_sla_days: u32,
}

impl Governance {
    /// Days where nobody says anything (`spec/engramia/30` §7).
    const RETENTION_DAYS: u32 = 365;

    pub(super) fn read(reader: &mut Reader) -> Self {
        let set: Option<u32> = reader.given(&table::RETENTION_DAYS);
        Self {
            retention_days: set.or(Some(Self::RETENTION_DAYS)).filter(|days| *days > 0),
            retention_is_set: set.is_some(),
            dsr_sla_days: reader.read(&table::DSR_SLA_DAYS),
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
