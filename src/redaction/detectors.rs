//! Which detector looks at which place: the table of literal anchors and the automaton that finds
//! them all in one pass.

use std::ops::Range;
use std::sync::LazyLock;

use aho_corasick::{AhoCorasick, AhoCorasickKind};

use super::prefixes::{PREFIXED, Prefixed};
use super::{Hit, assignment, personal, structured};

/// A family that is recognised by what stands around a literal.
struct Anchored {
    family: &'static str,
    /// Compared without case.
    literals: &'static [&'static str],
    /// Judges the literal at the given range and returns what to replace.
    find: fn(&[u8], Range<usize>) -> Option<Range<usize>>,
}

#[rustfmt::skip]
static ANCHORED: &[Anchored] = &[
    Anchored { family: "email", literals: &["@"], find: personal::email },
    Anchored { family: "jwt", literals: &["eyJ"], find: structured::jwt },
    Anchored { family: "private_key", literals: &["-----BEGIN "], find: structured::private_key },
    Anchored { family: "url_password", literals: &["://"], find: structured::url_password },
    Anchored { family: "telegram_bot_token", literals: &[":AA"], find: structured::telegram },
    Anchored { family: "terraform_token", literals: &[".atlasv1."], find: structured::terraform },
    Anchored { family: "authorization_header", literals: &["bearer ", "authorization"], find: assignment::authorization },
    Anchored { family: "credential_assignment", literals: assignment::KEYWORDS, find: assignment::credential },
];

/// Whether the family describes where a secret stands and not what it is. A specific family that
/// covers the same bytes gives the better placeholder.
pub(super) fn is_general(family: &str) -> bool {
    matches!(family, "credential_assignment" | "authorization_header" | "url_password" | "hex_secret")
}

#[derive(Clone, Copy)]
enum Rule {
    Prefixed(&'static Prefixed, &'static str),
    Anchored(&'static Anchored),
}

impl Rule {
    fn literal_rules() -> impl Iterator<Item = (&'static str, Rule)> {
        let prefixed = PREFIXED.iter().flat_map(|row| {
            let rules = row.literals.iter();
            rules.map(move |&literal| (literal, Rule::Prefixed(row, literal)))
        });
        let anchored = ANCHORED.iter().flat_map(|row| {
            let rules = row.literals.iter();
            rules.map(move |&literal| (literal, Rule::Anchored(row)))
        });
        prefixed.chain(anchored)
    }

    fn family(self) -> &'static str {
        match self {
            Rule::Prefixed(row, _) => row.family,
            Rule::Anchored(row) => row.family,
        }
    }

    fn find(self, bytes: &[u8], literal: Range<usize>) -> Option<Range<usize>> {
        match self {
            Rule::Prefixed(row, text) => row.find(bytes, text, literal),
            Rule::Anchored(row) => (row.find)(bytes, literal),
        }
    }
}

struct Anchors {
    automaton: AhoCorasick,
    /// By pattern number of the automaton.
    rules: Vec<Rule>,
}

static ANCHORS: LazyLock<Anchors> = LazyLock::new(|| {
    let (literals, rules): (Vec<_>, Vec<_>) = Rule::literal_rules().unzip();
    let automaton = AhoCorasick::builder()
        .ascii_case_insensitive(true)
        .kind(Some(AhoCorasickKind::DFA))
        .build(literals)
        .expect("the table is constant and small");
    Anchors { automaton, rules }
});

/// All hits of all families, in no particular order; they may overlap.
pub(super) fn scan(bytes: &[u8]) -> Vec<Hit> {
    let mut hits = Vec::new();
    anchored(bytes, &mut hits);
    let mut report = |family, range| hits.push(Hit { family, range });
    personal::numbers(bytes, &mut report);
    structured::long_words(bytes, &mut report);
    hits
}

