//! The vectors of one scope: what a store keeps in memory for search.

use super::codes::{MAX_DIMENSIONS, usable};
use super::rank::{Candidate, Weight};
use super::rows::Rows;
use super::scan::{EXACT_ROWS, Near, Scan};
use super::signs::{SIGN_DIMENSIONS, SignCodes};
use std::collections::HashMap;

/// The f32 vectors stay in memory up to this size.
const VECTOR_BYTES: usize = 32 << 20;

/// One scope's vectors. `A` is what filters and ranking need per row (small, `Copy`).
///
/// Vectors are expected to be normalised. One that is not finite, or not of the index's dimension,
/// counts as the zero vector: its cosine with anything is 0.
///
/// Costs about 0.47 KB per row at 384 dimensions, plus the f32 vectors of a small scope.
pub struct VectorIndex<A> {
    rows: Rows<A>,
    slots: HashMap<i64, usize>,
    /// Present from [`EXACT_ROWS`] rows on, in the dimension they are made for.
    signs: Option<SignCodes>,
    /// Number of inserts so far.
    revision: u64,
}

impl<A: Copy> VectorIndex<A> {
    /// An empty index for vectors of `dimensions` components, at most [`MAX_DIMENSIONS`].
    pub fn new(dimensions: usize) -> Self {
        Self { rows: Rows::new(dimensions.min(MAX_DIMENSIONS)), slots: HashMap::new(), signs: None, revision: 0 }
    }

    /// Components of every vector.
    pub fn dimensions(&self) -> usize {
        self.rows.dimensions()
    }

    /// Number of rows.
    pub fn len(&self) -> usize {
        self.rows.len()
    }

    /// Whether there is no row.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Adds a row, in place of the one with the same id.
    pub fn insert(&mut self, id: i64, vector: &[f32], attributes: A) {
        let vector = usable(vector, self.dimensions());
        if let Some(slot) = self.slots.remove(&id) {
            self.rows.kill(slot);
        }
        let bytes = (self.rows.slots() + 1) * self.dimensions() * size_of::<f32>();
        if self.rows.keeps_vectors() && bytes > VECTOR_BYTES {
            self.rows.drop_vectors();
        }
        self.slots.insert(id, self.rows.encode(id, &vector, attributes));
        self.revision += 1;
        match &mut self.signs {
            Some(signs) => signs.push(&vector),
            None => self.build_signs(),
        }
        self.compact_if_due();
    }

    /// Removes a row; returns whether there was one. From now on it is never returned.
    pub fn remove(&mut self, id: i64) -> bool {
        let Some(slot) = self.slots.remove(&id) else {
            return false;
        };
        self.rows.kill(slot);
        self.compact_if_due();
        true
    }

    /// Changes the attributes of a row; returns whether there is one.
    pub fn update(&mut self, id: i64, change: impl FnOnce(&mut A)) -> bool {
        let slot = self.slots.get(&id);
        if let Some(&slot) = slot {
            change(self.rows.attributes_mut(slot));
        }
        slot.is_some()
    }

    /// The attributes of a row.
    pub fn attributes(&self, id: i64) -> Option<&A> {
        Some(self.rows.attributes(*self.slots.get(&id)?))
    }

    /// The ids of all rows, in the order of insertion.
    pub fn ids(&self) -> impl Iterator<Item = i64> + '_ {
        self.rows.live().map(|row| row.id)
    }

    /// The f32 vector of a row while it is kept in memory (small scopes); otherwise the caller
    /// reads it from the database.
    pub fn vector(&self, id: i64) -> Option<&[f32]> {
        self.rows.vector(*self.slots.get(&id)?)
    }

    /// Candidates for the best `k` rows by `(clamp(cosine, 0, 1) + bonus) * factor`, in no order,
    /// for [`rescore`](super::rescore) to finish.
    ///
    /// `weigh` gives the weight of a row, or `None` to leave it out; a weight that is not finite or
    /// has a negative factor leaves it out as well.
    ///
    /// Up to [`EXACT_ROWS`] rows, and in any number in dimensions other than 384, the candidates
    /// are a superset of the true top `k`. Equal scores are told apart by the smaller id.
    pub fn candidates(&self, query: &[f32], k: usize, weigh: impl Fn(i64, &A) -> Option<Weight>) -> Vec<Candidate<A>> {
        if k == 0 {
            return Vec::new();
        }
        let query = usable(query, self.dimensions());
        let scan = Scan::new(&self.rows, &query);
        match &self.signs {
            Some(signs) if self.len() > EXACT_ROWS => scan.presigned(signs, k, weigh),
            _ => scan.exact(k, weigh),
        }
    }

    /// Number of inserts so far, to be handed to [`VectorIndex::near`] later.
    pub fn revision(&self) -> u64 {
        self.revision
    }

    /// Rows inserted after revision `since` whose cosine may be `min` or more: what a duplicate
    /// check has not seen yet, or everything for revision 0.
    ///
    /// The cosine is exact if the vector is in memory, otherwise an estimate with its error. After
    /// a compaction some older rows may be included.
    pub fn near(&self, query: &[f32], min: f32, since: u64) -> Vec<Near> {
        let query = usable(query, self.dimensions());
        let newer = usize::try_from(self.revision.saturating_sub(since)).unwrap_or(usize::MAX);
        let first = self.rows.slots().saturating_sub(newer);
        Scan::new(&self.rows, &query).near(first, min)
    }

    /// Memory held, in bytes.
    pub fn memory_bytes(&self) -> usize {
        // The map keeps one control byte per bucket and fills up to seven eighths of them.
        let map = self.slots.capacity() / 7 * 8 * (size_of::<(i64, usize)>() + 1);
        let signs = self.signs.as_ref().map_or(0, SignCodes::memory_bytes);
        size_of::<Self>() + self.rows.memory_bytes() + map + signs
    }

    fn build_signs(&mut self) {
        if self.dimensions() == SIGN_DIMENSIONS && self.len() > EXACT_ROWS {
            self.signs = Some(SignCodes::build(&self.rows));
        }
    }

    /// Compacts once a quarter of the slots is dead.
    fn compact_if_due(&mut self) {
        let dead = self.rows.slots() - self.rows.len();
        if dead == 0 || dead * 4 < self.rows.slots() {
            return;
        }
        if self.is_empty() {
            // Starts afresh, so that a scope that was large once keeps its vectors again.
            self.rows = Rows::new(self.dimensions());
        }
        self.rows.compact();
        self.slots = self.rows.live().enumerate().map(|(slot, row)| (row.id, slot)).collect();
        self.signs = None;
        self.build_signs();
    }
}

