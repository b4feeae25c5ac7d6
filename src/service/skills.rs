//! Capability tags (`spec/engramia/20` §9).

use super::{Result, ServiceError, Services};
use crate::domain::{Caller, Pattern, PatternKey, Skill};

/// Most patterns that a search by tags returns.
const MOST: u32 = 1_000;

impl Services {
    /// Replaces the tags of a pattern; an empty list changes nothing. Returns how many tags it has now.
    pub async fn register_skills(&self, caller: &Caller, key: &str, tags: &[String]) -> Result<usize> {
        let key = PatternKey::parse(key).map_err(|_| ServiceError::InvalidKey)?;
        let skills = Skill::distinct(tags.iter().map(String::as_str));
        let mut work = self.store.begin(&caller.scope).await?;
        let Some(pattern) = work.patterns().find(&key).await? else { return Err(ServiceError::PatternNotFound) };
        if skills.is_empty() {
            return Ok(work.skills().count(pattern.id).await?);
        }
        work.skills().set(pattern.id, &skills, self.clock.now()).await?;
        work.commit().await?;
        Ok(skills.len())
    }

    /// Patterns that carry all (or any) of the tags, in order of registration.
    pub async fn search_skills(&self, caller: &Caller, required: &[String], all: bool) -> Result<Vec<Pattern>> {
        let required = Skill::distinct(required.iter().map(String::as_str));
        if required.is_empty() {
            return Ok(Vec::new());
        }
        let mut work = self.store.read(&caller.scope).await?;
        let ids = work.skills().search(&required, all, MOST).await?;
        let mut patterns = work.patterns().get(&ids).await?;
        for pattern in &mut patterns {
            pattern.body.reuse_count += self.reuse.pending(&caller.scope, pattern.id);
        }
        Ok(patterns)
    }
}
