//! The daily budget for language models holds, whoever asks at once.

use std::sync::Arc;

use chrono::TimeDelta;
use futures_util::future::join_all;
use serde_json::{Value, json};
use wiremock::ResponseTemplate;

use crate::support::app::{Setup, TestApp};
use crate::support::fakes::StoppedClock;
use crate::support::postgres::Database;
use crate::support::provider::{Provider, verdict};

const BUDGET: &str = "ENGRAMIA_LLM_DAILY_BUDGET_USD";
/// So that the largest answer of a judge costs 20.48 cents, and what is sent nothing.
const PRICE: (&str, &str) = ("ENGRAMIA_LLM_PRICES", "gpt-4.1=0/100");

fn work() -> Value {
    json!({ "task": "Sum a list", "code": "sum(x)", "num_evals": 1 })
}

async fn evaluate(app: &TestApp) -> u16 {
    app.owner().post("/v1/evaluate", &work()).await.status.as_u16()
}

#[tokio::test]
async fn requests_at_once_never_exceed_the_budget_on_both_stores() {
    let database = Database::new().await;
    for setup in [Setup::new(), Setup::new().postgres(&database)] {
        let provider = Provider::saying(&[&verdict(5.0, "")]).await;
        // An answer has 500 tokens: 5 cents. Once two answers are paid for, no room is left for the worst case.
        let app = provider.of(setup).var(BUDGET, "0.3").var(PRICE.0, PRICE.1).start().await;
        let calls = (0..20).map(|_| app.owner().post("/v1/evaluate", &work()).into_future());
        let answers = join_all(calls).await;
        let (done, refused): (Vec<_>, Vec<_>) = answers.iter().partition(|answer| answer.status == 200);
        assert!((1..=2).contains(&done.len()), "{}", done.len());
        assert_eq!(provider.asked().await.len(), done.len());
        for answer in refused {
            let body = answer.problem(429, "QUOTA_EXCEEDED");
            assert_eq!((&body["metric"], &body["limit"]), (&json!("llm_budget_usd"), &json!(0.3)), "{body}");
            assert_eq!((&body["error_context"]["metric"], &body["error"]), (&body["metric"], &json!("quota_exceeded")));
            assert_eq!(body["error_context"]["reset_date"], body["reset_date"]);
        }
        while evaluate(&app).await == 200 {}
        assert_eq!(provider.asked().await.len(), 2);
    }
}

#[tokio::test]
async fn replicas_share_a_budget() {
    let database = Database::new().await;
    let provider = Provider::saying(&[&verdict(5.0, "")]).await;
    let start = || provider.of(Setup::new().postgres(&database)).var(BUDGET, "0.3").var(PRICE.0, PRICE.1).start();
    let (one, two) = (start().await, start().await);
    let statuses = [evaluate(&one).await, evaluate(&two).await, evaluate(&one).await, evaluate(&two).await];
    assert_eq!(statuses, [200, 200, 429, 429]);
}

#[tokio::test]
async fn a_new_day_has_a_new_budget_and_roles_have_their_own() {
    let clock = Arc::new(StoppedClock::new());
    let provider = Provider::saying(&[&verdict(5.0, "")]).await;
    let setup = provider.of(Setup::new()).clock(clock.clone()).var(BUDGET, "5,eval=0.25").var(PRICE.0, PRICE.1);
    let app = setup.start().await;
    assert_eq!([evaluate(&app).await, evaluate(&app).await], [200, 429]);
    let refusal = app.owner().post("/v1/evaluate", &work()).await.problem(429, "QUOTA_EXCEEDED");
    assert_eq!((&refusal["current"], &refusal["limit"]), (&json!(0.05), &json!(0.25)));
    assert_eq!(refusal["reset_date"], "2025-06-16");
    // Composing has what is left of the total.
    assert_eq!(app.owner().post("/v1/compose", &json!({ "task": "t" })).await.status, 200);
    clock.pass(TimeDelta::days(1));
    assert_eq!(evaluate(&app).await, 200);
}

#[tokio::test]
async fn a_refused_attempt_costs_nothing_and_a_silent_one_the_worst() {
    let app = async |reply: ResponseTemplate| {
        let provider = Provider::by(move |_| reply.clone()).await;
        let setup = provider.of(Setup::new()).var(BUDGET, "0.3").var(PRICE.0, PRICE.1);
        (setup.var("ENGRAMIA_LLM_TIMEOUT", "0.2").start().await, provider)
    };
    let (refusing, provider) = app(ResponseTemplate::new(401)).await;
    for _ in 0..4 {
        assert_eq!(evaluate(&refusing).await, 502);
    }
    assert_eq!(provider.asked().await.len(), 4);
    let late = ResponseTemplate::new(200).set_delay(std::time::Duration::from_secs(60));
    let (silent, provider) = app(late).await;
    assert_eq!(evaluate(&silent).await, 429, "the second attempt has no room");
    assert_eq!(provider.asked().await.len(), 1);
}

#[tokio::test]
async fn compose_is_refused_by_an_empty_budget_and_tenants_have_their_own() {
    let provider = Provider::saying(&["{}"]).await;
    let setup = provider.of(Setup::new()).var(BUDGET, "0").var(PRICE.0, PRICE.1);
    let app = setup.start().await;
    app.owner().post("/v1/compose", &json!({ "task": "t" })).await.problem(429, "QUOTA_EXCEEDED");
    assert!(provider.asked().await.is_empty());
}
