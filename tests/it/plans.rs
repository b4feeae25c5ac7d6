//! What a plan allows: evaluations, patterns, projects, features, and payments that are due.

use std::sync::Arc;
use std::time::Duration;

use axum::http::Method;
use chrono::TimeDelta;
use engramia::domain::subscription::Overage;
use engramia::domain::{Month, Plan, Scope, Subscription, Timestamp};
use engramia::ports::Clock;
use futures_util::future::join_all;
use jsonwebtoken::Algorithm;
use serde_json::{Value, json};
use wiremock::ResponseTemplate;

use crate::support::app::Setup;
use crate::support::fakes::StoppedClock;
use crate::support::issuer::{Issuer, Key};
use crate::support::people::{Answer, Person};
use crate::support::postgres::Database;
use crate::support::provider::{Provider, said, verdict};
use crate::support::{eventually, record, run};

const QUOTAS: (&str, &str) = ("ENGRAMIA_ENFORCE_QUOTAS", "true");
const ENTITLEMENTS: (&str, &str) = ("ENGRAMIA_ENFORCE_ENTITLEMENTS", "true");

/// The tenant of the static key has this subscription, and has done so many evaluations this month.
async fn subscribed(setup: Setup, subscription: &Subscription, runs: u64, now: Timestamp) -> Setup {
    setup
        .prepare(async |store| {
            let mut work = store.begin(&Scope::of_tenant(Scope::DEFAULT_NAME)).await.expect("a unit of work");
            work.billing().put_subscription(subscription).await.expect("stored");
            for _ in 0..runs {
                work.billing().count_run(Month::of(now), None).await.expect("counted");
            }
            work.commit().await.expect("committed");
        })
        .await
}

fn on(plan: Plan) -> Subscription {
    Subscription { plan, ..Subscription::none() }
}

/// A clock in the middle of June 2025.
fn june() -> Arc<StoppedClock> {
    Arc::new(StoppedClock::new())
}

fn evaluation() -> Value {
    json!({ "task": "Sum a list", "code": "sum(x)", "num_evals": 1 })
}

async fn evaluate(person: &Person) -> Answer {
    person.post("/v1/evaluate", &evaluation()).await
}

async fn background(person: &Person, path: &str, body: &Value) -> Answer {
    person.post(path, body).header("prefer", "respond-async").await
}

fn assert_out_of_runs(answer: &Answer, word: &str, limit: u64) {
    let body = answer.problem(429, "QUOTA_EXCEEDED");
    let expected = json!({ "metric": "eval_runs", "current": limit, "limit": limit, "reset_date": "2025-07-01" });
    assert_eq!(body["error_context"], expected);
    assert_eq!(body["error"], word);
    for name in ["metric", "current", "limit", "reset_date"] {
        assert_eq!(body[name], expected[name], "{body}");
    }
    assert_eq!(body["message"], body["detail"]);
}

#[tokio::test]
async fn of_two_hundred_evaluations_at_once_a_hundred_run_where_a_hundred_are_left() {
    let database = Database::new().await;
    for setup in [Setup::new(), Setup::new().postgres(&database)] {
        let (provider, clock) = (Provider::saying(&[&verdict(5.0, "")]).await, june());
        let setup = provider.of(setup).clock(clock.clone()).var(QUOTAS.0, QUOTAS.1);
        let app = subscribed(setup, &on(Plan::Sandbox), 400, clock.now()).await.start().await;
        let calls = (0..200).map(|_| app.owner().post("/v1/evaluate", &evaluation()).into_future());
        let answers = join_all(calls).await;
        let (done, refused): (Vec<_>, Vec<_>) = answers.iter().partition(|answer| answer.status == 200);
        assert_eq!((done.len(), refused.len()), (100, 100));
        assert_eq!(provider.asked().await.len(), 100, "a refused run costs no call");
        refused.iter().for_each(|answer| assert_out_of_runs(answer, "quota_exceeded", 500));
        // Whoever asks in the background hears of it at once.
        assert_out_of_runs(&background(&app.owner(), "/v1/evaluate", &evaluation()).await, "quota_exceeded", 500);
        // Everything else goes on, and so does everything in the next month.
        app.owner().post("/v1/learn", &run("a", "b", 5.0)).await.ok();
        app.owner().post("/v1/recall", &json!({ "task": "a" })).await.ok();
        clock.pass(TimeDelta::days(20));
        evaluate(&app.owner()).await.ok();
    }
}

