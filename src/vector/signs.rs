//! 1-bit codes: a fast, inexact estimate that selects the rows worth an 8-bit product.
//!
//! A row is kept as the signs of `x - centre`, where the centre is the mean of the rows at the time
//! the codes were built. With `s` the signs as +1 or -1 and `r = x - centre`, the estimate is
//! `q . x ~ q . centre + (q . s) * |r|^2 / |r|_1`, exact for `q` parallel to `r`. The query
//! is rounded to the sixteen levels `step * (p - 7.5)`, so that `q . s` follows from the Hamming
//! distances between the row's signs and the four bit planes of `p`.
//!
//! Only for the built-in model's dimension: elsewhere its recall is not measured.
//!
//! Source: index section of the embedding and search design; the scale is that of RaBitQ
//! (Gao and Long, 2024) without the rotation.

use super::kernels::{Kernels, SIGN_LANES, SIGN_WORDS, SignGroup, SignPlanes};
use super::rows::{CHUNK_ROWS, Rows};

/// The dimension for which the recall of sign codes is measured.
pub(super) const SIGN_DIMENSIONS: usize = 64 * SIGN_WORDS;

/// Half the highest level of a query component, in steps.
const HALF_RANGE: f32 = 7.5;

/// The sign codes of all rows of an index, by the same chunks and slots as [`Rows`].
pub(super) struct SignCodes {
    centre: Vec<f32>,
    chunks: Vec<SignChunk>,
}

/// The sign codes of one chunk of rows.
pub(super) struct SignChunk {
    groups: Vec<SignGroup>,
    scales: Vec<f32>,
}

/// A query ready to be compared with sign codes.
pub(super) struct SignQuery {
    planes: SignPlanes,
    step: f32,
    at_centre: f32,
}

impl SignCodes {
    /// Codes of all rows, around their mean.
    pub fn build<A: Copy>(rows: &Rows<A>) -> Self {
        let mut vector = [0.0; SIGN_DIMENSIONS];
        let mut total = [0.0_f64; SIGN_DIMENSIONS];
        let mut count = 0.0_f64;
        for row in rows.live() {
            row.decode(&mut vector);
            for (total, &x) in total.iter_mut().zip(&vector) {
                *total += f64::from(x);
            }
            count += 1.0;
        }
        let centre = total.iter().map(|total| (total / count.max(1.0)) as f32).collect();
        let mut codes = Self { centre, chunks: Vec::new() };
        // Dead rows too: the slots must stay the same.
        for row in rows.all() {
            row.decode(&mut vector);
            codes.push(&vector);
        }
        codes
    }

    /// Appends a row.
    pub fn push(&mut self, vector: &[f32]) {
        let mut signs = [0_u64; SIGN_WORDS];
        let (mut squares, mut absolutes) = (0.0_f32, 0.0_f32);
        let residuals = vector.chunks(64).zip(self.centre.chunks(64));
        for (word, (vector, centre)) in signs.iter_mut().zip(residuals) {
            for (bit, (x, centre)) in vector.iter().zip(centre).enumerate() {
                let residual = x - centre;
                *word |= u64::from(residual > 0.0) << bit;
                squares += residual * residual;
                absolutes += residual.abs();
            }
        }
        let scale = if absolutes > 0.0 { squares / absolutes } else { 0.0 };
        if self.chunks.last().is_none_or(|chunk| chunk.scales.len() == CHUNK_ROWS) {
            self.chunks.push(SignChunk {
                groups: Vec::with_capacity(CHUNK_ROWS / SIGN_LANES),
                scales: Vec::with_capacity(CHUNK_ROWS),
            });
        }
        if let Some(chunk) = self.chunks.last_mut() {
            chunk.push(&signs, scale);
        }
    }

    pub fn chunks(&self) -> &[SignChunk] {
        &self.chunks
    }

