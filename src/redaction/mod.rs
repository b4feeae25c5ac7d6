//! Redaction of secrets and personal data in task titles, source code and program output.
//!
//! Source: the Engramia contract, file 30 section 6 (the ten families and their placeholders) and
//! weakness W-08 (redact before hashing, embedding and storing). Modern key formats, PEM blocks,
//! URL passwords and authorization headers are additions, as are the checks that keep ordinary
//! code readable.
//!
//! How it works: one pass of an Aho-Corasick automaton finds literal anchors (`ghp_`, `password`,
//! `@`), one pass looks at digits, one at long alphanumeric words. Each place found is judged by a
//! hand-written detector that reads a bounded window, so the whole is linear on any input. Hits
//! that overlap are replaced together; the more specific family names the placeholder.

mod assignment;
mod checks;
mod detectors;
mod personal;
mod prefixes;
mod structured;
mod values;

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::ops::Range;

use memchr::memmem;

/// A replacement can uncover another hit (`version_...@b.com = 1.2.3.4`), so scanning goes on until
/// nothing is found. Two rounds settle every known case; the cap only bounds the time.
const MAX_ROUNDS: usize = 8;

const PLACEHOLDER_START: &str = "[REDACTED";

/// A text without its secrets, and what was taken out.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Redacted<'a> {
    /// Borrowed when nothing was found.
    pub text: Cow<'a, str>,
    /// How often each family matched.
    pub findings: Findings,
}

/// How often each family matched, without any value.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Findings(BTreeMap<&'static str, u32>);

impl Findings {
    /// Whether nothing was found.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Adds the counts of another text, for example of the next field of the same record.
    pub fn merge(&mut self, other: &Self) {
        for (family, count) in other.iter() {
            self.add(family, count);
        }
    }

    /// Families (`email`, `github_token`) in alphabetical order, each with its count.
    pub fn iter(&self) -> impl Iterator<Item = (&'static str, u32)> + '_ {
        self.0.iter().map(|(family, count)| (*family, *count))
    }

    fn add(&mut self, family: &'static str, count: u32) {
        let total = self.0.entry(family).or_default();
        *total = total.saturating_add(count);
    }
}

/// One place to replace. The bytes at both ends are ASCII, so the range is valid for slicing.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Hit {
    family: &'static str,
    range: Range<usize>,
}

/// Replaces secrets and personal data by placeholders such as `[REDACTED_EMAIL]`.
///
/// Placeholders that are already there are never touched, so a second call changes nothing.
/// The time is linear in the length of the text, whatever it contains.
#[must_use]
pub fn redact(text: &str) -> Redacted<'_> {
    let mut text = Cow::Borrowed(text);
    let mut findings = Findings::default();
    for _ in 0..MAX_ROUNDS {
        let hits = merged(outside_placeholders(&text, detectors::scan(text.as_bytes())));
        if hits.is_empty() {
            break;
        }
        for hit in &hits {
            findings.add(hit.family, 1);
        }
        text = Cow::Owned(replaced(&text, &hits));
    }
    Redacted { text, findings }
}

/// Drops hits that overlap an existing placeholder or are glued to one. It stands for a word, and
/// in a word nothing starts; otherwise each round could uncover one more hit of a long chain.
fn outside_placeholders(text: &str, mut hits: Vec<Hit>) -> Vec<Hit> {
    if hits.is_empty() {
        return hits;
    }
    let taken = placeholders(text.as_bytes());
    hits.retain(|hit| {
        let next = taken.partition_point(|place| place.end < hit.range.start);
        taken.get(next).is_none_or(|place| place.start > hit.range.end)
    });
    hits
}

/// Where placeholders stand in the text, in order.
fn placeholders(bytes: &[u8]) -> Vec<Range<usize>> {
    memmem::find_iter(bytes, PLACEHOLDER_START)
        .filter_map(|start| {
            let name = start + PLACEHOLDER_START.len();
            let end = checks::run_end(bytes, name, |b| b.is_ascii_uppercase() || b.is_ascii_digit() || b == b'_');
            (bytes.get(end) == Some(&b']')).then_some(start..end + 1)
        })
        .collect()
}

/// Orders the hits and joins those that overlap. The first to start names the family; among those
/// with the same start the longest does, and among equals the specific one.
fn merged(mut hits: Vec<Hit>) -> Vec<Hit> {
    hits.sort_by_key(|hit| {
        let is_general = detectors::is_general(hit.family);
        (hit.range.start, std::cmp::Reverse(hit.range.end), is_general)
    });
    hits.dedup_by(|next, kept| {
        let overlaps = next.range.start < kept.range.end;
        if overlaps {
            kept.range.end = kept.range.end.max(next.range.end);
        }
        overlaps
    });
    hits
}

