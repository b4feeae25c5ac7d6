//! Jobs: operations that run in the background, as a state machine without I/O (`spec/engramia/40` §9).
//!
//! A worker holds a job by its *attempt*: the number is raised whenever somebody takes the job, so that whoever comes
//! late with an older number changes nothing.

use std::net::IpAddr;
use std::time::Duration;

use super::{Role, Scope, Timestamp, words};

words! {
    /// Where a job stands.
    JobState {
        /// Waits for its time or for a worker.
        Pending = "pending",
        /// A worker holds it.
        Running = "running",
        Completed = "completed",
        Failed = "failed",
        Cancelled = "cancelled",
        /// Took too long, in one attempt or altogether.
        Expired = "expired"
    }
}

words! {
    /// What a job does.
    JobOperation {
        Evaluate = "evaluate",
        Compose = "compose",
        Evolve = "evolve",
        Aging = "aging",
        FeedbackDecay = "feedback_decay",
        Import = "import",
        RetentionCleanup = "retention_cleanup",
        RoiRollup = "roi_rollup"
    }
}

impl JobState {
    /// Whether nothing will change it any more.
    pub fn is_final(self) -> bool {
        !matches!(self, Self::Pending | Self::Running)
    }
}

/// A job as its submitter sees it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Job {
    /// UUIDv7.
    pub id: String,
    /// What it does.
    pub operation: JobOperation,
    /// Where it stands.
    pub state: JobState,
    /// The answer as JSON text, once it is completed.
    pub result: Option<String>,
    /// What went wrong last, in public words.
    pub error: Option<String>,
    /// How often it was begun.
    pub attempts: u32,
    /// When it was submitted.
    pub created_at: Timestamp,
    /// When it was begun last.
    pub started_at: Option<Timestamp>,
    /// When it came to its end.
    pub completed_at: Option<Timestamp>,
}

/// Who submitted a job: it runs with these rights, unless they have shrunk meanwhile.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Submitter {
    /// Id of the key; `None` in open mode.
    pub key_id: Option<String>,
    /// Role of the key.
    pub role: Role,
    /// Most patterns its scope may hold when it stores one more.
    pub max_patterns: Option<u32>,
    /// Address it came from.
    pub address: Option<IpAddr>,
    /// Id of the request.
    pub request_id: Option<String>,
}

/// A job to be queued.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewJob {
    /// UUIDv7, so that the newest has the greatest id.
    pub id: String,
    /// What it does.
    pub operation: JobOperation,
    /// Its input, a JSON object as text. Forgotten when the job comes to its end.
    pub params: String,
    /// For whom.
    pub submitter: Submitter,
    /// When it is submitted; it may begin at once.
    pub created_at: Timestamp,
    /// From when it is not worth doing any more.
    pub expires_at: Timestamp,
    /// Longest time of one attempt.
    pub max_execution: Duration,
}

/// A job in the hands of a worker.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HeldJob {
    /// Where it works.
    pub scope: Scope,
    /// Its id.
    pub id: String,
    /// The number of this attempt.
    pub attempt: u32,
    /// What it does.
    pub operation: JobOperation,
    /// Its input.
    pub params: String,
    /// For whom.
    pub submitter: Submitter,
    /// What an earlier attempt got done, as JSON text.
    pub progress: Option<String>,
    /// Since when it could have begun.
    pub ready_at: Timestamp,
    /// Longest time of one attempt.
    pub max_execution: Duration,
}

/// What becomes of a job that a worker held.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// It is done; the answer as JSON text.
    Completed(String),
    /// It failed for good.
    Failed(String),
    /// It failed, and may succeed later.
    Retry {
        /// What went wrong.
        error: String,
        /// When to try again.
        at: Timestamp,
    },
    /// It took too long.
    Expired(String),
    /// It was stopped because somebody wished so.
    Cancelled,
    /// The worker stops before the job is done; the attempt does not count.
    Released(Timestamp),
    /// The worker was never heard of again.
    Lost(Timestamp),
}

/// What the rules need to know of a stored job.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Standing {
    /// Where it stands.
    pub state: JobState,
    /// The number of the newest attempt.
    pub attempt: u32,
    /// Attempts in all.
    pub max_attempts: u32,
    /// Whether somebody wishes it to stop.
    pub cancel_requested: bool,
}

/// What a verdict makes of a job.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Outcome {
    /// Where it stands then.
    pub state: JobState,
    /// The answer.
    pub result: Option<String>,
    /// What went wrong; a retry shows it, too.
    pub error: Option<String>,
    /// When it may begin again.
    pub ready_at: Option<Timestamp>,
    /// Attempts in all.
    pub max_attempts: u32,
}

/// What a wish to cancel does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cancelling {
    /// The job is cancelled.
    AtOnce,
    /// Its worker is told; it will not be completed.
    Requested,
    /// There is nothing left to cancel.
    TooLate,
}

/// Attempts of a job, the first one included; and after one that got something done.
pub const MAX_ATTEMPTS: u32 = 3;
/// What is said of a job whose time was over before it was done.
const EXPIRED: &str = "JobExpired: Job expired (exceeded time limit).";
/// What is said of a job whose worker was never heard of again.
const LOST: &str = "WorkerLost: The server stopped while the job was running.";
/// Longest wait before another attempt.
const LONGEST_WAIT: Duration = Duration::from_secs(60);

