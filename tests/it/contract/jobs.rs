//! Background jobs: the queue of every scope, and the row of all tenants.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use engramia::domain::job::{Cancelling, HeldJob, NewJob, Submitter, Verdict};
use engramia::domain::{Job, JobOperation, JobState, Role, Scope};
use engramia::store::{Claim, Pulse};

use super::{Db, at, home, key, pattern};

fn id(number: u32) -> String {
    format!("0199b944-0000-7000-8000-{number:012x}")
}

/// Job number so many, submitted so many seconds after the fixed moment.
fn job(number: u32) -> NewJob {
    NewJob {
        id: id(number),
        operation: JobOperation::Aging,
        params: format!("{{\"number\":{number}}}"),
        submitter: Submitter {
            key_id: Some("key-1".into()),
            role: Role::Editor,
            max_patterns: Some(5),
            address: Some("192.0.2.1".parse().expect("an address")),
            request_id: Some("request-1".into()),
        },
        created_at: at(i64::from(number)),
        expires_at: at(100_000),
        max_execution: Duration::from_millis(1500),
    }
}

fn tenant(name: &str) -> Scope {
    Scope::verified(name, "web")
}

async fn enqueue(db: &Db, scope: &Scope, job: &NewJob) {
    let mut work = db.store().begin(scope).await.expect("a unit of work");
    work.jobs().enqueue(job).await.expect("queued");
    work.commit().await.expect("committed");
}

async fn claim_without(db: &Db, seconds: i64, limit: u32, without: &[String]) -> Vec<HeldJob> {
    let (now, lease_until) = (at(seconds), at(seconds + 20));
    let claim = Claim { worker: "worker-1", now, lease_until, without, limit };
    db.store().queue().claim(&claim).await.expect("claimed")
}

async fn claim(db: &Db, seconds: i64, limit: u32) -> Vec<HeldJob> {
    claim_without(db, seconds, limit, &[]).await
}

/// The only job that can be claimed.
async fn claim_one(db: &Db, seconds: i64) -> HeldJob {
    let mut claimed = claim(db, seconds, 9).await;
    assert_eq!(claimed.len(), 1);
    claimed.remove(0)
}

async fn settle(db: &Db, held: &HeldJob, verdict: Verdict, seconds: i64) -> Option<JobState> {
    let mut work = db.store().begin(&held.scope).await.expect("a unit of work");
    let state = work.jobs().settle(&held.id, held.attempt, verdict, at(seconds)).await.expect("no failure");
    work.commit().await.expect("committed");
    state
}

async fn cancel(db: &Db, number: u32) -> Cancelling {
    let mut work = db.begin().await;
    let cancelling = work.jobs().cancel(&id(number), at(50)).await.expect("no failure");
    work.commit().await.expect("committed");
    cancelling
}

async fn get(db: &Db, number: u32) -> Job {
    db.read().await.jobs().get(&id(number)).await.expect("read").expect("there")
}

async fn list(db: &Db, state: Option<JobState>, limit: u32) -> Vec<String> {
    let jobs = db.read().await.jobs().list(state, limit).await.expect("read");
    jobs.into_iter().map(|job| job.id).collect()
}

fn done() -> Verdict {
    Verdict::Completed("{\"pruned\":0}".into())
}

fn failed() -> Verdict {
    Verdict::Failed("Kind: sentence.".into())
}

pub(super) async fn every_field_of_a_job_comes_back(mut db: Db) {
    let new = NewJob { params: "{\"odd\":\"\u{e000}1 žluť\\u0000\"}".into(), ..job(1) };
    enqueue(&db, &home(), &new).await;
    let pending = Job {
        id: id(1),
        operation: JobOperation::Aging,
        state: JobState::Pending,
        result: None,
        error: None,
        attempts: 0,
        created_at: at(1),
        started_at: None,
        completed_at: None,
    };
    assert_eq!(get(&db, 1).await, pending);
    assert_eq!(db.store().queue().waiting().await.expect("counted"), 1);
    assert_eq!(db.store().queue().next_due().await.expect("read"), Some(at(1)));
    let held = claim_one(&db, 3).await;
    let expected = HeldJob {
        scope: home(),
        id: id(1),
        attempt: 1,
        operation: JobOperation::Aging,
        params: new.params.clone(),
        submitter: new.submitter.clone(),
        progress: None,
        ready_at: at(1),
        max_execution: new.max_execution,
    };
    assert_eq!(held, expected);
    let running = Job { state: JobState::Running, attempts: 1, started_at: Some(at(3)), ..pending };
    assert_eq!(get(&db, 1).await, running);
    assert_eq!(db.store().queue().waiting().await.expect("counted"), 0);
    assert_eq!(db.store().queue().next_due().await.expect("read"), None);
    let result = "{\"text\":\"\u{e000}0\"}".to_owned();
    assert_eq!(settle(&db, &held, Verdict::Completed(result.clone()), 4).await, Some(JobState::Completed));
    db.reopen().await;
    let over = Job { state: JobState::Completed, result: Some(result), completed_at: Some(at(4)), ..running };
    assert_eq!(get(&db, 1).await, over);
    for unknown in ["", "x", "\0", &id(2)] {
        assert_eq!(db.read().await.jobs().get(unknown).await.expect("read"), None);
    }
    let mut foreign = db.store().read(&Scope::verified("acme", "other")).await.expect("a unit of work");
    assert_eq!(foreign.jobs().get(&id(1)).await.expect("read"), None);
    assert!(foreign.jobs().list(None, 9).await.expect("read").is_empty());
}

