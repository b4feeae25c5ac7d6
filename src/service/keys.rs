//! API keys: the first one, and making, listing, replacing and revoking the others (`spec/engramia/10` §2).

use std::net::IpAddr;

use secrecy::SecretString;
use uuid::Uuid;

use super::audit::commit;
use super::quotas::{Limited, Quota};
use super::{Result, ServiceError, Services};
use crate::domain::audit::{AuditAction, AuditEvent};
use crate::domain::credential::Credential;
use crate::domain::{Caller, Permission, Role, Scope, Timestamp};
use crate::store::{ApiKey, Registration, StoreError, Work};

/// A key with its secret, which is shown once.
pub struct Issued {
    /// What is stored.
    pub key: ApiKey,
    /// What is not.
    pub secret: SecretString,
}

/// A key to be made.
#[derive(Debug, Clone)]
pub struct NewKey {
    /// For people.
    pub name: String,
    /// What it may do.
    pub role: Role,
    /// Most patterns its project may hold when it stores one more.
    pub max_patterns: Option<u32>,
    /// From when it opens nothing.
    pub expires_at: Option<Timestamp>,
    /// Its project, if not the caller's.
    pub project: Option<String>,
}

/// Names of the first owner key and of its project.
#[derive(Debug, Clone)]
pub struct Founding {
    /// Name of the key.
    pub key: String,
    /// Name of the project.
    pub project: String,
    /// Name of the tenant, for the record; a tenant is known by its id.
    pub tenant: Option<String>,
    /// What asked for it, for the record.
    pub source: &'static str,
}

impl Founding {
    /// Name of the key where nobody gives one.
    pub const KEY: &'static str = "Owner key";
    /// Name of the project where nobody gives one.
    pub const PROJECT: &'static str = Scope::DEFAULT_NAME;

    /// The usual names.
    pub fn by(source: &'static str) -> Self {
        Self { key: Self::KEY.to_owned(), project: Self::PROJECT.to_owned(), tenant: None, source }
    }
}

impl Services {
    /// An owner key of the default project that is stored nowhere yet.
    pub fn draft_owner_key(&self, name: &str) -> Issued {
        let owner =
            NewKey { name: name.to_owned(), role: Role::Owner, max_patterns: None, expires_at: None, project: None };
        self.draft(Scope::default(), owner)
    }

    /// Stores the first key of the database with its project; `false` if there is a key already.
    pub async fn found(&self, first: &ApiKey, names: &Founding, address: Option<IpAddr>) -> Result<bool> {
        if self.store.api_keys().any().await? {
            return Ok(false);
        }
        let mut work = self.begin_anew(&first.scope).await?;
        work.projects().register(&names.project, None, first.created_at).await?;
        if !work.keys().insert_first(first).await? {
            return Ok(false);
        }
        let mut event = self.audit.event(AuditAction::KeyCreated, None, address).with("source", names.source);
        if let Some(tenant) = &names.tenant {
            event = event.with("tenant_name", tenant.as_str());
        }
        commit(work, &first.scope, &about(event, first)).await?;
        Ok(true)
    }

    /// Makes a key.
    ///
    /// # Errors
    /// When it would do more than the caller may hand on, or open another project than the caller may.
    pub async fn create_key(&self, caller: &Caller, new: NewKey) -> Result<Issued> {
        let most = caller.role.assigns().ok_or(ServiceError::Forbidden(caller.role, Permission::KeysCreate))?;
        if new.role > most {
            return Err(ServiceError::RoleTooHigh { own: caller.role, most, wanted: new.role });
        }
        let scope = match &new.project {
            Some(project) if project != caller.scope.project() => {
                if caller.role != Role::Owner {
                    return Err(ServiceError::ForeignProject);
                }
                Scope::verified(caller.scope.tenant(), project)
            }
            _ => caller.scope.clone(),
        };
        let issued = self.draft(scope, new);
        let Issued { key, .. } = &issued;
        if let Some(id) = &caller.key_id
            && let Some(own) = self.store.api_keys().by_id(id).await?
            && own.revoked_at.is_some()
        {
            // It was alive when the request came: what was erased since does not come back by it.
            return Err(StoreError::Erased.into());
        }
        let mut work = self.begin_anew(&key.scope).await?;
        let limit = self.project_limit(work.as_mut()).await?;
        let registered = work.projects().register(key.scope.project(), limit, key.created_at).await?;
        if let (Registration::Full { current }, Some(limit)) = (registered, limit) {
            return Err(self.exceeded(caller, Quota { limited: Limited::Projects, current, limit: u64::from(limit) }));
        }
        work.keys().insert(key).await?;
        let event = self.audit.event_of(AuditAction::KeyCreated, caller);
        commit(work, &key.scope, &about(event, key)).await?;
        Ok(issued)
    }

