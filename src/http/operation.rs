//! Operations that run while the client waits, or, with `Prefer: respond-async` (RFC 7240), as a job.

use std::time::Duration;

use axum::Json;
use axum::extract::{FromRequest, Request};
use axum::http::{HeaderMap, HeaderName, StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde::Serialize;
use utoipa::ToSchema;

use super::AppState;
use super::extract::{self, BULK_FACTOR};
use super::fields::FromFields;
use super::problem::Problem;
use super::usage;
use crate::domain::{Caller, JobOperation, JobState, Permission};
use crate::service::gateway::Meter;
use crate::service::jobs::Finish;
use crate::service::{self, Services};

const PREFERENCE_APPLIED: HeaderName = HeaderName::from_static("preference-applied");
const MAX_EXECUTION: HeaderName = HeaderName::from_static("x-max-execution-seconds");
const RESPOND_ASYNC: &str = "respond-async";
/// Longest time of an attempt that a request may ask for.
const LONGEST_EXECUTION: Duration = Duration::from_secs(7 * 24 * 3600);

/// The body of an operation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Size {
    /// There is none; whatever is sent is not read.
    None,
    /// Up to the configured size.
    Plain,
    /// Up to [`BULK_FACTOR`] times that.
    Bulk,
}

/// An operation that may run as a job; the type itself is its validated input. The worker reads the stored body by the
/// same [`FromFields`] as the route, and its result is the body that the route would have answered.
pub trait Operation: FromFields + Send + 'static {
    /// Its name.
    const NAME: JobOperation;
    /// What a caller needs, when it submits and when the job runs.
    const PERMISSION: Permission;
    /// Its body.
    const SIZE: Size;
    /// Whether it asks the language model; its answer then says what it took.
    const ASKS_MODEL: bool = false;
    /// What the use case gives.
    type Outcome: Send + Sync;
    /// What the route answers.
    type Response: Serialize;

    /// Runs the use case, which counts in `meter` what it asks of the model, and may settle `finish` in its last unit of
    /// work.
    fn run(
        self,
        services: &Services,
        caller: &Caller,
        meter: &Meter,
        finish: &Finish<'_, Self::Outcome>,
    ) -> impl Future<Output = service::Result<Self::Outcome>> + Send;

    /// The answer, texts of the model cut to so many characters.
    fn response(outcome: &Self::Outcome, longest: usize) -> Self::Response;

    /// What the answer of a request that waits says beside its body.
    fn headers(_: &Self::Outcome) -> HeaderMap {
        HeaderMap::new()
    }
}

/// A request for an operation, checked.
pub struct Asked<T> {
    input: T,
    /// As a job: the body as it was sent, and how long one attempt may take.
    later: Option<(String, Option<Duration>)>,
}

/// A job was taken on.
#[derive(Serialize, ToSchema)]
pub struct JobAccepted {
    /// Where to ask for it: `GET /v1/jobs/{job_id}`.
    job_id: String,
    /// Always `pending`.
    #[schema(example = "pending")]
    status: &'static str,
}

impl<T: Operation> FromRequest<AppState> for Asked<T> {
    type Rejection = Problem;

    async fn from_request(request: Request, state: &AppState) -> Result<Self, Problem> {
        let wanted = prefers_job(request.headers()).then(|| max_execution(request.headers()));
        let plain = state.config.server.max_body_size;
        let text = match T::SIZE {
            Size::None => Vec::from("{}"),
            Size::Plain => extract::read_bytes(request, plain).await?,
            Size::Bulk => extract::read_bytes(request, plain.saturating_mul(BULK_FACTOR)).await?,
        };
        let input = extract::object(&text)?;
        // What was read as JSON is Unicode.
        let later = wanted.map(|most| (String::from_utf8_lossy(&text).into_owned(), most));
        Ok(Self { input, later })
    }
}

