//! recall: search, rank, group, page (`spec/engramia/20` §2; decisions 16 to 18b).

use std::collections::HashSet;

use super::ranking::{Row, representatives};
use super::warnings::Warning;
use super::{Result, Services};
use crate::domain::analytics::Event;
use crate::domain::tier::Calibration;
use crate::domain::{Caller, Pattern, PatternId, ReuseTier};
use crate::ports::{ModelError, Priority, Vector};
use crate::store::Work;
use crate::store::memory::{Filter, Nearest, NearestQuery, Ranking, Recency};

/// A question to the memory.
#[derive(Debug, Clone)]
pub struct Recall {
    /// The task at hand.
    pub task: String,
    /// Matches a page, 1 to 50.
    pub limit: usize,
    /// Matches to skip.
    pub offset: usize,
    /// Whether near-duplicate tasks show only their best.
    pub deduplicate: bool,
    /// Whether quality counts in the order.
    pub eval_weighted: bool,
    /// Which patterns.
    pub filter: Filter,
    /// Least similarity of a match.
    pub min_similarity: Option<f64>,
    /// Least confidence of a match.
    pub min_confidence: Option<f64>,
    /// Share of the rank that fades with age, in [0, 1].
    pub recency_weight: f64,
    /// Age at which half of that share is gone.
    pub recency_half_life_days: f64,
    /// Whether keywords join the rank.
    pub hybrid: bool,
    /// Whether the recall leaves no trace.
    pub readonly: bool,
}

impl Recall {
    /// The best matches of a task, without a trace.
    pub fn unseen(task: String, limit: usize) -> Self {
        Self {
            task,
            limit,
            offset: 0,
            deduplicate: true,
            eval_weighted: true,
            filter: Filter::default(),
            min_similarity: None,
            min_confidence: None,
            recency_weight: 0.0,
            recency_half_life_days: 30.0,
            hybrid: false,
            readonly: true,
        }
    }
}

/// How the matches were found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// By meaning.
    Semantic,
    /// By meaning and keywords.
    Hybrid,
    /// By keywords alone: embeddings are off or the provider failed.
    Keyword,
    /// By meaning, and by keywords where vectors are still being made.
    Partial,
}

impl Mode {
    /// Value of the `X-Engramia-Recall-Mode` header.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Semantic => "semantic",
            Self::Hybrid => "hybrid",
            Self::Keyword => "keyword",
            Self::Partial => "partial",
        }
    }
}

/// One match.
#[derive(Debug, Clone)]
pub struct Match {
    /// The pattern, its reuse count up to date.
    pub pattern: Pattern,
    /// The parts of its rank.
    pub rank: Nearest,
    /// What to do with it.
    pub tier: ReuseTier,
    /// Probability that it serves the task; `None` where similarity is not a cosine.
    pub confidence: Option<f64>,
}

/// A page of matches.
#[derive(Debug, Clone)]
pub struct Recalled {
    /// Best first.
    pub matches: Vec<Match>,
    /// Offset of the next page, if there is one.
    pub next_offset: Option<usize>,
    /// How they were found.
    pub mode: Mode,
    /// What went wrong at such tasks before, most severe first.
    pub warnings: Vec<Warning>,
}

/// Rows that are grouped at a time. Whatever the limit of a page is, pages agree with each other.
const BLOCK: usize = 16;

/// A query that is ready for the store.
struct Search<'a> {
    query: &'a Recall,
    vector: Option<Vector>,
    calibration: Calibration,
    ranking: Ranking,
    mode: Mode,
}

impl Services {
    /// Finds the patterns that serve a task.
    #[tracing::instrument(target = "engramia::spans", name = "memory.recall", skip_all, err)]
    pub async fn recall(&self, caller: &Caller, query: Recall) -> Result<Recalled> {
        let search = self.search(&query).await?;
        let mut work = self.store.read(&caller.scope).await?;
        let wanted = query.offset + query.limit;
        let mut rows = ranked(work.as_mut(), &search, wanted + 1).await?;
        let has_more = rows.len() > wanted;
        rows.truncate(wanted);
        let page: Vec<Nearest> = rows.drain(query.offset.min(rows.len())..).collect();
        let ids: Vec<_> = page.iter().map(|row| row.id).collect();
        let patterns = work.patterns().get(&ids).await?;
        drop(work);

        let mut matches: Vec<Match> = Vec::with_capacity(page.len());
        let mut patterns = patterns.into_iter().peekable();
        for rank in page {
            // A pattern that was deleted meanwhile leaves a gap, never a wrong neighbour.
            if let Some(mut pattern) = patterns.next_if(|pattern| pattern.id == rank.id) {
                pattern.body.reuse_count += self.reuse.pending(&caller.scope, pattern.id);
                let confidence = (search.vector.is_some()).then(|| search.calibration.confidence(rank.similarity));
                matches.push(Match { tier: self.rules.tiers.tier(rank.similarity), pattern, rank, confidence });
            }
        }
        if !query.readonly {
            let best = matches.iter().max_by(|a, b| a.rank.similarity.total_cmp(&b.rank.similarity));
            let best = best.map(|found| (found.rank.similarity, found.tier, found.pattern.body.key.clone()));
            let event = Event::recalled(self.new_id(), self.clock.now(), best);
            self.reuse.record(&caller.scope, matches.iter().map(|found| found.pattern.id), event);
        }
        let warnings = match &search.vector {
            Some(vector) => self.warnings(&caller.scope, vector).await,
            None => Vec::new(),
        };
        Ok(Recalled { matches, next_offset: has_more.then_some(wanted), mode: search.mode, warnings })
    }

