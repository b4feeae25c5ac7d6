//! `engramia doctor`: looks at everything an installation needs, and changes nothing (`docs/troubleshooting.md`).

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;

use futures_util::future::join_all;
use tokio::net::TcpListener;

use super::postgres_settings;
use crate::adapter::local;
use crate::adapter::reach::{self, Verdict};
use crate::adapter::{self, disk};
use crate::compute::ComputePool;
use crate::config::{Config, EmbeddingChoice, LlmChoice, Storage};
use crate::ports::{Clock, Space};
use crate::store::{Inspection, Revision, postgres, sqlite};

/// Free room below which a write may soon fail, and below which it will.
const LITTLE_ROOM: u64 = 1 << 30;
const NO_ROOM: u64 = 64 << 20;
/// A sync that takes longer makes every learn slow.
const SLOW_SYNC_MS: u128 = 20;
/// Clocks that differ by more reject tokens and signatures of each other, in seconds.
const SKEW: i64 = 60;

crate::domain::words! {
    /// State of one part.
    State { Ok = "ok", Skipped = "skipped", Warning = "warning", Failed = "failed" }
}

/// What was found out about one part.
#[derive(Debug, Clone)]
pub struct Finding {
    /// The part.
    pub name: &'static str,
    /// Its state.
    pub state: State,
    /// What was seen.
    pub detail: String,
    /// What to do about it; empty where there is nothing to do.
    pub advice: &'static str,
}

impl Finding {
    fn new(name: &'static str, state: State, detail: impl Into<String>, advice: &'static str) -> Self {
        Self { name, state, detail: detail.into(), advice }
    }

    fn ok(name: &'static str, detail: impl Into<String>) -> Self {
        Self::new(name, State::Ok, detail, "")
    }

    fn skipped(name: &'static str, detail: impl Into<String>) -> Self {
        Self::new(name, State::Skipped, detail, "")
    }
}

/// Looks at every part; asks the configured services unless `offline`.
///
/// # Errors
/// When the examination itself cannot be made.
pub async fn examine(config: &Config, offline: bool) -> anyhow::Result<Vec<Finding>> {
    let mut found = vec![listener(config).await];
    if let Storage::Embedded { root } = &config.storage {
        found.push(room(root).await?);
    }
    found.push(model(config).await?);
    let compute = Arc::new(ComputePool::start(1, 1)?);
    let space = adapter::embedder(&config.models.embedding, &compute)?.map(|embedder| embedder.space().clone());
    let mut clocks = Vec::new();
    match inspect(&config.storage, space.as_ref()).await {
        Ok(Some(inspection)) => {
            clocks.extend(inspection.clock.map(|clock| ("the database", clock - adapter::system::SystemClock.now())));
            found.extend(store(&inspection));
        }
        Ok(None) => found.push(Finding::skipped("store", "there is none yet; the first start makes it")),
        Err(error) => found.push(Finding::new(
            "store",
            State::Failed,
            format!("{error:#}"),
            "make the store reachable and readable for this user; nothing can be served without it",
        )),
    }
    let services = if offline { Ok(Vec::new()) } else { reach::services(config) };
    let services = services.unwrap_or_else(|error| {
        let advice = "see whether the keys of the services are whole";
        found.push(Finding::new("services", State::Failed, format!("{error:#}"), advice));
        Vec::new()
    });
    for (service, answer) in services.iter().zip(join_all(services.iter().map(reach::Service::ask)).await) {
        clocks.extend(answer.clock.map(|clock| (service.name, clock - adapter::system::SystemClock.now())));
        found.push(provider(service, &answer.verdict));
    }
    if let LlmChoice::NotConfigured { missing, .. } = &config.models.llm {
        let detail = format!("{missing} is not set: evaluate, compose and evolve answer 501");
        found.push(Finding::skipped("llm", detail));
    }
    found.push(clock(&clocks));
    Ok(found)
}

async fn inspect(storage: &Storage, space: Option<&Space>) -> anyhow::Result<Option<Inspection>> {
    match storage {
        Storage::Embedded { root } => sqlite::inspect(root, space).await,
        Storage::Postgres(database) => {
            let settings = postgres_settings(database);
            postgres::inspect(&settings, space).await.map(Some)
        }
    }
}

/// Whether the server could listen where it should.
async fn listener(config: &Config) -> Finding {
    let address = SocketAddr::new(config.server.host, config.server.port);
    match TcpListener::bind(address).await {
        Ok(_free) => Finding::ok("port", format!("{address} is free")),
        Err(error) if error.kind() == std::io::ErrorKind::AddrInUse => {
            if reach::is_engramia(address).await {
                return Finding::ok("port", format!("a server of this program listens on {address}"));
            }
            let advice = "stop the other program, or set ENGRAMIA_PORT";
            Finding::new("port", State::Failed, format!("another program listens on {address}"), advice)
        }
        Err(error) => {
            let advice = "set ENGRAMIA_HOST to an address of this machine and ENGRAMIA_PORT to a port it may use";
            Finding::new("port", State::Failed, format!("{address}: {error}"), advice)
        }
    }
}

