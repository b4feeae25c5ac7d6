//! Stand-ins for the outside: embedders that cost nothing or fail, and a clock that stands still.

use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{LazyLock, Mutex};

use async_trait::async_trait;
use chrono::{DateTime, TimeDelta};
use engramia::domain::tier::Calibration;
use engramia::domain::{Timestamp, text};
use engramia::ports::{Clock, Embedder, Entropy, ModelError, Priority, Space, Vector};
use tokio::sync::{Notify, Semaphore};

const DIMENSIONS: usize = 64;

static SPACE: LazyLock<Space> = LazyLock::new(|| Space("fake/bag-of-words".into()));

/// The space of every fake embedder.
pub fn space() -> Space {
    SPACE.clone()
}

/// Each word counts at a place that its hash chooses; texts without words point to the first place.
fn bag_of_words(text: &str) -> Vector {
    let mut values = vec![0.0; DIMENSIONS];
    for word in text.to_lowercase().split(|c: char| !c.is_alphanumeric()).filter(|word| !word.is_empty()) {
        let mut hasher = DefaultHasher::new();
        word.hash(&mut hasher);
        values[(hasher.finish() % DIMENSIONS as u64) as usize] += 1.0;
    }
    if values.iter().all(|value| *value == 0.0) {
        values[0] = 1.0;
    }
    Vector::normalized(space(), values).expect("not zero")
}

/// Deterministic and immediate.
pub struct BagOfWords;

/// The same in another space, as another model would be.
pub struct OtherModel;

static OTHER_SPACE: LazyLock<Space> = LazyLock::new(|| Space("fake/other".into()));

#[async_trait]
impl Embedder for OtherModel {
    async fn embed(&self, texts: &[&str], _: Priority) -> Result<Vec<Vector>, ModelError> {
        Ok(texts.iter().map(|text| Vector { space: OTHER_SPACE.clone(), ..bag_of_words(text) }).collect())
    }
    fn space(&self) -> &Space {
        &OTHER_SPACE
    }
    fn provider(&self) -> &'static str {
        "fake"
    }
    fn calibration(&self) -> Calibration {
        Calibration::Identity
    }
    fn batch_size(&self) -> usize {
        2
    }
}

/// Fails so often, then works. Notes the texts of every call.
pub struct Flaky {
    failures: AtomicUsize,
    /// What it was asked for, in order.
    pub seen: Mutex<Vec<String>>,
}

impl Flaky {
    /// Fails at the first `failures` calls.
    pub fn failing(failures: usize) -> Self {
        Self { failures: AtomicUsize::new(failures), seen: Mutex::default() }
    }
}

/// Holds every call until the test lets it through.
#[derive(Default)]
pub struct Gated {
    /// Told when a call has arrived.
    pub arrived: Notify,
    /// One permit for one call.
    pub gate: Gate,
}

/// A closed gate.
pub struct Gate(pub Semaphore);

impl Default for Gate {
    fn default() -> Self {
        Self(Semaphore::new(0))
    }
}

/// Panics at every call.
pub struct Panicking;

/// Implements the part of [`Embedder`] that all fakes share.
macro_rules! embedder {
    ($name:ident, $before:expr) => {
        #[async_trait]
        impl Embedder for $name {
            async fn embed(&self, texts: &[&str], _: Priority) -> Result<Vec<Vector>, ModelError> {
                ($before)(self, texts).await?;
                Ok(texts.iter().map(|text| bag_of_words(text)).collect())
            }
            fn space(&self) -> &Space {
                &SPACE
            }
            fn provider(&self) -> &'static str {
                "fake"
            }
            fn calibration(&self) -> Calibration {
                Calibration::Identity
            }
            fn batch_size(&self) -> usize {
                64
            }
        }
    };
}

embedder!(BagOfWords, async |_: &Self, _: &[&str]| Ok::<(), ModelError>(()));
embedder!(Flaky, async |fake: &Self, texts: &[&str]| {
    fake.seen.lock().expect("no panic").extend(texts.iter().map(|text| (*text).to_owned()));
    let failing = fake.failures.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| left.checked_sub(1));
    match failing {
        Ok(_) => Err(ModelError::Unavailable(anyhow::anyhow!("expected by the test"))),
        Err(_) => Ok(()),
    }
});
embedder!(Panicking, async |_: &Self, texts: &[&str]| -> Result<(), ModelError> {
    panic!("expected by the test, for {} texts", texts.len())
});
embedder!(Gated, async |fake: &Self, _: &[&str]| {
    fake.arrived.notify_one();
    fake.gate.0.acquire().await.expect("never closed").forget();
    Ok::<(), ModelError>(())
});

/// Stands still until it is moved.
pub struct StoppedClock(Mutex<Timestamp>);

impl StoppedClock {
    /// Begins at a fixed time.
    pub fn new() -> Self {
        Self(Mutex::new(DateTime::from_timestamp(1_750_000_000, 0).expect("a valid time")))
    }

    /// Moves on.
    pub fn pass(&self, time: TimeDelta) {
        *self.0.lock().expect("no panic") += time;
    }
}

impl Clock for StoppedClock {
    fn now(&self) -> Timestamp {
        *self.0.lock().expect("no panic")
    }
}

/// The same bytes in every run: they follow from how often it was asked since it was set.
#[derive(Default)]
pub struct CountedEntropy(AtomicU64);

impl CountedEntropy {
    /// Goes on from here.
    pub fn set(&self, number: u64) {
        self.0.store(number, Ordering::Relaxed);
    }
}

impl Entropy for CountedEntropy {
    fn fill(&self, bytes: &mut [u8]) {
        for piece in bytes.chunks_mut(16) {
            let number = self.0.fetch_add(1, Ordering::Relaxed);
            piece.copy_from_slice(&text::digest(&number.to_string())[..piece.len()]);
        }
    }
}
