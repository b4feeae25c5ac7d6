//! Copies everything from one store to another, of whatever kind, so that both hold the same.
//!
//! The copy goes in pages, each one unit of work of the target, and can be cut off anywhere: a mark says that the target
//! is not complete, no server starts on it, and the next run goes on where this one ended. What a run finds in a marked
//! target and not in the source it replaces, because nobody but a copy has written there. Without the mark nothing is
//! ever replaced. At the end everything is read again on both sides and compared.

mod content;

use std::collections::HashMap;

use super::Result;
use crate::domain::analytics::Window;
use crate::domain::audit::ChainHead;
use crate::domain::retention::RetentionLevel;
use crate::domain::{PatternId, Scope, Timestamp};
use crate::ports::Vector;
use crate::store::copy::WholePattern;
use crate::store::{Store, StoreError, Work};

pub use content::{Chain, Content, Contents};
use content::{PAGE, digest};

/// Mark of a store that is not completely copied.
pub const UNFINISHED: &str = "unfinished-copy";

/// Told how many patterns were dealt with.
pub type Progress<'a> = &'a (dyn Fn(u64) + Sync);

/// Why nothing was copied, or not everything.
#[derive(Debug, thiserror::Error)]
pub enum CopyError {
    /// Nothing can be taken from where not everything is.
    #[error("the source is itself the target of a copy that was cut off, or it is the target")]
    Source,
    /// What is half gone is not copied: the copy would not know that the rest is to go, too.
    #[error("an erasure in the source is not finished: start a server on it once, which finishes it")]
    Erasing,
    /// The target belongs to somebody else.
    #[error("the target holds other data than the source ({0}): give an empty one. Nothing was changed")]
    Occupied(String),
    /// The audit log of a tenant does not begin as in the source.
    #[error("the target has another audit log of the tenant {0} than the source: give an empty target")]
    Chain(String),
    /// A key or the like is in the way.
    #[error("{0} is in the target already, in another place: give an empty target")]
    InTheWay(String),
    /// Both were read once more, and are not the same.
    #[error(
        "source and target differ after the copy ({0}): was a server writing to one of them? Stop it, and run this again, \
         with an empty target if that does not help"
    )]
    Differs(String),
    /// A store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// What a store holds, as a copy would count it.
///
/// # Errors
/// When the store fails.
pub async fn survey(store: &dyn Store, progress: Progress<'_>) -> Result<Contents, StoreError> {
    content::read(store, progress).await
}

/// Makes `target` hold what `source` holds, and tells what that is.
///
/// # Errors
/// When the target holds something else, a store fails, or the two differ at the end; the same again goes on.
pub async fn copy(
    source: &dyn Store,
    target: &dyn Store,
    now: Timestamp,
    progress: Progress<'_>,
) -> Result<Contents, CopyError> {
    if source.has_mark(UNFINISHED).await? {
        return Err(CopyError::Source);
    }
    if !source.erasures().unfinished(now).await?.is_empty() {
        return Err(CopyError::Erasing);
    }
    if !target.has_mark(UNFINISHED).await? {
        refuse_other_data(source, target).await?;
        target.set_mark(UNFINISHED, now).await?;
        if source.has_mark(UNFINISHED).await? {
            target.inventory().remove_mark(UNFINISHED).await?;
            return Err(CopyError::Source);
        }
    }
    for (space, dimensions) in source.inventory().spaces().await? {
        target.inventory().add_space(&space, dimensions).await?;
    }
    let mut after = None;
    loop {
        let scopes = source.scopes(after.as_ref(), PAGE).await?;
        for scope in &scopes {
            copy_scope(source, target, scope, progress).await?;
        }
        let Some(last) = scopes.into_iter().next_back() else { break };
        after = Some(last);
    }
    let mut after: Option<String> = None;
    loop {
        let tenants = source.audited_tenants(after.as_deref(), PAGE).await?;
        for tenant in &tenants {
            copy_chain(source, target, tenant).await?;
        }
        let Some(last) = tenants.into_iter().next_back() else { break };
        after = Some(last);
    }
    for (mark, at) in source.inventory().marks().await? {
        target.set_mark(&mark, at).await?;
    }
    let contents = content::read(source, &|_| ()).await?;
    if let Some(difference) = contents.difference(&content::read(target, &|_| ()).await?) {
        return Err(CopyError::Differs(difference));
    }
    target.inventory().remove_mark(UNFINISHED).await?;
    Ok(contents)
}

