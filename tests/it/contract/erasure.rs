//! The erasure of projects and tenants: what is closed at once, what goes, what stays, and what happens in between.

use std::sync::Arc;

use engramia::domain::analytics::{Event, EventKind, Rollup, Window};
use engramia::domain::audit::{AuditAction, AuditEvent, ChainHead};
use engramia::domain::erasure::{ErasureOrder, ErasureTally};
use engramia::domain::job::{NewJob, Submitter, Verdict};
use engramia::domain::spend::{Budget, ModelRole, Nanos};
use engramia::domain::{EvidenceKind, Feedback, JobOperation, JobState, Ratings, Role, Scope, Skill, Subscription};
use engramia::service::copy::{Content, Contents, survey};
use engramia::store::copy::CarriedRow;
use engramia::store::memory::{Evaluation, IssueTask};
use engramia::store::spend::Booking;
use engramia::store::{ApiKey, Claim, Registration, Store, StoreError, Work};
use serde_json::Map;

use super::{Db, angle, at, east, home, pattern};

fn project(name: &str) -> Scope {
    Scope::verified("acme", name)
}

fn order(reopens: bool) -> ErasureOrder {
    ErasureOrder { requested_by: Some("somebody".into()), recorded_in: "web".into(), reopens, at: at(100) }
}

fn key(id: &str, scope: &Scope) -> ApiKey {
    let mut hash = [0; 32];
    hash[..id.len().min(32)].copy_from_slice(&id.as_bytes()[..id.len().min(32)]);
    ApiKey {
        id: id.to_owned(),
        scope: scope.clone(),
        name: "name of a person".into(),
        prefix: "x...".into(),
        hash,
        role: Role::Owner,
        max_patterns: None,
        created_at: at(0),
        last_used_at: Some(at(1)),
        revoked_at: None,
        expires_at: None,
    }
}

fn job(id: &str) -> NewJob {
    NewJob {
        id: id.to_owned(),
        operation: JobOperation::Aging,
        params: "{}".into(),
        submitter: Submitter { key_id: None, role: Role::Owner, max_patterns: None, address: None, request_id: None },
        created_at: at(1),
        expires_at: at(9_000),
        max_execution: std::time::Duration::from_secs(60),
    }
}

fn event(action: AuditAction) -> AuditEvent {
    AuditEvent {
        at: at(3),
        action,
        actor: Some("actor".into()),
        resource_type: None,
        resource_id: None,
        ip: Some("192.0.2.7".into()),
        detail: Map::from_iter([("name".to_owned(), "a person".into())]),
        nonce: [7; 16],
    }
}

/// Something in every table. Keys and jobs are named after the scope.
async fn furnish(store: &dyn Store, scope: &Scope) {
    let name = format!("{}-{}", scope.tenant(), scope.project());
    let mut work = store.begin(scope).await.expect("a unit of work");
    work.projects().register("a name", None, at(0)).await.expect("registered");
    work.keys().insert(&key(&name, scope)).await.expect("stored");
    for (tail, degrees) in [("a", 0.0), ("b", 30.0), ("c", 60.0)] {
        let id = work.patterns().insert(&pattern(tail, &format!("task {tail}")), Some(&angle(degrees))).await;
        let id = id.expect("inserted").expect("a free key");
        let evaluation = Evaluation {
            id: format!("{name}-{tail}"),
            kind: EvidenceKind::Reported,
            score: 5.0,
            weight: 1.0,
            run_id: None,
            note: None,
            at: at(2),
        };
        work.patterns().record_evaluation(id, &evaluation).await.expect("recorded");
        work.skills().set(id, &Skill::normalized("tables").into_iter().collect::<Vec<_>>(), at(2)).await.expect("set");
        work.patterns().count_reuse(&[(id, 2)]).await.expect("counted");
    }
    work.statistics().count_runs(3, 3, &[5.0]).await.expect("counted");
    let issue = Feedback {
        text: "issue".into(),
        count: 2,
        score: 1.0,
        ratings: Ratings::default(),
        last_seen: at(2),
        decayed_at: at(2),
    };
    work.feedback().put(&issue, None).await.expect("written");
    let task = IssueTask { text: "task".into(), vector: None, seen_at: at(2) };
    work.feedback().note_tasks("issue", &[task]).await.expect("written");
    let learned = Event {
        id: name.clone(),
        at: at(2),
        kind: EventKind::Learn,
        eval_score: Some(5.0),
        similarity: None,
        tier: None,
        pattern_key: None,
    };
    work.analytics().append(&[learned]).await.expect("written");
    work.analytics().put_rollup(&Rollup::of(Window::Daily, &[], at(2))).await.expect("written");
    work.jobs().enqueue(&job(&name)).await.expect("queued");
    work.audit().append(&event(AuditAction::KeyCreated)).await.expect("appended");
    work.commit().await.expect("committed");
}

