//! The searches over the codes of an index.
//!
//! Every search walks the rows in blocks, asks the caller's filter first, and multiplies only the
//! rows that pass. A row is dropped when its highest possible place is worse than the lowest
//! possible place of `k` other rows: so the exact search returns a superset of the true top `k`.
//!
//! Source: "Exactness without luck", index section of the embedding and search design.

use super::codes::QueryCodes;
use super::kernels::Kernels;
use super::rank::{Candidate, Place, Weight};
use super::rows::{BLOCK, CHUNK_ROWS, Chunk, Rows, bits};
use super::select::{Best, Listed, Shortlist};
use super::signs::SignCodes;

/// Up to this many rows every search is exact by construction.
pub const EXACT_ROWS: usize = 20_000;

/// Least number of rows the sign codes select.
const SHORTLIST: usize = 1000;
/// Rows the sign codes select per wanted row.
const SHORTLIST_PER_RESULT: usize = 8;

/// A row similar to a query.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Near {
    /// Id of the row.
    pub id: i64,
    /// Cosine: exact if `error` is 0, else an estimate.
    pub cosine: f32,
    /// The true cosine lies within `cosine` plus or minus this.
    pub error: f32,
}

/// A query over the rows of an index.
pub(super) struct Scan<'a, A> {
    rows: &'a Rows<A>,
    query: &'a [f32],
    codes: QueryCodes,
    kernels: Kernels,
}

impl<'a, A: Copy> Scan<'a, A> {
    /// A scan for a usable query.
    pub fn new(rows: &'a Rows<A>, query: &'a [f32]) -> Self {
        Self { rows, query, codes: QueryCodes::new(query), kernels: Kernels::best() }
    }

    /// Every row that may be among the best `k`, in no order.
    pub fn exact(&self, k: usize, weigh: impl Fn(i64, &A) -> Option<Weight>) -> Vec<Candidate<A>> {
        let mut best = Best::new(k);
        let mut picks = Picks::new();
        for chunk in self.rows.chunks() {
            for (block, live) in chunk.blocks() {
                picks.fill(chunk, block, live, &weigh);
                self.offer(chunk, picks.rows(), &picks.weights, &mut best);
            }
        }
        best.finish()
    }

    /// As [`Scan::exact`], but only for the rows with the best sign codes.
    pub fn presigned(
        &self,
        signs: &SignCodes,
        k: usize,
        weigh: impl Fn(i64, &A) -> Option<Weight>,
    ) -> Vec<Candidate<A>> {
        let mut best = Best::new(k);
        let shortlist = self.shortlist(signs, k, weigh);
        let same_chunk = |a: &Listed, b: &Listed| a.slot / CHUNK_ROWS == b.slot / CHUNK_ROWS;
        for run in shortlist.chunk_by(same_chunk) {
            let chunk = &self.rows.chunks()[run[0].slot / CHUNK_ROWS];
            for run in run.chunks(BLOCK) {
                let mut rows = [0; BLOCK];
                let mut weights = [UNWEIGHED; BLOCK];
                for (i, listed) in run.iter().enumerate() {
                    rows[i] = (listed.slot % CHUNK_ROWS) as u16;
                    weights[i] = listed.weight;
                }
                self.offer(chunk, &rows[..run.len()], &weights, &mut best);
            }
        }
        best.finish()
    }

    /// The rows from slot `first` on whose cosine may be `min` or more.
    pub fn near(&self, first: usize, min: f32) -> Vec<Near> {
        let mut near = Vec::new();
        let mut picks = Picks::new();
        let first_chunk = first / CHUNK_ROWS;
        for (index, chunk) in self.rows.chunks().iter().enumerate().skip(first_chunk) {
            for (block, live) in chunk.blocks() {
                let start = index * CHUNK_ROWS + block * BLOCK;
                let skipped = first.saturating_sub(start).min(BLOCK);
                // Shifted twice: a shift by the whole word is not defined.
                let tail = live & (u64::MAX << (skipped / 2) << (skipped - skipped / 2));
                picks.fill(chunk, block, tail, &|_, _| Some(UNWEIGHED));
                self.products(chunk, picks.rows(), |i, cosine, error| {
                    if cosine + error >= min {
                        near.extend(self.confirm(chunk, picks.rows[i], cosine, error, min));
                    }
                });
            }
        }
        near
    }

    /// Replaces an estimate by the exact cosine where the vector is at hand.
    fn confirm(&self, chunk: &Chunk<A>, row: u16, cosine: f32, error: f32, min: f32) -> Option<Near> {
        let row = usize::from(row);
        let id = chunk.id(row);
        match chunk.vector(row, self.rows.dimensions()) {
            Some(vector) => {
                let cosine = self.kernels.dot(self.query, vector);
                (cosine >= min).then_some(Near { id, cosine, error: 0.0 })
            }
            None => Some(Near { id, cosine, error }),
        }
    }

