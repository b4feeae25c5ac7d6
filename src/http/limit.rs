//! Rate limits: token buckets per address and class of route, and per key (`spec/engramia/00` §5.2, W-30).

use std::cell::Cell;
use std::net::IpAddr;
use std::num::NonZeroU32;
use std::time::Duration;

use axum::extract::{Request, State};
use axum::http::{HeaderMap, HeaderName};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use governor::clock::{Clock, DefaultClock};
use governor::middleware::StateInformationMiddleware;
use governor::state::keyed::DefaultKeyedStateStore;
use governor::{Quota, RateLimiter};

use super::AppState;
use super::client::Client;
use super::problem::{ErrorCode, Problem};
use crate::config::Limits as Settings;
use crate::domain::audit::AuditAction;

/// Routes that call a language model.
const EXPENSIVE: [&str; 3] = ["/v1/evaluate", "/v1/compose", "/v1/evolve"];
/// Probes and pages of the server itself are not limited by address (W-30); `/v1/health` still counts for its key. Nor
/// are signed events, which come from few addresses.
const EXEMPT: [&str; 6] = ["/livez", "/readyz", "/v1/health", "/metrics", "/openapi.json", "/v1/billing/webhook"];

/// Requests a minute, of the headers that clients read (draft-ietf-httpapi-ratelimit-headers-03).
pub const LIMIT: HeaderName = HeaderName::from_static("ratelimit-limit");
/// Seconds until all of them are there again.
pub const RESET: HeaderName = HeaderName::from_static("ratelimit-reset");
/// Requests that are left now.
pub const REMAINING: HeaderName = HeaderName::from_static("ratelimit-remaining");

tokio::task_local! {
    /// What the tightest bucket has left that the request under way has taken from.
    static LEFT: Cell<Option<Allowance>>;
}

/// What a bucket has left.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Allowance {
    limit: u32,
    remaining: u32,
    /// Seconds until the bucket is full.
    reset: u32,
}

impl Allowance {
    /// Remembers it for the answer, unless another bucket is tighter.
    fn note(self) {
        // Outside of a request there is nobody to tell.
        let noting = LEFT.try_with(|left| {
            if left.get().is_none_or(|other| self.remaining < other.remaining) {
                left.set(Some(self));
            }
        });
        noting.unwrap_or_default();
    }

    fn say(self, headers: &mut HeaderMap) {
        headers.insert(LIMIT, self.limit.into());
        headers.insert(REMAINING, self.remaining.into());
        headers.insert(RESET, self.reset.into());
    }
}

/// The buckets of this process.
pub struct Limits {
    standard: Buckets<Option<IpAddr>>,
    expensive: Buckets<Option<IpAddr>>,
    key: Buckets<u64>,
}

struct Buckets<K: Clone + std::hash::Hash + Eq> {
    limiter: RateLimiter<K, DefaultKeyedStateStore<K>, DefaultClock, StateInformationMiddleware>,
    clock: DefaultClock,
    per_minute: NonZeroU32,
}

impl Limits {
    /// Buckets of the configured sizes.
    pub fn new(settings: &Settings) -> Self {
        Self {
            standard: Buckets::new(settings.per_ip),
            expensive: Buckets::new(settings.expensive),
            key: Buckets::new(settings.per_key),
        }
    }

    /// Takes one request from the bucket of a key.
    ///
    /// # Errors
    /// The limit, and the answer.
    pub fn check_key(&self, key: u64) -> Result<(), (u32, Problem)> {
        self.key.check(&key).map_err(|wait| {
            let max = self.key.per_minute.get();
            (max, refusal(format!("Rate limit exceeded. Max {max} requests per minute per API key."), wait))
        })
    }

    fn check_address(&self, path: &str, address: Option<IpAddr>) -> Result<(), (u32, Problem)> {
        let buckets = if EXPENSIVE.contains(&path) { &self.expensive } else { &self.standard };
        buckets.check(&address.map(network)).map_err(|wait| {
            let max = buckets.per_minute.get();
            (max, refusal(format!("Rate limit exceeded. Max {max} requests per minute."), wait))
        })
    }

