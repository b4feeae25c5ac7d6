//! The export format of a pattern (`spec/engramia/20` §12): `{"version": 1, "key": "patterns/..", "data": {..}}`.
//!
//! Beside the documented members, `data` may carry `_decayed_at` and `_evidence`, so that a restored memory ages and
//! ranks as the original did; both are left out where they follow from the rest. `_run_id` and `_redacted` stand there only
//! on the way from an older database. Members we do not know are kept.

use serde_json::{Map, Value, json};

use super::pattern::Extra;
use super::{
    Classification, Evidence, NewPattern, Pattern, PatternKey, Scope, Source, Timestamp, from_unix_seconds,
    unix_seconds,
};

/// The format's version.
pub const VERSION: i64 = 1;
/// Longest task in characters.
pub const MAX_TASK: usize = 10_000;
/// Longest code or output in characters.
pub const MAX_CODE: usize = 500_000;
/// Longest correlation id in characters.
const MAX_RUN_ID: usize = 500;
/// Score of an imported pattern that names none: neutral.
const DEFAULT_SCORE: f64 = 5.0;

/// What is wrong with a member of a record.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Flaw {
    /// Path below `data`.
    pub path: Vec<&'static str>,
    /// Kind, as in the list of `spec/engramia/00` §5.3.
    pub kind: &'static str,
    /// For people.
    pub message: String,
}

/// One scope of an older installation's data directory.
#[derive(Debug, Default)]
pub struct Archive {
    /// Whose data it is.
    pub scope: Scope,
    /// Key and `data` of every pattern.
    pub patterns: Vec<(PatternKey, Map<String, Value>)>,
    /// Vectors by key, with the name of their model.
    pub vectors: Vec<(PatternKey, Vec<f32>)>,
    /// Model of the vectors, as the old installation named it.
    pub model: Option<String>,
    /// Tags by key.
    pub skills: Vec<(PatternKey, Vec<String>)>,
    /// Recurring issues.
    pub feedback: Vec<super::Feedback>,
    /// Calls of learn so far.
    pub runs: u64,
    /// Of these, successful.
    pub successes: u64,
    /// The newest scores, oldest first.
    pub recent_scores: Vec<f64>,
}

/// The `data` of a stored pattern.
pub fn data(pattern: &Pattern) -> Value {
    let body = &pattern.body;
    let mut design = body.extra.design.clone();
    for (name, value) in [("code", &body.code), ("output", &body.output)] {
        if let Some(text) = value {
            design.insert(name.into(), json!(text));
        }
    }
    design.insert("classification".into(), json!(body.classification.as_str()));
    design.insert("source".into(), json!(body.source.as_str()));
    let mut data = body.extra.data.clone();
    data.insert("task".into(), json!(body.task));
    data.insert("design".into(), Value::Object(design));
    data.insert("success_score".into(), json!(body.success_score));
    data.insert("reuse_count".into(), json!(body.reuse_count));
    data.insert("timestamp".into(), json!(unix_seconds(body.created_at)));
    if let Some(author) = &body.author {
        data.insert("_author_key_id".into(), json!(author));
    }
    if body.decayed_at != body.created_at {
        data.insert("_decayed_at".into(), json!(unix_seconds(body.decayed_at)));
    }
    if body.evidence != Evidence::of_report(body.success_score, body.created_at) {
        data.insert("_evidence".into(), evidence_to_json(&body.evidence));
    }
    Value::Object(data)
}

/// A whole export record.
pub fn record(pattern: &Pattern) -> Value {
    json!({ "version": VERSION, "key": pattern.body.key.as_str(), "data": data(pattern) })
}

/// A line of the export for governance (`spec/engramia/30` §8): a record with what the database says beside it, on one
/// line whatever its reader takes for the end of one.
pub fn line(pattern: &Pattern) -> String {
    let (mut record, body) = (record(pattern), &pattern.body);
    record["classification"] = json!(body.classification.as_str());
    record["redacted"] = json!(body.redacted);
    record["source"] = json!(body.source.as_str());
    if let Some(run_id) = body.run_id.as_deref().filter(|run_id| !run_id.is_empty()) {
        record["run_id"] = json!(run_id);
    }
    let mut line = record.to_string();
    for (end, escape) in [('\u{85}', "\\u0085"), ('\u{2028}', "\\u2028"), ('\u{2029}', "\\u2029")] {
        if line.contains(end) {
            line = line.replace(end, escape);
        }
    }
    line.push('\n');
    line
}

