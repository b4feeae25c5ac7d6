//! Vectors of recent texts, so that a recall followed by a learn of the same task embeds once
//! (`design/embedding-and-search.md` §5).

use std::sync::Arc;

use async_trait::async_trait;
use moka::future::Cache;
use moka::policy::EvictionPolicy;
use sha2::{Digest, Sha256};

use crate::domain::tier::Calibration;
use crate::ports::{Embedder, ModelError, Priority, Space, Vector};

/// First 128 bits of SHA-256 of space and text: nobody can make two texts share an entry.
type Key = [u8; 16];

/// An embedder with a memory.
pub struct CachedEmbedder<E> {
    inner: E,
    /// Hasher that has seen the space.
    seed: Sha256,
    vectors: Cache<Key, Vector>,
}

impl<E: Embedder> CachedEmbedder<E> {
    /// Keeps the vectors of the `entries` texts that were asked for last.
    pub fn new(inner: E, entries: u64) -> Self {
        let seed = Sha256::new().chain_update(inner.space().as_str()).chain_update([0]);
        // The policy that moka takes by default keeps new texts out of a full cache until they were asked for often.
        let vectors = Cache::builder().max_capacity(entries).eviction_policy(EvictionPolicy::lru()).build();
        Self { inner, seed, vectors }
    }

    fn key(&self, text: &str) -> Key {
        let digest = self.seed.clone().chain_update(text).finalize();
        std::array::from_fn(|at| digest[at])
    }

    /// Callers that miss the same text at the same time wait for one embedding.
    async fn interactive(&self, text: &str) -> Result<Vector, ModelError> {
        let embed = async {
            let vectors = self.inner.embed(&[text], Priority::Interactive).await?;
            vectors.into_iter().next().ok_or_else(miscounted)
        };
        self.vectors.try_get_with(self.key(text), embed).await.map_err(own)
    }

    /// Looks every text up and embeds those that are missing in one call.
    async fn several(&self, texts: &[&str], priority: Priority) -> Result<Vec<Vector>, ModelError> {
        let mut found = Vec::with_capacity(texts.len());
        let mut missing = Vec::new();
        for &text in texts {
            let key = self.key(text);
            let vector = self.vectors.get(&key).await;
            if vector.is_none() {
                missing.push((key, text));
            }
            found.push(vector);
        }
        if !missing.is_empty() {
            let wanted: Vec<&str> = missing.iter().map(|(_, text)| *text).collect();
            let vectors = self.inner.embed(&wanted, priority).await?;
            if vectors.len() != wanted.len() {
                return Err(miscounted());
            }
            let places = found.iter_mut().filter(|place| place.is_none());
            for ((place, (key, _)), vector) in places.zip(missing).zip(vectors) {
                // A bulk load passes through: its texts would push out those that agents ask for.
                if priority == Priority::Interactive {
                    self.vectors.insert(key, vector.clone()).await;
                }
                *place = Some(vector);
            }
        }
        Ok(found.into_iter().flatten().collect())
    }
}

#[async_trait]
impl<E: Embedder> Embedder for CachedEmbedder<E> {
    async fn embed(&self, texts: &[&str], priority: Priority) -> Result<Vec<Vector>, ModelError> {
        match (texts, priority) {
            (&[text], Priority::Interactive) => Ok(vec![self.interactive(text).await?]),
            _ => self.several(texts, priority).await,
        }
    }

    fn space(&self) -> &Space {
        self.inner.space()
    }

    fn provider(&self) -> &'static str {
        self.inner.provider()
    }

    fn calibration(&self) -> Calibration {
        self.inner.calibration()
    }

    fn batch_size(&self) -> usize {
        self.inner.batch_size()
    }
}

fn miscounted() -> ModelError {
    ModelError::Malformed("not one vector for each text".into())
}