impl Standing {
    /// What a verdict of whoever holds `attempt` makes of the job; `None` if it is no longer theirs, or is not to be
    /// completed because somebody cancelled it.
    pub fn settled(&self, attempt: u32, verdict: Verdict) -> Option<Outcome> {
        if self.state != JobState::Running || self.attempt != attempt {
            return None;
        }
        let mut outcome = self.turned(JobState::Pending);
        match verdict {
            Verdict::Completed(_) if self.cancel_requested => return None,
            _ if self.cancel_requested => outcome.state = JobState::Cancelled,
            Verdict::Completed(result) => (outcome.state, outcome.result) = (JobState::Completed, Some(result)),
            Verdict::Cancelled => outcome.state = JobState::Cancelled,
            Verdict::Expired(error) => (outcome.state, outcome.error) = (JobState::Expired, Some(error)),
            Verdict::Failed(error) => (outcome.state, outcome.error) = (JobState::Failed, Some(error)),
            Verdict::Retry { error, at } => {
                outcome.error = Some(error);
                self.again(&mut outcome, at);
            }
            Verdict::Lost(at) => {
                outcome.error = Some(LOST.to_owned());
                self.again(&mut outcome, at);
            }
            Verdict::Released(at) => {
                outcome.max_attempts += 1;
                outcome.ready_at = Some(at);
            }
        }
        Some(outcome)
    }

    fn again(&self, outcome: &mut Outcome, at: Timestamp) {
        if self.attempt < self.max_attempts {
            outcome.ready_at = Some(at);
        } else {
            outcome.state = JobState::Failed;
        }
    }

    /// The job once it is cancelled while it waits.
    pub fn cancelled(&self) -> Outcome {
        self.turned(JobState::Cancelled)
    }

    /// The job once its time is over, whoever holds it.
    pub fn expired(&self) -> Outcome {
        Outcome { error: Some(EXPIRED.to_owned()), ..self.turned(JobState::Expired) }
    }

    fn turned(&self, state: JobState) -> Outcome {
        Outcome { state, result: None, error: None, ready_at: None, max_attempts: self.max_attempts }
    }

    /// What a wish to cancel does now.
    pub fn cancelling(&self) -> Cancelling {
        match self.state {
            JobState::Pending => Cancelling::AtOnce,
            JobState::Running => Cancelling::Requested,
            _ => Cancelling::TooLate,
        }
    }
}

/// How long to wait after a failed attempt: 2, 4, 8 ... seconds, by a random number up to half as much more.
pub fn wait_after(attempt: u32, random: u32) -> Duration {
    let plain = Duration::from_secs(1 << attempt.clamp(1, 6)).min(LONGEST_WAIT);
    plain + plain.mul_f64(f64::from(random) / f64::from(u32::MAX) / 2.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    const RUNNING: Standing =
        Standing { state: JobState::Running, attempt: 2, max_attempts: 3, cancel_requested: false };

    fn at() -> Timestamp {
        Timestamp::UNIX_EPOCH
    }

    fn verdicts() -> Vec<Verdict> {
        let text = || "E: e.".to_owned();
        vec![
            Verdict::Completed("{}".into()),
            Verdict::Failed(text()),
            Verdict::Retry { error: text(), at: at() },
            Verdict::Expired(text()),
            Verdict::Cancelled,
            Verdict::Released(at()),
            Verdict::Lost(at()),
        ]
    }

    fn states(of: Standing) -> Vec<Option<JobState>> {
        verdicts().into_iter().map(|verdict| Some(of.settled(2, verdict)?.state)).collect()
    }

    #[test]
    fn a_held_job_becomes_what_its_worker_says() {
        use JobState::{Cancelled, Completed, Expired, Failed, Pending};
        let now = states(RUNNING);
        assert_eq!(now, [Completed, Failed, Pending, Expired, Cancelled, Pending, Pending].map(Some));
        let last = states(Standing { max_attempts: 2, ..RUNNING });
        assert_eq!(last, [Completed, Failed, Failed, Expired, Cancelled, Pending, Failed].map(Some));
        let released = RUNNING.settled(2, Verdict::Released(at())).expect("held");
        assert_eq!((released.max_attempts, released.ready_at), (4, Some(at())), "the attempt does not count");
    }

    #[test]
    fn nobody_settles_what_is_not_theirs() {
        for verdict in verdicts() {
            assert_eq!(RUNNING.settled(1, verdict.clone()), None, "an older attempt");
            for state in JobState::WORDS.iter().filter(|word| **word != "running") {
                let state = state.parse().expect("a state");
                assert_eq!(Standing { state, ..RUNNING }.settled(2, verdict.clone()), None, "{state:?}");
            }
        }
    }

    #[test]
    fn a_cancelled_job_is_never_completed_nor_begun_again() {
        let unwanted = Standing { cancel_requested: true, ..RUNNING };
        let states = states(unwanted);
        assert_eq!(states[0], None);
        assert!(states[1..].iter().all(|state| *state == Some(JobState::Cancelled)), "{states:?}");
    }

    #[test]
    fn cancelling_depends_on_the_state() {
        let cancelling = |state| Standing { state, ..RUNNING }.cancelling();
        assert_eq!(cancelling(JobState::Pending), Cancelling::AtOnce);
        assert_eq!(cancelling(JobState::Running), Cancelling::Requested);
        for state in [JobState::Completed, JobState::Failed, JobState::Cancelled, JobState::Expired] {
            assert!(state.is_final());
            assert_eq!(cancelling(state), Cancelling::TooLate);
        }
    }

    #[test]
    fn waits_grow_and_stay_bounded() {
        assert_eq!((wait_after(1, 0), wait_after(2, 0)), (Duration::from_secs(2), Duration::from_secs(4)));
        assert_eq!(wait_after(1, u32::MAX), Duration::from_secs(3));
        assert_eq!(wait_after(u32::MAX, u32::MAX), LONGEST_WAIT.mul_f64(1.5));
    }
}
