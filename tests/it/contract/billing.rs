//! What a tenant has subscribed to, and what it uses of it.

use chrono::TimeDelta;
use engramia::domain::subscription::{Interval, Overage};
use engramia::domain::{Month, Plan, Scope, Subscription, Timestamp};
use engramia::store::billing::{Held, Reservation};
use futures_util::future::join_all;

use super::{Db, at, pattern};

fn place(id: &str, began: Timestamp) -> Reservation {
    Reservation { id: id.into(), month: Month::of(began), expires_at: began + TimeDelta::hours(1) }
}

/// How many places are taken, if it is refused.
async fn reserve(db: &Db, tenant: &str, place: &Reservation, most: u64, now: Timestamp) -> Option<u64> {
    let mut work = db.store().begin(&Scope::of_tenant(tenant)).await.expect("a unit of work");
    let refused = work.billing().reserve_run(place, most, now).await.expect("asked");
    work.commit().await.expect("committed");
    refused
}

async fn count(db: &Db, scope: &Scope, month: Month, place: Option<&str>) {
    let mut work = db.store().begin(scope).await.expect("a unit of work");
    work.billing().count_run(month, place).await.expect("counted");
    work.commit().await.expect("committed");
}

async fn release(db: &Db, tenant: &str, id: &str) {
    let mut work = db.store().begin(&Scope::of_tenant(tenant)).await.expect("a unit of work");
    work.billing().release_run(id).await.expect("released");
    work.commit().await.expect("committed");
}

async fn runs(db: &Db, tenant: &str, month: Month) -> u64 {
    let mut work = db.store().read(&Scope::verified(tenant, "any")).await.expect("a unit of work");
    work.billing().runs(month).await.expect("read")
}

pub(super) async fn a_subscription_comes_back_and_is_the_tenants_own(mut db: Db) {
    let full = Subscription {
        plan: Plan::Team,
        status: "past_due".into(),
        interval: Interval::Year,
        customer_id: Some("cus_1".into()),
        subscription_id: Some("sub_1".into()),
        price_id: Some("price_1".into()),
        period_start: Some(at(1)),
        period_end: Some(at(2)),
        past_due_since: Some(at(3)),
        canceled_at: Some(at(4)),
        overage: Overage { enabled: true, cap_cents: Some(5_000) },
    };
    for subscription in [full.clone(), Subscription::none(), full.clone()] {
        let mut work = db.store().begin(&Scope::verified("acme", "one")).await.expect("a unit of work");
        work.billing().put_subscription(&subscription).await.expect("stored");
        work.commit().await.expect("committed");
        db.reopen().await;
        let mut work = db.store().read(&Scope::verified("acme", "two")).await.expect("a unit of work");
        assert_eq!(work.billing().subscription().await.expect("read"), subscription);
    }
    let mut work = db.store().read(&Scope::verified("other", "one")).await.expect("a unit of work");
    assert_eq!(work.billing().subscription().await.expect("read"), Subscription::none());
}

pub(super) async fn places_and_what_was_done_share_a_month(db: Db) {
    let (now, scope) = (at(0), Scope::verified("acme", "one"));
    let month = Month::of(now);
    assert_eq!(reserve(&db, "acme", &place("a", now), 2, now).await, None);
    count(&db, &scope, month, None).await;
    assert_eq!(reserve(&db, "acme", &place("b", now), 2, now).await, Some(2));
    assert_eq!(runs(&db, "acme", month).await, 1, "a place is no run");
    count(&db, &scope, month, Some("a")).await;
    assert_eq!(reserve(&db, "acme", &place("c", now), 2, now).await, Some(2));
    assert_eq!(reserve(&db, "acme", &place("c", now), 3, now).await, None);
    release(&db, "acme", "c").await;
    release(&db, "acme", "c").await;
    assert_eq!(runs(&db, "acme", month).await, 2);
    assert_eq!(reserve(&db, "other", &place("a", now), 1, now).await, None, "another tenant");
    let next = now + TimeDelta::days(31);
    assert_eq!(reserve(&db, "acme", &place("d", next), 1, next).await, None, "another month");
    assert_eq!(runs(&db, "acme", month).await, 2);
}

pub(super) async fn a_place_that_nobody_gives_back_is_free_again(db: Db) {
    let now = at(0);
    assert_eq!(reserve(&db, "acme", &place("a", now), 1, now).await, None);
    let later = now + TimeDelta::minutes(59);
    assert_eq!(reserve(&db, "acme", &place("b", later), 1, later).await, Some(1));
    let later = now + TimeDelta::minutes(61);
    assert_eq!(reserve(&db, "acme", &place("b", later), 1, later).await, None);
    // What took too long is counted all the same.
    count(&db, &Scope::verified("acme", "one"), Month::of(now), Some("a")).await;
    assert_eq!(runs(&db, "acme", Month::of(now)).await, 1);
}