/// A target may hold what the source holds, nothing else.
async fn refuse_other_data(source: &dyn Store, target: &dyn Store) -> Result<(), CopyError> {
    let found = content::read(target, &|_| ()).await?;
    if found.is_empty() {
        return Ok(());
    }
    let wanted = content::read(source, &|_| ()).await?;
    match found.beyond(&wanted) {
        Some(what) => Err(CopyError::Occupied(what)),
        None => Ok(()),
    }
}

async fn copy_scope(
    source: &dyn Store,
    target: &dyn Store,
    scope: &Scope,
    progress: Progress<'_>,
) -> Result<(), CopyError> {
    copy_patterns(source, target, scope, progress).await?;
    if scope.is_whole_tenant() {
        copy_requests(source, target, scope).await?;
        return copy_carried(source, target, scope).await;
    }
    let mut from = source.read(scope).await?;
    let mut to = target.begin(scope).await?;
    if let Some(registered) = from.copying().registered().await? {
        to.copying().register(&registered).await?;
        let days = from.retention().days().await?;
        to.retention().set_days(RetentionLevel::Project, days.project).await?;
        to.retention().set_days(RetentionLevel::Tenant, days.tenant).await?;
    }
    for key in from.keys().list().await? {
        let holder = target.api_keys().find(&key.hash).await?;
        if holder.is_some_and(|holder| (&holder.id, &holder.scope) != (&key.id, &key.scope)) {
            return Err(CopyError::InTheWay(format!("the API key {}", key.id)));
        }
        to.copying().put_key(&key).await?;
    }
    copy_issues(from.as_mut(), to.as_mut()).await?;
    to.analytics().trim(0).await?;
    to.analytics().append(&from.analytics().newest(None, u32::MAX).await?).await?;
    for window in Window::ALL {
        if let Some(rollup) = from.analytics().rollup(window).await? {
            to.analytics().put_rollup(&rollup).await?;
        }
    }
    to.copying().set_statistics(&from.statistics().get().await?).await?;
    Ok(to.commit().await?)
}

/// Makes the target's issues those of the source.
async fn copy_issues(from: &mut dyn Work, to: &mut dyn Work) -> Result<(), StoreError> {
    for issue in to.feedback().all().await? {
        to.feedback().remove(&issue.text).await?;
    }
    let vectors: HashMap<String, Vector> = from.feedback().vectors().await?.into_iter().collect();
    for issue in from.feedback().all().await? {
        to.feedback().put(&issue, vectors.get(&issue.text)).await?;
    }
    for (issue, task) in from.feedback().tasks().await? {
        to.feedback().note_tasks(&issue, &[task]).await?;
    }
    Ok(())
}

/// Copies in the order of ids, so that the order of the patterns stays as it is.
async fn copy_patterns(
    source: &dyn Store,
    target: &dyn Store,
    scope: &Scope,
    progress: Progress<'_>,
) -> Result<(), CopyError> {
    let (mut from, mut to) = (None, None);
    let mut is_new = false;
    loop {
        let page = source.read(scope).await?.copying().patterns(from, PAGE).await?;
        let mut same = 0;
        if !is_new {
            let there = target.read(scope).await?.copying().patterns(to, PAGE).await?;
            same = page.iter().zip(&there).take_while(|(ours, theirs)| digest(ours) == digest(theirs)).count();
            if let Some(last) = there[..same].last() {
                to = Some(last.pattern.id);
            }
            if same < there.len() {
                remove_after(target, scope, to).await?;
            }
            is_new = same < page.len();
        }
        if same < page.len() {
            insert(target, scope, &page[same..]).await?;
        }
        progress(page.len() as u64);
        match page.last() {
            Some(last) if page.len() == PAGE as usize => from = Some(last.pattern.id),
            _ => return Ok(()),
        }
    }
}

