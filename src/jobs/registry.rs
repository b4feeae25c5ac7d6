//! Which operations run as jobs: one line each.

use std::pin::Pin;
use std::time::Duration;

use crate::domain::job::HeldJob;
use crate::domain::{Caller, JobOperation, Permission};
use crate::http::operation::{self, Operation};
use crate::http::problem::Problem;
use crate::http::v1::aging::{Aging, FeedbackDecay};
use crate::http::v1::analytics::RollupRequest;
use crate::http::v1::compose::ComposeRequest;
use crate::http::v1::retention::ApplyRequest;
use crate::http::v1::transfer::ImportBody;
use crate::service::evaluate::Evaluate;
use crate::service::evolve::Evolve;
use crate::service::gateway::Meter;
use crate::service::jobs::Finish;
use crate::service::{ServiceError, Services};

/// Every operation that a worker knows.
const KNOWN: &[Known] = &[
    Known::of::<Evaluate>(),
    Known::of::<ComposeRequest>(),
    Known::of::<Evolve>(),
    Known::of::<Aging>(),
    Known::of::<FeedbackDecay>(),
    Known::of::<ImportBody>(),
    Known::of::<RollupRequest>(),
    Known::of::<ApplyRequest>(),
];

/// An operation that a worker knows.
pub struct Known {
    name: JobOperation,
    /// What its submitter must be allowed to do still.
    pub permission: Permission,
    /// Runs it once.
    pub run: Run,
}

type Run = for<'a> fn(&'a Services, &'a Caller, &'a HeldJob) -> Pin<Box<dyn Future<Output = Done> + Send + 'a>>;

/// What came of a run: the answer, unless it is settled already with the effects.
pub type Done = Result<Option<String>, Failure>;

/// Why a run failed.
#[derive(Debug)]
pub enum Failure {
    /// For good, for this reason.
    ForGood(String),
    /// For this reason, and may succeed later.
    ForNow {
        /// The reason.
        error: String,
        /// When to come back at the earliest.
        wait: Option<Duration>,
    },
    /// The job is no longer ours, or was cancelled.
    Lost,
}

impl From<Problem> for Failure {
    fn from(problem: Problem) -> Self {
        Self::ForGood(problem.sentence())
    }
}

impl From<ServiceError> for Failure {
    fn from(error: ServiceError) -> Self {
        if matches!(error, ServiceError::JobLost) {
            return Self::Lost;
        }
        let transient = error.is_transient();
        let problem = Problem::from(error);
        let (error, wait) = (problem.sentence(), problem.wait());
        if transient { Self::ForNow { error, wait } } else { Self::ForGood(error) }
    }
}

impl Known {
    const fn of<T: Operation>() -> Self {
        Self { name: T::NAME, permission: T::PERMISSION, run: |s, c, j| Box::pin(run::<T>(s, c, j)) }
    }
}

/// The operation of this name; `None` if this version cannot run it.
pub fn known(name: JobOperation) -> Option<&'static Known> {
    KNOWN.iter().find(|known| known.name == name)
}

async fn run<T: Operation>(services: &Services, caller: &Caller, job: &HeldJob) -> Done {
    let input: T = operation::stored(&job.params)?;
    let finish = Finish::of_job(job, services.clock.as_ref(), operation::answer_text::<T>);
    let outcome = input.run(services, caller, &Meter::default(), &finish).await?;
    if finish.is_settled() {
        return Ok(None);
    }
    let text = operation::answer_text::<T>(&outcome).map_err(|error| ServiceError::Unwritable(error.into()))?;
    Ok(Some(text))
}
