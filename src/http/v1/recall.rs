//! `POST /v1/recall`, and the shape of a match.

use axum::Json;
use axum::extract::State;
use axum::http::HeaderName;
use serde::Serialize;
use utoipa::ToSchema;

use super::outcome::EvidenceView;
use crate::domain::Pattern;
use crate::domain::record::MAX_TASK;
use crate::http::AppState;
use crate::http::caller::{Authorized, needs};
use crate::http::extract::Body;
use crate::http::fields::{Fields, FromFields, Text};
use crate::http::openapi::Errors;
use crate::http::problem::Problem;
use crate::service::recall::{Match, Recall};
use crate::service::warnings::Warning;
use crate::store::memory::{Filter, KEYWORD_WEIGHT};

/// Says how the matches were found: `semantic`, `hybrid`, `keyword` or `partial`.
const MODE: HeaderName = HeaderName::from_static("x-engramia-recall-mode");

/// A task to find patterns for.
#[derive(ToSchema)]
#[expect(dead_code, reason = "documents the body that `FromFields for Recall` reads")]
pub struct RecallRequest {
    /// The task at hand.
    #[schema(max_length = 10_000, example = "Read CSV and calculate averages")]
    task: String,
    /// Matches a page.
    #[schema(minimum = 1, maximum = 50, default = 5)]
    limit: Option<u32>,
    /// Matches to skip.
    #[schema(minimum = 0, maximum = 10_000, default = 0)]
    offset: Option<u32>,
    /// Show only the best of near-duplicate tasks.
    #[schema(default = true)]
    deduplicate: Option<bool>,
    /// Multiply the rank by the quality factor in [0.5, 1.0].
    #[schema(default = true)]
    eval_weighted: Option<bool>,
    /// Only this sensitivity.
    #[schema(pattern = "^(public|internal|confidential)$")]
    classification: Option<String>,
    /// Only this origin.
    #[schema(pattern = "^(api|sdk|cli|import)$")]
    source: Option<String>,
    /// Only `success_score` at or above.
    #[schema(minimum = 0.0, maximum = 10.0)]
    min_score: Option<f64>,
    /// Only matches at least this similar.
    #[schema(minimum = 0.0, maximum = 1.0)]
    min_similarity: Option<f64>,
    /// Only matches that serve the task with at least this probability; lets a caller see that nothing does.
    #[schema(minimum = 0.0, maximum = 1.0)]
    min_confidence: Option<f64>,
    /// Share of the rank that fades with age.
    #[schema(minimum = 0.0, maximum = 1.0, default = 0.0)]
    recency_weight: Option<f64>,
    /// Age in days at which half of that share is gone.
    #[schema(minimum = 0.01, maximum = 36_500.0, default = 30.0)]
    recency_half_life_days: Option<f64>,
    /// Add the keyword score to the rank.
    #[schema(default = false)]
    hybrid: Option<bool>,
    /// Leave no trace: reuse is not counted.
    #[schema(default = false)]
    readonly: Option<bool>,
    /// Show how each rank came about.
    #[schema(default = false)]
    explain: Option<bool>,
}

/// A recall with what only its answer needs.
pub struct Question {
    recall: Recall,
    explain: bool,
}

impl FromFields for Question {
    fn read(fields: &mut Fields) -> Self {
        let recall = Recall {
            task: fields.required_text("task", Text::up_to(MAX_TASK).not_blank()),
            limit: fields.integer("limit", 1, 50, 5) as usize,
            offset: fields.integer("offset", 0, 10_000, 0) as usize,
            deduplicate: fields.flag("deduplicate", true),
            eval_weighted: fields.flag("eval_weighted", true),
            filter: Filter {
                classification: fields.word("classification"),
                source: fields.word("source"),
                min_score: fields.number("min_score", 0.0, 10.0),
                waiting: false,
            },
            min_similarity: fields.number("min_similarity", 0.0, 1.0),
            min_confidence: fields.number("min_confidence", 0.0, 1.0),
            recency_weight: fields.number("recency_weight", 0.0, 1.0).unwrap_or(0.0),
            recency_half_life_days: fields.number("recency_half_life_days", 0.01, 36_500.0).unwrap_or(30.0),
            hybrid: fields.flag("hybrid", false),
            readonly: fields.flag("readonly", false),
        };
        Self { recall, explain: fields.flag("explain", false) }
    }
}

/// A page of matches.
#[derive(Serialize, ToSchema)]
pub struct RecallResponse {
    /// Best first.
    pub matches: Vec<MatchView>,
    /// Whether there are more.
    pub has_more: bool,
    /// Offset of the next page.
    pub next_offset: Option<usize>,
    /// What went wrong at such tasks again and again, most severe first; absent where nothing did.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[schema(max_items = 3)]
    pub warnings: Vec<WarningView>,
}

/// A recurring issue of tasks like the one at hand.
#[derive(Serialize, ToSchema)]
pub struct WarningView {
    /// What evaluations said.
    issue: String,
    /// How often.
    #[schema(minimum = 2)]
    count: u32,
    /// Mean overall score of these evaluations.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(minimum = 0.0, maximum = 10.0)]
    avg_score: Option<f64>,
    /// Cosine similarity to the nearest task in which it arose.
    #[schema(minimum = 0.0, maximum = 1.0)]
    similarity: f64,
}

