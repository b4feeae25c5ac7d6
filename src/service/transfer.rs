//! Export, import, and the adoption of an older data directory.

use std::collections::HashMap;

use futures_util::{Stream, stream};
use serde_json::{Map, Value};

use super::{Result, ServiceError, Services};
use crate::domain::pattern::Fingerprint;
use crate::domain::record::{self, Archive};
use crate::domain::{Caller, NewPattern, Pattern, PatternKey, Scope, Skill, Timestamp};
use crate::ports::{Priority, Vector};

/// Patterns that are read or written in one unit of work.
const BATCH: usize = 500;

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

impl Services {
    /// Every pattern of the scope in key order, read page by page.
    ///
    /// # Errors
    /// When reuse counts cannot be written first.
    pub async fn export(&self, scope: &Scope) -> Result<impl Stream<Item = Result<Vec<Pattern>>> + Send + 'static> {
        self.reuse.flush(self.store.as_ref()).await?;
        let (store, scope) = (std::sync::Arc::clone(&self.store), scope.clone());
        Ok(stream::try_unfold(None::<PatternKey>, move |after| {
            let (store, scope) = (std::sync::Arc::clone(&store), scope.clone());
            async move {
                let page = store.read(&scope).await?.patterns().page(after.as_ref(), BATCH as u32).await?;
                Ok(page.last().map(|last| last.body.key.clone()).map(|last| (page, Some(last))))
            }
        }))
    }

    /// Imports records; how many were stored. Newer format versions, foreign keys, and keys that exist (without
    /// `overwrite`) are skipped. Everything is checked before anything is stored.
    ///
    /// # Errors
    /// Every flaw of every record.
    pub async fn import(&self, caller: &Caller, records: Vec<Record>, overwrite: bool) -> Result<usize> {
        let now = self.clock.now();
        let (mut patterns, mut flaws) = (Vec::with_capacity(records.len()), Vec::new());
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
        let mut imported = 0;
        let mut patterns = patterns.into_iter();
        loop {
            let batch: Vec<NewPattern> = patterns.by_ref().take(BATCH).collect();
            if batch.is_empty() {
                return Ok(imported);
            }
            imported += self.store_batch(&caller.scope, batch, overwrite, &HashMap::new()).await?;
        }
    }

    /// Redacts, embeds (or takes the vector given by key) and writes one batch; how many were stored.
    async fn store_batch(
        &self,
        scope: &Scope,
        batch: Vec<NewPattern>,
        overwrite: bool,
        given: &HashMap<PatternKey, Vector>,
    ) -> Result<usize> {
        let prepared = self.prepare(batch, Priority::Background).await?;
        let vectors = self.vectors_of(&prepared, given).await?;
        let mut stored = 0;
        let mut work = self.store.begin(scope).await?;
        for ((pattern, _), vector) in prepared.into_iter().zip(&vectors) {
            if work.patterns().insert(&pattern, vector.as_ref()).await?.is_some() {
                stored += 1;
            } else if overwrite && let Some(existing) = work.patterns().find(&pattern.key).await? {
                work.patterns().update(&Pattern { id: existing.id, body: pattern }, vector.as_ref()).await?;
                stored += 1;
            }
        }
        work.commit().await?;
        if vectors.iter().any(Option::is_none) && self.embedder.is_some() {
            self.backlog.wake();
        }
        Ok(stored)
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

    /// Takes over one scope of an older installation. Doing it again changes nothing.
    pub async fn adopt(&self, archive: Archive) -> Result<usize> {
        let now = self.clock.now();
        let scope = archive.scope;
        let given = self.compatible(archive.model.as_deref(), archive.vectors).await;
        let (mut stored, mut skipped) = (0, 0);
        let mut batch = Vec::with_capacity(BATCH);
        let mut patterns = archive.patterns.into_iter().peekable();
        while let Some((key, data)) = patterns.next() {
            match record::parse(key.clone(), data, now) {
                Ok(pattern) => batch.push(pattern),
                Err(flaws) => {
                    skipped += 1;
                    let flaws: Vec<_> = flaws.iter().map(|flaw| flaw.path.join(".")).collect();
                    tracing::warn!(%key, ?flaws, "an old pattern is flawed and was left out");
                }
            }
            if batch.len() == BATCH || patterns.peek().is_none() {
                stored += self.store_batch(&scope, std::mem::take(&mut batch), false, &given).await?;
            }
        }
        self.adopt_rest(&scope, archive.skills, &archive.feedback, (archive.runs, archive.successes), now).await?;
        tracing::info!(
            tenant = scope.tenant(),
            project = scope.project(),
            imported = stored,
            skipped,
            "took over an older data directory"
        );
        Ok(stored)
    }

    async fn adopt_rest(
        &self,
        scope: &Scope,
        skills: Vec<(PatternKey, Vec<String>)>,
        feedback: &[crate::domain::Feedback],
        (runs, successes): (u64, u64),
        now: Timestamp,
    ) -> Result<()> {
        let mut work = self.store.begin(scope).await?;
        for (key, tags) in skills {
            if let Some(pattern) = work.patterns().find(&key).await? {
                work.skills().set(pattern.id, &Skill::distinct(tags.iter().map(String::as_str)), now).await?;
            }
        }
        if !feedback.is_empty() {
            work.feedback().replace(feedback).await?;
        }
        let counted = work.statistics().get().await?;
        let (runs, successes) = (runs.saturating_sub(counted.runs), successes.saturating_sub(counted.successes));
        work.statistics().count_runs(runs, successes, &[]).await?;
        work.commit().await?;
        Ok(())
    }

    /// Old vectors that our embedder could have made: those of the same model and of the same length as one that it
    /// makes now.
    async fn compatible(
        &self,
        model: Option<&str>,
        vectors: Vec<(PatternKey, Vec<f32>)>,
    ) -> HashMap<PatternKey, Vector> {
        let (Some(embedder), Some(model)) = (&self.embedder, model) else { return HashMap::new() };
        let model = model.rsplit('/').next().unwrap_or(model).to_lowercase();
        let same_model = !model.is_empty() && embedder.space().as_str().to_lowercase().contains(&model);
        if vectors.is_empty() || !same_model {
            return HashMap::new();
        }
        let Ok(sample) = embedder.embed(&["sample"], Priority::Background).await else { return HashMap::new() };
        let length = sample.first().map(|vector| vector.values.len());
        vectors
            .into_iter()
            .filter(|(_, values)| Some(values.len()) == length)
            .filter_map(|(key, values)| Some((key, Vector::normalized(embedder.space().clone(), values)?)))
            .collect()
    }
}
