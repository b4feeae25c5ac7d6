//! The kernel for AVX2: bytes are widened to 16 bits, then multiplied and added in pairs.
//! (The instruction for byte products would saturate.)

#![expect(unsafe_code, reason = "calls functions that need a detected instruction set")]

use std::arch::x86_64::*;

use bytemuck::{must_cast, must_cast_ref};

use super::{Kernel, Work};
use crate::adapter::local::quantize::Row;
use crate::adapter::local::weights::{Block, GROUP, GROUPS, QUAD, Tile, WIDTH};

/// Exists only on CPUs with the features that [`Avx2::detect`] looks for.
#[derive(Clone, Copy)]
pub struct Avx2(());

impl Avx2 {
    pub fn detect() -> Option<Self> {
        let found = is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma");
        found.then_some(Self(()))
    }
}

impl Kernel for Avx2 {
    const QUERIES: usize = 3;

    #[inline(always)]
    fn multiply<const M: usize>(self, tile: &Tile, rows: &[Row; M], sums: &mut [Block; M]) {
        // SAFETY: a value of this type exists only if the CPU has the features.
        unsafe { multiply(tile, rows, sums) }
    }

    fn run<W: Work>(self, work: W) -> W::Output {
        // SAFETY: a value of this type exists only if the CPU has the features.
        unsafe { run(self, work) }
    }
}

#[target_feature(enable = "avx2,fma")]
fn run<W: Work>(kernel: Avx2, work: W) -> W::Output {
    work.run(kernel)
}

/// Outputs that share a vector register.
const LANES: usize = 8;
/// Steps of four inputs in a group.
const QUADS: usize = GROUP / QUAD;
/// The values of a row in 16 bits; four of them are what a register repeats.
type Wide = [i64; WIDTH / QUAD];

#[target_feature(enable = "avx2,fma")]
fn multiply<const M: usize>(tile: &Tile, rows: &[Row; M], sums: &mut [Block; M]) {
    let mut wide = [[0; WIDTH / QUAD]; M];
    for m in 0..M {
        widen(&rows[m], &mut wide[m]);
    }
    for part in 0..4 {
        multiply_part(part, tile, rows, &wide, sums);
    }
}

#[target_feature(enable = "avx2,fma")]
fn widen(row: &Row, wide: &mut Wide) {
    let values = row.values.as_flattened().as_chunks::<16>().0;
    for (wide, &values) in wide.as_chunks_mut::<4>().0.iter_mut().zip(values) {
        *wide = must_cast(_mm256_cvtepi8_epi16(must_cast(values)));
    }
}

/// Eight of the tile's 32 outputs.
#[target_feature(enable = "avx2,fma")]
fn multiply_part<const M: usize>(part: usize, tile: &Tile, rows: &[Row; M], wide: &[Wide; M], sums: &mut [Block; M]) {
    let mut totals = [_mm256_setzero_ps(); M];
    for m in 0..M {
        totals[m] = must_cast(sums[m].as_chunks::<LANES>().0[part]);
    }
    for group in 0..GROUPS {
        let mut products = [[_mm256_setzero_si256(); 2]; M];
        for step in 0..QUADS {
            let quad = group * QUADS + step;
            let weights: &[[u8; LANES * QUAD]; 4] = must_cast_ref(&tile.weights[quad]);
            let signed = _mm256_xor_si256(must_cast(weights[part]), _mm256_set1_epi8(-128));
            let low = _mm256_cvtepi8_epi16(_mm256_castsi256_si128(signed));
            let high = _mm256_cvtepi8_epi16(_mm256_extracti128_si256::<1>(signed));
            for m in 0..M {
                let values = _mm256_set1_epi64x(wide[m][quad]);
                let [to_low, to_high] = products[m];
                products[m] = [
                    _mm256_add_epi32(to_low, _mm256_madd_epi16(low, values)),
                    _mm256_add_epi32(to_high, _mm256_madd_epi16(high, values)),
                ];
            }
        }
        let scales = must_cast(tile.scales[group].as_chunks::<LANES>().0[part]);
        for m in 0..M {
            // Adds neighbours; the result has the outputs 0 1 4 5 2 3 6 7.
            let pairs = _mm256_hadd_epi32(products[m][0], products[m][1]);
            let outputs = _mm256_permute4x64_epi64::<0b11_01_10_00>(pairs);
            totals[m] = _mm256_fmadd_ps(
                _mm256_cvtepi32_ps(outputs),
                _mm256_mul_ps(_mm256_set1_ps(rows[m].scales[group]), scales),
                totals[m],
            );
        }
    }
    for m in 0..M {
        sums[m].as_chunks_mut::<LANES>().0[part] = must_cast(totals[m]);
    }
}