fn evidence_to_json(evidence: &Evidence) -> Value {
    json!({
        "weight": evidence.weight, "sum": evidence.sum, "count": evidence.count, "variance": evidence.variance,
        "seen_at": evidence.seen_at.map(unix_seconds),
    })
}

/// Reads the `data` of a record. Times default to `now`, the source to `import`.
///
/// # Errors
/// Every flaw of the record, not only the first.
pub fn parse(key: PatternKey, mut data: Map<String, Value>, now: Timestamp) -> Result<NewPattern, Vec<Flaw>> {
    let mut reader = Reader { flaws: Vec::new() };
    let mut design = match data.remove("design") {
        None | Some(Value::Null) => Map::new(),
        Some(Value::Object(design)) => design,
        Some(_) => reader.refuse(&["design"], "dict_type", "Input should be a valid dictionary", Map::new()),
    };
    let task = reader.text(&mut data, "task", &["task"], MAX_TASK);
    if task.as_ref().is_some_and(|task| task.trim().is_empty()) || task.is_none() && reader.flaws.is_empty() {
        reader.refuse(&["task"], "missing", "Field required and not blank", ());
    }
    let success_score = reader.number(&mut data, "success_score", 0.0, 10.0).unwrap_or(DEFAULT_SCORE);
    let created_at = reader.time(&mut data, "timestamp").unwrap_or(now);
    let decayed_at = reader.time(&mut data, "_decayed_at").unwrap_or(created_at);
    let evidence = match data.remove("_evidence") {
        Some(Value::Object(mut parts)) => {
            let weight = reader.number(&mut parts, "weight", 0.0, 1e9);
            let sum = reader.number(&mut parts, "sum", 0.0, 1e10);
            weight.zip(sum).map(|(weight, sum)| Evidence {
                weight,
                sum,
                count: reader.number(&mut parts, "count", 0.0, 1e15).unwrap_or(0.0) as u64,
                variance: reader.number(&mut parts, "variance", 0.0, 25.0).unwrap_or(0.0),
                seen_at: reader.time(&mut parts, "seen_at"),
            })
        }
        _ => None,
    };
    let new = NewPattern {
        key,
        code: reader.text(&mut design, "code", &["design", "code"], MAX_CODE),
        output: reader.text(&mut design, "output", &["design", "output"], MAX_CODE),
        classification: reader.word(&mut design, "classification").unwrap_or(Classification::Internal),
        source: reader.word(&mut design, "source").unwrap_or(Source::Import),
        run_id: reader.text(&mut data, "_run_id", &["_run_id"], MAX_RUN_ID),
        author: reader.text(&mut data, "_author_key_id", &["_author_key_id"], 200),
        redacted: data.remove("_redacted") == Some(Value::Bool(true)),
        success_score,
        reuse_count: reader.number(&mut data, "reuse_count", 0.0, 1e15).unwrap_or(0.0) as u64,
        created_at,
        decayed_at,
        evidence: evidence.unwrap_or_else(|| Evidence::of_report(success_score, created_at)),
        extra: Extra { data, design },
        task: task.unwrap_or_default(),
    };
    if reader.flaws.is_empty() { Ok(new) } else { Err(reader.flaws) }
}

/// Takes members out of a record and notes what is wrong with them.
struct Reader {
    flaws: Vec<Flaw>,
}

