//! Quantises activations to signed bytes, with one scale per token and group of 64 features.

use super::math::ROUND;
use super::weights::{Features, GROUP, GROUPS, QUAD, WIDTH};

/// The quantised features of one token: the input of a linear map.
#[derive(Clone, Copy, Debug)]
#[repr(C, align(64))]
pub struct Row {
    /// Features in steps of four: what a kernel broadcasts to its 32-bit lanes.
    pub values: [[i8; QUAD]; WIDTH / QUAD],
    /// A feature is about `values * scales`.
    pub scales: [f32; GROUPS],
    /// -128 times the sum of a group's values: where a kernel that multiplies with
    /// `weight + 128` starts to count.
    pub offsets: [i32; GROUPS],
}

impl Row {
    pub const ZERO: Self = Self { values: [[0; QUAD]; WIDTH / QUAD], scales: [0.0; GROUPS], offsets: [0; GROUPS] };

    /// Quantises `features * inv_smooth`, rounding to the nearest step, ties to even.
    #[inline(always)]
    pub fn quantize(&mut self, features: &Features, inv_smooth: &Features) {
        let inputs = features.as_chunks::<GROUP>().0;
        let smoothing = inv_smooth.as_chunks::<GROUP>().0;
        let values = self.values.as_flattened_mut().as_chunks_mut::<GROUP>().0;
        for group in 0..GROUPS {
            let mut scaled = inputs[group];
            for (x, &smooth) in scaled.iter_mut().zip(&smoothing[group]) {
                *x *= smooth;
            }
            let largest = largest_magnitude(&scaled);
            self.scales[group] = largest / 127.0;
            self.offsets[group] = -128 * round_all(&scaled, steps_per_unit(largest), &mut values[group]);
        }
    }
}

/// Quantisation steps per unit. Groups that are zero but for denormal noise become zero:
/// the quotient would overflow.
#[inline(always)]
fn steps_per_unit(largest: f32) -> f32 {
    if largest > 1e-30 { 127.0 / largest } else { 0.0 }
}

/// The bits of positive floats are ordered like the floats, and the largest integer does not
/// depend on the order of comparisons.
#[inline(always)]
fn largest_magnitude(group: &[f32; GROUP]) -> f32 {
    let largest = group.iter().fold(0, |largest, x| x.abs().to_bits().max(largest));
    f32::from_bits(largest)
}

/// Writes `group * steps` rounded to integers and returns their sum.
#[inline(always)]
fn round_all(group: &[f32; GROUP], steps: f32, values: &mut [i8; GROUP]) -> i32 {
    let mut sum = 0;
    for (value, &x) in values.iter_mut().zip(group) {
        let rounded = x.mul_add(steps, ROUND).to_bits() as i32 - ROUND.to_bits() as i32;
        *value = rounded as i8;
        sum += rounded;
    }
    sum
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn values_are_within_half_a_step(
            features in prop::collection::vec(-50.0f32..50.0, WIDTH),
            magnitude in -12i32..4,
        ) {
            let features: Features = std::array::from_fn(|i| features[i] * 10f32.powi(magnitude));
            let mut row = Row::ZERO;
            row.quantize(&features, &[1.0; WIDTH]);
            let values = row.values.as_flattened();
            for (i, &x) in features.iter().enumerate() {
                let scale = row.scales[i / GROUP];
                prop_assert!((x - f32::from(values[i]) * scale).abs() <= scale * 0.501);
            }
            for (group, values) in values.chunks(GROUP).enumerate() {
                let sum: i32 = values.iter().map(|&v| i32::from(v)).sum();
                prop_assert_eq!(row.offsets[group], -128 * sum);
            }
        }
    }

    #[test]
    fn zero_and_denormal_groups_are_zero() {
        let mut row = Row::ZERO;
        let features = std::array::from_fn(|i| if i < GROUP { 0.0 } else { f32::MIN_POSITIVE / 4.0 });
        row.quantize(&features, &[1.0; WIDTH]);
        assert_eq!(row.values.as_flattened(), [0; WIDTH]);
        assert_eq!(row.offsets, [0; GROUPS]);
    }
}
