//! Character-level normalisation of the uncased BERT tokenizer: control characters are
//! dropped, ideographs are set apart, marks are stripped, letters become lower-case.

use unicode_normalization::UnicodeNormalization;
use unicode_properties::{GeneralCategory, GeneralCategoryGroup, UnicodeGeneralCategory};

/// The normalised form of `text`, made lazily.
pub fn normalise(text: impl Iterator<Item = char>) -> impl Iterator<Item = char> {
    text.filter(|&c| !is_dropped(c))
        .flat_map(set_apart)
        .nfd()
        .filter(|&c| !is_nonspacing_mark(c))
        .flat_map(char::to_lowercase)
}

/// Punctuation, which is a word of its own; all ASCII symbols count.
pub fn is_punctuation(c: char) -> bool {
    if c.is_ascii() {
        c.is_ascii_punctuation()
    } else {
        c.general_category_group() == GeneralCategoryGroup::Punctuation
    }
}

/// Control, format and private-use characters, and the replacement character. Unassigned
/// characters stay, as newer versions of Unicode may give them a meaning.
fn is_dropped(c: char) -> bool {
    if c.is_ascii() {
        return c.is_ascii_control() && !matches!(c, '\t' | '\n' | '\r');
    }
    matches!(c.general_category(), GeneralCategory::Control | GeneralCategory::Format | GeneralCategory::PrivateUse)
        || c == char::REPLACEMENT_CHARACTER
}

fn is_nonspacing_mark(c: char) -> bool {
    !c.is_ascii() && c.general_category() == GeneralCategory::NonspacingMark
}

/// Puts spaces around an ideograph.
fn set_apart(c: char) -> impl Iterator<Item = char> {
    let space = is_ideograph(c).then_some(' ');
    space.into_iter().chain([c]).chain(space)
}

/// The blocks of CJK ideographs that the original tokenizer knows.
fn is_ideograph(c: char) -> bool {
    matches!(
        u32::from(c),
        0x4E00..=0x9FFF
            | 0x3400..=0x4DBF
            | 0x20000..=0x2A6DF
            | 0x2A700..=0x2B73F
            | 0x2B740..=0x2B81F
            | 0x2B920..=0x2CEAF
            | 0xF900..=0xFAFF
            | 0x2F800..=0x2FA1F
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn normalised(text: &str) -> String {
        normalise(text.chars()).collect()
    }

    #[test]
    fn letters_lose_case_and_marks() {
        assert_eq!(normalised("Žluťoučký KŮŇ, e\u{301}"), "zlutoucky kun, e");
        assert_eq!(normalised("İstanbul"), "istanbul");
    }

    #[test]
    fn controls_are_dropped_but_white_space_stays() {
        assert_eq!(normalised("a\u{0}b\u{200d}c\u{fffd}d\te\r\n"), "abcd\te\r\n");
        assert_eq!(normalised("a\u{378}b\u{e000}c"), "a\u{378}bc");
    }

    #[test]
    fn ideographs_are_set_apart() {
        assert_eq!(normalised("x中文y"), "x 中  文 y");
    }

    #[test]
    fn punctuation_is_any_ascii_symbol_and_unicode_punctuation() {
        for c in "!$+<^`|~¿«“…。".chars() {
            assert!(is_punctuation(c), "{c}");
        }
        for c in "a1 €±©\u{301}".chars() {
            assert!(!is_punctuation(c), "{c}");
        }
    }
}