#[cfg(test)]
mod tests {
    use super::super::fixtures::{Noise, PLAIN, best_ids};
    use super::super::{dot, rescore};
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeMap;

    /// What the index should hold: vectors and attributes by id.
    type Model = BTreeMap<i64, (Vec<f32>, u8)>;

    /// A filter and weights on a binary grid, so that scores are exact in f32 as well.
    fn weigh(_: i64, attribute: &u8) -> Option<Weight> {
        let step = f32::from(attribute % 4);
        (attribute % 5 != 4).then_some(Weight { factor: 1.0 - step / 8.0, bonus: step / 16.0 })
    }

    fn search(index: &VectorIndex<u8>, model: &Model, query: &[f32], k: usize) -> Vec<i64> {
        let candidates = index.candidates(query, k, weigh);
        let vector_of = |id| model.get(&id).map(|(vector, _)| vector);
        rescore(query, candidates, k, vector_of).iter().map(|row| row.id).collect()
    }

    /// The same by definition, in f64.
    fn naive(model: &Model, query: &[f32], k: usize) -> Vec<i64> {
        let scores = model.iter().filter_map(|(&id, (vector, attribute))| {
            let weight = weigh(id, attribute)?;
            let products = vector.iter().zip(query).map(|(&x, &y)| f64::from(x) * f64::from(y));
            let cosine = products.sum::<f64>().clamp(0.0, 1.0);
            Some(((cosine + f64::from(weight.bonus)) * f64::from(weight.factor), id))
        });
        best_ids(scores.collect(), k)
    }

    proptest! {
        #[test]
        fn finds_what_a_naive_search_finds(
            dimensions in prop::sample::select(vec![1_usize, 7, 64, 100, 384, 1536]),
            // The seed of a vector is small, so that some rows have equal vectors.
            steps in prop::collection::vec((0..10_u8, 0..120_i64, 0..90_u64, any::<u8>()), 1..300),
            query_seed: u64,
            k in 0..40_usize,
        ) {
            let (mut index, mut model) = (VectorIndex::new(dimensions), Model::new());
            for (action, id, seed, attribute) in steps {
                match action {
                    0..=6 => {
                        let vector = Noise::new(seed).grid(dimensions);
                        index.insert(id, &vector, attribute);
                        model.insert(id, (vector, attribute));
                    }
                    7..=8 => prop_assert_eq!(index.remove(id), model.remove(&id).is_some()),
                    _ => {
                        let row = model.get_mut(&id);
                        prop_assert_eq!(index.update(id, |a| *a = attribute), row.is_some());
                        if let Some(row) = row {
                            row.1 = attribute;
                        }
                    }
                }
            }
            let query = Noise::new(query_seed).grid(dimensions);
            prop_assert_eq!(search(&index, &model, &query, k), naive(&model, &query, k));
            prop_assert_eq!(index.len(), model.len());
            let mut ids: Vec<i64> = index.ids().collect();
            ids.sort_unstable();
            prop_assert_eq!(ids, model.keys().copied().collect::<Vec<_>>());
            for (&id, (vector, attribute)) in &model {
                prop_assert_eq!(index.vector(id), Some(vector.as_slice()));
                prop_assert_eq!(index.attributes(id), Some(attribute));
            }
        }

        #[test]
        fn candidates_are_bounded_and_complete_for_unit_vectors(
            dimensions in prop::sample::select(vec![7_usize, 100, 384, 1536]),
            seed: u64,
            rows in 1..200_i64,
            k in 1..20_usize,
        ) {
            let mut noise = Noise::new(seed);
            let (mut index, mut vectors) = (VectorIndex::new(dimensions), Vec::new());
            for id in 0..rows {
                vectors.push(noise.unit(dimensions));
                index.insert(id, &vectors[id as usize], 0_u8);
            }
            let query = noise.unit(dimensions);
            let candidates = index.candidates(&query, k, weigh);
            for row in &candidates {
                let cosine = dot(&query, &vectors[row.id as usize]);
                prop_assert!((row.estimate - cosine).abs() <= row.error);
            }
            let exact = |id: i64| f64::from(dot(&query, &vectors[id as usize]).clamp(0.0, 1.0));
            let vector_of = |id: i64| Some(&vectors[id as usize]);
            let found = rescore(&query, candidates, k, vector_of);
            let expected = best_ids((0..rows).map(|id| (exact(id), id)).collect(), k);
            prop_assert_eq!(found.iter().map(|row| row.id).collect::<Vec<_>>(), expected);
        }
    }

