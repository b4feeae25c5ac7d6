//! Failure analysis: recurring issues in clusters by meaning (`spec/engramia/20` §6, decision 15).

use super::feedback::{Known, SAME_WORDS};
use super::{Result, Services, again};
use crate::domain::{Caller, Feedback, Ratings, Scope};
use crate::ports::{Priority, Vector};
use crate::store::memory::IssueTask;

/// Two clusters are one if their issues are at least this similar on the average. Lower than what makes two issues the
/// same: a cluster shows what belongs together and destroys nothing (docs/feedback.md has the figures).
const TOGETHER: f64 = 0.55;
/// What an issue without a known evaluation counts as: the middle of the scale.
const UNKNOWN_SCORE: f64 = 5.0;

/// Issues that mean about the same.
#[derive(Debug, Clone, PartialEq)]
pub struct FailureCluster {
    /// The strongest member.
    pub representative: String,
    /// Texts of all its issues, strongest first.
    pub members: Vec<String>,
    /// How often they were seen together.
    pub total_count: u64,
    /// Mean overall score of the evaluations behind them, in [0, 10], 4 decimals.
    pub avg_score: f64,
}

impl Services {
    /// Clusters the issues that were seen at least `min_count` times, the most frequent cluster first.
    ///
    /// # Errors
    /// When the store fails. Without an embedder issues are compared by their words.
    pub async fn analyze_failures(&self, caller: &Caller, min_count: u64) -> Result<Vec<FailureCluster>> {
        if let Err(error) = self.embed_issues(&caller.scope).await {
            tracing::warn!(%error, "comparing issues by their words where they have no vector");
        }
        let mut work = self.store.read(&caller.scope).await?;
        let issues = work.feedback().all().await?;
        let vectors = work.feedback().vectors().await?;
        drop(work);
        let mut vectors: std::collections::HashMap<String, Vector> = vectors.into_iter().collect();
        let issues = issues.into_iter().filter(|issue| u64::from(issue.count) >= min_count);
        let mut known: Vec<Known> = issues
            .map(|issue| {
                let vector = vectors.remove(&issue.text);
                Known::new(issue, vector)
            })
            .collect();
        known.sort_by(|a, b| strongest_first(&a.issue, &b.issue));
        Ok(clusters(&known))
    }

    /// Gives the issues of a scope and their tasks the vectors that they lack in the embedder's space, at low priority.
    pub(super) async fn embed_issues(&self, scope: &Scope) -> Result<()> {
        let Some(embedder) = &self.embedder else { return Ok(()) };
        let space = embedder.space();
        let mut work = self.store.read(scope).await?;
        let issues = work.feedback().all().await?;
        let vectors = work.feedback().vectors().await?;
        let tasks = work.feedback().tasks().await?;
        drop(work);
        let has = |text: &str| vectors.iter().any(|(of, vector)| of == text && vector.space == *space);
        let issues: Vec<String> = issues.into_iter().map(|issue| issue.text).filter(|text| !has(text)).collect();
        let lacks = |task: &IssueTask| task.vector.as_ref().is_none_or(|vector| vector.space != *space);
        let tasks: Vec<(String, IssueTask)> = tasks.into_iter().filter(|(_, task)| lacks(task)).collect();
        let texts: Vec<&str> =
            issues.iter().chain(tasks.iter().map(|(_, task)| &task.text)).map(String::as_str).collect();
        let mut vectors = Vec::with_capacity(texts.len());
        for batch in texts.chunks(embedder.batch_size().max(1)) {
            vectors.extend(embedder.embed(batch, Priority::Background).await?);
        }
        if vectors.is_empty() {
            return Ok(());
        }
        let (of_issues, of_tasks) = vectors.split_at(issues.len().min(vectors.len()));
        again(|| async {
            let mut work = self.store.begin(scope).await?;
            for (text, vector) in issues.iter().zip(of_issues) {
                work.feedback().attach(text, vector).await?;
            }
            for ((issue, task), vector) in tasks.iter().zip(of_tasks) {
                let task = IssueTask { vector: Some(vector.clone()), ..task.clone() };
                work.feedback().note_tasks(issue, &[task]).await?;
            }
            Ok(work.commit().await?)
        })
        .await
    }
}

fn strongest_first(a: &Feedback, b: &Feedback) -> std::cmp::Ordering {
    b.strength().total_cmp(&a.strength()).then(b.count.cmp(&a.count)).then(a.text.cmp(&b.text))
}

/// How alike two issues are: by their words where those are the same, else by their vectors if they can be compared.
fn likeness(a: &Known, b: &Known) -> f64 {
    if a.shared_words(b) > SAME_WORDS { 1.0 } else { a.cosine(b).unwrap_or(0.0) }
}

/// Average-link clustering: the two clusters that are most alike become one, as long as they are alike enough. Issues
/// come strongest first, and so do the members; ties go to the stronger ones, so that the outcome is always the same.
fn clusters(issues: &[Known]) -> Vec<FailureCluster> {
    let alike: Vec<Vec<f64>> = issues.iter().map(|a| issues.iter().map(|b| likeness(a, b)).collect()).collect();
    let mut groups: Vec<Vec<usize>> = (0..issues.len()).map(|at| vec![at]).collect();
    let average = |a: &[usize], b: &[usize]| {
        let sum: f64 = a.iter().flat_map(|x| b.iter().map(|y| alike[*x][*y])).sum();
        sum / (a.len() * b.len()) as f64
    };
    loop {
        let mut best: Option<(f64, usize, usize)> = None;
        for first in 0..groups.len() {
            for second in first + 1..groups.len() {
                let alike = average(&groups[first], &groups[second]);
                if alike >= TOGETHER && best.is_none_or(|(most, ..)| alike > most) {
                    best = Some((alike, first, second));
                }
            }
        }
        let Some((_, first, second)) = best else { break };
        let joining = groups.remove(second);
        groups[first].extend(joining);
        groups[first].sort_unstable();
    }
    let mut clusters: Vec<FailureCluster> = groups.into_iter().map(|group| cluster(issues, &group)).collect();
    // Stable: of equally frequent clusters the one with the strongest member comes first.
    clusters.sort_by_key(|cluster| std::cmp::Reverse(cluster.total_count));
    clusters
}

fn cluster(issues: &[Known], group: &[usize]) -> FailureCluster {
    let members: Vec<String> = group.iter().map(|at| issues[*at].issue.text.clone()).collect();
    let ratings = group.iter().fold(Ratings::default(), |sum, at| sum.and(issues[*at].issue.ratings));
    FailureCluster {
        representative: members.first().cloned().unwrap_or_default(),
        members,
        total_count: group.iter().map(|at| u64::from(issues[*at].issue.count)).sum(),
        avg_score: ratings.mean().unwrap_or(UNKNOWN_SCORE),
    }
}