    /// Every key of the caller's project, revoked ones too, the newest first.
    pub async fn list_keys(&self, caller: &Caller) -> Result<Vec<ApiKey>> {
        Ok(self.store.read(&caller.scope).await?.keys().list().await?)
    }

    /// Ends a key for good; its id as it is stored.
    ///
    /// # Errors
    /// When there is none, it belongs to a higher role, or it is revoked already.
    pub async fn revoke_key(&self, caller: &Caller, id: &str) -> Result<String> {
        let id = canonical(id)?;
        let mut work = self.store.begin(&caller.scope).await?;
        let key = work.keys().get(&id).await?.ok_or(ServiceError::KeyNotFound)?;
        outranks(caller, &key)?;
        if key.revoked_at.is_some() {
            return Err(ServiceError::AlreadyRevoked);
        }
        work.keys().revoke(&id, self.clock.now()).await?;
        let event = self.audit.event_of(AuditAction::KeyRevoked, caller);
        commit(work, &caller.scope, &about(event, &key)).await?;
        Ok(id)
    }

    /// Gives a key a new secret; the old one is dead from then on.
    ///
    /// # Errors
    /// When there is none, it belongs to a higher role, or it is revoked.
    pub async fn rotate_key(&self, caller: &Caller, id: &str) -> Result<Issued> {
        let id = canonical(id)?;
        let Credential { secret, prefix, hash } = self.credential();
        let mut work = self.store.begin(&caller.scope).await?;
        let key = work.keys().get(&id).await?.ok_or(ServiceError::KeyNotFound)?;
        outranks(caller, &key)?;
        if key.revoked_at.is_some() {
            return Err(ServiceError::RotatesRevoked);
        }
        work.keys().rotate(&id, &prefix, &hash).await?;
        let event = self.audit.event_of(AuditAction::KeyRotated, caller);
        commit(work, &caller.scope, &about(event, &key)).await?;
        Ok(Issued { key: ApiKey { prefix, hash, last_used_at: None, ..key }, secret })
    }

    /// A unit of work in a project that is made now: one that was erased begins anew, as an empty one.
    async fn begin_anew(&self, scope: &Scope) -> Result<Box<dyn Work>> {
        match self.store.begin(scope).await {
            Err(StoreError::Erased) => {
                self.store.erasures().reopen(scope).await?;
                Ok(self.store.begin(scope).await?)
            }
            work => Ok(work?),
        }
    }

    fn draft(&self, scope: Scope, new: NewKey) -> Issued {
        let Credential { secret, prefix, hash } = self.credential();
        let key = ApiKey {
            id: self.new_id(),
            scope,
            name: new.name,
            prefix,
            hash,
            role: new.role,
            max_patterns: new.max_patterns,
            created_at: self.clock.now(),
            last_used_at: None,
            revoked_at: None,
            expires_at: new.expires_at,
        };
        Issued { key, secret }
    }

    fn credential(&self) -> Credential {
        let mut random = [0; 32];
        self.entropy.fill(&mut random);
        Credential::of(&random)
    }
}

/// What an event says of the key it is about.
fn about(event: AuditEvent, key: &ApiKey) -> AuditEvent {
    event.on("api_key", &key.id).with("role", key.role.as_str()).with("name", key.name.as_str())
}

/// An id as it is stored; any other text is the id of no key.
fn canonical(id: &str) -> Result<String> {
    Uuid::try_parse(id).map(|id| id.to_string()).map_err(|_| ServiceError::KeyNotFound)
}

/// Who could end or take over a higher key would have its rights.
fn outranks(caller: &Caller, key: &ApiKey) -> Result<()> {
    if caller.role >= key.role { Ok(()) } else { Err(ServiceError::RankTooLow { own: caller.role, key: key.role }) }
}
