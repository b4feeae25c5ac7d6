//! Whether a program prints an answer that stands in its own text instead of computing it (`docs/judgement.md`).
//!
//! Both texts become tokens: words of two letters or more, and numbers. What the code *could* print without computing is
//! what stands in its string literals, and its longer number literals. The output is reproduced if nine tenths of its
//! words and nine tenths of its numbers are found there in the same order. A label around a computed value leaves the
//! value uncovered; data that a program sorts come out in another order.

use std::collections::HashMap;

/// Shorter outputs say too little, in characters of their tokens.
const LEAST_CHARS: usize = 10;
/// An output without numbers needs so many words: a short message is no answer.
const LEAST_WORDS: usize = 4;
/// Of an output so many tokens are looked at.
const MOST_TOKENS: usize = 4_096;
/// Of a token of the code so many places are looked at; more say nothing new.
const MOST_PLACES: usize = 8;
/// A bare number in the code counts from so many digits on, or with a fraction: indices and sizes are everywhere.
const LEAST_DIGITS: usize = 3;

/// Whether literals of `code` reproduce `output`. Linear in the length of the texts, but for a logarithm.
pub fn reproduces(code: &str, output: &str) -> bool {
    let printed: Vec<Token> = tokens(output).filter(Token::is_informative).take(MOST_TOKENS).collect();
    let (numbers, words): (Vec<&str>, Vec<&str>) = split(&printed);
    let chars: usize = printed.iter().map(|token| token.text.chars().count()).sum();
    if chars < LEAST_CHARS || (numbers.is_empty() && words.len() < LEAST_WORDS) {
        return false;
    }
    let literals = Literals::of(code);
    let known: Vec<Token> = tokens(&literals.text).filter(Token::is_informative).collect();
    let (known_numbers, known_words) = split(&known);
    is_covered(&numbers, &known_numbers) && is_covered(&words, &known_words)
}

/// Whether nine tenths of `wanted` stand in `known` in the same order.
fn is_covered(wanted: &[&str], known: &[&str]) -> bool {
    let uncovered = wanted.len() - longest_common(wanted, known);
    uncovered * 10 <= wanted.len()
}

/// Length of the longest common subsequence, by the places of equal tokens (Hunt and Szymanski, CACM 1977).
fn longest_common(wanted: &[&str], known: &[&str]) -> usize {
    let mut places: HashMap<&str, Vec<usize>> = HashMap::new();
    for (place, token) in known.iter().enumerate() {
        let of_token = places.entry(token).or_default();
        if of_token.len() < MOST_PLACES {
            of_token.push(place);
        }
    }
    // The least place at which a common subsequence of each length can end.
    let mut ends: Vec<usize> = Vec::new();
    for token in wanted {
        for &place in places.get(token).into_iter().flatten().rev() {
            let length = ends.partition_point(|end| *end < place);
            match ends.get_mut(length) {
                Some(end) => *end = place,
                None => ends.push(place),
            }
        }
    }
    ends.len()
}

struct Token<'a> {
    text: &'a str,
    is_number: bool,
}

impl Token<'_> {
    fn is_informative(&self) -> bool {
        self.is_number || self.text.chars().nth(1).is_some()
    }
}

fn split<'a>(tokens: &[Token<'a>]) -> (Vec<&'a str>, Vec<&'a str>) {
    let of = |is_number: bool| tokens.iter().filter(move |t| t.is_number == is_number).map(|t| t.text).collect();
    (of(true), of(false))
}

/// Words and numbers of a text; `12ms` is a number and a word, `v2` a word.
fn tokens(text: &str) -> impl Iterator<Item = Token<'_>> {
    let mut rest = text;
    std::iter::from_fn(move || {
        let start = rest.find(char::is_alphanumeric)?;
        rest = &rest[start..];
        let is_number = rest.starts_with(|c: char| c.is_ascii_digit());
        let end = if is_number { number_end(rest) } else { end_of(rest, |c| c.is_alphanumeric() || c == '_') };
        let text = &rest[..end];
        rest = &rest[end..];
        Some(Token { text, is_number })
    })
}

fn end_of(text: &str, belongs: impl Fn(char) -> bool) -> usize {
    text.find(|c: char| !belongs(c)).unwrap_or(text.len())
}

/// End of digits with at most one fraction.
fn number_end(text: &str) -> usize {
    let digits = |text: &str| end_of(text, |c| c.is_ascii_digit());
    let whole = digits(text);
    match text[whole..].strip_prefix('.') {
        Some(fraction) if digits(fraction) > 0 => whole + 1 + digits(fraction),
        _ => whole,
    }
}

/// What a program could print without computing, in the order of its text.
struct Literals {
    text: String,
    /// What stands between this literal and the one before: only joins?
    joined: bool,
}

