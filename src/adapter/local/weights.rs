//! The packed weights of the model, read in place.
//!
//! [`Weights`] *is* the file format: the packed file is the memory image of this struct,
//! so loading it is one checked pointer cast and the 24 MB stay in the file-backed pages
//! of the binary. The file is written by `tools/pack_model.py`; the order of fields is the
//! order in which a forward pass reads them. Source: design notes on embedding, section 1.

use bytemuck::{Pod, Zeroable};

#[cfg(target_endian = "big")]
compile_error!("the packed weights are little-endian and are read in place");

/// Words in the vocabulary.
pub const WORDS: usize = 30_522;
/// Tokens the model can see at once, including `[CLS]` and `[SEP]`.
pub const MAX_TOKENS: usize = 256;
/// Transformer layers.
pub const LAYERS: usize = 6;
/// Features of a token, and inputs of every tile.
pub const WIDTH: usize = 384;
/// Outputs of a tile; also the width of an attention head.
pub const BLOCK: usize = 32;
/// Blocks in the features of a token; also the number of attention heads.
pub const BLOCKS: usize = WIDTH / BLOCK;
/// Inputs that share a quantisation scale.
pub const GROUP: usize = 64;
/// Groups in the inputs of a tile.
pub const GROUPS: usize = WIDTH / GROUP;
/// Inputs that one step of a kernel multiplies (four bytes in a 32-bit lane).
pub const QUAD: usize = 4;
/// Parts the feed-forward network is cut into, each [`WIDTH`] hidden features wide.
pub const FFN_PARTS: usize = 4;

/// 32 neighbouring features.
pub type Block = [f32; BLOCK];
/// One number per feature of a token.
pub type Features = [f32; WIDTH];

/// `word_scales` is padded with zeros so that the next field starts at a multiple of 64 bytes.
const PADDED_WORDS: usize = WORDS.next_multiple_of(16);
const MAGIC: [u8; 8] = *b"MINILMQ8";
const VERSION: u32 = 1;

/// The whole packed file.
#[derive(Clone, Copy, Zeroable, Pod)]
#[repr(C)]
pub struct Weights {
    header: Header,
    words: [[i8; WIDTH]; WORDS],
    word_scales: [f32; PADDED_WORDS],
    /// Position embeddings; the embedding of token type 0 is already added.
    pub positions: [Features; MAX_TOKENS],
    pub embedding_norm: Norm,
    pub layers: [Layer; LAYERS],
}

#[derive(Clone, Copy, Zeroable, Pod)]
#[repr(C)]
struct Header {
    magic: [u8; 8],
    version: u32,
    reserved: u32,
    /// SHA-256 of the safetensors file the weights were packed from.
    source: [u8; 32],
    padding: [u8; 16],
}

/// One transformer layer. `*_inv_smooth` scales the inputs of the following linear map
/// before they are quantised.
#[derive(Clone, Copy, Zeroable, Pod)]
#[repr(C)]
pub struct Layer {
    pub qkv_inv_smooth: Features,
    pub qkv_bias: [Block; 3 * BLOCKS],
    /// One tile per head for the queries, then the keys, then the values.
    pub qkv: [Tile; 3 * BLOCKS],
    pub context_inv_smooth: Features,
    pub context_bias: Features,
    pub context: [Tile; BLOCKS],
    pub attention_norm: Norm,
    pub ffn_inv_smooth: Features,
    pub ffn: [FfnPart; FFN_PARTS],
    pub ffn_bias: Features,
    pub ffn_norm: Norm,
}

/// A quarter of the feed-forward network: 384 of its 1536 hidden features.
#[derive(Clone, Copy, Zeroable, Pod)]
#[repr(C)]
pub struct FfnPart {
    pub up_bias: [Block; BLOCKS],
    pub up: [Tile; BLOCKS],
    pub down_inv_smooth: Features,
    pub down: [Tile; BLOCKS],
}

/// Gain and bias of a layer norm.
#[derive(Clone, Copy, Zeroable, Pod)]
#[repr(C)]
pub struct Norm {
    pub gain: Features,
    pub bias: Features,
}

/// A linear map from 384 inputs to 32 outputs.
#[derive(Clone, Copy, Zeroable, Pod)]
#[repr(C)]
pub struct Tile {
    /// `[input / 4][output][input % 4]`, each the quantised weight plus 128.
    pub weights: [[u8; BLOCK * QUAD]; WIDTH / QUAD],
    /// `[input / 64][output]`.
    pub scales: [Block; GROUPS],
}

impl Weights {
    /// Views a packed file as weights; `None` if it is not one, or not aligned to four bytes.
    pub fn view(file: &[u8]) -> Option<&Self> {
        let weights: &Self = bytemuck::try_from_bytes(file).ok()?;
        let header = &weights.header;
        (header.magic == MAGIC && header.version == VERSION).then_some(weights)
    }

    /// The quantised embedding of a word and its scale. Ids outside the vocabulary
    /// give the last word.
    pub fn word(&self, id: u16) -> (&[i8; WIDTH], f32) {
        let id = usize::from(id).min(WORDS - 1);
        (&self.words[id], self.word_scales[id])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tensors_start_at_multiples_of_64_bytes() {
        use std::mem::{offset_of, size_of};
        let offsets = [
            offset_of!(Weights, words),
            offset_of!(Weights, word_scales),
            offset_of!(Weights, positions),
            offset_of!(Weights, embedding_norm),
            offset_of!(Weights, layers),
            offset_of!(Layer, qkv_bias),
            offset_of!(Layer, qkv),
            offset_of!(Layer, context),
            offset_of!(Layer, ffn),
            offset_of!(FfnPart, up),
            offset_of!(FfnPart, down),
            offset_of!(Tile, scales),
            size_of::<Tile>(),
            size_of::<Layer>(),
            size_of::<Weights>(),
        ];
        for offset in offsets {
            assert_eq!(offset % 64, 0, "{offset}");
        }
    }

    #[test]
    fn other_bytes_are_refused() {
        assert!(Weights::view(b"not a model").is_none());
        assert!(Weights::view(&[]).is_none());
        let zeros: Vec<u64> = vec![0; size_of::<Weights>() / 8];
        assert!(Weights::view(bytemuck::cast_slice(&zeros)).is_none());
    }
}
