//! Questions about bytes that several detectors ask: boundaries, check sums, and whether a value
//! can be a secret at all. They cut the false hits the plain patterns of the contract (file 30
//! section 6) have in source code.

use std::ops::Range;

/// Whether the byte may be part of an identifier.
pub(super) fn is_word(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || byte == b'_'
}

/// The alphabet of base64url, which most keys are made of.
pub(super) fn is_base64url(byte: u8) -> bool {
    is_word(byte) || byte == b'-'
}

pub(super) fn is_quote(byte: u8) -> bool {
    matches!(byte, b'"' | b'\'' | b'`')
}

/// End of the run of `class` bytes that starts at `from`.
pub(super) fn run_end(bytes: &[u8], from: usize, class: impl Fn(u8) -> bool) -> usize {
    let rest = bytes.get(from..).unwrap_or_default();
    from + rest.iter().position(|&byte| !class(byte)).unwrap_or(rest.len())
}

/// Start of the run of `class` bytes that ends before `until`, without the letter of an escape
/// such as `\n` in front of it.
pub(super) fn run_start(bytes: &[u8], until: usize, class: impl Fn(u8) -> bool) -> usize {
    let start = bytes[..until].iter().rposition(|&byte| !class(byte)).map_or(0, |before| before + 1);
    let escape_letter = start < until && ends_with_escape(&bytes[..=start]);
    start + usize::from(escape_letter)
}

/// Whether a word can start at `at`: not in the middle of another one. The letter of `\n` and a
/// percent-encoded byte count as separators, since texts often hold quoted or encoded strings.
pub(super) fn starts_word(bytes: &[u8], at: usize) -> bool {
    let before = &bytes[..at];
    match before {
        [] => true,
        [.., b'%', high, low] if high.is_ascii_hexdigit() && low.is_ascii_hexdigit() => true,
        [.., last] => !is_word(*last) || ends_with_escape(before),
    }
}

fn ends_with_escape(bytes: &[u8]) -> bool {
    matches!(bytes, [.., b'\\', b'n' | b'r' | b't'])
}

/// Luhn's check sum over the digits of a card number; other bytes are separators.
pub(super) fn luhn(number: &[u8]) -> bool {
    let digits = number.iter().rev().filter(|byte| byte.is_ascii_digit());
    let sum: u32 = digits
        .enumerate()
        .map(|(place, digit)| {
            let value = u32::from(digit - b'0') * if place % 2 == 1 { 2 } else { 1 };
            value / 10 + value % 10
        })
        .sum();
    sum.is_multiple_of(10)
}

/// Whether the address can point at somebody: unspecified (0/8), loopback (127/8) and everything
/// from multicast up (224/3, which includes netmasks and broadcast) cannot.
pub(super) fn is_host_address(octets: [u8; 4]) -> bool {
    !matches!(octets[0], 0 | 127 | 224..)
}

/// Whether what stands before `at` says that a dotted number is a version: `version = "`,
/// `release: `, `package==`, `package-`.
pub(super) fn follows_version_word(bytes: &[u8], at: usize) -> bool {
    const WINDOW: usize = 48;
    let window = &bytes[at.saturating_sub(WINDOW)..at];
    if matches!(window, [.., b'=' | b'<' | b'>' | b'~' | b'!' | b'^', b'=' | b'>'])
        || matches!(window, [.., b'^' | b'~'])
        || matches!(window, [.., letter, b'-'] if letter.is_ascii_alphabetic())
    {
        return true;
    }
    let glue = |byte: u8| b" \t\"'=:<>(".contains(&byte);
    let word_end = window.iter().rposition(|&b| !glue(b)).map_or(0, |i| i + 1);
    let word = &window[run_start(window, word_end, is_word)..word_end];
    let word = word.to_ascii_lowercase();
    memchr::memmem::find(&word, b"version").is_some()
        || word.split(|&b| b == b'_').any(|part| part == b"oid")
        || matches!(&word[..], b"v" | b"ver" | b"release" | b"section" | b"sections" | b"oid" | b"objectidentifier")
}

