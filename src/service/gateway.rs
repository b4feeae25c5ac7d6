//! The way to the language model: permits, retries, circuit breaker, budget, and the account of what a request used.
//!
//! A call has up to three attempts. Each holds a permit and a reservation of its own; while a call waits to try again it
//! holds neither. What an attempt may cost at most is reserved in the store before it is made, so that no number of
//! requests on any number of servers exceeds the budget of a tenant.

pub mod breaker;

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use chrono::Days;
use tokio::sync::{Semaphore, SemaphorePermit};
use tokio::time::Instant;

use self::breaker::Breaker;
use super::{Result, ServiceError, Services, again};
use crate::domain::spend::{Budget, ModelRole, Nanos, Overspent, Price, Usage};
use crate::domain::{Caller, Scope};
use crate::ports::{Attempt, Completion, LanguageModel, ModelError, Prompt, Trouble};
use crate::store::spend::{Booking, Spent};

/// Attempts of one call, at most.
const ATTEMPTS: u32 = 3;
/// Longest pause before the second attempt; it doubles with each further one.
const FIRST_PAUSE: Duration = Duration::from_millis(250);
/// Longest pause that a provider may ask for; beyond it the call fails at once.
const LONGEST_PAUSE: Duration = Duration::from_secs(5);
/// When to come back where every permit is taken.
const BUSY_RETRY: Duration = Duration::from_secs(1);
/// Tokens that a provider may add to a prompt: its own words about roles and schemas.
const OVERHEAD_TOKENS: usize = 1_024;

/// What the gateway goes by.
#[derive(Debug, Clone, Copy)]
pub struct Terms {
    /// Attempts at once, of all requests.
    pub concurrency: usize,
    /// Longest wait for a permit, and for one answer.
    pub patience: Duration,
    /// No attempt begins that could end later than so long after its call began.
    pub longest_call: Duration,
    /// What the model costs; `None` where nobody knows.
    pub price: Option<Price>,
    /// What each tenant may spend a day.
    pub budget: Option<Budget>,
}

/// A language model with everything around it.
pub struct Gateway {
    model: Arc<dyn LanguageModel>,
    terms: Terms,
    permits: Semaphore,
    breaker: Breaker,
}

/// What a request has used so far.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Used {
    /// Tokens of all calls.
    pub usage: Usage,
    /// What they cost, by the known price.
    pub cost: Nanos,
}

/// Adds up what the calls of one request use, those that are made side by side, too.
#[derive(Debug, Default)]
pub struct Meter(Mutex<Used>);

impl Meter {
    /// So much until now.
    pub fn used(&self) -> Used {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn add(&self, usage: Usage, cost: Nanos) {
        let mut used = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        used.usage.prompt_tokens += usage.prompt_tokens;
        used.usage.completion_tokens += usage.completion_tokens;
        used.cost.0 = used.cost.0.saturating_add(cost.0);
    }
}

/// Who asks, and where what it uses is added up.
#[derive(Clone, Copy)]
pub struct Account<'a> {
    /// Whose budget it is.
    pub caller: &'a Caller,
    /// What the request uses.
    pub meter: &'a Meter,
}

impl Gateway {
    /// The way to `model`.
    pub fn new(model: Arc<dyn LanguageModel>, terms: Terms) -> Self {
        Self { model, terms, permits: Semaphore::new(terms.concurrency), breaker: Breaker::default() }
    }

    /// Whether calls are refused because the provider keeps failing.
    pub fn is_open(&self) -> bool {
        self.breaker.is_open(Instant::now())
    }

    /// Whether costs are known.
    pub fn has_price(&self) -> bool {
        self.terms.price.is_some()
    }

    /// When a call that begins now has to be over.
    fn deadline(&self) -> Instant {
        Instant::now() + self.terms.longest_call
    }

    /// Whether an attempt after this pause would surely end in time.
    fn has_time(&self, pause: Duration, deadline: Instant) -> bool {
        Instant::now() + pause + self.terms.patience <= deadline
    }

