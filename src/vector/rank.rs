//! Weights, the order of results, and the exact scores of candidates.
//!
//! `score = (clamp(cosine, 0, 1) + bonus) * factor`, higher first, ties broken by the smaller id.

use super::kernels::Kernels;
use std::cmp::Ordering;

/// How a row's cosine becomes its score.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Weight {
    /// Multiplies the sum; finite and not negative.
    pub factor: f32,
    /// Added to the clamped cosine; finite.
    pub bonus: f32,
}

/// A row that may be among the best, as found by the codes.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Candidate<A> {
    /// Id of the row.
    pub id: i64,
    /// Attributes of the row.
    pub attributes: A,
    /// Weight the caller gave the row.
    pub weight: Weight,
    /// Estimated cosine, not clamped.
    pub estimate: f32,
    /// The true cosine lies within `estimate` plus or minus this.
    pub error: f32,
}

/// A row with its exact score.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Ranked<A> {
    /// Id of the row.
    pub id: i64,
    /// Attributes of the row.
    pub attributes: A,
    /// Cosine, clamped to 0..=1.
    pub similarity: f32,
    /// Weight the caller gave the row.
    pub weight: Weight,
    /// `(similarity + bonus) * factor`.
    pub score: f32,
}

/// Gives `candidates` their exact scores from f32 vectors, sorts them by score (descending), then
/// id, and keeps the first `k`.
///
/// Candidates without a vector are dropped: the row has been deleted meanwhile. A product that is
/// not finite counts as 0.
pub fn rescore<A: Copy, V: AsRef<[f32]>>(
    query: &[f32],
    candidates: Vec<Candidate<A>>,
    k: usize,
    vector_of: impl Fn(i64) -> Option<V>,
) -> Vec<Ranked<A>> {
    let kernels = Kernels::best();
    let mut ranked: Vec<Ranked<A>> = candidates
        .into_iter()
        .filter_map(|candidate| {
            let cosine = kernels.dot(query, vector_of(candidate.id)?.as_ref());
            let similarity = if cosine.is_finite() { cosine.clamp(0.0, 1.0) } else { 0.0 };
            Some(Ranked {
                id: candidate.id,
                attributes: candidate.attributes,
                similarity,
                weight: candidate.weight,
                score: candidate.weight.score(similarity),
            })
        })
        .collect();
    ranked.sort_unstable_by_key(|row| std::cmp::Reverse(Place::new(row.score, row.id)));
    ranked.truncate(k);
    ranked
}

impl Weight {
    /// The score of a cosine. Rounding keeps the order: a higher cosine never scores lower, so
    /// bounds of the cosine give bounds of the score.
    #[inline]
    pub(super) fn score(self, cosine: f32) -> f32 {
        // Adding 0 turns -0 into +0, which are the same score but not the same to `total_cmp`.
        (cosine.clamp(0.0, 1.0) + self.bonus) * self.factor + 0.0
    }

    /// Whether scores are ordered numbers. Rows whose weight is not valid are left out.
    #[inline]
    pub(super) fn is_valid(self) -> bool {
        self.factor >= 0.0 && self.factor.is_finite() && self.bonus.is_finite()
    }
}

/// A place in the ranking; the greater place is the better one.
#[derive(Clone, Copy, Debug)]
pub(super) struct Place {
    pub score: f32,
    id: i64,
}

impl Place {
    #[inline]
    pub fn new(score: f32, id: i64) -> Self {
        Self { score, id }
    }
}

impl Ord for Place {
    #[inline]
    fn cmp(&self, other: &Self) -> Ordering {
        self.score.total_cmp(&other.score).then_with(|| other.id.cmp(&self.id))
    }
}

impl PartialOrd for Place {
    #[inline]
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl PartialEq for Place {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other).is_eq()
    }
}

impl Eq for Place {}

#[cfg(test)]
mod tests {
    use super::*;

    const PLAIN: Weight = Weight { factor: 1.0, bonus: 0.0 };

    fn candidate(id: i64, weight: Weight) -> Candidate<()> {
        Candidate { id, attributes: (), weight, estimate: 0.0, error: 1.0 }
    }

    fn ids(ranked: &[Ranked<()>]) -> Vec<i64> {
        ranked.iter().map(|row| row.id).collect()
    }

    #[test]
    fn sorts_by_score_then_id_and_drops_rows_without_vector() {
        let boosted = Weight { factor: 2.0, bonus: 0.1 };
        let candidates = vec![candidate(9, PLAIN), candidate(4, PLAIN), candidate(7, boosted), candidate(5, PLAIN)];
        let vector_of = |id| (id != 5).then_some([0.5_f32, 0.0]);
        let ranked = rescore(&[1.0, 0.0], candidates, 5, vector_of);
        assert_eq!(ids(&ranked), [7, 4, 9]);
        assert_eq!(ranked[0].similarity, 0.5);
        assert_eq!(ranked[0].score, 1.2);
    }

    #[test]
    fn clamps_and_survives_vectors_that_are_not_finite() {
        let vector_of = |id: i64| {
            Some(match id {
                1 => [f32::NAN, 0.0],
                2 => [f32::INFINITY, 1.0],
                3 => [-1.0, 0.0],
                _ => [1.5, 0.0],
            })
        };
        let candidates = (1..=4).map(|id| candidate(id, PLAIN)).collect();
        let ranked = rescore(&[1.0, 0.0], candidates, 4, vector_of);
        assert_eq!(ids(&ranked), [4, 1, 2, 3]);
        assert_eq!(ranked[0].similarity, 1.0);
        assert!(ranked[1..].iter().all(|row| row.similarity == 0.0 && row.score == 0.0));
    }

    #[test]
    fn negative_zero_ties_with_zero() {
        let weight = Weight { factor: 0.0, bonus: -1.0 };
        assert!(Place::new(weight.score(0.0), 1) > Place::new(PLAIN.score(0.0), 2));
    }

    #[test]
    fn weights_that_do_not_order_are_invalid() {
        assert!(PLAIN.is_valid());
        for (factor, bonus) in [(f32::NAN, 0.0), (-1.0, 0.0), (f32::INFINITY, 0.0), (1.0, f32::NAN)] {
            assert!(!Weight { factor, bonus }.is_valid());
        }
    }
}
