//! Export, import, and the adoption of an older data directory.

use std::collections::HashMap;
use std::sync::Arc;

use futures_util::{Stream, stream};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::audit::commit;
use super::jobs::Finish;
use super::{Result, ServiceError, Services, again};
use crate::domain::audit::{AuditAction, AuditEvent};
use crate::domain::pattern::Fingerprint;
use crate::domain::record::{self, Archive, Flaw};
use crate::domain::{Caller, Classification, Feature, NewPattern, Pattern, PatternKey, Scope, Skill, Timestamp};
use crate::ports::{Embedder, Priority, Vector};
use crate::store::Work;

/// Patterns that are read or written in one unit of work.
const BATCH: usize = 500;

/// Texts of an exported page, about, and rows of the first one.
const PAGE_BYTES: usize = 1 << 17;
const FIRST_PAGE: u32 = 64;
/// Every classification.
const EVERY: [Classification; 3] = [Classification::Public, Classification::Internal, Classification::Confidential];

/// One record of an import, its outer members checked.
#[derive(Debug)]
pub struct Record {
    /// Format version.
    pub version: i64,
    /// Public name, as sent.
    pub key: String,
    /// The pattern.
    pub data: Map<String, Value>,
}

/// What a batch came to.
struct Stored {
    new: usize,
    replaced: usize,
    /// Whether some have no vector yet.
    waiting: bool,
}

/// What an import did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Imported {
    /// Records that were stored.
    pub imported: usize,
    /// Records that were sent.
    pub total: usize,
}

/// How far an import is.
#[derive(Serialize, Deserialize, Default, Clone, Copy)]
struct Progress {
    /// Usable records that need not be looked at again.
    looked_at: usize,
    imported: usize,
}

/// An import of which some batches are stored, while the one that is to say so is not: if it ends like this, by an
/// error or because it is cut short, that is recorded.
struct Unsaid<'a> {
    services: &'a Services,
    scope: &'a Scope,
    event: AuditEvent,
    so_far: Progress,
    stored: bool,
}

impl Drop for Unsaid<'_> {
    fn drop(&mut self) {
        if self.stored {
            let event = self.event.clone().with("imported", self.so_far.imported);
            self.services.audit.note(Some(self.scope), event);
        }
    }
}

