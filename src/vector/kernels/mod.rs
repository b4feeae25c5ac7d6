//! The inner loops of the vector search, one twin per instruction set.
//!
//! All twins of a kernel return the same bits: the integer kernels because integer sums are exact,
//! [`Kernels::dot`] because it always adds in the same sixteen lanes. So results do not depend on
//! the machine, and the scalar twin is the specification the others are tested against.
//!
//! Source: "Index of the embedded store" of the embedding and search design.
#![cfg_attr(target_arch = "x86_64", expect(unsafe_code, reason = "calls into target-feature functions"))]

#[cfg(target_arch = "x86_64")]
mod avx2;
#[cfg(target_arch = "x86_64")]
mod avx512;
mod scalar;

use std::sync::OnceLock;

/// 64 codes of a row, each stored as `code + 128` (the SIMD product wants one unsigned side).
#[derive(Clone, Copy, Debug, PartialEq)]
#[repr(C, align(64))]
pub(super) struct Line(pub [u8; 64]);

/// 64 components of a query, split as `256 * high + low`.
#[derive(Clone, Copy, Debug)]
#[repr(C, align(64))]
pub(super) struct QueryLine {
    pub high: [i8; 64],
    pub low: [i8; 64],
}

/// Words of one sign code: 384 bits.
pub(super) const SIGN_WORDS: usize = 6;
/// Rows that share one [`SignGroup`].
pub(super) const SIGN_LANES: usize = 8;

/// The sign codes of eight rows, transposed: `words[word][row]`.
#[derive(Clone, Copy, Debug, Default)]
#[repr(C, align(64))]
pub(super) struct SignGroup(pub [[u64; SIGN_LANES]; SIGN_WORDS]);

/// A query as four bit planes, the lowest bit first: `planes[bit][word]`.
pub(super) type SignPlanes = [[u64; SIGN_WORDS]; 4];

/// Lanes in which [`Kernels::dot`] adds.
const LANES: usize = 16;

/// An instruction set this machine is known to have.
///
/// The field is private and only [`Kernels::supported`] fills it, after detection: holding a value
/// is the proof that its kernels may be called.
#[derive(Clone, Copy, Debug)]
pub(super) struct Kernels(InstructionSet);

#[derive(Clone, Copy, Debug)]
enum InstructionSet {
    #[cfg(target_arch = "x86_64")]
    Avx512,
    #[cfg(target_arch = "x86_64")]
    Avx2,
    Scalar,
}

impl InstructionSet {
    fn is_supported(self) -> bool {
        match self {
            #[cfg(target_arch = "x86_64")]
            Self::Avx512 => {
                is_x86_feature_detected!("avx512f")
                    && is_x86_feature_detected!("avx512bw")
                    && is_x86_feature_detected!("avx512vnni")
                    && is_x86_feature_detected!("avx512vpopcntdq")
            }
            #[cfg(target_arch = "x86_64")]
            Self::Avx2 => is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma"),
            Self::Scalar => true,
        }
    }
}

/// Dot product of two vectors (their cosine, if both are normalised), by the best kernel.
///
/// The result is the same on every machine. If the lengths differ, the common prefix counts.
pub fn dot(a: &[f32], b: &[f32]) -> f32 {
    Kernels::best().dot(a, b)
}

impl Kernels {
    /// The fastest kernels of this machine, detected once.
    pub fn best() -> Self {
        static BEST: OnceLock<Kernels> = OnceLock::new();
        *BEST.get_or_init(|| Self::supported()[0])
    }

    /// All kernels this machine can run, the fastest first; never empty.
    fn supported() -> Vec<Self> {
        let all = [
            #[cfg(target_arch = "x86_64")]
            InstructionSet::Avx512,
            #[cfg(target_arch = "x86_64")]
            InstructionSet::Avx2,
            InstructionSet::Scalar,
        ];
        let supported = all.into_iter().filter(|set| set.is_supported());
        supported.map(Self).collect()
    }

    /// Dot products of a query with the `picked` rows of `rows`, a row being `query.len()` lines.
    ///
    /// `sums[i]` becomes the raw sums (biased code times high part, times low part) of row
    /// `picked[i]`; both slices have the same length. The sums fit an i32 for rows of up to 1024
    /// lines.
    pub fn dot_codes(self, query: &[QueryLine], rows: &[Line], picked: &[u16], sums: &mut [[i32; 2]]) {
        match self.0 {
            // SAFETY: `supported` has detected the features of this instruction set.
            #[cfg(target_arch = "x86_64")]
            InstructionSet::Avx512 => unsafe { avx512::dot_codes(query, rows, picked, sums) },
            // SAFETY: as above.
            #[cfg(target_arch = "x86_64")]
            InstructionSet::Avx2 => unsafe { avx2::dot_codes(query, rows, picked, sums) },
            InstructionSet::Scalar => scalar::dot_codes(query, rows, picked, sums),
        }
    }

    /// Weighted Hamming distances: `distances[g][r]` becomes the sum over the four planes of
    /// `2^bit * popcount(code ^ plane)` for row `r` of group `g`, at most `15 * 384`.
    pub fn sign_distances(self, planes: &SignPlanes, groups: &[SignGroup], distances: &mut [[u16; SIGN_LANES]]) {
        match self.0 {
            // SAFETY: `supported` has detected the features of this instruction set.
            #[cfg(target_arch = "x86_64")]
            InstructionSet::Avx512 => unsafe { avx512::sign_distances(planes, groups, distances) },
            // SAFETY: as above.
            #[cfg(target_arch = "x86_64")]
            InstructionSet::Avx2 => unsafe { avx2::sign_distances(planes, groups, distances) },
            InstructionSet::Scalar => scalar::sign_distances(planes, groups, distances),
        }
    }