/// Names of public digests, and what stands before them in addresses of source code.
#[rustfmt::skip]
static DIGESTS: &[&[u8]] = &[
    b"md5", b"sha1", b"sha224", b"sha256", b"sha384", b"sha512", b"checksum", b"digest", b"hexdigest", b"integrity",
    b"commit", b"commits", b"revision", b"rev", b"blob", b"tree",
];

/// Whether what stands before `at` says that hexadecimal digits are the digest of something or name a
/// revision of source code: `sha256:`, `checksum = "`, `commit `, `h.hexdigest(), "`.
pub(super) fn follows_digest_word(bytes: &[u8], at: usize) -> bool {
    const WINDOW: usize = 32;
    let window = &bytes[at.saturating_sub(WINDOW)..at];
    let glue = |byte: u8| b" \t\"'=:(),/@#".contains(&byte);
    let word_end = window.iter().rposition(|&b| !glue(b)).map_or(0, |i| i + 1);
    let word = &window[run_start(window, word_end, |b| b.is_ascii_alphanumeric())..word_end];
    // Only what is given something, not the last word of the line before or a name at the start of the text.
    word_end < window.len() && DIGESTS.iter().any(|name| word.eq_ignore_ascii_case(name))
}

/// Whether the text before `at` is a long piece of base64: what looks like the start of a key in it is chance.
pub(super) fn is_inside_base64(bytes: &[u8], at: usize) -> bool {
    const JUDGED: usize = 40;
    let before = &bytes[at.saturating_sub(JUDGED)..at];
    before.len() == JUDGED
        && before.iter().all(|&b| b.is_ascii_alphanumeric() || b == b'+' || b == b'/')
        && before.iter().any(u8::is_ascii_uppercase)
        && before.iter().any(u8::is_ascii_lowercase)
        && before.iter().any(u8::is_ascii_digit)
}

/// `00112233...`, `0123456789abcdef...`: most digits, or pairs of digits, are as far from the ones before as all others.
fn is_counted(word: &[u8]) -> bool {
    let digits = || word.iter().filter_map(|&byte| char::from(byte).to_digit(16));
    let is_row = |values: &[u32], modulus: u32| {
        let step = |pair: &[u32]| (pair[1] + modulus - pair[0]) % modulus;
        let Some(first) = values.windows(2).next().map(step) else { return false };
        let same = values.windows(2).filter(|pair| step(pair) == first).count();
        same * 4 >= (values.len() - 1) * 3
    };
    let single: Vec<u32> = digits().collect();
    let pairs: Vec<u32> = single.chunks_exact(2).map(|pair| pair[0] * 16 + pair[1]).collect();
    is_row(&single, 16) || is_row(&pairs, 256)
}

/// Whether 32 to 64 hexadecimal digits can be random: long decimal numbers, `ffff...`, digits that
/// count up and other constants with a small alphabet are not.
pub(super) fn is_random_hex(word: &[u8]) -> bool {
    const MIN_DISTINCT: u32 = 8;
    let Some(seen) = word.iter().try_fold(0_u32, |seen, &byte| {
        let digit = char::from(byte).to_digit(16)?;
        Some(seen | 1 << digit)
    }) else {
        return false;
    };
    let (digits, letters) = (seen & 0x03ff, seen & 0xfc00);
    digits != 0 && letters != 0 && seen.count_ones() >= MIN_DISTINCT && !is_counted(word)
}

/// Whether the bytes hold both a letter and a digit, as no plain word or number does.
pub(super) fn mixes_letters_and_digits(word: &[u8]) -> bool {
    word.iter().any(u8::is_ascii_alphabetic) && word.iter().any(u8::is_ascii_digit)
}

