//! Multi-head attention over the packed queries, keys and values of a text.
//!
//! A run of queries is multiplied with 32 keys at a time, the scores go through a softmax
//! in base 2 (the logarithm's factor is part of the query scale), and the weighted values
//! replace the queries. Both products are the same small matrix product.

use super::kernels::Kernel;
use super::math::{exp2, larger, reduce};
use super::matrix::Matrix;
use super::runs::{MAX_RUN, RowTile, for_runs};
use super::weights::{BLOCK, BLOCKS, Block, MAX_TOKENS};

/// Blocks of 32 keys in the longest text.
const KEY_BLOCKS: usize = MAX_TOKENS / BLOCK;

/// Scores of a query, one per key.
type Scores = [f32; MAX_TOKENS];

/// Working memory, small enough for the first-level cache.
pub struct Scratch {
    /// Keys of one head, `[key / 32][feature][key % 32]`.
    keys: [[Block; BLOCK]; KEY_BLOCKS],
    /// Scores of one run of queries.
    scores: [Scores; MAX_RUN],
}

impl Scratch {
    pub const ZERO: Self = Self { keys: [[[0.0; BLOCK]; BLOCK]; KEY_BLOCKS], scores: [[0.0; MAX_TOKENS]; MAX_RUN] };
}

/// Replaces the queries in `qkv` (blocks: 12 heads of queries, of keys, of values) by the
/// attention's output.
#[inline(always)]
pub fn attend<K: Kernel>(qkv: &mut Matrix, scratch: &mut Scratch) {
    let tokens = qkv.tokens();
    let (queries, rest) = qkv.split_columns_mut(BLOCKS);
    let (keys, values) = rest.split_at(BLOCKS * tokens);
    let keys = keys.chunks_exact(tokens);
    let values = values.chunks_exact(tokens);
    for ((queries, keys), values) in queries.chunks_exact_mut(tokens).zip(keys).zip(values) {
        let key_blocks = &mut scratch.keys[..tokens.div_ceil(BLOCK)];
        transpose(keys, key_blocks);
        let mut head =
            Head { queries, keys: key_blocks, values, padding: padding(tokens), scores: &mut scratch.scores };
        for_runs(tokens, K::QUERIES, &mut head);
    }
}

/// Sorts keys by feature. The rest of the last block keeps what it held.
#[inline(always)]
fn transpose(keys: &[Block], transposed: &mut [[Block; BLOCK]]) {
    for (keys, features) in keys.chunks(BLOCK).zip(transposed) {
        for (lane, key) in keys.iter().enumerate() {
            for (feature, &x) in features.iter_mut().zip(key) {
                feature[lane] = x;
            }
        }
    }
}

/// Added to the scores of the last block: lanes without a key sink so low that their weight
/// in the softmax vanishes.
#[inline(always)]
fn padding(tokens: usize) -> Block {
    let used = (tokens - 1) % BLOCK + 1;
    std::array::from_fn(|lane| if lane < used { 0.0 } else { -1e30 })
}

/// One attention head.
struct Head<'a> {
    queries: &'a mut [Block],
    keys: &'a [[Block; BLOCK]],
    values: &'a [Block],
    padding: Block,
    scores: &'a mut [Scores; MAX_RUN],
}

impl RowTile for Head<'_> {
    #[inline(always)]
    fn run<const M: usize>(&mut self, first: usize) {
        let queries = self.queries[first..].first_chunk_mut::<M>();
        let scores = self.scores.first_chunk_mut::<M>();
        if let (Some(queries), Some(scores)) = (queries, scores) {
            score(queries, self.keys, &self.padding, scores);
            let mut scales = [0.0; M];
            for (scale, scores) in scales.iter_mut().zip(scores.iter_mut()) {
                *scale = 1.0 / softmax(&mut scores[..self.keys.len() * BLOCK]);
            }
            *queries = mix(scores, self.values, &scales);
        }
    }
}

