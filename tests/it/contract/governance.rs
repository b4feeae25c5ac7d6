//! How long projects are kept and what is too old in them, classifications, requests of data subjects, rounds.

use chrono::TimeDelta;
use engramia::domain::analytics::Event;
use engramia::domain::retention::{RetentionDays, RetentionLevel};
use engramia::domain::subject::{RequestStatus, RequestType, SubjectRequest};
use engramia::domain::{Classification, Feedback, Pattern, Ratings, Scope, Timestamp};
use engramia::store::memory::{Filter, IssueTask};
use engramia::store::{OpenRequests, RequestQuery, Sweep};

use super::{Db, angle, at, east, home, key, pattern, query};

async fn days_of(db: &Db, scope: &Scope) -> (Option<u32>, Option<u32>) {
    let mut work = db.store().read(scope).await.expect("a unit of work");
    let RetentionDays { project, tenant } = work.retention().days().await.expect("read");
    (project, tenant)
}

async fn set_days(db: &Db, scope: &Scope, level: RetentionLevel, days: Option<u32>) {
    let mut work = db.store().begin(scope).await.expect("a unit of work");
    work.retention().set_days(level, days).await.expect("set");
    work.commit().await.expect("committed");
}

pub(super) async fn retention_belongs_to_the_project_or_its_tenant(mut db: Db) {
    let (sister, other) = (Scope::verified("acme", "app"), Scope::verified("other", "web"));
    set_days(&db, &home(), RetentionLevel::Project, Some(5)).await;
    assert_eq!(days_of(&db, &home()).await, (None, None), "what is not registered is skipped");
    for scope in [home(), sister.clone(), other.clone()] {
        let mut work = db.store().begin(&scope).await.expect("a unit of work");
        work.projects().register("a name", None, at(0)).await.expect("registered");
        work.commit().await.expect("committed");
    }
    set_days(&db, &home(), RetentionLevel::Project, Some(90)).await;
    set_days(&db, &home(), RetentionLevel::Tenant, Some(36_500)).await;
    db.reopen().await;
    assert_eq!(days_of(&db, &home()).await, (Some(90), Some(36_500)));
    assert_eq!(days_of(&db, &sister).await, (None, Some(36_500)));
    assert_eq!(days_of(&db, &other).await, (None, None));
    set_days(&db, &home(), RetentionLevel::Project, None).await;
    assert_eq!(days_of(&db, &home()).await, (None, Some(36_500)));
}

pub(super) async fn what_is_older_is_found_oldest_first(db: Db) {
    let made = |tail: &str, seconds: i64| {
        let mut pattern = pattern(tail, &format!("task of {tail}"));
        pattern.created_at = at(seconds);
        pattern
    };
    for (tail, seconds) in [("c", 30), ("a", 10), ("d", 40), ("b", 20)] {
        db.insert(&made(tail, seconds), None).await;
    }
    db.insert_in(&Scope::verified("acme", "other"), &made("x", 0), None).await;
    let mut work = db.read().await;
    let count = work.retention().count_before(at(30)).await.expect("counted");
    let keys = work.retention().oldest_before(at(30), 9).await.expect("read");
    assert_eq!((count, keys), (2, vec![key("a"), key("b")]), "strictly before");
    assert_eq!(work.retention().oldest_before(at(99), 3).await.expect("read"), [key("a"), key("b"), key("c")]);
    assert!(!work.retention().has_any_before(at(10)).await.expect("read"));
    assert!(work.retention().has_any_before(at(11)).await.expect("read"));
}

fn issue(text: &str, seconds: i64) -> Feedback {
    let at = at(seconds);
    Feedback { text: text.into(), count: 1, score: 1.0, ratings: Ratings::default(), last_seen: at, decayed_at: at }
}

