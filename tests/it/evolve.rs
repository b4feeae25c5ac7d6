//! Better prompts: from recurring issues, and only after checks.

use engramia::domain::{Feedback, Scope, Timestamp};
use serde_json::{Value, json};
use wiremock::ResponseTemplate;

use crate::support::app::{Setup, TestApp};
use crate::support::postgres::Database;
use crate::support::provider::{Asked, Provider, said, verdict};
use crate::support::run;

const ISSUE: &str = "Missing error handling";
const CURRENT: &str = "You are a coder.";
const BETTER: &str = "You are a careful coder.";

/// An application whose memory knows one recurring issue.
async fn with_issue(setup: Setup) -> TestApp {
    let setup = setup.prepare(async |store| {
        let mut work = store.begin(&Scope::default()).await.expect("a writer");
        let mut issue = Feedback::new(ISSUE.into(), 4.0, Timestamp::UNIX_EPOCH);
        issue.count = 3;
        work.feedback().put(&issue, None).await.expect("stored");
        work.commit().await.expect("committed");
    });
    setup.await.start().await
}

async fn evolved(app: &TestApp, current: &str) -> Value {
    app.owner().post("/v1/evolve", &json!({ "role": "coder", "current_prompt": current })).await.ok()
}

fn proposal(text: &str) -> ResponseTemplate {
    said(&json!({ "improved_prompt": text, "changes": ["one"] }).to_string())
}

/// Proposes [`BETTER`]; answers tasks with the system text it has; judges answers of the better text by `score`, others
/// by 7.
fn trying(score: f64) -> impl Fn(&Asked) -> ResponseTemplate {
    move |asked| match asked.schema.as_str() {
        "revision" => proposal(BETTER),
        "verdict" if asked.user.contains(BETTER) => said(&verdict(score, "")),
        "verdict" => said(&verdict(7.0, "")),
        _ => said(&format!("answer of: {}", asked.system)),
    }
}

#[tokio::test]
async fn without_issues_nothing_is_asked() {
    let provider = Provider::saying(&["{}"]).await;
    let app = provider.of(Setup::new()).start().await;
    let expected = json!({
        "improved_prompt": CURRENT, "changes": [], "issues_addressed": [], "accepted": false, "reason": "no_issues",
    });
    assert_eq!(evolved(&app, CURRENT).await, expected);
    assert!(provider.asked().await.is_empty());
}

#[tokio::test]
async fn without_stored_tasks_the_form_decides_on_both_stores() {
    let database = Database::new().await;
    for setup in [Setup::new(), Setup::new().postgres(&database)] {
        let provider = Provider::by(|_| proposal(BETTER)).await;
        let app = with_issue(provider.of(setup)).await;
        let body = evolved(&app, CURRENT).await;
        assert_eq!((&body["improved_prompt"], &body["accepted"]), (&json!(BETTER), &json!(true)), "{body}");
        assert_eq!((&body["changes"], &body["issues_addressed"]), (&json!(["one"]), &json!([ISSUE])));
        assert!(body["reason"].as_str().is_some_and(|reason| reason.contains("structural")), "{body}");
        let asked = provider.asked().await;
        assert!(asked.len() == 1 && asked[0].user.contains(ISSUE) && asked[0].user.contains(CURRENT));
    }
}

#[tokio::test]
async fn a_candidate_is_tried_on_stored_tasks() {
    for (score, accepted, words) in [(6.9, true, "Accepted after"), (6.7, false, "Rejected after")] {
        let provider = Provider::by(trying(score)).await;
        let app = with_issue(provider.of(Setup::new())).await;
        for task in ["write a coder tool", "are you a parser"] {
            app.owner().post("/v1/learn", &run(task, "code()", 8.0)).await.ok();
        }
        let mut private = run("you are a private coder", "code()", 8.0);
        private["classification"] = json!("confidential");
        app.owner().post("/v1/learn", &private).await.ok();
        let body = evolved(&app, CURRENT).await;
        assert_eq!(body["accepted"], accepted, "{body}");
        let reason = body["reason"].as_str().expect("a reason");
        assert!(
            reason.starts_with(words) && reason.contains(&format!("{score:.2}")) && reason.contains("7.00"),
            "{body}"
        );
        let asked = provider.asked().await;
        assert_eq!(asked.len(), 9, "one proposal, two answers and two verdicts for each task");
        assert!(asked.iter().all(|asked| !asked.user.contains("private")), "confidential tasks stay here");
    }
}

#[tokio::test]
async fn a_candidate_of_the_wrong_form_is_refused() {
    let secret = "ghp_aBcDeFgHiJkLmNoPqRsTuVwXyZ0123456789";
    for (current, candidate, words) in [
        ("Greet {name}.", "Greet somebody.", "{name}"),
        (CURRENT, CURRENT, "equal"),
        (CURRENT, " ", "empty"),
        (&format!("Use {secret}."), "Use it with care.", "secrets"),
    ] {
        let provider = Provider::by(move |_| proposal(candidate)).await;
        let app = with_issue(provider.of(Setup::new())).await;
        let body = evolved(&app, current).await;
        assert_eq!(body["accepted"], false, "{body}");
        assert!(body["reason"].as_str().is_some_and(|reason| reason.contains(words)), "{body}");
        assert!(provider.asked().await.iter().all(|asked| !asked.user.contains(secret)));
    }
}

#[tokio::test]
async fn a_model_that_fails_changes_nothing() {
    for text in ["not JSON", "[]", r#"{"improved_prompt": 5}"#] {
        let app = with_issue(Provider::saying(&[text]).await.of(Setup::new())).await;
        let body = evolved(&app, CURRENT).await;
        assert_eq!((&body["improved_prompt"], &body["accepted"]), (&json!(CURRENT), &json!(false)));
        assert!(body["reason"].as_str().is_some_and(|reason| reason.starts_with("llm_error")), "{body}");
    }
    let app = with_issue(Provider::by(|_| ResponseTemplate::new(401)).await.of(Setup::new())).await;
    let request = json!({ "role": "coder", "current_prompt": CURRENT });
    app.owner().post("/v1/evolve", &request).await.problem(502, "PROVIDER_ERROR");
}

#[tokio::test]
async fn a_trial_that_fails_leaves_the_form_to_decide() {
    let provider =
        Provider::by(|asked| if asked.schema == "revision" { proposal(BETTER) } else { ResponseTemplate::new(400) });
    let app = with_issue(provider.await.of(Setup::new())).await;
    app.owner().post("/v1/learn", &run("write a coder tool", "code()", 8.0)).await.ok();
    let body = evolved(&app, CURRENT).await;
    assert_eq!(body["accepted"], true);
    assert!(body["reason"].as_str().is_some_and(|reason| reason.contains("trial on stored tasks failed")), "{body}");
}