async fn furnish_tenant(store: &dyn Store, tenant: &str) {
    let mut work = store.begin(&Scope::of_tenant(tenant)).await.expect("a unit of work");
    let row = CarriedRow { source: "plans".into(), id: "1".into(), data: "{}".into() };
    work.copying().put_carried(&[row]).await.expect("written");
    let booking = Booking { day: at(0).date_naive(), role: ModelRole::Eval, amount: Nanos(1) };
    let budget = Budget { total: Nanos(10), eval: None, architect: None };
    assert_eq!(work.spend().reserve(&booking, &budget).await.expect("written"), None);
    work.commit().await.expect("committed");
}

async fn close(store: &dyn Store, scope: &Scope, reopens: bool) -> bool {
    let mut work = store.erase(scope).await.expect("a unit of work");
    let is_there = work.erasure().close(&order(reopens)).await.expect("no failure");
    if is_there {
        work.commit().await.expect("committed");
    }
    is_there
}

/// One step after another to the end.
async fn empty(store: &dyn Store, scope: &Scope, step: u32) -> Option<ErasureTally> {
    while sweep(store, scope, step).await {}
    store.erasures().wipe(scope).await.expect("wiped");
    let mut work = store.erase(scope).await.expect("a unit of work");
    let tally = work.erasure().finish(at(200)).await.expect("no failure")?;
    work.commit().await.expect("committed");
    Some(tally)
}

async fn sweep(store: &dyn Store, scope: &Scope, step: u32) -> bool {
    let mut work = store.erase(scope).await.expect("a unit of work");
    let more = work.erasure().sweep(step, at(150)).await.expect("no failure");
    work.commit().await.expect("committed");
    more
}

async fn refusal(store: &dyn Store, scope: &Scope) -> Option<StoreError> {
    store.begin(scope).await.err()
}

async fn contents(db: &Db) -> Contents {
    survey(db.store().as_ref(), &|_| ()).await.expect("read")
}

/// What the store holds of other scopes than those of `gone`.
fn others(contents: &Contents, gone: &Scope) -> Vec<Content> {
    contents.scopes.iter().filter(|content| !gone.covers(&content.scope)).cloned().collect()
}

async fn chain_is_whole(store: &dyn Store, tenant: &str) -> Vec<Option<String>> {
    let mut work = store.read(&Scope::verified(tenant, "any")).await.expect("a unit of work");
    let mut head = ChainHead::default();
    let entries = work.audit().chain(0, 1_000).await.expect("read");
    for entry in &entries {
        head = entry.verify(&head, tenant).expect("as it was written");
    }
    assert_eq!(work.audit().head().await.expect("read"), head);
    entries.into_iter().map(|entry| entry.ip.or(entry.detail)).collect()
}

