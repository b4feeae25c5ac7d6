//! The kernels for AVX-512 with VNNI and VPOPCNTDQ (Ice Lake, Zen 4 and later).
//!
//! Only [`Kernels`](super::Kernels) calls them, after detection.
#![expect(unsafe_code, reason = "SIMD loads and stores")]

use super::{LANES, Line, QueryLine, SIGN_LANES, SignGroup, SignPlanes};
use std::arch::x86_64::*;

/// Rows per tile: enough independent sums to hide the latency of the product.
const TILE: usize = 4;

#[inline]
#[target_feature(enable = "avx512f")]
fn load<T: Copy, const N: usize>(block: &[T; N]) -> __m512i {
    const { assert!(size_of::<T>() * N == 64) }
    // SAFETY: the reference covers the 64 bytes read; the load needs no alignment.
    unsafe { _mm512_loadu_si512(block.as_ptr().cast()) }
}

#[target_feature(enable = "avx512f,avx512bw,avx512vnni")]
pub fn dot_codes(query: &[QueryLine], rows: &[Line], picked: &[u16], sums: &mut [[i32; 2]]) {
    let (tiles, rest) = picked.as_chunks::<TILE>();
    let (tile_sums, rest_sums) = sums.split_at_mut(tiles.len() * TILE);
    for (tile, sums) in tiles.iter().zip(tile_sums.as_chunks_mut::<TILE>().0) {
        *sums = dot_tile(query, rows, *tile);
    }
    if let Some(&first) = rest.first() {
        // A short tile repeats its first row: as fast as a kernel for single rows.
        let mut tile = [first; TILE];
        tile[..rest.len()].copy_from_slice(rest);
        rest_sums.copy_from_slice(&dot_tile(query, rows, tile)[..rest.len()]);
    }
}

#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vnni")]
fn dot_tile(query: &[QueryLine], rows: &[Line], picked: [u16; TILE]) -> [[i32; 2]; TILE] {
    let mut tile = [[].as_slice(); TILE];
    for (row, pick) in tile.iter_mut().zip(picked) {
        *row = &rows[usize::from(pick) * query.len()..][..query.len()];
    }
    let [a, b, c, d] = tile;
    let mut high = [_mm512_setzero_si512(); TILE];
    let mut low = [_mm512_setzero_si512(); TILE];
    for ((((q, a), b), c), d) in query.iter().zip(a).zip(b).zip(c).zip(d) {
        let (q_high, q_low) = (load(&q.high), load(&q.low));
        for (r, line) in [a, b, c, d].into_iter().enumerate() {
            let codes = load(&line.0);
            high[r] = _mm512_dpbusd_epi32(high[r], codes, q_high);
            low[r] = _mm512_dpbusd_epi32(low[r], codes, q_low);
        }
    }
    let mut sums = [[0; 2]; TILE];
    // SAFETY: `sums` is 32 bytes, the size of the store, which needs no alignment.
    unsafe { _mm256_storeu_si256(sums.as_mut_ptr().cast(), add_lanes(high, low)) };
    sums
}

/// The lane sums of `high[0]`, `low[0]`, `high[1]`, ... `low[3]`: a transposition that adds on
/// its way, four times cheaper than eight sums one by one.
#[inline]
#[target_feature(enable = "avx512f")]
fn add_lanes(high: [__m512i; TILE], low: [__m512i; TILE]) -> __m256i {
    let mut pairs = high;
    for (pair, low) in pairs.iter_mut().zip(low) {
        let (even, odd) = (_mm512_unpacklo_epi32(*pair, low), _mm512_unpackhi_epi32(*pair, low));
        *pair = _mm512_add_epi32(even, odd);
    }
    let [a, b, c, d] = pairs;
    let ab = _mm512_add_epi32(_mm512_unpacklo_epi64(a, b), _mm512_unpackhi_epi64(a, b));
    let cd = _mm512_add_epi32(_mm512_unpacklo_epi64(c, d), _mm512_unpackhi_epi64(c, d));
    // Now every 128 bits hold partial sums of two rows: bring the four of each together.
    let lower = _mm512_shuffle_i64x2::<0b01_00_01_00>(ab, cd);
    let upper = _mm512_shuffle_i64x2::<0b11_10_11_10>(ab, cd);
    let sums = _mm512_add_epi32(lower, upper);
    let odd = _mm512_shuffle_i64x2::<0b11_11_11_01>(sums, sums);
    let even = _mm512_shuffle_i64x2::<0b10_10_10_00>(sums, sums);
    _mm512_castsi512_si256(_mm512_add_epi32(even, odd))
}

#[target_feature(enable = "avx512f,avx512vpopcntdq")]
pub fn sign_distances(planes: &SignPlanes, groups: &[SignGroup], distances: &mut [[u16; SIGN_LANES]]) {
    for (group, distances) in groups.iter().zip(distances) {
        let mut counts = [_mm512_setzero_si512(); 4];
        for (word, codes) in group.0.iter().enumerate() {
            let codes = load(codes);
            for (count, plane) in counts.iter_mut().zip(planes) {
                let differing = _mm512_xor_si512(codes, _mm512_set1_epi64(plane[word].cast_signed()));
                *count = _mm512_add_epi64(*count, _mm512_popcnt_epi64(differing));
            }
        }
        let [ones, twos, fours, eights] = counts;
        let odd = _mm512_add_epi64(ones, _mm512_slli_epi64::<1>(twos));
        let even = _mm512_add_epi64(fours, _mm512_slli_epi64::<1>(eights));
        let sum = _mm512_add_epi64(odd, _mm512_slli_epi64::<2>(even));
        let packed = _mm512_cvtepi64_epi16(sum);
        // SAFETY: `distances` is 16 bytes, the size of the store, which needs no alignment.
        unsafe { _mm_storeu_si128(distances.as_mut_ptr().cast(), packed) };
    }
}

#[target_feature(enable = "avx512f")]
pub fn dot(a: &[[f32; LANES]], b: &[[f32; LANES]]) -> [f32; LANES] {
    let mut sum = _mm512_setzero_ps();
    for (a, b) in a.iter().zip(b) {
        let (a, b) = (_mm512_castsi512_ps(load(a)), _mm512_castsi512_ps(load(b)));
        sum = _mm512_fmadd_ps(a, b, sum);
    }
    let mut lanes = [0.0; LANES];
    // SAFETY: `lanes` is 64 bytes, the size of the store, which needs no alignment.
    unsafe { _mm512_storeu_ps(lanes.as_mut_ptr(), sum) };
    lanes
}
