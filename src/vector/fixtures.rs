//! Deterministic vectors for the tests of this module.

use super::rank::Weight;

pub const PLAIN: Weight = Weight { factor: 1.0, bonus: 0.0 };

/// A small generator of pseudo-random numbers (xorshift).
pub struct Noise(u64);

impl Noise {
    pub fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    pub fn below(&mut self, limit: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 20) % limit
    }

    /// Uniform in -1..1.
    pub fn value(&mut self) -> f32 {
        self.below(1 << 24) as f32 / (1 << 23) as f32 - 1.0
    }

    /// A vector of length 1.
    pub fn unit(&mut self, dimensions: usize) -> Vec<f32> {
        normalised((0..dimensions).map(|_| self.value()).collect())
    }

    /// A vector of length up to 1 on a coarse binary grid: products and their sums are exact in
    /// f32, and different vectors often have equal products.
    pub fn grid(&mut self, dimensions: usize) -> Vec<f32> {
        let steps = (8.0 * (dimensions as f32).sqrt()).log2().ceil().exp2();
        (0..dimensions).map(|_| (self.below(17) as f32 - 8.0) / steps).collect()
    }
}

pub fn normalised(mut vector: Vec<f32>) -> Vec<f32> {
    let length = vector.iter().map(|x| x * x).sum::<f32>().sqrt();
    for x in &mut vector {
        *x /= length;
    }
    vector
}

/// The ids of the best `k` of some scores: highest first, then the smaller id.
pub fn best_ids(mut scores: Vec<(f64, i64)>, k: usize) -> Vec<i64> {
    scores.sort_by(|a, b| b.0.total_cmp(&a.0).then(a.1.cmp(&b.1)));
    scores.into_iter().take(k).map(|(_, id)| id).collect()
}
