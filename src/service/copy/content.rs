//! What a store holds: counted, and digested so that two stores can be compared without either knowing the other's ids.

use std::fmt::Debug;

use sha2::{Digest, Sha256};

use crate::domain::Scope;
use crate::domain::analytics::Window;
use crate::domain::retention::RetentionDays;
use crate::ports::Vector;
use crate::store::copy::WholePattern;
use crate::store::memory::ScopeStatistics;
use crate::store::{Store, StoreError};

use super::{Progress, UNFINISHED};

/// Rows that are read or written in one unit of work.
pub(super) const PAGE: u32 = 500;

/// What a store holds.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Contents {
    /// Every scope with anything in it.
    pub scopes: Vec<Content>,
    /// Every tenant's audit log.
    pub chains: Vec<Chain>,
    /// Names of marks.
    marks: Vec<String>,
}

/// What a scope holds.
#[derive(Debug, Clone, PartialEq)]
pub struct Content {
    /// Which.
    pub scope: Scope,
    /// Stored patterns.
    pub patterns: u64,
    /// Of these, with a vector.
    pub vectors: u64,
    /// Evaluations of all patterns.
    pub evaluations: u64,
    /// Tags of all patterns.
    pub skills: u64,
    /// Recurring issues.
    pub feedback: u64,
    /// Learns and recalls.
    pub events: u64,
    /// API keys.
    pub keys: u64,
    /// Rows of an older server.
    pub carried: u64,
    digest: Sum,
}

/// The audit log of a tenant.
#[derive(Debug, Clone, PartialEq)]
pub struct Chain {
    /// Whose.
    pub tenant: String,
    /// Entries.
    pub entries: u64,
    digest: Sum,
}

/// The sum of the digests of rows, in whatever order they come.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
struct Sum([u64; 4]);

impl Sum {
    fn add(&mut self, row: [u8; 32]) {
        let (words, _) = row.as_chunks::<8>();
        for (sum, word) in self.0.iter_mut().zip(words) {
            *sum = sum.wrapping_add(u64::from_le_bytes(*word));
        }
    }

    /// A vector bit by bit, and what it belongs to.
    fn add_vector(&mut self, of: &str, vector: &Vector) {
        let mut digest = Sha256::new();
        digest.update(format!("{of:?} {:?}", vector.space));
        for value in vector.values.iter() {
            digest.update(value.to_bits().to_le_bytes());
        }
        self.add(digest.finalize().into());
    }

    /// The text of a value shows all its fields, and floats exactly: a field that is added later is not forgotten here.
    fn add_value(&mut self, kind: &str, value: &impl Debug) {
        self.add(Sha256::digest(format!("{kind} {value:?}")).into());
    }
}

/// Digest of a pattern with everything that hangs on it but its id; the vector bit by bit.
pub(super) fn digest(whole: &WholePattern) -> [u8; 32] {
    let WholePattern { pattern, vector, evaluations, skills, tagged_at } = whole;
    let mut digest = Sha256::new();
    digest.update(format!("{:?}", (&pattern.body, evaluations, skills, tagged_at)));
    if let Some(vector) = vector {
        digest.update(format!("{:?}", vector.space));
        for value in vector.values.iter() {
            digest.update(value.to_bits().to_le_bytes());
        }
    }
    digest.finalize().into()
}

impl Content {
    fn new(scope: Scope) -> Self {
        let (digest, patterns, vectors, evaluations, skills) = Default::default();
        Self { scope, patterns, vectors, evaluations, skills, feedback: 0, events: 0, keys: 0, carried: 0, digest }
    }

    /// The digest of everything, for people to compare.
    pub fn digest(&self) -> String {
        self.digest.0.iter().map(|word| format!("{:016x}", word.swap_bytes())).collect()
    }
}

impl Contents {
    /// Whether there is nothing.
    pub fn is_empty(&self) -> bool {
        self.scopes.is_empty() && self.chains.is_empty()
    }

    /// Something of this that `other` has not, in words.
    pub(super) fn beyond(&self, other: &Self) -> Option<String> {
        let scope = self.scopes.iter().find(|content| !other.scopes.contains(content));
        let chain = || self.chains.iter().find(|chain| !other.chains.contains(chain));
        let mark = || self.marks.iter().find(|mark| !other.marks.contains(mark));
        scope
            .map(|content| format!("tenant {}, project {}", content.scope.tenant(), content.scope.project()))
            .or_else(|| chain().map(|chain| format!("the audit log of tenant {}", chain.tenant)))
            .or_else(|| mark().map(|mark| format!("the mark {mark}")))
    }

