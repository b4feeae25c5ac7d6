//! What a tenant may have by its plan, and what it uses of it (`spec/engramia/40` §2 to §4, `docs/quotas.md`).

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use chrono::{NaiveDate, TimeDelta};
use moka::sync::Cache;

use super::{Result, ServiceError, Services, again};
use crate::domain::audit::AuditAction;
use crate::domain::subscription::{RunLimit, Standing};
use crate::domain::{Caller, Feature, JobOperation, Month, Plan, Scope, Subscription, Timestamp};
use crate::store::billing::{Held, Reservation};
use crate::store::{Store, StoreError, Work};

/// How long an evaluation may hold its place in the quota: longer than any attempt of a job takes by default.
const PLACE: TimeDelta = TimeDelta::hours(2);
/// From this share of a limit on, those who add at the same time wait for each other: below it, more would have to be
/// under way at once than the rest of the limit.
const CROWDED: f64 = 0.9;

/// A limit that is reached.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Quota {
    /// Which.
    pub limited: Limited,
    /// How many there are.
    pub current: u64,
    /// How many there may be.
    pub limit: u64,
}

/// What is limited.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Limited {
    /// Patterns of the tenant, or of the project of a key.
    Patterns,
    /// Patterns of one project among several.
    ProjectPatterns {
        /// Share of the tenant's limit.
        share: f64,
    },
    /// Projects of the tenant.
    Projects,
    /// Evaluations of the month.
    EvalRuns {
        /// When the next month begins.
        resets: NaiveDate,
        /// Whether a budget cap ended it.
        by_cap: bool,
    },
}

impl Quota {
    /// What is counted.
    pub fn metric(&self) -> &'static str {
        match self.limited {
            Limited::Patterns | Limited::ProjectPatterns { .. } => "patterns",
            Limited::Projects => "projects",
            Limited::EvalRuns { .. } => "eval_runs",
        }
    }

    /// The word for it in the guide's shape of an error.
    pub fn word(&self) -> &'static str {
        match self.limited {
            Limited::Projects => "project_quota_exceeded",
            Limited::EvalRuns { by_cap: true, .. } => "overage_budget_cap_reached",
            _ => "quota_exceeded",
        }
    }

    /// When there is room again without anybody doing anything.
    pub fn resets(&self) -> Option<NaiveDate> {
        match self.limited {
            Limited::EvalRuns { resets, .. } => Some(resets),
            _ => None,
        }
    }
}

impl fmt::Display for Quota {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.limited {
            Limited::Patterns => f.write_str("Pattern quota reached. Delete old patterns or upgrade your plan."),
            Limited::ProjectPatterns { share } => write!(
                f,
                "Project pattern quota reached ({} patterns, {:.0}% of tenant limit). Delete old patterns or contact \
                 your admin to increase the project limit.",
                self.limit,
                share * 100.0
            ),
            Limited::Projects => f.write_str("Project quota reached. Delete old projects or upgrade your plan."),
            Limited::EvalRuns { resets, by_cap: false } => {
                write!(f, "Monthly eval run quota reached. Quota resets on {resets}.")
            }
            Limited::EvalRuns { by_cap: true, .. } => {
                f.write_str("Monthly overage budget cap reached. Increase your cap or upgrade your plan.")
            }
        }
    }
}

/// What a tenant has subscribed to, and what it uses.
#[derive(Debug, Clone)]
pub struct Usage {
    /// The subscription.
    pub subscription: Subscription,
    /// Evaluations of this month.
    pub eval_runs: u64,
    /// What it holds.
    pub held: Held,
}

/// Plans of tenants that were asked for lately; a change is seen after a few seconds.
pub struct PlanCache(Cache<Box<str>, Plan>);

impl Default for PlanCache {
    fn default() -> Self {
        Self(Cache::builder().max_capacity(4_096).time_to_live(Duration::from_secs(5)).build())
    }
}

impl PlanCache {
    /// The plan of a tenant has changed.
    pub fn forget(&self, tenant: &str) {
        self.0.invalidate(tenant);
    }
}

/// The place of one evaluation in the quota of its month. Dropped before it is kept, it is given back.
#[must_use]
pub(super) struct Place {
    month: Month,
    /// `None` where there is no limit.
    held: Option<HeldPlace>,
}

struct HeldPlace {
    store: Arc<dyn Store>,
    scope: Scope,
    id: String,
}

impl Place {
    /// Takes it; how many are taken, if none is left.
    async fn reserve(&self, reservation: &Reservation, most: u64, now: Timestamp) -> Result<Option<u64>> {
        let Some(HeldPlace { store, scope, .. }) = &self.held else { return Ok(None) };
        again(|| async move {
            let mut work = store.begin(scope).await?;
            let taken = work.billing().reserve_run(reservation, most, now).await?;
            work.commit().await?;
            Ok(taken)
        })
        .await
    }