/// Removes what a copy of something else has left.
async fn remove_after(target: &dyn Store, scope: &Scope, after: Option<PatternId>) -> Result<(), StoreError> {
    loop {
        let mut work = target.begin(scope).await?;
        let rows = work.patterns().scores(after, PAGE).await?;
        if rows.is_empty() {
            return Ok(());
        }
        for row in rows {
            work.patterns().delete(&row.key).await?;
        }
        work.commit().await?;
    }
}

async fn insert(target: &dyn Store, scope: &Scope, page: &[WholePattern]) -> Result<(), CopyError> {
    let mut work = target.begin(scope).await?;
    for whole in page {
        let body = &whole.pattern.body;
        let Some(id) = work.patterns().insert(body, whole.vector.as_ref()).await? else {
            return Err(CopyError::InTheWay(format!("the pattern {}", body.key)));
        };
        for evaluation in &whole.evaluations {
            work.patterns().record_evaluation(id, evaluation).await?;
        }
        if let Some(at) = whole.tagged_at {
            work.skills().set(id, &whole.skills, at).await?;
        }
    }
    Ok(work.commit().await?)
}

async fn copy_requests(source: &dyn Store, target: &dyn Store, scope: &Scope) -> Result<(), CopyError> {
    let mut after = String::new();
    loop {
        let page = source.read(scope).await?.subjects().page(&after, PAGE).await?;
        let Some(last) = page.last() else { return Ok(()) };
        let mut work = target.begin(scope).await?;
        for request in &page {
            work.subjects().put(request).await?;
        }
        work.commit().await?;
        after = last.id.clone();
    }
}

async fn copy_carried(source: &dyn Store, target: &dyn Store, scope: &Scope) -> Result<(), CopyError> {
    let mut after = None;
    loop {
        let page = source.read(scope).await?.copying().carried(after.as_ref(), PAGE).await?;
        let Some(last) = page.last() else { return Ok(()) };
        let mut work = target.begin(scope).await?;
        work.copying().put_carried(&page).await?;
        work.commit().await?;
        after = Some(last.clone());
    }
}

/// Copies the entries as they are, and not even a broken chain is mended.
async fn copy_chain(source: &dyn Store, target: &dyn Store, tenant: &str) -> Result<(), CopyError> {
    let scope = Scope::of_tenant(tenant);
    let head = source.read(&scope).await?.audit().head().await?;
    let mut after = 0;
    loop {
        let page = source.read(&scope).await?.audit().chain(after, PAGE).await?;
        let there = target.read(&scope).await?.audit().chain(after, PAGE).await?;
        let same = page.iter().zip(&there).take_while(|(ours, theirs)| ours == theirs).count();
        if same < there.len() {
            return Err(CopyError::Chain(tenant.to_owned()));
        }
        let is_last = page.len() < PAGE as usize;
        let end = page.last().map_or(head, |entry| ChainHead { sequence: entry.sequence, hash: entry.hash });
        if same < page.len() || is_last {
            // A project of the tenant, so that the copy leaves no scope that the source has not.
            let project = page.first().map_or(Scope::DEFAULT_NAME, |entry| &entry.project);
            let mut work = target.begin(&Scope::verified(tenant, project)).await?;
            work.copying().put_entries(&page[same..], if is_last { &head } else { &end }).await?;
            work.commit().await?;
        }
        if is_last {
            return Ok(());
        }
        after = end.sequence;
    }
}
