//! The top recurring issues (`spec/engramia/20` §5).

use super::{Result, Services};
use crate::domain::Caller;

/// An issue is recurring from the second time on.
const RECURRING: u32 = 2;

impl Services {
    /// A page of issue texts, and whether there are more.
    pub async fn top_feedback(
        &self,
        caller: &Caller,
        containing: Option<&str>,
        offset: u32,
        limit: u32,
    ) -> Result<(Vec<String>, bool)> {
        let mut work = self.store.read(&caller.scope).await?;
        let mut issues = work.feedback().top(RECURRING, containing, offset, limit + 1).await?;
        let has_more = issues.len() > limit as usize;
        issues.truncate(limit as usize);
        Ok((issues.into_iter().map(|issue| issue.text).collect(), has_more))
    }
}
