//! What a row looks like in memory, and the small conversions that both databases share.

use std::str::FromStr;

use chrono::TimeDelta;

use crate::domain::{Classification, NewPattern, PatternKey, Source, Timestamp, UnknownWord};
use crate::store::memory::{Filter, Ranking};
use crate::store::{Result, StoreError};
use crate::vector::Weight;

/// What filters and ranking need of a row, kept beside its vector.
#[derive(Debug, Clone, Copy)]
pub(in crate::store) struct RowMeta {
    pub(in crate::store) classification: Classification,
    pub(in crate::store) source: Source,
    pub(in crate::store) success_score: f64,
    pub(in crate::store) multiplier: f64,
    pub(in crate::store) created_at: Timestamp,
}

impl RowMeta {
    pub(in crate::store) fn of(pattern: &NewPattern) -> Self {
        Self {
            classification: pattern.classification,
            source: pattern.source,
            success_score: pattern.success_score,
            multiplier: pattern.evidence.multiplier(),
            created_at: pattern.created_at,
        }
    }

    /// Whether the filter lets the row through.
    pub(in crate::store) fn passes(&self, filter: &Filter) -> bool {
        filter.classification.is_none_or(|wanted| wanted == self.classification)
            && filter.source.is_none_or(|wanted| wanted == self.source)
            && filter.min_score.is_none_or(|least| self.success_score >= least)
    }

    /// Quality multiplier and recency factor.
    pub(in crate::store) fn factors(&self, ranking: &Ranking) -> (f64, f64) {
        let quality = if ranking.quality { self.multiplier } else { 1.0 };
        (quality, ranking.recency.map_or(1.0, |recency| recency.factor(self.created_at)))
    }

    /// What the index multiplies by; `None` filters the row out.
    pub(in crate::store) fn weight(&self, filter: &Filter, ranking: &Ranking, bonus: f64) -> Option<Weight> {
        self.passes(filter).then(|| {
            let (quality, recency) = self.factors(ranking);
            Weight { factor: (quality * recency) as f32, bonus: bonus as f32 }
        })
    }
}

pub(in crate::store) fn key(text: &str) -> Result<PatternKey> {
    PatternKey::parse(text).map_err(|e| corrupt("patterns", &e))
}

pub(in crate::store) fn word<T: FromStr<Err = UnknownWord>>(text: &str) -> Result<T> {
    text.parse().map_err(|e| corrupt("patterns", &e))
}

/// A column that never holds a negative number.
pub(in crate::store) fn count(value: i64) -> u64 {
    u64::try_from(value).unwrap_or(0)
}

/// A small column that never holds a negative number.
pub(in crate::store) fn small(value: i32) -> u32 {
    u32::try_from(value).unwrap_or(0)
}

/// How long a job is left alone whose operation this version does not know.
pub(in crate::store) const NOT_MINE_FOR: TimeDelta = TimeDelta::minutes(1);

/// A number of rows or calls, for a column.
pub(in crate::store) fn column(count: u64) -> i64 {
    i64::try_from(count).unwrap_or(i64::MAX)
}

pub(in crate::store) fn corrupt(table: &'static str, what: &dyn std::fmt::Display) -> StoreError {
    StoreError::Corrupt { table, what: what.to_string() }
}
