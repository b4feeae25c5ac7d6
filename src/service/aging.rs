//! Time decay of patterns and of feedback (`spec/engramia/20` §5 and §8).

use super::{Result, Services};
use crate::domain::{Caller, Feedback, decayed_score};

/// Weekly factor of a pattern's score.
const PER_WEEK: f64 = 0.98;
/// Below this score a pattern is pruned.
const PRUNE_BELOW: f64 = 0.1;
/// Rows a unit of work: short enough that a learn in between hardly waits.
const BATCH: u32 = 500;

impl Services {
    /// Fades every score of the scope and removes what fell below 0.1; how many were removed.
    ///
    /// Decay counts from the last decay, so that the total depends on age alone.
    pub async fn age_patterns(&self, caller: &Caller) -> Result<u64> {
        let now = self.clock.now();
        let (mut after, mut pruned) = (None, 0);
        loop {
            let mut work = self.store.begin(&caller.scope).await?;
            let rows = work.patterns().scores(after, BATCH).await?;
            let Some(last) = rows.last() else { return Ok(pruned) };
            after = Some(last.id);
            let mut faded = Vec::with_capacity(rows.len());
            for mut row in rows {
                let score = decayed_score(row.success_score, PER_WEEK, row.decayed_at, now);
                if score < PRUNE_BELOW {
                    pruned += u64::from(work.patterns().delete(&row.key).await?);
                } else if score < row.success_score {
                    // A decay too small to show is left for later, so that rounding never eats it.
                    row.success_score = score;
                    row.decayed_at = now;
                    faded.push(row);
                }
            }
            work.patterns().set_scores(&faded).await?;
            work.commit().await?;
        }
    }

    /// Fades every recurring issue and forgets what fell below 0.15; how many were forgotten.
    pub async fn decay_feedback(&self, caller: &Caller) -> Result<u64> {
        let now = self.clock.now();
        let mut work = self.store.begin(&caller.scope).await?;
        let before = work.feedback().all().await?;
        let kept: Vec<Feedback> = before
            .iter()
            .cloned()
            .map(|mut issue| {
                let score = decayed_score(issue.score, Feedback::DECAY_PER_WEEK, issue.decayed_at, now);
                if score < issue.score {
                    issue.score = score;
                    issue.decayed_at = now;
                }
                issue
            })
            .filter(|issue| issue.score >= Feedback::FORGOTTEN_BELOW)
            .collect();
        let forgotten = before.len() - kept.len();
        if kept != before {
            work.feedback().replace(&kept).await?;
            work.commit().await?;
        }
        Ok(forgotten as u64)
    }
}
