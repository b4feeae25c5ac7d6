//! The one pool of compute threads, for embedding and scans (`design/embedding-and-search.md` §5).
//!
//! As many threads as cores, a bounded queue, two priorities. The async runtime only waits on a channel. When the
//! queue is full the caller is told so at once: memory stays bounded and the client gets a 503 with `Retry-After`.

use std::collections::VecDeque;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::oneshot;

use crate::ports::Priority;

type Job = Box<dyn FnOnce() + Send>;

/// Handle on the pool; dropping the last one ends the threads.
pub struct ComputePool {
    shared: Arc<Shared>,
}

struct Shared {
    queues: Mutex<Queues>,
    ready: Condvar,
    capacity: usize,
}

#[derive(Default)]
struct Queues {
    interactive: VecDeque<Job>,
    background: VecDeque<Job>,
    closed: bool,
}

/// The queue is full.
#[derive(Debug, Clone, Copy, thiserror::Error)]
#[error("the compute queue is full")]
pub struct Busy {
    /// A rough time after which there will be room.
    pub retry_after: Duration,
}

impl ComputePool {
    /// Starts `threads` threads; at most `capacity` interactive jobs and as many background jobs may wait.
    ///
    /// # Errors
    /// When the system refuses a thread.
    pub fn start(threads: usize, capacity: usize) -> std::io::Result<Self> {
        let shared = Arc::new(Shared { queues: Mutex::default(), ready: Condvar::new(), capacity: capacity.max(1) });
        for number in 0..threads.max(1) {
            let shared = Arc::clone(&shared);
            std::thread::Builder::new().name(format!("compute-{number}")).spawn(move || shared.work())?;
        }
        Ok(Self { shared })
    }

    /// Runs `job` on a compute thread and gives its result.
    ///
    /// # Errors
    /// [`Busy`] when the queue is full, or when the job panicked.
    pub async fn run<T: Send + 'static>(
        &self,
        priority: Priority,
        job: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T, Busy> {
        let busy = Busy { retry_after: Duration::from_secs(1) };
        let (answer, wait) = oneshot::channel();
        let job: Job = Box::new(move || {
            // Nobody waits any more when the request was dropped: skip the work.
            if !answer.is_closed() {
                drop(answer.send(job()));
            }
        });
        {
            let mut queues = self.shared.lock();
            let queue = match priority {
                Priority::Interactive => &mut queues.interactive,
                Priority::Background => &mut queues.background,
            };
            if queue.len() >= self.shared.capacity {
                return Err(busy);
            }
            queue.push_back(job);
        }
        self.shared.ready.notify_one();
        wait.await.map_err(|_| busy)
    }

    /// Jobs that wait, of both priorities.
    pub fn queued(&self) -> usize {
        let queues = self.shared.lock();
        queues.interactive.len() + queues.background.len()
    }
}

impl Drop for ComputePool {
    fn drop(&mut self) {
        self.shared.lock().closed = true;
        self.shared.ready.notify_all();
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Queues> {
        // Jobs run outside the lock, so that a panic cannot leave the queues half-changed.
        self.queues.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn work(&self) {
        while let Some(job) = self.next() {
            if std::panic::catch_unwind(std::panic::AssertUnwindSafe(job)).is_err() {
                tracing::error!("a compute job panicked");
            }
        }
    }

    fn next(&self) -> Option<Job> {
        let mut queues = self.lock();
        loop {
            if let Some(job) = queues.interactive.pop_front().or_else(|| queues.background.pop_front()) {
                return Some(job);
            }
            if queues.closed {
                return None;
            }
            queues = self.ready.wait(queues).unwrap_or_else(PoisonError::into_inner);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::mpsc;

    #[tokio::test]
    async fn gives_results_and_survives_a_panic() {
        let pool = ComputePool::start(1, 4).expect("threads");
        assert!(pool.run::<u32>(Priority::Interactive, || panic!("expected by the test")).await.is_err());
        assert_eq!(pool.run(Priority::Interactive, || 40 + 2).await.expect("room"), 42);
    }

    #[tokio::test]
    async fn interactive_work_overtakes_and_a_full_queue_refuses() {
        let pool = Arc::new(ComputePool::start(1, 1).expect("threads"));
        let (open, gate) = mpsc::channel::<()>();
        let (order, seen) = mpsc::channel();
        let spawn = |priority, name: &'static str| {
            let (pool, order) = (Arc::clone(&pool), order.clone());
            tokio::spawn(async move { pool.run(priority, move || order.send(name)).await.is_ok() })
        };
        let (begun, running) = oneshot::channel();
        let blocker = {
            let pool = Arc::clone(&pool);
            let job = move || {
                begun.send(()).expect("the test waits");
                gate.recv()
            };
            tokio::spawn(async move { pool.run(Priority::Interactive, job).await.is_ok() })
        };
        running.await.expect("the only thread took the blocker");
        let later = spawn(Priority::Background, "background");
        wait_for(&pool, 1).await;
        let sooner = spawn(Priority::Interactive, "interactive");
        wait_for(&pool, 2).await;
        assert!(pool.run(Priority::Interactive, || ()).await.is_err(), "one place only");
        open.send(()).expect("the blocker waits");
        assert!(blocker.await.expect("joined") && later.await.expect("joined") && sooner.await.expect("joined"));
        assert_eq!(seen.iter().take(2).collect::<Vec<_>>(), ["interactive", "background"]);
    }

    async fn wait_for(pool: &ComputePool, jobs: usize) {
        while pool.queued() < jobs {
            tokio::task::yield_now().await;
        }
    }
}
