//! Requests of people whose personal data a tenant holds (`spec/engramia/30` §11).

use chrono::TimeDelta;

use super::audit::commit;
use super::{Result, ServiceError, Services, again};
use crate::domain::audit::AuditAction;
use crate::domain::subject::{RequestStatus, RequestType, SubjectRequest};
use crate::domain::time::iso;
use crate::domain::{Caller, Scope, Timestamp};
use crate::store::{OpenRequests, RequestQuery};

/// So long before its time is over a request is brought to mind.
const NOTICE: TimeDelta = TimeDelta::days(7);
/// Most requests of a tenant that are brought to mind one by one.
const MOST_REMINDERS: u32 = 100;

/// A request that came in.
#[derive(Debug)]
pub struct NewRequest {
    /// What is asked for.
    pub request_type: RequestType,
    /// Who asks.
    pub subject_email: String,
    /// A first remark.
    pub handler_notes: String,
}

/// What became of a request.
#[derive(Debug)]
pub struct Handled {
    /// Where it stands now.
    pub status: RequestStatus,
    /// What is remarked.
    pub handler_notes: String,
}

/// Which requests to show.
#[derive(Debug, Clone, Copy)]
pub struct RequestFilter {
    /// Only those in this state.
    pub status: Option<RequestStatus>,
    /// Only open ones whose time is over.
    pub overdue_only: bool,
    /// How many at most.
    pub limit: u32,
}

/// Requests as they are at one time.
#[derive(Debug)]
pub struct Requests {
    /// The newest first.
    pub requests: Vec<SubjectRequest>,
    /// Open ones of the whole tenant.
    pub open: OpenRequests,
    /// The time.
    pub now: Timestamp,
}

impl Services {
    /// Takes a request on.
    ///
    /// # Errors
    /// When the store fails.
    pub async fn create_request(&self, caller: &Caller, new: NewRequest) -> Result<SubjectRequest> {
        let now = self.clock.now();
        let request = SubjectRequest {
            id: self.new_id(),
            request_type: new.request_type,
            subject_email: new.subject_email,
            status: RequestStatus::Pending,
            created_at: now,
            due_at: now + TimeDelta::days(i64::from(self.rules.dsr_sla_days)),
            updated_at: now,
            completed_at: None,
            handler_notes: new.handler_notes,
        };
        // Without the address: the log outlives the request.
        let event = self.audit.event_of(AuditAction::DsrCreated, caller).on("subject_request", &request.id);
        let event = &event.with("request_type", request.request_type.as_str());
        let (scope, stored) = (&caller.scope, &request);
        again(|| async move {
            // Whoever goes through all scopes finds the requests in that of the tenant: it must be there.
            self.store.begin(&Scope::of_tenant(scope.tenant())).await?.commit().await?;
            let mut work = self.store.begin(scope).await?;
            work.subjects().put(stored).await?;
            Ok(commit(work, scope, event).await?)
        })
        .await?;
        Ok(request)
    }

    /// A request of the caller's tenant, and the time at which it stands so.
    ///
    /// # Errors
    /// When the tenant has none of this id; one of another tenant is as unknown as any.
    pub async fn request(&self, caller: &Caller, id: &str) -> Result<(SubjectRequest, Timestamp)> {
        let mut work = self.store.read(&caller.scope).await?;
        let request = work.subjects().get(id).await?.ok_or(ServiceError::RequestNotFound)?;
        Ok((request, self.clock.now()))
    }

    /// Requests of the caller's tenant.
    ///
    /// # Errors
    /// When the store fails.
    pub async fn requests(&self, caller: &Caller, filter: RequestFilter) -> Result<Requests> {
        let now = self.clock.now();
        let RequestFilter { status, overdue_only, limit } = filter;
        let query = RequestQuery { status, due_before: overdue_only.then_some(now), limit };
        let mut work = self.store.read(&caller.scope).await?;
        let requests = work.subjects().list(&query).await?;
        Ok(Requests { requests, open: work.subjects().open(now).await?, now })
    }

    /// Moves a request on.
    ///
    /// # Errors
    /// When the tenant has none of this id, or there are too many remarks already.
    pub async fn handle_request(
        &self,
        caller: &Caller,
        id: &str,
        handled: Handled,
    ) -> Result<(SubjectRequest, Timestamp)> {
        let now = self.clock.now();
        let event = self.audit.event_of(AuditAction::DsrUpdated, caller).on("subject_request", id);
        let event = &event.with("status", handled.status.as_str());
        let (scope, handled) = (&caller.scope, &handled);
        again(|| async move {
            let mut work = self.store.begin(scope).await?;
            let mut request = work.subjects().get(id).await?.ok_or(ServiceError::RequestNotFound)?;
            let before = request.status;
            if !request.handle(handled.status, &handled.handler_notes, now) {
                return Err(ServiceError::NotesFull);
            }
            work.subjects().put(&request).await?;
            commit(work, scope, &event.clone().with("before", before.as_str())).await?;
            Ok((request, now))
        })
        .await
    }

    /// Logs the requests of a tenant whose time is over, or will be soon.
    ///
    /// # Errors
    /// When the store fails.
    pub async fn remind_of_requests(&self, tenant: &Scope) -> Result<()> {
        let now = self.clock.now();
        let query = RequestQuery { status: None, due_before: Some(now + NOTICE), limit: MOST_REMINDERS };
        for request in self.store.read(tenant).await?.subjects().list(&query).await? {
            tracing::warn!(
                tenant_id = tenant.tenant(),
                request = request.id,
                request_type = request.request_type.as_str(),
                due_at = iso(request.due_at),
                overdue = request.is_overdue(now),
                "a request of a data subject must be answered"
            );
        }
        Ok(())
    }
}
