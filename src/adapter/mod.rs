//! Implementations of [`crate::ports`], chosen by configuration. Only the wiring of the program knows them.

pub mod anthropic;
pub mod built_in;
pub mod cache;
pub mod disk;
mod http;
pub mod local;
pub mod oidc;
pub mod openai;
pub mod reach;
mod retry;
pub mod stripe;
pub mod system;

use std::sync::Arc;
use std::time::Duration;

use crate::compute::ComputePool;
use crate::config::{EmbeddingChoice, LlmChoice, StripeAccount};
use crate::ports::{Embedder, LanguageModel, Payments};

use anthropic::AnthropicChat;
use built_in::BuiltInEmbedder;
use cache::CachedEmbedder;
use openai::{OpenAiChat, OpenAiEmbedder};

/// The embedder of the configuration, without a cache; `None` where it is switched off.
///
/// # Errors
/// When a key cannot be sent in a header or TLS cannot be set up.
pub fn embedder(choice: &EmbeddingChoice, compute: &Arc<ComputePool>) -> anyhow::Result<Option<Arc<dyn Embedder>>> {
    Ok(match choice {
        EmbeddingChoice::BuiltIn => Some(Arc::new(BuiltInEmbedder::new(Arc::clone(compute)))),
        EmbeddingChoice::OpenAi { model, key, base_url } => Some(Arc::new(OpenAiEmbedder::new(base_url, key, model)?)),
        EmbeddingChoice::Off => None,
    })
}

/// The same embedder behind a cache of so many vectors; 0 means none.
pub fn cached(embedder: Arc<dyn Embedder>, entries: usize) -> Arc<dyn Embedder> {
    if entries == 0 { embedder } else { Arc::new(CachedEmbedder::new(embedder, entries as u64)) }
}

/// The language model of the configuration; `None` where it is switched off or lacks its key. One attempt of a call
/// takes at most `timeout`.
///
/// # Errors
/// When a key cannot be sent in a header or TLS cannot be set up.
pub fn language_model(choice: &LlmChoice, timeout: Duration) -> anyhow::Result<Option<Arc<dyn LanguageModel>>> {
    Ok(match choice {
        LlmChoice::OpenAi { model, key, base_url } => Some(Arc::new(OpenAiChat::new(base_url, key, model, timeout)?)),
        LlmChoice::Anthropic { model, key, base_url } => {
            Some(Arc::new(AnthropicChat::new(base_url, key, model, timeout)?))
        }
        LlmChoice::Off | LlmChoice::NotConfigured { .. } => None,
    })
}

/// The payment service of the configuration; `None` where there is none.
///
/// # Errors
/// When its key cannot be sent in a header.
pub fn payments(account: Option<&StripeAccount>) -> anyhow::Result<Option<Arc<dyn Payments>>> {
    let Some(StripeAccount { key, base_url }) = account else { return Ok(None) };
    Ok(Some(Arc::new(stripe::Stripe::new(base_url, key)?)))
}

#[cfg(test)]
mod tests {
    use super::*;

    const URL: &str = "http://127.0.0.1:9/v1";

    #[test]
    fn the_configuration_chooses_the_embedder() {
        let compute = Arc::new(ComputePool::start(1, 1).expect("threads"));
        let space = |choice: &EmbeddingChoice, entries| {
            let made = embedder(choice, &compute)?.map(|plain| cached(plain, entries));
            anyhow::Ok(made.map(|e| e.space().as_str().to_owned()))
        };
        let openai = |key: &str| EmbeddingChoice::OpenAi {
            model: "text-embedding-3-small".into(),
            key: key.into(),
            base_url: URL.into(),
        };
        for entries in [0, 8] {
            let built_in = space(&EmbeddingChoice::BuiltIn, entries).expect("no key needed");
            assert_eq!(built_in.as_deref(), Some("local/all-minilm-l6-v2/w8g64-1"));
            let remote = space(&openai("sk-1"), entries).expect("a sound key");
            assert_eq!(remote.as_deref(), Some("openai/text-embedding-3-small"));
        }
        assert_eq!(space(&EmbeddingChoice::Off, 8).expect("off"), None);
        assert!(space(&openai("sk\0"), 8).is_err(), "no header can carry this key");
    }

    #[test]
    fn the_configuration_chooses_the_language_model() {
        let provider = |choice: LlmChoice| {
            let model = language_model(&choice, Duration::from_secs(1)).expect("a sound key");
            model.map(|model| (model.provider(), model.model().to_owned()))
        };
        let (model, base_url) = (String::from("m"), String::from(URL));
        let openai = LlmChoice::OpenAi { model: model.clone(), key: "k".into(), base_url: base_url.clone() };
        assert_eq!(provider(openai), Some(("openai", model.clone())));
        let anthropic = LlmChoice::Anthropic { model: model.clone(), key: "k".into(), base_url };
        assert_eq!(provider(anthropic), Some(("anthropic", model)));
        assert_eq!(provider(LlmChoice::Off), None);
        assert_eq!(provider(LlmChoice::NotConfigured { provider: "openai", missing: "OPENAI_API_KEY" }), None);
    }
}