fn anchored(bytes: &[u8], hits: &mut Vec<Hit>) {
    let Anchors { automaton, rules } = &*ANCHORS;
    // A literal inside the last hit of its sort needs no look: without this, a long value made of
    // anchors would be read once for each of them.
    let mut covered = [0_usize; 2];
    for anchor in automaton.find_overlapping_iter(bytes) {
        let rule = rules[anchor.pattern().as_usize()];
        let family = rule.family();
        let covered = &mut covered[usize::from(is_general(family))];
        if anchor.start() < *covered {
            continue;
        }
        if let Some(range) = rule.find(bytes, anchor.range()) {
            *covered = range.end;
            hits.push(Hit { family, range });
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::time::{Duration, Instant};

    use super::super::redact;
    use super::*;

    /// Kinds of secrets that are told apart: 103 by how they begin, the others by their structure or their surroundings.
    const KINDS: usize = 113;
    /// Families that neither table names.
    const BY_WORDS: [&str; 3] = ["discord_token", "twilio_key", "hex_secret"];

    /// A made-up example of each kind that has no row among the prefixes.
    fn others() -> Vec<(&'static str, String)> {
        // Values are put together at run time, so that secret scanners leave this file alone.
        let (mixed, hex) = ("AbCdEf0123456789AbCdEf0123456789AbCdEf01", "9e107d9d372bb6826bd81d3542a419d6");
        let begin = "-----BEGIN ";
        vec![
            ("jwt", format!("eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxIn0.{mixed}")),
            ("private_key", format!("{begin}RSA PRIVATE KEY-----\n{mixed}==\n-----END RSA PRIVATE KEY-----")),
            ("url_password", format!("postgres://app:{}@db.example.org/app", &mixed[..12])),
            ("telegram_bot_token", format!("123456789:AA{}", &mixed[..33])),
            ("terraform_token", format!("AbCdEf01234567.atlasv1.{mixed}{mixed}")),
            ("authorization_header", format!("Authorization: Bearer {}", &mixed[..20])),
            ("credential_assignment", format!("password = '{}'", &mixed[..12])),
            ("discord_token", format!("MTA0NzM2MjU5ODQzMTcyMzUy.GaBcDe.{}", &mixed[..30])),
            ("twilio_key", format!("SK{hex}")),
            ("hex_secret", hex.to_owned()),
        ]
    }

    #[test]
    fn every_kind_of_secret_has_an_example_that_is_found() {
        let anchored = ANCHORED.iter().map(|row| row.family).filter(|family| *family != "email");
        let known: BTreeSet<&str> =
            PREFIXED.iter().map(|row| row.family).chain(anchored).chain(BY_WORDS.iter().copied()).collect();
        assert_eq!(known.len(), KINDS);
        let mut examples: Vec<_> = PREFIXED.iter().map(|row| (row.family, row.sample(row.literals[0]))).collect();
        examples.extend(others());
        for (family, example) in &examples {
            let redacted = redact(example);
            assert_eq!(redacted.findings.iter().collect::<Vec<_>>(), [(*family, 1)], "{example}");
        }
        assert_eq!(examples.iter().map(|(family, _)| *family).collect::<BTreeSet<_>>(), known);
    }

    /// Every literal and the pieces that values are made of, alone and glued together by what separates words.
    fn hostile_texts(length: usize) -> impl Iterator<Item = String> {
        let pieces = [
            "a",
            "1",
            "0",
            "+420",
            "(1",
            ".",
            "eyJ",
            "-----END ",
            "PRIVATE KEY-----",
            "1.2.3",
            "\\\"",
            "4111",
            "9e107d9d",
        ];
        let pieces = Rule::literal_rules().map(|(literal, _)| literal).chain(pieces);
        let pieces: Vec<&str> = pieces.collect();
        let glue = ["", "-", ".", "='", ":\"", "=a1", "\\n", " "];
        pieces.into_iter().flat_map(move |piece| {
            glue.into_iter().map(move |glue| [piece, glue].concat().repeat(length / (piece.len() + glue.len())))
        })
    }

    #[test]
    fn no_text_takes_long() {
        // Some milliseconds where each byte is read a bounded number of times, many seconds where each is read for each.
        const LENGTH: usize = 1 << 17;
        const MOST: Duration = Duration::from_secs(2);
        for text in hostile_texts(LENGTH) {
            let begun = Instant::now();
            drop(redact(&text));
            assert!(begun.elapsed() < MOST, "{:?} for {:?}", begun.elapsed(), &text[..60]);
        }
    }
}
