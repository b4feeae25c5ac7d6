//! Between rows and domain types.

use std::str::FromStr;

use sqlx::Row;
use sqlx::sqlite::SqliteRow;

use crate::domain::evidence::Evidence;
use crate::domain::pattern::Extra;
use crate::domain::{Classification, NewPattern, Pattern, PatternId, PatternKey, Source, Timestamp, UnknownWord};
use crate::store::memory::{Filter, Ranking};
use crate::store::{Result, StoreError};
use crate::vector::Weight;

impl From<sqlx::Error> for StoreError {
    fn from(error: sqlx::Error) -> Self {
        Self::Backend(anyhow::Error::new(error))
    }
}

/// What filters and ranking need of a row, kept beside its vector.
#[derive(Debug, Clone, Copy)]
pub(super) struct RowMeta {
    pub(super) classification: Classification,
    pub(super) source: Source,
    pub(super) success_score: f64,
    pub(super) multiplier: f64,
    pub(super) created_at: Timestamp,
}

impl RowMeta {
    pub(super) fn of(pattern: &NewPattern) -> Self {
        Self {
            classification: pattern.classification,
            source: pattern.source,
            success_score: pattern.success_score,
            multiplier: pattern.evidence.multiplier(),
            created_at: pattern.created_at,
        }
    }

    /// Whether the filter lets the row through.
    pub(super) fn passes(&self, filter: &Filter) -> bool {
        filter.classification.is_none_or(|wanted| wanted == self.classification)
            && filter.source.is_none_or(|wanted| wanted == self.source)
            && filter.min_score.is_none_or(|least| self.success_score >= least)
    }

    /// Quality multiplier and recency factor.
    pub(super) fn factors(&self, ranking: &Ranking) -> (f64, f64) {
        let quality = if ranking.quality { self.multiplier } else { 1.0 };
        (quality, ranking.recency.map_or(1.0, |recency| recency.factor(self.created_at)))
    }

    /// What the index multiplies by; `None` filters the row out.
    pub(super) fn weight(&self, filter: &Filter, ranking: &Ranking, bonus: f64) -> Option<Weight> {
        self.passes(filter).then(|| {
            let (quality, recency) = self.factors(ranking);
            Weight { factor: (quality * recency) as f32, bonus: bonus as f32 }
        })
    }
}

/// Columns of [`pattern`], in its order.
macro_rules! pattern_columns {
    () => {
        "p.id, p.key, p.task, p.code, p.output, p.classification, p.source, p.run_id, p.author, p.redacted, \
         p.success_score, p.reuse_count + coalesce((select r.count from reuse r where r.pattern_id = p.id), 0), p.created_at, p.decayed_at, p.evidence_weight, p.evidence_sum, p.extra"
    };
}
pub(super) use pattern_columns;

/// Reads a whole pattern.
pub(super) fn pattern(row: &SqliteRow) -> Result<Pattern> {
    Ok(Pattern {
        id: PatternId(row.try_get(0)?),
        body: NewPattern {
            key: key(row.try_get(1)?)?,
            task: row.try_get(2)?,
            code: row.try_get(3)?,
            output: row.try_get(4)?,
            classification: word(row.try_get(5)?)?,
            source: word(row.try_get(6)?)?,
            run_id: row.try_get(7)?,
            author: row.try_get(8)?,
            redacted: row.try_get(9)?,
            success_score: row.try_get(10)?,
            reuse_count: count(row.try_get(11)?),
            created_at: time(row.try_get(12)?)?,
            decayed_at: time(row.try_get(13)?)?,
            evidence: Evidence { weight: row.try_get(14)?, sum: row.try_get(15)? },
            extra: Extra::from_json(row.try_get(16)?),
        },
    })
}

/// Reads classification, source, success_score, evidence_weight, evidence_sum, created_at from column `first` on.
pub(super) fn meta(row: &SqliteRow, first: usize) -> Result<RowMeta> {
    Ok(RowMeta {
        classification: word(row.try_get(first)?)?,
        source: word(row.try_get(first + 1)?)?,
        success_score: row.try_get(first + 2)?,
        multiplier: Evidence { weight: row.try_get(first + 3)?, sum: row.try_get(first + 4)? }.multiplier(),
        created_at: time(row.try_get(first + 5)?)?,
    })
}

pub(super) fn key(text: &str) -> Result<PatternKey> {
    PatternKey::parse(text).map_err(|e| corrupt("patterns", &e))
}

pub(super) fn word<T: FromStr<Err = UnknownWord>>(text: &str) -> Result<T> {
    text.parse().map_err(|e| corrupt("patterns", &e))
}

pub(super) fn time(micros: i64) -> Result<Timestamp> {
    Timestamp::from_timestamp_micros(micros).ok_or_else(|| corrupt("patterns", &"a time out of range"))
}

/// A column that never holds a negative number.
pub(super) fn count(value: i64) -> u64 {
    u64::try_from(value).unwrap_or(0)
}

/// A number of rows or calls, for a column.
pub(super) fn column(count: u64) -> i64 {
    i64::try_from(count).unwrap_or(i64::MAX)
}

pub(super) fn corrupt(table: &'static str, what: &dyn std::fmt::Display) -> StoreError {
    StoreError::Corrupt { table, what: what.to_string() }
}

/// f32 components from little-endian bytes.
pub(super) fn vector_from_bytes(bytes: &[u8]) -> Result<Vec<f32>> {
    let (chunks, rest) = bytes.as_chunks::<4>();
    if chunks.is_empty() || !rest.is_empty() {
        return Err(corrupt("vectors", &"a vector of an odd length"));
    }
    Ok(chunks.iter().map(|chunk| f32::from_le_bytes(*chunk)).collect())
}

/// The inverse of [`vector_from_bytes`].
pub(super) fn vector_to_bytes(vector: &[f32]) -> Vec<u8> {
    vector.iter().flat_map(|value| value.to_le_bytes()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn vectors_round_trip_as_bytes() {
        let vector = [0.5, -1.25e-9, 0.0];
        assert_eq!(vector_from_bytes(&vector_to_bytes(&vector)).expect("three floats"), vector);
        for bad in [&[][..], &[1, 2, 3], &[0; 5]] {
            assert!(vector_from_bytes(bad).is_err());
        }
    }
}
