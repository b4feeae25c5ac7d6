//! Between rows and domain types.

use sqlx::Row;
use sqlx::sqlite::SqliteRow;

use crate::domain::evidence::Evidence;
use crate::domain::pattern::Extra;
use crate::domain::{NewPattern, Pattern, PatternId, Timestamp};
use crate::store::Result;
use crate::store::engine::RowMeta;
pub(super) use crate::store::engine::{column, corrupt, count, key, word};
use crate::store::memory::Evaluation;

/// Columns of [`pattern`], in its order.
macro_rules! pattern_columns {
    () => {
        "p.id, p.key, p.task, p.code, p.output, p.classification, p.source, p.run_id, p.author, p.redacted, \
         p.success_score, p.reuse_count + coalesce((select r.count from reuse r where r.pattern_id = p.id), 0), \
         p.created_at, p.decayed_at, \
         p.evidence_weight, p.evidence_sum, p.evidence_count, p.evidence_variance, p.evidence_seen_at, p.extra"
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
            evidence: Evidence {
                weight: row.try_get(14)?,
                sum: row.try_get(15)?,
                count: count(row.try_get(16)?),
                variance: row.try_get(17)?,
                seen_at: row.try_get::<Option<i64>, _>(18)?.map(time).transpose()?,
            },
            extra: Extra::from_json(row.try_get(19)?),
        },
    })
}

/// Columns of [`evaluation`], in its order.
macro_rules! evaluation_columns {
    () => {
        "e.id, e.kind, e.score, e.weight, e.run_id, e.note, e.created_at"
    };
}
pub(super) use evaluation_columns;

/// Reads an evaluation from column `first` on.
pub(super) fn evaluation(row: &SqliteRow, first: usize) -> Result<Evaluation> {
    Ok(Evaluation {
        id: row.try_get(first)?,
        kind: word(row.try_get(first + 1)?)?,
        score: row.try_get(first + 2)?,
        weight: row.try_get(first + 3)?,
        run_id: row.try_get(first + 4)?,
        note: row.try_get(first + 5)?,
        at: time(row.try_get(first + 6)?)?,
    })
}

/// Reads classification, source, success_score, evidence_weight, evidence_sum, created_at from column `first` on.
pub(super) fn meta(row: &SqliteRow, first: usize) -> Result<RowMeta> {
    Ok(RowMeta {
        classification: word(row.try_get(first)?)?,
        source: word(row.try_get(first + 1)?)?,
        success_score: row.try_get(first + 2)?,
        multiplier: Evidence::of_sums(row.try_get(first + 3)?, row.try_get(first + 4)?).multiplier(),
        created_at: time(row.try_get(first + 5)?)?,
    })
}

pub(super) fn time(micros: i64) -> Result<Timestamp> {
    Timestamp::from_timestamp_micros(micros).ok_or_else(|| corrupt("patterns", &"a time out of range"))
}

/// A digest of 32 bytes.
pub(super) fn digest(table: &'static str, bytes: &[u8]) -> Result<[u8; 32]> {
    bytes.try_into().map_err(|e| corrupt(table, &e))
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
