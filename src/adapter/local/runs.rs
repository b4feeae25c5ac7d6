//! Walks over the rows of a text in short runs whose length the compiler knows.

use std::ops::Range;

/// Longest run of rows that is worked on at once: six rows of 32 outputs, their weights and
/// one input fill the 32 vector registers of AVX-512.
pub const MAX_RUN: usize = 6;

/// Work on a run of `M` rows, with `M` known to the compiler.
pub trait RowTile {
    fn run<const M: usize>(&mut self, first: usize);
}

/// Calls `tile` for runs of at most `longest` (up to [`MAX_RUN`]) rows that cover `0..rows`.
#[inline(always)]
pub fn for_runs(rows: usize, longest: usize, tile: &mut impl RowTile) {
    for run in runs(rows, longest.min(MAX_RUN)) {
        match run.len() {
            1 => tile.run::<1>(run.start),
            2 => tile.run::<2>(run.start),
            3 => tile.run::<3>(run.start),
            4 => tile.run::<4>(run.start),
            5 => tile.run::<5>(run.start),
            _ => tile.run::<MAX_RUN>(run.start),
        }
    }
}

/// Cuts `0..rows` into runs of `longest`, the last two of about equal length.
#[inline(always)]
fn runs(rows: usize, longest: usize) -> impl Iterator<Item = Range<usize>> {
    let mut start = 0;
    std::iter::from_fn(move || {
        let left = rows - start;
        let length = match left {
            0 => return None,
            left if left > longest && left < 2 * longest => left.div_ceil(2),
            left => left.min(longest),
        };
        start += length;
        Some(start - length..start)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn runs_cover_all_rows() {
        for longest in 1..=MAX_RUN {
            for rows in 0..100 {
                let mut next = 0;
                for run in runs(rows, longest) {
                    assert_eq!(run.start, next);
                    assert!((1..=longest).contains(&run.len()));
                    next = run.end;
                }
                assert_eq!(next, rows);
            }
        }
        assert!(runs(8, 6).eq([0..4, 4..8]));
    }
}
