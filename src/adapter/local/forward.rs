//! The forward pass: token ids in, sentence embedding out.
//!
//! A post-norm BERT: word plus position embeddings, then per layer self-attention and a
//! GELU network of four times the width, each added to its input and normalised; at the
//! end the mean over all tokens, scaled to length 1.
//! Source: design notes on embedding, section 1.

use super::attention::{self, attend};
use super::kernels::{Kernel, Work};
use super::math::{gelu, layer_norm, normalise};
use super::matrix::Matrix;
use super::quantize::Row;
use super::runs::{MAX_RUN, RowTile, for_runs};
use super::weights::{BLOCKS, Block, Features, Layer, MAX_TOKENS, Norm, Tile, WIDTH, Weights};

/// Working memory of a pass, up to 2 MB after the longest text. Reused between texts.
pub struct Scratch {
    /// What the layers add to.
    residual: Matrix,
    /// Queries, keys and values; later a part of the hidden features.
    wide: Matrix,
    /// Quantised input of the next linear map.
    rows: Vec<Row>,
    /// The same for the hidden features.
    hidden: Vec<Row>,
    attention: Box<attention::Scratch>,
}

impl Default for Scratch {
    fn default() -> Self {
        Self {
            residual: Matrix::new(BLOCKS),
            wide: Matrix::new(3 * BLOCKS),
            rows: Vec::new(),
            hidden: Vec::new(),
            attention: Box::new(attention::Scratch::ZERO),
        }
    }
}

/// One text on its way through the model. At most [`MAX_TOKENS`] tokens count.
pub struct Pass<'a> {
    pub weights: &'a Weights,
    pub tokens: &'a [u16],
    pub scratch: &'a mut Scratch,
}

impl Work for Pass<'_> {
    type Output = Features;

    #[inline(always)]
    fn run<K: Kernel>(self, kernel: K) -> Features {
        let tokens = &self.tokens[..self.tokens.len().min(MAX_TOKENS)];
        let scratch = self.scratch;
        scratch.residual.reset(tokens.len());
        scratch.wide.reset(tokens.len());
        scratch.rows.resize(tokens.len(), Row::ZERO);
        scratch.hidden.resize(tokens.len(), Row::ZERO);

        look_up(self.weights, tokens, &mut scratch.residual);
        for layer in &self.weights.layers {
            self_attention(kernel, layer, scratch);
            feed_forward(kernel, layer, scratch);
        }
        pool(&scratch.residual)
    }
}

/// Sum of word and position embeddings, normalised.
#[inline(always)]
fn look_up(weights: &Weights, tokens: &[u16], residual: &mut Matrix) {
    for (i, &token) in tokens.iter().enumerate() {
        let (word, scale) = weights.word(token);
        let mut row = weights.positions[i];
        for (x, &value) in row.iter_mut().zip(word) {
            *x = f32::from(value).mul_add(scale, *x);
        }
        layer_norm(&mut row, &weights.embedding_norm);
        residual.set_row(i, &row);
    }
}

#[inline(always)]
fn self_attention<K: Kernel>(kernel: K, layer: &Layer, scratch: &mut Scratch) {
    let Scratch { residual, wide, rows, .. } = scratch;
    quantize(residual, &layer.qkv_inv_smooth, rows);
    project(kernel, &layer.qkv, &layer.qkv_bias, rows, wide);
    attend::<K>(wide, &mut scratch.attention);
    quantize(wide, &layer.context_inv_smooth, rows);
    add_projection(kernel, &layer.context, rows, residual);
    add_bias_and_norm(residual, &layer.context_bias, &layer.attention_norm);
}

#[inline(always)]
fn feed_forward<K: Kernel>(kernel: K, layer: &Layer, scratch: &mut Scratch) {
    let Scratch { residual, wide, rows, hidden, .. } = scratch;
    quantize(residual, &layer.ffn_inv_smooth, rows);
    for part in &layer.ffn {
        project(kernel, &part.up, &part.up_bias, rows, wide);
        gelu_and_quantize(wide, &part.down_inv_smooth, hidden);
        add_projection(kernel, &part.down, hidden, residual);
    }
    add_bias_and_norm(residual, &layer.ffn_bias, &layer.ffn_norm);
}

#[inline(always)]
fn quantize(matrix: &Matrix, inv_smooth: &Features, rows: &mut [Row]) {
    for (token, row) in rows.iter_mut().enumerate() {
        row.quantize(&matrix.row(token), inv_smooth);
    }
}

#[inline(always)]
fn gelu_and_quantize(matrix: &Matrix, inv_smooth: &Features, rows: &mut [Row]) {
    for (token, row) in rows.iter_mut().enumerate() {
        let mut features = matrix.row(token);
        for x in &mut features {
            *x = gelu(*x);
        }
        row.quantize(&features, inv_smooth);
    }
}

#[inline(always)]
fn add_bias_and_norm(residual: &mut Matrix, bias: &Features, norm: &Norm) {
    for token in 0..residual.tokens() {
        let mut row = residual.row(token);
        for (x, bias) in row.iter_mut().zip(bias) {
            *x += bias;
        }
        layer_norm(&mut row, norm);
        residual.set_row(token, &row);
    }
}

/// `outputs = bias + tiles * rows`
#[inline(always)]
fn project<K: Kernel>(kernel: K, tiles: &[Tile], biases: &[Block], rows: &[Row], outputs: &mut Matrix) {
    for ((tile, bias), sums) in tiles.iter().zip(biases).zip(outputs.columns_mut()) {
        let start = Some(bias);
        for_runs(rows.len(), MAX_RUN, &mut Product { kernel, tile, rows, start, sums });
    }
}

/// `outputs += tiles * rows`
#[inline(always)]
fn add_projection<K: Kernel>(kernel: K, tiles: &[Tile], rows: &[Row], outputs: &mut Matrix) {
    for (tile, sums) in tiles.iter().zip(outputs.columns_mut()) {
        let start = None;
        for_runs(rows.len(), MAX_RUN, &mut Product { kernel, tile, rows, start, sums });
    }
}

/// 32 outputs of a linear map, for all tokens.
struct Product<'a, K> {
    kernel: K,
    tile: &'a Tile,
    rows: &'a [Row],
    /// What the sums start from, if not from what they hold.
    start: Option<&'a Block>,
    sums: &'a mut [Block],
}

impl<K: Kernel> RowTile for Product<'_, K> {
    #[inline(always)]
    fn run<const M: usize>(&mut self, first: usize) {
        let rows = self.rows[first..].first_chunk::<M>();
        let sums = self.sums[first..].first_chunk_mut::<M>();
        if let (Some(rows), Some(sums)) = (rows, sums) {
            if let Some(start) = self.start {
                sums.fill(*start);
            }
            self.kernel.multiply(self.tile, rows, sums);
        }
    }
}

/// The mean of all rows, scaled to length 1.
#[inline(always)]
fn pool(residual: &Matrix) -> Features {
    let mut total = [0.0; WIDTH];
    for token in 0..residual.tokens() {
        for (total, x) in total.iter_mut().zip(residual.row(token)) {
            *total += x;
        }
    }
    normalise(&mut total);
    total
}
