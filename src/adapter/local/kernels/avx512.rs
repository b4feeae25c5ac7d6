//! The kernel for AVX-512 with VNNI: four byte products per lane and instruction, of an
//! unsigned weight and a signed activation.

#![expect(unsafe_code, reason = "calls functions that need a detected instruction set")]

use std::arch::x86_64::*;

use bytemuck::{must_cast, must_cast_ref};

use super::{Kernel, Work};
use crate::adapter::local::quantize::Row;
use crate::adapter::local::weights::{BLOCK, Block, GROUP, GROUPS, QUAD, Tile};

/// Exists only on CPUs with the features that [`Avx512Vnni::detect`] looks for.
#[derive(Clone, Copy)]
pub struct Avx512Vnni(());

impl Avx512Vnni {
    pub fn detect() -> Option<Self> {
        let found = is_x86_feature_detected!("avx512f")
            && is_x86_feature_detected!("avx512bw")
            && is_x86_feature_detected!("avx512dq")
            && is_x86_feature_detected!("avx512vl")
            && is_x86_feature_detected!("avx512vnni")
            && is_x86_feature_detected!("avx2")
            && is_x86_feature_detected!("fma");
        found.then_some(Self(()))
    }
}

impl Kernel for Avx512Vnni {
    const QUERIES: usize = 6;

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

#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx2,fma")]
fn run<W: Work>(kernel: Avx512Vnni, work: W) -> W::Output {
    work.run(kernel)
}

#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx2,fma")]
fn multiply<const M: usize>(tile: &Tile, rows: &[Row; M], sums: &mut [Block; M]) {
    const QUADS: usize = GROUP / QUAD;
    let next = std::ptr::from_ref(tile).wrapping_add(1);
    let mut totals = [[_mm512_setzero_ps(); 2]; M];
    for m in 0..M {
        totals[m] = must_cast(sums[m]);
    }
    for group in 0..GROUPS {
        let mut products = [[_mm512_setzero_si512(); 2]; M];
        for m in 0..M {
            products[m] = [_mm512_set1_epi32(rows[m].offsets[group]); 2];
        }
        for step in 0..QUADS {
            let quad = group * QUADS + step;
            prefetch_line_pair(next, quad);
            let weights: [__m512i; 2] = must_cast(tile.weights[quad]);
            for m in 0..M {
                let values = _mm512_set1_epi32(must_cast(rows[m].values[quad]));
                products[m][0] = _mm512_dpbusd_epi32(products[m][0], weights[0], values);
                products[m][1] = _mm512_dpbusd_epi32(products[m][1], weights[1], values);
            }
        }
        let scales: &[[f32; 16]; 2] = must_cast_ref(&tile.scales[group]);
        for m in 0..M {
            let row_scale = _mm512_set1_ps(rows[m].scales[group]);
            for half in 0..2 {
                totals[m][half] = _mm512_fmadd_ps(
                    _mm512_cvtepi32_ps(products[m][half]),
                    _mm512_mul_ps(row_scale, must_cast(scales[half])),
                    totals[m][half],
                );
            }
        }
    }
    for m in 0..M {
        sums[m] = must_cast(totals[m]);
    }
}

/// Asks for two cache lines of the tile behind this one, which is the next one in use.
/// Short texts are bound by the speed at which weights arrive.
#[inline(always)]
fn prefetch_line_pair(next: *const Tile, pair: usize) {
    let line = next.cast::<i8>().wrapping_add(pair * BLOCK * QUAD);
    // SAFETY: a prefetch is a hint and may be given any address.
    unsafe {
        _mm_prefetch::<_MM_HINT_T0>(line);
        _mm_prefetch::<_MM_HINT_T0>(line.wrapping_add(64));
    }
}