    /// Something that only one of two has, in words.
    pub(super) fn difference(&self, other: &Self) -> Option<String> {
        self.beyond(other).or_else(|| other.beyond(self))
    }
}

/// Reads everything.
pub(super) async fn read(store: &dyn Store, progress: Progress<'_>) -> Result<Contents, StoreError> {
    let mut contents = Contents::default();
    let mut after = None;
    loop {
        let scopes = store.scopes(after.as_ref(), PAGE).await?;
        for scope in &scopes {
            let content = read_scope(store, scope.clone(), progress).await?;
            if content != Content::new(scope.clone()) {
                contents.scopes.push(content);
            }
        }
        let Some(last) = scopes.into_iter().next_back() else { break };
        after = Some(last);
    }
    let mut after: Option<String> = None;
    loop {
        let tenants = store.audited_tenants(after.as_deref(), PAGE).await?;
        for tenant in &tenants {
            contents.chains.push(read_chain(store, tenant).await?);
        }
        let Some(last) = tenants.into_iter().next_back() else { break };
        after = Some(last);
    }
    let marks = store.inventory().marks().await?.into_iter().map(|(mark, _)| mark);
    contents.marks = marks.filter(|mark| mark != UNFINISHED).collect();
    Ok(contents)
}

async fn read_scope(store: &dyn Store, scope: Scope, progress: Progress<'_>) -> Result<Content, StoreError> {
    let mut content = Content::new(scope.clone());
    let mut after = None;
    loop {
        let page = store.read(&scope).await?.copying().patterns(after, PAGE).await?;
        let Some(last) = page.last() else { break };
        after = Some(last.pattern.id);
        for whole in &page {
            content.patterns += 1;
            content.vectors += u64::from(whole.vector.is_some());
            content.evaluations += whole.evaluations.len() as u64;
            content.skills += whole.skills.len() as u64;
            content.digest.add(digest(whole));
        }
        progress(page.len() as u64);
    }
    let mut work = store.read(&scope).await?;
    if let Some(registered) = work.copying().registered().await? {
        content.digest.add_value("registered", &registered);
    }
    let days = work.retention().days().await?;
    if days != RetentionDays::default() {
        content.digest.add_value("retention", &days);
    }
    let statistics = work.statistics().get().await?;
    if statistics != ScopeStatistics::default() {
        content.digest.add_value("statistics", &statistics);
    }
    for issue in work.feedback().all().await? {
        content.feedback += 1;
        content.digest.add_value("feedback", &issue);
    }
    for (text, vector) in work.feedback().vectors().await? {
        content.digest.add_vector(&text, &vector);
    }
    for (text, task) in work.feedback().tasks().await? {
        content.digest.add_value("task", &(&text, &task.text, task.seen_at));
        if let Some(vector) = &task.vector {
            content.digest.add_vector(&task.text, vector);
        }
    }
    for event in work.analytics().newest(None, u32::MAX).await? {
        content.events += 1;
        content.digest.add_value("event", &event);
    }
    for window in Window::ALL {
        if let Some(rollup) = work.analytics().rollup(window).await? {
            content.digest.add_value("rollup", &rollup);
        }
    }
    for key in work.keys().list().await? {
        content.keys += 1;
        content.digest.add_value("key", &key);
    }
    if scope.is_whole_tenant() {
        let mut after = String::new();
        loop {
            let page = work.subjects().page(&after, PAGE).await?;
            let Some(last) = page.last() else { break };
            after = last.id.clone();
            page.iter().for_each(|request| content.digest.add_value("request", request));
        }
        let mut after = None;
        loop {
            let page = work.copying().carried(after.as_ref(), PAGE).await?;
            let Some(last) = page.last() else { break };
            content.carried += page.len() as u64;
            page.iter().for_each(|row| content.digest.add_value("carried", row));
            after = Some(last.clone());
        }
    }
    Ok(content)
}

async fn read_chain(store: &dyn Store, tenant: &str) -> Result<Chain, StoreError> {
    let scope = Scope::of_tenant(tenant);
    let mut chain = Chain { tenant: tenant.to_owned(), entries: 0, digest: Sum::default() };
    let mut after = 0;
    loop {
        let page = store.read(&scope).await?.audit().chain(after, PAGE).await?;
        let Some(last) = page.last() else { break };
        after = last.sequence;
        chain.entries += page.len() as u64;
        page.iter().for_each(|entry| chain.digest.add_value("entry", entry));
    }
    let head = store.read(&scope).await?.audit().head().await?;
    chain.digest.add_value("head", &head);
    Ok(chain)
}
