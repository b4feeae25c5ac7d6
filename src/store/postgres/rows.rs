//! Between rows and domain types.

use sqlx::Row;
use sqlx::postgres::PgRow;

use crate::domain::evidence::Evidence;
use crate::domain::pattern::Extra;
use crate::domain::{NewPattern, Pattern, PatternId};
use crate::store::Result;
use crate::store::engine::{RowMeta, count, key, word};
use crate::store::memory::Evaluation;

/// A character for private use that stands before the digit of what PostgreSQL's texts cannot hold.
const ESCAPE: char = '\u{E000}';

/// Text for a column. PostgreSQL knows no NUL: it is written as an escape, and so is the escape itself.
pub(super) fn column_text(text: &str) -> String {
    if !text.contains(['\0', ESCAPE]) {
        return text.to_owned();
    }
    text.replace(ESCAPE, "\u{E000}1").replace('\0', "\u{E000}0")
}

/// The inverse of [`column_text`].
pub(super) fn text(column: String) -> String {
    if !column.contains(ESCAPE) {
        return column;
    }
    column.replace("\u{E000}0", "\0").replace("\u{E000}1", "\u{E000}")
}

/// [`column_text`] of what may be absent.
pub(super) fn column_option(text: Option<&String>) -> Option<String> {
    text.map(|text| column_text(text))
}

/// Columns of [`pattern`], in its order.
macro_rules! pattern_columns {
    () => {
        "p.id, p.key, p.task, p.code, p.output, p.classification, p.source, p.run_id, p.author, p.redacted, \
         p.success_score, p.reuse_count + coalesce((select r.count from reuse r where r.tenant_id = $1 and \
         r.project_id = $2 and r.pattern_id = p.id), 0), p.created_at, p.decayed_at, p.evidence_weight, \
         p.evidence_sum, p.evidence_count, p.evidence_variance, p.evidence_seen_at, p.extra"
    };
}
pub(super) use pattern_columns;

/// Reads a whole pattern.
pub(super) fn pattern(row: &PgRow) -> Result<Pattern> {
    Ok(Pattern {
        id: PatternId(row.try_get(0)?),
        body: NewPattern {
            key: key(&text(row.try_get(1)?))?,
            task: text(row.try_get(2)?),
            code: row.try_get::<Option<String>, _>(3)?.map(text),
            output: row.try_get::<Option<String>, _>(4)?.map(text),
            classification: word(row.try_get(5)?)?,
            source: word(row.try_get(6)?)?,
            run_id: row.try_get::<Option<String>, _>(7)?.map(text),
            author: row.try_get::<Option<String>, _>(8)?.map(text),
            redacted: row.try_get(9)?,
            success_score: row.try_get(10)?,
            reuse_count: count(row.try_get(11)?),
            created_at: row.try_get(12)?,
            decayed_at: row.try_get(13)?,
            evidence: Evidence {
                weight: row.try_get(14)?,
                sum: row.try_get(15)?,
                count: count(row.try_get(16)?),
                variance: row.try_get(17)?,
                seen_at: row.try_get(18)?,
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
pub(super) fn evaluation(row: &PgRow, first: usize) -> Result<Evaluation> {
    Ok(Evaluation {
        id: row.try_get(first)?,
        kind: word(row.try_get(first + 1)?)?,
        score: row.try_get(first + 2)?,
        weight: row.try_get(first + 3)?,
        run_id: row.try_get::<Option<String>, _>(first + 4)?.map(text),
        note: row.try_get::<Option<String>, _>(first + 5)?.map(text),
        at: row.try_get(first + 6)?,
    })
}

/// Reads classification, source, success_score, evidence_weight, evidence_sum, created_at from column `first` on.
pub(super) fn meta(row: &PgRow, first: usize) -> Result<RowMeta> {
    Ok(RowMeta {
        classification: word(row.try_get(first)?)?,
        source: word(row.try_get(first + 1)?)?,
        success_score: row.try_get(first + 2)?,
        multiplier: Evidence::of_sums(row.try_get(first + 3)?, row.try_get(first + 4)?).multiplier(),
        created_at: row.try_get(first + 5)?,
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn any_text_comes_back(original in "[\0\u{E000}01a]{0,12}") {
            let column = column_text(&original);
            prop_assert!(!column.contains('\0'));
            prop_assert_eq!(text(column), original);
        }
    }
}
