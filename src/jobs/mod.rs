//! The worker: a face like `http`, which takes its requests from the store instead of a socket (`docs/jobs.md`).
//!
//! | file | purpose |
//! |---|---|
//! | `registry.rs` | which operations there are |
//! | `attempt.rs` | one attempt of one job, from its start to its verdict |
//! | `backup.rs` | backups of everything, once in so long a time |
//! | `billing.rs` | payments as time goes on |
//! | `sweep.rs` | what is done in every scope again and again |
//! | `upkeep.rs` | jobs whose worker was lost, that expired, or that are long over |

mod attempt;
mod backup;
mod billing;
mod registry;
mod sweep;
mod upkeep;

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio::task::{Id, JoinHandle, JoinSet};

use crate::auth::Authenticator;
use crate::config::Jobs as Settings;
use crate::domain::job::HeldJob;
use crate::service::Services;
use crate::store::{Claim, Result};
use crate::telemetry::metrics::Metrics;

/// How long a worker holds a job without a word.
const LEASE: Duration = Duration::from_secs(20);
/// From this interval on jobs begin at the interval only, as batches.
const BATCHES_FROM: Duration = Duration::from_secs(60);
/// Pause before another look where something is due that somebody else is just looking at.
const PAUSE: Duration = Duration::from_millis(25);
/// Pause before listening again after the connection was lost.
const LISTEN_AGAIN: Duration = Duration::from_secs(5);

/// What every part of a worker needs.
pub struct Worker {
    services: Arc<Services>,
    authenticator: Arc<Authenticator>,
    metrics: Arc<Metrics>,
    settings: Settings,
    /// Its name in the store, for people.
    name: String,
}

/// What a worker is to do. Later ones outrank earlier ones.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Order {
    Work,
    /// Begin no other job.
    Finish,
    /// Give back what is not done.
    Stop,
}

/// A running worker.
pub struct Handle {
    order: watch::Sender<Order>,
    task: JoinHandle<()>,
}

impl Handle {
    /// Begins no other job, and gives those that run so much time to finish.
    pub async fn finish(&self, grace: Duration) {
        self.order.send_replace(Order::Finish);
        let mut order = self.order.subscribe();
        // The worker says that nothing runs any more by stopping itself.
        if tokio::time::timeout(grace, order.wait_for(|order| *order == Order::Stop)).await.is_err() {
            tracing::warn!("some jobs did not finish in time; another worker will take them");
        }
    }

    /// Gives back what is not done, and ends.
    pub async fn stop(self) {
        self.order.send_replace(Order::Stop);
        if let Err(error) = self.task.await {
            tracing::error!(%error, "the worker did not end well");
        }
    }
}

impl Worker {
    /// Starts a worker in the background.
    pub fn start(
        services: Arc<Services>,
        authenticator: Arc<Authenticator>,
        metrics: Arc<Metrics>,
        settings: Settings,
    ) -> Handle {
        let (order, ordered) = watch::channel(Order::Work);
        let name = services.new_id();
        let worker = Arc::new(Self { services, authenticator, metrics, settings, name });
        let task = tokio::spawn({
            let order = order.clone();
            async move { worker.run(&order, ordered).await }
        });
        Handle { order, task }
    }

    async fn run(self: Arc<Self>, order: &watch::Sender<Order>, mut ordered: watch::Receiver<Order>) {
        if let Err(error) = self.services.store.queue().end_leases_of_predecessors(self.services.clock.now()).await {
            tracing::warn!(%error, "jobs of the process before wait until their lease is over");
        }
        let mut helpers = JoinSet::new();
        helpers.spawn(upkeep::run(Arc::clone(&self)));
        helpers.spawn(billing::run(Arc::clone(&self)));
        helpers.spawn(sweep::run(Arc::clone(&self)));
        helpers.spawn(backup::run(Arc::clone(&self)));
        if !self.in_batches() {
            helpers.spawn(Arc::clone(&self).listen());
        }
        self.serve(&mut ordered).await;
        // Whoever waits for the last job hears of it.
        order.send_replace(Order::Stop);
        helpers.shutdown().await;
    }

