//! How sensitive a pattern is: one column, which recall filters and exports read (`spec/engramia/30` §9).

use super::audit::commit;
use super::{Result, ServiceError, Services, again};
use crate::domain::audit::AuditAction;
use crate::domain::{Caller, Classification, PatternKey};

impl Services {
    /// Changes how sensitive a pattern is.
    ///
    /// # Errors
    /// When the scope has no such pattern.
    pub async fn classify(&self, caller: &Caller, key: &PatternKey, classification: Classification) -> Result<()> {
        let event = self.audit.event_of(AuditAction::PatternClassified, caller).on("pattern", key.to_string());
        let event = &event.with("classification", classification.as_str());
        again(|| async move {
            let mut work = self.store.begin(&caller.scope).await?;
            let before = work.patterns().classify(key, classification).await?.ok_or(ServiceError::PatternNotFound)?;
            if before == classification {
                return Ok(());
            }
            Ok(commit(work, &caller.scope, &event.clone().with("before", before.as_str())).await?)
        })
        .await
    }
}
