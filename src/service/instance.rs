//! What the instance-wide gauges show: read from the store when somebody asks, one look at a time.
//!
//! The sums take the longer the more projects there are, and whoever asks for metrics wants them at once: where a look
//! is not over soon, the answer is what the one before has seen.

use std::time::Duration;

use tokio::sync::{Notify, watch};
use tokio::time::{Instant, timeout};

use crate::store::{Store, Totals};

/// How long an answer waits for a new look, if there is a good one already.
const PATIENCE: Duration = Duration::from_millis(2);
/// How old a good one may be.
const GOOD_FOR: Duration = Duration::from_secs(60);
/// How long an answer waits where there is none: shorter than Prometheus waits.
const LONGEST_WAIT: Duration = Duration::from_secs(3);
/// When the store is taken not to answer.
const LONGEST_LOOK: Duration = Duration::from_secs(30);

/// What the store says about everything in it.
#[derive(Debug, Clone, PartialEq)]
pub struct Seen {
    /// Sums over all scopes.
    pub totals: Totals,
    /// Jobs that wait.
    pub waiting: u64,
}

/// The newest look, and who makes the next one.
#[derive(Default)]
pub struct Instance {
    asked: Notify,
    looks: watch::Sender<Option<Look>>,
}

struct Look {
    at: Instant,
    /// `None` if the store did not answer.
    seen: Option<Seen>,
}

impl Look {
    fn is_good(&self) -> bool {
        self.seen.is_some() && self.at.elapsed() < GOOD_FOR
    }
}

impl Instance {
    /// Looks whenever somebody has asked; never ends.
    pub async fn run(&self, store: &dyn Store) {
        loop {
            self.asked.notified().await;
            let look = timeout(LONGEST_LOOK, async { tokio::try_join!(store.totals(), store.queue().waiting()) });
            let seen = match look.await {
                Ok(Ok((totals, waiting))) => Some(Seen { totals, waiting }),
                Ok(Err(error)) => {
                    tracing::warn!(%error, "the totals could not be read");
                    None
                }
                Err(_elapsed) => {
                    tracing::warn!("the totals could not be read in time");
                    None
                }
            };
            self.looks.send_replace(Some(Look { at: Instant::now(), seen }));
        }
    }

    /// What there is now, or was a moment ago; `None` if the store does not answer.
    pub async fn read(&self) -> Option<Seen> {
        let mut looks = self.looks.subscribe();
        let has_good = looks.borrow_and_update().as_ref().is_some_and(Look::is_good);
        self.asked.notify_one();
        let is_new = timeout(if has_good { PATIENCE } else { LONGEST_WAIT }, looks.changed()).await.is_ok();
        let look = looks.borrow();
        look.as_ref().filter(|_| is_new || has_good)?.seen.clone()
    }
}
