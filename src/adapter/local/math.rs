//! The functions between the linear maps: layer norm, GELU, powers of two.
//!
//! Results must be bit-equal on every instruction set, because stored embeddings are
//! compared with freshly made ones. Hence the rules of this file: reductions run over
//! explicit arrays of [`LANES`] sums that are then folded in a fixed order, products are
//! added with `mul_add`, and no function of the platform's maths library is used except
//! `sqrt`, which IEEE 754 defines exactly. Everything is `inline(always)`: it is compiled
//! once per instruction set, inside the function the kernel enters it from.

use super::weights::{Features, Norm, WIDTH};

/// Width of the explicit reduction arrays.
const LANES: usize = 16;

/// 1.5 * 2^23: adding it to `|x| < 2^22` rounds `x` to an integer (ties to even) and leaves
/// that integer in the low bits of the sum.
pub const ROUND: f32 = 12_582_912.0;

/// Joins all numbers of `row`, whose length is a multiple of [`LANES`], in a fixed order.
#[inline(always)]
pub fn reduce(row: &[f32], start: f32, join: impl Fn(f32, f32) -> f32) -> f32 {
    let mut lanes = [start; LANES];
    for chunk in row.as_chunks::<LANES>().0 {
        for lane in 0..LANES {
            lanes[lane] = join(lanes[lane], chunk[lane]);
        }
    }
    fold(&lanes, join)
}

/// Joins the lanes pairwise. Not inlined: seen together with the loop of [`reduce`], the
/// compiler would give that loop the narrow vectors that suit the last steps of this one.
#[inline(never)]
fn fold(lanes: &[f32; LANES], join: impl Fn(f32, f32) -> f32) -> f32 {
    let mut lanes = *lanes;
    let mut width = LANES / 2;
    while width > 0 {
        for lane in 0..width {
            lanes[lane] = join(lanes[lane], lanes[lane + width]);
        }
        width /= 2;
    }
    lanes[0]
}

/// The larger number; compiles to one instruction as NaN cannot occur.
#[inline(always)]
pub fn larger(a: f32, b: f32) -> f32 {
    if a > b { a } else { b }
}

/// `2^x` for `-125 <= x <= 127` with a relative error below 3e-7; smaller `x` count as -125.
#[inline(always)]
pub fn exp2(x: f32) -> f32 {
    // Minimax polynomial of 2^r for |r| <= 0.5, highest power first.
    const POLYNOMIAL: [f32; 6] =
        [1.327_647_1e-3, 9.675_541e-3, 5.550_713e-2, 2.402_212e-1, 6.931_469_4e-1, 1.000_000_1];
    let x = larger(x, -125.0);
    let rounded = x + ROUND;
    let rest = x - (rounded - ROUND);
    // The low bits of `rounded` hold the exponent: move them to its place.
    let exponent = rounded.to_bits() << (f32::MANTISSA_DIGITS - 1);
    f32::from_bits(polynomial(&POLYNOMIAL, rest).to_bits().wrapping_add(exponent))
}

/// GELU in its exact form, `x * Phi(x)` with the normal distribution function `Phi`;
/// absolute error below 1e-5 for `|x| < 8`, far less than a quantisation step.
#[inline(always)]
pub fn gelu(x: f32) -> f32 {
    // Phi is constant to 3e-7 outside this range.
    const RANGE: f32 = 5.0;
    // Minimax polynomial of (Phi(x) - 0.5) / x in u = 2 (x / RANGE)^2 - 1, highest power first.
    const POLYNOMIAL: [f32; 12] = [
        -1.372_519_6e-3,
        3.428_215_6e-3,
        -3.287_210_1e-3,
        4.627_760_5e-3,
        -1.062_311_8e-2,
        1.725_614e-2,
        -2.347_900_7e-2,
        3.125_852_7e-2,
        -4.040_976e-2,
        5.153_485e-2,
        -7.029_769e-2,
        1.413_636e-1,
    ];
    let low = larger(x, -RANGE);
    let clamped = if low < RANGE { low } else { RANGE };
    let u = (clamped * clamped).mul_add(2.0 / (RANGE * RANGE), -1.0);
    let phi = polynomial(&POLYNOMIAL, u).mul_add(clamped, 0.5);
    x * phi
}

/// Horner's rule, highest power first.
#[inline(always)]
fn polynomial<const N: usize>(coefficients: &[f32; N], x: f32) -> f32 {
    let mut value = coefficients[0];
    for &coefficient in &coefficients[1..] {
        value = value.mul_add(x, coefficient);
    }
    value
}

/// Scales features to mean 0 and variance 1, then applies gain and bias.
#[inline(always)]
pub fn layer_norm(row: &mut Features, norm: &Norm) {
    const EPSILON: f32 = 1e-12;
    let mean = reduce(row, 0.0, |a, b| a + b) / WIDTH as f32;
    for x in row.iter_mut() {
        *x -= mean;
    }
    let variance = sum_of_squares(row) / WIDTH as f32;
    let scale = 1.0 / (variance + EPSILON).sqrt();
    for ((x, &gain), &bias) in row.iter_mut().zip(&norm.gain).zip(&norm.bias) {
        *x = (*x * scale).mul_add(gain, bias);
    }
}

/// Scales features to length 1.
#[inline(always)]
pub fn normalise(row: &mut Features) {
    let scale = 1.0 / sum_of_squares(row).sqrt();
    for x in row {
        *x *= scale;
    }
}

#[inline(always)]
fn sum_of_squares(row: &Features) -> f32 {
    let squares = row.map(|x| x * x);
    reduce(&squares, 0.0, |a, b| a + b)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn assert_close(value: f32, expected: f64, tolerance: f64) {
        let error = (f64::from(value) - expected).abs();
        assert!(error <= tolerance, "{value} instead of {expected}");
    }

    #[test]
    fn exp2_is_accurate() {
        for step in -1250..=1270 {
            let x = step as f32 * 0.1;
            let expected = f64::from(x).exp2();
            assert_close(exp2(x), expected, expected * 3e-7);
        }
        assert!(exp2(-1e30) < 1e-37);
    }

    #[test]
    fn gelu_is_accurate() {
        // Phi by the trapezoid rule.
        let (mut phi, mut x) = (0.0, -8.0);
        let step = 1e-3;
        let density = |x: f64| (-0.5 * x * x).exp() / (2.0 * std::f64::consts::PI).sqrt();
        while x < 8.0 {
            assert_close(gelu(x as f32), x * phi, 1e-5);
            phi += step * 0.5 * (density(x) + density(x + step));
            x += step;
        }
    }

    #[test]
    fn reduce_joins_every_number_once() {
        let row = std::array::from_fn::<f32, 64, _>(|i| i as f32);
        assert_eq!(reduce(&row, 0.0, |a, b| a + b), 2016.0);
        assert_eq!(reduce(&row, f32::NEG_INFINITY, larger), 63.0);
    }

    #[test]
    fn layer_norm_gives_mean_0_and_variance_1() {
        let mut row = std::array::from_fn(|i| (i as f32 * 0.37).sin() * 5.0 + 2.0);
        let norm = Norm { gain: [1.0; WIDTH], bias: [0.0; WIDTH] };
        layer_norm(&mut row, &norm);
        assert_close(row.iter().sum(), 0.0, 1e-3);
        assert_close(sum_of_squares(&row), WIDTH as f64, 1e-2);
        normalise(&mut row);
        assert_close(sum_of_squares(&row), 1.0, 1e-6);
    }
}