    /// Counts the evaluation in the unit of work that holds its effects.
    pub(super) async fn count(&self, work: &mut dyn Work) -> Result<()> {
        let id = self.held.as_ref().map(|held| held.id.as_str());
        Ok(work.billing().count_run(self.month, id).await?)
    }

    /// Nothing is to be given back: that unit of work was committed, or there was no place.
    pub(super) fn keep(&mut self) {
        self.held = None;
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let Some(HeldPlace { store, scope, id }) = self.held.take() else { return };
        // A request that nobody waits for any more is dropped wherever it stands.
        tokio::spawn(async move {
            let giving_back = async {
                let mut work = store.begin(&scope).await?;
                work.billing().release_run(&id).await?;
                work.commit().await
            };
            if let Err(error) = giving_back.await {
                tracing::warn!(%error, "a place in the quota is taken until it expires");
            }
        });
    }
}

/// Refuses where a payment is due for too long.
fn paid(subscription: &Subscription, now: Timestamp) -> Result<()> {
    match subscription.standing(now) {
        Standing::Good | Standing::Grace { .. } => Ok(()),
        Standing::Unpaid => Err(ServiceError::Unpaid),
    }
}

fn is_crowded(count: u64, most: u64) -> bool {
    count as f64 > most as f64 * CROWDED
}

impl Services {
    /// What the caller's tenant has subscribed to, and what it uses.
    pub async fn usage(&self, caller: &Caller) -> Result<Usage> {
        let month = Month::of(self.clock.now());
        let mut work = self.store.read(&caller.scope).await?;
        let billing = work.billing();
        Ok(Usage {
            subscription: billing.subscription().await?,
            eval_runs: billing.runs(month).await?,
            held: billing.held().await?,
        })
    }

    /// Refuses where a payment is due for too long.
    pub(super) async fn in_good_standing(&self, work: &mut dyn Work) -> Result<()> {
        if !self.rules.quotas.limits {
            return Ok(());
        }
        paid(&work.billing().subscription().await?, self.clock.now())
    }

    /// Refuses if the patterns that this unit of work has added are too many for the caller's key, its project, or its
    /// tenant. The counts are part of the unit: whoever adds at the same time is counted before or after, and never
    /// beyond a limit.
    pub(super) async fn within_quota(&self, caller: &Caller, work: &mut dyn Work, added: u64) -> Result<()> {
        let rules = self.rules.quotas;
        if added == 0 || !(rules.limits || rules.entitlements || caller.max_patterns.is_some()) {
            return Ok(());
        }
        let count = work.statistics().get().await?.patterns;
        let refused = |limited, count: u64, limit| {
            Err(self.exceeded(caller, Quota { limited, current: count.saturating_sub(added), limit }))
        };
        if let Some(limit) = caller.max_patterns.map(u64::from).filter(|limit| count > *limit) {
            return refused(Limited::Patterns, count, limit);
        }
        let billing = work.billing();
        let plan = billing.subscription().await?.plan;
        if let Some(most) = plan.terms().patterns.filter(|_| rules.limits) {
            if let Some(limit) = self.project_share(plan).filter(|limit| count > *limit) {
                return refused(Limited::ProjectPatterns { share: rules.project_share }, count, limit);
            }
            let mut held = billing.held().await?.patterns;
            if is_crowded(held, most) {
                billing.alone().await?;
                held = billing.held().await?.patterns;
            }
            if held > most {
                return refused(Limited::Patterns, held, most);
            }
        }
        // The first patterns of a project that nobody has made beforehand.
        if let Some(most) = plan.terms().projects.filter(|_| rules.entitlements && count == added) {
            billing.alone().await?;
            let projects = billing.held().await?.projects;
            if projects > u64::from(most) {
                let quota = Quota { limited: Limited::Projects, current: projects - 1, limit: u64::from(most) };
                return Err(self.exceeded(caller, quota));
            }
        }
        Ok(())
    }

    /// Whether adding so many patterns may go beyond a limit: then all must be added or none.
    pub(super) async fn may_exceed(&self, caller: &Caller, added: u64) -> Result<bool> {
        if caller.max_patterns.is_some() || !self.rules.quotas.limits {
            return Ok(caller.max_patterns.is_some());
        }
        let mut work = self.store.read(&caller.scope).await?;
        let plan = work.billing().subscription().await?.plan;
        let Some(most) = plan.terms().patterns else { return Ok(false) };
        let of_project = work.statistics().get().await?.patterns + added;
        let of_tenant = work.billing().held().await?.patterns + added;
        Ok(is_crowded(of_tenant, most) || self.project_share(plan).is_some_and(|most| is_crowded(of_project, most)))
    }

