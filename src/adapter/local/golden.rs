//! The 50 golden texts: ids and embeddings of the reference implementation, and the fixed
//! bits of our own.

use std::sync::LazyLock;

use serde_json::Value;

use super::kernels::Choice;
use super::{DIMENSIONS, MiniLm};

struct Golden {
    text: String,
    tokens: Vec<u16>,
    embedding: Vec<f64>,
}

/// The fixture: texts, token ids and embeddings of sentence-transformers.
static GOLDEN: LazyLock<Vec<Golden>> = LazyLock::new(|| {
    let file = include_str!("../../../tests/fixtures/minilm_golden.json");
    let file: Value = serde_json::from_str(file).unwrap();
    let item = |item: &Value| Golden {
        text: item["text"].as_str().unwrap().to_owned(),
        tokens: serde_json::from_value(item["token_ids"].clone()).unwrap(),
        embedding: serde_json::from_value(item["embedding"].clone()).unwrap(),
    };
    let items: Vec<Golden> = file["items"].as_array().unwrap().iter().map(item).collect();
    assert_eq!(items.len(), 50);
    items
});

/// `1 - cosine` of two vectors of length 1.
fn distance(ours: &[f32], reference: &[f64]) -> f64 {
    let products = ours.iter().zip(reference).map(|(&a, b)| f64::from(a) * b);
    1.0 - products.sum::<f64>()
}

/// FNV-1a over the bits of all golden embeddings.
fn fingerprint(model: &MiniLm) -> u64 {
    let embeddings = GOLDEN.iter().flat_map(|golden| model.embed(&golden.text));
    embeddings
        .flat_map(f32::to_le_bytes)
        .fold(0xcbf2_9ce4_8422_2325, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3))
}

#[test]
fn tokens_equal_the_reference() {
    let model = MiniLm::bundled();
    for golden in GOLDEN.iter() {
        assert_eq!(model.tokenizer.tokenize(&golden.text), golden.tokens, "{:?}", golden.text);
    }
}

#[test]
fn embeddings_are_close_to_the_reference() {
    let model = MiniLm::bundled();
    let mut distances = Vec::new();
    for golden in GOLDEN.iter() {
        let embedding = model.embed(&golden.text);
        assert_eq!(embedding.len(), DIMENSIONS);
        let distance = distance(&embedding, &golden.embedding);
        assert!(distance <= 2e-3, "{distance}: {:?}", golden.text);
        distances.push(distance);
    }
    distances.sort_by(f64::total_cmp);
    assert!(distances[25] <= 5e-4, "median {}", distances[25]);
}

/// Fixes the bits themselves. If this fails, vectors stored by earlier versions no longer
/// match: undo the change, or give [`super::MODEL`] a new name.
#[test]
fn embeddings_have_the_same_bits_with_every_kernel() {
    for kernel in Choice::available() {
        let model = MiniLm::with_kernel(kernel);
        assert_eq!(fingerprint(&model), 0x7569_82f7_5d30_b30a, "{}", model.kernel());
    }
}