pub(super) async fn a_project_goes_with_everything_and_nothing_else(mut db: Db) {
    let store = Arc::clone(db.store());
    let scopes =
        [home(), project("a.b"), project("a_b"), Scope::verified("other", "web"), Scope::verified("ac", "meweb")];
    for scope in &scopes {
        furnish(store.as_ref(), scope).await;
    }
    furnish_tenant(store.as_ref(), "acme").await;
    let before = contents(&db).await;
    // Searched before, so that it is in memory.
    assert_eq!(db.nearest(&east(), 9).await.len(), 3);

    assert!(close(store.as_ref(), &project("a.b"), false).await);
    let tally = empty(store.as_ref(), &project("a.b"), 2).await.expect("nobody else did it");
    assert_eq!((tally.keys_revoked, tally.projects, tally.order.clone()), (1, 1, order(false)));
    let tables: Vec<_> = tally.rows.removed.iter().map(|(table, rows)| (table.as_str(), *rows)).collect();
    for (table, rows) in [
        ("patterns", 3),
        ("vectors", 3),
        ("evaluations", 3),
        ("skills", 3),
        ("reuse", 3),
        ("feedback", 1),
        ("feedback_tasks", 1),
        ("analytics_events", 1),
        ("analytics_rollups", 1),
        ("jobs", 1),
    ] {
        assert!(tables.contains(&(table, rows)), "{table}: {tables:?}");
    }
    assert_eq!((tally.rows.scrubbed["api_keys"], tally.rows.scrubbed["audit_log"]), (1, 1));
    assert_eq!(empty(store.as_ref(), &project("a.b"), 2).await, None, "it is over");

    let gone = project("a.b");
    let after = contents(&db).await;
    assert_eq!(others(&after, &gone), others(&before, &gone));
    assert_eq!(after.chains.iter().map(|chain| chain.entries).sum::<u64>(), scopes.len() as u64, "entries stay");
    assert!(after.scopes.iter().all(|content| content.scope != gone || content.patterns == 0));
    let private: Vec<_> = chain_is_whole(store.as_ref(), "acme").await;
    assert_eq!(private.iter().filter(|entry| entry.is_none()).count(), 1, "{private:?}");
    assert!(chain_is_whole(store.as_ref(), "other").await.iter().all(Option::is_some));
    for (scope, there) in [(&gone, false), (&scopes[2], true)] {
        let mut work = store.read(scope).await.expect("a unit of work");
        assert_eq!(work.projects().is_known().await.expect("read"), there);
        assert_eq!(work.keys().list().await.expect("read").len(), usize::from(there));
        let statistics = work.statistics().get().await.expect("read");
        assert_eq!((statistics.patterns, statistics.runs), if there { (3, 3) } else { (0, 0) });
        assert_eq!(work.jobs().list(None, 9).await.expect("read").len(), usize::from(there));
    }
    let dead = store.api_keys().by_id("acme-a.b").await.expect("read").expect("its row stays");
    assert_eq!((dead.revoked_at, dead.name.as_str(), dead.last_used_at), (Some(at(100)), "[erased]", None));
    assert!(matches!(refusal(store.as_ref(), &gone).await, Some(StoreError::Erased)));
    drop(store);
    db.reopen().await;
    let store = db.store();
    assert!(matches!(refusal(store.as_ref(), &gone).await, Some(StoreError::Erased)), "after a restart, too");
    assert!(store.erasures().unfinished(at(9_000)).await.expect("read").is_empty());
    assert!(!close(store.as_ref(), &gone, false).await, "there is nothing left");
}

pub(super) async fn a_closed_project_is_used_by_nobody(db: Db) {
    let store = db.store().as_ref();
    furnish(store, &home()).await;
    let claim = Claim { worker: "w", now: at(5), lease_until: at(500), limit: 9, without: &[] };
    let held = store.queue().claim(&claim).await.expect("claimed");
    assert_eq!(held.len(), 1);
    assert!(close(store, &home(), false).await);
    assert!(matches!(refusal(store, &home()).await, Some(StoreError::Erased)));
    assert!(refusal(store, &project("another")).await.is_none());
    assert!(store.api_keys().by_id("acme-web").await.expect("read").expect("a key").revoked_at.is_some());
    // The job is over, and its worker can say nothing.
    let pulse = store.queue().heartbeat(&held[0], at(600)).await.expect("no failure");
    assert_eq!(pulse, engramia::store::Pulse::Lost);
    let mut work = store.erase(&home()).await.expect("a unit of work");
    let settled = work.jobs().settle(&held[0].id, 1, Verdict::Completed("{}".into()), at(6)).await.expect("no failure");
    assert_eq!(settled, None::<JobState>);
    drop(work);
    assert!(matches!(store.erasures().reopen(&home()).await, Err(StoreError::Erased)), "it is not over");
    assert!(close(store, &home(), true).await, "once more is the same");
    let tally = empty(store, &home(), 100).await.expect("done");
    assert!(!tally.order.reopens, "it goes on as it was ordered");
    assert_eq!((tally.rows.of("jobs"), tally.keys_revoked), (1, 1));
}