    /// Keeps every slot busy until it is told to stop and nothing runs any more.
    async fn serve(self: &Arc<Self>, ordered: &mut watch::Receiver<Order>) {
        let mut running: JoinSet<()> = JoinSet::new();
        let mut tenants: HashMap<Id, String> = HashMap::new();
        let mut batch = tokio::time::interval(self.settings.poll_interval);
        batch.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        batch.tick().await;
        // Whether jobs may begin now; between two batches they may not.
        let mut open = true;
        loop {
            let may_begin = *ordered.borrow_and_update() == Order::Work;
            if may_begin && open {
                for job in self.claimed(&tenants).await {
                    let tenant = job.scope.tenant().to_owned();
                    let attempt = attempt::run(Arc::clone(self), job, ordered.clone());
                    tenants.insert(running.spawn(attempt).id(), tenant);
                }
                open = !self.in_batches() || tenants.len() >= self.settings.max_concurrent;
            }
            if !may_begin && running.is_empty() {
                return;
            }
            let is_free = may_begin && tenants.len() < self.settings.max_concurrent;
            tokio::select! {
                outcome = running.join_next_with_id(), if !running.is_empty() => {
                    let id = match outcome {
                        Some(Ok((id, ()))) => Some(id),
                        Some(Err(error)) => {
                            tracing::error!(%error, "an attempt of a job broke off");
                            Some(error.id())
                        }
                        None => None,
                    };
                    id.and_then(|id| tenants.remove(&id));
                }
                changed = ordered.changed() => if changed.is_err() { return },
                () = self.wake(), if is_free && !self.in_batches() => {}
                _ = batch.tick(), if self.in_batches() => open = true,
            }
        }
    }

    fn in_batches(&self) -> bool {
        self.settings.poll_interval > BATCHES_FROM
    }

    /// Jobs for the free slots. Tenants that hold fewer slots here come first, so that nobody gets a second one while
    /// somebody else waits for the first.
    async fn claimed(&self, tenants: &HashMap<Id, String>) -> Vec<HeldJob> {
        let mut jobs: Vec<HeldJob> = Vec::new();
        loop {
            let mut slots: HashMap<&str, usize> = HashMap::new();
            let held = tenants.values().map(String::as_str).chain(jobs.iter().map(|job| job.scope.tenant()));
            held.for_each(|tenant| *slots.entry(tenant).or_default() += 1);
            let free = self.settings.max_concurrent - tenants.len() - jobs.len();
            match self.claim(&slots, free).await {
                Ok(claimed) if claimed.is_empty() => return jobs,
                Ok(claimed) => jobs.extend(claimed),
                Err(error) => {
                    tracing::warn!(%error, "looking for jobs");
                    return jobs;
                }
            }
        }
    }

    async fn claim(&self, slots: &HashMap<&str, usize>, free: usize) -> Result<Vec<HeldJob>> {
        let now = self.services.clock.now();
        let queue = self.services.store.queue();
        if free == 0 || queue.next_due().await?.is_none_or(|due| due > now) {
            return Ok(Vec::new());
        }
        let mut levels: Vec<usize> = slots.values().copied().chain([0]).collect();
        levels.sort_unstable();
        levels.dedup();
        for level in levels {
            let without: Vec<String> =
                slots.iter().filter(|(_, held)| **held > level).map(|(tenant, _)| (*tenant).to_owned()).collect();
            let claim = Claim {
                worker: &self.name,
                now,
                lease_until: now + LEASE,
                without: &without,
                limit: u32::try_from(free).unwrap_or(u32::MAX),
            };
            let claimed = queue.claim(&claim).await?;
            if !claimed.is_empty() || without.is_empty() {
                return Ok(claimed);
            }
        }
        Ok(Vec::new())
    }

    /// Waits until a job is queued here or elsewhere, becomes due, or the interval is over.
    async fn wake(&self) {
        let interval = self.settings.poll_interval.mul_f64(0.9 + 0.2 * self.random());
        let wait = match self.services.store.queue().next_due().await {
            Ok(Some(due)) => {
                (due - self.services.clock.now()).to_std().unwrap_or(PAUSE).clamp(PAUSE, interval.max(PAUSE))
            }
            Ok(None) => interval,
            Err(error) => {
                tracing::debug!(%error, "looking for the next job");
                interval
            }
        };
        tokio::select! {
            () = self.services.jobs.rung() => {}
            () = tokio::time::sleep(wait) => {}
        }
    }

    /// Passes on what other processes tell.
    async fn listen(self: Arc<Self>) {
        loop {
            match self.services.store.queue().rung().await {
                Ok(()) => self.services.jobs.ring(),
                Err(error) => {
                    tracing::debug!(%error, "other processes are not heard for a while");
                    tokio::time::sleep(LISTEN_AGAIN).await;
                }
            }
        }
    }

    /// A random number in [0, 1].
    fn random(&self) -> f64 {
        let mut bytes = [0; 4];
        self.services.entropy.fill(&mut bytes);
        f64::from(u32::from_le_bytes(bytes)) / f64::from(u32::MAX)
    }
}