    /// Encodes a query.
    pub fn query(&self, query: &[f32]) -> SignQuery {
        let largest = query.iter().fold(0.0, |largest: f32, x| largest.max(x.abs()));
        let step = largest / HALF_RANGE;
        let mut planes = SignPlanes::default();
        for (word, part) in query.chunks(64).enumerate().take(SIGN_WORDS) {
            for (i, x) in part.iter().enumerate() {
                // The cast truncates after adding a half, saturates, and turns NaN (0 / 0) into 0.
                let level = ((x / step + HALF_RANGE + 0.5) as u8).min(15);
                for (bit, plane) in planes.iter_mut().enumerate() {
                    plane[word] |= u64::from(level >> bit & 1) << i;
                }
            }
        }
        SignQuery { planes, step, at_centre: Kernels::best().dot(query, &self.centre) }
    }

    pub fn memory_bytes(&self) -> usize {
        let chunk = CHUNK_ROWS / SIGN_LANES * size_of::<SignGroup>() + CHUNK_ROWS * size_of::<f32>();
        self.chunks.len() * chunk + SIGN_DIMENSIONS * size_of::<f32>()
    }
}

impl SignChunk {
    fn push(&mut self, signs: &[u64; SIGN_WORDS], scale: f32) {
        let lane = self.scales.len() % SIGN_LANES;
        if lane == 0 {
            self.groups.push(SignGroup::default());
        }
        if let Some(group) = self.groups.last_mut() {
            for (words, sign) in group.0.iter_mut().zip(signs) {
                words[lane] = *sign;
            }
        }
        self.scales.push(scale);
    }
}

