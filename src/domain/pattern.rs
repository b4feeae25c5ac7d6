//! The pattern: a stored run of an agent (`spec/engramia/00` §1).

use std::fmt;

use serde_json::{Map, Value};

use super::{Evidence, Timestamp, text, words};

words! {
    /// Sensitivity of a pattern.
    Classification { Public = "public", Internal = "internal", Confidential = "confidential" }
}

words! {
    /// Where a pattern came from.
    Source { Api = "api", Sdk = "sdk", Cli = "cli", Import = "import" }
}

/// The store's own number of a pattern, unique and never used twice.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PatternId(pub i64);

/// The public name of a pattern: `patterns/` and a tail.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PatternKey(String);

/// A text is not a pattern key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("Invalid pattern key.")]
pub struct InvalidKey;

impl PatternKey {
    const PREFIX: &'static str = "patterns/";
    /// Longest key in characters.
    pub const MAX_CHARS: usize = 500;

    /// Accepts `patterns/<tail>` of at most 500 characters, without `..` and control characters.
    pub fn parse(key: &str) -> Result<Self, InvalidKey> {
        let tail = key.strip_prefix(Self::PREFIX).ok_or(InvalidKey)?;
        let sound = !tail.is_empty()
            && !key.contains("..")
            && key.chars().count() <= Self::MAX_CHARS
            && !key.chars().any(char::is_control);
        if sound { Ok(Self(key.to_owned())) } else { Err(InvalidKey) }
    }

    /// The key of a new pattern: first 8 hex digits of SHA-256 of the task, and milliseconds since the epoch.
    pub fn of_task(task: &str, unix_millis: i64) -> Self {
        use sha2::{Digest, Sha256};
        let digest = Sha256::digest(task.as_bytes());
        Self(format!("{}{}_{unix_millis}", Self::PREFIX, hex::encode(&digest[..4])))
    }

    /// The whole key.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for PatternKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// A pattern as it is written; texts are redacted already.
#[derive(Debug, Clone, PartialEq)]
pub struct NewPattern {
    /// Public name.
    pub key: PatternKey,
    /// What was to be done.
    pub task: String,
    /// The solution.
    pub code: Option<String>,
    /// Captured output of the run.
    pub output: Option<String>,
    /// Sensitivity.
    pub classification: Classification,
    /// Origin.
    pub source: Source,
    /// Caller-supplied correlation id.
    pub run_id: Option<String>,
    /// Id of the key that wrote it.
    pub author: Option<String>,
    /// Whether redaction changed a text.
    pub redacted: bool,
    /// Score of the stored code, 0 to 10; fades with age.
    pub success_score: f64,
    /// How often recall returned it.
    pub reuse_count: u64,
    /// When it was learned.
    pub created_at: Timestamp,
    /// From when the next decay counts.
    pub decayed_at: Timestamp,
    /// What is known of its quality.
    pub evidence: Evidence,
    /// Fields of an imported record that we do not know, kept for the next export.
    pub extra: Extra,
}

impl NewPattern {
    /// Digests under which equal patterns are found.
    pub fn fingerprint(&self) -> Fingerprint {
        Fingerprint {
            task: text::digest(&text::normalized(&self.task)),
            code: text::digest(&text::without_white_space(self.code.as_deref().unwrap_or_default())),
        }
    }
}

impl NewPattern {
    /// Bytes of everything that may be long.
    pub fn length(&self) -> usize {
        let texts = [Some(&self.task), self.code.as_ref(), self.output.as_ref()];
        texts.into_iter().flatten().map(String::len).sum()
    }
}

/// A stored pattern.
#[derive(Debug, Clone, PartialEq)]
pub struct Pattern {
    /// The store's number.
    pub id: PatternId,
    /// Everything else.
    pub body: NewPattern,
}

/// Digests of the normalised task and of the code without white space (decision 14).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Fingerprint {
    /// 128 bits of SHA-256 of the normalised task.
    pub task: [u8; 16],
    /// 128 bits of SHA-256 of the code without white space.
    pub code: [u8; 16],
}

/// Unknown fields of an imported record: beside `task` and inside `design`.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Extra {
    /// Unknown members of `data`.
    pub data: Map<String, Value>,
    /// Unknown members of `data.design`.
    pub design: Map<String, Value>,
}

impl Extra {
    /// JSON text for the database; `None` when there is nothing.
    pub fn to_json(&self) -> Option<String> {
        if self.data.is_empty() && self.design.is_empty() {
            return None;
        }
        Some(serde_json::json!({ "data": self.data, "design": self.design }).to_string())
    }

    /// The inverse of [`Self::to_json`]; anything else reads as empty.
    pub fn from_json(json: Option<&str>) -> Self {
        let parsed: Value = json.and_then(|j| serde_json::from_str(j).ok()).unwrap_or_default();
        let part = |name: &str| parsed.get(name).and_then(Value::as_object).cloned().unwrap_or_default();
        Self { data: part("data"), design: part("design") }
    }
}

/// A capability tag, lower-case and trimmed.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Skill(String);

impl Skill {
    /// `None` for blank text.
    pub fn normalized(text: &str) -> Option<Self> {
        let trimmed = text.trim().to_lowercase();
        (!trimmed.is_empty()).then_some(Self(trimmed))
    }

    /// Distinct tags of a list, in order of first appearance.
    pub fn distinct<'a>(texts: impl IntoIterator<Item = &'a str>) -> Vec<Self> {
        let mut skills = Vec::new();
        for skill in texts.into_iter().filter_map(Self::normalized) {
            if !skills.contains(&skill) {
                skills.push(skill);
            }
        }
        skills
    }

    /// The tag.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_stay_inside_their_prefix() {
        for good in ["patterns/0be2046e_1795319203747", "patterns/x", "patterns/a/b c"] {
            assert_eq!(PatternKey::parse(good).expect(good).as_str(), good);
        }
        let long = format!("patterns/{}", "x".repeat(500));
        for bad in
            ["", "patterns/", "nope", "patterns/../x", "../patterns/x", "patterns/a\0b", "metrics/_global", &long]
        {
            assert_eq!(PatternKey::parse(bad), Err(InvalidKey), "{bad:?}");
        }
    }

    #[test]
    fn a_key_carries_the_digest_of_its_task() {
        let key = PatternKey::of_task("Parse CSV", 1_795_319_203_747);
        assert_eq!(key.as_str().len(), "patterns/".len() + 8 + 1 + 13);
        assert_eq!(PatternKey::parse(key.as_str()), Ok(key.clone()));
        assert_ne!(key, PatternKey::of_task("Parse JSON", 1_795_319_203_747));
    }

    #[test]
    fn skills_are_normalised_and_distinct() {
        let skills = Skill::distinct([" CSV ", "csv", "", "  ", "Stats"]);
        assert_eq!(skills.iter().map(Skill::as_str).collect::<Vec<_>>(), ["csv", "stats"]);
    }

    #[test]
    fn extra_fields_round_trip() {
        let mut extra = Extra::default();
        assert_eq!(extra.to_json(), None);
        extra.design.insert("workflow".into(), serde_json::json!([1, {"a": null}]));
        assert_eq!(Extra::from_json(extra.to_json().as_deref()), extra);
        assert_eq!(Extra::from_json(Some("[broken")), Extra::default());
    }
}