pub(super) async fn jobs_are_listed_newest_first_by_state(db: Db) {
    for number in 1..=4 {
        enqueue(&db, &home(), &job(number)).await;
    }
    let held = claim_one(&db, 9).await;
    assert_eq!(held.id, id(1), "the oldest");
    settle(&db, &held, failed(), 9).await;
    assert_eq!(list(&db, None, 9).await, [4, 3, 2, 1].map(id));
    assert_eq!(list(&db, None, 2).await, [4, 3].map(id));
    assert_eq!(list(&db, Some(JobState::Pending), 2).await, [4, 3].map(id));
    assert_eq!(list(&db, Some(JobState::Failed), 9).await, [1].map(id));
    assert!(list(&db, Some(JobState::Running), 9).await.is_empty());
    assert_eq!(get(&db, 1).await.error.as_deref(), Some("Kind: sentence."));
}

pub(super) async fn a_job_is_claimed_once(db: Db) {
    enqueue(&db, &home(), &job(5)).await;
    assert!(claim(&db, 4, 9).await.is_empty(), "not before its time");
    claim_one(&db, 5).await;
    assert!(claim(&db, 5, 9).await.is_empty());
    assert!(claim(&db, 5000, 9).await.is_empty(), "a lost lease is first taken back");
}

pub(super) async fn an_older_attempt_settles_nothing(db: Db) {
    enqueue(&db, &home(), &job(1)).await;
    let late = claim_one(&db, 1).await;
    db.store().queue().reap(at(21), 9).await.expect("reaped");
    let held = claim_one(&db, 21).await;
    assert_eq!((late.attempt, held.attempt), (1, 2));
    for verdict in [done(), failed(), Verdict::Cancelled, Verdict::Released(at(22))] {
        assert_eq!(settle(&db, &late, verdict, 22).await, None);
    }
    assert_eq!(db.store().queue().heartbeat(&late, at(99)).await.expect("no failure"), Pulse::Lost);
    assert_eq!(db.store().queue().heartbeat(&held, at(60)).await.expect("no failure"), Pulse::Held);
    assert!(db.store().queue().reap(at(59), 9).await.expect("reaped").is_empty(), "the lease was extended");
    assert_eq!(settle(&db, &held, done(), 23).await, Some(JobState::Completed));
    assert_eq!(settle(&db, &held, failed(), 24).await, None, "it is over");
    assert_eq!(get(&db, 1).await.state, JobState::Completed);
}

pub(super) async fn a_verdict_and_its_effects_are_one(db: Db) {
    enqueue(&db, &home(), &job(1)).await;
    let held = claim_one(&db, 1).await;
    for keep in [false, true] {
        let mut work = db.begin().await;
        work.patterns().insert(&pattern("effect", "effect"), None).await.expect("inserted");
        let state = work.jobs().settle(&held.id, held.attempt, done(), at(2)).await.expect("no failure");
        assert_eq!(state, Some(JobState::Completed));
        if keep {
            work.commit().await.expect("committed");
        } else {
            drop(work);
        }
        let there = db.read().await.patterns().find(&key("effect")).await.expect("read").is_some();
        assert_eq!(there, keep);
        assert_eq!(get(&db, 1).await.state == JobState::Completed, keep);
    }
}

