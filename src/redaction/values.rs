//! Whether the value of an assignment is a secret: names, calls, types, templates, paths and prose
//! are not. The contract (file 30 section 6) replaces every value of six characters or more; these
//! rules keep code readable and parseable.

use super::assignment::KEYWORDS;
use super::checks::{is_template, is_word, mixes_letters_and_digits};

/// Shorter values are not replaced (contract).
const MIN_VALUE: usize = 6;

/// Words that stand for a value in schemas, rules and documentation, or name an encoding.
#[rustfmt::skip]
static STAND_INS: &[&str] = &[
    "string", "number", "integer", "boolean", "object", "undefined", "required", "optional",
    "nullable", "default", "hidden", "base64", "sha256", "sha512", "oauth2",
];

/// What the surroundings say about a value without quotes.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Style {
    /// An environment file (`TOKEN=value`) or a URL parameter: everything is a literal.
    Data,
    /// Source code (`token = value`, `f(token=value)`): names are variables.
    Code,
    /// Configuration, output or code (`token: value`).
    Unknown,
}

/// What follows a quote that closed a string instead of opening one: `"token=" + value`.
static AFTER_STRING: &[u8] = b"+,)];}.&";
/// What stands before the next string in such code.
static BEFORE_STRING: &[u8] = b"+,([={:&|?";

/// Whether the content of a string is a secret.
pub(super) fn is_quoted_secret(value: &[u8]) -> bool {
    let (Some(first), Some(last)) = (value.first(), value.last()) else {
        return false;
    };
    let has_blank_end = first.is_ascii_whitespace() || last.is_ascii_whitespace();
    let is_code = AFTER_STRING.contains(first) && BEFORE_STRING.contains(last);
    value.len() >= MIN_VALUE
        && !has_blank_end
        && !is_code
        && !is_stand_in(value)
        && !is_environment_name(value)
        && !is_pattern(value)
        && !is_prose(value)
}

/// Whether the rest of a line is a secret whose closing quote was cut off, and not code.
pub(super) fn is_cut_secret(value: &[u8]) -> bool {
    let is_code = value.first().is_some_and(|b| AFTER_STRING.contains(b));
    !is_code && mixes_letters_and_digits(value) && is_quoted_secret(value)
}

/// Whether a value without quotes is a secret given to `name`.
pub(super) fn is_bare_secret(value: &[u8], name: &[u8], style: Style) -> bool {
    // Without a digit it is a name or a word, which most values are: decided first.
    let has_digit = value.iter().any(u8::is_ascii_digit);
    if value.len() < MIN_VALUE || style != Style::Data && !has_digit {
        return false;
    }
    let is_expression = value.iter().any(|b| b"()[]{}".contains(b));
    // Replacing a number would leave a program that does not compile.
    if is_expression
        || style != Style::Data && is_hexadecimal_number(value)
        || is_stand_in(value)
        || is_member_path(value)
    {
        return false;
    }
    if style == Style::Data {
        return true;
    }
    if value.iter().all(u8::is_ascii_digit) {
        return contains_any(name, &["pass", "pwd", "secret"]);
    }
    let is_variable = style == Style::Code && value.iter().all(|&b| is_word(b));
    has_mixed_word(value) && !(is_variable && contains_any(value, KEYWORDS))
}

fn is_stand_in(value: &[u8]) -> bool {
    let equals = |word: &&str| value.eq_ignore_ascii_case(word.as_bytes());
    is_template(value)
        || STAND_INS.iter().any(equals)
        || KEYWORDS.iter().any(equals)
        || value.get(..4).is_some_and(|start| start.eq_ignore_ascii_case(b"your"))
        || is_location(value)
        || is_color(value)
}

/// `0x000C`: a constant.
fn is_hexadecimal_number(value: &[u8]) -> bool {
    const LONGEST: usize = 18;
    let digits = value.strip_prefix(b"0x").or_else(|| value.strip_prefix(b"0X"));
    value.len() <= LONGEST && digits.is_some_and(|digits| digits.iter().all(|b| b.is_ascii_hexdigit() || *b == b'_'))
}

/// One word of small letters, which no issuer makes a token of: lexers and pages name their tokens so.
pub(super) fn is_plain_word(value: &[u8]) -> bool {
    const LONGEST: usize = 14;
    value.len() <= LONGEST && value.iter().all(u8::is_ascii_lowercase)
}

/// `#d8dee9`: themes give tokens colours.
fn is_color(value: &[u8]) -> bool {
    matches!(value, [b'#', rest @ ..] if rest.len() <= 8 && rest.iter().all(u8::is_ascii_hexdigit))
}

/// A regular expression of a lexer.
fn is_pattern(value: &[u8]) -> bool {
    [&b"(?"[..], b"[^", br"\d", br"\w", br"\s"].iter().any(|sign| memchr::memmem::find(value, sign).is_some())
}

/// A path or a URL. A slash also begins one in 64 values in base64; those have a long mixed word.
fn is_location(value: &[u8]) -> bool {
    const LONG_WORD: usize = 16;
    let is_path = [&b"/"[..], b"./", b"../", b"~/"].iter().any(|start| value.starts_with(start));
    let is_random = words(value).any(|word| word.len() >= LONG_WORD && mixes_letters_and_digits(word));
    is_path && !is_random || memchr::memmem::find(value, b"://").is_some()
}

/// `GITHUB_TOKEN`, `WINBIO_PRESENCE_0`: the name of a variable that holds the secret, of a constant or a type.
pub(super) fn is_environment_name(value: &[u8]) -> bool {
    const MAX_DIGITS: usize = 2;
    let is_upper = |&b: &u8| b.is_ascii_uppercase() || b.is_ascii_digit() || b == b'_';
    value.contains(&b'_')
        && value.iter().all(is_upper)
        && value.iter().filter(|b| b.is_ascii_digit()).count() <= MAX_DIGITS
}

/// `Enter your password` as opposed to `correct horse battery staple`: a sentence has a capital
/// or a short word, or speaks of the credential.
fn is_prose(value: &[u8]) -> bool {
    const SHORT: usize = 3;
    value.contains(&b' ')
        && (value[0].is_ascii_uppercase()
            || value.split(|&b| b == b' ').any(|word| word.len() <= SHORT)
            || contains_any(value, KEYWORDS))
}

/// `self.password`, `settings.TOKEN`: names joined by dots, none as long as a part of a token.
pub(super) fn is_member_path(value: &[u8]) -> bool {
    const MAX_NAME: usize = 20;
    value.contains(&b'.')
        && value.split(|&b| b == b'.').all(|name| {
            name.len() < MAX_NAME
                && name.first().is_some_and(|b| !b.is_ascii_digit())
                && name.iter().all(|&b| is_word(b))
        })
}

/// A long word of letters and digits, or two short ones: no name of ordinary code.
fn has_mixed_word(value: &[u8]) -> bool {
    let mixed = || words(value).filter(|word| mixes_letters_and_digits(word));
    mixed().any(|word| word.len() >= MIN_VALUE) || mixed().nth(1).is_some()
}

fn words(value: &[u8]) -> impl Iterator<Item = &[u8]> {
    value.split(|b| !b.is_ascii_alphanumeric())
}

fn contains_any(value: &[u8], needles: &[&str]) -> bool {
    needles
        .iter()
        .any(|needle| value.windows(needle.len()).any(|window| window.eq_ignore_ascii_case(needle.as_bytes())))
}
