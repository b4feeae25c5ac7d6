//! Traits of the memory itself: patterns, skills, feedback, statistics.

use async_trait::async_trait;

use super::Result;
use crate::domain::pattern::Fingerprint;
use crate::domain::text::WordSet;
use crate::domain::{
    Classification, Evidence, EvidenceKind, Feedback, NewPattern, Observation, Pattern, PatternId, PatternKey, Skill,
    Source, Timestamp,
};
use crate::ports::Vector;

/// Which rows a search may return. Filters are part of the search, so that a page is short only at its end.
#[derive(Debug, Clone, Copy, Default)]
pub struct Filter {
    /// Only this sensitivity.
    pub classification: Option<Classification>,
    /// Only this origin.
    pub source: Option<Source>,
    /// Only `success_score` at or above.
    pub min_score: Option<f64>,
    /// Only patterns that wait for a vector; in a keyword search.
    pub waiting: bool,
}

/// How age lowers a rank: `1 - weight + weight * 0.5^(age / half_life)`.
#[derive(Debug, Clone, Copy)]
pub struct Recency {
    /// Share of the score that fades, in (0, 1].
    pub weight: f64,
    /// Age in days at which half of that share is gone.
    pub half_life_days: f64,
    /// The time against which age is measured.
    pub now: Timestamp,
}

impl Recency {
    /// Factor in (0, 1] for a row made at `created_at`.
    pub fn factor(&self, created_at: Timestamp) -> f64 {
        let days = (self.now - created_at).num_microseconds().unwrap_or(i64::MAX).max(0) as f64 / 86_400e6;
        1.0 - self.weight + self.weight * 0.5f64.powf(days / self.half_life_days)
    }
}

/// What a search ranks by, beside similarity.
#[derive(Debug, Clone, Copy, Default)]
pub struct Ranking {
    /// Multiply by the quality multiplier in [0.5, 1.0].
    pub quality: bool,
    /// Multiply by the recency factor.
    pub recency: Option<Recency>,
}

/// A search by meaning.
#[derive(Debug, Clone)]
pub struct NearestQuery {
    /// What to look for.
    pub vector: Vector,
    /// Text whose keyword score joins the rank: `cosine + 0.2 * bm25 / max(bm25)` (decision 18b).
    pub keywords: Option<String>,
    /// Which rows.
    pub filter: Filter,
    /// In which order.
    pub ranking: Ranking,
    /// How many rows.
    pub limit: usize,
}

/// One row of a search. `score = (similarity + 0.2 * keyword) * quality * recency`.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Nearest {
    /// Which pattern.
    pub id: PatternId,
    /// Plain cosine, clamped to [0, 1]; word Jaccard in a keyword search.
    pub similarity: f64,
    /// Keyword score over the best keyword score of this query, in [0, 1].
    pub keyword: f64,
    /// Quality multiplier, 1 when quality does not count.
    pub quality: f64,
    /// Recency factor, 1 when age does not count.
    pub recency: f64,
    /// What the rows are sorted by, descending; ties by id.
    pub score: f64,
}

/// Weight of the keyword score in a hybrid rank.
pub const KEYWORD_WEIGHT: f64 = 0.2;

/// A point in the history of a scope's vectors; a later look needs only what came since.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub struct Mark(pub u64);

