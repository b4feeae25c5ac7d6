//! learn: redact, embed, de-duplicate, store (`spec/engramia/20` §1, decision 14).

use super::evidence::Seen;
use super::texts::INLINE_BYTES;
use super::{Result, Services, again};
use crate::domain::analytics::Event;
use crate::domain::pattern::{Extra, Fingerprint};
use crate::domain::text::WordSet;
use crate::domain::{
    Caller, Classification, Evidence, EvidenceKind, NewPattern, Pattern, PatternId, PatternKey, Source, text, words,
};
use crate::ports::{ModelError, Priority, Vector};
use crate::store::Work;
use crate::store::memory::{Evaluation, Mark};

words! {
    /// What to do when the pattern is there already.
    OnDuplicate {
        /// Join the evidence; take the code if it differs and scored better.
        Merge = "merge",
        /// Store it beside the other.
        KeepBoth = "keep_both",
        /// Change nothing.
        Skip = "skip"
    }
}

/// A run to remember.
#[derive(Debug, Clone)]
pub struct Learn {
    /// What was to be done.
    pub task: String,
    /// The solution.
    pub code: String,
    /// Quality, 0 to 10.
    pub eval_score: f64,
    /// Captured output.
    pub output: Option<String>,
    /// Caller's correlation id.
    pub run_id: Option<String>,
    /// Sensitivity.
    pub classification: Classification,
    /// Origin.
    pub source: Source,
    /// What to do when it is there already.
    pub on_duplicate: OnDuplicate,
}

/// What learning did.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Learned {
    /// Whether something new was stored.
    pub stored: bool,
    /// Patterns of the scope now.
    pub pattern_count: u64,
    /// The pattern that carries this run now.
    pub pattern_key: PatternKey,
}

/// Near-duplicate rule of decision 14.
const TASK_JACCARD: f64 = 0.92;
const TASK_COSINE: f64 = 0.98;
const CODE_JACCARD: f64 = 0.95;
/// How many patterns of the same task are compared by their code.
const SAME_TASK: u32 = 16;
/// How many patterns of a near task are compared.
const NEAR_TASKS: usize = 8;

/// What a look before the unit of work that writes found.
#[derive(Default)]
struct Look {
    /// The pattern that the run repeats.
    twin: Option<PatternId>,
    /// What the look has seen; `None` without a vector.
    mark: Option<Mark>,
}

impl Services {
    /// Stores a run, or joins its evidence to the pattern it repeats.
    #[tracing::instrument(target = "engramia::spans", name = "memory.learn", skip_all, err)]
    pub async fn learn(&self, caller: &Caller, run: Learn) -> Result<Learned> {
        let now = self.clock.now();
        let on_duplicate = run.on_duplicate;
        let new = NewPattern {
            key: PatternKey::of_task(&run.task, now.timestamp_millis()),
            task: run.task,
            code: Some(run.code),
            output: run.output,
            classification: run.classification,
            source: run.source,
            run_id: run.run_id,
            author: caller.key_id.as_deref().map(str::to_owned),
            redacted: false,
            success_score: run.eval_score,
            reuse_count: 0,
            created_at: now,
            decayed_at: now,
            evidence: Evidence::of_report(run.eval_score, now),
            extra: Extra::default(),
        };
        let mut prepared = self.prepare(vec![new], Priority::Interactive).await?;
        let Some((mut new, fingerprint)) = prepared.pop() else { return Err(super::ServiceError::InvalidKey) };
        // The key names the text that is stored, not the one that was sent.
        new.key = PatternKey::of_task(&new.task, now.timestamp_millis());
        let vector = self.vector_of(&new.task).await?;
        let look = match on_duplicate {
            OnDuplicate::KeepBoth => Look::default(),
            OnDuplicate::Merge | OnDuplicate::Skip => self.look(caller, &new, &fingerprint, vector.as_ref()).await?,
        };

        let write = || self.write_run(caller, &new, &fingerprint, vector.as_ref(), on_duplicate, &look);
        let learned = again(write).await?;
        self.reuse.gained(&caller.scope, 1);
        if vector.is_none() {
            self.backlog.wake();
        }
        Ok(learned)
    }

    /// One unit of work: looks once more, then stores or joins.
    async fn write_run(
        &self,
        caller: &Caller,
        new: &NewPattern,
        fingerprint: &Fingerprint,
        vector: Option<&Vector>,
        on_duplicate: OnDuplicate,
        look: &Look,
    ) -> Result<Learned> {
        let score = new.success_score;
        let mut work = self.store.begin(&caller.scope).await?;
        self.in_good_standing(work.as_mut()).await?;
        let twin = match on_duplicate {
            OnDuplicate::KeepBoth => None,
            OnDuplicate::Merge | OnDuplicate::Skip => find_twin(work.as_mut(), new, fingerprint, vector, look).await?,
        };
        let (stored, key) = match twin {
            Some(twin) if on_duplicate == OnDuplicate::Skip => (false, twin.body.key),
            Some(twin) => {
                let seen = Seen::of(EvidenceKind::Reported, score, new.run_id.clone());
                let evidence = self.add(work.as_mut(), &twin, seen).await?.unwrap_or(twin.body.evidence);
                let (stored, merged) = merge(twin, new, evidence);
                work.patterns().update(&merged, None).await?;
                (stored, merged.body.key)
            }
            None => {
                let (id, key) = insert(work.as_mut(), new, vector).await?;
                self.within_quota(caller, work.as_mut(), 1).await?;
                let kind = EvidenceKind::Reported;
                let report = self.evaluation(kind, score, kind.weight(), new.created_at);
                let report = Evaluation { run_id: new.run_id.clone(), ..report };
                work.patterns().record_evaluation(id, &report).await?;
                (true, key)
            }
        };
        let success = u64::from(score >= self.rules.success_threshold);
        work.statistics().count_runs(1, success, &[score]).await?;
        let event = Event::learned(self.new_id(), new.created_at, score, key.clone());
        work.analytics().append(&[event]).await?;
        let pattern_count = work.statistics().get().await?.patterns;
        work.commit().await?;
        Ok(Learned { stored, pattern_count, pattern_key: key })
    }