pub(super) async fn old_issues_tasks_and_events_are_forgotten(db: Db) {
    let mut work = db.begin().await;
    let task = |text: &str, seconds| IssueTask { text: text.into(), vector: None, seen_at: at(seconds) };
    for (text, seconds) in [("old", 1), ("new", 50)] {
        work.feedback().put(&issue(text, seconds), None).await.expect("stored");
        work.feedback().note_tasks(text, &[task("an old task", 1), task("a new task", 40)]).await.expect("noted");
    }
    let events: Vec<Event> = (0..5).map(|n| Event::learned(n.to_string(), at(n * 10), 5.0, key("x"))).collect();
    work.analytics().append(&events).await.expect("appended");
    work.commit().await.expect("committed");
    assert!(db.read().await.retention().has_any_before(at(1)).await.expect("read"), "an event");
    let mut work = db.begin().await;
    let forgotten = work.retention().forget_events(at(30), 2).await.expect("forgotten");
    let more = work.retention().forget_events(at(30), 2).await.expect("forgotten");
    let issues = work.retention().forget_issues(at(30)).await.expect("forgotten");
    assert_eq!((forgotten, more, issues), (2, 1, 3), "two old tasks and an old issue");
    work.commit().await.expect("committed");
    let mut work = db.read().await;
    assert!(!work.retention().has_any_before(at(30)).await.expect("read"));
    assert!(work.retention().has_any_before(at(31)).await.expect("read"));
    let left: Vec<String> =
        work.feedback().tasks().await.expect("read").into_iter().map(|(_, task)| task.text).collect();
    assert_eq!((work.feedback().all().await.expect("read").len(), left), (1, vec!["a new task".to_owned()]));
    assert_eq!(work.analytics().total(None).await.expect("read"), 2);
}

pub(super) async fn a_classification_changes_alone(mut db: Db) {
    let mut whole = pattern("a", "read a table");
    (whole.run_id, whole.author, whole.redacted) = (Some("run".into()), Some("key".into()), true);
    let id = db.insert(&whole, Some(&east())).await;
    let other = db.insert(&pattern("b", "write a table"), Some(&angle(10.0))).await;
    let filtered = async |db: &Db, word| {
        let filter = Filter { classification: Some(word), ..Filter::default() };
        let query = engramia::store::memory::NearestQuery { filter, ..query(&east(), 9) };
        let found = db.read().await.patterns().nearest(&query).await.expect("searched");
        found.into_iter().map(|row| row.id).collect::<Vec<_>>()
    };
    assert_eq!(filtered(&db, Classification::Internal).await, [id, other], "and the index is loaded");
    let mut work = db.begin().await;
    let before = work.patterns().classify(&key("a"), Classification::Confidential).await.expect("changed");
    let unknown = work.patterns().classify(&key("z"), Classification::Public).await.expect("no failure");
    assert_eq!((before, unknown), (Some(Classification::Internal), None));
    work.commit().await.expect("committed");
    for _ in 0..2 {
        assert_eq!(filtered(&db, Classification::Internal).await, [other]);
        assert_eq!(filtered(&db, Classification::Confidential).await, [id]);
        db.reopen().await;
    }
    whole.classification = Classification::Confidential;
    assert_eq!(db.find("a").await, Some(Pattern { id, body: whole }));
    let foreign = Scope::verified("other", "web");
    let mut work = db.store().begin(&foreign).await.expect("a unit of work");
    assert_eq!(work.patterns().classify(&key("a"), Classification::Public).await.expect("no failure"), None);
}

pub(super) async fn exported_pages_are_bounded_and_filtered(db: Db) {
    for (number, word) in [Classification::Public, Classification::Internal, Classification::Confidential]
        .into_iter()
        .cycle()
        .take(9)
        .enumerate()
    {
        let mut pattern = pattern(&format!("{number}"), &format!("task {number}"));
        (pattern.classification, pattern.code) = (word, Some("x".repeat(1_000)));
        db.insert(&pattern, None).await;
    }
    let mut work = db.read().await;
    let mut page = async |after: Option<&str>, among: &[Classification], rows, bytes| {
        let after = after.map(key);
        let page = work.patterns().export_page(after.as_ref(), among, rows, bytes).await.expect("read");
        page.into_iter().map(|row| row.body.key.to_string().replace("patterns/", "")).collect::<String>()
    };
    let all = [Classification::Public, Classification::Internal, Classification::Confidential];
    assert_eq!(page(None, &all, 100, usize::MAX).await, "012345678");
    assert_eq!(page(Some("4"), &all, 2, usize::MAX).await, "56");
    assert_eq!(page(None, &[Classification::Public], 100, usize::MAX).await, "036");
    assert_eq!(page(Some("0"), &[Classification::Public, Classification::Confidential], 3, usize::MAX).await, "235");
    assert_eq!(page(None, &all, 100, 2_500).await, "012", "it ends with the one that makes it too long");
    assert_eq!(page(Some("2"), &all, 100, 1).await, "3", "but goes on");
    assert_eq!(page(None, &[], 100, usize::MAX).await, "");
    assert_eq!(page(Some("8"), &all, 100, usize::MAX).await, "");
}