    #[test]
    fn vectors_that_cannot_be_used_count_as_zero() {
        let mut index = VectorIndex::new(3);
        let bad: [&[f32]; 6] =
            [&[f32::NAN, 0.0, 0.0], &[f32::INFINITY, 0.0, 0.0], &[f32::MAX, f32::MAX, 0.0], &[1.0], &[], &[0.0; 3]];
        for (id, vector) in bad.iter().enumerate() {
            index.insert(id as i64, vector, 0);
            assert_eq!(index.vector(id as i64), Some([0.0; 3].as_slice()));
        }
        index.insert(9, &[0.6, 0.8, 0.0], 0);
        let model: Model =
            index.ids().map(|id| (id, (index.vector(id).expect("kept in memory").to_vec(), 0))).collect();
        assert_eq!(search(&index, &model, &[1.0, 0.0, 0.0], 3), [9, 0, 1]);
        for query in bad {
            assert_eq!(search(&index, &model, query, 3), [0, 1, 2]);
            // All scores are known to be 0, so the ids alone decide.
            assert_eq!(index.candidates(query, 3, weigh).len(), 3);
            assert_eq!(index.near(query, 0.5, 0), []);
        }
    }

    #[test]
    fn degenerate_dimensions_and_weights_do_no_harm() {
        let mut index = VectorIndex::new(0);
        index.insert(1, &[], ());
        assert_eq!(index.candidates(&[], 5, |_, ()| Some(PLAIN)).len(), 1);
        assert_eq!(VectorIndex::<()>::new(usize::MAX).dimensions(), MAX_DIMENSIONS);
        let weight = Weight { factor: f32::NAN, bonus: 0.0 };
        assert_eq!(index.candidates(&[], 5, |_, ()| Some(weight)), []);
        assert_eq!(index.candidates(&[], usize::MAX, |_, ()| Some(PLAIN)).len(), 1);
    }

    #[test]
    fn near_sees_what_was_inserted_since() {
        let mut noise = Noise::new(5);
        let (first, second) = (noise.unit(100), noise.unit(100));
        let mut index = VectorIndex::new(100);
        for id in 0..100 {
            index.insert(id, &first, ());
        }
        let since = index.revision();
        assert_eq!(index.near(&first, 0.9, since), []);
        index.insert(100, &second, ());
        index.insert(7, &first, ());
        let near = index.near(&first, 0.9, since);
        assert_eq!(near.len(), 1);
        assert_eq!((near[0].id, near[0].cosine), (7, dot(&first, &first)));
        assert_eq!(near[0].error, 0.0);
        assert_eq!(index.near(&first, 0.9, 0).len(), 100);
        assert_eq!(index.near(&first, 0.9, u64::MAX), []);
        assert_eq!(index.near(&first, f32::NAN, 0), []);
    }

    #[test]
    fn vectors_leave_memory_together_and_come_back_only_from_empty() {
        const DIMENSIONS: usize = MAX_DIMENSIONS;
        let mut vector = vec![0.0; DIMENSIONS];
        vector[..2].copy_from_slice(&[0.6, 0.8]);
        let mut index = VectorIndex::new(DIMENSIONS);
        let room = (VECTOR_BYTES / DIMENSIONS / size_of::<f32>()) as i64;
        for id in 0..room {
            index.insert(id, &vector, ());
        }
        assert!(index.vector(0).is_some());
        let before = index.memory_bytes();
        index.insert(room, &vector, ());
        assert!(index.vector(0).is_none() && index.vector(room).is_none());
        assert!(index.memory_bytes() < before - VECTOR_BYTES / 2);
        let near = index.near(&vector, 0.999, 0);
        assert_eq!(near.len() as i64, room + 1);
        assert!(near.iter().all(|row| row.error > 0.0 && (row.cosine - 1.0).abs() <= row.error));
        for id in 0..=room {
            assert!(index.remove(id) && !index.remove(id));
        }
        assert!(index.is_empty() && index.memory_bytes() < 1000);
        index.insert(1, &vector, ());
        assert!(index.vector(1).is_some());
    }
}