/// One error for each of the callers that waited together.
fn own(error: Arc<ModelError>) -> ModelError {
    Arc::try_unwrap(error).unwrap_or_else(|shared| match &*shared {
        ModelError::Rejected(source) => ModelError::Rejected(anyhow::anyhow!("{source:#}")),
        ModelError::Unavailable(source) => ModelError::Unavailable(anyhow::anyhow!("{source:#}")),
        ModelError::Malformed(what) => ModelError::Malformed(what.clone()),
        ModelError::Busy { retry_after } => ModelError::Busy { retry_after: *retry_after },
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Mutex;

    use tokio::sync::Semaphore;

    /// Notes what it was asked for. A text's vector points to its length; `fail` fails.
    struct Probe {
        space: Space,
        calls: Mutex<Vec<Vec<String>>>,
        gate: Semaphore,
    }

    impl Probe {
        fn cached(open: usize, entries: u64) -> CachedEmbedder<Self> {
            let space = Space("test/probe".into());
            CachedEmbedder::new(Self { space, calls: Mutex::default(), gate: Semaphore::new(open) }, entries)
        }
    }

    fn vector(text: &str) -> Vector {
        Vector { space: Space("test/probe".into()), values: [text.len() as f32].into() }
    }

    #[async_trait]
    impl Embedder for Probe {
        async fn embed(&self, texts: &[&str], _: Priority) -> Result<Vec<Vector>, ModelError> {
            self.calls.lock().expect("no panic").push(texts.iter().map(|&text| text.to_owned()).collect());
            self.gate.acquire().await.expect("open").forget();
            if texts.contains(&"fail") {
                return Err(ModelError::Unavailable(anyhow::anyhow!("as asked")));
            }
            Ok(texts.iter().map(|text| vector(text)).collect())
        }
        fn space(&self) -> &Space {
            &self.space
        }
        fn provider(&self) -> &'static str {
            "test"
        }
        fn calibration(&self) -> Calibration {
            Calibration::Identity
        }
        fn batch_size(&self) -> usize {
            3
        }
    }

    fn calls(cache: &CachedEmbedder<Probe>) -> Vec<Vec<String>> {
        cache.inner.calls.lock().expect("no panic").clone()
    }

    #[tokio::test]
    async fn a_text_is_embedded_once_and_order_is_kept() {
        let cache = Probe::cached(9, 100);
        for _ in 0..3 {
            assert_eq!(cache.embed(&["bb"], Priority::Interactive).await.expect("vectors"), [vector("bb")]);
        }
        let texts = ["a", "bb", "ccc", "a"];
        let all = cache.embed(&texts, Priority::Interactive).await.expect("vectors");
        assert_eq!(all, texts.map(vector));
        assert_eq!(cache.embed(&texts, Priority::Background).await.expect("vectors"), all);
        assert_eq!(calls(&cache), [vec!["bb"], vec!["a", "ccc", "a"]]);
        assert_eq!((cache.provider(), cache.batch_size()), ("test", 3));
    }

    #[tokio::test]
    async fn a_bulk_load_leaves_no_trace() {
        let cache = Probe::cached(9, 100);
        for _ in 0..2 {
            assert_eq!(cache.embed(&["a"], Priority::Background).await.expect("vectors"), [vector("a")]);
        }
        assert_eq!(calls(&cache).len(), 2);
        assert_eq!(cache.embed(&[], Priority::Interactive).await.expect("nothing to do"), []);
        assert_eq!(calls(&cache).len(), 2, "nothing is asked for nothing");
    }

    #[tokio::test]
    async fn the_newest_text_stays_in_a_full_cache() {
        let cache = Probe::cached(1000, 4);
        for n in 0..100 {
            let text = "x".repeat(n);
            for _ in 0..2 {
                cache.embed(&[&text], Priority::Interactive).await.expect("vectors");
                cache.vectors.run_pending_tasks().await;
            }
        }
        assert_eq!(calls(&cache).len(), 100);
        assert!(cache.vectors.entry_count() <= 4);
    }

    #[tokio::test]
    async fn errors_are_shared_but_not_kept() {
        let cache = Probe::cached(0, 100);
        let ask = || cache.embed(&["fail"], Priority::Interactive);
        let open = async {
            tokio::task::yield_now().await;
            cache.inner.gate.add_permits(1);
        };
        let (one, two, ()) = tokio::join!(ask(), ask(), open);
        assert_eq!(calls(&cache).len(), 1, "both waited for one call");
        for outcome in [one, two] {
            assert!(matches!(outcome, Err(ModelError::Unavailable(source)) if source.to_string() == "as asked"));
        }
        cache.inner.gate.add_permits(1);
        assert!(ask().await.is_err());
        assert_eq!(calls(&cache).len(), 2);
    }

    #[test]
    fn spaces_do_not_share_entries() {
        let one = Probe::cached(0, 1);
        let space = Space("test/other".into());
        let two = CachedEmbedder::new(Probe { space, calls: Mutex::default(), gate: Semaphore::new(0) }, 1);
        assert_ne!(one.key("text"), two.key("text"));
        assert_ne!(one.key("text"), one.key("text "));
    }
}
