//! The embedder in the binary: [`MiniLm`] on the compute pool (decisions 21 and 22).

use std::sync::{Arc, LazyLock};

use async_trait::async_trait;
use futures_util::future::try_join_all;

use super::local::{self, MiniLm};
use crate::compute::{Busy, ComputePool};
use crate::domain::tier::Calibration;
use crate::ports::{Embedder, ModelError, Priority, Space, Vector};

/// Texts of a background load in one job: few, because interactive work waits for the end of a running job.
const CHUNK: usize = 4;
/// Texts a background load passes at once.
const BATCH: usize = 64;

static SPACE: LazyLock<Space> = LazyLock::new(|| Space(format!("local/{}", local::MODEL).into()));

/// Embeds texts in this process.
pub struct BuiltInEmbedder {
    compute: Arc<ComputePool>,
}

impl BuiltInEmbedder {
    /// Runs the model on `compute`.
    pub fn new(compute: Arc<ComputePool>) -> Self {
        Self { compute }
    }

    async fn job(&self, texts: &[&str], priority: Priority) -> Result<Vec<Vector>, Busy> {
        let texts: Vec<String> = texts.iter().map(|&text| text.to_owned()).collect();
        self.compute.run(priority, move || texts.iter().map(|text| embed(text)).collect()).await
    }
}

fn embed(text: &str) -> Vector {
    Vector { space: SPACE.clone(), values: MiniLm::bundled().embed(text).into() }
}

#[async_trait]
impl Embedder for BuiltInEmbedder {
    async fn embed(&self, texts: &[&str], priority: Priority) -> Result<Vec<Vector>, ModelError> {
        let chunk = match priority {
            Priority::Interactive => 1,
            Priority::Background => CHUNK,
        };
        let jobs = texts.chunks(chunk).map(|texts| self.job(texts, priority));
        Ok(try_join_all(jobs).await?.concat())
    }

    fn space(&self) -> &Space {
        &SPACE
    }

    fn provider(&self) -> &'static str {
        "local"
    }

    fn calibration(&self) -> Calibration {
        Calibration::BUILT_IN
    }

    fn batch_size(&self) -> usize {
        BATCH
    }
}

impl From<Busy> for ModelError {
    fn from(busy: Busy) -> Self {
        Self::Busy { retry_after: busy.retry_after }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::mpsc;

    #[tokio::test]
    async fn vectors_come_in_the_order_of_the_texts() {
        let embedder = BuiltInEmbedder::new(Arc::new(ComputePool::start(2, 64).expect("threads")));
        let texts: Vec<String> = (0..11).map(|n| format!("task number {n}")).collect();
        let texts: Vec<&str> = texts.iter().map(String::as_str).chain([""]).collect();
        let one_by_one: Vec<Vector> = texts.iter().map(|text| embed(text)).collect();
        for priority in [Priority::Interactive, Priority::Background] {
            assert_eq!(embedder.embed(&texts, priority).await.expect("room"), one_by_one);
        }
        assert_eq!(embedder.embed(&[], Priority::Interactive).await.expect("nothing to do"), []);
        assert_eq!(embedder.space().as_str(), "local/all-minilm-l6-v2/w8g64-1");
        assert_eq!(one_by_one[0].values.len(), local::DIMENSIONS);
    }

    #[tokio::test]
    async fn a_full_queue_is_told() {
        let pool = Arc::new(ComputePool::start(1, 1).expect("threads"));
        let (open, gate) = mpsc::channel::<()>();
        let (begun, running) = tokio::sync::oneshot::channel();
        let blocker = {
            let pool = Arc::clone(&pool);
            let job = move || {
                begun.send(()).expect("the test waits");
                gate.recv().is_ok()
            };
            tokio::spawn(async move { pool.run(Priority::Interactive, job).await })
        };
        running.await.expect("the only thread took the blocker");
        let embedder = BuiltInEmbedder::new(pool);
        let outcome = embedder.embed(&["a", "b"], Priority::Interactive).await;
        assert!(matches!(outcome, Err(ModelError::Busy { .. })), "one place only");
        open.send(()).expect("the blocker waits");
        assert!(blocker.await.expect("joined").expect("ran"));
    }
}
