//! Erasing a project or a tenant for good (`docs/erasure.md`).
//!
//! First one short unit of work closes the scope: from then on nobody can use it, here or on another server. Then it is
//! emptied in small steps, so that others can write in between, the files are made to forget, and the end is recorded
//! with a certificate. Whatever stops in between, a crash as well, goes on in the background.

use std::collections::HashSet;
use std::net::IpAddr;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use chrono::TimeDelta;

use super::audit::commit;
use super::{Result, ServiceError, Services, again};
use crate::domain::audit::AuditAction;
use crate::domain::erasure::{Certificate, ErasureOrder, ErasureTally};
use crate::domain::{Caller, Role, Scope};
use crate::store::StoreError;

/// Rows of one step.
const STEP: u32 = 250;
/// How often erasures are looked for that nobody works on.
const LOOK_EVERY: Duration = Duration::from_secs(5);
/// An erasure is nobody's when nothing was heard of it for so long. Two servers at one only take turns.
const ABANDONED_AFTER: TimeDelta = TimeDelta::seconds(5);

/// What an erasure has done.
#[derive(Debug, Clone, PartialEq)]
pub struct Erased {
    /// Patterns that are gone.
    pub patterns: u64,
    /// Jobs that are gone.
    pub jobs: u64,
    /// Keys that opened something until then.
    pub keys_revoked: u64,
    /// Projects that were there.
    pub projects: u64,
    /// The proof; `None` where nothing was there.
    pub certificate: Option<Certificate>,
}

impl Erased {
    /// Where nothing was there.
    pub const NOTHING: Self = Self { patterns: 0, jobs: 0, keys_revoked: 0, projects: 0, certificate: None };
}

/// Scopes that this process is erasing.
#[derive(Default)]
pub struct ErasureDesk(Mutex<HashSet<Scope>>);

impl ErasureDesk {
    /// Whether a scope, or its tenant, is being erased.
    pub fn has(&self, scope: &Scope) -> bool {
        let at_work = self.lock();
        !at_work.is_empty() && (at_work.contains(scope) || at_work.contains(&Scope::of_tenant(scope.tenant())))
    }

    /// Takes an erasure on; `None` if somebody is at it.
    fn take(&self, scope: &Scope) -> Option<Seat<'_>> {
        self.lock().insert(scope.clone()).then(|| Seat { desk: self, scope: scope.clone() })
    }

    fn lock(&self) -> MutexGuard<'_, HashSet<Scope>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Held by whoever works on an erasure.
struct Seat<'a> {
    desk: &'a ErasureDesk,
    scope: Scope,
}

impl Drop for Seat<'_> {
    fn drop(&mut self) {
        self.desk.lock().remove(&self.scope);
    }
}

impl Services {
    /// The project of the caller's tenant that the caller may erase under this name.
    ///
    /// # Errors
    /// For everybody but an owner, if it is not the caller's own.
    pub fn project_to_erase(&self, caller: &Caller, project: &str) -> Result<Scope> {
        if project != caller.scope.project() && caller.role != Role::Owner {
            return Err(ServiceError::ForeignErasure(caller.role));
        }
        Ok(Scope::verified(caller.scope.tenant(), project))
    }

    /// The tenant that the caller may erase under this name.
    ///
    /// # Errors
    /// If it is not the caller's own.
    pub fn tenant_to_erase(&self, caller: &Caller, tenant: &str) -> Result<Scope> {
        if tenant == caller.scope.tenant() { Ok(Scope::of_tenant(tenant)) } else { Err(ServiceError::ForeignTenant) }
    }

