//! Embedding model and language model: which ones, their keys, prices and limits (user guide §4).

use std::time::Duration;

use secrecy::SecretString;

use super::Reader;
use super::parse::printable;
use super::settings::{self as table, Provider};
use crate::domain::prices;
use crate::domain::spend::{Budget, Price};

/// Embedding model and language model.
#[derive(Debug, Clone)]
pub struct Models {
    /// What turns texts into vectors.
    pub embedding: EmbeddingChoice,
    /// Embeddings of recent texts kept in memory; 0 keeps none.
    pub embedding_cache_entries: usize,
    /// What evaluates, composes and evolves.
    pub llm: LlmChoice,
    /// Limit of one call to the language model.
    pub llm_timeout: Duration,
    /// Calls to the language model at once; at least 1.
    pub llm_concurrency: usize,
    /// Longest text of the language model in an answer, in characters.
    pub max_response: usize,
    /// What the language model costs; `None` where nobody knows, or there is none.
    pub price: Option<Price>,
    /// What each tenant may spend a day; then the price is known, if there is a language model.
    pub budget: Option<Budget>,
}

/// The embedding model.
#[derive(Debug, Clone)]
pub enum EmbeddingChoice {
    /// The model in the binary.
    BuiltIn,
    /// OpenAI or a compatible service.
    OpenAi {
        /// Model name.
        model: String,
        /// API key.
        key: SecretString,
        /// Address of the service, without a trailing slash.
        base_url: String,
    },
    /// Switched off by the operator.
    Off,
}

/// The language model.
#[derive(Debug, Clone)]
pub enum LlmChoice {
    /// Switched off by the operator.
    Off,
    /// Wanted, but without its key: the server starts and says so.
    NotConfigured {
        /// The provider as `ENGRAMIA_LLM_PROVIDER` names it.
        provider: &'static str,
        /// The variable that is not set.
        missing: &'static str,
    },
    /// OpenAI or a compatible service.
    OpenAi {
        /// Model name.
        model: String,
        /// API key.
        key: SecretString,
        /// Address of the service, without a trailing slash.
        base_url: String,
    },
    /// Anthropic or a compatible service.
    Anthropic {
        /// Model name.
        model: String,
        /// API key.
        key: SecretString,
        /// Address of the service, without a trailing slash.
        base_url: String,
    },
}

/// The name under which the built-in embedding model is asked for.
const BUILT_IN_EMBEDDING: &str = "all-MiniLM-L6-v2";

const ANTHROPIC_DEFAULT_MODEL: &str = "claude-sonnet-4-5";

/// What both uses of OpenAI share.
struct OpenAi {
    key: Option<SecretString>,
    base_url: String,
}

impl Models {
    pub(super) fn read(reader: &mut Reader) -> Self {
        let openai =
            OpenAi { key: reader.given(&table::OPENAI_API_KEY), base_url: reader.read(&table::OPENAI_BASE_URL) };
        let embedding = EmbeddingChoice::read(reader, &openai);
        let llm = LlmChoice::read(reader, openai);
        let overrides = reader.given(&table::LLM_PRICES).unwrap_or_default();
        let price = llm.model().and_then(|model| overrides.get(model).copied().or_else(|| prices::listed(model)));
        let budget = reader.given(&table::LLM_DAILY_BUDGET);
        if let (Some(_), Some(model), None) = (&budget, llm.model(), price) {
            let model = printable(model);
            reader.refuse(
                &table::LLM_DAILY_BUDGET,
                format!("the price of the model {model} is not known, so that no budget can be kept"),
                format!("a budget together with ENGRAMIA_LLM_PRICES={model}=<input>/<output>, or no budget"),
            );
        }
        Self {
            embedding,
            embedding_cache_entries: reader.read(&table::EMBEDDING_CACHE),
            llm,
            llm_timeout: reader.read(&table::LLM_TIMEOUT),
            llm_concurrency: reader.read(&table::LLM_CONCURRENCY),
            max_response: reader.read(&table::MAX_LLM_RESPONSE),
            price,
            budget,
        }
    }
}

impl EmbeddingChoice {
    fn read(reader: &mut Reader, openai: &OpenAi) -> Self {
        let named = reader.given(&table::EMBEDDING_MODEL);
        let is_named = |name: &str| named.as_deref().is_some_and(|model| model.eq_ignore_ascii_case(name));
        if is_named("none") {
            return Self::Off;
        }
        if reader.read(&table::LOCAL_EMBEDDINGS) || is_named(BUILT_IN_EMBEDDING) {
            return Self::BuiltIn;
        }
        if let Some(key) = &openai.key {
            return Self::OpenAi {
                model: reader.read(&table::EMBEDDING_MODEL),
                key: key.clone(),
                base_url: openai.base_url.clone(),
            };
        }
        if let Some(model) = named {
            reader.warn(format!(
                "ENGRAMIA_EMBEDDING_MODEL={}: needs OPENAI_API_KEY, which is not set; the built-in model \
                 {BUILT_IN_EMBEDDING} is used",
                printable(&model),
            ));
        }
        Self::BuiltIn
    }
}

impl LlmChoice {
    /// Name of the model, where there is one.
    fn model(&self) -> Option<&str> {
        match self {
            Self::OpenAi { model, .. } | Self::Anthropic { model, .. } => Some(model),
            Self::Off | Self::NotConfigured { .. } => None,
        }
    }

    fn read(reader: &mut Reader, openai: OpenAi) -> Self {
        let anthropic_key = reader.given(&table::ANTHROPIC_API_KEY);
        let anthropic_url = reader.read(&table::ANTHROPIC_BASE_URL);
        match reader.read(&table::LLM_PROVIDER) {
            Provider::None => Self::Off,
            Provider::OpenAi => match openai.key {
                Some(key) => Self::OpenAi { model: reader.read(&table::LLM_MODEL), key, base_url: openai.base_url },
                None => Self::NotConfigured { provider: "openai", missing: table::OPENAI_API_KEY.name },
            },
            Provider::Anthropic => match anthropic_key {
                Some(key) => Self::Anthropic {
                    model: reader.given(&table::LLM_MODEL).unwrap_or_else(|| ANTHROPIC_DEFAULT_MODEL.into()),
                    key,
                    base_url: anthropic_url,
                },
                None => Self::NotConfigured { provider: "anthropic", missing: table::ANTHROPIC_API_KEY.name },
            },
        }
    }
}
