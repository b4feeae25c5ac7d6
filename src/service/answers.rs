//! Reading what language models answer, however they wrap it (`spec/engramia/20` §3). Pure, and linear in the answer.

use serde_json::{Map, Value};

use crate::domain::pipeline::{MOST_STAGES, Stage};
use crate::domain::score::Score;

/// Places at which an object may begin that are tried in prose.
const OPENINGS: usize = 256;
/// Longest name of a stage, and longest name of what it reads or writes, in characters.
const NAME_CHARS: usize = 100;
/// Longest task of a stage, in characters.
const TASK_CHARS: usize = 10_000;
/// Most things that a stage reads or writes.
const MOST_FILES: usize = 50;
/// Most changes that are listed.
const MOST_CHANGES: usize = 50;

/// The JSON object of an answer: the whole text, else the first fenced block that holds one, else the first one anywhere.
pub fn object(text: &str) -> Option<Map<String, Value>> {
    let whole = |text: &str| serde_json::from_str::<Map<String, Value>>(text.trim()).ok();
    whole(text).or_else(|| fenced(text).find_map(whole)).or_else(|| {
        let openings = text.match_indices('{').take(OPENINGS);
        openings.filter_map(|(at, _)| first_value(&text[at..])).next()
    })
}

/// Contents of blocks in code fences, without the word that names their language.
fn fenced(text: &str) -> impl Iterator<Item = &str> {
    text.split("```").skip(1).step_by(2).map(|block| {
        let (word, rest) = block.split_once('\n').unwrap_or((block, ""));
        if word.trim().chars().all(char::is_alphanumeric) { rest } else { block }
    })
}

/// The object that a text begins with, whatever follows it.
fn first_value(text: &str) -> Option<Map<String, Value>> {
    serde_json::Deserializer::from_str(text).into_iter::<Map<String, Value>>().next()?.ok()
}

/// A judge's verdict: what is missing is average, numbers are brought into [0, 10].
///
/// # Errors
/// What is wrong, where it cannot be used: no object, no score at all, or a score that is no number.
pub fn score(text: &str) -> Result<Score, &'static str> {
    const MISSING: f64 = 5.0;
    const DIMENSIONS: [&str; 5] = ["task_alignment", "code_quality", "workspace_usage", "robustness", "overall"];
    let answer = object(text).ok_or("no JSON object")?;
    if !DIMENSIONS.iter().any(|name| answer.contains_key(*name)) {
        return Err("no scores");
    }
    let number = |name: &str| match answer.get(name) {
        None => Ok(MISSING),
        Some(Value::Number(number)) => number.as_f64().map(|n| n.clamp(0.0, 10.0)).ok_or("a score out of range"),
        Some(Value::String(text)) => match text.trim().parse::<f64>() {
            Ok(number) if number.is_finite() => Ok(number.clamp(0.0, 10.0)),
            _ => Err("a score that is no number"),
        },
        Some(_) => Err("a score that is no number"),
    };
    Ok(Score {
        task_alignment: number("task_alignment")?,
        code_quality: number("code_quality")?,
        workspace_usage: number("workspace_usage")?,
        robustness: number("robustness")?,
        overall: number("overall")?,
        feedback: plain(answer.get("feedback").and_then(Value::as_str).unwrap_or_default()),
    })
}

/// The stages of a decomposition, at most four, each with a name of its own.
///
/// # Errors
/// What is wrong, where it cannot be used.
pub fn stages(text: &str) -> Result<Vec<Stage>, &'static str> {
    let mut answer = object(text).ok_or("no JSON object")?;
    let Some(Value::Array(items)) = answer.remove("stages") else { return Err("no list of stages") };
    if items.is_empty() {
        return Err("no stages");
    }
    let mut stages = items.iter().take(MOST_STAGES).map(stage).collect::<Result<Vec<_>, _>>()?;
    for at in 0..stages.len() {
        let name = &stages[at].name;
        // Such a name may be the one that another stage is given.
        let is_number = name.strip_prefix("stage_").is_some_and(|n| n.bytes().all(|b| b.is_ascii_digit()));
        let is_unique = !is_number && stages.iter().filter(|other| other.name == *name).count() == 1;
        if name.is_empty() || name.chars().count() > NAME_CHARS || !is_unique {
            stages[at].name = format!("stage_{at}");
        }
    }
    Ok(stages)
}

