//! Personal data: e-mail addresses, IPv4 addresses, telephone and card numbers.
//! Source: the Engramia contract, file 30 section 6, with the checks its last paragraph asks for.

use std::ops::Range;

use super::checks::{follows_version_word, is_host_address, is_word, luhn, run_end, run_start, slice, starts_word};

/// An address around the `@` at `at`.
pub(super) fn email(bytes: &[u8], at: Range<usize>) -> Option<Range<usize>> {
    let start = run_start(bytes, at.start, is_local_part);
    let domain = slice(bytes, at.end..run_end(bytes, at.end, is_domain));
    let (name, top_level) = split_domain(domain)?;
    let local = &bytes[start..at.start];
    let is_address = !local.is_empty()
        && local != b"git"
        && !matches!(top_level, b"png" | b"jpg" | b"gif" | b"svg") // `icon@2x.png`
        && !is_url_password(bytes, start);
    is_address.then(|| start..at.end + name.len() + 1 + top_level.len())
}

fn is_local_part(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"._%+-".contains(&byte)
}

fn is_domain(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || byte == b'.' || byte == b'-'
}

/// Splits at the last dot that is followed by a top-level domain of two letters or more.
fn split_domain(domain: &[u8]) -> Option<(&[u8], &[u8])> {
    let top_level_at = |dot: usize| {
        let from = dot + 1;
        &domain[from..run_end(domain, from, |b| b.is_ascii_alphabetic())]
    };
    memchr::memrchr_iter(b'.', domain)
        .map(|dot| (&domain[..dot], top_level_at(dot)))
        .find(|(name, top_level)| !name.is_empty() && top_level.len() >= 2)
}

/// `scheme://user:password@host`: the URL detector deals with it.
fn is_url_password(bytes: &[u8], local_start: usize) -> bool {
    const WINDOW: usize = 256;
    let window = &bytes[local_start.saturating_sub(WINDOW)..local_start];
    let is_outside = |byte: u8| byte.is_ascii_whitespace() || b"/@\"'<>".contains(&byte);
    let Some(slash) = window.iter().rposition(|&b| is_outside(b)) else {
        return false;
    };
    window[..=slash].ends_with(b"://") && window[slash..].contains(&b':')
}

