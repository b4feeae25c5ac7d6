//! What a request used of the language model, as headers of its answer, also of a refusal.

use axum::http::{HeaderName, HeaderValue};
use axum::response::Response;

use crate::service::gateway::{Gateway, Meter};

/// Tokens that were sent to the language model.
pub const PROMPT_TOKENS: HeaderName = HeaderName::from_static("x-engramia-usage-prompt-tokens");
/// Tokens that came back.
pub const COMPLETION_TOKENS: HeaderName = HeaderName::from_static("x-engramia-usage-completion-tokens");
/// What they cost in dollars; absent where the price of the model is not known.
pub const COST: HeaderName = HeaderName::from_static("x-engramia-usage-cost-usd");

/// Puts what an answer took into its headers; there is nothing to say without a model.
pub fn say(response: &mut Response, gateway: Option<&Gateway>, meter: &Meter) {
    let Some(gateway) = gateway else { return };
    let used = meter.used();
    let headers = response.headers_mut();
    headers.insert(PROMPT_TOKENS, used.usage.prompt_tokens.into());
    headers.insert(COMPLETION_TOKENS, used.usage.completion_tokens.into());
    let cost = Some(format!("{:.6}", used.cost.usd())).filter(|_| gateway.has_price());
    if let Some(cost) = cost.and_then(|cost| HeaderValue::from_str(&cost).ok()) {
        headers.insert(COST, cost);
    }
}

/// A text of a model, cut to so many characters.
pub fn cut(text: &str, most: usize) -> String {
    match text.char_indices().nth(most) {
        Some((at, _)) => format!("{}…[truncated]", &text[..at]),
        None => text.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_are_cut_at_characters() {
        assert_eq!(cut("žluťoučký", 3), "žlu…[truncated]");
        assert_eq!(cut("žlu", 3), "žlu");
        assert_eq!(cut("", 0), "");
    }
}
