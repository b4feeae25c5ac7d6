//! The int8 matrix product in the instruction sets a CPU may have, chosen at run time.
//!
//! A [`Kernel`] value is the proof that the CPU has the kernel's instruction set, because
//! its constructor looked. It offers two things: the product of a tile of weights, and a
//! way to run any other code compiled for that instruction set ([`Work`]). All kernels give
//! the same bits: sums inside a group of 64 inputs are exact integers, and across groups
//! every kernel does the same fused multiply-adds in the same order.
//! Source: design notes on embedding, section 1.

#[cfg(target_arch = "x86_64")]
mod avx2;
#[cfg(target_arch = "x86_64")]
mod avx512;
mod scalar;

#[cfg(target_arch = "x86_64")]
use avx2::Avx2;
#[cfg(target_arch = "x86_64")]
use avx512::Avx512Vnni;
use scalar::Scalar;

use super::quantize::Row;
use super::weights::{Block, Tile};

/// An instruction set the CPU is known to have.
pub trait Kernel: Copy {
    /// Queries that attention works on at once, as many as the registers hold.
    const QUERIES: usize;

    /// Adds the outputs of a tile to `sums`: `sums[m] += tile * rows[m]`.
    fn multiply<const M: usize>(self, tile: &Tile, rows: &[Row; M], sums: &mut [Block; M]);

    /// Runs `work` compiled for this instruction set.
    fn run<W: Work>(self, work: W) -> W::Output;
}

/// Code to be compiled once per instruction set: [`run`](Work::run) and all it calls must be
/// `inline(always)` to become part of the function that enables the instructions.
pub trait Work {
    type Output;
    fn run<K: Kernel>(self, kernel: K) -> Self::Output;
}

/// A kernel that is chosen at run time.
#[derive(Clone, Copy)]
pub enum Choice {
    #[cfg(target_arch = "x86_64")]
    Avx512(Avx512Vnni),
    #[cfg(target_arch = "x86_64")]
    Avx2(Avx2),
    Scalar(Scalar),
}

impl Choice {
    /// The fastest kernel this CPU can run.
    pub fn best() -> Self {
        Self::available().next().unwrap_or(Self::Scalar(Scalar))
    }

    /// Every kernel this CPU can run, the fastest first.
    pub fn available() -> impl Iterator<Item = Self> {
        [
            #[cfg(target_arch = "x86_64")]
            Avx512Vnni::detect().map(Self::Avx512),
            #[cfg(target_arch = "x86_64")]
            Avx2::detect().map(Self::Avx2),
            Some(Self::Scalar(Scalar)),
        ]
        .into_iter()
        .flatten()
    }

    /// Runs `work` with the chosen kernel.
    pub fn run<W: Work>(self, work: W) -> W::Output {
        match self {
            #[cfg(target_arch = "x86_64")]
            Self::Avx512(kernel) => kernel.run(work),
            #[cfg(target_arch = "x86_64")]
            Self::Avx2(kernel) => kernel.run(work),
            Self::Scalar(kernel) => kernel.run(work),
        }
    }

    /// Name for the log.
    pub fn name(self) -> &'static str {
        match self {
            #[cfg(target_arch = "x86_64")]
            Self::Avx512(_) => "avx512-vnni",
            #[cfg(target_arch = "x86_64")]
            Self::Avx2(_) => "avx2",
            Self::Scalar(_) => "scalar",
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::collection::vec;
    use proptest::prelude::*;

    use super::*;
    use crate::adapter::local::runs::{MAX_RUN, RowTile, for_runs};
    use crate::adapter::local::weights::{BLOCK, GROUPS, WIDTH};

    /// The product of a tile with all rows, in runs of at most `longest`.
    struct Product<'a> {
        tile: &'a Tile,
        rows: &'a [Row],
        longest: usize,
    }

    struct Runs<'a, K> {
        kernel: K,
        tile: &'a Tile,
        rows: &'a [Row],
        sums: Vec<Block>,
    }

    impl<K: Kernel> RowTile for Runs<'_, K> {
        fn run<const M: usize>(&mut self, first: usize) {
            let rows = self.rows[first..].first_chunk::<M>().unwrap();
            let sums = self.sums[first..].first_chunk_mut::<M>().unwrap();
            self.kernel.multiply(self.tile, rows, sums);
        }
    }

    impl Work for Product<'_> {
        type Output = Vec<u32>;

        fn run<K: Kernel>(self, kernel: K) -> Vec<u32> {
            let mut runs = Runs { kernel, tile: self.tile, rows: self.rows, sums: vec![[0.5; BLOCK]; self.rows.len()] };
            for_runs(self.rows.len(), self.longest, &mut runs);
            let sums = runs.sums.as_flattened();
            sums.iter().map(|sum| sum.to_bits()).collect()
        }
    }

    fn tile(bytes: &[u8], scales: &[f32]) -> Tile {
        let mut tile: Tile = bytemuck::Zeroable::zeroed();
        tile.weights.as_flattened_mut().copy_from_slice(bytes);
        tile.scales.as_flattened_mut().copy_from_slice(scales);
        tile
    }

    fn row(values: &[i8], scales: &[f32]) -> Row {
        let mut row = Row::ZERO;
        row.values.as_flattened_mut().copy_from_slice(values);
        row.scales.copy_from_slice(scales);
        for (offset, group) in row.offsets.iter_mut().zip(values.chunks(WIDTH / GROUPS)) {
            *offset = -128 * group.iter().map(|&value| i32::from(value)).sum::<i32>();
        }
        row
    }

    fn rows() -> impl Strategy<Value = Vec<Row>> {
        let row =
            (vec(-127..=127i8, WIDTH), vec(0.0..2.0f32, GROUPS)).prop_map(|(values, scales)| row(&values, &scales));
        vec(row, 1..9)
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(32))]
        #[test]
        fn kernels_agree_bit_for_bit(
            bytes in vec(any::<u8>(), WIDTH * BLOCK),
            scales in vec(-1.0..1.0f32, GROUPS * BLOCK),
            rows in rows(),
            longest in 1..=MAX_RUN,
        ) {
            let tile = &tile(&bytes, &scales);
            let rows = rows.as_slice();
            let expected = Choice::Scalar(Scalar).run(Product { tile, rows, longest: 1 });
            for kernel in Choice::available() {
                let sums = kernel.run(Product { tile, rows, longest });
                prop_assert_eq!(&sums, &expected, "{}", kernel.name());
            }
        }
    }

    #[test]
    fn the_scalar_kernel_multiplies() {
        // Weight 2 times value 3 in every input, scales 0.5 and 0.25.
        let tile = &tile(&[130; WIDTH * BLOCK], &[0.5; GROUPS * BLOCK]);
        let rows = &[row(&[3; WIDTH], &[0.25; GROUPS])];
        let product = Product { tile, rows, longest: 1 };
        let sums = Choice::Scalar(Scalar).run(product);
        let expected = 0.5 + 2.0 * 3.0 * WIDTH as f32 * 0.5 * 0.25;
        assert_eq!(sums, [expected.to_bits(); BLOCK]);
    }
}
