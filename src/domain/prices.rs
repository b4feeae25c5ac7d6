//! List prices of common models, as known when this file was written (November 2025, not read from the providers' pages).
//! Providers change them: whoever relies on a budget sets `ENGRAMIA_LLM_PRICES`, which overrides them. Tiers for very long
//! inputs, caches and batches are left out.

use super::spend::Price;

/// Name of a model, dollars for a million tokens that are sent, and that come back.
const LISTED: &[(&str, f64, f64)] = &[
    // OpenAI
    ("gpt-5.1", 1.25, 10.0),
    ("gpt-5", 1.25, 10.0),
    ("gpt-5-mini", 0.25, 2.0),
    ("gpt-5-nano", 0.05, 0.4),
    ("gpt-4.1", 2.0, 8.0),
    ("gpt-4.1-mini", 0.4, 1.6),
    ("gpt-4.1-nano", 0.1, 0.4),
    ("gpt-4o", 2.5, 10.0),
    ("gpt-4o-mini", 0.15, 0.6),
    ("o3", 2.0, 8.0),
    ("o3-mini", 1.1, 4.4),
    ("o4-mini", 1.1, 4.4),
    ("o1", 15.0, 60.0),
    ("gpt-4-turbo", 10.0, 30.0),
    ("gpt-3.5-turbo", 0.5, 1.5),
    // Anthropic
    ("claude-opus-4-5", 5.0, 25.0),
    ("claude-opus-4-1", 15.0, 75.0),
    ("claude-opus-4", 15.0, 75.0),
    ("claude-opus-4-0", 15.0, 75.0),
    ("claude-sonnet-4-5", 3.0, 15.0),
    ("claude-sonnet-4", 3.0, 15.0),
    ("claude-sonnet-4-0", 3.0, 15.0),
    ("claude-3-7-sonnet", 3.0, 15.0),
    ("claude-haiku-4-5", 1.0, 5.0),
    ("claude-3-5-haiku", 0.8, 4.0),
    ("claude-3-haiku", 0.25, 1.25),
];

/// The list price of a model; a name may end in a date or in `latest`.
pub fn listed(model: &str) -> Option<Price> {
    let (_, input, output) = LISTED.iter().find(|(name, ..)| {
        model.strip_prefix(name).is_some_and(|rest| rest.is_empty() || rest.strip_prefix('-').is_some_and(is_release))
    })?;
    Some(Price { input: *input, output: *output })
}

/// `latest`, `20250929` or `2025-04-14`.
fn is_release(rest: &str) -> bool {
    let digits = rest.bytes().filter(u8::is_ascii_digit).count();
    rest == "latest" || (digits == 8 && rest.bytes().all(|b| b.is_ascii_digit() || b == b'-'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn models_are_known_by_name_with_or_without_a_date() {
        let input = |model| listed(model).map(|price| price.input);
        assert_eq!(input("gpt-4.1"), Some(2.0));
        assert_eq!(input("gpt-4.1-2025-04-14"), Some(2.0));
        assert_eq!(input("gpt-4.1-mini-2025-04-14"), Some(0.4));
        assert_eq!(input("claude-sonnet-4-5-20250929"), Some(3.0));
        assert_eq!(input("claude-3-5-haiku-latest"), Some(0.8));
        for unknown in ["gpt-4.1-giant", "gpt-4", "claude", "", "claude-sonnet-4-6", "gpt-4.1-"] {
            assert_eq!(input(unknown), None, "{unknown}");
        }
    }
}