fn stage(item: &Value) -> Result<Stage, &'static str> {
    let text = |name: &str| item.get(name).and_then(Value::as_str).map(plain).unwrap_or_default();
    let task = text("task");
    if task.is_empty() || task.chars().count() > TASK_CHARS {
        return Err("a stage without a task");
    }
    Ok(Stage { name: text("name"), task, reads: files(item.get("reads"))?, writes: files(item.get("writes"))? })
}

/// A list of names, each once; a single name counts as a list of one, and nothing as none.
fn files(value: Option<&Value>) -> Result<Vec<String>, &'static str> {
    let items = match value {
        None | Some(Value::Null) => return Ok(Vec::new()),
        Some(Value::String(one)) => vec![one.as_str()],
        Some(Value::Array(items)) => {
            items.iter().map(|item| item.as_str().ok_or("a file without a name")).collect::<Result<_, _>>()?
        }
        Some(_) => return Err("files that are no list"),
    };
    let mut files = Vec::new();
    for name in items.into_iter().map(plain).filter(|name| !name.is_empty()) {
        if name.chars().count() > NAME_CHARS || files.len() == MOST_FILES {
            return Err("too many or too long names of files");
        }
        if !files.contains(&name) {
            files.push(name);
        }
    }
    Ok(files)
}

/// A proposed text, and what was changed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Proposal {
    /// The text; `None` where the answer has none.
    pub text: Option<String>,
    /// What was changed.
    pub changes: Vec<String>,
}

/// A better text for an agent.
///
/// # Errors
/// What is wrong, where it cannot be used.
pub fn proposal(text: &str) -> Result<Proposal, &'static str> {
    let answer = object(text).ok_or("no JSON object")?;
    let text = match answer.get("improved_prompt") {
        None | Some(Value::Null) => None,
        Some(Value::String(text)) => Some(plain(text)),
        Some(_) => return Err("a proposal that is no text"),
    };
    let changes = match answer.get("changes") {
        None | Some(Value::Null) => Vec::new(),
        Some(Value::String(one)) => vec![plain(one)],
        Some(Value::Array(items)) => items.iter().filter_map(Value::as_str).map(plain).collect(),
        Some(_) => return Err("changes that are no list"),
    };
    let changes = changes.into_iter().filter(|change| !change.is_empty()).take(MOST_CHANGES).collect();
    Ok(Proposal { text, changes })
}

