//! Comparing texts: normalisation, digests, sets of words and of code tokens, Jaccard similarity.

use std::hash::{DefaultHasher, Hash, Hasher};

use sha2::{Digest, Sha256};

/// Lower-case words separated by single spaces; punctuation counts as space.
pub fn normalized(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for word in text.split(|c: char| !c.is_alphanumeric()).filter(|w| !w.is_empty()) {
        if !out.is_empty() {
            out.push(' ');
        }
        out.extend(word.chars().flat_map(char::to_lowercase));
    }
    // A text of punctuation only is still a text of its own.
    if out.is_empty() { text.trim().to_lowercase() } else { out }
}

/// The text without any white space, for comparing code whatever its layout.
pub fn without_white_space(text: &str) -> String {
    text.split_whitespace().collect()
}

/// First 128 bits of SHA-256.
pub fn digest(text: &str) -> [u8; 16] {
    let full = Sha256::digest(text.as_bytes());
    let mut half = [0; 16];
    half.copy_from_slice(&full[..16]);
    half
}

/// A set of words as sorted 64-bit hashes: cheap to intersect.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct WordSet(Vec<u64>);

impl WordSet {
    /// Lower-case words between white space.
    pub fn of_words(text: &str) -> Self {
        Self::collect(text.to_lowercase().split_whitespace())
    }

    /// Identifiers, numbers and single punctuation marks of a program text.
    pub fn of_code(code: &str) -> Self {
        let word = |c: char| c.is_alphanumeric() || c == '_';
        let marks = code.char_indices().filter(|&(_, c)| !word(c) && !c.is_whitespace());
        Self::collect(
            code.split(|c| !word(c)).filter(|w| !w.is_empty()).chain(marks.map(|(at, c)| &code[at..at + c.len_utf8()])),
        )
    }

    fn collect<'a>(words: impl Iterator<Item = &'a str>) -> Self {
        let mut hashes: Vec<u64> = words
            .map(|word| {
                let mut hasher = DefaultHasher::new();
                word.hash(&mut hasher);
                hasher.finish()
            })
            .collect();
        hashes.sort_unstable();
        hashes.dedup();
        Self(hashes)
    }

    /// The members of which one at least is also in the prefix of any set with a greater Jaccard than `least`.
    ///
    /// Prefix filtering as in Chaudhuri, Ganti, Kaushik (ICDE 2006): sets with a Jaccard of at least `t` share at
    /// least `t * n` members, so in any common order one of them is among the first `n - ceil(t * n) + 1`.
    pub fn prefix(&self, least: f64) -> impl Iterator<Item = u64> + '_ {
        let n = self.0.len();
        let shared = (least * n as f64).ceil() as usize;
        self.0.iter().copied().take(n - shared.min(n) + 1)
    }

    /// Size of the intersection over size of the union, in [0, 1]; 0 if either set is empty.
    pub fn jaccard(&self, other: &Self) -> f64 {
        let (mut a, mut b) = (self.0.iter().peekable(), other.0.iter().peekable());
        let mut common = 0usize;
        while let (Some(x), Some(y)) = (a.peek(), b.peek()) {
            match x.cmp(y) {
                std::cmp::Ordering::Less => drop(a.next()),
                std::cmp::Ordering::Greater => drop(b.next()),
                std::cmp::Ordering::Equal => {
                    common += 1;
                    a.next();
                    b.next();
                }
            }
        }
        let union = self.0.len() + other.0.len() - common;
        if self.0.is_empty() || other.0.is_empty() { 0.0 } else { common as f64 / union as f64 }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn normalisation_ignores_case_punctuation_and_white_space() {
        assert_eq!(normalized("  Parse: CSV-files,\nfast! "), "parse csv files fast");
        assert_eq!(normalized("!!!"), "!!!");
        assert_eq!(normalized("ŽLUŤ 解析"), "žluť 解析");
    }

    #[test]
    fn jaccard_of_words() {
        let set = WordSet::of_words;
        assert!((set("a b c").jaccard(&set("B c d")) - 0.5).abs() < 1e-12);
        assert!((set("a a a").jaccard(&set("a")) - 1.0).abs() < 1e-12);
        assert!(set("").jaccard(&set("")).abs() < 1e-12);
    }

    #[test]
    fn code_tokens_see_operators_and_not_layout() {
        let set = WordSet::of_code;
        assert_eq!(set("a+b"), set(" a \n + b"));
        assert_ne!(set("a+b"), set("a-b"));
    }
}