    /// The task's vector. A provider that fails costs the vector, not the pattern: it is embedded later.
    async fn vector_of(&self, task: &str) -> Result<Option<Vector>> {
        let Some(embedder) = &self.embedder else { return Ok(None) };
        match embedder.embed(&[task], Priority::Interactive).await {
            Ok(mut vectors) => Ok(vectors.pop()),
            Err(busy @ ModelError::Busy { .. }) => Err(busy.into()),
            Err(error) => {
                tracing::warn!(%error, "storing a pattern without its vector; it will be embedded later");
                Ok(None)
            }
        }
    }

    /// Looks for the pattern that `new` repeats, before any writer has to wait for it.
    #[tracing::instrument(target = "engramia::spans", name = "memory.search", skip_all, err)]
    async fn look(
        &self,
        caller: &Caller,
        new: &NewPattern,
        fingerprint: &Fingerprint,
        vector: Option<&Vector>,
    ) -> Result<Look> {
        let mut work = self.store.read(&caller.scope).await?;
        let mut candidates = work.patterns().same_task(fingerprint, SAME_TASK).await?;
        let mut mark = None;
        if let Some(vector) = vector {
            let (near, seen) = work.patterns().near(vector, TASK_COSINE, NEAR_TASKS, None).await?;
            mark = Some(seen);
            candidates.extend(work.patterns().get(&near).await?);
        }
        drop(work);
        if candidates.is_empty() {
            return Ok(Look { twin: None, mark });
        }
        let bytes: usize = candidates.iter().filter_map(|c| c.body.code.as_ref()).map(String::len).sum();
        let new = new.clone();
        let judge = move || twin_among(&new, candidates).map(|twin| twin.id);
        let twin = if bytes <= INLINE_BYTES { judge() } else { self.compute.run(Priority::Interactive, judge).await? };
        Ok(Look { twin, mark })
    }
}

/// The stored pattern that `new` repeats. Runs inside the unit of work that writes, so that two equal runs at once
/// leave one row: equal texts are found by their digests, near ones among what came since the look.
async fn find_twin(
    work: &mut dyn Work,
    new: &NewPattern,
    fingerprint: &Fingerprint,
    vector: Option<&Vector>,
    look: &Look,
) -> Result<Option<Pattern>> {
    if let Some(twin) = work.patterns().equal(fingerprint).await? {
        return Ok(Some(twin));
    }
    if let Some(id) = look.twin
        && let Some(twin) = work.patterns().get(&[id]).await?.pop()
    {
        return Ok(Some(twin));
    }
    let (Some(vector), Some(mark)) = (vector, look.mark) else { return Ok(None) };
    let (since, _) = work.patterns().near(vector, TASK_COSINE, NEAR_TASKS, Some(mark)).await?;
    if since.is_empty() {
        return Ok(None);
    }
    let candidates = work.patterns().get(&since).await?;
    Ok(twin_among(new, candidates))
}

/// The first candidate with the same task and the same code, by the rule of decision 14.
fn twin_among(new: &NewPattern, candidates: Vec<Pattern>) -> Option<Pattern> {
    let words = |task: &str| WordSet::of_words(&text::normalized(task));
    let tokens = |code: &Option<String>| WordSet::of_code(code.as_deref().unwrap_or_default());
    let (task, code) = (words(&new.task), tokens(&new.code));
    candidates.into_iter().find(|candidate| {
        task.jaccard(&words(&candidate.body.task)) >= TASK_JACCARD
            && code.jaccard(&tokens(&candidate.body.code)) >= CODE_JACCARD
    })
}

/// Joins `new` to `twin`, whose evidence with it is given; whether its code was taken over.
fn merge(mut twin: Pattern, new: &NewPattern, evidence: Evidence) -> (bool, Pattern) {
    let better = new.code != twin.body.code && new.success_score > twin.body.success_score;
    let seen = twin.body.evidence.count.max(1) as f64;
    let body = &mut twin.body;
    body.evidence = evidence;
    if better {
        body.code.clone_from(&new.code);
        body.output.clone_from(&new.output);
        body.run_id.clone_from(&new.run_id);
        body.redacted |= new.redacted;
        body.success_score = new.success_score;
        body.decayed_at = new.decayed_at;
    } else {
        // The same solution again: its score is the mean of what was seen of it.
        let sum = body.success_score * seen + new.success_score;
        body.success_score = (sum / (seen + 1.0) * 1e4).round() / 1e4;
    }
    (better, twin)
}

/// Inserts under the first free key: two runs of one task in one millisecond are two patterns.
async fn insert(work: &mut dyn Work, new: &NewPattern, vector: Option<&Vector>) -> Result<(PatternId, PatternKey)> {
    if let Some(id) = work.patterns().insert(new, vector).await? {
        return Ok((id, new.key.clone()));
    }
    let (mut new, mut millis) = (new.clone(), new.created_at.timestamp_millis());
    loop {
        millis += 1;
        new.key = PatternKey::of_task(&new.task, millis);
        if let Some(id) = work.patterns().insert(&new, vector).await? {
            return Ok((id, new.key));
        }
    }
}