impl Literals {
    fn of(code: &str) -> Self {
        let mut found = Self { text: String::new(), joined: false };
        let mut rest = code;
        // The last character of the program that is neither blank nor comment, and whether the line has one.
        let (mut last, mut line_is_blank) = (None, true);
        // Quotes without their end, and up to where: nothing is looked through twice.
        let mut unclosed = [0; 3];
        while let Some(c) = rest.chars().next() {
            if line_is_blank && is_comment_line(rest) {
                rest = &rest[rest.find('\n').unwrap_or(rest.len())..];
                continue;
            }
            if let Some(comment) = rest.strip_prefix("/*") {
                rest = comment.find("*/").map_or("", |end| &comment[end + 2..]);
                continue;
            }
            let at = code.len() - rest.len();
            let literal = match c {
                '"' | '\'' | '`' if at >= unclosed[slot(c)] => {
                    string_literal(rest).inspect_err(|length| unclosed[slot(c)] = at + length).ok()
                }
                _ => None,
            };
            if let Some((content, after)) = literal {
                let is_documentation = line_is_blank && is_triple(rest) && matches!(last, None | Some(':'));
                if !is_documentation {
                    found.string(content);
                }
                (rest, last, line_is_blank) = (after, Some(c), false);
                continue;
            }
            if c.is_alphanumeric() || c == '_' {
                let end = if c.is_ascii_digit() {
                    number_end(rest)
                } else {
                    end_of(rest, |c| c.is_alphanumeric() || c == '_')
                };
                let word = &rest[..end];
                if c.is_ascii_digit() {
                    found.number(word);
                } else if !is_prefix(word, &rest[end..]) {
                    found.joined = false;
                }
                (rest, last, line_is_blank) = (&rest[end..], Some(c), false);
                continue;
            }
            rest = &rest[c.len_utf8()..];
            if c == '\n' {
                line_is_blank = true;
            } else if !c.is_whitespace() {
                // `"a" + "b"`, `"a" . "b"`, `"a" << "b"` and a line that goes on print one text.
                found.joined &= matches!(c, '+' | '.' | '<' | '\\' | '&');
                (last, line_is_blank) = (Some(c), false);
            }
        }
        found
    }

    fn string(&mut self, content: &str) {
        if !self.joined {
            self.text.push(' ');
        }
        unescape(content, &mut self.text);
        self.joined = true;
    }

    fn number(&mut self, text: &str) {
        if text.contains('.') || text.len() >= LEAST_DIGITS {
            if !self.joined {
                self.text.push(' ');
            }
            self.text.push_str(text);
            self.text.push(' ');
        }
        self.joined = false;
    }
}

/// The number of a quote.
fn slot(quote: char) -> usize {
    match quote {
        '"' => 0,
        '\'' => 1,
        _ => 2,
    }
}

/// Whether a word before a quote belongs to the literal: `f"..."`, `rb'...'`.
fn is_prefix(word: &str, after: &str) -> bool {
    word.len() <= 2 && after.starts_with(['"', '\'', '`'])
}

/// A line of comment in most languages; a line of C's preprocessor is none.
fn is_comment_line(rest: &str) -> bool {
    rest.starts_with("//")
        || rest.starts_with("-- ")
        || rest.strip_prefix('#').is_some_and(|after| !after.starts_with(|c: char| c.is_ascii_lowercase() || c == '['))
}

fn is_triple(text: &str) -> bool {
    text.starts_with("\"\"\"") || text.starts_with("'''")
}

/// The literal that begins with this quote: its content as written, and what follows it. A quote without its end is
/// none: it is an apostrophe, or the lifetime of a type.
///
/// # Errors
/// How many bytes were looked through in vain.
fn string_literal(text: &str) -> Result<(&str, &str), usize> {
    if is_triple(text) {
        let (quote, content) = text.split_at(3);
        let end = content.find(quote).ok_or(text.len())?;
        return Ok((&content[..end], &content[end + 3..]));
    }
    let (quote, content) = text.split_at(1);
    let mut escaped = false;
    for (at, c) in content.char_indices() {
        match c {
            _ if escaped => escaped = false,
            '\\' => escaped = true,
            '\n' if quote != "`" => return Err(at + 1),
            c if quote.starts_with(c) => return Ok((&content[..at], &content[at + 1..])),
            _ => {}
        }
    }
    Err(text.len())
}

/// Adds a literal's content as a program would print it.
fn unescape(content: &str, out: &mut String) {
    let mut rest = content;
    while let Some(at) = rest.find('\\') {
        out.push_str(&rest[..at]);
        let escape = &rest[at + 1..];
        let Some(c) = escape.chars().next() else { return };
        rest = &escape[c.len_utf8()..];
        match c {
            'n' | 't' | 'r' | 'f' | 'v' | 'a' | 'b' | '0' => out.push(' '),
            '\n' => {}
            'x' | 'u' => {
                let digits = if c == 'x' { 2 } else { 4 };
                let code =
                    rest.get(..digits).and_then(|hex| u32::from_str_radix(hex, 16).ok()).and_then(char::from_u32);
                if let Some(decoded) = code {
                    out.push(decoded);
                    rest = &rest[digits..];
                }
            }
            other => out.push(other),
        }
    }
    out.push_str(rest);
}

#[cfg(test)]
mod tests;
