//! What a scan keeps of the rows it has seen: those that may be among the best.

use super::rank::{Candidate, Place, Weight};
use std::cmp::Reverse;
use std::collections::BinaryHeap;

/// The rows that may be among the best `k` of those seen so far.
pub(super) struct Best<A> {
    k: usize,
    /// Lowest possible places of the `k` rows for which they are best, the worst on top.
    lowest: BinaryHeap<Reverse<Place>>,
    /// The worst of `lowest` once there are `k`: rows that cannot reach it are out.
    floor: Place,
    /// Rows with their highest possible places. Some may be out by now.
    kept: Vec<(Place, Candidate<A>)>,
}

impl<A> Best<A> {
    pub fn new(k: usize) -> Self {
        let floor = Place::new(f32::NEG_INFINITY, i64::MAX);
        Self { k, lowest: BinaryHeap::new(), floor, kept: Vec::new() }
    }

    /// Whether a row with this highest possible score may still be in, whatever its id.
    #[inline]
    pub fn is_open_to(&self, highest: f32) -> bool {
        highest >= self.floor.score
    }

    pub fn push(&mut self, highest: Place, lowest: Place, candidate: Candidate<A>) {
        if highest < self.floor {
            return;
        }
        self.kept.push((highest, candidate));
        if lowest > self.floor {
            self.lowest.push(Reverse(lowest));
            if self.lowest.len() > self.k {
                self.lowest.pop();
            }
            if self.lowest.len() == self.k
                && let Some(Reverse(worst)) = self.lowest.peek()
            {
                self.floor = *worst;
            }
        }
    }

    pub fn finish(self) -> Vec<Candidate<A>> {
        self.kept.into_iter().filter(|(highest, _)| *highest >= self.floor).map(|(_, candidate)| candidate).collect()
    }
}

/// A row selected by its sign code.
#[derive(Clone, Copy)]
pub(super) struct Listed {
    pub place: Place,
    pub slot: usize,
    pub weight: Weight,
}

/// The best rows by sign code, at most `limit`.
pub(super) struct Shortlist {
    limit: usize,
    /// Lowest score that may still be in.
    floor: f32,
    /// Up to twice the limit: cutting back only now and then makes a push cheap.
    listed: Vec<Listed>,
}

impl Shortlist {
    pub fn new(limit: usize) -> Self {
        Self { limit, floor: f32::NEG_INFINITY, listed: Vec::with_capacity(2 * limit) }
    }

    /// Whether a row with this score may still be in, whatever its id.
    #[inline]
    pub fn is_open_to(&self, score: f32) -> bool {
        score >= self.floor
    }

    pub fn push(&mut self, listed: Listed) {
        self.listed.push(listed);
        if self.listed.len() >= 2 * self.limit {
            self.cut();
        }
    }

    fn cut(&mut self) {
        if self.listed.len() > self.limit {
            let by_place = |listed: &Listed| Reverse(listed.place);
            let (_, last, _) = self.listed.select_nth_unstable_by_key(self.limit - 1, by_place);
            self.floor = last.place.score;
            self.listed.truncate(self.limit);
        }
    }

    pub fn finish(mut self) -> Vec<Listed> {
        self.cut();
        self.listed.sort_unstable_by_key(|listed| listed.slot);
        self.listed
    }
}

#[cfg(test)]
mod tests {
    use super::super::fixtures::PLAIN;
    use super::*;

    fn listed(score: f32, id: i64) -> Listed {
        Listed { place: Place::new(score, id), slot: id as usize, weight: PLAIN }
    }

    #[test]
    fn shortlist_keeps_the_best_and_breaks_ties_by_id() {
        let mut shortlist = Shortlist::new(3);
        for (score, id) in [(0.1, 1), (0.5, 9), (0.5, 8), (0.2, 2), (0.5, 7), (0.9, 6), (0.5, 3)] {
            shortlist.push(listed(score, id));
        }
        let slots: Vec<usize> = shortlist.finish().iter().map(|listed| listed.slot).collect();
        assert_eq!(slots, [3, 6, 7]);
    }

    #[test]
    fn best_keeps_rows_that_may_still_be_in() {
        let mut best = Best::new(2);
        let mut offer = |id: i64, lowest: f32, highest: f32| {
            let error = (highest - lowest) / 2.0;
            let candidate = Candidate { id, attributes: (), weight: PLAIN, estimate: lowest + error, error };
            best.push(Place::new(highest, id), Place::new(lowest, id), candidate);
        };
        offer(1, 0.0, 0.3);
        offer(2, 0.4, 0.6);
        offer(5, 0.5, 0.7);
        offer(3, 0.2, 0.4); // reaches the second lowest place, 0.4 of row 2, but with a larger id
        offer(0, 0.2, 0.4); // the same with a smaller id: would win the tie
        let kept: Vec<i64> = best.finish().iter().map(|row| row.id).collect();
        assert_eq!(kept, [2, 5, 0]);
    }
}
