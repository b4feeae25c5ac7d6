//! The kernel in plain Rust: for CPUs without a kernel of their own, and the definition of
//! what the others compute.

use super::{Kernel, Work};
use crate::adapter::local::quantize::Row;
use crate::adapter::local::weights::{BLOCK, Block, GROUP, GROUPS, QUAD, Tile};

#[derive(Clone, Copy)]
pub struct Scalar;

impl Kernel for Scalar {
    const QUERIES: usize = 2;

    fn multiply<const M: usize>(self, tile: &Tile, rows: &[Row; M], sums: &mut [Block; M]) {
        const QUADS: usize = GROUP / QUAD;
        let weights = tile.weights.as_chunks::<QUADS>().0;
        for (row, sums) in rows.iter().zip(sums) {
            let values = row.values.as_chunks::<QUADS>().0;
            for group in 0..GROUPS {
                let mut products = [row.offsets[group]; BLOCK];
                for (weights, values) in weights[group].iter().zip(&values[group]) {
                    for (product, weights) in products.iter_mut().zip(weights.as_chunks::<QUAD>().0) {
                        for (&weight, &value) in weights.iter().zip(values) {
                            *product += i32::from(weight) * i32::from(value);
                        }
                    }
                }
                for ((sum, &product), &scale) in sums.iter_mut().zip(&products).zip(&tile.scales[group]) {
                    *sum = (product as f32).mul_add(row.scales[group] * scale, *sum);
                }
            }
        }
    }

    fn run<W: Work>(self, work: W) -> W::Output {
        work.run(self)
    }
}