/// Whether the value is filled in later (`${TOKEN}`, `{{ token }}`, `%s`, `<your-key>`) or blanked
/// out (`****`). Random passwords can start with the same signs, but not go on like that.
pub(super) fn is_template(value: &[u8]) -> bool {
    let is_blank = value.iter().all(|byte| Some(byte) == value.first());
    let has_braces = value.contains(&b'{') && value.contains(&b'}');
    let is_part = |&byte: &u8| is_word(byte) || b"/.:-".contains(&byte);
    let is_marked = match value {
        [b'$', b'(' | b'{', ..] => true,
        [b'$', first, ..] if first.is_ascii_digit() => false,
        [b'$', rest @ ..] => rest.iter().all(is_part),
        [b'%', rest @ ..] => rest.len() <= 2 || rest[0] == b'(' || rest.ends_with(b"%"),
        [b'<', rest @ ..] => rest.ends_with(b">"),
        _ => false,
    };
    is_blank || has_braces || is_marked
}

/// The part of the text in `range`, without panicking on a range that goes past the end.
pub(super) fn slice(bytes: &[u8], range: Range<usize>) -> &[u8] {
    bytes.get(range).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn luhn_accepts_test_cards_only() {
        assert!(luhn(b"4111-1111-1111-1111"));
        assert!(luhn(b"378282246310005"));
        assert!(!luhn(b"4111111111111112"));
    }

    #[test]
    fn words_start_after_separators_and_escapes() {
        for (text, at, expected) in [
            ("key", 0, true),
            ("a key", 2, true),
            (r"\nkey", 2, true),
            ("%20key", 3, true),
            ("nkey", 1, false),
            ("_key", 1, false),
        ] {
            assert_eq!(starts_word(text.as_bytes(), at), expected, "{text}");
        }
    }

    #[test]
    fn hex_must_look_random() {
        assert!(is_random_hex(b"9e107d9d372bb6826bd81d3542a419d6"));
        assert!(!is_random_hex(b"12345678901234567890123456789012"));
        assert!(!is_random_hex(b"ffffffffffffffff0000000000000000"));
        assert!(!is_random_hex(b"9e107d9d372bb6826bd81d3542a419dg"));
        for constant in [
            &b"000102030405060708090a0b0c0d0e0f"[..],
            b"00112233445566778899aabbccddeeff",
            b"0123456789abcdef0123456789ABCDEF",
            b"fedcba9876543210fedcba9876543210",
        ] {
            assert!(!is_random_hex(constant));
        }
    }

    #[test]
    fn digests_are_told_by_the_word_before() {
        for text in
            ["sha256:", "checksum = \"", "# commit ", "/commit/", "h.hexdigest(), '", "hashlib.sha384: '", "?rev="]
        {
            assert!(follows_digest_word(text.as_bytes(), text.len()), "{text}");
        }
        for text in ["", "md5", "api_key = \"", "key: ", "commit = true; key = '", "prevent "] {
            assert!(!follows_digest_word(text.as_bytes(), text.len()), "{text}");
        }
    }

    #[test]
    fn templates_are_told_from_random_values() {
        for text in ["${A}", "$TOKEN", "$(cat x)", "{{ a }}", "%s", "%(a)s", "%A%", "<your-key>", "xxxxxx"] {
            assert!(is_template(text.as_bytes()), "{text}");
        }
        for text in ["$a7!kq", "$1abcdef", "%kq7&x#", "<kq7&x#", "abcdef"] {
            assert!(!is_template(text.as_bytes()), "{text}");
        }
    }

    #[test]
    fn versions_are_told_by_the_word_before() {
        for text in ["X509_OID_KEY_USAGE = '", "version = \"", "__version__ = '", "release: ", "pkg==", "pkg>=", "pkg-"]
        {
            assert!(follows_version_word(text.as_bytes(), text.len()), "{text}");
        }
        for text in ["host = \"", "http://", "10.0.0.1-", "ip == \"", "="] {
            assert!(!follows_version_word(text.as_bytes(), text.len()), "{text}");
        }
    }
}