    /// The rows with the best estimates by sign codes, by slot.
    fn shortlist(&self, signs: &SignCodes, k: usize, weigh: impl Fn(i64, &A) -> Option<Weight>) -> Vec<Listed> {
        let query = signs.query(self.query);
        let limit = k.saturating_mul(SHORTLIST_PER_RESULT).max(SHORTLIST);
        let mut shortlist = Shortlist::new(limit.min(self.rows.slots()));
        let mut picks = Picks::new();
        let mut estimates = [0.0; BLOCK];
        let chunks = self.rows.chunks().iter().zip(signs.chunks());
        for (index, (chunk, sign_chunk)) in chunks.enumerate() {
            for (block, live) in chunk.blocks() {
                picks.fill(chunk, block, live, &weigh);
                if picks.rows().is_empty() {
                    continue;
                }
                query.estimate(self.kernels, sign_chunk, block * BLOCK, &mut estimates);
                for (&row, &weight) in picks.rows().iter().zip(&picks.weights) {
                    let row = usize::from(row);
                    let score = weight.score(estimates[row % BLOCK]);
                    if shortlist.is_open_to(score) {
                        shortlist.push(Listed {
                            place: Place::new(score, chunk.id(row)),
                            slot: index * CHUNK_ROWS + row,
                            weight,
                        });
                    }
                }
            }
        }
        shortlist.finish()
    }

    fn offer(&self, chunk: &Chunk<A>, rows: &[u16], weights: &[Weight], best: &mut Best<A>) {
        self.products(chunk, rows, |i, estimate, error| {
            let weight = weights[i];
            let highest = weight.score(estimate + error);
            if best.is_open_to(highest) {
                let row = usize::from(rows[i]);
                let id = chunk.id(row);
                let attributes = *chunk.attributes(row);
                best.push(
                    Place::new(highest, id),
                    Place::new(weight.score(estimate - error), id),
                    Candidate { id, attributes, weight, estimate, error },
                );
            }
        });
    }

    /// Estimated cosine and error of some rows, with their positions in `rows`.
    fn products(&self, chunk: &Chunk<A>, rows: &[u16], mut each: impl FnMut(usize, f32, f32)) {
        let mut sums = [[0; 2]; BLOCK];
        let sums = &mut sums[..rows.len()];
        self.kernels.dot_codes(self.codes.lines(), chunk.codes(), rows, sums);
        for (i, (&row, &sums)) in rows.iter().zip(&*sums).enumerate() {
            let (estimate, error) = self.codes.product(sums, chunk.scale(usize::from(row)));
            each(i, estimate, error);
        }
    }
}

const UNWEIGHED: Weight = Weight { factor: 1.0, bonus: 0.0 };

/// The rows of a block that pass the filter, with their weights.
struct Picks {
    rows: [u16; BLOCK],
    weights: [Weight; BLOCK],
    count: usize,
}

impl Picks {
    fn new() -> Self {
        Self { rows: [0; BLOCK], weights: [UNWEIGHED; BLOCK], count: 0 }
    }

    fn fill<A: Copy>(&mut self, chunk: &Chunk<A>, block: usize, live: u64, weigh: &impl Fn(i64, &A) -> Option<Weight>) {
        let mut count = 0;
        for bit in bits(live) {
            let row = block * BLOCK + bit;
            let weight = weigh(chunk.id(row), chunk.attributes(row));
            if let Some(weight) = weight.filter(|weight| weight.is_valid()) {
                // A row of a chunk is below 4096.
                self.rows[count] = row as u16;
                self.weights[count] = weight;
                count += 1;
            }
        }
        self.count = count;
    }

    fn rows(&self) -> &[u16] {
        &self.rows[..self.count]
    }
}

#[cfg(test)]
mod tests {
    use super::super::fixtures::{Noise, PLAIN};
    use super::*;

    fn rows(noise: &mut Noise, count: i64) -> Rows<()> {
        let mut rows = Rows::new(384);
        for id in 0..count {
            rows.encode(id, &noise.unit(384), ());
        }
        rows
    }

    #[test]
    fn only_few_candidates_remain() {
        let mut noise = Noise::new(1);
        let rows = rows(&mut noise, 3000);
        let found = Scan::new(&rows, &noise.unit(384)).exact(10, |_, ()| Some(PLAIN));
        assert!((10..60).contains(&found.len()), "{}", found.len());
    }

    #[test]
    fn dead_rows_are_not_weighed() {
        let mut noise = Noise::new(2);
        let mut rows = rows(&mut noise, 200);
        rows.kill(77);
        let query = noise.unit(384);
        let weigh = |id: i64, (): &()| {
            assert_ne!(id, 77);
            Some(PLAIN)
        };
        let scan = Scan::new(&rows, &query);
        assert_eq!(scan.exact(200, weigh).len(), 199);
        let signs = SignCodes::build(&rows);
        assert_eq!(scan.presigned(&signs, 200, weigh).len(), 199);
    }

    #[test]
    fn near_starts_at_any_slot() {
        let mut noise = Noise::new(3);
        let rows = rows(&mut noise, 200);
        let query = noise.unit(384);
        for first in [0, 1, 63, 64, 65, 128, 199, 200, 5000] {
            let near = Scan::new(&rows, &query).near(first, -2.0);
            let expected: Vec<i64> = (0..200).skip(first).collect();
            assert_eq!(near.iter().map(|row| row.id).collect::<Vec<_>>(), expected);
        }
    }
}
