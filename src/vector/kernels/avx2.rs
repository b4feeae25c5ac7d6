//! The kernels for AVX2 with FMA.
//!
//! Only [`Kernels`](super::Kernels) calls them, after detection.
#![expect(unsafe_code, reason = "SIMD loads and stores")]

use super::{LANES, Line, QueryLine, SIGN_LANES, SignGroup, SignPlanes};
use std::arch::x86_64::*;

/// Rows per tile: two sums each and the query fill the sixteen registers.
const TILE: usize = 4;

/// Loads part `index` of `block`, in units of 32 bytes.
#[inline]
#[target_feature(enable = "avx2")]
fn load<T: Copy, const N: usize>(block: &[T; N], index: usize) -> __m256i {
    const { assert!(size_of::<T>() * N == 64) }
    assert!(index < 2);
    // SAFETY: 32 bytes from byte 0 or 32 of a block of 64; the load needs no alignment.
    unsafe { _mm256_loadu_si256(block.as_ptr().cast::<__m256i>().add(index)) }
}

#[target_feature(enable = "avx2")]
pub fn dot_codes(query: &[QueryLine], rows: &[Line], picked: &[u16], sums: &mut [[i32; 2]]) {
    let (tiles, rest) = picked.as_chunks::<TILE>();
    let (tile_sums, rest_sums) = sums.split_at_mut(tiles.len() * TILE);
    for (tile, sums) in tiles.iter().zip(tile_sums.as_chunks_mut::<TILE>().0) {
        *sums = dot_tile(query, rows, tile);
    }
    for (&row, sum) in rest.iter().zip(rest_sums) {
        [*sum] = dot_tile(query, rows, &[row]);
    }
}

#[inline]
#[target_feature(enable = "avx2")]
fn dot_tile<const N: usize>(query: &[QueryLine], rows: &[Line], picked: &[u16; N]) -> [[i32; 2]; N] {
    let tile = picked.map(|row| &rows[usize::from(row) * query.len()..][..query.len()]);
    let mut high = [_mm256_setzero_si256(); N];
    let mut low = [_mm256_setzero_si256(); N];
    for (i, q) in query.iter().enumerate() {
        for half in 0..2 {
            let q_high = widen_signed(load(&q.high, half));
            let q_low = widen_signed(load(&q.low, half));
            for (r, row) in tile.iter().enumerate() {
                let codes = load(&row[i].0, half);
                // Widened and multiplied as i16: the 8-bit product of AVX2 saturates.
                let codes = [
                    _mm256_cvtepu8_epi16(_mm256_castsi256_si128(codes)),
                    _mm256_cvtepu8_epi16(_mm256_extracti128_si256::<1>(codes)),
                ];
                for part in 0..2 {
                    let product = _mm256_madd_epi16(codes[part], q_high[part]);
                    high[r] = _mm256_add_epi32(high[r], product);
                    let product = _mm256_madd_epi16(codes[part], q_low[part]);
                    low[r] = _mm256_add_epi32(low[r], product);
                }
            }
        }
    }
    std::array::from_fn(|r| [add_lanes(high[r]), add_lanes(low[r])])
}

#[inline]
#[target_feature(enable = "avx2")]
fn widen_signed(bytes: __m256i) -> [__m256i; 2] {
    [_mm256_cvtepi8_epi16(_mm256_castsi256_si128(bytes)), _mm256_cvtepi8_epi16(_mm256_extracti128_si256::<1>(bytes))]
}

#[inline]
#[target_feature(enable = "avx2")]
fn add_lanes(sum: __m256i) -> i32 {
    let four = _mm_add_epi32(_mm256_castsi256_si128(sum), _mm256_extracti128_si256::<1>(sum));
    let two = _mm_add_epi32(four, _mm_shuffle_epi32::<0b01_00_11_10>(four));
    let one = _mm_add_epi32(two, _mm_shuffle_epi32::<0b10_11_00_01>(two));
    _mm_cvtsi128_si32(one)
}

#[target_feature(enable = "avx2")]
pub fn sign_distances(planes: &SignPlanes, groups: &[SignGroup], distances: &mut [[u16; SIGN_LANES]]) {
    for (group, distances) in groups.iter().zip(distances) {
        for half in 0..2 {
            let mut total = _mm256_setzero_si256();
            for plane in planes.iter().rev() {
                // Bytes count up to 8 * 6 bits, so they cannot overflow.
                let mut count = _mm256_setzero_si256();
                for (codes, &word) in group.0.iter().zip(plane) {
                    let word = _mm256_set1_epi64x(word.cast_signed());
                    let differing = _mm256_xor_si256(load(codes, half), word);
                    count = _mm256_add_epi8(count, count_bytes(differing));
                }
                let count = _mm256_sad_epu8(count, _mm256_setzero_si256());
                total = _mm256_add_epi64(_mm256_slli_epi64::<1>(total), count);
            }
            let mut sums = [0_u64; 4];
            // SAFETY: `sums` is 32 bytes, the size of the store, which needs no alignment.
            unsafe { _mm256_storeu_si256(sums.as_mut_ptr().cast(), total) };
            for (distance, sum) in distances[half * 4..].iter_mut().zip(sums) {
                *distance = sum as u16;
            }
        }
    }
}

/// Set bits of every byte, by two lookups of half a byte.
#[inline]
#[target_feature(enable = "avx2")]
fn count_bytes(bits: __m256i) -> __m256i {
    let table = _mm256_broadcastsi128_si256(_mm_setr_epi8(0, 1, 1, 2, 1, 2, 2, 3, 1, 2, 2, 3, 2, 3, 3, 4));
    let mask = _mm256_set1_epi8(0x0f);
    let low = _mm256_and_si256(bits, mask);
    let high = _mm256_and_si256(_mm256_srli_epi16::<4>(bits), mask);
    _mm256_add_epi8(_mm256_shuffle_epi8(table, low), _mm256_shuffle_epi8(table, high))
}

#[target_feature(enable = "avx2,fma")]
pub fn dot(a: &[[f32; LANES]], b: &[[f32; LANES]]) -> [f32; LANES] {
    let mut sums = [_mm256_setzero_ps(); 2];
    for (a, b) in a.iter().zip(b) {
        for (half, sum) in sums.iter_mut().enumerate() {
            let a = _mm256_castsi256_ps(load(a, half));
            let b = _mm256_castsi256_ps(load(b, half));
            *sum = _mm256_fmadd_ps(a, b, *sum);
        }
    }
    let mut lanes = [0.0; LANES];
    for (lanes, sum) in lanes.as_chunks_mut::<8>().0.iter_mut().zip(sums) {
        // SAFETY: `lanes` is 32 bytes, the size of the store, which needs no alignment.
        unsafe { _mm256_storeu_ps(lanes.as_mut_ptr(), sum) };
    }
    lanes
}