pub(super) async fn many_at_once_take_no_more_places_than_there_are(db: Db) {
    let now = at(0);
    let places: Vec<_> = (0..60).map(|number| place(&number.to_string(), now)).collect();
    let refused = join_all(places.iter().map(|place| reserve(&db, "acme", place, 25, now))).await;
    assert_eq!(refused.iter().filter(|refused| refused.is_none()).count(), 25);
    assert!(refused.iter().flatten().all(|taken| *taken == 25), "{refused:?}");
}

pub(super) async fn any_order_of_events_keeps_the_quota(db: Db) {
    const MOST: u64 = 5;
    let scope = Scope::verified("acme", "one");
    // The model: runs that were done, and places with the time at which they expire.
    let (mut done, mut open, mut now) = (0, Vec::<(String, Timestamp)>::new(), at(0));
    let month = Month::of(now);
    let mut random = 0x9e37_79b9_u64;
    for step in 0..400 {
        random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        let chosen = open.get((random >> 40) as usize % open.len().max(1)).map(|(id, _)| id.clone());
        match (random >> 33) % 8 {
            0..4 => {
                let place = place(&step.to_string(), now);
                open.retain(|(_, expires)| *expires > now);
                let taken = done + open.len() as u64;
                let refused = reserve(&db, "acme", &place, MOST + step / 40, now).await;
                assert_eq!(refused, (taken >= MOST + step / 40).then_some(taken), "step {step}");
                if refused.is_none() {
                    open.push((place.id, place.expires_at));
                }
            }
            4 if chosen.is_some() => {
                count(&db, &scope, month, chosen.as_deref()).await;
                open.retain(|(id, _)| Some(id) != chosen.as_ref());
                done += 1;
            }
            5 if chosen.is_some() => {
                release(&db, "acme", chosen.as_deref().unwrap_or_default()).await;
                open.retain(|(id, _)| Some(id) != chosen.as_ref());
            }
            6 => now += TimeDelta::minutes(7),
            _ => assert_eq!(runs(&db, "acme", month).await, done, "step {step}"),
        }
    }
    assert!(done > 5, "{done}");
}

pub(super) async fn what_a_tenant_holds_covers_its_projects(db: Db) {
    for (tenant, project, patterns) in [("acme", "one", 2), ("acme", "two", 1), ("other", "one", 4)] {
        let mut work = db.store().begin(&Scope::verified(tenant, project)).await.expect("a unit of work");
        work.projects().register(project, None, at(0)).await.expect("registered");
        for number in 0..patterns {
            let new = pattern(&number.to_string(), &format!("task {number}"));
            work.patterns().insert(&new, None).await.expect("stored");
        }
        let held = work.billing().held().await.expect("read");
        assert!(held.patterns >= patterns, "with the changes of this unit: {held:?}");
        work.commit().await.expect("committed");
    }
    // Registered and empty; written to, without patterns and not registered; and the tenant itself.
    let mut work = db.store().begin(&Scope::verified("acme", "three")).await.expect("a unit of work");
    work.projects().register("three", None, at(0)).await.expect("registered");
    work.commit().await.expect("committed");
    let mut work = db.store().begin(&Scope::verified("acme", "four")).await.expect("a unit of work");
    work.statistics().count_runs(1, 1, &[]).await.expect("counted");
    work.commit().await.expect("committed");
    reserve(&db, "acme", &place("a", at(0)), 1, at(0)).await;
    let mut work = db.store().read(&Scope::verified("acme", "one")).await.expect("a unit of work");
    assert_eq!(work.billing().held().await.expect("read"), Held { patterns: 3, projects: 3 });
}

pub(super) async fn whoever_is_alone_keeps_the_others_waiting(db: Db) {
    let (one, two) = (Scope::verified("acme", "one"), Scope::verified("acme", "two"));
    let add = async |scope: &Scope, most: u64| {
        let mut work = db.store().begin(scope).await.expect("a unit of work");
        let new = pattern("1", "task");
        work.patterns().insert(&new, None).await.expect("stored");
        work.billing().alone().await.expect("waited");
        if work.billing().held().await.expect("read").patterns > most {
            return false;
        }
        work.commit().await.expect("committed");
        true
    };
    let (first, second) = tokio::join!(add(&one, 1), add(&two, 1));
    assert!(first != second, "one of them was there first: {first} {second}");
}