    async fn permit(&self) -> Result<SemaphorePermit<'_>> {
        match tokio::time::timeout(self.terms.patience, self.permits.acquire()).await {
            Ok(Ok(permit)) => Ok(permit),
            // Nobody closes it.
            Ok(Err(_)) | Err(_) => Err(ServiceError::Busy { retry_after: BUSY_RETRY }),
        }
    }

    /// What an attempt costs at most: a token has one byte at least.
    fn worst_case(&self, prompt: &Prompt) -> Nanos {
        let schema = prompt.schema.as_ref().map_or(0, |answer| answer.schema.to_string().len());
        let bytes = prompt.system.len() + prompt.user.len() + schema + OVERHEAD_TOKENS;
        let usage = Usage { prompt_tokens: bytes as u64, completion_tokens: prompt.max_tokens.into() };
        self.terms.price.map_or_else(Nanos::default, |price| price.of(usage))
    }
}

impl Services {
    /// The language model, for an operation that cannot do without.
    ///
    /// # Errors
    /// [`ServiceError::NoModel`] with the name of the operation.
    pub(super) fn gateway(&self, operation: &'static str) -> Result<&Gateway> {
        self.gateway.as_ref().ok_or(ServiceError::NoModel(operation))
    }

    /// Asks the model; the answer is text of whatever kind.
    pub(super) async fn ask(&self, gateway: &Gateway, account: Account<'_>, prompt: &Prompt) -> Result<Completion> {
        self.ask_until(gateway, account, prompt, gateway.deadline()).await
    }

    async fn ask_until(
        &self,
        gateway: &Gateway,
        account: Account<'_>,
        prompt: &Prompt,
        deadline: Instant,
    ) -> Result<Completion> {
        let pass =
            gateway.breaker.admit(Instant::now()).map_err(|retry_after| ServiceError::ModelDown { retry_after })?;
        let mut attempts = 0;
        let attempt = loop {
            let attempt = match self.attempt(gateway, account, prompt).await? {
                Ok(completion) => {
                    pass.answered();
                    return Ok(completion);
                }
                Err(attempt) => attempt,
            };
            attempts += 1;
            let asked = attempt.retry_after.unwrap_or_default();
            let pause = asked.max(self.back_off(attempts));
            let may_try = attempts < ATTEMPTS && attempt.kind.may_pass() && asked <= LONGEST_PAUSE;
            if !may_try || !gateway.has_time(pause, deadline) {
                break attempt;
            }
            tracing::debug!(error = %attempt, attempts, "a language model is asked again");
            tokio::time::sleep(pause).await;
        };
        match attempt.kind {
            Trouble::Failed | Trouble::Unreachable | Trouble::Silent => pass.failed(Instant::now()),
            // Somebody is there.
            Trouble::Refused | Trouble::RateLimited | Trouble::Malformed => pass.answered(),
        }
        Err(ServiceError::Model(ModelError::from(attempt)))
    }

    /// Asks for what `read` understands, and once more where it does not.
    ///
    /// # Errors
    /// As [`Self::ask`]; [`ModelError::Malformed`] for two answers that cannot be used.
    pub(super) async fn ask_for<T>(
        &self,
        gateway: &Gateway,
        account: Account<'_>,
        prompt: &Prompt,
        read: impl Fn(&str) -> std::result::Result<T, &'static str>,
    ) -> Result<T> {
        let (mut tries, deadline) = (0, gateway.deadline());
        loop {
            tries += 1;
            let problem = match self.ask_until(gateway, account, prompt, deadline).await {
                Ok(completion) => match read(&completion.text) {
                    Ok(value) => return Ok(value),
                    Err(problem) => ModelError::Malformed(format!("{problem}, finish {:?}", completion.finish)),
                },
                Err(ServiceError::Model(malformed @ ModelError::Malformed(_))) => malformed,
                Err(error) => return Err(error),
            };
            if tries == 2 || !gateway.has_time(Duration::ZERO, deadline) {
                return Err(ServiceError::Model(problem));
            }
            tracing::debug!(error = %problem, "an answer cannot be used: asking once more");
        }
    }

