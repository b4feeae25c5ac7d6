//! Sentence embeddings made in this process: all-MiniLM-L6-v2 in int8, part of the binary.
//!
//! A text goes through three stages: [`tokenizer`] cuts it into ids, [`forward`] runs the
//! model on one core, and out come 384 numbers. The same text gives the same bits on every
//! CPU, so vectors stored on one machine can be compared with vectors made on another.
//! Source: design notes on embedding, section 1; the model's origin and licence are in
//! `assets/models/all-minilm-l6-v2/README.md`.

mod attention;
mod characters;
mod check;
mod forward;
mod kernels;
mod math;
mod matrix;
mod quantize;
mod runs;
mod tokenizer;
mod vocabulary;
mod weights;

use std::cell::RefCell;
use std::sync::LazyLock;

pub use check::{Check, check};
use forward::{Pass, Scratch};
use kernels::Choice;
use tokenizer::Tokenizer;
use vocabulary::Vocabulary;
use weights::Weights;

/// Names the vectors' space: vectors of different models must not be compared.
pub const MODEL: &str = "all-minilm-l6-v2/w8g64-1";
/// Length of an embedding.
pub const DIMENSIONS: usize = weights::WIDTH;

/// Aligns the bytes of a file to cache lines.
#[repr(align(64))]
struct Aligned<T: ?Sized>(T);

static WEIGHTS: &Aligned<[u8]> =
    &Aligned(*include_bytes!("../../../assets/models/all-minilm-l6-v2/minilm-l6-w8g64.bin"));
static VOCABULARY: &str = include_str!("../../../assets/models/all-minilm-l6-v2/vocab.txt");

thread_local! {
    static SCRATCH: RefCell<Scratch> = RefCell::default();
}

/// The model, ready to embed texts from any number of threads.
pub struct MiniLm {
    tokenizer: Tokenizer,
    weights: &'static Weights,
    kernel: Choice,
}

impl MiniLm {
    /// The model that is part of this binary. The first call builds the vocabulary's table
    /// (about a millisecond); the weights are used where they are.
    pub fn bundled() -> &'static Self {
        static BUNDLED: LazyLock<MiniLm> = LazyLock::new(|| MiniLm::with_kernel(Choice::best()));
        &BUNDLED
    }

    fn with_kernel(kernel: Choice) -> Self {
        Self {
            tokenizer: Tokenizer::new(Vocabulary::new(VOCABULARY)),
            weights: Weights::view(&WEIGHTS.0).expect("a test has read the bundled weights"),
            kernel,
        }
    }

    /// Embeds the first 256 tokens of a text: 384 numbers, L2 norm 1. Any text has an
    /// embedding, also the empty one. Takes 0.5 to 20 ms of one core, depending on the
    /// length of the text.
    pub fn embed(&self, text: &str) -> Vec<f32> {
        let tokens = self.tokenizer.tokenize(text);
        SCRATCH.with_borrow_mut(|scratch| {
            let pass = Pass { weights: self.weights, tokens: &tokens, scratch };
            self.kernel.run(pass).to_vec()
        })
    }

    /// Name of the instruction set in use, such as `avx512-vnni`.
    pub fn kernel(&self) -> &'static str {
        self.kernel.name()
    }
}

#[cfg(test)]
mod golden;