/// The disk under the data directory.
async fn room(root: &Path) -> anyhow::Result<Finding> {
    let directory = root.to_owned();
    let disk = match tokio::task::spawn_blocking(move || disk::examine(&directory)).await? {
        Ok(disk) => disk,
        Err(error) => {
            let detail = format!("{} cannot be written: {error}", root.display());
            let advice = "give this user the directory (ENGRAMIA_DATA_PATH), and room on its disk";
            return Ok(Finding::new("disk", State::Failed, detail, advice));
        }
    };
    let detail = format!(
        "{}: {} MiB free; a write is safe after {:.1} ms (slowest {:.1} ms)",
        disk.at.display(),
        disk.free >> 20,
        disk.sync.as_secs_f64() * 1e3,
        disk.slowest.as_secs_f64() * 1e3
    );
    Ok(if let Some(kind) = disk.network {
        let advice = "put the data directory on a local disk: locks and syncs are not reliable there";
        Finding::new("disk", State::Failed, format!("{detail}; the file system is {kind}"), advice)
    } else if disk.free < NO_ROOM {
        Finding::new("disk", State::Failed, detail, "make room: writes are about to fail")
    } else if disk.free < LITTLE_ROOM {
        Finding::new("disk", State::Warning, detail, "make room soon")
    } else if disk.sync.as_millis() > SLOW_SYNC_MS {
        Finding::new("disk", State::Warning, detail, "every learn waits for one: prefer a disk that syncs faster")
    } else {
        Finding::ok("disk", detail)
    })
}

/// The embedding model in the binary.
async fn model(config: &Config) -> anyhow::Result<Finding> {
    if !matches!(config.models.embedding, EmbeddingChoice::BuiltIn) {
        return Ok(Finding::skipped("model", "the built-in embedding model is not in use"));
    }
    let check = tokio::task::spawn_blocking(local::check).await?;
    let detail = format!("{}, SHA-256 {}, computed with {}", local::MODEL, &check.digest[..16], check.kernel);
    Ok(if !check.intact {
        let advice = "the program file is damaged: install it again";
        Finding::new("model", State::Failed, format!("{detail}; the digest is wrong"), advice)
    } else if !check.exact {
        let advice = "this machine computes other vectors than others do: report it with the model of its processor";
        Finding::new("model", State::Failed, format!("{detail}; its result is wrong"), advice)
    } else {
        Finding::ok("model", detail)
    })
}

/// Schema, soundness, indexes.
fn store(inspection: &Inspection) -> Vec<Finding> {
    let Inspection { schema: Revision { current, expected }, engine, damage, patterns, waiting, disagreements, .. } =
        inspection;
    let version = format!("{engine}; schema {current}");
    if let Some(damage) = damage {
        let advice = "restore a backup (docs/backup.md); keep the damaged file for later";
        return vec![Finding::new("store", State::Failed, format!("{engine}; {damage}"), advice)];
    }
    if current > expected {
        let detail = format!("{version} is newer than this program's ({expected})");
        return vec![Finding::new("schema", State::Failed, detail, "start a newer program")];
    }
    if current < expected {
        let detail = format!("{version}, this program's is {expected}");
        let advice = "the next start, or `engramia migrate`, brings it up; make a backup first";
        return vec![Finding::new("schema", State::Warning, detail, advice)];
    }
    let wrong: Vec<_> = disagreements.iter().filter(|(_, rows)| *rows > 0).collect();
    let index = if !wrong.is_empty() {
        let detail: Vec<_> = wrong.iter().map(|(what, rows)| format!("{rows} {what}")).collect();
        let advice = "export and import the projects again (docs/troubleshooting.md), and report it: this is a defect";
        Finding::new("index", State::Failed, detail.join("; "), advice)
    } else if *waiting > 0 {
        let advice = "a running server embeds them in the background; until then keyword search finds them";
        Finding::new("index", State::Warning, format!("{waiting} of {patterns} patterns wait for a vector"), advice)
    } else {
        Finding::ok("index", format!("agrees with {patterns} patterns"))
    };
    vec![Finding::ok("schema", version), index]
}

fn provider(service: &reach::Service, verdict: &Verdict) -> Finding {
    let base = &service.base;
    match verdict {
        Verdict::Fine => Finding::ok(service.name, format!("{base} answers")),
        Verdict::KeyRefused(status) => {
            let detail = format!("{base} refuses the key (HTTP {status})");
            Finding::new(service.name, State::Failed, detail, "set a key that is valid there")
        }
        Verdict::Odd(status) => {
            let detail = format!("{base} answers HTTP {status}");
            let advice = "see whether the address is right and the service well";
            Finding::new(service.name, State::Warning, detail, advice)
        }
        Verdict::Silent(why) => {
            let detail = format!("{base}: {why}");
            let advice = "see whether the address is right and this machine may connect to it";
            Finding::new(service.name, State::Failed, detail, advice)
        }
    }
}

/// The clock of this machine, against whoever told his.
fn clock(others: &[(&'static str, chrono::TimeDelta)]) -> Finding {
    let furthest = others.iter().max_by_key(|(_, ahead)| ahead.abs());
    let Some((who, ahead)) = furthest else {
        return Finding::skipped("clock", "nobody to compare it with");
    };
    let seconds = ahead.num_seconds();
    if seconds.abs() <= SKEW {
        return Finding::ok("clock", format!("agrees with {} other clocks to {} s", others.len(), seconds.abs()));
    }
    let detail = format!("{who} is {} s {}", seconds.abs(), if seconds > 0 { "ahead" } else { "behind" });
    Finding::new("clock", State::Warning, detail, "synchronise the clocks: tokens, signatures and leases go by them")
}