    /// One attempt under a permit and a reservation.
    async fn attempt(
        &self,
        gateway: &Gateway,
        account: Account<'_>,
        prompt: &Prompt,
    ) -> Result<std::result::Result<Completion, Attempt>> {
        let _permit = gateway.permit().await?;
        let reserved = self.reserve(gateway, account.caller, prompt).await?;
        let outcome = gateway.model.ask(prompt).await;
        let usage = outcome.as_ref().ok().and_then(|completion| completion.usage);
        let cost = usage.zip(gateway.terms.price).map(|(usage, price)| price.of(usage));
        account.meter.add(usage.unwrap_or_default(), cost.unwrap_or_default());
        if let Some(booking) = reserved {
            let spent = match (&outcome, cost) {
                (_, Some(cost)) => cost,
                // Nobody knows what is charged: a hard limit takes the worst.
                (Ok(_), None) => booking.amount,
                (Err(attempt), None) if attempt.kind.may_be_charged() => booking.amount,
                (Err(_), None) => Nanos::default(),
            };
            self.settle(account.caller, &booking, spent).await;
        }
        Ok(outcome)
    }

    /// Sets the worst case aside; `None` without a budget.
    async fn reserve(&self, gateway: &Gateway, caller: &Caller, prompt: &Prompt) -> Result<Option<Booking>> {
        let Some(budget) = &gateway.terms.budget else { return Ok(None) };
        let day = self.clock.now().date_naive();
        let booking = Booking { day, role: prompt.role, amount: gateway.worst_case(prompt) };
        let scope = Scope::of_tenant(caller.scope.tenant());
        let reserve = || async {
            let mut work = self.store.begin(&scope).await?;
            let spent = work.spend().reserve(&booking, budget).await?;
            match spent {
                None => Ok(work.commit().await?),
                Some(spent) => {
                    let (current, limit) = tightest(budget, prompt.role, spent, booking.amount);
                    let reset = day.checked_add_days(Days::new(1)).unwrap_or(day);
                    Err(ServiceError::Overspent(Overspent { current: current.usd(), limit: limit.usd(), reset }))
                }
            }
        };
        again(reserve).await?;
        Ok(Some(booking))
    }

    /// Replaces the worst case by what it was. Where the store fails the worst case stays: the limit holds anyway.
    async fn settle(&self, caller: &Caller, booking: &Booking, spent: Nanos) {
        let scope = Scope::of_tenant(caller.scope.tenant());
        let settle = || async {
            let mut work = self.store.begin(&scope).await?;
            work.spend().settle(booking, spent).await?;
            Ok(work.commit().await?)
        };
        if let Err(error) = again(settle).await {
            tracing::warn!(%error, "a reservation of the daily budget stays as it is");
        }
    }

    /// Exponential, and random between half and the whole, so that callers who failed together do not return together.
    fn back_off(&self, attempts: u32) -> Duration {
        let whole = FIRST_PAUSE.saturating_mul(1 << attempts.saturating_sub(1).min(8)).min(LONGEST_PAUSE);
        let mut random = [0; 4];
        self.entropy.fill(&mut random);
        whole.mul_f64(0.5 + 0.5 * f64::from(u32::from_le_bytes(random)) / f64::from(u32::MAX))
    }
}

/// The limit that a reservation hits, and what is booked against it already.
fn tightest(budget: &Budget, role: ModelRole, spent: Spent, wanted: Nanos) -> (Nanos, Nanos) {
    let own = spent.of(role);
    let limit = budget.of_role(role);
    if own.0.saturating_add(wanted.0) > limit.0 { (own, limit) } else { (spent.total(), budget.total) }
}