#[tokio::test]
async fn what_fails_or_is_broken_off_does_not_count() {
    let clock = june();
    let provider = Provider::by(|asked| match asked.user.as_str() {
        task if task.contains("good") => said(&verdict(5.0, "")),
        task if task.contains("slow") => said(&verdict(5.0, "")).set_delay(Duration::from_secs(60)),
        _ => ResponseTemplate::new(401),
    })
    .await;
    let setup = provider.of(Setup::new()).clock(clock.clone()).var(QUOTAS.0, QUOTAS.1);
    let app = subscribed(setup, &on(Plan::Sandbox), 499, clock.now()).await.start().await;
    let owner = app.owner();
    let good = json!({ "task": "good", "code": "b", "num_evals": 1 });
    for _ in 0..3 {
        assert_eq!(evaluate(&owner).await.status, 502);
        // The place is given back a moment after the answer.
        eventually("the place is free", async || {
            let answer = evaluate(&owner).await;
            (answer.status == 502).then_some(())
        })
        .await;
    }
    assert_eq!(owner.post("/v1/evaluate", &json!({ "task": "a" })).await.status, 422);
    let slow = json!({ "task": "slow", "code": "b", "num_evals": 1 });
    let job = owner.post("/v1/evaluate", &slow).header("prefer", "respond-async");
    let job = job.header("x-max-execution-seconds", "1").await.json()["job_id"].as_str().expect("an id").to_owned();
    eventually("the end of its time", async || {
        let job = owner.get(&format!("/v1/jobs/{job}")).await.ok();
        (job["status"] == "expired").then_some(())
    })
    .await;
    eventually("the last one", async || {
        let answer = owner.post("/v1/evaluate", &good).await;
        (answer.status == 200).then_some(())
    })
    .await;
    assert_out_of_runs(&owner.post("/v1/evaluate", &good).await, "quota_exceeded", 500);
}

#[tokio::test]
async fn jobs_count_when_they_are_done_and_find_the_quota_of_that_time() {
    let clock = june();
    let provider = Provider::saying(&[&verdict(5.0, "")]).await;
    let setup = provider.of(Setup::new()).clock(clock.clone()).var(QUOTAS.0, QUOTAS.1).without_worker();
    let app = subscribed(setup, &on(Plan::Sandbox), 499, clock.now()).await.start().await;
    let mut ids = Vec::new();
    for _ in 0..2 {
        let answer = background(&app.owner(), "/v1/evaluate", &evaluation()).await;
        assert_eq!(answer.status, 202, "neither of them has begun");
        ids.push(answer.json()["job_id"].as_str().expect("an id").to_owned());
    }
    let app = provider.of(Setup::on(app.stop().await)).clock(clock).var(QUOTAS.0, QUOTAS.1).start().await;
    let mut ends = Vec::new();
    for id in ids {
        let job = eventually("an end", async || {
            let job = app.owner().get(&format!("/v1/jobs/{id}")).await.ok();
            (job["status"] != "pending" && job["status"] != "running").then_some(job)
        });
        let job = job.await;
        ends.push((job["status"].clone(), job["error"].clone()));
    }
    ends.sort_by_key(|(status, _)| status.to_string());
    assert_eq!(ends[0].0, "completed");
    assert_eq!(ends[1].0, "failed");
    let error = ends[1].1.as_str().expect("an error");
    assert!(error.starts_with("QuotaExceeded: Monthly eval run quota reached."), "{error}");
    assert_eq!(provider.asked().await.len(), 1);
}

