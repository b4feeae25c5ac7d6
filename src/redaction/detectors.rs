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
