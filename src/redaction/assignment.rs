//! Secrets that are known by the name they are given to: `password = "..."`, `API_TOKEN=...`,
//! `Authorization: Bearer ...`. Only the value is replaced, so that code stays parseable; whether
//! it is a secret at all is the business of [`super::values`].
//! Source: the Engramia contract, file 30 section 6, family `credential_assignment`.

use std::ops::Range;

use super::checks::{is_base64url, is_quote, mixes_letters_and_digits, run_end, run_start, slice, starts_word};
use super::values::{self, Style};

/// Endings of names that hold credentials; compared without case.
#[rustfmt::skip]
pub(super) static KEYWORDS: &[&str] = &[
    "password", "passwd", "passphrase", "pwd", "secret", "token", "bearer",
    "api_key", "api-key", "apikey", "auth_key", "auth-key", "authkey",
    "access_key", "access-key", "accesskey", "account_key", "accountkey",
    "private_key", "private-key", "privatekey", "secret_key", "secret-key", "secretkey",
    "signing_key", "signing-key", "signingkey", "encryption_key", "encryption-key", "encryptionkey",
];

/// What stands between a name and its value.
struct Operator {
    end: usize,
    kind: OperatorKind,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum OperatorKind {
    /// `name=value` without spaces, as in environment files, URLs and keyword arguments.
    TightEquals,
    /// `name = value` or `name := value`.
    Equals,
    /// `name: value`, also the start of a type annotation.
    Colon,
    /// `name => value`: a hash entry if the value is quoted, otherwise a function.
    Arrow,
}

/// The start of a quoted string.
struct Opening {
    content: usize,
    quote: u8,
    /// The quote is itself escaped (`\"`), and so is the one that closes.
    is_escaped: bool,
}

/// The value given to a name that ends with the keyword at `at`.
pub(super) fn credential(bytes: &[u8], at: Range<usize>) -> Option<Range<usize>> {
    let name_end = after_quoted_name(bytes, at.end);
    let operator = operator(bytes, name_end)?;
    let value = skip_blank(bytes, operator.end);
    if let Some(opening) = opening(bytes, value).or_else(|| annotated(bytes, value)) {
        let is_token = bytes[at.clone()].eq_ignore_ascii_case(b"token");
        return quoted(bytes, &opening).filter(|value| !is_token || !values::is_plain_word(&bytes[value.clone()]));
    }
    // After a quoted name only expressions come without quotes.
    let has_quoted_name = name_end != at.end;
    if has_quoted_name || operator.kind == OperatorKind::Arrow {
        return None;
    }
    let name = run_start(bytes, at.start, is_base64url)..at.end;
    bare(bytes, name, operator.kind, value)
}

/// `"password": ...` and `env["PASSWORD"] = ...`: the name may be quoted and in brackets.
fn after_quoted_name(bytes: &[u8], name_end: usize) -> usize {
    let quote = if bytes.get(name_end) == Some(&b'\\') { name_end + 1 } else { name_end };
    match slice(bytes, quote..bytes.len().min(quote + 2)) {
        [first, b']'] if is_quote(*first) => quote + 2,
        [first, ..] if is_quote(*first) => quote + 1,
        _ => name_end,
    }
}

fn operator(bytes: &[u8], name_end: usize) -> Option<Operator> {
    let start = skip_blank(bytes, name_end);
    let text = slice(bytes, start..bytes.len().min(start + 2));
    let is_blank = |byte: &u8| byte.is_ascii_whitespace();
    let (length, kind) = match text {
        b"==" | b"=~" | b"::" => return None,
        b"=>" => (2, OperatorKind::Arrow),
        b":=" => (2, OperatorKind::Equals),
        [b'=', next] if start == name_end && !is_blank(next) => (1, OperatorKind::TightEquals),
        [b'=', ..] => (1, OperatorKind::Equals),
        [b':', ..] => (1, OperatorKind::Colon),
        _ => return None,
    };
    let end = start + length;
    Some(Operator { end, kind })
}

/// The place after spaces, of which a text has no sensible reason to hold many.
fn skip_blank(bytes: &[u8], at: usize) -> usize {
    const MAX: usize = 32;
    let window = slice(bytes, at..bytes.len().min(at + MAX));
    at + run_end(window, 0, |b| b == b' ' || b == b'\t')
}

/// A quote at `at`, perhaps after a prefix (`b"`, `f'`, `@"`), perhaps tripled.
fn opening(bytes: &[u8], at: usize) -> Option<Opening> {
    const MAX_PREFIX: usize = 2;
    let window = slice(bytes, at..bytes.len().min(at + MAX_PREFIX));
    let prefix = run_end(window, 0, |b| b"bBrRuUfFL@".contains(&b));
    let start = at + prefix;
    let is_escaped = bytes.get(start) == Some(&b'\\');
    let first = start + usize::from(is_escaped);
    let quote = *bytes.get(first).filter(|&&b| is_quote(b))?;
    let is_tripled = slice(bytes, first..bytes.len().min(first + 3)) == [quote; 3];
    Some(Opening { content: first + if is_tripled { 3 } else { 1 }, quote, is_escaped })
}

/// `password: str = "..."`: the quote after a type annotation that starts at `at`.
fn annotated(bytes: &[u8], at: usize) -> Option<Opening> {
    const MAX_TYPE: usize = 64;
    let window = slice(bytes, at..bytes.len().min(at + MAX_TYPE));
    let equals = at + run_end(window, 0, |b| b.is_ascii_alphanumeric() || b"_.[]|&'<>? ".contains(&b));
    (bytes.get(equals) == Some(&b'=')).then(|| opening(bytes, skip_blank(bytes, equals + 1))).flatten()
}

/// The content of the string, if it is a secret.
fn quoted(bytes: &[u8], opening: &Opening) -> Option<Range<usize>> {
    let content = opening.content;
    let end = if opening.is_escaped {
        run_end(bytes, content, |b| !is_quote(b) && b != b'\\' && b != b'\n')
    } else {
        closing(bytes, content, opening.quote)
    };
    let is_closed = bytes.get(end).is_some_and(|&b| b != b'\n');
    let value = &bytes[content..end];
    let is_secret = if is_closed { values::is_quoted_secret(value) } else { values::is_cut_secret(value) };
    is_secret.then_some(content..end)
}

/// Where the string ends: at its quote, at the end of the line or of the text.
fn closing(bytes: &[u8], content: usize, quote: u8) -> usize {
    let mut at = content;
    while let Some(found) = memchr::memchr2(quote, b'\n', &bytes[at..]) {
        at += found;
        let backslashes = bytes[content..at].iter().rev().take_while(|&&b| b == b'\\');
        if backslashes.count() % 2 == 0 {
            return at;
        }
        at += 1;
    }
    bytes.len()
}

/// A value without quotes, if it is a secret and not an expression.
fn bare(bytes: &[u8], name: Range<usize>, operator: OperatorKind, value: usize) -> Option<Range<usize>> {
    /// The verdict falls on the first bytes, which bounds the time for a text of names only.
    const JUDGED: usize = 64;
    let is_tight = operator == OperatorKind::TightEquals;
    let is_part = |byte: u8| {
        let ends = byte.is_ascii_whitespace() || is_quote(byte) || b",;<>\\".contains(&byte);
        !(ends || is_tight && byte == b'&')
    };
    let window = slice(bytes, value..bytes.len().min(value + JUDGED));
    let judged = &window[..run_end(window, 0, is_part)];
    let opened = judged.iter().any(|b| b"([{".contains(b));
    let judged = if opened { judged } else { trim_closers(judged) };
    let next = bytes.get(value + judged.len());
    let before = bytes[..name.start].last();
    let is_parameter = matches!(before, Some(b'?' | b'&' | b'#')) || next == Some(&b'&');
    let name = &bytes[name];
    let is_environment = !name.iter().any(u8::is_ascii_lowercase);
    let style = if is_tight && (is_parameter || is_environment) {
        Style::Data
    } else if operator == OperatorKind::Equals || matches!(next, Some(b',' | b')' | b'}')) {
        Style::Code
    } else {
        Style::Unknown
    };
    if !values::is_bare_secret(judged, name, style) {
        return None;
    }
    let end = if judged.len() == JUDGED { run_end(bytes, value, is_part) } else { value + judged.len() };
    Some(value..end)
}

/// Without the brackets that were opened before the value.
fn trim_closers(value: &[u8]) -> &[u8] {
    let closers = value.iter().rev().take_while(|b| b")]}".contains(b));
    &value[..value.len() - closers.count()]
}

/// The credentials after `Bearer ` or in an `Authorization` header.
pub(super) fn authorization(bytes: &[u8], at: Range<usize>) -> Option<Range<usize>> {
    const MIN: usize = 8;
    if !starts_word(bytes, at.start) {
        return None;
    }
    let names_scheme = bytes[at.clone()].ends_with(b" ");
    let (start, is_basic) = if names_scheme {
        (at.end, false)
    } else {
        let operator = operator(bytes, after_quoted_name(bytes, at.end))?;
        let value = skip_blank(bytes, operator.end);
        let value = opening(bytes, value).map_or(value, |opening| opening.content);
        after_scheme(bytes, value)
    };
    // Padding stands at the end only, so that a chain of headers is not read again and again.
    let unpadded = run_end(bytes, start, |b| is_base64url(b) || b".~+/".contains(&b));
    let end = run_end(bytes, unpadded, |b| b == b'=').min(unpadded + 2);
    let token = &bytes[start..end];
    let has_inner_capital = || token.iter().skip(1).any(u8::is_ascii_uppercase);
    let is_secret = mixes_letters_and_digits(token) || is_basic && has_inner_capital();
    let is_code = values::is_member_path(token) || values::is_environment_name(token) || bytes.get(end) == Some(&b'(');
    (token.len() >= MIN && is_secret && !is_code).then_some(start..end)
}

/// The place after `Basic `, `Token ` and the like, and whether it was `Basic`.
fn after_scheme(bytes: &[u8], at: usize) -> (usize, bool) {
    const MAX: usize = 16;
    let window = slice(bytes, at..bytes.len().min(at + MAX));
    let scheme = &window[..run_end(window, 0, |b| b.is_ascii_alphabetic())];
    if window.get(scheme.len()) == Some(&b' ') {
        let is_basic = scheme.eq_ignore_ascii_case(b"basic");
        (at + scheme.len() + 1, is_basic)
    } else {
        (at, false)
    }
}

#[cfg(test)]
mod tests {
    use super::super::redact;