    /// Patterns that one project of several may hold.
    fn project_share(&self, plan: Plan) -> Option<u64> {
        let terms = plan.terms();
        let share = self.rules.quotas.project_share;
        terms.patterns.filter(|_| share < 1.0 && terms.projects != Some(1)).map(|most| (most as f64 * share) as u64)
    }

    /// Projects that the tenant of a unit of work may have.
    pub(super) async fn project_limit(&self, work: &mut dyn Work) -> Result<Option<u32>> {
        let of_all = self.rules.max_projects;
        if !self.rules.quotas.entitlements {
            return Ok(of_all);
        }
        let of_plan = work.billing().subscription().await?.plan.terms().projects;
        Ok(of_plan.into_iter().chain(of_all).min())
    }

    /// Refuses where the tenant's plan does not have a feature, and such things are kept.
    pub async fn entitled(&self, tenant: &str, feature: Feature) -> Result<()> {
        if !self.rules.quotas.entitlements {
            return Ok(());
        }
        let plan = match self.plans.0.get(tenant) {
            Some(plan) => plan,
            None => {
                let mut work = self.store.read(&Scope::of_tenant(tenant)).await?;
                let plan = work.billing().subscription().await?.plan;
                self.plans.0.insert(tenant.into(), plan);
                plan
            }
        };
        if plan.has(feature) { Ok(()) } else { Err(ServiceError::NotEntitled { feature, plan }) }
    }

    /// Refuses an operation that would be refused if it ran now.
    pub(super) async fn may_begin(&self, caller: &Caller, operation: JobOperation) -> Result<()> {
        if !self.rules.quotas.limits || !matches!(operation, JobOperation::Evaluate | JobOperation::Import) {
            return Ok(());
        }
        let now = self.clock.now();
        let mut work = self.store.read(&caller.scope).await?;
        let billing = work.billing();
        let subscription = billing.subscription().await?;
        paid(&subscription, now)?;
        let Some(limit) = subscription.run_limit().filter(|_| operation == JobOperation::Evaluate) else {
            return Ok(());
        };
        let month = Month::of(now);
        let runs = billing.runs(month).await?;
        if runs < limit.most { Ok(()) } else { Err(self.out_of_runs(caller, month, limit, runs)) }
    }

    /// Takes a place in the quota of the month for one evaluation.
    ///
    /// # Errors
    /// When a payment is due for too long, or every place is taken.
    pub(super) async fn take_place(&self, caller: &Caller) -> Result<Place> {
        let now = self.clock.now();
        let month = Month::of(now);
        let mut place = Place { month, held: None };
        if !self.rules.quotas.limits {
            return Ok(place);
        }
        let scope = Scope::of_tenant(caller.scope.tenant());
        let subscription = self.store.read(&scope).await?.billing().subscription().await?;
        paid(&subscription, now)?;
        let Some(limit) = subscription.run_limit() else { return Ok(place) };
        let reservation = Reservation { id: self.new_id(), month, expires_at: now + PLACE };
        place.held = Some(HeldPlace { store: Arc::clone(&self.store), scope, id: reservation.id.clone() });
        // To the end, even if the caller goes away meanwhile: a place that is taken finds its way back.
        let taking = tokio::spawn(async move {
            let taken = place.reserve(&reservation, limit.most, now).await;
            (place, taken)
        });
        let (mut place, taken) = taking.await.map_err(|error| StoreError::Backend(error.into()))?;
        let Some(taken) = taken? else { return Ok(place) };
        place.keep();
        Err(self.out_of_runs(caller, month, limit, taken))
    }

    fn out_of_runs(&self, caller: &Caller, month: Month, limit: RunLimit, current: u64) -> ServiceError {
        let limited = Limited::EvalRuns { resets: month.next_begins(), by_cap: limit.by_cap };
        self.exceeded(caller, Quota { limited, current, limit: limit.most })
    }

    /// Records that a limit has stopped a caller.
    pub(super) fn exceeded(&self, caller: &Caller, quota: Quota) -> ServiceError {
        let event = self.audit.event_of(AuditAction::QuotaExceeded, caller);
        let event = event.with("reason", quota.word()).with("metric", quota.metric());
        let event = event.with("current", quota.current).with("limit", quota.limit);
        self.audit.note(Some(&caller.scope), event);
        ServiceError::Quota(quota)
    }
}