    /// Erases a project or a tenant with everything that was derived from it. `closed` is called as soon as nobody can
    /// use it any more. With `reopens` its name may be used again at once, for an empty one.
    ///
    /// # Errors
    /// When somebody is at it, or the store fails: then it goes on in the background.
    pub async fn erase(&self, caller: &Caller, scope: &Scope, reopens: bool, closed: impl Fn()) -> Result<Erased> {
        let Some(_seat) = self.erasures.take(scope) else { return Err(StoreError::Erased.into()) };
        let order = ErasureOrder {
            requested_by: caller.key_id.as_deref().map(str::to_owned),
            recorded_in: caller.scope.project().to_owned(),
            reopens,
            at: self.clock.now(),
        };
        let order = &order;
        let is_there = again(|| async move {
            let mut work = self.store.erase(scope).await?;
            let is_there = work.erasure().close(order).await?;
            if is_there {
                work.commit().await?;
            }
            Ok(is_there)
        })
        .await;
        // Whatever came of it: a commit may have gone through although it failed.
        closed();
        if is_there? { self.empty(scope, reopens, caller.address).await } else { Ok(Erased::NOTHING) }
    }

    /// Goes on with erasures that broke off, for ever.
    pub async fn finish_erasures(&self) {
        let mut tick = tokio::time::interval(LOOK_EVERY);
        tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            tick.tick().await;
            if let Err(error) = self.finish_abandoned().await {
                tracing::warn!(%error, "an erasure is not finished yet");
            }
        }
    }

    async fn finish_abandoned(&self) -> Result<()> {
        let since = self.clock.now() - ABANDONED_AFTER;
        for (scope, reopens) in self.store.erasures().unfinished(since).await? {
            let Some(_seat) = self.erasures.take(&scope) else { continue };
            tracing::info!(tenant = scope.tenant(), project = scope.project(), "going on with an erasure");
            // One that fails does not keep the others waiting.
            if let Err(error) = self.empty(&scope, reopens, None).await {
                let (tenant, project) = (scope.tenant(), scope.project());
                tracing::warn!(%error, tenant, project, "an erasure is not finished yet");
            }
        }
        Ok(())
    }

    /// Empties a closed scope and records the end.
    async fn empty(&self, scope: &Scope, reopens: bool, address: Option<IpAddr>) -> Result<Erased> {
        self.forget(scope).await;
        while self.sweep(scope).await? {}
        self.store.erasures().wipe(scope).await?;
        if reopens {
            tokio::time::sleep(self.store.erasures().echo()).await;
        }
        self.forget(scope).await;
        let Some((tally, certificate)) = again(|| self.finish(scope, address)).await? else {
            // Another server was faster, and has recorded what was done.
            return Err(StoreError::Erased.into());
        };
        Ok(Erased {
            patterns: tally.rows.of("patterns"),
            jobs: tally.rows.of("jobs"),
            keys_revoked: tally.keys_revoked,
            projects: tally.projects,
            certificate: Some(certificate),
        })
    }

    async fn sweep(&self, scope: &Scope) -> Result<bool> {
        again(|| async move {
            let mut work = self.store.erase(scope).await?;
            let more = work.erasure().sweep(STEP, self.clock.now()).await?;
            work.commit().await?;
            Ok(more)
        })
        .await
    }

    async fn finish(&self, scope: &Scope, address: Option<IpAddr>) -> Result<Option<(ErasureTally, Certificate)>> {
        let mut work = self.store.erase(scope).await?;
        let now = self.clock.now();
        let Some(tally) = work.erasure().finish(now).await? else { return Ok(None) };
        let certificate = Certificate::of(scope, &tally, now);
        let (kind, id) =
            if scope.is_whole_tenant() { ("tenant", scope.tenant()) } else { ("project", scope.project()) };
        let event = self.audit.event(
            AuditAction::ScopeDeleted,
            tally.order.requested_by.as_deref(),
            // Of a tenant nothing stays that is not needed for the proof.
            address.filter(|_| !scope.is_whole_tenant()),
        );
        let event = event.on(kind, id).with("patterns_deleted", tally.rows.of("patterns"));
        let event = event.with("certificate", certificate.to_json().clone());
        let recorded_in = Scope::verified(scope.tenant(), &tally.order.recorded_in);
        commit(work, &recorded_in, &event).await?;
        Ok(Some((tally, certificate)))
    }

    /// Forgets what is in memory of a scope.
    async fn forget(&self, scope: &Scope) {
        self.jobs.interrupt();
        self.plans.forget(scope.tenant());
        self.reuse.forget(scope);
        self.issues.forget(scope).await;
    }
}
