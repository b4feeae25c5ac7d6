//! What was learned and recalled, event by event, and what it adds up to (`spec/engramia/20` §11).

use chrono::TimeDelta;

use super::{PatternKey, ReuseTier, Timestamp, words};

words! {
    /// What happened.
    EventKind {
        /// A run was learned.
        Learn = "learn",
        /// Patterns were asked for.
        Recall = "recall"
    }
}

words! {
    /// How far back a roll-up looks.
    Window {
        /// One hour.
        Hourly = "hourly",
        /// One day.
        Daily = "daily",
        /// Seven days.
        Weekly = "weekly"
    }
}

impl Window {
    /// Every one.
    pub const ALL: [Self; 3] = [Self::Hourly, Self::Daily, Self::Weekly];

    /// Its length.
    pub fn length(self) -> TimeDelta {
        match self {
            Self::Hourly => TimeDelta::hours(1),
            Self::Daily => TimeDelta::days(1),
            Self::Weekly => TimeDelta::weeks(1),
        }
    }

    /// The last time at or before `at` that is a whole number of windows after the epoch.
    pub fn floor(self, at: Timestamp) -> Timestamp {
        at - TimeDelta::seconds(at.timestamp().rem_euclid(self.length().num_seconds()))
            - TimeDelta::microseconds(i64::from(at.timestamp_subsec_micros()))
    }
}

/// One learn or one recall.
#[derive(Debug, Clone, PartialEq)]
pub struct Event {
    /// UUIDv7.
    pub id: String,
    /// When.
    pub at: Timestamp,
    /// What.
    pub kind: EventKind,
    /// Score of the run that was learned, 6 decimals.
    pub eval_score: Option<f64>,
    /// Similarity of the best match, 6 decimals; `None` without a match.
    pub similarity: Option<f64>,
    /// Tier of the best match.
    pub tier: Option<ReuseTier>,
    /// The pattern that was learned, or that matched best. It may be gone by now.
    pub pattern_key: Option<PatternKey>,
}

impl Event {
    /// How many of the newest are kept of a scope.
    pub const KEPT: u32 = 10_000;

    /// A run was learned.
    pub fn learned(id: String, at: Timestamp, score: f64, key: PatternKey) -> Self {
        let (similarity, tier) = (None, None);
        Self {
            id,
            at,
            kind: EventKind::Learn,
            eval_score: Some(short(score)),
            similarity,
            tier,
            pattern_key: Some(key),
        }
    }

    /// Patterns were asked for; `best` is the most similar one.
    pub fn recalled(id: String, at: Timestamp, best: Option<(f64, ReuseTier, PatternKey)>) -> Self {
        let (similarity, tier, pattern_key) = match best {
            Some((similarity, tier, key)) => (Some(short(similarity)), Some(tier), Some(key)),
            None => (None, None, None),
        };
        Self { id, at, kind: EventKind::Recall, eval_score: None, similarity, tier, pattern_key }
    }
}

/// 6 decimals: both stores keep them exactly, however they write numbers.
fn short(value: f64) -> f64 {
    (value * 1e6).round() / 1e6
}

/// What the events of a window add up to. Shares and means have 4 decimals, and are 0 of nothing.
#[derive(Debug, Clone, PartialEq)]
pub struct Rollup {
    /// How far back it looked.
    pub window: Window,
    /// Recalls.
    pub recalls: u64,
    /// Of these, with a best match to use as it is.
    pub duplicate_hits: u64,
    /// Of these, with a best match to modify.
    pub adapt_hits: u64,
    /// Of these, with a best match that is context only; recalls without any match are in no tier.
    pub fresh_misses: u64,
    /// Mean similarity of the best matches.
    pub avg_similarity: f64,
    /// Learns.
    pub learns: u64,
    /// Mean of their scores.
    pub avg_score: f64,
    /// Median of their scores.
    pub p50_score: f64,
    /// Nine of ten scores are not above it.
    pub p90_score: f64,
    /// When it was computed: the end of the window.
    pub computed_at: Timestamp,
}

impl Rollup {
    /// Adds up the events of the window that ends at `now`.
    pub fn of(window: Window, events: &[Event], now: Timestamp) -> Self {
        let count = |test: &dyn Fn(&Event) -> bool| events.iter().filter(|event| test(event)).count() as u64;
        let hits = |tier: ReuseTier| count(&|event| event.kind == EventKind::Recall && event.tier == Some(tier));
        let similarities: Vec<f64> = events.iter().filter_map(|event| event.similarity).collect();
        let mut scores: Vec<f64> = events.iter().filter_map(|event| event.eval_score).collect();
        scores.sort_by(f64::total_cmp);
        Self {
            window,
            recalls: count(&|event| event.kind == EventKind::Recall),
            duplicate_hits: hits(ReuseTier::Duplicate),
            adapt_hits: hits(ReuseTier::Adapt),
            fresh_misses: hits(ReuseTier::Fresh),
            avg_similarity: mean(&similarities),
            learns: count(&|event| event.kind == EventKind::Learn),
            avg_score: mean(&scores),
            p50_score: median(&scores),
            p90_score: nearest_rank(&scores, 90),
            computed_at: now,
        }
    }