pub(super) async fn tenants_take_turns(db: Db) {
    // One tenant submits much and early, in two projects; the others a little later.
    for number in 1..=6 {
        let scope = Scope::verified("greedy", if number % 2 == 0 { "even" } else { "odd" });
        enqueue(&db, &scope, &job(number)).await;
    }
    for (number, name) in (7..).zip(["modest", "late", "modest"]) {
        enqueue(&db, &tenant(name), &job(number)).await;
    }
    let mut order = Vec::new();
    for round in 0..9 {
        let claimed = claim(&db, 10 + round, 1).await;
        order.extend(claimed.into_iter().map(|held| (held.scope.tenant().to_owned(), held.id)));
    }
    let expected = [
        ("greedy", 1),
        ("modest", 7),
        ("late", 8),
        ("greedy", 2),
        ("modest", 9),
        ("greedy", 3),
        ("greedy", 4),
        ("greedy", 5),
        ("greedy", 6),
    ];
    assert_eq!(order, expected.map(|(name, number)| (name.to_owned(), id(number))));
    assert!(claim(&db, 30, 9).await.is_empty());
}

pub(super) async fn tenants_can_be_passed_over(db: Db) {
    for (number, name) in (1..).zip(["a", "a", "b", "c"]) {
        enqueue(&db, &tenant(name), &job(number)).await;
    }
    let names = |claimed: Vec<HeldJob>| claimed.iter().map(|held| held.scope.tenant().to_owned()).collect::<Vec<_>>();
    assert_eq!(names(claim_without(&db, 9, 9, &["a".into(), "c".into()]).await), ["b"]);
    assert!(claim_without(&db, 9, 9, &["a".into(), "c".into()]).await.is_empty());
    assert_eq!(names(claim(&db, 9, 9).await), ["a", "c"], "one a tenant");
    assert_eq!(names(claim(&db, 10, 9).await), ["a"]);
}

pub(super) async fn a_pending_job_is_cancelled_at_once(db: Db) {
    enqueue(&db, &home(), &job(1)).await;
    assert_eq!(cancel(&db, 1).await, Cancelling::AtOnce);
    assert_eq!(cancel(&db, 1).await, Cancelling::TooLate);
    assert_eq!(cancel(&db, 2).await, Cancelling::TooLate, "there is none");
    let job = get(&db, 1).await;
    assert_eq!((job.state, job.completed_at, job.attempts), (JobState::Cancelled, Some(at(50)), 0));
    assert!(claim(&db, 60, 9).await.is_empty());
    assert_eq!(db.store().queue().next_due().await.expect("read"), None, "a claim found that nobody waits");
}

pub(super) async fn a_running_job_is_told_to_stop(db: Db) {
    enqueue(&db, &home(), &job(1)).await;
    let held = claim_one(&db, 1).await;
    assert_eq!(cancel(&db, 1).await, Cancelling::Requested);
    assert_eq!(get(&db, 1).await.state, JobState::Running);
    assert_eq!(db.store().queue().heartbeat(&held, at(90)).await.expect("no failure"), Pulse::Unwanted);
    assert_eq!(settle(&db, &held, done(), 51).await, None, "whoever cancelled was told so");
    assert_eq!(settle(&db, &held, Verdict::Cancelled, 52).await, Some(JobState::Cancelled));
    // One whose worker is lost is not begun again either.
    enqueue(&db, &home(), &job(2)).await;
    claim_one(&db, 2).await;
    assert_eq!(cancel(&db, 2).await, Cancelling::Requested);
    let reaped = db.store().queue().reap(at(60), 9).await.expect("reaped");
    assert_eq!(reaped, [(JobOperation::Aging, JobState::Cancelled)]);
}

pub(super) async fn a_retry_waits_for_its_time(db: Db) {
    enqueue(&db, &home(), &job(1)).await;
    for attempt in 1..=3 {
        let begin = i64::from(attempt) * 10;
        if attempt > 1 {
            assert!(claim(&db, begin - 1, 9).await.is_empty(), "before its time");
        }
        let held = claim_one(&db, begin).await;
        assert_eq!((held.attempt, held.ready_at), (attempt, if attempt == 1 { at(1) } else { at(begin) }));
        let verdict = Verdict::Retry { error: format!("Kind: {attempt}."), at: at(begin + 10) };
        let state = settle(&db, &held, verdict, begin).await;
        assert_eq!(state, Some(if attempt < 3 { JobState::Pending } else { JobState::Failed }));
        let next = (attempt < 3).then(|| at(begin + 10));
        assert_eq!(db.store().queue().next_due().await.expect("read"), next);
        assert_eq!(get(&db, 1).await.error, Some(format!("Kind: {attempt}.")));
    }
    assert_eq!(get(&db, 1).await.attempts, 3);
}