pub(super) async fn an_erased_project_begins_anew_as_an_empty_one(db: Db) {
    let store = db.store().as_ref();
    furnish(store, &home()).await;
    furnish(store, &project("second")).await;
    assert!(close(store, &home(), false).await);
    empty(store, &home(), 100).await.expect("done");
    store.erasures().reopen(&home()).await.expect("opened");
    store.erasures().reopen(&home()).await.expect("it is open");
    let mut work = store.begin(&home()).await.expect("a unit of work");
    assert!(!work.projects().is_known().await.expect("read"));
    let full = work.projects().register("new", Some(1), at(300)).await.expect("no failure");
    assert_eq!(full, Registration::Full { current: 1 }, "erased ones do not count");
    assert_eq!(work.projects().register("new", Some(2), at(300)).await.expect("no failure"), Registration::Made);
    assert_eq!(work.projects().register("new", Some(2), at(300)).await.expect("no failure"), Registration::Known);
    work.commit().await.expect("committed");
    // Ids are never used twice: what is found is what was learned since.
    let id = db.insert(&pattern("new", "task a"), Some(&east())).await;
    assert_eq!(db.nearest(&east(), 9).await, [id]);
    assert_eq!(db.matching("task").await, [id]);
    assert_eq!(db.read().await.statistics().get().await.expect("read").patterns, 1);

    // Where nobody registers projects, a name is free as soon as its scope is empty.
    assert!(close(store, &home(), true).await);
    assert!(matches!(refusal(store, &home()).await, Some(StoreError::Erased)));
    assert_eq!(empty(store, &home(), 100).await.expect("done").projects, 1);
    db.insert(&pattern("newer", "task b"), None).await;
    assert_eq!(db.nearest(&east(), 9).await, []);
}

pub(super) async fn what_is_not_there_is_not_closed(db: Db) {
    let store = db.store().as_ref();
    assert!(!close(store, &home(), false).await);
    assert!(!close(store, &Scope::of_tenant("acme"), false).await);
    assert!(refusal(store, &home()).await.is_none());
    // A project that is registered nowhere is there if it holds something.
    db.insert(&pattern("a", "task"), None).await;
    assert!(close(store, &home(), true).await);
    assert_eq!(empty(store, &home(), 100).await.expect("done").projects, 1);
    let mut work = store.erase(&home()).await.expect("a unit of work");
    assert!(work.erasure().close(&order(false)).await.is_ok());
    drop(work);
    assert!(refusal(store, &home()).await.is_none(), "a dropped unit closes nothing");
}

pub(super) async fn an_erasure_goes_on_where_it_was(mut db: Db) {
    let store = Arc::clone(db.store());
    furnish(store.as_ref(), &home()).await;
    assert!(close(store.as_ref(), &home(), true).await);
    assert!(sweep(store.as_ref(), &home(), 2).await);
    drop(store);
    db.reopen().await;
    let store = Arc::clone(db.store());
    assert_eq!(store.erasures().unfinished(at(9_000)).await.expect("read"), [(home(), true)]);
    assert!(matches!(refusal(store.as_ref(), &home()).await, Some(StoreError::Erased)));
    let tally = empty(store.as_ref(), &home(), 2).await.expect("done");
    assert_eq!((tally.rows.of("patterns"), tally.rows.of("vectors"), tally.keys_revoked), (3, 3, 1));
    assert!(store.erasures().unfinished(at(9_000)).await.expect("read").is_empty());
    assert!(refusal(store.as_ref(), &home()).await.is_none());
}

