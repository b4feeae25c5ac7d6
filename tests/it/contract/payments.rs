//! What the payment service tells: customers, events, months that are paid for.

use std::sync::Arc;

use chrono::{NaiveDate, TimeDelta};
use engramia::domain::overage::{OveragePeriod, PeriodState};
use engramia::domain::payment::{Bought, PaymentEvent, PaymentKind};
use engramia::domain::subscription::{Interval, Overage};
use engramia::domain::{Month, Plan, Scope, Subscription};
use engramia::store::Store;
use engramia::store::payments::{Kept, Link};

use super::{Db, at, home};

fn event(id: &str, bought: bool) -> PaymentEvent {
    let bought = bought.then(|| Bought {
        subscription_id: "sub_1".into(),
        status: "active".into(),
        interval: Some(Interval::Year),
        price_id: Some("price_1".into()),
        plan: Some(Plan::Team),
        period_start: Some(at(1)),
        period_end: None,
    });
    let kind = if bought.is_some() { PaymentKind::SubscriptionUpdated } else { PaymentKind::Paid };
    PaymentEvent { id: id.into(), created: at(5), kind, bought }
}

async fn link(store: &dyn Store, tenant: &str, customer: &str) -> Link {
    let mut work = store.begin(&Scope::of_tenant(tenant)).await.expect("a unit of work");
    let link = work.payments().link(customer, at(0)).await.expect("linked");
    work.commit().await.expect("committed");
    link
}

async fn record(store: &dyn Store, tenant: &str, customer: &str, event: &PaymentEvent) -> bool {
    let mut work = store.begin(&Scope::of_tenant(tenant)).await.expect("a unit of work");
    let is_new = work.payments().record(customer, event, at(0)).await.expect("recorded");
    work.commit().await.expect("committed");
    is_new
}

async fn events(store: &dyn Store, tenant: &str, customer: &str) -> Vec<PaymentEvent> {
    let mut work = store.read(&Scope::of_tenant(tenant)).await.expect("a unit of work");
    let mut events = work.payments().events(customer).await.expect("read");
    events.sort_by(|left, right| left.id.cmp(&right.id));
    events
}

pub(super) async fn a_customer_is_one_tenant_for_good(mut db: Db) {
    let store = Arc::clone(db.store());
    assert_eq!(store.payment_feed().tenant_of("cus_1").await.expect("read"), None);
    assert_eq!(link(store.as_ref(), "acme", "cus_1").await, Link::Made);
    assert_eq!(link(store.as_ref(), "acme", "cus_1").await, Link::Was);
    assert_eq!(link(store.as_ref(), "acme", "cus_2").await, Link::Refused, "a tenant is one customer");
    assert_eq!(link(store.as_ref(), "other", "cus_1").await, Link::Refused, "a customer is one tenant");
    assert_eq!(link(store.as_ref(), "other", "cus_2").await, Link::Made);
    drop(store);
    db.reopen().await;
    let feed = db.store().payment_feed();
    assert_eq!(feed.tenant_of("cus_1").await.expect("read").as_deref(), Some("acme"));
    assert!(!feed.is_tenant("nobody").await.expect("read"));
    let mut work = db.begin().await;
    work.projects().register("a name", None, at(0)).await.expect("registered");
    work.commit().await.expect("committed");
    assert!(db.store().payment_feed().is_tenant(home().tenant()).await.expect("read"));
}

pub(super) async fn events_come_back_once(mut db: Db) {
    let store = Arc::clone(db.store());
    link(store.as_ref(), "acme", "cus_1").await;
    for (id, bought) in [("evt_1", true), ("evt_2", false)] {
        assert!(record(store.as_ref(), "acme", "cus_1", &event(id, bought)).await);
        assert!(!record(store.as_ref(), "acme", "cus_1", &event(id, bought)).await, "again");
    }
    drop(store);
    db.reopen().await;
    assert_eq!(events(db.store().as_ref(), "acme", "cus_1").await, [event("evt_1", true), event("evt_2", false)]);
    assert_eq!(events(db.store().as_ref(), "acme", "cus_2").await, []);
}

pub(super) async fn a_customer_that_nobody_knows_is_found_later(db: Db) {
    let store = db.store().as_ref();
    for _ in 0..2 {
        let kept = store.payment_feed().keep("cus_1", &event("evt_1", true), at(0)).await.expect("kept");
        assert_eq!(kept, Kept::Stored);
    }
    assert_eq!(store.payment_feed().tenant_of("cus_1").await.expect("read"), None);
    assert_eq!(link(store, "acme", "cus_1").await, Link::Made);
    assert_eq!(events(store, "acme", "cus_1").await, [event("evt_1", true)]);
    let kept = store.payment_feed().keep("cus_1", &event("evt_2", false), at(0)).await.expect("asked");
    assert_eq!(kept, Kept::Belongs("acme".into()));
    assert_eq!(events(store, "acme", "cus_1").await.len(), 1, "that one is the tenant's to record");
}

