//! Deleting a pattern.

use super::audit::commit;
use super::{Result, ServiceError, Services};
use crate::domain::audit::AuditAction;
use crate::domain::{Caller, PatternKey, Permission};

impl Services {
    /// Removes a pattern with everything that hangs on it; whether there was one.
    ///
    /// # Errors
    /// An editor may remove only what its own key wrote.
    pub async fn delete_pattern(&self, caller: &Caller, key: &str) -> Result<bool> {
        let key = PatternKey::parse(key).map_err(|_| ServiceError::InvalidKey)?;
        let mut work = self.store.begin(&caller.scope).await?;
        if !caller.role.allows(Permission::PatternsDelete) {
            let Some(pattern) = work.patterns().find(&key).await? else { return Ok(false) };
            if pattern.body.author.is_none() || pattern.body.author.as_deref() != caller.key_id.as_deref() {
                return Err(ServiceError::NotTheAuthor);
            }
        }
        let deleted = work.patterns().delete(&key).await?;
        if deleted {
            let event = self.audit.event_of(AuditAction::PatternDeleted, caller).on("pattern", key.to_string());
            commit(work, &caller.scope, &event).await?;
        }
        Ok(deleted)
    }
}
