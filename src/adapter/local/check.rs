//! Whether the model in the binary is the one it should be, and computes on this machine what it computes on every
//! other, for `engramia doctor`.

use sha2::{Digest, Sha256};

use super::{MiniLm, VOCABULARY, WEIGHTS};

/// SHA-256 of the weights and the vocabulary of [`super::MODEL`].
const DIGEST: &str = "0d0d4eaf69de1e62b707d1a780e2aef7b39b8b093bf2fcda7d32a7dbc47a5eff";
/// A text, and the first 128 bits of the SHA-256 of its embedding.
const TEXT: &str = "Parse a CSV file and compute statistics";
const EMBEDDING: &str = "9b8cf094ee6aaeba354eebfdb9664ccb";

/// State of the model.
#[derive(Debug, Clone)]
pub struct Check {
    /// SHA-256 of its weights and vocabulary.
    pub digest: String,
    /// Whether that is what it should be.
    pub intact: bool,
    /// Whether it computes what it should.
    pub exact: bool,
    /// The instructions it computes with.
    pub kernel: &'static str,
}

/// Reads the whole model and embeds a text: about 50 ms of one core.
pub fn check() -> Check {
    let model = MiniLm::bundled();
    let digest = hex::encode(Sha256::new().chain_update(&WEIGHTS.0).chain_update(VOCABULARY).finalize());
    let embedding = Sha256::digest(bytemuck::cast_slice::<f32, u8>(&model.embed(TEXT)));
    Check {
        intact: digest == DIGEST,
        exact: hex::encode(&embedding[..16]) == EMBEDDING,
        kernel: model.kernel(),
        digest,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_model_of_this_binary_is_sound() {
        let check = check();
        assert!(check.intact && check.exact, "{check:?}");
    }
}