#[tokio::test]
async fn overage_lets_runs_go_on_up_to_its_cap() {
    for (plan, cap, runs, most) in [(Plan::Pro, Some(500), 3_499, Some(3_500)), (Plan::Team, None, 16_000, None)] {
        let clock = june();
        let provider = Provider::saying(&[&verdict(5.0, "")]).await;
        let setup = provider.of(Setup::new()).clock(clock.clone()).var(QUOTAS.0, QUOTAS.1);
        let paying = Subscription { overage: Overage { enabled: true, cap_cents: cap }, ..on(plan) };
        let app = subscribed(setup, &paying, runs, clock.now()).await.start().await;
        evaluate(&app.owner()).await.ok();
        match most {
            Some(most) => assert_out_of_runs(&evaluate(&app.owner()).await, "overage_budget_cap_reached", most),
            None => assert_eq!(evaluate(&app.owner()).await.status, 200),
        }
    }
}

#[tokio::test]
async fn a_payment_that_is_due_too_long_ends_learning_and_judging_only() {
    let database = Database::new().await;
    for setup in [Setup::new(), Setup::new().postgres(&database)] {
        let (provider, clock) = (Provider::saying(&[&verdict(5.0, "")]).await, june());
        let due = Subscription {
            status: Subscription::PAST_DUE.into(),
            past_due_since: Some(clock.now() - TimeDelta::days(6)),
            ..on(Plan::Pro)
        };
        let setup = provider.of(setup).clock(clock.clone()).var(QUOTAS.0, QUOTAS.1);
        let app = subscribed(setup, &due, 0, clock.now()).await.start().await;
        let owner = app.owner();
        owner.post("/v1/learn", &run("before", "b", 5.0)).await.ok();
        evaluate(&owner).await.ok();
        clock.pass(TimeDelta::days(1));
        let records = json!({ "records": [record("patterns/1", "t", 5.0)] });
        let refused = [
            owner.post("/v1/learn", &run("after", "b", 5.0)).await,
            owner.post("/v1/learn", &run("before", "b", 5.0)).await,
            owner.post("/v1/import", &records).await,
            evaluate(&owner).await,
            background(&owner, "/v1/evaluate", &evaluation()).await,
            background(&owner, "/v1/import", &records).await,
        ];
        for answer in refused {
            let body = answer.problem(402, "PAYMENT_REQUIRED");
            assert_eq!(body["error"], "payment_required");
            let text = "Your subscription payment is past due. Update your payment method to continue.";
            assert_eq!((body["message"].as_str(), body["detail"].as_str()), (Some(text), Some(text)));
        }
        assert_eq!(
            owner.post("/v1/recall", &json!({ "task": "before" })).await.ok()["matches"][0]["pattern"]["task"],
            "before"
        );
        assert_eq!(owner.get("/v1/health").await.ok()["pattern_count"], 1);
        assert_eq!(background(&owner, "/v1/aging", &json!({})).await.status, 202);
    }
}

fn records(first: usize, count: usize) -> Value {
    let records = (first..first + count).map(|n| record(&format!("patterns/{n:06}"), &format!("task {n}"), 5.0));
    json!({ "records": records.collect::<Vec<_>>() })
}

fn refused_patterns(answer: &Answer) -> (u64, u64) {
    let body = answer.problem(429, "QUOTA_EXCEEDED");
    assert_eq!((&body["error"], &body["metric"]), (&json!("quota_exceeded"), &json!("patterns")));
    (body["current"].as_u64().expect("a number"), body["limit"].as_u64().expect("a number"))
}

