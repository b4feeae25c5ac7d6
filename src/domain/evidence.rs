//! What is known of a pattern's quality, and how scores fade (decision 16; `spec/engramia/20` §2.2 and §8).

use super::Timestamp;

/// Weighted evaluations of one pattern; the posterior mean over a neutral prior drives ranking.
///
/// The prior (5.0 with the weight of one evaluation) keeps a single score from deciding, and gives a pattern without
/// evidence the multiplier 0.75.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct Evidence {
    /// Sum of weights.
    pub weight: f64,
    /// Sum of weight times score, score in [0, 10].
    pub sum: f64,
}

impl Evidence {
    const PRIOR_MEAN: f64 = 5.0;
    const PRIOR_WEIGHT: f64 = 1.0;
    /// A score the caller gave itself counts as one unit.
    pub const SELF_REPORTED: f64 = 1.0;

    /// Evidence of one score.
    pub fn of(score: f64, weight: f64) -> Self {
        Self { weight, sum: weight * score }
    }

    /// Both together.
    pub fn and(self, other: Self) -> Self {
        Self { weight: self.weight + other.weight, sum: self.sum + other.sum }
    }

    /// Posterior mean in [0, 10].
    pub fn mean(self) -> f64 {
        ((Self::PRIOR_WEIGHT * Self::PRIOR_MEAN + self.sum) / (Self::PRIOR_WEIGHT + self.weight)).clamp(0.0, 10.0)
    }

    /// Ranking multiplier in [0.5, 1.0].
    pub fn multiplier(self) -> f64 {
        0.5 + 0.05 * self.mean()
    }
}

/// Weeks between two times, never negative.
fn weeks_between(since: Timestamp, now: Timestamp) -> f64 {
    const WEEK_MICROS: f64 = 7.0 * 86_400.0 * 1e6;
    ((now - since).num_microseconds().unwrap_or(0).max(0)) as f64 / WEEK_MICROS
}

/// `score` after `now - since` at `per_week` (0.98 for patterns, 0.90 for feedback), rounded to 4 decimals.
///
/// Decay is always measured from the last decay, so that the total depends on age alone and not on how often it runs.
pub fn decayed_score(score: f64, per_week: f64, since: Timestamp, now: Timestamp) -> f64 {
    (score * per_week.powf(weeks_between(since, now)) * 1e4).round() / 1e4
}

#[cfg(test)]
mod tests {
    use super::*;
    use chrono::{DateTime, Duration};

    #[test]
    fn a_pattern_without_evidence_is_neutral() {
        assert!((Evidence::default().multiplier() - 0.75).abs() < 1e-12);
        assert!((Evidence::of(10.0, 1.0).multiplier() - 0.875).abs() < 1e-12);
        assert!((Evidence::of(0.0, 1.0).multiplier() - 0.625).abs() < 1e-12);
    }

    #[test]
    fn more_evidence_moves_the_multiplier_further() {
        let one = Evidence::of(9.0, 1.0);
        assert!(one.and(one).multiplier() > one.multiplier());
        assert!(one.and(one).multiplier() <= 1.0);
    }

    #[test]
    fn decay_in_steps_equals_decay_at_once() {
        let start = DateTime::UNIX_EPOCH;
        let day = |n| start + Duration::days(n);
        let at_once = decayed_score(8.0, 0.98, start, day(70));
        let mut stepwise = 8.0;
        for n in 0..10 {
            stepwise = decayed_score(stepwise, 0.98, day(7 * n), day(7 * n + 7));
        }
        assert!((at_once - 8.0 * 0.98f64.powi(10)).abs() < 1e-4);
        assert!((at_once - stepwise).abs() < 1e-3);
        assert!((decayed_score(8.0, 0.98, day(7), start) - 8.0).abs() < f64::EPSILON, "a clock that jumps back");
    }
}
