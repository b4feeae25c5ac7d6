//! The kernels without SIMD: the specification of the others, and what any machine can run.

use super::{LANES, Line, QueryLine, SIGN_LANES, SignGroup, SignPlanes};

pub fn dot_codes(query: &[QueryLine], rows: &[Line], picked: &[u16], sums: &mut [[i32; 2]]) {
    for (&row, sum) in picked.iter().zip(sums) {
        *sum = [0; 2];
        for (q, line) in query.iter().zip(&rows[usize::from(row) * query.len()..]) {
            for ((&code, &high), &low) in line.0.iter().zip(&q.high).zip(&q.low) {
                sum[0] += i32::from(code) * i32::from(high);
                sum[1] += i32::from(code) * i32::from(low);
            }
        }
    }
}

pub fn sign_distances(planes: &SignPlanes, groups: &[SignGroup], distances: &mut [[u16; SIGN_LANES]]) {
    for (group, distances) in groups.iter().zip(distances) {
        *distances = [0; SIGN_LANES];
        for (bit, plane) in planes.iter().enumerate() {
            for (words, plane_word) in group.0.iter().zip(plane) {
                for (distance, word) in distances.iter_mut().zip(words) {
                    // At most 64 * 8: fits.
                    *distance += ((word ^ plane_word).count_ones() as u16) << bit;
                }
            }
        }
    }
}

pub fn dot(a: &[[f32; LANES]], b: &[[f32; LANES]]) -> [f32; LANES] {
    let mut lanes = [0.0; LANES];
    for (a, b) in a.iter().zip(b) {
        for ((lane, x), y) in lanes.iter_mut().zip(a).zip(b) {
            *lane = f32::mul_add(*x, *y, *lane);
        }
    }
    lanes
}