/// Patterns with their vectors and their text index.
#[async_trait]
pub trait Patterns: Send {
    /// Inserts a pattern; `None` when the key is taken.
    async fn insert(&mut self, pattern: &NewPattern, vector: Option<&Vector>) -> Result<Option<PatternId>>;
    /// Replaces everything of a stored pattern but its key; the old vector stays if `vector` is `None` and the task is
    /// the same. An unknown id is skipped.
    async fn update(&mut self, pattern: &Pattern, vector: Option<&Vector>) -> Result<()>;
    /// The pattern of this key.
    async fn find(&mut self, key: &PatternKey) -> Result<Option<Pattern>>;
    /// Patterns in the order of `ids`; those that are gone are left out.
    async fn get(&mut self, ids: &[PatternId]) -> Result<Vec<Pattern>>;
    /// Words of the tasks in the order of `ids`; those that are gone are left out.
    async fn tasks(&mut self, ids: &[PatternId]) -> Result<Vec<TaskRow>>;
    /// Removes a pattern with its vector, text, evidence and skills; whether there was one.
    async fn delete(&mut self, key: &PatternKey) -> Result<bool>;
    /// A pattern whose normalised task and code are equal; the newest of several.
    async fn equal(&mut self, fingerprint: &Fingerprint) -> Result<Option<Pattern>>;
    /// The newest patterns whose normalised task is equal, at most `limit`; exactly equal code first.
    async fn same_task(&mut self, fingerprint: &Fingerprint, limit: u32) -> Result<Vec<Pattern>>;
    /// Ids whose task vector has about this cosine at least, best first, at most `limit`, among those written after
    /// `since`; and the mark for the next look. Sees rows that other writers are about to commit. A few older rows and
    /// a few just below may be among them: the caller compares the texts.
    async fn near(
        &mut self,
        vector: &Vector,
        least: f64,
        limit: usize,
        since: Option<Mark>,
    ) -> Result<(Vec<PatternId>, Mark)>;
    /// Search by meaning.
    async fn nearest(&mut self, query: &NearestQuery) -> Result<Vec<Nearest>>;
    /// Search by words alone; `similarity` is the word Jaccard of the tasks.
    async fn matching(&mut self, text: &str, filter: &Filter, ranking: &Ranking, limit: usize) -> Result<Vec<Nearest>>;
    /// Patterns in key order after a key.
    async fn page(&mut self, after: Option<&PatternKey>, limit: u32) -> Result<Vec<Pattern>>;
    /// Patterns of these classifications in key order after a key, at most `rows`. A page ends with the pattern whose
    /// texts make it so many bytes long, so that its memory is bounded.
    async fn export_page(
        &mut self,
        after: Option<&PatternKey>,
        among: &[Classification],
        rows: u32,
        bytes: usize,
    ) -> Result<Vec<Pattern>>;
    /// Changes how sensitive a pattern is, and nothing else; what it was. `None` if there is none of this key.
    async fn classify(&mut self, key: &PatternKey, classification: Classification) -> Result<Option<Classification>>;
    /// Score, decay time and key of patterns in id order after an id.
    async fn scores(&mut self, after: Option<PatternId>, limit: u32) -> Result<Vec<ScoreRow>>;
    /// Sets faded scores.
    async fn set_scores(&mut self, rows: &[ScoreRow]) -> Result<()>;
    /// Adds to reuse counts; unknown ids are skipped.
    async fn count_reuse(&mut self, counts: &[(PatternId, u32)]) -> Result<()>;
    /// Attaches vectors to patterns that still have the text they were made from; others are skipped.
    async fn attach(&mut self, vectors: &[(PatternId, &str, &Vector)]) -> Result<()>;
    /// Records one evaluation of a pattern; an unknown id is skipped.
    async fn record_evaluation(&mut self, id: PatternId, evaluation: &Evaluation) -> Result<()>;
    /// The newest evaluations of a pattern, oldest first, at most `limit`.
    async fn evaluations(&mut self, id: PatternId, limit: u32) -> Result<Vec<Evaluation>>;
    /// Replaces what the evidence of a pattern says; an unknown id is skipped.
    async fn set_evidence(&mut self, id: PatternId, evidence: &Evidence) -> Result<()>;
}

/// What aging reads and writes.
#[derive(Debug, Clone, PartialEq)]
pub struct ScoreRow {
    /// Which pattern.
    pub id: PatternId,
    /// Its public name.
    pub key: PatternKey,
    /// Its score.
    pub success_score: f64,
    /// From when the next decay counts.
    pub decayed_at: Timestamp,
}

/// What grouping needs of a pattern.
#[derive(Debug, Clone, PartialEq)]
pub struct TaskRow {
    /// Which pattern.
    pub id: PatternId,
    /// Words of its task.
    pub words: WordSet,
    /// Its score.
    pub success_score: f64,
}

/// One piece of evidence.
#[derive(Debug, Clone, PartialEq)]
pub struct Evaluation {
    /// UUIDv7: about in order of time.
    pub id: String,
    /// Where it comes from.
    pub kind: EvidenceKind,
    /// Score in [0, 10].
    pub score: f64,
    /// How much it counts.
    pub weight: f64,
    /// Caller-supplied correlation id.
    pub run_id: Option<String>,
    /// What was remarked.
    pub note: Option<String>,
    /// When.
    pub at: Timestamp,
}

impl Evaluation {
    /// What weighing needs of it.
    pub fn observation(&self) -> Observation {
        Observation { kind: self.kind, score: self.score, weight: self.weight, at: self.at }
    }
}