#[tokio::test]
async fn patterns_are_limited_over_all_projects_and_an_import_is_all_or_nothing() {
    let database = Database::new().await;
    for setup in [Setup::new(), Setup::new().postgres(&database)] {
        let app = setup.var(QUOTAS.0, QUOTAS.1).start().await;
        let owner = app.owner();
        let import = |project: &'static str, first, count| {
            let call = owner.post("/v1/import", &records(first, count)).header("x-project-id", project);
            call.into_future()
        };
        import("one", 0, 2_900).await.ok();
        import("two", 0, 2_000).await.ok();
        assert_eq!(refused_patterns(&import("two", 2_000, 101).await), (4_900, 5_000));
        let count = async |project: &str| {
            owner.get("/v1/health").header("x-project-id", project).await.ok()["pattern_count"].clone()
        };
        assert_eq!((count("one").await, count("two").await), (json!(2_900), json!(2_000)), "nothing half-done");
        let half = |first| import(if first < 5_000 { "one" } else { "two" }, first, 60);
        let (one, two) = tokio::join!(half(3_000), half(6_000));
        let refused: Vec<_> = [&one, &two].into_iter().filter(|answer| answer.status != 200).collect();
        assert_eq!(refused.len(), 1, "there is room for one of them");
        assert_eq!(refused_patterns(refused[0]), (4_960, 5_000));
        import("one", 9_000, 40).await.ok();
        let learn = owner.post("/v1/learn", &run("one more", "x", 5.0)).header("x-project-id", "two").await;
        assert_eq!(refused_patterns(&learn), (5_000, 5_000));
        let freed = owner.delete("/v1/patterns/patterns/000001").header("x-project-id", "one").await;
        assert_eq!(freed.ok()["deleted"], true);
        owner.post("/v1/learn", &run("one more", "x", 5.0)).header("x-project-id", "two").await.ok();
    }
}

#[tokio::test]
async fn one_project_of_several_leaves_room_for_the_others() {
    let share = ("ENGRAMIA_PROJECT_QUOTA_PCT", "0.01");
    for (plan, limit) in [(Plan::Pro, Some(500)), (Plan::Sandbox, None), (Plan::Enterprise, None)] {
        let setup = Setup::new().var(QUOTAS.0, QUOTAS.1).var(share.0, share.1);
        let app = subscribed(setup, &on(plan), 0, june().now()).await.start().await;
        app.owner().post("/v1/import", &records(0, 500)).await.ok();
        let answer = app.owner().post("/v1/learn", &run("one more", "x", 5.0)).await;
        match limit {
            Some(limit) => {
                assert_eq!(refused_patterns(&answer), (limit, limit));
                let detail = answer.json()["detail"].clone();
                let text = "Project pattern quota reached (500 patterns, 1% of tenant limit).";
                assert!(detail.as_str().is_some_and(|detail| detail.starts_with(text)), "{detail}");
                let other = app.owner().post("/v1/learn", &run("one more", "x", 5.0)).header("x-project-id", "other");
                other.await.ok();
            }
            None => assert_eq!(answer.status, 200, "{plan:?}"),
        }
    }
}

#[tokio::test]
async fn nothing_is_refused_where_quotas_are_not_kept() {
    let clock = june();
    let provider = Provider::saying(&[&verdict(5.0, "")]).await;
    let due = Subscription { status: Subscription::PAST_DUE.into(), ..on(Plan::Sandbox) };
    let setup = provider.of(Setup::new()).clock(clock.clone());
    let app = subscribed(setup, &due, 500, clock.now()).await.start().await;
    evaluate(&app.owner()).await.ok();
    app.owner().post("/v1/learn", &run("a", "b", 5.0)).await.ok();
    assert_eq!(background(&app.owner(), "/v1/evaluate", &evaluation()).await.status, 202);
    app.owner().post("/v1/learn", &run("a", "b", 5.0)).header("x-project-id", "second").await.ok();
}

fn assert_not_entitled(answer: &Answer, feature: &str, current: &str, required: &str) {
    let body = answer.problem(402, "ENTITLEMENT_REQUIRED");
    let expected = json!({ "feature": feature, "current_tier": current, "required_tier": required });
    assert_eq!(body["error_context"], expected);
    assert_eq!(body["error"], "entitlement_required");
    assert_eq!(body["feature"], feature);
}

#[tokio::test]
async fn background_jobs_need_the_plan_that_has_them() {
    for (plan, entitled) in [(Plan::Sandbox, false), (Plan::Pro, false), (Plan::Team, true), (Plan::Enterprise, true)] {
        let setup = Setup::new().var(ENTITLEMENTS.0, ENTITLEMENTS.1);
        let app = subscribed(setup, &on(plan), 0, june().now()).await.start().await;
        let answer = background(&app.owner(), "/v1/aging", &json!({})).await;
        match entitled {
            true => assert_eq!(answer.status, 202),
            false => assert_not_entitled(&answer, "async_jobs", plan.as_str(), "team"),
        }
        app.owner().call(Method::POST, "/v1/aging").await.ok();
    }
}

