//! Recurring issues: what makes two of them one, how they grow, who has to go, and how they cluster.

use std::sync::Arc;

use chrono::TimeDelta;
use engramia::domain::Feedback;
use engramia::service::failures::FailureCluster;
use engramia::service::jobs::Finish;
use futures_util::future::join_all;
use serde_json::{Value, json};

use crate::support::app::Setup;
use crate::support::fakes::{Flaky, OtherModel};
use crate::support::memory::{Memory, caller};

/// Two issues that share words and meaning, but not enough of either to be the same at once; and one between them.
const ONE: &str = "timeout timeout timeout retry retry retry missing network";
const OTHER: &str = "timeout timeout timeout cache cache cache slow network";
const BETWEEN: &str = "timeout timeout timeout retry retry cache cache never handled";

async fn texts(memory: &Memory) -> Vec<String> {
    memory.issues("p").await.into_iter().map(|issue| issue.text).collect()
}

async fn analyze(memory: &Memory, min_count: u64) -> Vec<FailureCluster> {
    memory.services.analyze_failures(&caller("p"), min_count).await.expect("analyzed")
}

#[tokio::test]
async fn the_same_issue_grows_and_keeps_the_mean_of_its_scores() {
    for memory in Memory::of_both_stores().await {
        memory.raise("p", "read a table", "  Add error handling for missing files. ", 2.0).await;
        memory.clock.pass(TimeDelta::hours(1));
        memory.raise("p", "write a table", "add ERROR handling: for missing files!", 5.0).await;
        let issues = memory.issues("p").await;
        assert_eq!(issues.len(), 1);
        assert_eq!((issues[0].text.as_str(), issues[0].count), ("Add error handling for missing files.", 2));
        assert!((issues[0].score - 0.6).abs() < 1e-3, "{}", issues[0].score);
        assert_eq!(issues[0].ratings.mean(), Some(3.5));
        let mut work = memory.services.store.read(&caller("p").scope).await.expect("a unit of work");
        let tasks = work.feedback().tasks().await.expect("read");
        assert_eq!(
            tasks.iter().map(|(_, task)| task.text.as_str()).collect::<Vec<_>>(),
            ["write a table", "read a table"]
        );
        assert!(memory.issues("q").await.is_empty(), "another project has none");
    }
}

#[tokio::test]
async fn issues_are_redacted_and_cut_and_an_empty_one_is_none() {
    let memory = Memory::embedded().await;
    memory
        .raise("p", "mail jane.doe@example.org", &format!("ask jane.doe@example.org {}", "x y ".repeat(5_000)), 2.0)
        .await;
    memory.raise("p", "a task", "  \n ", 2.0).await;
    let issues = memory.issues("p").await;
    assert_eq!(issues.len(), 1);
    assert!(!issues[0].text.contains("jane"), "{}", &issues[0].text[..60]);
    assert!((4_990..=5_000).contains(&issues[0].text.chars().count()));
    let mut work = memory.services.store.read(&caller("p").scope).await.expect("a unit of work");
    let tasks = work.feedback().tasks().await.expect("read");
    assert!(!tasks[0].1.text.contains("jane"), "{}", tasks[0].1.text);
}

#[tokio::test]
async fn issues_that_mean_about_the_same_are_one_only_if_they_share_words() {
    let memory = Memory::embedded().await;
    memory.raise("p", "t", "timeout timeout timeout one two", 2.0).await;
    memory.raise("p", "t", "timeout timeout timeout three four", 2.0).await;
    assert_eq!(texts(&memory).await.len(), 1);
    let memory = Memory::embedded().await;
    memory.raise("p", "t", "timeout timeout timeout timeout aa bb cc dd", 2.0).await;
    memory.raise("p", "t", "timeout timeout timeout timeout ee ff gg hh", 2.0).await;
    assert_eq!(texts(&memory).await.len(), 2);
}

