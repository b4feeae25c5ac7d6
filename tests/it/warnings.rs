//! Warnings of a recall: when they come, in which order, and how soon.

use std::sync::Arc;

use chrono::TimeDelta;
use engramia::domain::{Feedback, Scope, Timestamp};
use engramia::ports::{Embedder, Priority};
use engramia::service::jobs::Finish;
use engramia::service::recall::Recall;
use engramia::service::warnings::Warning;
use engramia::store::memory::IssueTask;
use serde_json::json;

use crate::support::app::Setup;
use crate::support::eventually;
use crate::support::fakes::{BagOfWords, OtherModel};
use crate::support::memory::{Memory, caller};

const TASK: &str = "read a large csv table";

async fn recall(memory: &Memory, project: &str, task: &str) -> Vec<Warning> {
    memory.services.recall(&caller(project), Recall::unseen(task.into(), 5)).await.expect("recalled").warnings
}

async fn issues_of(memory: &Memory, task: &str) -> Vec<String> {
    recall(memory, "p", task).await.into_iter().map(|warning| warning.issue).collect()
}

async fn raise(memory: &Memory, times: usize, text: &str, score: f64) {
    for _ in 0..times {
        memory.raise("p", TASK, text, score).await;
    }
}

#[tokio::test]
async fn recurring_issues_of_similar_tasks_come_back_most_severe_first() {
    for memory in Memory::of_both_stores().await {
        assert_eq!(recall(&memory, "p", TASK).await, []);
        raise(&memory, 2, "names are unclear", 8.0).await;
        raise(&memory, 2, "quotes break columns", 1.0).await;
        raise(&memory, 3, "memory grows without bounds", 4.0).await;
        raise(&memory, 2, "docs missing entirely", 7.0).await;
        raise(&memory, 1, "seen but once", 0.0).await;
        let found = recall(&memory, "p", "read a large csv file").await;
        let issues: Vec<&str> = found.iter().map(|warning| warning.issue.as_str()).collect();
        assert_eq!(
            issues,
            ["memory grows without bounds", "quotes break columns", "docs missing entirely"],
            "at most 3"
        );
        assert_eq!((found[0].count, found[0].avg_score), (3, Some(4.0)));
        assert!((0.75..0.95).contains(&found[0].similarity), "four of five words: {}", found[0].similarity);
        assert_eq!(issues_of(&memory, "paint seven fences").await, [""; 0], "another task");
        assert_eq!(recall(&memory, "q", TASK).await, [], "another project");
    }
}

#[tokio::test]
async fn what_fades_away_warns_no_more() {
    let memory = Memory::embedded().await;
    raise(&memory, 2, "quotes break columns", 1.0).await;
    assert_eq!(issues_of(&memory, TASK).await.len(), 1);
    memory.clock.pass(TimeDelta::weeks(20));
    assert_eq!(memory.services.decay_feedback(&caller("p"), &Finish::at_once()).await.expect("decayed"), 1);
    assert_eq!(issues_of(&memory, TASK).await, [""; 0], "at once");
}

#[tokio::test]
async fn another_servers_issues_are_noticed_after_a_while_without_delaying_a_recall() {
    for memory in Memory::of_both_stores().await {
        let here = memory.beside(Some(Arc::new(BagOfWords)));
        let watcher = Arc::clone(&here.services);
        let watching = tokio::spawn(async move { watcher.watch_issues().await });
        assert_eq!(issues_of(&here, TASK).await, [""; 0]);
        raise(&memory, 2, "quotes break columns", 1.0).await;
        assert_eq!(issues_of(&here, TASK).await, [""; 0], "what is in memory is young enough");
        here.clock.pass(TimeDelta::seconds(11));
        eventually("the table is renewed", async || {
            (issues_of(&here, TASK).await == ["quotes break columns"]).then_some(())
        })
        .await;
        watching.abort();
    }
}

#[tokio::test]
async fn tasks_of_another_space_warn_once_they_are_embedded_anew() {
    let memory = Memory::embedded().await;
    raise(&memory, 2, "quotes break columns", 1.0).await;
    let other = memory.beside(Some(Arc::new(OtherModel)));
    let watcher = Arc::clone(&other.services);
    let watching = tokio::spawn(async move { watcher.watch_issues().await });
    eventually("the tasks have vectors of the new space", async || {
        (issues_of(&other, TASK).await == ["quotes break columns"]).then_some(())
    })
    .await;
    watching.abort();
}

#[tokio::test]
async fn warnings_stand_beside_the_matches_and_nowhere_else() {
    let vector = BagOfWords.embed(&[TASK], Priority::Interactive).await.expect("embedded").pop();
    let setup = Setup::new().prepare(async |store| {
        let mut work = store.begin(&Scope::default()).await.expect("a unit of work");
        let mut issue = Feedback::new("quotes break columns".into(), 2.0, Timestamp::UNIX_EPOCH);
        (issue.decayed_at, issue.count) = (Timestamp::MAX_UTC - TimeDelta::weeks(52 * 200_000), 4);
        work.feedback().put(&issue, None).await.expect("stored");
        let task = IssueTask { text: TASK.into(), vector, seen_at: Timestamp::UNIX_EPOCH };
        work.feedback().note_tasks(&issue.text, &[task]).await.expect("noted");
        work.commit().await.expect("committed");
    });
    let app = setup.await.start().await;
    let ask = async |body| app.owner().post("/v1/recall", &body).await.ok();
    let expected = json!([{ "issue": "quotes break columns", "count": 4, "avg_score": 2.0, "similarity": 1.0 }]);
    for readonly in [false, true] {
        let answer = ask(json!({ "task": TASK, "readonly": readonly })).await;
        assert_eq!(answer["warnings"], expected);
        assert_eq!(answer["matches"], json!([]));
    }
    let other = ask(json!({ "task": "paint seven fences" })).await;
    assert_eq!(other.get("warnings"), None, "absent where there are none");
    let skills = app.owner().post("/v1/skills/search", &json!({ "required": ["csv"] })).await.ok();
    assert_eq!(skills.get("warnings"), None);
}
