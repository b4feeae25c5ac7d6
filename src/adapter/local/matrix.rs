//! Activations of all tokens of a text.

use super::weights::{BLOCK, Block, Features, WIDTH};

/// Features of several tokens, stored `[block][token][32]`: a linear map writes its outputs
/// 32 at a time, and the features of an attention head lie next to each other.
pub struct Matrix {
    /// At least `width * tokens` long; it only grows, so that a short text
    /// after a long one costs no zeroing.
    blocks: Vec<Block>,
    width: usize,
    tokens: usize,
}

impl Matrix {
    /// An empty matrix of `width` blocks per token.
    pub const fn new(width: usize) -> Self {
        Self { blocks: Vec::new(), width, tokens: 0 }
    }

    /// Makes room for `tokens` rows. What they hold is unspecified.
    pub fn reset(&mut self, tokens: usize) {
        self.tokens = tokens;
        let needed = self.width * tokens;
        if self.blocks.len() < needed {
            self.blocks.resize(needed, [0.0; BLOCK]);
        }
    }

    /// Number of rows.
    pub fn tokens(&self) -> usize {
        self.tokens
    }

    /// One block of every token, block after block.
    pub fn columns_mut(&mut self) -> impl Iterator<Item = &mut [Block]> {
        self.blocks.chunks_exact_mut(self.tokens.max(1)).take(self.width)
    }

    /// The first `columns` columns and the rest.
    pub fn split_columns_mut(&mut self, columns: usize) -> (&mut [Block], &mut [Block]) {
        self.blocks[..self.width * self.tokens].split_at_mut(columns * self.tokens)
    }

    /// The first 384 features of a token.
    #[inline(always)]
    pub fn row(&self, token: usize) -> Features {
        let mut row = [0.0; WIDTH];
        for (column, part) in row.as_chunks_mut().0.iter_mut().enumerate() {
            *part = self.blocks[column * self.tokens + token];
        }
        row
    }

    /// Replaces the first 384 features of a token.
    #[inline(always)]
    pub fn set_row(&mut self, token: usize, row: &Features) {
        for (column, part) in row.as_chunks().0.iter().enumerate() {
            self.blocks[column * self.tokens + token] = *part;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_are_read_back() {
        let mut matrix = Matrix::new(WIDTH / BLOCK);
        matrix.reset(3);
        let row = std::array::from_fn(|i| i as f32);
        matrix.set_row(1, &row);
        assert_eq!(matrix.row(1), row);
        assert_eq!(matrix.row(0), [0.0; WIDTH]);
        assert!(matrix.columns_mut().nth(2).is_some_and(|column| column[1][0] == 64.0));
    }
}
