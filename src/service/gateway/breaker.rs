//! The circuit breaker: after enough failures in a row nobody waits for a provider that is down, but for one probe now
//! and then.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

/// Calls in a row that fail before it opens.
const FAILURES: u32 = 5;
/// How long it stays open before a probe.
const OPEN_FOR: Duration = Duration::from_secs(15);
/// When to come back while a probe is under way.
const PROBING_RETRY: Duration = Duration::from_secs(2);

/// See the module.
#[derive(Debug, Default)]
pub struct Breaker(Mutex<State>);

#[derive(Debug, Clone, Copy)]
enum State {
    /// Calls go through; so many have failed in a row.
    Closed(u32),
    /// Calls are refused until then.
    Open(Instant),
    /// One call is under way, and decides.
    Probing,
}

impl Default for State {
    fn default() -> Self {
        Self::Closed(0)
    }
}

/// The right to make one call, and the duty to say how it went. Dropped without a word it says nothing of the provider.
pub struct Pass<'a> {
    breaker: &'a Breaker,
    is_probe: bool,
    is_settled: bool,
    at: Instant,
}

impl Breaker {
    /// Lets a call through at `now`.
    ///
    /// # Errors
    /// When to come back.
    pub fn admit(&self, now: Instant) -> Result<Pass<'_>, Duration> {
        let mut state = self.lock();
        let is_probe = match *state {
            State::Closed(_) => false,
            State::Open(until) => {
                let left = until.saturating_duration_since(now);
                if !left.is_zero() {
                    return Err(left);
                }
                *state = State::Probing;
                true
            }
            State::Probing => return Err(PROBING_RETRY),
        };
        Ok(Pass { breaker: self, is_probe, is_settled: false, at: now })
    }

    /// Whether calls are refused at `now`, or one of them is a probe.
    pub fn is_open(&self, now: Instant) -> bool {
        match *self.lock() {
            State::Closed(_) => false,
            // Then it waits for somebody to try.
            State::Open(until) => now < until,
            State::Probing => true,
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Pass<'_> {
    /// The provider is there.
    pub fn answered(mut self) {
        self.is_settled = true;
        let mut state = self.breaker.lock();
        if self.is_probe || matches!(*state, State::Closed(_)) {
            *state = State::Closed(0);
        }
    }

    /// The provider is not available at `now`.
    pub fn failed(mut self, now: Instant) {
        self.is_settled = true;
        let mut state = self.breaker.lock();
        match *state {
            State::Closed(failures) if failures + 1 < FAILURES => *state = State::Closed(failures + 1),
            State::Closed(_) => open(&mut state, now),
            State::Probing if self.is_probe => open(&mut state, now),
            // A call from before it opened.
            State::Open(_) | State::Probing => {}
        }
    }
}

fn open(state: &mut State, now: Instant) {
    tracing::warn!("the provider of the language model keeps failing: calls are refused for {OPEN_FOR:?}");
    *state = State::Open(now + OPEN_FOR);
}

impl Drop for Pass<'_> {
    fn drop(&mut self) {
        if self.is_probe && !self.is_settled {
            // The next one probes.
            *self.breaker.lock() = State::Open(self.at);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fail(breaker: &Breaker, now: Instant, times: u32) {
        for _ in 0..times {
            breaker.admit(now).expect("closed").failed(now);
        }
    }

    #[test]
    fn it_opens_after_failures_in_a_row_and_a_probe_closes_it() {
        let (breaker, mut now) = (Breaker::default(), Instant::now());
        fail(&breaker, now, FAILURES - 1);
        breaker.admit(now).expect("closed").answered();
        fail(&breaker, now, FAILURES - 1);
        assert!(!breaker.is_open(now), "not in a row");
        fail(&breaker, now, 1);
        assert_eq!(breaker.admit(now).err(), Some(OPEN_FOR));

        assert!(breaker.is_open(now));
        now += OPEN_FOR;
        assert!(!breaker.is_open(now), "whoever asks now is let through");
        let probe = breaker.admit(now).expect("half open");
        assert_eq!(breaker.admit(now).err(), Some(PROBING_RETRY), "one at a time");
        probe.failed(now);
        assert_eq!(breaker.admit(now).err(), Some(OPEN_FOR));

        now += OPEN_FOR;
        drop(breaker.admit(now).expect("half open"));
        breaker.admit(now).expect("the dropped one said nothing").answered();
        assert!(!breaker.is_open(now));
        fail(&breaker, now, FAILURES - 1);
        assert!(!breaker.is_open(now), "it counts anew");
    }

    #[test]
    fn calls_from_before_change_nothing_once_it_is_open() {
        let (breaker, now) = (Breaker::default(), Instant::now());
        let late: Vec<_> = (0..2).map(|_| breaker.admit(now).expect("closed")).collect();
        fail(&breaker, now, FAILURES);
        for (pass, answers) in late.into_iter().zip([true, false]) {
            if answers { pass.answered() } else { pass.failed(now) }
        }
        assert!(breaker.is_open(now));
    }
}