impl<T: Operation> Asked<T> {
    /// Runs it and answers, or queues it.
    ///
    /// # Errors
    /// What the use case refuses, or a store that fails.
    pub async fn answer(self, state: &AppState, caller: &Caller) -> Result<Response, Problem> {
        let services = &state.services;
        let Some((params, most)) = self.later else {
            let meter = Meter::default();
            let outcome = self.input.run(services, caller, &meter, &Finish::at_once()).await.map_err(Problem::from);
            let longest = state.config.models.max_response;
            let answered = outcome.map(|outcome| (T::headers(&outcome), Json(T::response(&outcome, longest))));
            let mut response = answered.into_response();
            if T::ASKS_MODEL {
                usage::say(&mut response, services.gateway.as_ref(), &meter);
            }
            return Ok(response);
        };
        let job_id = services.submit_job(caller, T::NAME, params, most).await?;
        state.metrics.jobs_submitted.with_label_values(&[T::NAME.as_str()]).inc();
        let headers =
            [(header::LOCATION, format!("/v1/jobs/{job_id}")), (PREFERENCE_APPLIED, RESPOND_ASYNC.to_owned())];
        let body = Json(JobAccepted { job_id, status: JobState::Pending.as_str() });
        Ok((StatusCode::ACCEPTED, headers, body).into_response())
    }
}

/// Reads the stored body of a job.
///
/// # Errors
/// Everything that is wrong with it.
pub fn stored<T: FromFields>(params: &str) -> Result<T, Problem> {
    extract::object(params.as_bytes())
}

/// Whether one of the preferences is `respond-async`, in any case, whatever its value and parameters say.
fn prefers_job(headers: &HeaderMap) -> bool {
    let texts = headers.get_all("prefer").iter().filter_map(|value| value.to_str().ok());
    texts.flat_map(preferences).any(|name| name.eq_ignore_ascii_case(RESPOND_ASYNC))
}

/// Names of the preferences of one header. Commas inside of quotes separate nothing.
fn preferences(text: &str) -> Vec<&str> {
    let (mut quoted, mut escaped) = (false, false);
    let items = text.split(move |c: char| {
        let separates = c == ',' && !quoted;
        match c {
            _ if escaped => escaped = false,
            '\\' if quoted => escaped = true,
            '"' => quoted = !quoted,
            _ => {}
        }
        separates
    });
    items.map(|item| item.split([';', '=']).next().unwrap_or_default().trim()).collect()
}

/// Whole seconds above zero; anything else is as if it was not there.
fn max_execution(headers: &HeaderMap) -> Option<Duration> {
    let seconds: u64 = headers.get(MAX_EXECUTION)?.to_str().ok()?.trim().parse().ok()?;
    (seconds > 0).then(|| Duration::from_secs(seconds).min(LONGEST_EXECUTION))
}

/// The answer of an operation as the text that a job keeps: nothing is cut.
///
/// # Errors
/// When it cannot be written as JSON.
pub fn answer_text<T: Operation>(outcome: &T::Outcome) -> serde_json::Result<String> {
    serde_json::to_string(&T::response(outcome, usize::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(name: &'static str, values: &[&str]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for value in values {
            headers.append(name, value.parse().expect("a header value"));
        }
        headers
    }

    #[test]
    fn preferences_are_read_as_rfc_7240_says() {
        let wants = |values: &[&str]| prefers_job(&headers("prefer", values));
        for values in [
            &["respond-async"][..],
            &["Respond-ASYNC"],
            &["respond-async, wait=10"],
            &["wait=10 , respond-async"],
            &["return=minimal", "respond-async"],
            &["respond-async; foo=\"bar\""],
            &["respond-async=\"\""],
            &["x=\"a, \\\"b\", respond-async"],
            &[",, respond-async"],
        ] {
            assert!(wants(values), "{values:?}");
        }
        for values in [
            &[][..],
            &[""],
            &["wait=5"],
            &["respond-sync"],
            &["respond-asynchronously"],
            &["wait=1; respond-async"],
            &["x=\"respond-async\""],
            &["x=\"a, respond-async\""],
            &["x=\"a, respond-async"],
        ] {
            assert!(!wants(values), "{values:?}");
        }
    }

    #[test]
    fn only_whole_seconds_bound_an_attempt() {
        let most = |value: &str| max_execution(&headers("x-max-execution-seconds", &[value]));
        assert_eq!(most(" 5 "), Some(Duration::from_secs(5)));
        assert_eq!(most("99999999999"), Some(LONGEST_EXECUTION));
        for bad in ["0", "-1", "1.5", "soon", ""] {
            assert_eq!(most(bad), None, "{bad}");
        }
    }
}