#[tokio::test]
async fn the_export_for_governance_needs_the_plan_that_has_it() {
    for (plan, entitled) in [(Plan::Pro, false), (Plan::Team, true)] {
        let setup = Setup::new().var(ENTITLEMENTS.0, ENTITLEMENTS.1);
        let app = subscribed(setup, &on(plan), 0, june().now()).await.start().await;
        let answer = app.owner().get("/v1/governance/export").await;
        match entitled {
            true => assert_eq!(answer.status, 200),
            false => assert_not_entitled(&answer, "gdpr_export", plan.as_str(), "team"),
        }
        app.owner().get("/v1/export").await.ok();
    }
}

#[tokio::test]
async fn jobs_that_wait_find_the_plan_of_the_time_they_run() {
    let setup = Setup::new().var(ENTITLEMENTS.0, ENTITLEMENTS.1).without_worker();
    let app = subscribed(setup, &on(Plan::Team), 0, june().now()).await.start().await;
    let answer = background(&app.owner(), "/v1/aging", &json!({})).await;
    let id = answer.json()["job_id"].as_str().expect("an id").to_owned();
    let setup = Setup::on(app.stop().await).var(ENTITLEMENTS.0, ENTITLEMENTS.1);
    let app = subscribed(setup, &on(Plan::Pro), 0, june().now()).await.start().await;
    let error = eventually("an end", async || {
        let job = app.owner().get(&format!("/v1/jobs/{id}")).await.ok();
        (job["status"] == "failed").then(|| job["error"].clone())
    });
    assert_eq!(error.await, "EntitlementRequired: This needs the plan 'team'. Your plan is 'pro'.");
}

#[tokio::test]
async fn tokens_of_an_issuer_need_the_plan_that_has_them() {
    let key = Key::rsa("one", Algorithm::RS256);
    let issuer = Issuer::publishing(&[&key]).await;
    for (plan, entitled) in [(Plan::Team, false), (Plan::Enterprise, true)] {
        let setup = Setup::new().issuer(&issuer.uri()).clock(issuer.clock.clone());
        let setup = setup.var(ENTITLEMENTS.0, ENTITLEMENTS.1);
        let app = subscribed(setup, &on(plan), 0, issuer.clock.now()).await.start().await;
        let person = app.holder_of(&key.sign(&issuer.claims(json!({ "org": "default" }))));
        let answer = person.post("/v1/recall", &json!({ "task": "a" })).await;
        match entitled {
            true => assert_eq!(answer.ok()["matches"], json!([])),
            false => assert_not_entitled(&answer, "sso", "team", "enterprise"),
        }
    }
}

#[tokio::test]
async fn a_plan_has_so_many_projects() {
    let setup = Setup::new().var(ENTITLEMENTS.0, ENTITLEMENTS.1);
    let app = subscribed(setup, &on(Plan::Pro), 0, june().now()).await.start().await;
    let learn = |project: &str, task: &str| {
        let call = app.owner().post("/v1/learn", &run(task, "code", 5.0)).header("x-project-id", project);
        call.into_future()
    };
    for project in ["one", "two", "three"] {
        learn(project, "a").await.ok();
    }
    let refused = learn("four", "a").await;
    let body = refused.problem(429, "QUOTA_EXCEEDED");
    assert_eq!(body["error"], "project_quota_exceeded");
    assert_eq!(body["error_context"], json!({ "metric": "projects", "current": 3, "limit": 3 }));
    learn("three", "another task").await.ok();
    let keyed = Setup::new().var(ENTITLEMENTS.0, ENTITLEMENTS.1).keyed().await.start().await;
    let key = keyed.owner().post("/v1/keys", &json!({ "name": "n", "project_id": "second" })).await;
    assert_eq!(key.problem(429, "QUOTA_EXCEEDED")["error"], "project_quota_exceeded");
    assert_eq!(keyed.owner().post("/v1/keys", &json!({ "name": "n" })).await.status, 201);
}