fn request(number: u8, status: RequestStatus, due: i64) -> SubjectRequest {
    SubjectRequest {
        id: format!("0be2046e-0000-7000-8000-0000000000{number:02}"),
        request_type: RequestType::Portability,
        subject_email: "jana \u{E000}@y.z".into(),
        status,
        created_at: at(i64::from(number)),
        due_at: at(due),
        updated_at: at(99),
        completed_at: (!status.is_open()).then(|| at(98)),
        handler_notes: "a\nb".into(),
    }
}

pub(super) async fn requests_belong_to_the_tenant(mut db: Db) {
    use RequestStatus::{Completed, InProgress, Pending};
    let stored =
        [request(1, Pending, 10), request(2, InProgress, 20), request(3, Completed, 5), request(4, Pending, 40)];
    let tenant = Scope::of_tenant("acme");
    let mut work = db.store().begin(&tenant).await.expect("a unit of work");
    for request in &stored {
        work.subjects().put(request).await.expect("stored");
    }
    work.commit().await.expect("committed");
    db.reopen().await;
    // Whatever the project.
    let mut work = db.read().await;
    let mut list = async |status, due_before: Option<i64>, limit| {
        let query = RequestQuery { status, due_before: due_before.map(at), limit };
        let found = work.subjects().list(&query).await.expect("read");
        found.iter().map(|request| request.id[34..].to_owned()).collect::<Vec<_>>().join(" ")
    };
    assert_eq!(list(None, None, 9).await, "04 03 02 01");
    assert_eq!(list(None, None, 2).await, "04 03");
    assert_eq!(list(Some(Pending), None, 9).await, "04 01");
    assert_eq!(list(None, Some(21), 9).await, "02 01");
    assert_eq!(list(Some(Completed), Some(99), 9).await, "");
    assert_eq!(work.subjects().get(&stored[2].id).await.expect("read").as_ref(), Some(&stored[2]));
    let open = work.subjects().open(at(20)).await.expect("counted");
    assert_eq!(open, OpenRequests { pending: 2, in_progress: 1, overdue: 1 });
    assert_eq!(work.subjects().page(&stored[1].id, 9).await.expect("read"), stored[2..]);
    drop(work);
    let mut work = db.store().read(&Scope::of_tenant("other")).await.expect("a unit of work");
    assert_eq!(work.subjects().get(&stored[0].id).await.expect("read"), None);
    assert_eq!(work.subjects().open(at(99)).await.expect("counted"), OpenRequests::default());
    assert_eq!(work.subjects().list(&RequestQuery { limit: 9, ..RequestQuery::default() }).await.expect("read"), []);
    drop(work);
    let mut changed = stored[0].clone();
    changed.handle(Completed, "done", at(50));
    let mut work = db.store().begin(&tenant).await.expect("a unit of work");
    work.subjects().put(&changed).await.expect("stored");
    assert_eq!(work.subjects().get(&changed.id).await.expect("read"), Some(changed));
    let scopes = db.store().scopes(None, 99).await.expect("listed");
    assert!(scopes.contains(&tenant), "{scopes:?}");
}

pub(super) async fn each_scope_of_a_round_goes_to_one(db: Db) {
    const ROUND: Sweep = Sweep { name: "a round", every: TimeDelta::seconds(100), limit: 2 };
    for number in 0..5 {
        db.insert_in(&Scope::verified("acme", &format!("p{number}")), &pattern("a", "a task"), None).await;
    }
    let take = async |now: Timestamp| {
        let scopes = db.store().sweep(&ROUND, now).await.expect("taken");
        scopes.into_iter().map(|scope| scope.project().to_owned()).collect::<Vec<_>>()
    };
    let none: [&str; 0] = [];
    assert_eq!((take(at(0)).await, take(at(99)).await), (vec![], vec![]), "the first one comes later");
    assert_eq!(take(at(100)).await, ["p0", "p1"]);
    // Whoever took them may be gone; the others go on.
    assert_eq!(take(at(150)).await, ["p2", "p3"]);
    let asking = (0..8).map(|_| take(at(160)));
    let mut taken: Vec<String> = futures_util::future::join_all(asking).await.into_iter().flatten().collect();
    taken.sort();
    assert_eq!(taken, ["p4"]);
    assert_eq!(take(at(170)).await, none);
    assert_eq!(take(at(199)).await, none, "over");
    assert_eq!(take(at(200)).await, ["p0", "p1"], "as often as it began");
    let other = Sweep { name: "another", ..ROUND };
    assert_eq!(db.store().sweep(&other, at(200)).await.expect("taken"), []);
}