impl Services {
    /// Every pattern of the scope in key order, read page by page.
    ///
    /// # Errors
    /// When reuse counts cannot be written first.
    pub async fn export(&self, caller: &Caller) -> Result<impl Stream<Item = Result<Vec<Pattern>>> + Send + 'static> {
        self.reuse.flush(self.store.as_ref()).await?;
        let count = self.store.read(&caller.scope).await?.statistics().get().await?.patterns;
        let event = self.audit.event_of(AuditAction::DataExported, caller).with("patterns", count);
        self.audit.note(Some(&caller.scope), event);
        Ok(self.pages(&caller.scope, EVERY.to_vec()))
    }

    /// Every pattern of the scope, or those of some classifications, in key order, read page by page. That it is exported
    /// is recorded before anything is read.
    ///
    /// # Errors
    /// When reuse counts or the record cannot be written first.
    pub async fn export_scope(
        &self,
        caller: &Caller,
        among: Option<Vec<Classification>>,
    ) -> Result<impl Stream<Item = Result<Vec<Pattern>>> + Send + 'static> {
        self.entitled(caller.scope.tenant(), Feature::GdprExport).await?;
        self.reuse.flush_scope(self.store.as_ref(), &caller.scope).await?;
        let filter = among.as_ref().map(|among| among.iter().map(|word| word.as_str()).collect::<Vec<_>>().join(","));
        let event = self.audit.event_of(AuditAction::ScopeExported, caller);
        let event = &event.with("classification_filter", filter);
        again(|| async move { Ok(commit(self.store.begin(&caller.scope).await?, &caller.scope, event).await?) })
            .await?;
        Ok(self.pages(&caller.scope, among.unwrap_or_else(|| EVERY.to_vec())))
    }

    /// Pages of bounded length. Nothing of the store is held between two of them, however slow the reader is.
    fn pages(
        &self,
        scope: &Scope,
        among: Vec<Classification>,
    ) -> impl Stream<Item = Result<Vec<Pattern>>> + Send + 'static + use<> {
        let (store, scope, among): (_, _, Arc<[_]>) = (Arc::clone(&self.store), scope.clone(), among.into());
        stream::try_unfold((None::<PatternKey>, FIRST_PAGE), move |(after, rows)| {
            let (store, scope, among) = (Arc::clone(&store), scope.clone(), Arc::clone(&among));
            async move {
                let mut work = store.read(&scope).await?;
                let page = work.patterns().export_page(after.as_ref(), &among, rows, PAGE_BYTES).await?;
                // Where long patterns have ended a page early, the next one asks the database for no more than it takes.
                let next = (page.len() as u32).saturating_mul(2).clamp(1, BATCH as u32);
                Ok(page.last().map(|last| last.body.key.clone()).map(|last| (page, (Some(last), next))))
            }
        })
    }

    /// Imports records. Newer format versions, foreign keys, and keys that exist (without
    /// `overwrite`) are skipped. Everything is checked before anything is stored.
    ///
    /// # Errors
    /// Every flaw of every record; the limit of the caller's key, and then nothing is stored.
    pub async fn import(
        &self,
        caller: &Caller,
        records: Vec<Record>,
        overwrite: bool,
        finish: &Finish<'_, Imported>,
    ) -> Result<Imported> {
        let (now, total) = (self.clock.now(), records.len());
        let (mut patterns, mut flaws) = (Vec::with_capacity(total), Vec::new());
        for (at, record) in records.into_iter().enumerate() {
            let Ok(key) = PatternKey::parse(&record.key) else { continue };
            if record.version > record::VERSION {
                continue;
            }
            match record::parse(key, record.data, now) {
                Ok(pattern) => patterns.push(pattern),
                Err(found) => flaws.extend(found.into_iter().map(|flaw| (at, flaw))),
            }
        }
        if !flaws.is_empty() {
            return Err(ServiceError::InvalidRecords(flaws));
        }
        let event = self.audit.event_of(AuditAction::BulkImport, caller);
        let event = event.with("total", total).with("overwrite", overwrite);
        let so_far: Progress = finish.progress().unwrap_or_default();
        patterns.drain(..patterns.len().min(so_far.looked_at));
        let mut unsaid = Unsaid { services: self, scope: &caller.scope, event, so_far, stored: false };
        self.import_all(caller, patterns, overwrite, total, &mut unsaid, finish).await
    }

    /// Stores in batches; the last one records the import.
    async fn import_all(
        &self,
        caller: &Caller,
        patterns: Vec<NewPattern>,
        overwrite: bool,
        total: usize,
        unsaid: &mut Unsaid<'_>,
        finish: &Finish<'_, Imported>,
    ) -> Result<Imported> {
        // What may turn out to be too much is one unit of work.
        let size = if self.may_exceed(caller, patterns.len() as u64).await? { patterns.len() } else { BATCH };
        let mut patterns = patterns.into_iter().peekable();
        loop {
            let batch: Vec<NewPattern> = patterns.by_ref().take(size).collect();
            let looked_at = unsaid.so_far.looked_at + batch.len();
            let (mut work, stored) = self.write_batch(&caller.scope, batch, overwrite, &HashMap::new()).await?;
            self.in_good_standing(work.as_mut()).await?;
            self.within_quota(caller, work.as_mut(), stored.new as u64).await?;
            let so_far = Progress { looked_at, imported: unsaid.so_far.imported + stored.new + stored.replaced };
            if patterns.peek().is_some() {
                finish.keep_progress(work.as_mut(), &so_far).await?;
                work.commit().await?;
                unsaid.so_far = so_far;
                unsaid.stored = so_far.imported > 0;
                self.embed_later(&stored);
            } else {
                let imported = Imported { imported: so_far.imported, total };
                finish.settle(work.as_mut(), &imported).await?;
                commit(work, &caller.scope, &unsaid.event.clone().with("imported", so_far.imported)).await?;
                unsaid.stored = false;
                self.embed_later(&stored);
                return Ok(imported);
            }
        }
    }

    /// Redacts, embeds (or takes the vector given by key) and writes one batch, without committing it.
    async fn write_batch(
        &self,
        scope: &Scope,
        batch: Vec<NewPattern>,
        overwrite: bool,
        given: &HashMap<PatternKey, Vector>,
    ) -> Result<(Box<dyn Work>, Stored)> {
        let prepared = self.prepare(batch, Priority::Background).await?;
        let vectors = self.vectors_of(&prepared, given).await?;
        let mut stored = Stored { new: 0, replaced: 0, waiting: vectors.iter().any(Option::is_none) };
        let mut work = self.store.begin(scope).await?;
        for ((pattern, _), vector) in prepared.into_iter().zip(&vectors) {
            if work.patterns().insert(&pattern, vector.as_ref()).await?.is_some() {
                stored.new += 1;
            } else if overwrite && let Some(existing) = work.patterns().find(&pattern.key).await? {
                work.patterns().update(&Pattern { id: existing.id, body: pattern }, vector.as_ref()).await?;
                stored.replaced += 1;
            }
        }
        Ok((work, stored))
    }

    /// Has the patterns of a batch embedded that have no vector yet.
    fn embed_later(&self, batch: &Stored) {
        if batch.waiting && self.embedder.is_some() {
            self.backlog.wake();
        }
    }

    async fn vectors_of(
        &self,
        patterns: &[(NewPattern, Fingerprint)],
        given: &HashMap<PatternKey, Vector>,
    ) -> Result<Vec<Option<Vector>>> {
        let mut vectors: Vec<Option<Vector>> = patterns.iter().map(|(p, _)| given.get(&p.key).cloned()).collect();
        let Some(embedder) = &self.embedder else { return Ok(vectors) };
        let missing: Vec<usize> = (0..vectors.len()).filter(|at| vectors[*at].is_none()).collect();
        for chunk in missing.chunks(embedder.batch_size()) {
            let tasks: Vec<&str> = chunk.iter().map(|at| patterns[*at].0.task.as_str()).collect();
            match embedder.embed(&tasks, Priority::Background).await {
                Ok(made) => chunk.iter().zip(made).for_each(|(at, vector)| vectors[*at] = Some(vector)),
                Err(error) => {
                    tracing::warn!(%error, "importing without vectors; they will be made later");
                    break;
                }
            }
        }
        Ok(vectors)
    }

    /// Takes over one scope of an older installation. What is there already stays as it is, so that doing it again
    /// changes nothing.
    pub async fn adopt(&self, archive: Archive) -> Result<Adopted> {
        let now = self.clock.now();
        let scope = archive.scope;
        let length = match archive.vectors.is_empty() {
            true => None,
            false => usable_length(self.embedder.as_deref(), archive.model.as_deref()).await,
        };
        let given = self.compatible(length, archive.vectors);
        let mut adopted = Adopted::default();
        let mut batch = Vec::with_capacity(BATCH);
        let mut patterns = archive.patterns.into_iter().peekable();
        while let Some((key, data)) = patterns.next() {
            match record::parse(key.clone(), data, now) {
                Ok(pattern) => batch.push(pattern),
                Err(flaws) => {
                    let names: Vec<_> = flaws.iter().map(|flaw| flaw.path.join(".")).collect();
                    tracing::warn!(%key, flaws = ?names, "an old pattern is flawed and was left out");
                    adopted.flawed.push((key, flaws));
                }
            }
            if batch.len() == BATCH || patterns.peek().is_none() {
                // Embedding what is there already would cost time, and money where a provider does it.
                let new = self.unknown(&scope, std::mem::take(&mut batch)).await?;
                let (work, written) = self.write_batch(&scope, new, false, &given).await?;
                work.commit().await?;
                self.embed_later(&written);
                adopted.stored += written.new;
            }
        }
        let counts = (archive.runs, archive.successes, archive.recent_scores);
        self.adopt_rest(&scope, archive.skills, &archive.feedback, counts, now).await?;
        tracing::info!(
            tenant = scope.tenant(),
            project = scope.project(),
            imported = adopted.stored,
            skipped = adopted.flawed.len(),
            "took over an older installation's data"
        );
        Ok(adopted)
    }

    /// Those of a batch whose keys are not taken.
    async fn unknown(&self, scope: &Scope, batch: Vec<NewPattern>) -> Result<Vec<NewPattern>> {
        let mut work = self.store.read(scope).await?;
        let mut unknown = Vec::with_capacity(batch.len());
        for pattern in batch {
            if work.patterns().find(&pattern.key).await?.is_none() {
                unknown.push(pattern);
            }
        }
        Ok(unknown)
    }

    async fn adopt_rest(
        &self,
        scope: &Scope,
        skills: Vec<(PatternKey, Vec<String>)>,
        feedback: &[crate::domain::Feedback],
        (runs, successes, recent_scores): (u64, u64, Vec<f64>),
        now: Timestamp,
    ) -> Result<()> {
        let mut work = self.store.begin(scope).await?;
        work.projects().register(scope.project(), None, now).await?;
        for (key, tags) in skills {
            if let Some(pattern) = work.patterns().find(&key).await?
                && work.skills().count(pattern.id).await? == 0
            {
                work.skills().set(pattern.id, &Skill::distinct(tags.iter().map(String::as_str)), now).await?;
            }
        }
        if !feedback.is_empty() && work.feedback().all().await?.is_empty() {
            for issue in feedback {
                work.feedback().put(issue, None).await?;
            }
        }
        let counted = work.statistics().get().await?;
        let (runs, successes) = (runs.saturating_sub(counted.runs), successes.saturating_sub(counted.successes));
        let scores = if counted.recent_scores.is_empty() { recent_scores } else { Vec::new() };
        if runs > 0 || successes > 0 || !scores.is_empty() {
            work.statistics().count_runs(runs, successes, &scores).await?;
        }
        work.commit().await?;
        Ok(())
    }

    /// Old vectors of the length of those that our embedder makes, if it could have made them.
    fn compatible(&self, length: Option<usize>, vectors: Vec<(PatternKey, Vec<f32>)>) -> HashMap<PatternKey, Vector> {
        let (Some(embedder), Some(length)) = (&self.embedder, length) else { return HashMap::new() };
        vectors
            .into_iter()
            .filter(|(_, values)| values.len() == length)
            .filter_map(|(key, values)| Some((key, Vector::normalized(embedder.space().clone(), values)?)))
            .collect()
    }
}

/// What became of an older installation's patterns.
#[derive(Debug, Default)]
pub struct Adopted {
    /// How many were stored.
    pub stored: usize,
    /// Those that were left out, and why.
    pub flawed: Vec<(PatternKey, Vec<Flaw>)>,
}

/// Length of an embedder's vectors, if vectors of this model could be its own.
pub(super) async fn usable_length(embedder: Option<&dyn Embedder>, model: Option<&str>) -> Option<usize> {
    let (embedder, model) = (embedder?, model?);
    let model = model.rsplit('/').next().unwrap_or(model).to_lowercase();
    if model.is_empty() || !embedder.space().as_str().to_lowercase().contains(&model) {
        return None;
    }
    let sample = embedder.embed(&["sample"], Priority::Background).await.ok()?;
    Some(sample.first()?.values.len())
}