    #[rustfmt::skip]
    static SECRETS: &[(&str, &str, &str)] = &[
        ("password = \"", "abc123", "\""),
        ("password = '", "correct horse battery staple", "'"),
        ("db_password: str = \"", "hunter2", "\"  # comment"),
        ("const apiKey: &'static str = \"", "topsecret", "\";"),
        ("{\"client_secret\": \"", "s3cr3t\\\"quoted", "\", \"a\": 1}"),
        ("{\\\"token\\\": \\\"", "abcdef1", "\\\"}"),
        ("os.environ[\"API_KEY\"] = '", "abcdef", "'"),
        (":password => '", "abcdef", "',"),
        ("password := `", "abcdef", "`"),
        ("secret = b'", "raw-bytes", "'"),
        ("secret = \"\"\"", "tripled", "\"\"\""),
        ("{\"token\": \"", "c0ffee-cut-off", ""),
        ("export DB_PASSWORD=", "swordfish", "\nnext"),
        ("password=", "hunter2", ""),
        ("password: ", "p4ssw0rd!", "\n"),
        ("secret: ", "12345678", "\n"),
        ("SECRET_KEY = '", ")x7*+q=$%^&#a1b2", "'"),
        ("(user=bob, password=", "hunter22", ")"),
        ("https://host.example/x?token=", "abcdef", "&page=2"),
        ("https://host.example/x#access_token=", "abcdef", "&page=2"),
        ("token=", "abcdef", "&grant_type=code"),
        ("Server=db;Password=", "Str0ngPass", ";Encrypt=true"),
        ("aws_secret_access_key = ", "/bPxRfiCYEXAMPLEKEY0K7MDENGwJalrXUtnFEMI", "\n"),
        ("curl -H 'Authorization: Bearer ", "abc123def456", "'"),
        ("{\"Authorization\": \"Basic ", "dXNlcjpwYXNzd29yZA==", "\"}"),
    ];