impl From<Warning> for WarningView {
    fn from(warning: Warning) -> Self {
        let Warning { issue, count, avg_score, similarity } = warning;
        Self { issue, count, avg_score, similarity: rounded(similarity) }
    }
}

/// A pattern that may serve the task.
#[derive(Serialize, ToSchema)]
pub struct MatchView {
    /// Cosine similarity of the tasks.
    #[schema(minimum = 0.0, maximum = 1.0, example = 0.91)]
    similarity: f64,
    /// What to do with it: `duplicate`, `adapt` or `fresh`.
    #[schema(example = "adapt")]
    reuse_tier: &'static str,
    /// Public name.
    #[schema(example = "patterns/0be2046e_1795319203747")]
    pattern_key: String,
    /// The pattern.
    pattern: PatternView,
    /// What the order goes by: similarity with quality, recency and keywords.
    #[serde(skip_serializing_if = "Option::is_none")]
    effective_score: Option<f64>,
    /// Probability that the pattern serves the task.
    #[serde(skip_serializing_if = "Option::is_none")]
    confidence: Option<f64>,
    /// The parts of the rank, on request.
    #[serde(skip_serializing_if = "Option::is_none")]
    explain: Option<Explanation>,
}

/// A stored pattern.
#[derive(Serialize, ToSchema)]
pub struct PatternView {
    /// What was to be done.
    task: String,
    /// The solution.
    code: Option<String>,
    /// Quality of the run.
    success_score: f64,
    /// How often recall returned it before.
    reuse_count: u64,
    /// The same code where older clients look for it.
    design: DesignView,
}

/// The solution with its labels.
#[derive(Serialize, ToSchema)]
pub struct DesignView {
    /// The solution.
    #[serde(skip_serializing_if = "Option::is_none")]
    code: Option<String>,
    /// Captured output.
    #[serde(skip_serializing_if = "Option::is_none")]
    output: Option<String>,
    /// Sensitivity.
    classification: &'static str,
    /// Origin.
    source: &'static str,
}

/// `effective_score = (similarity + keyword_weight * keyword) * quality * recency`.
#[derive(Serialize, ToSchema)]
pub struct Explanation {
    similarity: f64,
    keyword: f64,
    keyword_weight: f64,
    quality: f64,
    recency: f64,
    effective_score: f64,
    /// What `quality` is made of.
    evidence: EvidenceView,
}

impl MatchView {
    fn new(found: Match, explain: bool) -> Self {
        let rank = found.rank;
        let evidence = EvidenceView::new(&found.pattern.body.evidence);
        Self {
            similarity: rounded(rank.similarity),
            reuse_tier: found.tier.as_str(),
            pattern_key: found.pattern.body.key.to_string(),
            pattern: PatternView::new(found.pattern),
            effective_score: Some(rounded(rank.score)),
            confidence: found.confidence.map(rounded),
            explain: explain.then_some(Explanation {
                similarity: rank.similarity,
                keyword: rank.keyword,
                keyword_weight: KEYWORD_WEIGHT,
                quality: rank.quality,
                recency: rank.recency,
                effective_score: rank.score,
                evidence,
            }),
        }
    }

    /// A pattern found by its tags: an exact match.
    pub fn of_skill(pattern: Pattern) -> Self {
        Self {
            similarity: 1.0,
            reuse_tier: crate::domain::ReuseTier::Duplicate.as_str(),
            pattern_key: pattern.body.key.to_string(),
            pattern: PatternView::new(pattern),
            effective_score: None,
            confidence: None,
            explain: None,
        }
    }
}

impl PatternView {
    fn new(pattern: Pattern) -> Self {
        let body = pattern.body;
        Self {
            task: body.task,
            code: body.code.clone(),
            success_score: body.success_score,
            reuse_count: body.reuse_count,
            design: DesignView {
                code: body.code,
                output: body.output,
                classification: body.classification.as_str(),
                source: body.source.as_str(),
            },
        }
    }
}

/// 6 decimals, as the guide's clients expect.
pub(super) fn rounded(value: f64) -> f64 {
    (value * 1e6).round() / 1e6
}

/// Find stored patterns for a task.
#[utoipa::path(post, path = "/v1/recall", operation_id = "recall", tag = "memory", request_body = RecallRequest,
    responses((status = 200, body = RecallResponse), Errors))]
pub async fn recall(
    State(state): State<AppState>,
    Authorized { caller, .. }: Authorized<needs::Recall>,
    Body(question): Body<Question>,
) -> Result<([(HeaderName, &'static str); 1], Json<RecallResponse>), Problem> {
    let recalled = state.services.recall(&caller, question.recall).await?;
    state.metrics.recall(!recalled.matches.is_empty());
    let body = RecallResponse {
        matches: recalled.matches.into_iter().map(|found| MatchView::new(found, question.explain)).collect(),
        has_more: recalled.next_offset.is_some(),
        next_offset: recalled.next_offset,
        warnings: recalled.warnings.into_iter().map(WarningView::from).collect(),
    };
    Ok(([(MODE, recalled.mode.as_str())], Json(body)))
}
