//! Recurring quality issues of a scope (`spec/engramia/20` §5).

use super::Timestamp;
use super::evidence::weeks_between;

/// One recurring issue.
#[derive(Debug, Clone, PartialEq)]
pub struct Feedback {
    /// The text as first seen.
    pub text: String,
    /// How often it was seen; issues seen twice or more are shown.
    pub count: u32,
    /// Relevance in [0, 1]; fades by 0.90 a week.
    pub score: f64,
    /// What the evaluations behind it said.
    pub ratings: Ratings,
    /// When it was last seen.
    pub last_seen: Timestamp,
    /// From when the next decay counts.
    pub decayed_at: Timestamp,
}

/// Overall scores of evaluations, in [0, 10].
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct Ratings {
    /// How many.
    pub count: u32,
    /// Their sum.
    pub sum: f64,
}

impl Ratings {
    /// One score.
    pub fn of(score: f64) -> Self {
        Self { count: 1, sum: score }
    }

    /// Both together.
    pub fn and(self, other: Self) -> Self {
        Self { count: self.count.saturating_add(other.count), sum: self.sum + other.sum }
    }

    /// Mean, 4 decimals; `None` where no score is known, as of issues that were carried over from the original.
    pub fn mean(self) -> Option<f64> {
        (self.count > 0).then(|| (self.sum / f64::from(self.count) * 1e4).round() / 1e4)
    }
}

impl Feedback {
    /// Weekly factor of the decay.
    pub const DECAY_PER_WEEK: f64 = 0.90;
    /// Below this score an issue is forgotten.
    pub const FORGOTTEN_BELOW: f64 = 0.15;
    /// Longest text kept, in characters.
    pub const MAX_CHARS: usize = 5_000;
    /// Issues kept in a scope.
    pub const KEPT: usize = 50;
    /// Tasks kept of an issue.
    pub const TASKS: usize = 8;
    /// An issue is recurring from the second time on.
    pub const RECURRING: u32 = 2;
    /// Score of an issue that is seen for the first time.
    const FIRST_SCORE: f64 = 0.5;
    /// What each further time adds.
    const AGAIN: f64 = 0.1;

    /// An issue that is seen for the first time.
    pub fn new(text: String, rating: f64, now: Timestamp) -> Self {
        let ratings = Ratings::of(rating);
        Self { text, count: 1, score: Self::FIRST_SCORE, ratings, last_seen: now, decayed_at: now }
    }

    /// The issue as it is at `now`. Nothing is rounded, so that the total does not depend on how often it is asked.
    #[must_use]
    pub fn faded(mut self, now: Timestamp) -> Self {
        if now > self.decayed_at {
            self.score *= Self::DECAY_PER_WEEK.powf(weeks_between(self.decayed_at, now));
            self.decayed_at = now;
        }
        self
    }

    /// Whether too little is left of it.
    pub fn is_forgotten(&self) -> bool {
        self.score < Self::FORGOTTEN_BELOW
    }

    /// Seen once more.
    pub fn seen_again(&mut self, rating: f64, now: Timestamp) {
        self.count = self.count.saturating_add(1);
        self.score = (self.score + Self::AGAIN).min(1.0);
        self.ratings = self.ratings.and(Ratings::of(rating));
        self.last_seen = self.last_seen.max(now);
    }

    /// Takes over what another issue has gathered, which turned out to be the same. Both have to be faded.
    pub fn absorb(&mut self, other: &Self) {
        self.count = self.count.saturating_add(other.count);
        if other.score > self.score {
            (self.score, self.decayed_at) = (other.score, other.decayed_at);
        }
        self.ratings = self.ratings.and(other.ratings);
        self.last_seen = self.last_seen.max(other.last_seen);
    }

    /// What issues are ordered by, and the weakest of which has to go.
    pub fn strength(&self) -> f64 {
        self.score * f64::from(self.count)
    }
}

#[cfg(test)]
mod tests {
    use chrono::{DateTime, Duration};

    use super::*;

    fn day(n: i64) -> Timestamp {
        DateTime::UNIX_EPOCH + Duration::days(n)
    }

    #[test]
    fn an_issue_grows_to_one_and_keeps_the_mean_of_its_ratings() {
        let mut issue = Feedback::new("t".into(), 2.0, day(0));
        for _ in 0..9 {
            issue.seen_again(5.0, day(1));
        }
        assert_eq!((issue.count, issue.last_seen, issue.decayed_at), (10, day(1), day(0)));
        assert!((issue.score - 1.0).abs() < 1e-9);
        assert_eq!(issue.ratings.mean(), Some(4.7));
        assert_eq!(Ratings::default().mean(), None);
    }

    #[test]
    fn fading_often_is_fading_once() {
        let once = Feedback::new("t".into(), 2.0, day(0)).faded(day(70));
        let often = (1..=70 * 24).fold(Feedback::new("t".into(), 2.0, day(0)), |issue, hour| {
            issue.faded(DateTime::UNIX_EPOCH + Duration::hours(hour))
        });
        assert!((once.score - 0.5 * 0.9f64.powi(10)).abs() < 1e-9);
        assert!((once.score - often.score).abs() < 1e-9, "{} {}", once.score, often.score);
    }
}