#[tokio::test]
async fn issues_that_grow_together_become_one() {
    for memory in Memory::of_both_stores().await {
        memory.raise("p", "first task", ONE, 2.0).await;
        memory.raise("p", "second task", OTHER, 4.0).await;
        assert_eq!(texts(&memory).await, [OTHER, ONE], "apart at first");
        for _ in 0..3 {
            memory.raise("p", "third task", BETWEEN, 6.0).await;
        }
        let issues = memory.issues("p").await;
        assert_eq!(issues.iter().map(|issue| issue.count).sum::<u32>(), 5, "nothing is lost: {issues:?}");
        assert_eq!(issues.len(), 1, "{issues:?}");
        assert_eq!(issues[0].ratings.mean(), Some(4.8));
        let mut work = memory.services.store.read(&caller("p").scope).await.expect("a unit of work");
        assert_eq!(work.feedback().tasks().await.expect("read").len(), 3, "their tasks are together");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn many_at_once_are_all_counted() {
    for memory in Memory::of_both_stores().await {
        let memory = Arc::new(memory);
        let raising = (0..50).map(|n| {
            let memory = Arc::clone(&memory);
            tokio::spawn(async move { memory.raise("p", &format!("task {n}"), "No timeout is set.", 4.0).await })
        });
        join_all(raising).await.into_iter().for_each(|outcome| outcome.expect("no panic"));
        let issues = memory.issues("p").await;
        assert_eq!(issues.iter().map(|issue| (issue.count, issue.ratings.count)).collect::<Vec<_>>(), [(50, 50)]);
        let mut work = memory.services.store.read(&caller("p").scope).await.expect("a unit of work");
        assert_eq!(work.feedback().tasks().await.expect("read").len(), Feedback::TASKS);
    }
}

#[tokio::test]
async fn the_weakest_issue_makes_room_and_never_the_newcomer() {
    for memory in Memory::of_both_stores().await {
        // Many words: a few could fall on the places of another issue's words, and mean the same.
        let issue = |n: usize| (0..9).map(|word| format!("w{n:02}x{word}")).collect::<Vec<_>>().join(" ");
        for n in 0..50 {
            memory.raise("p", "t", &issue(n), 2.0).await;
            memory.clock.pass(TimeDelta::seconds(1));
        }
        assert_eq!(texts(&memory).await.len(), 50);
        memory.raise("p", "t", &issue(0), 2.0).await;
        memory.raise("p", "t", "something quite new", 2.0).await;
        memory.raise("p", "t", "and something newer", 2.0).await;
        let left = texts(&memory).await;
        assert_eq!(left.len(), 50);
        for kept in [issue(0).as_str(), "something quite new", "and something newer"] {
            assert!(left.iter().any(|text| text == kept), "{kept}");
        }
        for gone in [issue(1), issue(2)] {
            assert!(!left.contains(&gone), "{gone}");
        }
    }
}

#[tokio::test]
async fn a_forgotten_issue_starts_anew() {
    let memory = Memory::embedded().await;
    for _ in 0..3 {
        memory.raise("p", "t", "No timeout is set.", 4.0).await;
    }
    memory.clock.pass(TimeDelta::weeks(20));
    memory.raise("p", "t", "No timeout is set.", 6.0).await;
    let issues = memory.issues("p").await;
    assert_eq!((issues[0].count, issues[0].score, issues[0].ratings.mean()), (1, 0.5, Some(6.0)));
}

#[tokio::test]
async fn decay_is_the_same_however_often_it_runs() {
    let mut outcomes = Vec::new();
    for runs in [1, 10, 300] {
        let memory = Memory::embedded().await;
        memory.raise("p", "t", "No timeout is set.", 4.0).await;
        for _ in 0..runs {
            memory.clock.pass(TimeDelta::weeks(5) / runs);
            assert_eq!(memory.services.decay_feedback(&caller("p"), &Finish::at_once()).await.expect("decayed"), 0);
        }
        memory.raise("p", "t", "No timeout is set.", 4.0).await;
        outcomes.push(memory.issues("p").await[0].score);
    }
    let expected = 0.5 * 0.9f64.powi(5) + 0.1;
    assert!(outcomes.iter().all(|score| (score - expected).abs() < 1e-6), "{outcomes:?} against {expected}");
}

#[tokio::test]
async fn clusters_hold_what_belongs_together() {
    for memory in Memory::of_both_stores().await {
        memory.raise("p", "t", ONE, 2.0).await;
        for _ in 0..2 {
            memory.raise("p", "t", "timeout timeout timeout retry retry retry given up", 3.0).await;
        }
        for _ in 0..2 {
            memory.raise("p", "t", "names of variables are unclear", 7.0).await;
        }
        memory.raise("p", "t", "secrets stand in code", 1.0).await;
        let clusters = analyze(&memory, 1).await;
        let counts: Vec<u64> = clusters.iter().map(|cluster| cluster.total_count).collect();
        assert_eq!(counts, [3, 2, 1], "{clusters:?}");
        assert!(clusters[0].members.contains(&clusters[0].representative));
        assert_eq!(clusters[0].avg_score, 2.6667, "(2 + 3 + 3) / 3");
        assert_eq!(clusters[1].members, ["names of variables are unclear"]);
        assert_eq!(clusters[1].avg_score, 7.0);
        assert_eq!(analyze(&memory, 2).await.iter().map(|cluster| cluster.total_count).min(), Some(2));
        assert_eq!(analyze(&memory, 1_000_000).await, []);
        assert_eq!(analyze(&memory, 1).await, clusters, "always the same");
    }
}

#[tokio::test]
async fn vectors_of_another_space_are_never_compared_but_made_anew() {
    for memory in Memory::of_both_stores().await {
        memory.raise("p", "a task", "timeout timeout timeout timeout aa bb cc dd", 2.0).await;
        let other = memory.beside(Some(Arc::new(OtherModel)));
        // Nearly the same meaning, were the spaces compared.
        other.raise("p", "a task", "timeout timeout timeout timeout timeout timeout ee ff gg hh", 2.0).await;
        assert_eq!(texts(&memory).await.len(), 2);
        let words_only = memory.beside(None);
        assert_eq!(analyze(&words_only, 1).await.len(), 2, "spaces are apart");
        assert_eq!(analyze(&other, 1).await.len(), 1, "all are in the new space now");
        let mut work = memory.services.store.read(&caller("p").scope).await.expect("a unit of work");
        let vectors = work.feedback().vectors().await.expect("read");
        assert!(vectors.len() == 2 && vectors.iter().all(|(_, vector)| vector.space.as_str() == "fake/other"));
        let tasks = work.feedback().tasks().await.expect("read");
        let space =
            |task: &engramia::store::memory::IssueTask| task.vector.as_ref().map(|v| v.space.as_str().to_owned());
        assert!(tasks.len() == 2 && tasks.iter().all(|(_, task)| space(task).as_deref() == Some("fake/other")));
    }
}

#[tokio::test]
async fn without_an_embedder_words_decide() {
    let memory = Memory::embedded().await;
    let failing = memory.beside(Some(Arc::new(Flaky::failing(1_000))));
    for plain in [memory.beside(None), failing] {
        plain.raise("p", "t", "No timeout is set.", 2.0).await;
        plain.raise("p", "t", "No timeout was set!", 2.0).await;
        let clusters = analyze(&plain, 1).await;
        assert_eq!(clusters.iter().map(|cluster| cluster.members.len()).collect::<Vec<_>>(), [1]);
    }
    assert_eq!(memory.issues("p").await[0].count, 4);
}

#[tokio::test]
async fn failures_are_analyzed_over_http() {
    let app = Setup::new().start().await;
    let analyze = async |body: Value| app.owner().post("/v1/analyze-failures", &body).await;
    assert_eq!(analyze(json!({})).await.ok(), json!({ "clusters": [] }));
    for bad in [json!(0), json!(-1), json!("x"), json!(1.5), json!(null)] {
        analyze(json!({ "min_count": bad })).await.problem(422, "VALIDATION_ERROR");
    }
    app.owner().send("/v1/analyze-failures", "").await.problem(422, "VALIDATION_ERROR");
    let setup = Setup::new().prepare(async |store| {
        let at = engramia::domain::Timestamp::UNIX_EPOCH;
        let mut work = store.begin(&engramia::domain::Scope::default()).await.expect("a unit of work");
        work.feedback().put(&Feedback::new("No tests".into(), 2.25, at), None).await.expect("stored");
        let old = Feedback { ratings: engramia::domain::Ratings::default(), ..Feedback::new("Slow".into(), 0.0, at) };
        work.feedback().put(&old, None).await.expect("stored");
        work.commit().await.expect("committed");
    });
    let app = setup.await.start().await;
    let clusters = app.owner().post("/v1/analyze-failures", &json!({})).await.ok();
    let cluster = |text: &str, score: f64| json!({ "representative": text, "members": [text], "total_count": 1, "avg_score": score });
    let expected = [cluster("No tests", 2.25), cluster("Slow", 5.0)];
    assert_eq!(clusters, json!({ "clusters": expected }), "the middle of the scale where nothing is known");
}
