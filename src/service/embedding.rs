//! Vectors that are missing: after a provider failed, after an import of old files, after a change of the model.
//!
//! Runs in the background at low priority. Until it is through, recall also answers by keywords (decision 23).

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use tokio::sync::Notify;

use super::{Result, Services};
use crate::domain::Scope;
use crate::ports::{Embedder, ModelError, Priority, Vector};
use crate::store::{StoreError, Unembedded};

/// How often the backlog is looked at although nobody woke it: another replica may have left work.
const LOOK_EVERY: Duration = Duration::from_secs(60);
/// Wait after a provider failed.
const PAUSE: Duration = Duration::from_secs(15);

/// Whether patterns wait for a vector.
#[derive(Default)]
pub struct Backlog {
    pending: AtomicBool,
    wake: Notify,
}

impl Backlog {
    /// Says that there may be work.
    pub fn wake(&self) {
        self.pending.store(true, Ordering::Relaxed);
        self.wake.notify_one();
    }

    /// Whether patterns wait.
    pub fn is_pending(&self) -> bool {
        self.pending.load(Ordering::Relaxed)
    }
}

impl Services {
    /// Embeds what is missing, for ever.
    pub async fn embed_backlog(&self) {
        let Some(embedder) = &self.embedder else { return };
        loop {
            match self.embed_missing(embedder.as_ref()).await {
                Ok(()) => {
                    self.backlog.pending.store(false, Ordering::Relaxed);
                    drop(tokio::time::timeout(LOOK_EVERY, self.backlog.wake.notified()).await);
                }
                Err(error) => {
                    tracing::warn!(%error, "patterns wait for their vectors");
                    tokio::time::sleep(PAUSE).await;
                }
            }
        }
    }

    async fn embed_missing(&self, embedder: &dyn Embedder) -> Result<()> {
        let batch = u32::try_from(embedder.batch_size()).unwrap_or(u32::MAX);
        let mut after = None;
        loop {
            let missing = self.store.unembedded(embedder.space(), after, batch).await?;
            let Some(last) = missing.last() else { return Ok(()) };
            after = Some(last.id);
            self.backlog.pending.store(true, Ordering::Relaxed);
            let vectors = vectors_of(embedder, &missing).await?;
            let mut scopes: BTreeMap<&Scope, Vec<(&Unembedded, &Vector)>> = BTreeMap::new();
            for (pattern, vector) in missing.iter().zip(&vectors) {
                if let Some(vector) = vector {
                    scopes.entry(&pattern.scope).or_default().push((pattern, vector));
                }
            }
            for (scope, rows) in scopes {
                let rows: Vec<_> = rows.iter().map(|(p, vector)| (p.id, p.task.as_str(), *vector)).collect();
                let mut work = match self.store.begin(scope).await {
                    Err(StoreError::Erased) => continue,
                    work => work?,
                };
                work.patterns().attach(&rows).await?;
                work.commit().await?;
            }
            tracing::info!(count = missing.len(), "embedded patterns that waited");
        }
    }
}

/// A vector each. A text that the provider refuses for good is left without one, and does not hold up the others.
async fn vectors_of(embedder: &dyn Embedder, missing: &[Unembedded]) -> Result<Vec<Option<Vector>>> {
    let tasks: Vec<&str> = missing.iter().map(|pattern| pattern.task.as_str()).collect();
    match embedder.embed(&tasks, Priority::Background).await {
        Ok(vectors) => return Ok(vectors.into_iter().map(Some).collect()),
        Err(ModelError::Rejected(error)) if missing.len() > 1 => {
            tracing::warn!(%error, "a batch was refused: embedding its texts one by one");
        }
        Err(error) => return Err(error.into()),
    }
    let mut vectors = Vec::with_capacity(missing.len());
    for pattern in missing {
        match embedder.embed(&[&pattern.task], Priority::Background).await {
            Ok(mut one) => vectors.push(one.pop()),
            Err(ModelError::Rejected(_)) => vectors.push(None),
            Err(error) => return Err(error.into()),
        }
    }
    if vectors.iter().all(Option::is_none) {
        // Not the texts are at fault but the key or the account.
        return Err(ModelError::Rejected(anyhow::anyhow!("every text was refused")).into());
    }
    Ok(vectors)
}