    /// Forgets buckets that are full again, so that memory is bounded by the traffic of a minute.
    pub fn forget_idle(&self) {
        self.standard.limiter.retain_recent();
        self.expensive.limiter.retain_recent();
        self.key.limiter.retain_recent();
    }
}

impl<K: Clone + std::hash::Hash + Eq> Buckets<K> {
    fn new(per_minute: NonZeroU32) -> Self {
        Self {
            limiter: RateLimiter::keyed(Quota::per_minute(per_minute)).with_middleware(),
            clock: DefaultClock::default(),
            per_minute,
        }
    }

    /// Takes one, or says after which time the whole minute's allowance is there again: that is what the guide's
    /// `Retry-After` promises.
    fn check(&self, key: &K) -> Result<(), Duration> {
        let limit = self.per_minute.get();
        match self.limiter.check_key(key) {
            Ok(state) => {
                let remaining = state.remaining_burst_capacity().min(limit);
                let missing = u64::from(limit - remaining) * 60;
                // At most the sixty seconds of a whole minute.
                let reset = missing.div_ceil(u64::from(limit)) as u32;
                Allowance { limit, remaining, reset }.note();
                Ok(())
            }
            Err(until) => {
                let next = until.wait_time_from(self.clock.now());
                let interval = Duration::from_secs(60) / limit;
                let wait = next + interval * (limit - 1);
                Allowance { limit, remaining: 0, reset: wait.as_secs_f64().ceil() as u32 }.note();
                Err(wait)
            }
        }
    }
}

/// One bucket for an IPv4 address or an IPv6 /64, which is what one household or server has.
fn network(address: IpAddr) -> IpAddr {
    match address {
        IpAddr::V4(_) => address,
        IpAddr::V6(v6) => IpAddr::V6((u128::from(v6) & !0 << 64).into()),
    }
}

fn refusal(text: String, wait: Duration) -> Problem {
    Problem::new(ErrorCode::RateLimited, text).retry_after(wait)
}

/// Limits by address, before anything is read or checked, and says in the answer what is left.
pub async fn layer(State(state): State<AppState>, request: Request, next: Next) -> Response {
    let answering = async {
        let mut response = limited(&state, request, next).await;
        if let Ok(Some(left)) = LEFT.try_with(Cell::get) {
            left.say(response.headers_mut());
        }
        response
    };
    LEFT.scope(Cell::default(), answering).await
}

async fn limited(state: &AppState, request: Request, next: Next) -> Response {
    let path = request.uri().path();
    if !EXEMPT.contains(&path) && !path.starts_with("/docs") {
        let address = request.extensions().get::<Client>().and_then(|client| client.0);
        if let Err((limit, problem)) = state.limits.check_address(path, address) {
            let audit = &state.services.audit;
            audit.note(
                None,
                audit.event(AuditAction::RateLimited, None, address).with("path", path).with("limit", limit),
            );
            return problem.into_response();
        }
    }
    next.run(request).await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_burst_empties_the_bucket_and_the_wait_refills_it() {
        let buckets = Buckets::new(NonZeroU32::new(3).expect("three"));
        for _ in 0..3 {
            assert_eq!(buckets.check(&1), Ok(()));
        }
        let wait = buckets.check(&1).expect_err("empty");
        assert!(wait <= Duration::from_secs(60) && wait > Duration::from_secs(58), "{wait:?}");
        assert_eq!(buckets.check(&2), Ok(()), "another key has its own");
    }

    #[test]
    fn an_ipv6_network_shares_a_bucket() {
        let a: IpAddr = "2001:db8::1".parse().expect("an address");
        let b: IpAddr = "2001:db8::2:3".parse().expect("an address");
        assert_eq!(network(a), network(b));
    }
}