fn replaced(text: &str, hits: &[Hit]) -> String {
    let mut out = String::with_capacity(text.len() + 16 * hits.len());
    let mut copied = 0;
    for hit in hits {
        out.push_str(&text[copied..hit.range.start]);
        push_placeholder(&mut out, hit.family);
        copied = hit.range.end;
    }
    out.push_str(&text[copied..]);
    out
}

/// The contract fixes the names of its ten families; all others are called after the family.
fn push_placeholder(out: &mut String, family: &str) {
    out.push_str(PLACEHOLDER_START);
    match family {
        "credential_assignment" | "authorization_header" | "url_password" => {}
        "ipv4" => out.push_str("_IP"),
        "aws_access_key" => out.push_str("_AWS_KEY"),
        "credit_card" => out.push_str("_CARD"),
        "hex_secret" => out.push_str("_SECRET"),
        _ => {
            out.push('_');
            out.extend(family.chars().map(|c| c.to_ascii_uppercase()));
        }
    }
    out.push(']');
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    // Values are put together at run time, so that secret scanners leave this file alone.
    const MIXED: &str = "AbCdEf0123456789AbCdEf0123456789AbCdEf01";

    #[test]
    fn contract_keys_have_the_contract_placeholders() {
        for (key, placeholder) in [
            (format!("sk-{MIXED}"), "[REDACTED_OPENAI_KEY]"),
            (format!("AKIA{}", "IOSFODNN7EXAMPLE"), "[REDACTED_AWS_KEY]"),
            (format!("ghp_{}", &MIXED[..36]), "[REDACTED_GITHUB_TOKEN]"),
        ] {
            assert_eq!(redact(&key).text, placeholder);
            let assignment = format!("token = '{key}'");
            assert_eq!(redact(&assignment).text, format!("token = '{placeholder}'"));
        }
    }

    #[test]
    fn ordinary_text_is_borrowed() {
        for text in [
            "version = '1.2'\ntotal = 12345\nname = 'sk-short'\n",
            "[REDACTED_EMAIL] password = \"[REDACTED]\" token=[REDACTED_JWT]",
            "přelož větu 🚀",
            "",
        ] {
            let redacted = redact(text);
            assert!(matches!(redacted.text, Cow::Borrowed(same) if same == text));
            assert!(redacted.findings.is_empty());
        }
    }

    #[test]
    fn overlapping_hits_are_replaced_together() {
        let text = format!("a{at}b.cz{at}d.cz password='jana{at}mail.cz-x1y2'", at = '@');
        assert_eq!(redact(&text).text, "[REDACTED_EMAIL] password='[REDACTED]'");
    }

    #[test]
    fn findings_add_up() {
        let mut findings = redact("10.1.2.3 and 10.1.2.4").findings;
        findings.merge(&redact("+420123456789 from 10.1.2.3").findings);
        let counts: Vec<_> = findings.iter().collect();
        assert_eq!(counts, [("ipv4", 3), ("phone", 1)]);
    }

    /// Pieces of secrets and separators: their combinations reach the corners.
    fn fragments() -> impl Strategy<Value = String> {
        let fragment = prop::sample::select(vec![
            "password",
            "token",
            "Authorization",
            "bearer ",
            "=",
            ": ",
            " = ",
            "\"",
            "'",
            "\\",
            "\n",
            " ",
            "@",
            "a@b.cz",
            ".com",
            "eyJ",
            ".",
            "-",
            "_",
            "/",
            "://",
            ":",
            "?",
            "&",
            "sk-",
            "ghp_",
            "AKIA",
            "IOSFODNN7EXAMPLE",
            "AbCdEf0123456789AbCdEf0123456789AbCdEf01",
            "9e107d9d372bb6826bd81d3542a419d6",
            "10.1.2.3",
            "4111111111111111",
            "+420",
            "123456789",
            "00",
            "(",
            ")",
            "{",
            "}",
            "[",
            "]",
            "version",
            "[REDACTED]",
            "[REDACTED_EMAIL]",
            "[REDACTED",
            "-----BEGIN ",
            "PRIVATE KEY",
            "-----",
            "-----END ",
            "ž",
            "%20",
            "\\n",
            ",",
            ";",
            "<",
            ">",
            "+",
            "x1y2z3",
            "1",
            "git",
        ]);
        prop::collection::vec(fragment, 0..24).prop_map(|parts| parts.concat())
    }

    proptest! {
        #[test]
        fn redacting_twice_changes_nothing(text in fragments()) {
            let once = redact(&text).text.into_owned();
            let twice = redact(&once);
            prop_assert_eq!(&twice.text, &once);
            prop_assert!(twice.findings.is_empty());
        }

        #[test]
        fn any_text_is_accepted(text in any::<String>()) {
            let redacted = redact(&text);
            prop_assert_eq!(redacted.findings.is_empty(), redacted.text == text);
        }

        #[test]
        fn placeholders_survive(text in fragments()) {
            let placeholder = "[REDACTED_IP]";
            let marked = format!("{text}{placeholder}{text}");
            prop_assert!(redact(&marked).text.contains(placeholder));
        }
    }
}
