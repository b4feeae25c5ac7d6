//! What values of the original mean, whether they stand in its JSON files or in rows of its database
//! (`spec/engramia/20` §5 and §15). What cannot be read is left out.

use serde_json::{Map, Value};

use crate::domain::time::parse_iso;
use crate::domain::{Feedback, PatternKey, Ratings, Timestamp};
use crate::store::memory::ScopeStatistics;

/// Relevance of an issue that names none: that of a new one.
const DEFAULT_RELEVANCE: f64 = 0.5;

/// Name of the model in the description of an embedding space.
pub(in crate::store) fn model(config: &Value) -> Option<String> {
    let names = ["model", "model_name", "embedding_model"];
    let model = names.iter().find_map(|name| config.get(name)?.as_str())?.trim();
    (!model.is_empty()).then(|| model.to_owned())
}

/// Tags by key of a registry.
pub(in crate::store) fn tags(registry: Map<String, Value>) -> Vec<(PatternKey, Vec<String>)> {
    let tags = |(key, tags): (String, Value)| {
        let tags = tags.as_array()?.iter().filter_map(Value::as_str).map(str::to_owned).collect();
        Some((PatternKey::parse(&key).ok()?, tags))
    };
    registry.into_iter().filter_map(tags).collect()
}

/// Calls of learn, and how many of them were successful.
pub(in crate::store) fn runs(metrics: &Value) -> (u64, u64) {
    let counter = |name: &str| metrics.get(name).and_then(Value::as_u64);
    let runs = counter("runs").unwrap_or(0);
    (runs, counter("successes").or_else(|| counter("success")).unwrap_or(0).min(runs))
}

/// The newest scores of a list of evaluations, oldest first.
pub(in crate::store) fn recent_scores(evaluations: &Value) -> Vec<f64> {
    let score =
        |item: &Value| item.get("scores")?.get("overall")?.as_f64().filter(|score| (0.0..=10.0).contains(score));
    let scores: Vec<f64> = evaluations.as_array().into_iter().flatten().filter_map(score).collect();
    scores[scores.len().saturating_sub(ScopeStatistics::RECENT)..].to_vec()
}

/// Recurring issues: a list, or an object that holds one. A time that cannot be read is not long ago: the list was
/// written after every one of its times.
pub(in crate::store) fn issues(value: &Value, written: Timestamp) -> Vec<Feedback> {
    let list = value.as_array().or_else(|| value.as_object()?.values().find_map(Value::as_array));
    list.into_iter().flatten().filter_map(|item| issue(item, written)).collect()
}

fn issue(item: &Value, written: Timestamp) -> Option<Feedback> {
    let text: String = item.get("pattern")?.as_str()?.trim().chars().take(Feedback::MAX_CHARS).collect();
    let time = |name: &str| parse_iso(item.get(name)?.as_str()?);
    let last_seen = time("last_seen").unwrap_or(written);
    let count = item.get("count").and_then(Value::as_u64).unwrap_or(1);
    let score = item.get("score").and_then(Value::as_f64).unwrap_or(DEFAULT_RELEVANCE);
    (!text.is_empty()).then(|| Feedback {
        text,
        count: u32::try_from(count).unwrap_or(u32::MAX),
        score: score.clamp(0.0, 1.0),
        ratings: Ratings::default(),
        last_seen,
        decayed_at: time("last_decayed").unwrap_or(last_seen),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn only_the_newest_scores_of_the_scale_are_kept() {
        let item = |score: Value| json!({ "agent_name": "a", "scores": { "overall": score } });
        let mut list = vec![json!({ "scores": {} }), item(json!("x")), item(json!(99)), item(json!(0.5))];
        assert_eq!(recent_scores(&json!(list)), [0.5]);
        list.extend((0..10).map(|_| item(json!(7))));
        assert_eq!(recent_scores(&json!(list)), [7.0; 10]);
        assert!(recent_scores(&json!({})).is_empty());
    }

    #[test]
    fn successes_are_runs() {
        assert_eq!(runs(&json!({ "runs": 3, "success": 9 })), (3, 3));
        assert_eq!(runs(&json!("broken")), (0, 0));
    }
}