/// Capability tags of patterns.
#[async_trait]
pub trait Skills: Send {
    /// Replaces the tags of a pattern; an unknown id is skipped.
    async fn set(&mut self, id: PatternId, skills: &[Skill], at: Timestamp) -> Result<()>;
    /// How many tags a pattern has.
    async fn count(&mut self, id: PatternId) -> Result<usize>;
    /// Patterns that carry all (or any) of the tags, in order of registration, at most `limit`.
    async fn search(&mut self, required: &[Skill], all: bool, limit: u32) -> Result<Vec<PatternId>>;
}

/// A task in whose evaluation an issue arose.
#[derive(Debug, Clone, PartialEq)]
pub struct IssueTask {
    /// The task.
    pub text: String,
    /// Its vector, in whatever space.
    pub vector: Option<Vector>,
    /// When the issue last arose there.
    pub seen_at: Timestamp,
}

/// Recurring issues. The text of an issue is its name in the scope.
#[async_trait]
pub trait Feedbacks: Send {
    /// Issues seen at least `least_count` times that contain `containing` (any case) in their text or in one of their
    /// tasks, by `score * count` descending, from `offset`.
    async fn top(
        &mut self,
        least_count: u32,
        containing: Option<&str>,
        offset: u32,
        limit: u32,
    ) -> Result<Vec<Feedback>>;
    /// Every issue, by text.
    async fn all(&mut self) -> Result<Vec<Feedback>>;
    /// Vectors of issues, in whatever space, with the texts of the issues; by text.
    async fn vectors(&mut self) -> Result<Vec<(String, Vector)>>;
    /// Tasks of every issue with the issue's text; by text, then newest first.
    async fn tasks(&mut self) -> Result<Vec<(String, IssueTask)>>;
    /// Stores an issue, in place of the one with its text if there is one; the old vector stays if `vector` is `None`.
    async fn put(&mut self, issue: &Feedback, vector: Option<&Vector>) -> Result<()>;
    /// Gives an issue a vector; an unknown text is skipped.
    async fn attach(&mut self, text: &str, vector: &Vector) -> Result<()>;
    /// Notes tasks of an issue, and keeps only its newest [`Feedback::TASKS`]. One that is noted already takes the new
    /// time, and the new vector if there is one; an unknown issue is skipped.
    async fn note_tasks(&mut self, text: &str, tasks: &[IssueTask]) -> Result<()>;
    /// Removes an issue with its tasks; whether there was one.
    async fn remove(&mut self, text: &str) -> Result<bool>;
}

/// Counters of one scope.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct ScopeStatistics {
    /// Stored patterns.
    pub patterns: u64,
    /// Calls of learn.
    pub runs: u64,
    /// Of these, with a score that counts as success.
    pub successes: u64,
    /// Calls of recall.
    pub recalls: u64,
    /// Of these, with at least one match.
    pub recall_hits: u64,
    /// The newest evaluation scores, oldest first, at most [`Self::RECENT`].
    pub recent_scores: Vec<f64>,
}

impl ScopeStatistics {
    /// How many scores the rolling average covers.
    pub const RECENT: usize = 10;

    /// Mean of the newest scores, 2 decimals.
    pub fn average_score(&self) -> Option<f64> {
        let n = self.recent_scores.len();
        (n > 0).then(|| (self.recent_scores.iter().sum::<f64>() / n as f64 * 100.0).round() / 100.0)
    }
}

/// Sums over all scopes.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Totals {
    /// Stored patterns.
    pub patterns: u64,
    /// Calls of learn.
    pub runs: u64,
    /// Of these, successful.
    pub successes: u64,
    /// Calls of recall.
    pub recalls: u64,
    /// Of these, with a match.
    pub recall_hits: u64,
    /// Mean of the scopes' rolling averages; `None` without any evaluation.
    pub average_score: Option<f64>,
    /// Scopes with an evaluation.
    pub scored: u64,
    /// Share of the true best rows that searches through an approximate index found lately, the worst index; `None`
    /// without such an index.
    pub ann_recall: Option<f64>,
}

/// Counters of the scope, kept with the writes, read in constant time.
#[async_trait]
pub trait Statistics: Send {
    /// All of them; zeros for a scope without rows.
    async fn get(&mut self) -> Result<ScopeStatistics>;
    /// Counts learns: how many, how many successful, and their scores.
    async fn count_runs(&mut self, runs: u64, successes: u64, scores: &[f64]) -> Result<()>;
    /// Counts recalls.
    async fn count_recalls(&mut self, recalls: u64, hits: u64) -> Result<()>;
}
