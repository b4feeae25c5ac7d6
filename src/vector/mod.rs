//! Vector search inside the process: the index of one scope.
//!
//! The database is the truth; a [`VectorIndex`] is derived from its rows, lives in memory and can be
//! rebuilt at any time. It does no I/O. A search has two steps, because the full vectors of a large
//! scope are not kept in memory:
//!
//! 1. [`VectorIndex::candidates`] scans compressed codes and returns every row that can still be
//!    among the best `k`;
//! 2. [`rescore`] reads the f32 vectors of those few rows and gives exact scores.
//!
//! Up to [`EXACT_ROWS`] rows the result is the true top `k`, proved row by row with error bounds.
//! Above it, for the built-in model's dimension only, one-bit codes select the rows worth the bound.
//!
//! | file | purpose |
//! |---|---|
//! | `index.rs` | [`VectorIndex`]: insert, update, remove, compaction |
//! | `rows.rs` | the rows in fixed-size chunks |
//! | `codes.rs` | 8-bit codes of rows and queries, and their error bounds |
//! | `signs.rs` | 1-bit codes |
//! | `scan.rs` | the searches over the codes |
//! | `select.rs` | the best rows of a scan so far |
//! | `rank.rs` | weights, order of results, [`rescore`] |
//! | `kernels/` | the inner loops, one file per instruction set; the only `unsafe` |
//! | `fixtures.rs` | vectors for the tests |
//!
//! Source: decision 19 and "Index of the embedded store" of the embedding and search design.

mod codes;
#[cfg(test)]
mod fixtures;
mod index;
mod kernels;
mod rank;
mod rows;
mod scan;
mod select;
mod signs;

pub use codes::MAX_DIMENSIONS;
pub use index::VectorIndex;
pub use kernels::dot;
pub use rank::{Candidate, Ranked, Weight, rescore};
pub use scan::{EXACT_ROWS, Near};