    /// f32 dot product over the common prefix of `a` and `b`.
    pub fn dot(self, a: &[f32], b: &[f32]) -> f32 {
        let shared = a.len().min(b.len());
        let (a, a_rest) = a[..shared].as_chunks::<LANES>();
        let (b, b_rest) = b[..shared].as_chunks::<LANES>();
        let mut lanes = match self.0 {
            // SAFETY: `supported` has detected the features of this instruction set.
            #[cfg(target_arch = "x86_64")]
            InstructionSet::Avx512 => unsafe { avx512::dot(a, b) },
            // SAFETY: as above.
            #[cfg(target_arch = "x86_64")]
            InstructionSet::Avx2 => unsafe { avx2::dot(a, b) },
            InstructionSet::Scalar => scalar::dot(a, b),
        };
        for ((lane, x), y) in lanes.iter_mut().zip(a_rest).zip(b_rest) {
            *lane += x * y;
        }
        let mut width = LANES / 2;
        while width > 0 {
            for i in 0..width {
                lanes[i] += lanes[i + width];
            }
            width /= 2;
        }
        lanes[0]
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn scalar() -> Kernels {
        Kernels(InstructionSet::Scalar)
    }

    /// Deterministic bytes, with the extremes over-represented.
    fn bytes(seed: u64, count: usize) -> Vec<u8> {
        let mut state = seed;
        let mut next = || {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            (state >> 56) as u8
        };
        (0..count)
            .map(|_| match next() % 4 {
                0 => 255,
                1 => 128,
                _ => next(),
            })
            .collect()
    }

    proptest! {
        #[test]
        fn code_products_agree(
            seed: u64,
            stride in 1_usize..50,
            rows in 1_usize..12,
            picks in prop::collection::vec(any::<prop::sample::Index>(), 0..20),
        ) {
            let noise = bytes(seed, 64 * stride * (rows + 2));
            let (lines, query) = noise.as_chunks::<64>().0.split_at(stride * rows);
            let lines: Vec<Line> = lines.iter().map(|line| Line(*line)).collect();
            let query: Vec<QueryLine> = query
                .chunks_exact(2)
                .map(|q| QueryLine { high: q[0].map(|b| b as i8), low: q[1].map(|b| b as i8) })
                .collect();
            let picked: Vec<u16> = picks.iter().map(|pick| pick.index(rows) as u16).collect();
            let mut expected = vec![[0; 2]; picked.len()];
            scalar().dot_codes(&query, &lines, &picked, &mut expected);
            for kernels in Kernels::supported() {
                let mut sums = vec![[7; 2]; picked.len()];
                kernels.dot_codes(&query, &lines, &picked, &mut sums);
                prop_assert_eq!(&sums, &expected, "{:?}", kernels);
            }
        }

        #[test]
        fn sign_distances_agree(
            planes: [[u64; SIGN_WORDS]; 4],
            codes in prop::collection::vec(any::<[[u64; SIGN_LANES]; SIGN_WORDS]>(), 0..9),
        ) {
            let mut groups: Vec<SignGroup> = codes.into_iter().map(SignGroup).collect();
            groups.push(SignGroup(std::array::from_fn(|word| [!planes[3][word]; SIGN_LANES])));
            let mut expected = vec![[0; SIGN_LANES]; groups.len()];
            scalar().sign_distances(&planes, &groups, &mut expected);
            for kernels in Kernels::supported() {
                let mut distances = vec![[7; SIGN_LANES]; groups.len()];
                kernels.sign_distances(&planes, &groups, &mut distances);
                prop_assert_eq!(&distances, &expected, "{:?}", kernels);
            }
        }

        #[test]
        fn f32_products_agree_bit_for_bit(
            pairs in prop::collection::vec((-1.0_f32..1.0, -1.0_f32..1.0), 0..100),
        ) {
            let (a, b): (Vec<f32>, Vec<f32>) = pairs.into_iter().unzip();
            let expected = scalar().dot(&a, &b);
            for kernels in Kernels::supported() {
                let product = kernels.dot(&a, &b);
                prop_assert_eq!(product.to_bits(), expected.to_bits(), "{:?}", kernels);
            }
            let real: f64 = a.iter().zip(&b).map(|(&x, &y)| f64::from(x) * f64::from(y)).sum();
            prop_assert!((f64::from(expected) - real).abs() < 1e-5);
        }
    }

    #[test]
    fn widest_sums_fit() {
        let query = vec![QueryLine { high: [127; 64], low: [-128; 64] }; 1024];
        let row = vec![Line([255; 64]); 1024];
        for kernels in Kernels::supported() {
            let mut sums = [[0; 2]];
            kernels.dot_codes(&query, &row, &[0], &mut sums);
            assert_eq!(sums, [[65_536 * 255 * 127, -65_536 * 255 * 128]]);
        }
    }

    #[test]
    fn lengths_may_differ() {
        assert_eq!(dot(&[1.0, 2.0], &[3.0]), 3.0);
        assert_eq!(dot(&[], &[3.0]), 0.0);
    }
}