    /// Share of recalls whose best match is of use.
    pub fn reuse_rate(&self) -> f64 {
        let useful = self.duplicate_hits + self.adapt_hits;
        if self.recalls == 0 { 0.0 } else { decimals(useful as f64 / self.recalls as f64) }
    }

    /// What the memory is worth, in [0, 10]: `0.6 * reuse_rate * 10 + 0.4 * avg_score`.
    pub fn roi_score(&self) -> f64 {
        decimals((0.6 * self.reuse_rate() * 10.0 + 0.4 * self.avg_score).clamp(0.0, 10.0))
    }

    /// Where the window of the calendar begins that it was computed in.
    pub fn window_start(&self) -> Timestamp {
        self.window.floor(self.computed_at)
    }
}

fn decimals(value: f64) -> f64 {
    (value * 1e4).round() / 1e4
}

fn mean(values: &[f64]) -> f64 {
    if values.is_empty() { 0.0 } else { decimals(values.iter().sum::<f64>() / values.len() as f64) }
}

/// Of an even number of values the mean of the two in the middle.
fn median(sorted: &[f64]) -> f64 {
    let n = sorted.len();
    if n == 0 { 0.0 } else { decimals(f64::midpoint(sorted[(n - 1) / 2], sorted[n / 2])) }
}

/// The value at rank `ceil(percent / 100 * n)`.
fn nearest_rank(sorted: &[f64], percent: usize) -> f64 {
    let rank = (sorted.len() * percent).div_ceil(100);
    rank.checked_sub(1).map_or(0.0, |at| decimals(sorted[at]))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(text: &str) -> Timestamp {
        crate::domain::time::parse_iso(text).expect("a time")
    }

    fn key() -> PatternKey {
        PatternKey::parse("patterns/x_1").expect("a key")
    }

    #[test]
    fn windows_begin_where_the_clock_says() {
        let now = at("2026-11-22T03:46:44.123456Z");
        assert_eq!(Window::Hourly.floor(now), at("2026-11-22T03:00:00Z"));
        assert_eq!(Window::Daily.floor(now), at("2026-11-22T00:00:00Z"));
        assert_eq!(Window::Weekly.floor(now), at("2026-11-19T00:00:00Z"), "weeks of the epoch begin on Thursdays");
        assert_eq!(Window::Daily.floor(Window::Daily.floor(now)), Window::Daily.floor(now));
    }

    #[test]
    fn a_rollup_adds_up() {
        let now = at("2026-11-22T03:46:44Z");
        let recall = |best: Option<(f64, ReuseTier)>| {
            Event::recalled(String::new(), now, best.map(|(similarity, tier)| (similarity, tier, key())))
        };
        let mut events: Vec<Event> =
            (1..=10).map(|n| Event::learned(String::new(), now, f64::from(n), key())).collect();
        events.push(recall(Some((0.95, ReuseTier::Duplicate))));
        events.push(recall(Some((0.75, ReuseTier::Adapt))));
        events.push(recall(Some((0.1, ReuseTier::Fresh))));
        events.push(recall(None));
        let rollup = Rollup::of(Window::Daily, &events, now);
        assert_eq!((rollup.recalls, rollup.learns), (4, 10));
        assert_eq!((rollup.duplicate_hits, rollup.adapt_hits, rollup.fresh_misses), (1, 1, 1));
        assert_eq!((rollup.avg_similarity, rollup.reuse_rate()), (0.6, 0.5));
        assert_eq!((rollup.avg_score, rollup.p50_score, rollup.p90_score), (5.5, 5.5, 9.0));
        assert!((rollup.roi_score() - 5.2).abs() < 1e-9);
    }

    #[test]
    fn nothing_adds_up_to_nothing() {
        let rollup = Rollup::of(Window::Hourly, &[], Timestamp::UNIX_EPOCH);
        assert_eq!((rollup.reuse_rate(), rollup.roi_score(), rollup.p90_score), (0.0, 0.0, 0.0));
        assert_eq!((nearest_rank(&[3.0], 90), median(&[1.0, 2.0])), (3.0, 1.5));
    }
}
