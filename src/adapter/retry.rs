//! When a call of a model provider is tried again, and what its failures mean to the caller.
//!
//! Three attempts in all (`spec/engramia/20` §14), and only where another attempt can help: a busy or broken provider,
//! a lost connection. A refused key or request stays refused.

use std::hash::{BuildHasher, RandomState};
use std::time::Duration;

use reqwest::StatusCode;

use crate::ports::{Attempt, ModelError, Trouble};

/// Calls made for one answer, at most.
const ATTEMPTS: u32 = 3;
/// Longest pause before the second attempt; it doubles with each further one.
const FIRST_PAUSE: Duration = Duration::from_millis(250);
/// Longest pause a provider may ask for. Somebody waits for the answer: beyond this it is better to fail now than to
/// wait, and pointless to come back sooner than asked.
const LONGEST_PAUSE: Duration = Duration::from_secs(5);

/// Why one attempt gave no answer. The texts carry no key and no answer body.
#[derive(Debug, thiserror::Error)]
pub(super) enum Failure {
    /// The provider answered, but not with success.
    #[error("HTTP {}{}", status.as_u16(), code.as_ref().map_or_else(String::new, |code| format!(" ({code})")))]
    Status {
        /// Status of the answer.
        status: StatusCode,
        /// The provider's own word for the error, such as `model_not_found`.
        code: Option<String>,
        /// When the provider wants to be asked again.
        retry_after: Option<Duration>,
    },
    /// No connection.
    #[error("no connection")]
    Unreachable(#[source] anyhow::Error),
    /// No answer, or only a part of one.
    #[error("no answer")]
    Transport(#[source] anyhow::Error),
    /// An answer that is not what the provider documents.
    #[error("{0}")]
    Unusable(String),
}

impl Failure {
    /// How long to wait before attempt number `attempts` + 1; `None` where trying again is pointless.
    fn pause(&self, attempts: u32) -> Option<Duration> {
        let asked = match self {
            Self::Status { status, retry_after, .. }
                if *status == StatusCode::TOO_MANY_REQUESTS || status.is_server_error() =>
            {
                retry_after.unwrap_or_default()
            }
            Self::Unreachable(_) | Self::Transport(_) => Duration::ZERO,
            Self::Status { .. } | Self::Unusable(_) => return None,
        };
        (attempts < ATTEMPTS && asked <= LONGEST_PAUSE).then(|| asked.max(back_off(attempts)))
    }

    /// Whether the provider will refuse the same request again.
    pub(super) fn is_refusal(&self) -> bool {
        matches!(self, Self::Status { status, .. } if status.is_client_error()
            && !matches!(*status, StatusCode::TOO_MANY_REQUESTS | StatusCode::REQUEST_TIMEOUT))
    }
}

impl From<Failure> for ModelError {
    fn from(failure: Failure) -> Self {
        match failure {
            Failure::Unusable(what) => Self::Malformed(what),
            refusal if refusal.is_refusal() => Self::Rejected(refusal.into()),
            other => Self::Unavailable(other.into()),
        }
    }
}

impl From<Failure> for Attempt {
    fn from(failure: Failure) -> Self {
        let (kind, retry_after) = match &failure {
            Failure::Unusable(_) => (Trouble::Malformed, None),
            Failure::Unreachable(_) => (Trouble::Unreachable, None),
            Failure::Transport(_) => (Trouble::Silent, None),
            Failure::Status { status, retry_after, .. } => {
                let kind = match *status {
                    StatusCode::TOO_MANY_REQUESTS => Trouble::RateLimited,
                    _ if failure.is_refusal() => Trouble::Refused,
                    _ => Trouble::Failed,
                };
                (kind, *retry_after)
            }
        };
        Self { kind, retry_after, source: failure.into() }
    }
}

/// Calls `attempt` until it succeeds, fails for good, or has failed [`ATTEMPTS`] times.
///
/// # Errors
/// The last failure.
pub(super) async fn with_retries<T, F>(attempt: impl Fn() -> F) -> Result<T, Failure>
where
    F: Future<Output = Result<T, Failure>>,
{
    let mut attempts = 0;
    loop {
        let failure = match attempt().await {
            Ok(answer) => return Ok(answer),
            Err(failure) => failure,
        };
        attempts += 1;
        let Some(pause) = failure.pause(attempts) else {
            return Err(failure);
        };
        tracing::debug!(%failure, attempts, ?pause, "a model provider is asked again");
        tokio::time::sleep(pause).await;
    }
}

/// Exponential, and random between half and the whole, so that callers who failed together do not return together.
fn back_off(attempts: u32) -> Duration {
    let whole = FIRST_PAUSE.saturating_mul(1 << attempts.saturating_sub(1).min(8)).min(LONGEST_PAUSE);
    // Every `RandomState` has keys of its own: the hash of anything is random enough for a pause.
    let random = RandomState::new().hash_one(attempts) as u32;
    whole.mul_f64(0.5 + 0.5 * f64::from(random) / f64::from(u32::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicU32, Ordering};

    fn status(code: u16, retry_after: Option<u64>) -> Failure {
        let status = StatusCode::from_u16(code).expect("a status");
        Failure::Status { status, code: None, retry_after: retry_after.map(Duration::from_secs) }
    }

    #[test]
    fn only_what_may_pass_is_tried_again() {
        for passing in [429, 500, 502, 503, 529] {
            assert!(status(passing, None).pause(1).is_some(), "{passing}");
        }
        for final_ in [302, 400, 401, 403, 404, 422] {
            assert!(status(final_, Some(1)).pause(1).is_none(), "{final_}");
        }
        assert!(Failure::Transport(anyhow::anyhow!("reset")).pause(2).is_some());
        assert!(Failure::Transport(anyhow::anyhow!("reset")).pause(ATTEMPTS).is_none());
        assert!(Failure::Unusable("prose".into()).pause(1).is_none());
    }

    #[test]
    fn pauses_grow_and_are_bounded() {
        for attempts in 1..40 {
            let whole = (250u64 << (attempts - 1).min(8)).min(5000);
            let pause = back_off(attempts).as_millis();
            assert!((u128::from(whole) / 2..=u128::from(whole)).contains(&pause), "{attempts}: {pause}");
        }
    }

    #[test]
    fn the_provider_may_ask_for_a_bounded_pause() {
        assert_eq!(status(429, Some(2)).pause(1), Some(Duration::from_secs(2)));
        assert!(status(429, Some(0)).pause(1) >= Some(FIRST_PAUSE / 2));
        assert_eq!(status(503, Some(6)).pause(1), None);
    }

    #[test]
    fn failures_keep_their_meaning() {
        for refused in [400, 401, 403, 404, 413, 422] {
            assert!(matches!(status(refused, None).into(), ModelError::Rejected(_)), "{refused}");
        }
        for passing in [302, 408, 429, 500, 503] {
            assert!(matches!(status(passing, None).into(), ModelError::Unavailable(_)), "{passing}");
        }
        assert!(matches!(Failure::Unusable("x".into()).into(), ModelError::Malformed(_)));
        assert!(matches!(Failure::Transport(anyhow::anyhow!("x")).into(), ModelError::Unavailable(_)));
        let named =
            Failure::Status { status: StatusCode::NOT_FOUND, code: Some("model_not_found".into()), retry_after: None };
        assert_eq!(named.to_string(), "HTTP 404 (model_not_found)");
    }

    #[tokio::test]
    async fn gives_up_after_three_attempts() {
        let calls = AtomicU32::new(0);
        let outcome: Result<(), _> = with_retries(|| async {
            calls.fetch_add(1, Ordering::Relaxed);
            Err(status(500, None))
        })
        .await;
        assert!(outcome.is_err());
        assert_eq!(calls.into_inner(), ATTEMPTS);
    }
}