impl Reader {
    fn refuse<T>(&mut self, path: &[&'static str], kind: &'static str, message: &str, instead: T) -> T {
        self.flaws.push(Flaw { path: path.to_vec(), kind, message: message.to_owned() });
        instead
    }

    fn text(
        &mut self,
        members: &mut Map<String, Value>,
        name: &str,
        path: &[&'static str],
        most: usize,
    ) -> Option<String> {
        match members.remove(name)? {
            Value::Null => None,
            Value::String(text) if text.contains('\0') => {
                self.refuse(path, "value_error", "Input should not contain NUL characters", None)
            }
            Value::String(text) if text.chars().count() > most => {
                let message = format!("String should have at most {most} characters");
                self.refuse(path, "string_too_long", &message, None)
            }
            Value::String(text) => Some(text),
            _ => self.refuse(path, "string_type", "Input should be a valid string", None),
        }
    }

    fn number(&mut self, members: &mut Map<String, Value>, name: &'static str, least: f64, most: f64) -> Option<f64> {
        match members.remove(name)? {
            Value::Null => None,
            value => match value.as_f64() {
                Some(number) if (least..=most).contains(&number) => Some(number),
                Some(_) => {
                    let message = format!("Input should be between {least} and {most}");
                    self.refuse(&[name], "value_error", &message, None)
                }
                None => self.refuse(&[name], "float_type", "Input should be a valid number", None),
            },
        }
    }

    fn time(&mut self, members: &mut Map<String, Value>, name: &'static str) -> Option<Timestamp> {
        let seconds = self.number(members, name, f64::MIN, f64::MAX)?;
        from_unix_seconds(seconds).or_else(|| self.refuse(&[name], "value_error", "Input should be a unix time", None))
    }

    fn word<T: std::str::FromStr<Err = super::UnknownWord>>(
        &mut self,
        members: &mut Map<String, Value>,
        name: &'static str,
    ) -> Option<T> {
        let word = self.text(members, name, &["design", name], 50)?;
        word.parse()
            .map_err(|error: super::UnknownWord| {
                self.refuse(&["design", name], "literal_error", &super::alternatives(error.0), ());
            })
            .ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::PatternId;

    fn parsed(data: Value) -> Result<NewPattern, Vec<Flaw>> {
        let Value::Object(members) = data else { panic!("an object") };
        parse(PatternKey::parse("patterns/x_1").expect("valid"), members, Timestamp::UNIX_EPOCH)
    }

    #[test]
    fn a_record_comes_back_as_it_went() {
        let data_in = json!({
            "task": "t", "success_score": 7.5, "reuse_count": 3, "timestamp": 1_700_000_000.25, "legacy": [1],
            "design": {"code": "c", "classification": "public", "source": "sdk", "workflow": {"a": null}},
            "_author_key_id": "k", "_decayed_at": 1_700_000_100.5,
            "_evidence": {"weight": 2.0, "sum": 15.0, "count": 3, "variance": 0.25, "seen_at": 1_700_000_200.0}
        });
        let body = parsed(data_in.clone()).expect("valid");
        assert_eq!(data(&Pattern { id: PatternId(1), body }), data_in);
    }

    #[test]
    fn a_line_is_one_line_and_says_what_the_columns_say() {
        let mut body = parsed(json!({"task": "a\u{2028}b\n\u{85}", "_run_id": "r", "_redacted": true})).expect("valid");
        body.classification = Classification::Confidential;
        let text = line(&Pattern { id: PatternId(1), body });
        assert_eq!((text.lines().count(), text.contains(['\u{85}', '\u{2028}'])), (1, false));
        let value: Value = serde_json::from_str(&text).expect("JSON");
        assert_eq!(value["data"]["task"], "a\u{2028}b\n\u{85}");
        let said = [&value["classification"], &value["redacted"], &value["source"], &value["run_id"]];
        assert_eq!(said.map(Value::clone), [json!("confidential"), json!(true), json!("import"), json!("r")]);
        assert_eq!(value["data"]["design"]["classification"], "confidential");
    }

    #[test]
    fn derivable_members_are_left_out() {
        let body = parsed(json!({"task": "t", "success_score": 7.5, "timestamp": 5.0})).expect("valid");
        let data = data(&Pattern { id: PatternId(1), body });
        assert!(data.get("_evidence").is_none() && data.get("_decayed_at").is_none());
        assert_eq!(data["design"]["source"], "import");
    }

    #[test]
    fn every_flaw_is_named() {
        let flaws =
            parsed(json!({"task": " ", "success_score": 99, "design": {"code": 5, "source": "x"}})).unwrap_err();
        let paths: Vec<_> = flaws.iter().map(|flaw| flaw.path.join(".")).collect();
        assert_eq!(paths, ["task", "success_score", "design.code", "design.source"]);
        for bad in [json!({}), json!({"task": 5}), json!({"design": "no", "task": "x"}), json!({"task": "a\0"})] {
            assert!(parsed(bad.clone()).is_err(), "{bad}");
        }
    }
}