pub(super) async fn a_lost_lease_is_taken_back_until_attempts_are_used_up(mut db: Db) {
    enqueue(&db, &home(), &job(1)).await;
    for attempt in 1..=3 {
        let begin = i64::from(attempt) * 100;
        claim_one(&db, begin).await;
        db.reopen().await;
        assert!(db.store().queue().reap(at(begin + 19), 9).await.expect("reaped").is_empty());
        let reaped = db.store().queue().reap(at(begin + 20), 9).await.expect("reaped");
        let state = if attempt < 3 { JobState::Pending } else { JobState::Failed };
        assert_eq!(reaped, [(JobOperation::Aging, state)]);
    }
    let job = get(&db, 1).await;
    assert_eq!((job.state, job.attempts, job.completed_at), (JobState::Failed, 3, Some(at(320))));
    assert!(job.error.expect("a reason").starts_with("WorkerLost: "));
}

pub(super) async fn expired_jobs_end_whether_pending_or_running(db: Db) {
    for number in 1..=3 {
        enqueue(&db, &home(), &NewJob { expires_at: at(i64::from(number) * 100), ..job(number) }).await;
    }
    let held = claim_one(&db, 5).await;
    assert_eq!(held.id, id(1));
    let reaped = db.store().queue().reap(at(200), 9).await.expect("reaped");
    assert_eq!(reaped, [(JobOperation::Aging, JobState::Expired); 2]);
    for number in [1, 2] {
        let job = get(&db, number).await;
        assert_eq!((job.state, job.completed_at), (JobState::Expired, Some(at(200))));
        assert_eq!(job.error.as_deref(), Some("JobExpired: Job expired (exceeded time limit)."));
    }
    assert_eq!(settle(&db, &held, done(), 201).await, None);
    assert_eq!(claim_one(&db, 201).await.id, id(3));
}

pub(super) async fn a_released_attempt_does_not_count(db: Db) {
    enqueue(&db, &home(), &job(1)).await;
    for attempt in 1..=5 {
        let held = claim_one(&db, 10).await;
        assert_eq!(held.attempt, attempt, "but an older one is always known");
        assert_eq!(settle(&db, &held, Verdict::Released(at(10)), 10).await, Some(JobState::Pending));
    }
    let held = claim_one(&db, 10).await;
    assert_eq!(settle(&db, &held, Verdict::Lost(at(11)), 11).await, Some(JobState::Pending));
}

pub(super) async fn progress_belongs_to_the_attempt(db: Db) {
    enqueue(&db, &home(), &job(1)).await;
    let first = claim_one(&db, 1).await;
    let keep = async |number: u32, attempt: u32, progress: &str| {
        let mut work = db.begin().await;
        let kept = work.jobs().keep_progress(&id(number), attempt, progress).await.expect("no failure");
        work.commit().await.expect("committed");
        kept
    };
    assert!(keep(1, 1, "[1,\"\u{e000}\"]").await);
    assert!(!keep(1, 2, "[2]").await);
    settle(&db, &first, Verdict::Lost(at(2)), 2).await;
    assert!(!keep(1, 1, "[3]").await);
    let second = claim_one(&db, 2).await;
    assert_eq!(second.progress.as_deref(), Some("[1,\"\u{e000}\"]"));
    assert!(keep(1, 2, "[4]").await);
    // What gets on is not given up: three more attempts.
    settle(&db, &second, Verdict::Lost(at(3)), 3).await;
    for attempt in 3..=5 {
        let held = claim_one(&db, 3).await;
        let state = if attempt < 5 { JobState::Pending } else { JobState::Failed };
        assert_eq!(settle(&db, &held, Verdict::Lost(at(3)), 3).await, Some(state));
    }
    enqueue(&db, &home(), &job(2)).await;
    claim_one(&db, 3).await;
    assert_eq!(cancel(&db, 2).await, Cancelling::Requested);
    assert!(!keep(2, 1, "[5]").await, "an unwanted job does nothing more");
}

