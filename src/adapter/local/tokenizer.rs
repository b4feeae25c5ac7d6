//! WordPiece, the tokenizer of uncased BERT models: words are cut greedily into the longest
//! pieces the vocabulary has.
//!
//! The text is read lazily, so a long text costs no more than the part that is kept.
//! Source: design notes on embedding, section 1; `tests/fixtures/minilm_golden.json` has
//! ids of the reference implementation.

use super::characters::{is_punctuation, normalise};
use super::vocabulary::{Place, Vocabulary};
use super::weights::MAX_TOKENS;

const PAD: u16 = 0;
const UNKNOWN: u16 = 100;
const START: u16 = 101;
const END: u16 = 102;
const MASK: u16 = 103;

/// Strings that stand for a token of their own wherever a text contains them.
const SPECIAL: [(&str, u16); 5] =
    [("[PAD]", PAD), ("[UNK]", UNKNOWN), ("[CLS]", START), ("[SEP]", END), ("[MASK]", MASK)];

/// Longer words are unknown, in characters.
const MAX_WORD: usize = 100;

pub struct Tokenizer {
    vocabulary: Vocabulary,
}

impl Tokenizer {
    pub fn new(vocabulary: Vocabulary) -> Self {
        Self { vocabulary }
    }

    /// The ids of a text: a start token, at most 254 pieces, an end token.
    pub fn tokenize(&self, text: &str) -> Vec<u16> {
        let mut pieces = Pieces::new(&self.vocabulary);
        let mut rest = UntilSpecial { rest: text };
        while !pieces.is_full() {
            pieces.add_text(normalise(&mut rest));
            match rest.take_special() {
                Some(id) => pieces.tokens.push(id),
                None => break,
            }
        }
        pieces.finish()
    }
}

/// Characters of a text up to the next special token or the end.
struct UntilSpecial<'a> {
    rest: &'a str,
}

impl UntilSpecial<'_> {
    /// The special token the rest of the text starts with, and its length in bytes.
    fn special(&self) -> Option<(u16, usize)> {
        SPECIAL.iter().find(|(name, _)| self.rest.starts_with(name)).map(|&(name, id)| (id, name.len()))
    }

    /// Steps over a special token.
    fn take_special(&mut self) -> Option<u16> {
        let (id, length) = self.special()?;
        self.rest = &self.rest[length..];
        Some(id)
    }
}

impl Iterator for UntilSpecial<'_> {
    type Item = char;

    fn next(&mut self) -> Option<char> {
        let mut chars = self.rest.chars();
        let c = chars.next()?;
        if c == '[' && self.special().is_some() {
            return None;
        }
        self.rest = chars.as_str();
        Some(c)
    }
}

/// The tokens found so far and the word that is being read.
struct Pieces<'a> {
    vocabulary: &'a Vocabulary,
    tokens: Vec<u16>,
    word: String,
    /// Characters of the word, of which at most [`MAX_WORD`] are stored.
    characters: usize,
}

impl<'a> Pieces<'a> {
    fn new(vocabulary: &'a Vocabulary) -> Self {
        Self { vocabulary, tokens: vec![START], word: String::new(), characters: 0 }
    }

    /// Whether further pieces would be cut off.
    fn is_full(&self) -> bool {
        self.tokens.len() >= MAX_TOKENS - 1
    }

    /// Cuts normalised text into words and these into pieces, until the tokens are full.
    fn add_text(&mut self, text: impl Iterator<Item = char>) {
        for c in text {
            if c.is_whitespace() {
                self.end_word();
            } else if is_punctuation(c) {
                self.end_word();
                self.add_character(c);
                self.end_word();
            } else {
                self.add_character(c);
            }
            if self.is_full() {
                break;
            }
        }
        self.end_word();
    }

    fn add_character(&mut self, c: char) {
        if self.characters < MAX_WORD {
            self.word.push(c);
        }
        self.characters += 1;
    }

    /// Adds the pieces of the word, or the unknown token if it cannot be cut into pieces.
    fn end_word(&mut self) {
        let first = self.tokens.len();
        let mut rest = self.word.as_str();
        let mut place = Place::Start;
        while !rest.is_empty() {
            let piece = self.vocabulary.longest_prefix(rest, place);
            let Some(piece) = piece.filter(|_| self.characters <= MAX_WORD) else {
                self.tokens.truncate(first);
                self.tokens.push(UNKNOWN);
                break;
            };
            self.tokens.push(piece.id);
            rest = &rest[piece.length..];
            place = Place::Inside;
        }
        self.word.clear();
        self.characters = 0;
    }

    fn finish(mut self) -> Vec<u16> {
        self.tokens.truncate(MAX_TOKENS - 1);
        self.tokens.push(END);
        self.tokens
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::adapter::local::MiniLm;

    fn tokenize(text: &str) -> Vec<u16> {
        MiniLm::bundled().tokenizer.tokenize(text)
    }

    #[test]
    fn words_are_cut_into_the_longest_pieces() {
        // "em" "##bed" "##ding" "##s"
        assert_eq!(tokenize("Embeddings"), [START, 7861, 8270, 4667, 2015, END]);
    }

    #[test]
    fn special_tokens_are_those_of_the_vocabulary() {
        let vocabulary = &MiniLm::bundled().tokenizer.vocabulary;
        for (name, id) in SPECIAL {
            assert_eq!(vocabulary.id(name), Some(id));
            assert_eq!(tokenize(name), [START, id, END]);
        }
        assert_eq!(tokenize("a[SEP]b"), [START, 1037, END, 1038, END]);
        assert_eq!(tokenize("[sep").len(), 4);
    }

    #[test]
    fn words_of_more_than_100_characters_are_unknown() {
        assert!(!tokenize(&"x".repeat(100)).contains(&UNKNOWN));
        assert_eq!(tokenize(&"x".repeat(101)), [START, UNKNOWN, END]);
        assert_eq!(tokenize(&"ü".repeat(100_000)), [START, UNKNOWN, END]);
    }

    #[test]
    fn endless_text_is_cut() {
        let vocabulary = &MiniLm::bundled().tokenizer.vocabulary;
        for text in ["word ", "中", "[", "embeddings."] {
            let mut pieces = Pieces::new(vocabulary);
            pieces.add_text(normalise(text.chars().cycle()));
            let tokens = pieces.finish();
            assert_eq!(tokens.len(), MAX_TOKENS);
            assert_eq!(tokens.last(), Some(&END));
        }
        assert_eq!(tokenize(&"[MASK]".repeat(300)).len(), MAX_TOKENS);
    }

    proptest! {
        #[test]
        fn any_text_has_tokens(text in any::<String>()) {
            let tokens = tokenize(&text);
            prop_assert!((2..=MAX_TOKENS).contains(&tokens.len()));
            prop_assert_eq!((tokens[0], tokens[tokens.len() - 1]), (START, END));
        }
    }
}
