//! Time decay of patterns and of feedback (`spec/engramia/20` §5 and §8).

use serde::{Deserialize, Serialize};

use super::jobs::Finish;
use super::{Result, Services};
use crate::domain::{Caller, PatternId, decayed_score};

/// Weekly factor of a pattern's score.
const PER_WEEK: f64 = 0.98;
/// Below this score a pattern is pruned.
const PRUNE_BELOW: f64 = 0.1;
/// Rows a unit of work: short enough that a learn in between hardly waits.
const BATCH: u32 = 500;

/// How far an aging is.
#[derive(Serialize, Deserialize, Default, Clone, Copy)]
struct Progress {
    /// The last pattern that was looked at.
    after: Option<i64>,
    pruned: u64,
}

impl Services {
    /// Fades every score of the scope and removes what fell below 0.1; how many were removed.
    ///
    /// Decay counts from the last decay, so that the total depends on age alone.
    pub async fn age_patterns(&self, caller: &Caller, finish: &Finish<'_, u64>) -> Result<u64> {
        let now = self.clock.now();
        let Progress { mut after, mut pruned } = finish.progress().unwrap_or_default();
        loop {
            let mut work = self.store.begin(&caller.scope).await?;
            let rows = work.patterns().scores(after.map(PatternId), BATCH).await?;
            let Some(last) = rows.last() else {
                if finish.settle(work.as_mut(), &pruned).await? {
                    work.commit().await?;
                }
                return Ok(pruned);
            };
            after = Some(last.id.0);
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
            finish.keep_progress(work.as_mut(), &Progress { after, pruned }).await?;
            work.commit().await?;
        }
    }

    /// Fades every recurring issue and forgets what fell below 0.15; how many were forgotten.
    pub async fn decay_feedback(&self, caller: &Caller, finish: &Finish<'_, u64>) -> Result<u64> {
        let now = self.clock.now();
        let mut work = self.store.begin(&caller.scope).await?;
        let (mut forgotten, mut changed) = (0, false);
        for before in work.feedback().all().await? {
            let after = before.clone().faded(now);
            if after.is_forgotten() {
                work.feedback().remove(&after.text).await?;
                forgotten += 1;
            } else if after != before {
                work.feedback().put(&after, None).await?;
            }
            changed |= after != before || after.is_forgotten();
        }
        if finish.settle(work.as_mut(), &forgotten).await? || changed {
            work.commit().await?;
        }
        if changed {
            self.issues_changed(&caller.scope).await;
        }
        Ok(forgotten)
    }
}
