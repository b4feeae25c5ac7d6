//! Secrets that are known by their structure: tokens of several parts, key blocks, passwords in
//! URLs, and long words of hexadecimal digits.
//! Source: the Engramia contract, file 30 section 6 (`jwt`, `hex_secret`); the rest are additions.

use std::ops::Range;

use memchr::memmem;

use super::checks::{
    follows_digest_word, is_base64url, is_quote, is_random_hex, is_template, run_end, run_start, slice, starts_word,
};

/// `eyJ...` with three parts or more (JWS, JWE), or two for an unsigned token.
pub(super) fn jwt(bytes: &[u8], at: Range<usize>) -> Option<Range<usize>> {
    // Not in the middle of a run: each run is then read from one place only.
    let in_run = at.start > 0 && bytes[at.start - 1] == b'-';
    if in_run || &bytes[at.clone()] != b"eyJ" || !starts_word(bytes, at.start) {
        return None;
    }
    let header = run_end(bytes, at.end, is_base64url);
    let payload = next_part(bytes, header)?;
    let mut end = payload;
    while let Some(part) = next_part(bytes, end) {
        end = part;
    }
    let is_unsigned = bytes[header + 1..].starts_with(b"eyJ");
    (end > payload || is_unsigned).then_some(at.start..end)
}

/// End of the base64url part after the dot at `dot`.
fn next_part(bytes: &[u8], dot: usize) -> Option<usize> {
    if bytes.get(dot) != Some(&b'.') {
        return None;
    }
    let end = run_end(bytes, dot + 1, is_base64url);
    (end > dot + 1).then_some(end)
}

/// A PEM block from `-----BEGIN` to `-----END ...-----`. Of a block that was cut off, the lines of
/// base64 that are there; the first line alone is only a constant of a parser.
pub(super) fn private_key(bytes: &[u8], at: Range<usize>) -> Option<Range<usize>> {
    const MAX_LABEL: usize = 40;
    const MAX_BODY: usize = 1 << 16;
    const MIN_CUT_BODY: usize = 16;
    const DASHES: &[u8] = b"-----";
    let label = slice(bytes, at.end..bytes.len().min(at.end + MAX_LABEL));
    let label = &label[..memmem::find(label, DASHES)?];
    if !label.ends_with(b"PRIVATE KEY") && !label.ends_with(b"PRIVATE KEY BLOCK") {
        return None;
    }
    let body = at.end + label.len() + DASHES.len();
    let rest = &bytes[body..bytes.len().min(body + MAX_BODY)];
    let footer = memmem::find(rest, DASHES).filter(|&dashes| rest[dashes..].starts_with(b"-----END"));
    match footer {
        Some(dashes) => {
            let name = body + dashes + DASHES.len();
            let name_end = run_end(bytes, name, |b| b.is_ascii_uppercase() || b == b' ');
            let end = run_end(bytes, name_end, |b| b == b'-').min(name_end + DASHES.len());
            Some(at.start..end)
        }
        None => {
            let end = run_end(bytes, body, |b| b.is_ascii_alphanumeric() || b"+/=\\\r\n".contains(&b));
            (end >= body + MIN_CUT_BODY).then_some(at.start..end)
        }
    }
}

/// The password in `scheme://user:password@host`, found from the `://`.
pub(super) fn url_password(bytes: &[u8], at: Range<usize>) -> Option<Range<usize>> {
    const MAX: usize = 256;
    let window = slice(bytes, at.end..bytes.len().min(at.end + MAX));
    let authority = run_end(window, 0, |b| b.is_ascii_graphic() && !is_quote(b) && !b"/\\<>?#".contains(&b));
    let user_end = memchr::memchr(b':', &window[..authority])?;
    let password_end = memchr::memrchr(b'@', &window[..authority])?;
    let password = slice(window, user_end + 1..password_end);
    let is_password = !password.is_empty() && !is_template(password);
    is_password.then_some(at.end + user_end + 1..at.end + password_end)
}

/// `123456789:AA...`: the number of the bot and 35 characters.
pub(super) fn telegram(bytes: &[u8], at: Range<usize>) -> Option<Range<usize>> {
    const SECRET: usize = 33;
    let window = at.start.saturating_sub(12);
    let start = window + run_start(&bytes[window..], at.start - window, |b| b.is_ascii_digit());
    let end = at.end + SECRET;
    let secret = bytes.get(at.end..end)?;
    let is_token = (8..=10).contains(&(at.start - start))
        && starts_word(bytes, start)
        && &bytes[at.clone()] == b":AA"
        && secret.iter().all(|&b| is_base64url(b))
        && !bytes.get(end).is_some_and(|&b| is_base64url(b));
    is_token.then_some(start..end)
}

/// `<14 characters>.atlasv1.<60 or more>`.
pub(super) fn terraform(bytes: &[u8], at: Range<usize>) -> Option<Range<usize>> {
    const NAME: usize = 14;
    const MIN_SECRET: usize = 60;
    let start = at.start.checked_sub(NAME)?;
    let secret = bytes.get(at.end..at.end + MIN_SECRET)?;
    let is_token = bytes[start..at.start].iter().all(u8::is_ascii_alphanumeric)
        && starts_word(bytes, start)
        && secret.iter().all(|&b| is_base64url(b) || b == b'=');
    is_token.then(|| start..run_end(bytes, at.end, |b| is_base64url(b) || b == b'='))
}