impl SignQuery {
    /// Estimated cosines of the rows from `first` (a multiple of the group size) on; those beyond
    /// the chunk are left as they were.
    pub fn estimate<const ROWS: usize>(
        &self,
        kernels: Kernels,
        chunk: &SignChunk,
        first: usize,
        estimates: &mut [f32; ROWS],
    ) {
        const { assert!(ROWS <= 64 && ROWS.is_multiple_of(SIGN_LANES)) }
        let mut distances = [[0_u16; SIGN_LANES]; 64 / SIGN_LANES];
        let distances = &mut distances[..ROWS / SIGN_LANES];
        kernels.sign_distances(&self.planes, &chunk.groups[first / SIGN_LANES..], distances);
        let highest = HALF_RANGE * SIGN_DIMENSIONS as f32;
        let rows = distances.as_flattened().iter().zip(&chunk.scales[first..]);
        for (estimate, (&distance, scale)) in estimates.iter_mut().zip(rows) {
            *estimate = self.at_centre + scale * self.step * (highest - f32::from(distance));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::fixtures::{Noise, PLAIN, best_ids, normalised};
    use super::super::scan::EXACT_ROWS;
    use super::super::{VectorIndex, dot, rescore};
    use super::*;

    /// Rows around some centres, all leaning in one direction, as text embeddings do.
    struct Clusters {
        noise: Noise,
        centres: Vec<Vec<f32>>,
    }

    impl Clusters {
        fn new() -> Self {
            let mut noise = Noise::new(11);
            let common = noise.unit(SIGN_DIMENSIONS);
            let centres = (0..400)
                .map(|_| {
                    let own = noise.unit(SIGN_DIMENSIONS);
                    own.iter().zip(&common).map(|(own, common)| own + 0.4 * common).collect()
                })
                .collect();
            Self { noise, centres }
        }

        fn next(&mut self) -> Vec<f32> {
            let centre = self.noise.below(self.centres.len() as u64) as usize;
            let spread = 0.7 + 0.3 * self.noise.value();
            let own = self.noise.unit(SIGN_DIMENSIONS);
            let centre = &self.centres[centre];
            normalised(centre.iter().zip(own).map(|(x, own)| x + spread * own).collect())
        }
    }

    /// Share of the true best ten (among even ids, if `filtered`) that the index finds.
    fn recall(index: &VectorIndex<()>, vectors: &[Vec<f32>], queries: &[Vec<f32>], filtered: bool) -> f64 {
        let passes = |id: i64| !filtered || id % 2 == 0;
        let live: Vec<i64> = index.ids().filter(|&id| passes(id)).collect();
        let mut hits = 0;
        for query in queries {
            let candidates = index.candidates(query, 10, |id, ()| passes(id).then_some(PLAIN));
            let found = rescore(query, candidates, 10, |id| Some(&vectors[id as usize]));
            let score = |id: i64| f64::from(dot(query, &vectors[id as usize]).clamp(0.0, 1.0));
            let best = best_ids(live.iter().map(|&id| (score(id), id)).collect(), 10);
            hits += found.iter().filter(|row| best.contains(&row.id)).count();
        }
        hits as f64 / (10 * queries.len()) as f64
    }

    #[test]
    fn recall_holds_across_the_threshold_in_both_directions() {
        let mut clusters = Clusters::new();
        let vectors: Vec<Vec<f32>> = (0..EXACT_ROWS + 4000).map(|_| clusters.next()).collect();
        let queries: Vec<Vec<f32>> = (0..20).map(|_| clusters.next()).collect();
        let mut index = VectorIndex::new(SIGN_DIMENSIONS);
        let (below, above) = vectors.split_at(EXACT_ROWS);
        for (id, vector) in below.iter().enumerate() {
            index.insert(id as i64, vector, ());
        }
        assert_eq!(recall(&index, &vectors, &queries, false), 1.0);
        for (id, vector) in above.iter().enumerate() {
            index.insert((EXACT_ROWS + id) as i64, vector, ());
        }
        assert!(recall(&index, &vectors, &queries, false) >= 0.99);
        assert!(recall(&index, &vectors, &queries, true) >= 0.99);
        let full = index.memory_bytes();
        for id in 0..3000 {
            index.remove(id);
        }
        assert!(recall(&index, &vectors, &queries, false) >= 0.99);
        for id in 3000..8000 {
            index.remove(id);
        }
        assert_eq!(recall(&index, &vectors, &queries, true), 1.0);
        assert!(index.memory_bytes() < full);
    }

    #[test]
    fn estimates_are_near_the_cosine() {
        let mut clusters = Clusters::new();
        let mut rows = Rows::new(SIGN_DIMENSIONS);
        let vectors: Vec<Vec<f32>> = (0..200).map(|_| clusters.next()).collect();
        for (id, vector) in vectors.iter().enumerate() {
            rows.encode(id as i64, vector, ());
        }
        let mut signs = SignCodes::build(&rows);
        signs.push(&vectors[0]);
        let query = signs.query(&vectors[7]);
        let mut estimates = [f32::NAN; 64];
        for first in [0, 64, 128] {
            query.estimate(Kernels::best(), &signs.chunks()[0], first, &mut estimates);
            for (vector, estimate) in vectors[first..].iter().zip(estimates) {
                assert!((dot(&vectors[7], vector) - estimate).abs() < 0.2);
            }
        }
        let mut last = [f32::NAN; 64];
        query.estimate(Kernels::best(), &signs.chunks()[0], 192, &mut last);
        assert!((last[8] - dot(&vectors[7], &vectors[0])).abs() < 0.2);
        assert!(last[9].is_nan());
    }

    #[test]
    fn a_zero_query_is_estimated_as_zero() {
        let mut rows = Rows::new(SIGN_DIMENSIONS);
        rows.encode(1, &Noise::new(3).unit(SIGN_DIMENSIONS), ());
        let signs = SignCodes::build(&rows);
        let mut estimates = [f32::NAN; 8];
        let query = signs.query(&[0.0; SIGN_DIMENSIONS]);
        query.estimate(Kernels::best(), &signs.chunks()[0], 0, &mut estimates);
        assert_eq!(estimates[0], 0.0);
    }
}