    #[test]
    fn only_the_value_is_replaced() {
        for (before, value, after) in SECRETS {
            let redacted = redact(&[*before, value, after].concat()).text.into_owned();
            assert_eq!(redacted, format!("{before}[REDACTED]{after}"));
        }
    }

    #[rustfmt::skip]
    static HARMLESS: &[&str] = &[
        "password = os.environ[\"PASSWORD\"]",
        "password = os.environ.get('PASSWORD', None)",
        "token = get_token()",
        "token = await self.client.fetch_token2(user)",
        "secret: str",
        "secret: Optional[SecretStr] = None",
        "def login(self, password: string, token: AccessToken) -> None:",
        "login(api_key=None, password=password, token=self.token)",
        "login(token=token2)",
        "password = '<your-key>'",
        "password = \"${PASSWORD}\"\ntoken = $TOKEN\nsecret: {{ secret }}",
        "API_TOKEN=${TOKEN}\nAPI_KEY=settings.API_KEY\nSECRET=$(cat secret)",
        "f\"token={token}&password={user.password}\"",
        "\"token=\" + token_value1 + \"&x=1\"",
        "'token='+value1+'&x='+value2+'&y=1'",
        "\"token=\".format(value1)",
        "print(\"password: \", value)",
        "input('Enter password: ').strip()",
        "if token == \"identifier\": return",
        "{\"password\": \"Enter your password\"}",
        "{\"token\": {\"type\": \"string\"}, \"secret\": \"required\"}",
        "Token::Number1234567",
        "token => token.value123",
        "max_tokens: 100000, token: 1234567",
        "password: \"****************\"",
        "key_name = \"GITHUB_TOKEN\"; token = \"GITHUB_TOKEN\"",
        "private_key = './keys/server.pem'\npwd=/home/user1/src2",
        "<label for=\"password\">Password:</label><input type=\"password\" name=\"token\">",
        "Token: \"#d8dee9\"",
        "enum { IMAGE_REL_I386_TOKEN = 0x000C, B }",
        "pub Authorization: WINBIO_PRESENCE_0,",
        "cm.defineSimpleMode({start: [{regex: E, token: `linkified`}]})",
        "{\"token\": \"expected\"}",
        "token = r'[^\\W\\d]\\w*'",
        "authorization = base64.decodebytes(authorization)",
        "Authorization: required. The bearer authentication scheme",
    ];

    #[test]
    fn expressions_names_and_templates_stay() {
        for text in HARMLESS {
            assert_eq!(redact(text).text, *text);
        }
    }
}