/// Without NUL, which PostgreSQL cannot hold, and without white space around it.
fn plain(text: &str) -> String {
    text.replace('\0', "").trim().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use serde_json::json;

    #[test]
    fn the_object_is_found_however_it_is_wrapped() {
        for wrapped in [
            "{\"a\":1}",
            " \n{\"a\":1}\n",
            "Sure!\n```json\n{\"a\":1}\n```\nBye {\"b\":2}",
            "```\n{\"a\":1}\n```",
            "```js\nlet x = 1;\n```\n```json\n{\"a\":1}\n```",
            "```{\"a\":1}```",
            "Here {it} is: {\"a\":1} and {\"b\":2}",
            "[{\"a\":1}]",
            "```json\n{\"a\":1}",
            "\u{feff}{\"a\":1}",
        ] {
            assert_eq!(object(wrapped), json!({ "a": 1 }).as_object().cloned(), "{wrapped}");
        }
        for nothing in ["", "no json", "{", "[]", "null", "5", "\"{", "{\"overall\": 8.0, \"stages\": [ oops"] {
            assert_eq!(object(nothing), None, "{nothing}");
        }
    }

    #[test]
    fn scores_are_brought_into_range() {
        let read = score(r#"{"overall": 99, "code_quality": -5, "robustness": "7.5", "feedback": " a\u0000b "}"#);
        let read = read.expect("usable");
        assert_eq!((read.overall, read.code_quality, read.robustness, read.task_alignment), (10.0, 0.0, 7.5, 5.0));
        assert_eq!(read.feedback, "ab");
        for bad in [r#"{"overall": "good"}"#, r#"{"overall": null}"#, r#"{"overall": [8]}"#, "{}", r#"{"a": 1}"#, "8"] {
            assert!(score(bad).is_err(), "{bad}");
        }
        assert!(score(r#"{"overall": "NaN"}"#).is_err() && score(r#"{"overall": 1e999}"#).is_err());
    }

    #[test]
    fn stages_are_checked_and_named() {
        let stage = |name: &str| json!({ "name": name, "task": "t", "reads": [], "writes": ["x", "x", " "] });
        let names = |stages: Value| -> Vec<String> {
            let text = json!({ "stages": stages }).to_string();
            super::stages(&text).expect("usable").into_iter().map(|stage| stage.name).collect()
        };
        assert_eq!(names(json!([stage("a"), stage("b"), stage("a")])), ["stage_0", "b", "a"]);
        assert_eq!(names(json!([stage(""), stage("x"), stage("y"), stage("z"), stage("fifth")])).len(), 4);
        let tolerant = super::stages(r#"{"stages": [{"task": "t", "reads": "a", "writes": null}]}"#).expect("usable");
        assert_eq!((&tolerant[0].reads[..], tolerant[0].writes.len()), (&["a".to_owned()][..], 0));
        for bad in [
            r#"{"stages": []}"#,
            r#"{"stages": "x"}"#,
            r#"{"other": 1}"#,
            r#"{"stages": [{"reads": []}]}"#,
            r#"{"stages": [1, 2]}"#,
            r#"{"stages": [{"task": "t", "reads": [1]}]}"#,
            "[]",
            "null",
            "prose",
        ] {
            assert!(super::stages(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_name_that_is_taken_by_a_number_is_not_given_twice() {
        let text = r#"{"stages": [{"name": "stage_1", "task": "t"}, {"name": "", "task": "t"}]}"#;
        let names: Vec<String> = super::stages(text).expect("usable").into_iter().map(|stage| stage.name).collect();
        assert_eq!(names.iter().collect::<std::collections::BTreeSet<_>>().len(), 2, "{names:?}");
    }

    #[test]
    fn proposals_are_read() {
        let read = proposal(r#"{"improved_prompt": "better", "changes": ["one", 2, ""]}"#).expect("usable");
        assert_eq!(read, Proposal { text: Some("better".into()), changes: vec!["one".into()] });
        assert_eq!(proposal("{}").expect("usable").text, None);
        assert!(proposal(r#"{"improved_prompt": 5}"#).is_err() && proposal("[]").is_err());
    }

    #[test]
    fn long_answers_take_no_long_time() {
        let started = std::time::Instant::now();
        for text in ["{".repeat(2 << 20), "{\"a\":".repeat(400_000), "{\"a\":[".repeat(300_000), "```".repeat(700_000)]
        {
            assert_eq!(object(&text), None);
        }
        let deep = format!("{}{}", "{\"a\":[".repeat(60), "1,".repeat(1 << 20));
        assert_eq!(object(&deep), None);
        assert!(started.elapsed().as_secs() < 10, "{:?}", started.elapsed());
    }

    proptest! {
        #[test]
        fn any_text_is_read(text in "\\PC{0,300}") {
            let _ = (object(&text).is_some(), score(&text).is_ok(), stages(&text).is_ok(), proposal(&text).is_ok());
        }

        #[test]
        fn a_verdict_survives_prose_around_it(before in "[^{}`]{0,80}", after in "\\PC{0,80}", overall in 0.0f64..10.0) {
            let text = format!("{before}{}{after}", json!({ "overall": overall, "feedback": "f" }));
            prop_assert!((score(&text).expect("found").overall - overall).abs() < 1e-9);
        }
    }
}
