//! Text as the word index takes it.

use unicode_normalization::UnicodeNormalization;
use unicode_normalization::char::is_combining_mark;

use crate::domain::{Scope, text};
use crate::store::engine::query_words;

/// Lower case without accents, words set apart by single spaces; and how many there are. PostgreSQL only stems it.
pub(super) fn folded(text: &str) -> (String, i32) {
    let plain: String = text.nfd().filter(|c| !is_combining_mark(*c)).flat_map(char::to_lowercase).collect();
    let mut folded = String::with_capacity(plain.len());
    let mut count = 0;
    for word in plain.split(|c: char| !c.is_alphanumeric()).filter(|word| !word.is_empty()) {
        if count > 0 {
            folded.push(' ');
        }
        folded.push_str(word);
        count += 1;
    }
    (folded, count)
}

/// The words of a query, folded; `None` without any.
pub(super) fn wanted(text: &str) -> Option<String> {
    let (folded, count) = folded(&query_words(text).join(" "));
    (count > 0).then_some(folded)
}

/// The word that every row of a scope has in the index.
pub(super) fn token(scope: &Scope) -> String {
    let digest = text::digest(&format!("{}\0{}", scope.tenant(), scope.project()));
    format!("scope{}", hex::encode(&digest[..8]))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_folded_and_counted() {
        assert_eq!(folded("Parse  Žluťoučký\0CSV!"), ("parse zlutoucky csv".into(), 3));
        assert_eq!(folded(" ?! "), (String::new(), 0));
        assert_eq!(wanted("'a' & b | !c:*").as_deref(), Some("a b c"));
        assert_eq!(wanted("\"'"), None);
    }
}