pub(super) async fn a_tenant_goes_with_all_its_projects(mut db: Db) {
    let store = Arc::clone(db.store());
    let stranger = Scope::verified("other", "web");
    for scope in [home(), project("second"), project("third"), stranger.clone()] {
        furnish(store.as_ref(), &scope).await;
    }
    for tenant in ["acme", "other"] {
        furnish_tenant(store.as_ref(), tenant).await;
    }
    // One of them is gone already, another is half gone.
    assert!(close(store.as_ref(), &project("second"), false).await);
    empty(store.as_ref(), &project("second"), 100).await.expect("done");
    assert!(close(store.as_ref(), &project("third"), false).await);
    assert!(sweep(store.as_ref(), &project("third"), 1).await);
    let before = contents(&db).await;

    let tenant = Scope::of_tenant("acme");
    assert!(close(store.as_ref(), &tenant, false).await);
    for closed in [&tenant, &home(), &project("second"), &project("third"), &project("never seen")] {
        assert!(matches!(refusal(store.as_ref(), closed).await, Some(StoreError::Erased)), "{closed:?}");
    }
    assert!(refusal(store.as_ref(), &stranger).await.is_none());
    let tally = empty(store.as_ref(), &tenant, 2).await.expect("done");
    assert_eq!((tally.rows.of("patterns"), tally.keys_revoked), (5, 1));
    assert_eq!((tally.rows.of("model_spend"), tally.rows.of("carried_rows"), tally.rows.of("job_turns")), (1, 1, 1));
    assert_eq!(empty(store.as_ref(), &project("third"), 2).await, None, "that is over with it");
    let after = contents(&db).await;
    assert_eq!(others(&after, &tenant), others(&before, &tenant));
    assert!(after.scopes.iter().filter(|content| tenant.covers(&content.scope)).all(|content| {
        (content.patterns, content.feedback, content.events, content.keys, content.carried) == (0, 0, 0, 0, 0)
    }));
    assert!(chain_is_whole(store.as_ref(), "acme").await.iter().all(Option::is_none));
    assert!(chain_is_whole(store.as_ref(), "other").await.iter().all(Option::is_some));
    drop(store);
    db.reopen().await;
    let store = db.store().as_ref();
    assert!(matches!(refusal(store, &project("never seen")).await, Some(StoreError::Erased)));
    assert!(store.api_keys().any().await.expect("read"), "of the other tenant");
    store.erasures().reopen(&home()).await.expect("opened");
    assert!(refusal(store, &home()).await.is_none());
}

pub(super) async fn nothing_that_is_written_meanwhile_survives(db: Db) {
    furnish(db.store().as_ref(), &home()).await;
    let writers: Vec<_> = (0..4)
        .map(|writer| {
            let store = Arc::clone(db.store());
            tokio::spawn(async move {
                for number in 0.. {
                    let mut work: Box<dyn Work> = match store.begin(&home()).await {
                        Ok(work) => work,
                        Err(StoreError::Erased) => return number,
                        Err(error) => panic!("{error}"),
                    };
                    let new = pattern(&format!("w{writer}-{number}"), "written meanwhile");
                    work.patterns().insert(&new, Some(&east())).await.expect("inserted").expect("a free key");
                    work.commit().await.expect("committed");
                }
                0
            })
        })
        .collect();
    tokio::time::sleep(std::time::Duration::from_millis(150)).await;
    let store = db.store().as_ref();
    assert!(close(store, &home(), false).await);
    let tally = empty(store, &home(), 20).await.expect("done");
    let mut written = 0;
    for writer in writers {
        written += writer.await.expect("joined");
    }
    assert!(written > 0, "somebody wrote");
    assert_eq!(tally.rows.of("patterns"), written + 3);
    assert_eq!(db.nearest(&east(), 9).await, []);
    assert!(db.matching("meanwhile").await.is_empty());
    assert_eq!(db.read().await.statistics().get().await.expect("read").patterns, 0);
}

pub(super) async fn a_tenant_without_any_project_is_erased_too(db: Db) {
    let tenant = Scope::of_tenant("acme");
    let mut work = db.store().begin(&tenant).await.expect("a unit of work");
    let subscription = Subscription { customer_id: Some("cus_1".into()), ..Subscription::none() };
    work.billing().put_subscription(&subscription).await.expect("stored");
    work.commit().await.expect("committed");
    let mut work = db.store().erase(&tenant).await.expect("a unit of work");
    assert!(work.erasure().close(&order(false)).await.expect("closed"));
    work.commit().await.expect("committed");
    loop {
        let mut work = db.store().erase(&tenant).await.expect("a unit of work");
        let more = work.erasure().sweep(10, at(101)).await.expect("swept");
        work.commit().await.expect("committed");
        if !more {
            break;
        }
    }
    let mut work = db.store().erase(&tenant).await.expect("a unit of work");
    let tally = work.erasure().finish(at(102)).await.expect("finished").expect("by us");
    work.commit().await.expect("committed");
    assert_eq!(tally.rows.of("billing_subscriptions"), 1);
    let mut work = db.store().read(&tenant).await.expect("a unit of work");
    assert_eq!(work.billing().subscription().await.expect("read"), Subscription::none());
}
