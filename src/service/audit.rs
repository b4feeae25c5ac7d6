//! The audit trail: every event is a line of the log, and a row where its tenant is known (`spec/engramia/30` §5).
//!
//! What is done in a unit of work is recorded in the same one ([`commit`]). Everything else is gathered in memory and
//! written in the background, a repeated event once a minute, so that a flood of requests fills neither the disk nor
//! the memory.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use chrono::TimeDelta;
use serde_json::{Map, Value};

use super::{Result, Services};
use crate::domain::audit::{AuditAction, AuditEntry, AuditEvent, BrokenLink, ChainHead};
use crate::domain::{Caller, Scope, Timestamp};
use crate::ports::{Clock, Entropy};
use crate::store::{self, AuditQuery, Store, StoreError, Work};

/// How often events are written.
const FLUSH_EVERY: Duration = Duration::from_millis(500);
/// After an event was written, its repetitions are gathered so long.
const GATHERED_FOR: TimeDelta = TimeDelta::minutes(1);
/// Most kinds of events in memory.
const MOST: usize = 1_024;
/// Entries a page of a check.
const PAGE: u32 = 1_000;
/// Tenants a page of a check.
const TENANTS: u32 = 100;
/// Longest text of a client that is kept in a detail, in characters.
const LONGEST: usize = 200;

/// Events on their way to the store.
pub struct AuditTrail {
    clock: Arc<dyn Clock>,
    entropy: Arc<dyn Entropy>,
    gathered: Mutex<HashMap<Kind, Gathered>>,
    /// One flush at a time, so that a flush that returns has written everything that was due before it began.
    flushing: tokio::sync::Mutex<()>,
    lost: AtomicU64,
}

/// Events that count as the same.
#[derive(Clone, PartialEq, Eq, Hash)]
struct Kind {
    scope: Scope,
    action: AuditAction,
    actor: Option<String>,
    ip: Option<String>,
    reason: Option<String>,
}

/// What came of one kind.
struct Gathered {
    /// The newest event, and how many like it are not written.
    waiting: Option<(AuditEvent, u64)>,
    /// Until when it has to wait, because one like it was written just now.
    until: Option<Timestamp>,
}

impl AuditTrail {
    /// An empty trail.
    pub fn new(clock: Arc<dyn Clock>, entropy: Arc<dyn Entropy>) -> Self {
        Self {
            clock,
            entropy,
            gathered: Mutex::default(),
            flushing: tokio::sync::Mutex::default(),
            lost: AtomicU64::new(0),
        }
    }

    /// An event that happens now.
    pub fn event(&self, action: AuditAction, actor: Option<&str>, ip: Option<IpAddr>) -> AuditEvent {
        let mut nonce = [0; 16];
        self.entropy.fill(&mut nonce);
        AuditEvent {
            at: self.clock.now(),
            action,
            actor: actor.map(str::to_owned),
            resource_type: None,
            resource_id: None,
            ip: ip.map(|ip| ip.to_string()),
            detail: Map::new(),
            nonce,
        }
    }

    /// An event that a caller causes.
    pub fn event_of(&self, action: AuditAction, caller: &Caller) -> AuditEvent {
        let event = self.event(action, caller.key_id.as_deref(), caller.address);
        match &caller.request_id {
            Some(id) => event.with("request_id", id.as_ref()),
            None => event,
        }
    }

    /// Records an event outside a unit of work: in the log at once, in the table soon.
    pub fn note(&self, scope: Option<&Scope>, mut event: AuditEvent) {
        for value in event.detail.values_mut() {
            shorten(value);
        }
        log(scope, &event);
        let Some(scope) = scope else { return };
        let kind = Kind {
            scope: scope.clone(),
            action: event.action,
            actor: event.actor.clone(),
            ip: event.ip.clone(),
            reason: event.detail.get("reason").and_then(Value::as_str).map(str::to_owned),
        };
        let mut gathered = self.lock();
        if gathered.len() >= MOST && !gathered.contains_key(&kind) {
            gathered.retain(|_, kind| !kind.is_over(event.at));
            if gathered.len() >= MOST {
                self.lost.fetch_add(1, Ordering::Relaxed);
                return;
            }
        }
        gathered.entry(kind).or_insert(Gathered { waiting: None, until: None }).add(event);
    }

    /// How many events could not be kept since the last call; they are in the log only.
    pub fn take_lost(&self) -> u64 {
        self.lost.swap(0, Ordering::Relaxed)
    }

    /// Writes what is due, or everything. What cannot be written is kept for the next time.
    pub async fn flush(&self, store: &dyn Store, everything: bool) -> store::Result<()> {
        let _one = self.flushing.lock().await;
        let mut outcome = Ok(());
        for (scope, events) in self.due(everything) {
            let written = write(store, &scope, &events).await;
            let mut gathered = self.lock();
            for (kind, _, count) in events {
                if let Some(kind) = gathered.get_mut(&kind) {
                    kind.settle(if written.is_ok() { Some(count) } else { None });
                }
            }
            outcome = outcome.and(written);
        }
        outcome
    }

