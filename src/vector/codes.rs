//! 8-bit codes of rows, 16-bit codes of queries, and the bound on what they lose.
//!
//! A row `x` is stored as `scale * codes` with `e = |x - scale * codes|`; a query `q` is kept as
//! `q' = step * (256 * high + low)`, precise enough that its own error hardly counts. By
//! Cauchy-Schwarz the true product differs from the product of the codes by at most
//! `|q| * e + |q - q'| * |scale * codes|`, and `|scale * codes| <= scale * 127 * sqrt(dimensions)`.
//! The rounding of all f32 sums involved is added as a multiple of the same norm.
//!
//! Source: "Exactness without luck", index section of the embedding and search design.

use super::kernels::{Line, QueryLine};
use std::borrow::Cow;

/// Longest vector that can be indexed: longer ones could overflow the 32-bit sums.
pub const MAX_DIMENSIONS: usize = 65_536;

/// Codes per [`Line`].
const LINE: usize = 64;
/// Largest absolute value of a row's code.
const ROW_LIMIT: f32 = 127.0;
/// Largest absolute value of a query's code: its high part must not exceed 127.
const QUERY_LIMIT: f32 = 127.0 * 256.0;
/// Below this largest component a vector's codes are all 0 and its error is its length: products
/// of scales would underflow. No embedding comes near it.
const SMALLEST: f32 = 1e-15;
/// From this squared length on, products of lengths could overflow. No embedding comes near it.
const LONGEST_SQUARED: f32 = 1e30;
/// Computed errors are raised by this factor, far above the rounding of their own computation.
const SAFETY: f32 = 1.001;

/// What a row's codes mean.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct RowScale {
    /// Value of one step of the codes.
    pub scale: f32,
    /// Length of the difference between the vector and its codes.
    pub error: f32,
}

/// A row ready to be stored.
pub(super) struct RowCodes {
    pub lines: Vec<Line>,
    pub scale: RowScale,
}

/// A query ready to be compared with rows.
pub(super) struct QueryCodes {
    lines: Vec<QueryLine>,
    /// Value of one step of the codes.
    step: f32,
    /// What the offset of the stored codes adds to every product.
    offset: i64,
    /// Length of the query.
    norm: f32,
    /// Error per unit of a row's scale: the query's own and that of f32 arithmetic.
    error_per_scale: f32,
}

/// Lines per row. At least one, so that rows of no dimension can still be counted.
pub(super) fn lines_per_row(dimensions: usize) -> usize {
    dimensions.div_ceil(LINE).max(1)
}

/// The vector itself if it has `dimensions` components, all finite and none absurdly large, or
/// zero in its place.
pub(super) fn usable(vector: &[f32], dimensions: usize) -> Cow<'_, [f32]> {
    if vector.len() == dimensions && sum(vector, |x| x * x) < LONGEST_SQUARED {
        Cow::Borrowed(vector)
    } else {
        Cow::Owned(vec![0.0; dimensions])
    }
}

impl RowCodes {
    /// Encodes a usable vector.
    pub fn new(vector: &[f32]) -> Self {
        let largest = largest(vector);
        let (scale, steps) = steps(largest, ROW_LIMIT);
        let mut lines = vec![Line([128; LINE]); lines_per_row(vector.len())];
        for (line, part) in lines.iter_mut().zip(vector.chunks(LINE)) {
            for (code, x) in line.0.iter_mut().zip(part) {
                // Within -127..=127, so adding 128 gives a u8.
                *code = (round(x * steps) as i32 + 128) as u8;
            }
        }
        let lost = sum(vector, |x| {
            let difference = x - round(x * steps) * scale;
            difference * difference
        });
        Self { lines, scale: RowScale { scale, error: lost.sqrt() * SAFETY } }
    }
}

/// Writes the vector that `codes` stand for.
pub(super) fn decode(codes: &[Line], scale: f32, vector: &mut [f32]) {
    for (line, part) in codes.iter().zip(vector.chunks_mut(LINE)) {
        for (x, &code) in part.iter_mut().zip(&line.0) {
            *x = (f32::from(code) - 128.0) * scale;
        }
    }
}

impl QueryCodes {
    /// Encodes a usable vector.
    pub fn new(query: &[f32]) -> Self {
        let largest = largest(query);
        let (step, steps) = steps(largest, QUERY_LIMIT);
        let empty = QueryLine { high: [0; LINE], low: [0; LINE] };
        let mut lines = vec![empty; lines_per_row(query.len())];
        let mut total = 0_i64;
        for (line, part) in lines.iter_mut().zip(query.chunks(LINE)) {
            for (i, x) in part.iter().enumerate() {
                let code = round(x * steps) as i32;
                // Both parts fit: the code is within 127 * 256 of 0.
                let high = (code + 128) >> 8;
                line.high[i] = high as i8;
                line.low[i] = (code - 256 * high) as i8;
                total += i64::from(code);
            }
        }
        let lost = sum(query, |x| {
            let difference = x - round(x * steps) * step;
            difference * difference
        });
        let norm = sum(query, |x| x * x).sqrt() * SAFETY;
        let dimensions = query.len() as f32;
        // A sum of `dimensions` terms in 16 lanes, and the handful of roundings around it.
        let rounding = (dimensions / 16.0 + 32.0) * f32::EPSILON * norm;
        Self {
            lines,
            step,
            offset: 128 * total,
            norm,
            error_per_scale: (lost.sqrt() * SAFETY + rounding) * ROW_LIMIT * dimensions.sqrt(),
        }
    }

