//! What is seen of a pattern's quality: outcomes, judgements, corrections (`docs/quality.md`, decision 16).

use super::feedback::PreparedIssue;
use super::{Result, ServiceError, Services, again};
use crate::domain::evidence::{WEIGHED, weigh};
use crate::domain::{Caller, Evidence, EvidenceKind, Observation, Pattern, PatternKey, Timestamp};
use crate::store::Work;
use crate::store::memory::Evaluation;

/// What came of using a pattern.
#[derive(Debug, Clone)]
pub struct Outcome {
    /// Score in [0, 10].
    pub score: f64,
    /// The caller's run; one run is counted once.
    pub run_id: Option<String>,
    /// What was remarked.
    pub note: Option<String>,
    /// Whether the caller knows better than everything that was seen before.
    pub is_correction: bool,
}

/// What an outcome changed.
#[derive(Debug, Clone)]
pub struct Judged {
    /// Whether it was counted: a run that was reported before is not.
    pub recorded: bool,
    /// What is known of the pattern now.
    pub evidence: Evidence,
}

/// A piece of evidence on its way to the store.
#[derive(Debug, Clone)]
pub(super) struct Seen {
    pub(super) kind: EvidenceKind,
    pub(super) score: f64,
    pub(super) weight: f64,
    pub(super) run_id: Option<String>,
    pub(super) note: Option<String>,
}

impl Seen {
    /// A piece that counts as its kind does.
    pub(super) fn of(kind: EvidenceKind, score: f64, run_id: Option<String>) -> Self {
        Self { kind, score, weight: kind.weight(), run_id, note: None }
    }
}

impl Services {
    /// Books what came of using a pattern. What was remarked on a failure joins the recurring issues.
    ///
    /// # Errors
    /// [`ServiceError::PatternNotFound`] for an unknown key.
    pub async fn record_outcome(&self, caller: &Caller, key: &PatternKey, mut outcome: Outcome) -> Result<Judged> {
        if let Some(note) = &mut outcome.note {
            *note = self.redacted(std::mem::take(note)).await?;
        }
        let issue = self.issue_of(caller, key, &outcome).await?;
        let kind = if outcome.is_correction { EvidenceKind::Correction } else { EvidenceKind::Outcome };
        let seen = Seen { note: outcome.note, ..Seen::of(kind, outcome.score, outcome.run_id) };
        let judged = again(|| async {
            let mut work = self.store.begin(&caller.scope).await?;
            let pattern = work.patterns().find(key).await?.ok_or(ServiceError::PatternNotFound)?;
            let judged = self.observe(work.as_mut(), &pattern, seen.clone()).await?;
            if let Some(issue) = issue.as_ref().filter(|_| judged.recorded) {
                self.record_issue(work.as_mut(), issue).await?;
            }
            work.commit().await?;
            Ok(judged)
        })
        .await?;
        if issue.is_some() {
            self.issues_changed(&caller.scope).await;
        }
        Ok(judged)
    }

    /// What was remarked on a failure.
    async fn issue_of(&self, caller: &Caller, key: &PatternKey, outcome: &Outcome) -> Result<Option<PreparedIssue>> {
        let note = outcome.note.as_ref().filter(|_| outcome.score < self.rules.success_threshold);
        let Some(note) = note else { return Ok(None) };
        let pattern = self.store.read(&caller.scope).await?.patterns().find(key).await?;
        let task = pattern.ok_or(ServiceError::PatternNotFound)?.body.task;
        Ok(Some(self.prepare_issue(&task, note, outcome.score).await?))
    }

    /// Books a piece of evidence, and sets what the pattern's evidence says.
    pub(super) async fn observe(&self, work: &mut dyn Work, pattern: &Pattern, seen: Seen) -> Result<Judged> {
        let evidence = self.add(work, pattern, seen).await?;
        if let Some(evidence) = &evidence {
            work.patterns().set_evidence(pattern.id, evidence).await?;
        }
        Ok(Judged { recorded: evidence.is_some(), evidence: evidence.unwrap_or(pattern.body.evidence) })
    }

    /// Books a piece of evidence; what the evidence says now, or `None` if this outcome was booked before.
    pub(super) async fn add(&self, work: &mut dyn Work, pattern: &Pattern, seen: Seen) -> Result<Option<Evidence>> {
        let now = self.clock.now();
        let mut history = work.patterns().evaluations(pattern.id, WEIGHED).await?;
        if history.iter().any(|earlier| is_same_run(earlier, &seen)) {
            return Ok(None);
        }
        if let Some(base) = carried(pattern).filter(|_| history.is_empty()) {
            let base = self.evaluation(base.kind, base.score, base.weight, base.at);
            work.patterns().record_evaluation(pattern.id, &base).await?;
            history.push(base);
        }
        let Seen { kind, score, weight, run_id, note } = seen;
        let evaluation = Evaluation { run_id, note, ..self.evaluation(kind, score, weight, now) };
        work.patterns().record_evaluation(pattern.id, &evaluation).await?;
        let mut pieces: Vec<Observation> = history.iter().map(Evaluation::observation).collect();
        pieces.push(evaluation.observation());
        let evidence = weigh(&pieces, now);
        // What is too old to be weighed has still been seen.
        Ok(Some(Evidence { count: evidence.count.max(pattern.body.evidence.count + 1), ..evidence }))
    }

    /// A row of the history.
    pub(super) fn evaluation(&self, kind: EvidenceKind, score: f64, weight: f64, at: Timestamp) -> Evaluation {
        Evaluation { id: self.new_id(), kind, score, weight, run_id: None, note: None, at }
    }
}

/// A caller that did not hear the answer reports the same run again.
fn is_same_run(earlier: &Evaluation, seen: &Seen) -> bool {
    let is_outcome = |kind| matches!(kind, EvidenceKind::Outcome | EvidenceKind::Correction);
    is_outcome(seen.kind) && earlier.kind == seen.kind && seen.run_id.is_some() && earlier.run_id == seen.run_id
}

/// What a pattern that was imported knows without having a history.
fn carried(pattern: &Pattern) -> Option<Observation> {
    let evidence = pattern.body.evidence;
    let kind = if evidence.count <= 1 { EvidenceKind::Reported } else { EvidenceKind::Carried };
    let at = evidence.seen_at.unwrap_or(pattern.body.created_at);
    evidence.mean().map(|score| Observation { kind, score, weight: evidence.weight, at })
}