pub(super) async fn old_jobs_are_forgotten(db: Db) {
    for number in 1..=5 {
        enqueue(&db, &home(), &job(number)).await;
    }
    for seconds in [10, 20, 30] {
        let held = claim_one(&db, seconds).await;
        settle(&db, &held, done(), seconds).await;
    }
    claim_one(&db, 40).await;
    let forget = async |seconds, limit| db.store().queue().forget(at(seconds), limit).await.expect("no failure");
    assert_eq!(forget(10, 9).await, 0);
    assert_eq!(forget(99, 2).await, 2, "the oldest first");
    assert_eq!(list(&db, None, 9).await, [5, 4, 3].map(id));
    assert_eq!(forget(99, 2).await, 1);
    assert_eq!(list(&db, None, 9).await, [5, 4].map(id), "one waits, one runs");
}

pub(super) async fn a_job_of_a_dropped_unit_is_gone(db: Db) {
    let mut work = db.begin().await;
    work.jobs().enqueue(&job(1)).await.expect("queued");
    drop(work);
    assert!(list(&db, None, 9).await.is_empty());
    assert!(claim(&db, 9, 9).await.is_empty());
    enqueue(&db, &home(), &job(1)).await;
    assert_eq!(claim_one(&db, 9).await.id, id(1));
}

pub(super) async fn many_claims_at_once_share_the_jobs(db: Db) {
    const JOBS: u32 = 60;
    for number in 0..JOBS {
        enqueue(&db, &tenant(&format!("tenant-{}", number % 7)), &job(number)).await;
    }
    let work = async || {
        let mut taken = Vec::new();
        // Whatever another one holds right now is passed over: that nothing is found does not mean that nothing is left.
        while db.store().queue().waiting().await.expect("counted") > 0 {
            taken.extend(claim(&db, 1000, 2).await.into_iter().map(|held| held.id));
        }
        taken
    };
    let taken = futures_util::future::join_all((0..4).map(|_| work())).await.concat();
    let distinct: BTreeSet<&String> = taken.iter().collect();
    assert_eq!((taken.len(), distinct.len()), (JOBS as usize, JOBS as usize), "each exactly once");
    assert_eq!(db.store().queue().next_due().await.expect("read"), None);
}

pub(super) async fn a_claim_neither_writes_nor_waits_in_a_scope(db: Db) {
    for (number, name) in (1..).zip(["acme", "other"]) {
        enqueue(&db, &tenant(name), &job(number)).await;
    }
    // The embedded store has one writer for everything; a claim is one of its turns.
    if db.store().name() == "json" {
        assert_eq!(claim(&db, 9, 9).await.len(), 2);
        return;
    }
    let writer = db.begin().await;
    let claimed = tokio::time::timeout(Duration::from_secs(10), claim(&db, 9, 9)).await.expect("nobody is waited for");
    assert_eq!(claimed.len(), 2);
    let pulse = db.store().queue().heartbeat(&claimed[0], at(60));
    assert_eq!(
        tokio::time::timeout(Duration::from_secs(10), pulse).await.expect("in time").expect("held"),
        Pulse::Held
    );
    drop(writer);
    // Somebody who is just queueing a job holds up neither the claim nor the other tenants.
    let mut submitter = db.begin().await;
    submitter.jobs().enqueue(&job(3)).await.expect("queued");
    enqueue(&db, &tenant("other"), &job(4)).await;
    let claimed = tokio::time::timeout(Duration::from_secs(10), claim(&db, 9, 9)).await.expect("nobody is waited for");
    assert_eq!(claimed.iter().map(|held| held.id.clone()).collect::<Vec<_>>(), [id(4)]);
    submitter.commit().await.expect("committed");
    assert_eq!(claim_one(&db, 9).await.id, id(3));
}

pub(super) async fn looks_that_are_cut_short_do_no_harm(db: Db) {
    // A worker drops what it waits for at any moment; whoever gets the connection next must not notice.
    for number in 1..=100 {
        let _cut =
            tokio::time::timeout(Duration::from_micros(u64::from(number) * 15), db.store().queue().next_due()).await;
        enqueue(&db, &home(), &job(number)).await;
    }
    assert_eq!(db.store().queue().waiting().await.expect("counted"), 100);
}

pub(super) async fn leases_of_the_process_before(mut db: Db) {
    enqueue(&db, &home(), &job(1)).await;
    claim_one(&db, 1).await;
    db.reopen().await;
    db.store().queue().end_leases_of_predecessors(at(2)).await.expect("no failure");
    let reaped = db.store().queue().reap(at(2), 9).await.expect("reaped");
    // Only where no other process can hold it.
    let expected = BTreeMap::from([("json", 1), ("postgres", 0)]);
    assert_eq!(reaped.len(), expected[db.store().name()]);
    assert_eq!(list(&db, Some(JobState::Pending), 9).await.len(), expected[db.store().name()]);
}