    pub fn lines(&self) -> &[QueryLine] {
        &self.lines
    }

    /// The product with a row and its error, from the sums of the kernel.
    #[inline]
    pub fn product(&self, sums: [i32; 2], row: RowScale) -> (f32, f32) {
        let exact = 256 * i64::from(sums[0]) + i64::from(sums[1]) - self.offset;
        let estimate = exact as f32 * row.scale * self.step;
        let error = self.norm * row.error + self.error_per_scale * row.scale;
        (estimate, error)
    }
}

/// The value of one step, and steps per unit, so that `largest` is `limit` steps.
fn steps(largest: f32, limit: f32) -> (f32, f32) {
    if largest < SMALLEST { (0.0, 0.0) } else { (largest / limit, limit / largest) }
}

/// Rounds to the nearest integer, ties to even, for values up to 2^22: adding 1.5 * 2^23 pushes
/// the fraction out. Unlike `f32::round_ties_even` it needs no function call on old machines.
fn round(x: f32) -> f32 {
    const SHIFT: f32 = 12_582_912.0;
    (x + SHIFT) - SHIFT
}

fn largest(vector: &[f32]) -> f32 {
    lanes(vector, |lane, x| f32::max(lane, x.abs())).into_iter().fold(0.0, f32::max)
}

fn sum(vector: &[f32], term: impl Fn(f32) -> f32) -> f32 {
    lanes(vector, |lane, x| lane + term(x)).into_iter().sum()
}

/// Folds a vector in sixteen lanes, which the compiler turns into SIMD.
fn lanes(vector: &[f32], fold: impl Fn(f32, f32) -> f32) -> [f32; 16] {
    let mut lanes = [0.0; 16];
    let (blocks, rest) = vector.as_chunks::<16>();
    for part in blocks.iter().map(<[f32; 16]>::as_slice).chain([rest]) {
        for (lane, &x) in lanes.iter_mut().zip(part) {
            *lane = fold(*lane, x);
        }
    }
    lanes
}

#[cfg(test)]
mod tests {
    use super::super::kernels::Kernels;
    use super::*;
    use proptest::prelude::*;

    fn real_product(a: &[f32], b: &[f32]) -> f64 {
        a.iter().zip(b).map(|(&x, &y)| f64::from(x) * f64::from(y)).sum()
    }

    fn coded_product(query: &[f32], row: &[f32]) -> (f32, f32) {
        let (query, row) = (QueryCodes::new(query), RowCodes::new(row));
        let mut sums = [[0; 2]];
        Kernels::best().dot_codes(query.lines(), &row.lines, &[0], &mut sums);
        query.product(sums[0], row.scale)
    }

    proptest! {
        #[test]
        fn bounds_hold_for_any_length_and_magnitude(
            pairs in prop::collection::vec((-1.0_f32..1.0, -1.0_f32..1.0), 0..800),
            magnitude in -13_i32..13,
            query_magnitude in -13_i32..13,
        ) {
            let query: Vec<f32> = pairs.iter().map(|p| p.0 * 10_f32.powi(query_magnitude)).collect();
            let row: Vec<f32> = pairs.iter().map(|p| p.1 * 10_f32.powi(magnitude)).collect();
            let (estimate, error) = coded_product(&query, &row);
            let exact = Kernels::best().dot(&query, &row);
            prop_assert!((estimate - exact).abs() <= error, "{estimate} {exact} {error}");
            let lost = (f64::from(estimate) - real_product(&query, &row)).abs();
            prop_assert!(lost <= f64::from(error), "{lost} {error}");
        }

        #[test]
        fn decoding_stays_within_the_error(
            row in prop::collection::vec(-1.0_f32..1.0, 0..200),
        ) {
            let codes = RowCodes::new(&row);
            let mut decoded = vec![9.0; row.len()];
            decode(&codes.lines, codes.scale.scale, &mut decoded);
            let lost: f64 = row
                .iter()
                .zip(&decoded)
                .map(|(&x, &y)| (f64::from(x) - f64::from(y)).powi(2))
                .sum();
            prop_assert!(lost.sqrt() <= f64::from(codes.scale.error) + 1e-7);
        }
    }

    #[test]
    fn errors_are_small_for_unit_vectors() {
        let query: Vec<f32> = (0..384_u16).map(|i| (f32::from(i) * 0.7).sin() / 13.86).collect();
        let row: Vec<f32> = (0..384_u16).map(|i| (f32::from(i) * 1.3).cos() / 13.86).collect();
        let (_, error) = coded_product(&query, &row);
        assert!(error < 0.005, "{error}");
    }

    #[test]
    fn zero_is_exact() {
        assert_eq!(coded_product(&[0.0; 7], &[0.5; 7]).0, 0.0);
        assert_eq!(coded_product(&[0.5; 7], &[0.0; 7]), (0.0, 0.0));
        assert_eq!(coded_product(&[], &[]), (0.0, 0.0));
    }

    #[test]
    fn only_finite_vectors_of_the_right_length_are_usable() {
        assert_eq!(*usable(&[0.5, 1.0], 2), [0.5, 1.0]);
        assert_eq!(*usable(&[0.5], 2), [0.0; 2]);
        for bad in [f32::NAN, f32::INFINITY, f32::MAX] {
            assert_eq!(*usable(&[0.5, bad], 2), [0.0; 2]);
        }
    }
}