/// Scores of the queries with all keys, times `log2(e) / sqrt(32)`.
#[inline(always)]
fn score<const M: usize>(queries: &[Block; M], keys: &[[Block; BLOCK]], padding: &Block, scores: &mut [Scores; M]) {
    const SCALE: f32 = std::f32::consts::LOG2_E / 5.656_854;
    let mut scaled = *queries;
    for x in scaled.as_flattened_mut() {
        *x *= SCALE;
    }
    for (block, keys) in keys.iter().enumerate() {
        let products = multiply_add([[0.0; BLOCK]; M], &scaled, keys);
        for m in 0..M {
            scores[m].as_chunks_mut().0[block] = products[m];
        }
    }
    for scores in scores {
        let last = &mut scores.as_chunks_mut::<BLOCK>().0[keys.len() - 1];
        for (score, penalty) in last.iter_mut().zip(padding) {
            *score += penalty;
        }
    }
}

/// Replaces scores by `2^(score - largest)` and returns their sum.
#[inline(always)]
fn softmax(scores: &mut [f32]) -> f32 {
    let largest = reduce(scores, f32::NEG_INFINITY, larger);
    for score in scores.iter_mut() {
        *score = exp2(*score - largest);
    }
    reduce(scores, 0.0, |a, b| a + b)
}

/// The sum of the values, weighted by the scores and scaled.
#[inline(always)]
fn mix<const M: usize>(scores: &[Scores; M], values: &[Block], scales: &[f32; M]) -> [Block; M] {
    let mut mixed = [[0.0; BLOCK]; M];
    for (block, values) in values.chunks(BLOCK).enumerate() {
        let mut weights = [[0.0; BLOCK]; M];
        for m in 0..M {
            weights[m] = scores[m].as_chunks().0[block];
        }
        mixed = multiply_add(mixed, &weights, values);
    }
    for (mixed, scale) in mixed.iter_mut().zip(scales) {
        for x in mixed {
            *x *= scale;
        }
    }
    mixed
}

/// `sums[m] + left[m][0] * right[0] + left[m][1] * right[1] ...`, in that order.
#[inline(always)]
fn multiply_add<const M: usize>(mut sums: [Block; M], left: &[Block; M], right: &[Block]) -> [Block; M] {
    for (i, right) in right.iter().take(BLOCK).enumerate() {
        for m in 0..M {
            let factor = left[m][i];
            for lane in 0..BLOCK {
                sums[m][lane] = factor.mul_add(right[lane], sums[m][lane]);
            }
        }
    }
    sums
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::adapter::local::kernels::{Choice, Work};
    use crate::adapter::local::weights::WIDTH;

    struct Attend<'a>(&'a mut Matrix);

    impl Work for Attend<'_> {
        type Output = ();

        fn run<K: Kernel>(self, _: K) {
            let mut scratch = Scratch::ZERO;
            attend::<K>(self.0, &mut scratch);
        }
    }

    /// Some number for a block's lane of a token.
    fn feature(column: usize, token: usize, lane: usize) -> f32 {
        ((column * 131 + token * 37 + lane * 17) as f32).sin()
    }

    fn input(tokens: usize) -> Matrix {
        let mut qkv = Matrix::new(3 * BLOCKS);
        qkv.reset(tokens);
        for (i, column) in qkv.columns_mut().enumerate() {
            for (token, block) in column.iter_mut().enumerate() {
                *block = std::array::from_fn(|lane| feature(i, token, lane));
            }
        }
        qkv
    }

    /// One output by the definition of attention, in 64 bits.
    fn expected(tokens: usize, head: usize, token: usize, lane: usize) -> f64 {
        let get = |column, token, lane| f64::from(feature(column, token, lane));
        let weight = |key| {
            let products = (0..BLOCK).map(|i| get(head, token, i) * get(BLOCKS + head, key, i));
            (products.sum::<f64>() / 32f64.sqrt()).exp()
        };
        let total: f64 = (0..tokens).map(weight).sum();
        let mixed = (0..tokens).map(|key| weight(key) * get(2 * BLOCKS + head, key, lane));
        mixed.sum::<f64>() / total
    }

    #[test]
    fn attention_follows_its_definition() {
        for tokens in [1, 2, 31, 32, 33, 70] {
            let mut qkv = input(tokens);
            Choice::best().run(Attend(&mut qkv));
            for token in 0..tokens {
                let row = qkv.row(token);
                for feature in (0..WIDTH).step_by(41) {
                    let expected = expected(tokens, feature / BLOCK, token, feature % BLOCK);
                    assert!((f64::from(row[feature]) - expected).abs() < 1e-5);
                }
            }
        }
    }
}