    /// Flushes for ever.
    pub async fn run(&self, store: &dyn Store) {
        let mut tick = tokio::time::interval(FLUSH_EVERY);
        tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            tick.tick().await;
            if let Err(error) = self.flush(store, false).await {
                tracing::warn!(%error, "audit events are kept until the store answers");
            }
        }
    }

    /// What is due, by scope. It stays here until it is written: a flush may be cut short. What is over is forgotten.
    fn due(&self, everything: bool) -> HashMap<Scope, Vec<(Kind, AuditEvent, u64)>> {
        let now = self.clock.now();
        let mut due: HashMap<Scope, Vec<_>> = HashMap::new();
        self.lock().retain(|kind, gathered| {
            if gathered.is_over(now) {
                return false;
            }
            if (everything || gathered.until.is_none_or(|until| until <= now))
                && let Some((event, count)) = &gathered.waiting
            {
                due.entry(kind.scope.clone()).or_default().push((kind.clone(), event.clone(), *count));
                gathered.until = Some(now + GATHERED_FOR);
            }
            true
        });
        due
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<Kind, Gathered>> {
        self.gathered.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Gathered {
    fn add(&mut self, event: AuditEvent) {
        let before = self.waiting.as_ref().map_or(0, |(_, count)| *count);
        self.waiting = Some((event, before + 1));
    }

    /// So many are written; `None` if they could not be.
    fn settle(&mut self, written: Option<u64>) {
        match (written, &mut self.waiting) {
            (Some(written), Some((_, count))) if *count > written => *count -= written,
            (Some(_), waiting) => *waiting = None,
            (None, _) => self.until = None,
        }
    }

    /// Nothing waits, and the next one like it need not wait.
    fn is_over(&self, now: Timestamp) -> bool {
        self.waiting.is_none() && self.until.is_none_or(|until| until <= now)
    }
}

async fn write(store: &dyn Store, scope: &Scope, events: &[(Kind, AuditEvent, u64)]) -> store::Result<()> {
    let mut work = match store.begin(scope).await {
        // Of keys that are dead with their project: the log has a line of it.
        Err(StoreError::Erased) => return Ok(()),
        work => work?,
    };
    for (_, event, count) in events {
        let event = event.clone();
        let event = if *count > 1 { event.with("count", *count) } else { event };
        work.audit().append(&event).await?;
    }
    work.commit().await
}

/// Records an event of a project in the unit of work that it is about, and commits that.
pub(super) async fn commit(mut work: Box<dyn Work>, scope: &Scope, event: &AuditEvent) -> store::Result<()> {
    work.audit().append_in(scope.project(), event).await?;
    work.commit().await?;
    log(Some(scope), event);
    Ok(())
}

/// Cuts a text that a client has chosen.
fn shorten(value: &mut Value) {
    if let Value::String(text) = value
        && let Some((end, _)) = text.char_indices().nth(LONGEST)
    {
        text.truncate(end);
    }
}

/// The only place that writes these lines. Fields that an event does not have are left out.
fn log(scope: Option<&Scope>, event: &AuditEvent) {
    let text = |name: &str| event.detail.get(name).and_then(Value::as_str);
    let number = |name: &str| event.detail.get(name).and_then(Value::as_u64);
    let flag = |name: &str| event.detail.get(name).and_then(Value::as_bool);
    let about = |kind: &str| event.resource_id.as_deref().filter(|_| event.resource_type == Some(kind));
    let actor = event.actor.as_deref();
    tracing::warn!(
        target: "engramia::audit",
        event = event.action.as_str(),
        reason = text("reason"),
        ip = event.ip.as_deref(),
        tenant_id = scope.map(Scope::tenant),
        project_id = scope.map(Scope::project),
        // Of an event about a key it names that key, and the actor the one that was used.
        key_id = about("api_key").or(actor),
        actor,
        role = text("role"),
        source = text("source"),
        pattern_key = about("pattern"),
        path = text("path"),
        metric = text("metric"),
        current = number("current"),
        limit = number("limit"),
        count = number("patterns"),
        patterns_deleted = number("patterns_deleted"),
        certificate = event.detail.get("certificate").map(tracing::field::display),
        total = number("total"),
        imported = number("imported"),
        overwrite = flag("overwrite"),
        purged_count = number("purged_count"),
        dry_run = flag("dry_run"),
        classification_filter = text("classification_filter"),
        "AUDIT"
    );
}

/// What a check of one tenant's chain found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ChainReport {
    /// Whose chain it is.
    pub tenant: String,
    /// Entries that are as they were written, from the first on.
    pub entries: u64,
    /// Number of the first entry that is not, and what is wrong.
    pub broken: Option<(u64, &'static str)>,
}

impl Services {
    /// A page of the events of the caller's project, the newest first.
    pub async fn audit_page(&self, caller: &Caller, query: &AuditQuery) -> Result<Vec<AuditEntry>> {
        self.audit.flush(self.store.as_ref(), false).await?;
        Ok(self.store.read(&caller.scope).await?.audit().page(query).await?)
    }

    /// Checks the chain of every tenant, in the order of their names.
    pub async fn verify_audit(&self) -> Result<Vec<ChainReport>> {
        let mut reports: Vec<ChainReport> = Vec::new();
        loop {
            let after = reports.last().map(|report| report.tenant.clone());
            let tenants = self.store.audited_tenants(after.as_deref(), TENANTS).await?;
            if tenants.is_empty() {
                return Ok(reports);
            }
            for tenant in tenants {
                reports.push(self.verify_chain(tenant).await?);
            }
        }
    }

    async fn verify_chain(&self, tenant: String) -> Result<ChainReport> {
        // Any project opens the chain of its tenant.
        let scope = Scope::verified(&tenant, Scope::DEFAULT_NAME);
        // The end first: what is appended during the check lies behind it.
        let expected = self.store.read(&scope).await?.audit().head().await?;
        let mut at = ChainHead::default();
        let report = |entries: u64, broken| Ok(ChainReport { tenant: tenant.clone(), entries, broken });
        loop {
            let page = self.store.read(&scope).await?.audit().chain(at.sequence, PAGE).await?;
            if page.is_empty() {
                break;
            }
            for entry in page {
                at = match entry.verify(&at, &tenant) {
                    Ok(next) if next.sequence == expected.sequence && next != expected => {
                        return report(at.sequence, Some((next.sequence, "the chain was written anew")));
                    }
                    Ok(next) => next,
                    Err(link) => return report(at.sequence, Some((at.sequence + 1, broken(link)))),
                };
            }
        }
        if at.sequence < expected.sequence {
            return report(at.sequence, Some((at.sequence + 1, "the end of the chain is missing")));
        }
        let end = self.store.read(&scope).await?.audit().head().await?.sequence;
        if at.sequence > end {
            return report(end, Some((end + 1, "the chain goes on behind its recorded end")));
        }
        report(at.sequence, None)
    }
}

fn broken(link: BrokenLink) -> &'static str {
    match link {
        BrokenLink::Gap => "it is missing",
        BrokenLink::Private => "its address or its detail was changed",
        BrokenLink::Hash => "it was changed",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Still;
    impl Clock for Still {
        fn now(&self) -> Timestamp {
            Timestamp::UNIX_EPOCH
        }
    }
    impl Entropy for Still {
        fn fill(&self, _: &mut [u8]) {}
    }

    #[test]
    fn memory_is_bounded_and_what_is_lost_is_counted() {
        let trail = AuditTrail::new(Arc::new(Still), Arc::new(Still));
        let note = |actor: usize| {
            let event = trail.event(AuditAction::AuthFailure, Some(&actor.to_string()), None);
            trail.note(Some(&Scope::default()), event.with("path", "x".repeat(1_000)));
        };
        for actor in (0..MOST + 3).chain(0..5) {
            note(actor);
        }
        assert_eq!((trail.lock().len(), trail.take_lost(), trail.take_lost()), (MOST, 3, 0));
        let due = trail.due(false).remove(&Scope::default()).expect("one scope");
        assert_eq!(due.iter().map(|(.., count)| count).sum::<u64>(), MOST as u64 + 5, "equal ones are counted");
        assert!(
            due.iter().all(|(_, event, _)| event.detail["path"].as_str().is_some_and(|path| path.len() == LONGEST))
        );
    }

    #[test]
    fn what_comes_while_others_are_written_waits_and_what_fails_comes_again() {
        let trail = AuditTrail::new(Arc::new(Still), Arc::new(Still));
        let note = || trail.note(Some(&Scope::default()), trail.event(AuditAction::DataExported, None, None));
        let due = |everything| {
            trail.due(everything).remove(&Scope::default()).map(|events| (events[0].0.clone(), events[0].2))
        };
        let settle = |kind: &Kind, written| trail.lock().get_mut(kind).expect("it waits").settle(written);
        note();
        let (kind, count) = due(false).expect("the first is due at once");
        note();
        settle(&kind, None);
        assert_eq!((count, due(false).map(|(_, count)| count)), (1, Some(2)), "it failed: both are due");
        note();
        settle(&kind, Some(2));
        assert!(due(false).is_none(), "the third waits for its minute");
        assert_eq!(due(true).map(|(_, count)| count), Some(1));
        settle(&kind, Some(1));
        assert!(due(true).is_none());
    }
}