fn period(month: Month) -> OveragePeriod {
    let overage = Overage { enabled: true, cap_cents: Some(1_000) };
    let subscription = Subscription { plan: Plan::Pro, overage, ..Subscription::none() };
    OveragePeriod::under(&subscription, month, None, 0).expect("overage")
}

async fn put(db: &Db, tenant: &str, period: &OveragePeriod) {
    let mut work = db.store().begin(&Scope::of_tenant(tenant)).await.expect("a unit of work");
    work.payments().put_period(period).await.expect("stored");
    work.commit().await.expect("committed");
}

pub(super) async fn months_are_kept_and_listed(mut db: Db) {
    let [older, newer] = [(2026, 12), (2027, 1)].map(|(year, number)| Month::new(year, number).expect("a month"));
    put(&db, "acme", &period(newer)).await;
    put(&db, "acme", &period(older)).await;
    let closed = period(older).closed(4_000, Some("in_1"));
    let closed = OveragePeriod { attempted_at: Some(at(9)), ..closed };
    put(&db, "acme", &closed).await;
    db.reopen().await;
    let mut work = db.store().read(&Scope::of_tenant("acme")).await.expect("a unit of work");
    assert_eq!(work.payments().unsettled().await.expect("read"), [closed.clone(), period(newer)]);
    assert_eq!(work.payments().period(older).await.expect("read"), Some(closed.clone()));
    assert_eq!(work.payments().period(Month::of(at(0))).await.expect("read"), None);
    drop(work);
    let invoiced = OveragePeriod { state: PeriodState::Invoiced, item_id: Some("ii_1".into()), ..closed };
    put(&db, "acme", &invoiced).await;
    let mut work = db.store().read(&Scope::of_tenant("acme")).await.expect("a unit of work");
    assert_eq!(work.payments().unsettled().await.expect("read"), [period(newer)]);
    assert_eq!(work.payments().period(older).await.expect("read"), Some(invoiced));
    let mut foreign = db.store().read(&Scope::of_tenant("other")).await.expect("a unit of work");
    assert_eq!(foreign.payments().unsettled().await.expect("read"), []);
}

pub(super) async fn a_day_has_one_warning(db: Db) {
    let day = NaiveDate::from_ymd_opt(2026, 11, 22).expect("a day");
    for (tenant, later, claimed) in
        [("acme", 0, true), ("acme", 0, false), ("other", 0, true), ("acme", 1, true), ("acme", 0, false)]
    {
        let mut work = db.store().begin(&Scope::of_tenant(tenant)).await.expect("a unit of work");
        let outcome = work.payments().claim_warning(day + TimeDelta::days(later)).await.expect("asked");
        work.commit().await.expect("committed");
        assert_eq!(outcome, claimed, "{tenant} {later}");
    }
}

pub(super) async fn tenants_to_look_after_are_listed(db: Db) {
    let due = Subscription { past_due_since: Some(at(0)), ..Subscription::none() };
    let overage = Overage { enabled: true, cap_cents: None };
    let paying = Subscription { overage, customer_id: Some("cus_c".into()), ..Subscription::none() };
    for (tenant, subscription) in [("a", &due), ("b", &Subscription::none()), ("c", &paying)] {
        let mut work = db.store().begin(&Scope::of_tenant(tenant)).await.expect("a unit of work");
        work.billing().put_subscription(subscription).await.expect("stored");
        work.commit().await.expect("committed");
    }
    put(&db, "d", &period(Month::of(at(0)))).await;
    put(&db, "e", &OveragePeriod { state: PeriodState::Free, ..period(Month::of(at(0))) }).await;
    let feed = db.store().payment_feed();
    assert_eq!(feed.tenant_of("cus_c").await.expect("read").as_deref(), Some("c"), "known by its subscription alone");
    assert_eq!(feed.watched(None, 9).await.expect("listed"), ["a", "c", "d"]);
    assert_eq!(feed.watched(Some("a"), 1).await.expect("listed"), ["c"]);
}

pub(super) async fn an_event_is_placed_however_it_meets_its_customer(db: Db) {
    let tasks: Vec<_> = (0..16)
        .map(|number| {
            let store = Arc::clone(db.store());
            tokio::spawn(async move {
                if number == 7 {
                    link(store.as_ref(), "acme", "cus_1").await;
                    return;
                }
                let event = event(&format!("evt_{number:02}"), false);
                if let Kept::Belongs(tenant) = store.payment_feed().keep("cus_1", &event, at(0)).await.expect("asked") {
                    record(store.as_ref(), &tenant, "cus_1", &event).await;
                }
            })
        })
        .collect();
    for task in tasks {
        task.await.expect("joined");
    }
    assert_eq!(events(db.store().as_ref(), "acme", "cus_1").await.len(), 15, "none is lost");
}
