//! A seeded corpus: agent tasks and paraphrases of them. Everything follows from the number of a pattern.

use serde_json::{Value, json};

/// Verb of a task and verb of its paraphrase.
const VERBS: [(&str, &str); 16] = [
    ("Parse", "Read"),
    ("Download", "Fetch"),
    ("Validate", "Check"),
    ("Summarise", "Condense"),
    ("Convert", "Transform"),
    ("Merge", "Combine"),
    ("Deduplicate", "Remove duplicates from"),
    ("Archive", "Back up"),
    ("Compress", "Shrink"),
    ("Plot", "Draw"),
    ("Encrypt", "Protect"),
    ("Index", "Make searchable"),
    ("Scrape", "Crawl"),
    ("Classify", "Label"),
    ("Reconcile", "Compare"),
    ("Forecast", "Predict"),
];
const THINGS: [&str; 24] = [
    "supplier invoices",
    "sensor readings",
    "stock prices",
    "web server logs",
    "customer orders",
    "weather reports",
    "mail headers",
    "commit messages",
    "bank statements",
    "support tickets",
    "patient visits",
    "parcel events",
    "product reviews",
    "name server records",
    "payroll rows",
    "chat transcripts",
    "map tiles",
    "survey answers",
    "flight plans",
    "meter values",
    "library loans",
    "job adverts",
    "crash reports",
    "photo captions",
];
const SOURCES: [&str; 12] = [
    "a CSV file",
    "an FTP server",
    "a REST service",
    "a message queue",
    "PostgreSQL",
    "an object store",
    "a spreadsheet",
    "a mailbox",
    "a web hook",
    "a search engine",
    "an SSH host",
    "standard input",
];
const GOALS: [&str; 20] = [
    "compute daily averages",
    "find outliers",
    "count rows by region",
    "flag missing fields",
    "extract unique identifiers",
    "group by month",
    "keep running totals",
    "list the top ten",
    "remove personal names",
    "estimate the median",
    "split by customer",
    "build a histogram",
    "add exchange rates",
    "fill gaps",
    "score the mood",
    "map codes to countries",
    "sort by time",
    "drop stale entries",
    "verify checksums",
    "measure percentiles",
];
const DETAILS: [&str; 6] = [
    "retry three times with a growing pause when the connection breaks",
    "work in batches so that memory stays small and show how far it got",
    "write unit tests for empty input, broken lines and very long fields",
    "log every row that was left out together with the reason for it",
    "run in parallel on all cores but keep the order of the output stable",
    "stop with a clear message when the format is not what was expected",
];

/// SplitMix64: well spread numbers from a counter.
fn random(seed: u64) -> u64 {
    let z = seed.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

fn pick<T: Copy>(list: &[T], at: usize, salt: u64) -> T {
    list[(random(at as u64 * 8 + salt) % list.len() as u64) as usize]
}

/// Public name of a pattern.
pub fn key(at: usize) -> String {
    format!("patterns/{at:08x}_1700000000000")
}

/// About 12 tokens.
fn task(at: usize) -> String {
    let (verb, _) = pick(&VERBS, at, 0);
    let (thing, source, goal) = (pick(&THINGS, at, 1), pick(&SOURCES, at, 2), pick(&GOALS, at, 3));
    format!("{verb} {thing} from {source} and {goal} (case {at})")
}

/// The pattern in other words.
pub fn query(at: usize) -> String {
    let (_, verb) = pick(&VERBS, at, 0);
    let (thing, source, goal) = (pick(&THINGS, at, 1), pick(&SOURCES, at, 2), pick(&GOALS, at, 3));
    format!("{goal}: {verb} {thing} in {source}, case {at}")
}

/// A text that no other call makes, of about 12 tokens, or of about 40.
pub fn fresh(counter: usize, long: bool) -> String {
    let (_, verb) = pick(&VERBS, counter, 0);
    let (thing, source) = (pick(&THINGS, counter, 1), pick(&SOURCES, counter, 2));
    let short = format!("{verb} {thing} in {source} {counter}");
    if long { format!("{short}; {}; {}", pick(&GOALS, counter, 3), pick(&DETAILS, counter, 4)) } else { short }
}

/// The pattern as an import record.
pub fn record(at: usize) -> Value {
    let score = 4.0 + (random(at as u64 * 8 + 6) % 60) as f64 / 10.0;
    json!({
        "version": 1,
        "key": key(at),
        "data": {
            "task": task(at),
            "design": { "code": format!("def run_{at}(rows):\n    return [row for row in rows if row]\n") },
            "success_score": score,
            "timestamp": 1_700_000_000.0 + at as f64
        }
    })
}