/// Finds the families without a literal: words of 24 alphanumeric bytes or more. Only every 24th
/// byte is looked at until one of them is inside a word.
pub(super) fn long_words(bytes: &[u8], mut report: impl FnMut(&'static str, Range<usize>)) {
    const MIN: usize = 24;
    let is_part = |byte: u8| byte.is_ascii_alphanumeric();
    let mut probe = MIN - 1;
    while let Some(&byte) = bytes.get(probe) {
        if !is_part(byte) {
            probe += MIN;
            continue;
        }
        let word = run_start(bytes, probe, is_part)..run_end(bytes, probe, is_part);
        probe = word.end + MIN;
        if let Some((family, range)) = long_word(bytes, word) {
            report(family, range);
        }
    }
}

fn long_word(bytes: &[u8], word: Range<usize>) -> Option<(&'static str, Range<usize>)> {
    let text = &bytes[word.clone()];
    match text.len() {
        24..=28 => discord_end(bytes, &word).map(|end| ("discord_token", word.start..end)),
        34 if text.starts_with(b"SK") || text.starts_with(b"AC") => {
            is_random_hex(&text[2..]).then_some(("twilio_key", word))
        }
        32..=64 => {
            let is_secret = is_random_hex(text) && !follows_digest_word(bytes, word.start);
            is_secret.then_some(("hex_secret", word))
        }
        _ => None,
    }
}

/// A Discord token is the bot's number in base64, a time stamp and a signature.
fn discord_end(bytes: &[u8], id: &Range<usize>) -> Option<usize> {
    const STAMP: usize = 6;
    const MIN_SIGNATURE: usize = 27;
    if !matches!(bytes[id.start], b'M' | b'N' | b'O') {
        return None;
    }
    let stamp = next_part(bytes, id.end)?;
    let end = next_part(bytes, stamp)?;
    (stamp == id.end + 1 + STAMP && end > stamp + MIN_SIGNATURE).then_some(end)
}

#[cfg(test)]
mod tests {
    use super::super::redact;

    // Values are put together at run time, so that secret scanners leave this file alone.
    const MIXED: &str = "AbCdEf0123456789AbCdEf0123456789AbCdEf01";
    const HEX: &str = "9e107d9d372bb6826bd81d3542a419d6";
    const BEGIN: &str = "-----BEGIN ";

    #[test]
    fn structures_are_found_in_any_surroundings() {
        let dot = '.';
        for (family, secret) in [
            ("jwt", format!("eyJhbGciOiJIUzI1NiJ9{dot}eyJzdWIiOiIxIn0{dot}{MIXED}")),
            ("jwt", format!("eyJhbGciOiJub25lIn0{dot}eyJzdWIiOiIxIn0")),
            ("hex_secret", HEX.to_owned()),
            ("hex_secret", HEX.repeat(2)),
            ("private_key", format!("{BEGIN}RSA PRIVATE KEY-----\nMI+/\n{MIXED}==\n-----END RSA PRIVATE KEY-----")),
            ("telegram_bot_token", format!("123456789:AA{}", &MIXED[..33])),
            ("terraform_token", format!("AbCdEf01234567.atlasv1.{MIXED}{MIXED}")),
            ("discord_token", format!("MTA0NzM2MjU5ODQzMTcyMzUy.GaBcDe.{}", &MIXED[..30])),
            ("twilio_key", format!("SK{HEX}")),
        ] {
            for (before, after) in [("", ""), ("x = '", "'\nrest = 1"), ("(", ")."), ("ž\\n", "\\nž")] {
                let text = format!("{before}{secret}{after}");
                let redacted = redact(&text);
                assert_eq!(redacted.findings.iter().collect::<Vec<_>>(), [(family, 1)]);
                assert!(redacted.text.starts_with(&format!("{before}[REDACTED_")));
                assert!(redacted.text.ends_with(&format!("]{after}")));
            }
        }
    }

    #[test]
    fn a_cut_key_block_is_replaced_as_far_as_it_goes() {
        let text = format!("{BEGIN}OPENSSH PRIVATE KEY-----\nb3Bl\n{MIXED} (more)");
        assert_eq!(redact(&text).text, "[REDACTED_PRIVATE_KEY] (more)");
    }

    #[test]
    fn url_passwords_leave_the_rest_of_the_url() {
        let text = "postgres://app:p!ss@db.example.org:5432/app?x=1";
        let expected = "postgres://app:[REDACTED]@db.example.org:5432/app?x=1";
        assert_eq!(redact(text).text, expected);
    }

    #[test]
    fn look_alikes_stay() {
        for text in [
            "-----BEGIN CERTIFICATE-----\nMIIE\n-----END CERTIFICATE-----",
            "-----BEGIN PUBLIC KEY-----\nMIIE\n-----END PUBLIC KEY-----",
            "START = b'-----BEGIN RSA PRIVATE KEY-----'",
            "postgres://user:${DB_PASSWORD}@localhost/app",
            "f\"postgres://{user}:{password}@{host}/app\"",
            "http://localhost:8080/users/@me",
            "id = \"550e8400-e29b-41d4-a716-446655440000\"",
            "3.14159265358979323846264338327950288419716939937510",
            "git checkout commit 9e107d9d372bb6826bd81d3542a419d69e107d9d",
            "image: engramia@sha256:9e107d9d372bb6826bd81d3542a419d69e107d9d372bb6826bd81d3542a419d6",
            "key = from_hex('000102030405060708090a0b0c0d0e0f')",
            "0x9e107d9d372bb6826bd81d3542a419d69e107d9d372bb6826bd81d3542a419d6",
        ] {
            assert_eq!(redact(text).text, text);
        }
    }
}
