//! What language models cost a tenant.

use chrono::NaiveDate;
use engramia::domain::Scope;
use engramia::domain::spend::{Budget, ModelRole, Nanos};
use engramia::store::spend::{Booking, Spent};
use futures_util::future::join_all;

use super::Db;

fn day(day: u32) -> NaiveDate {
    NaiveDate::from_ymd_opt(2026, 11, day).expect("a day")
}

fn booking(of: u32, role: ModelRole, amount: i64) -> Booking {
    Booking { day: day(of), role, amount: Nanos(amount) }
}

const BUDGET: Budget = Budget { total: Nanos(100), eval: Some(Nanos(60)), architect: None };

/// What was spent already, if it is refused.
async fn reserve(db: &Db, tenant: &str, booking: &Booking) -> Option<Spent> {
    let mut work = db.store().begin(&Scope::of_tenant(tenant)).await.expect("a unit of work");
    let refused = work.spend().reserve(booking, &BUDGET).await.expect("asked");
    work.commit().await.expect("committed");
    refused
}

async fn spent(db: &Db, tenant: &str, of: u32) -> (i64, i64) {
    let mut work = db.store().read(&Scope::of_tenant(tenant)).await.expect("a unit of work");
    let spent = work.spend().of_day(day(of)).await.expect("read");
    (spent.eval.0, spent.architect.0)
}

pub(super) async fn a_budget_is_kept_by_day_role_and_tenant(db: Db) {
    use ModelRole::{Architect, Eval};
    assert_eq!(spent(&db, "acme", 1).await, (0, 0));
    assert!(reserve(&db, "acme", &booking(1, Eval, 61)).await.is_some(), "the first of a day is checked, too");
    assert_eq!(reserve(&db, "acme", &booking(1, Eval, 50)).await, None);
    let known = Spent { eval: Nanos(50), architect: Nanos(0) };
    assert_eq!(reserve(&db, "acme", &booking(1, Eval, 11)).await, Some(known), "beyond its role");
    assert_eq!(reserve(&db, "acme", &booking(1, Architect, 51)).await, Some(known), "beyond the total");
    assert_eq!(reserve(&db, "acme", &booking(1, Architect, 50)).await, None);
    assert_eq!(reserve(&db, "acme", &booking(2, Eval, 60)).await, None, "another day");
    assert_eq!(reserve(&db, "other", &booking(1, Eval, 60)).await, None, "another tenant");
    assert_eq!((spent(&db, "acme", 1).await, spent(&db, "other", 1).await), ((50, 50), (60, 0)));
}

pub(super) async fn what_was_spent_replaces_what_was_set_aside(mut db: Db) {
    let reserved = booking(1, ModelRole::Eval, 50);
    assert_eq!(reserve(&db, "acme", &reserved).await, None);
    let mut work = db.store().begin(&Scope::of_tenant("acme")).await.expect("a unit of work");
    work.spend().settle(&reserved, Nanos(7)).await.expect("settled");
    work.commit().await.expect("committed");
    db.reopen().await;
    assert_eq!(spent(&db, "acme", 1).await, (7, 0));
    // More than was set aside: what happened is booked all the same, and does not hinder the other role.
    let mut work = db.store().begin(&Scope::of_tenant("acme")).await.expect("a unit of work");
    work.spend().settle(&booking(1, ModelRole::Eval, 0), Nanos(70)).await.expect("settled");
    work.commit().await.expect("committed");
    assert_eq!(reserve(&db, "acme", &booking(1, ModelRole::Architect, 23)).await, None);
    assert!(reserve(&db, "acme", &booking(1, ModelRole::Architect, 1)).await.is_some());
}

pub(super) async fn many_at_once_never_exceed_a_budget(db: Db) {
    let bookings = vec![booking(1, ModelRole::Architect, 9); 20];
    let refused = join_all(bookings.iter().map(|booking| reserve(&db, "acme", booking))).await;
    assert_eq!(refused.iter().filter(|refused| refused.is_none()).count(), 11);
    assert_eq!(spent(&db, "acme", 1).await, (0, 99));
}