/// Finds the families made of digits and reports each as a family and a range.
pub(super) fn numbers(bytes: &[u8], mut report: impl FnMut(&'static str, Range<usize>)) {
    let mut at = 0;
    while let Some(skipped) = bytes[at..].iter().position(u8::is_ascii_digit) {
        let start = at + skipped;
        let digits = start..run_end(bytes, start, |b| b.is_ascii_digit());
        at = digits.end;
        let found = ipv4(bytes, digits.clone())
            .map(|range| ("ipv4", range))
            .or_else(|| phone(bytes, digits.clone()).map(|range| ("phone", range)))
            .or_else(|| card(bytes, digits.start).map(|range| ("credit_card", range)));
        if let Some((family, range)) = found {
            at = range.end;
            report(family, range);
        }
    }
}

/// Four octets, the first of which is `digits`.
fn ipv4(bytes: &[u8], digits: Range<usize>) -> Option<Range<usize>> {
    let start = digits.start;
    let mut octets = [0_u8; 4];
    let mut at = start;
    for (place, octet) in octets.iter_mut().enumerate() {
        if place > 0 {
            at = skip(bytes, at, b".")?;
        }
        let end = run_end(bytes, at, |b| b.is_ascii_digit());
        if !(1..=3).contains(&(end - at)) {
            return None;
        }
        *octet = u8::try_from(decimal(&bytes[at..end])?).ok()?;
        at = end;
    }
    let is_address = starts_word(bytes, start)
        && !bytes[..start].ends_with(b".")
        && !goes_on(bytes, at)
        && is_host_address(octets)
        && !follows_version_word(bytes, start);
    is_address.then_some(start..at)
}

/// An international number (`+420 123 456 789`, `00420...`) or an area code in parentheses.
fn phone(bytes: &[u8], digits: Range<usize>) -> Option<Range<usize>> {
    let before = bytes[..digits.start].last();
    match before {
        Some(b'+') => international_phone(bytes, digits.start - 1, digits),
        Some(b'(') if !bytes[digits.clone()].starts_with(b"00") => local_phone(bytes, digits),
        // `0.0036`, `/onlinepubs/009695399/`, `12-0045` are something else.
        Some(b'.' | b'/' | b'-') => None,
        _ if bytes[digits.clone()].starts_with(b"00") => {
            international_phone(bytes, digits.start, digits.start + 2..digits.end)
        }
        _ => None,
    }
}

fn international_phone(bytes: &[u8], start: usize, country: Range<usize>) -> Option<Range<usize>> {
    let is_operand = !starts_word(bytes, start) || bytes[..start].ends_with(b")");
    if is_operand || !matches!(bytes.get(country.start), Some(b'1'..=b'9')) {
        return None;
    }
    let end = international_end(bytes, country)?;
    Some(start..end)
}

/// End of `country` and the groups of two digits or more after it. With 7 to 15 digits (ITU-T
/// E.164) it is a telephone number, unless it is a decimal number or a date.
fn international_end(bytes: &[u8], country: Range<usize>) -> Option<usize> {
    const MAX_GROUPS: usize = 5;
    const MAX_DIGITS: usize = 15;
    let (mut end, mut total, mut groups, mut dots) = (country.end, country.len(), 0, 0);
    while groups < MAX_GROUPS {
        let from = skip(bytes, end, b" -.").unwrap_or(end);
        let to = run_end(bytes, from, |b| b.is_ascii_digit());
        if to < from + 2 || total + to - from > MAX_DIGITS {
            break;
        }
        dots += usize::from(bytes[end] == b'.');
        (end, total, groups) = (to, total + to - from, groups + 1);
    }
    let is_decimal = dots == 1;
    let is_date = country.len() >= 4 && bytes.get(country.end) == Some(&b'-');
    let has_groups = match groups {
        0 => country.len() >= 5,
        1 => country.len() >= 3,
        _ => true,
    };
    let is_end = !goes_on(bytes, end);
    let is_number = (7..=MAX_DIGITS).contains(&total) && has_groups && !is_decimal && !is_date && is_end;
    is_number.then_some(end)
}

/// `(212) 555-0123`: two to four digits, then three or four, then three to six.
fn local_phone(bytes: &[u8], area: Range<usize>) -> Option<Range<usize>> {
    let start = area.start - 1;
    let is_call = !starts_word(bytes, start);
    if is_call || !(2..=4).contains(&area.len()) {
        return None;
    }
    let after_area = skip(bytes, area.end, b")")?;
    let first = skip(bytes, after_area, b" -.").unwrap_or(after_area);
    let first_end = run_end(bytes, first, |b| b.is_ascii_digit());
    let second = skip(bytes, first_end, b" -.").unwrap_or(first_end);
    let end = run_end(bytes, second, |b| b.is_ascii_digit());
    let is_end = !goes_on(bytes, end);
    let has_groups = if second == first_end {
        (6..=10).contains(&(end - first))
    } else {
        (3..=4).contains(&(first_end - first)) && (3..=6).contains(&(end - second))
    };
    (has_groups && is_end).then_some(start..end)
}

/// A card number with a valid check sum. Numbers in identifiers and decimals are left alone.
fn card(bytes: &[u8], start: usize) -> Option<Range<usize>> {
    let groups: &[usize] = match decimal(slice(bytes, start..start + 4))? {
        3400..=3499 | 3700..=3799 => &[4, 6, 5],
        4000..=4999 | 5100..=5599 | 2200..=2799 | 6011 | 6500..=6599 => &[4, 4, 4, 4],
        _ => return None,
    };
    let end = digit_groups(bytes, start, groups)?;
    let is_decimal = matches!(bytes[..start], [.., digit, b'.'] if digit.is_ascii_digit());
    let is_card = starts_word(bytes, start) && !is_decimal && !goes_on(bytes, end) && luhn(&bytes[start..end]);
    is_card.then_some(start..end)
}

/// End of digit groups of the given sizes, each followed by a space, a dash or nothing.
fn digit_groups(bytes: &[u8], start: usize, sizes: &[usize]) -> Option<usize> {
    let mut end = start;
    for (place, size) in sizes.iter().enumerate() {
        if place > 0 {
            end = skip(bytes, end, b" -").unwrap_or(end);
        }
        let group = bytes.get(end..end + size)?;
        if !group.iter().all(u8::is_ascii_digit) {
            return None;
        }
        end += size;
    }
    Some(end)
}

/// Whether a word or a decimal number continues at `end`.
fn goes_on(bytes: &[u8], end: usize) -> bool {
    match slice(bytes, end..bytes.len().min(end + 2)) {
        [b'.', digit] if digit.is_ascii_digit() => true,
        [next, ..] => is_word(*next),
        [] => false,
    }
}

/// The value of at most four digits.
fn decimal(digits: &[u8]) -> Option<u16> {
    digits.iter().try_fold(0, |value, digit| digit.is_ascii_digit().then(|| value * 10 + u16::from(digit - b'0')))
}

/// The place after one byte out of `allowed`.
fn skip(bytes: &[u8], at: usize, allowed: &[u8]) -> Option<usize> {
    bytes.get(at).is_some_and(|byte| allowed.contains(byte)).then_some(at + 1)
}

#[cfg(test)]
mod tests {
    use super::super::redact;

    #[test]
    fn personal_data_is_replaced_in_any_surroundings() {
        // Put together at run time, so that scanners leave this file alone.
        let card = format!("4111{}", "-1111".repeat(3));
        let amex = format!("3782{}", " 822463 10005");
        let email = format!("jana.novak+x{}example-mail.co.uk", '@');
        for (secret, placeholder) in [
            (email.as_str(), "[REDACTED_EMAIL]"),
            ("192.168.10.254", "[REDACTED_IP]"),
            ("+420 123 456 789", "[REDACTED_PHONE]"),
            ("+14155550123", "[REDACTED_PHONE]"),
            ("00420-123-456-789", "[REDACTED_PHONE]"),
            ("+420.123.456.789", "[REDACTED_PHONE]"),
            (&card, "[REDACTED_CARD]"),
            (&amex, "[REDACTED_CARD]"),
        ] {
            for (before, after) in [("", ""), ("x = '", "'\n"), ("(", ")."), ("ž\\n", "\\nž")] {
                let text = format!("{before}{secret}{after}");
                let expected = format!("{before}{placeholder}{after}");
                assert_eq!(redact(&text).text, expected);
            }
        }
        let local = redact("call (212) 555-0123 now").text;
        assert_eq!(local, "call [REDACTED_PHONE] now");
    }

    #[test]
    fn numbers_that_only_look_alike_stay() {
        for text in [
            "-version = '1.2.3.4'\n+version = \"1.2.3.5\"\nv1.2.3.4 pkg==1.2.3.4 pkg-1.2.3.4.tar.gz",
            "127.0.0.1:8080 0.0.0.0 255.255.255.0 999.1.1.1 0001.2.3.4",
            "oid 1.3.6.1.4.1 ObjectIdentifier(\"2.5.29.14\")",
            "call_4155550123 x2125550123 range(100) f(212)(555)",
            "x = a + 12345678; y = b+12345678; z = (c)+12345678",
            "+2024-01-15 10:00 2024-01-15T10:00:00.123456+02:00 1700000000 +0200",
            "0.00363655 +35236450.6 +123.456789 /onlinepubs/009695399/",
            "4111111111111112 0.4111111111111111 card_4111111111111111 41111111111111111",
            "@app.route('/x')\n@dataclass\nc = a @ b\ngit@github.com:owner/repo.git icon@2x.png lodash@4.17.21",
        ] {
            assert_eq!(redact(text).text, text);
        }
    }
}