    async fn search<'a>(&self, query: &'a Recall) -> Result<Search<'a>> {
        let recency = (query.recency_weight > 0.0).then(|| Recency {
            weight: query.recency_weight,
            half_life_days: query.recency_half_life_days,
            now: self.clock.now(),
        });
        let ranking = Ranking { quality: query.eval_weighted, recency };
        let keyword = Search { query, vector: None, calibration: Calibration::Identity, ranking, mode: Mode::Keyword };
        let Some(embedder) = &self.embedder else { return Ok(keyword) };
        match embedder.embed(&[&query.task], Priority::Interactive).await {
            Ok(mut vectors) => {
                let mode = match (self.backlog.is_pending(), query.hybrid) {
                    (true, _) => Mode::Partial,
                    (false, true) => Mode::Hybrid,
                    (false, false) => Mode::Semantic,
                };
                Ok(Search { vector: vectors.pop(), calibration: embedder.calibration(), mode, ..keyword })
            }
            Err(busy @ ModelError::Busy { .. }) => Err(busy.into()),
            Err(error) => {
                tracing::warn!(%error, "recalling by keywords: the embedding provider failed");
                Ok(keyword)
            }
        }
    }
}

/// The first `wanted` rows of the answer, over all pages.
#[tracing::instrument(target = "engramia::spans", name = "memory.search", skip_all, err)]
async fn ranked(work: &mut dyn Work, search: &Search<'_>, wanted: usize) -> Result<Vec<Nearest>> {
    let query = search.query;
    let mut depth = if query.deduplicate { wanted.next_multiple_of(BLOCK) } else { wanted };
    loop {
        let found = found(work, search, depth).await?;
        let exhausted = found.len() < depth;
        let mut rows: Vec<Nearest> = found.into_iter().filter(|row| search.admits(row)).collect();
        if query.deduplicate {
            rows = grouped(work, rows).await?;
        }
        if rows.len() >= wanted || exhausted {
            rows.truncate(wanted);
            return Ok(rows);
        }
        depth *= 2;
    }
}

impl Search<'_> {
    /// Whether a row is similar enough.
    fn admits(&self, row: &Nearest) -> bool {
        self.query.min_similarity.is_none_or(|least| row.similarity >= least)
            && self.query.min_confidence.is_none_or(|least| self.calibration.confidence(row.similarity) >= least)
    }
}

async fn found(work: &mut dyn Work, search: &Search<'_>, limit: usize) -> Result<Vec<Nearest>> {
    let query = search.query;
    let Some(vector) = &search.vector else {
        return Ok(work.patterns().matching(&query.task, &query.filter, &search.ranking, limit).await?);
    };
    let nearest = NearestQuery {
        vector: vector.clone(),
        keywords: query.hybrid.then(|| query.task.clone()),
        filter: query.filter,
        ranking: search.ranking,
        limit,
    };
    // Those that wait come first: a pattern that gets its vector in between is then found twice, never missed.
    let mut waiting = match search.mode {
        Mode::Partial => {
            let filter = Filter { waiting: true, ..query.filter };
            work.patterns().matching(&query.task, &filter, &search.ranking, limit).await?
        }
        _ => Vec::new(),
    };
    let mut rows = work.patterns().nearest(&nearest).await?;
    if !waiting.is_empty() {
        let found: HashSet<PatternId> = rows.iter().map(|row| row.id).collect();
        waiting.retain(|row| !found.contains(&row.id));
        rows.append(&mut waiting);
        rows.sort_by(|a, b| b.score.total_cmp(&a.score).then(a.id.cmp(&b.id)));
        rows.truncate(limit);
    }
    Ok(rows)
}

/// Only the rows that stand for their groups, in the same order.
async fn grouped(work: &mut dyn Work, rows: Vec<Nearest>) -> Result<Vec<Nearest>> {
    let ids: Vec<_> = rows.iter().map(|row| row.id).collect();
    let tasks = work.patterns().tasks(&ids).await?;
    let mut tasks = tasks.into_iter().peekable();
    let (mut kept, mut described) = (Vec::with_capacity(rows.len()), Vec::with_capacity(rows.len()));
    for row in rows {
        if let Some(task) = tasks.next_if(|task| task.id == row.id) {
            described.push(Row {
                words: task.words,
                merit: row.quality * row.recency,
                success_score: task.success_score,
            });
            kept.push(row);
        }
    }
    Ok(representatives(&described, BLOCK).into_iter().map(|at| kept[at]).collect())
}
