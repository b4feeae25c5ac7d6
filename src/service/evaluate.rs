//! evaluate: independent judges side by side, and what they say together (`spec/engramia/20` §3, `docs/judgement.md`).

use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;

use super::evidence::Seen;
use super::feedback::PreparedIssue;
use super::gateway::{Account, Gateway, Meter};
use super::jobs::Finish;
use super::prompts::{self, Work as Judged};
use super::quotas::Place;
use super::texts::INLINE_BYTES;
use super::{Result, ServiceError, Services, again, answers};
use crate::domain::adversarial;
use crate::domain::score::{Score, Verdict};
use crate::domain::{Caller, EvidenceKind, PatternKey};
use crate::ports::{ModelError, Priority};

/// A piece of work to be judged.
#[derive(Debug, Clone)]
pub struct Evaluate {
    /// What was to be done.
    pub task: String,
    /// The solution.
    pub code: String,
    /// What it printed.
    pub output: Option<String>,
    /// How many judges.
    pub judges: usize,
    /// The pattern whose evidence this is.
    pub pattern: Option<PatternKey>,
}

/// What the judges said.
#[derive(Debug, Clone, PartialEq)]
pub struct Evaluated {
    /// All together.
    pub verdict: Verdict,
    /// Whether the output stands in the code instead of being computed.
    pub adversarial: bool,
    /// Each by itself, in the order in which they were done.
    pub scores: Vec<Score>,
}

impl Services {
    /// Has work judged.
    ///
    /// # Errors
    /// [`ServiceError::PatternNotFound`] before anything is paid for; if no judge gave a verdict, why.
    #[tracing::instrument(target = "engramia::spans", name = "memory.evaluate", skip_all, err)]
    pub async fn evaluate(
        &self,
        caller: &Caller,
        request: Evaluate,
        meter: &Meter,
        finish: &Finish<'_, Evaluated>,
    ) -> Result<Evaluated> {
        let gateway = self.gateway("evaluate")?;
        if let Some(key) = &request.pattern {
            let mut work = self.store.read(&caller.scope).await?;
            work.patterns().find(key).await?.ok_or(ServiceError::PatternNotFound)?;
        }
        let mut place = self.take_place(caller).await?;
        let adversarial = self.reproduces(&request).await?;
        let Evaluate { task, code, output, judges, pattern } = request;
        let (task, code) = (self.redacted(task).await?, self.redacted(code).await?);
        let output = match output {
            Some(output) => Some(self.redacted(output).await?),
            None => None,
        };
        let judged = Judged { task: &task, code: &code, output: output.as_deref() };
        let scores = self.judge(gateway, Account { caller, meter }, &judged, judges).await?;
        let verdict = Verdict::of(&scores).ok_or_else(|| no_verdict(None))?;
        let issue = match verdict.feedback.is_empty() {
            true => None,
            false => Some(self.prepare_issue(&task, &verdict.feedback, verdict.median).await?),
        };
        let evaluated = Evaluated { verdict, adversarial, scores };
        self.book(caller, &evaluated, pattern.as_ref(), issue.as_ref(), &place, finish).await?;
        place.keep();
        if issue.is_some() {
            self.issues_changed(&caller.scope).await;
        }
        Ok(evaluated)
    }

    /// One unit of work with everything that an evaluation leaves behind.
    async fn book(
        &self,
        caller: &Caller,
        evaluated: &Evaluated,
        pattern: Option<&PatternKey>,
        issue: Option<&PreparedIssue>,
        place: &Place,
        finish: &Finish<'_, Evaluated>,
    ) -> Result<()> {
        let verdict = &evaluated.verdict;
        let judged = Seen::of(EvidenceKind::Evaluation, verdict.median, None);
        // Judges that disagree say less.
        let weight = if verdict.disputed { judged.weight / 2.0 } else { judged.weight };
        let judged = Seen { weight, ..judged };
        again(|| async {
            let mut work = self.store.begin(&caller.scope).await?;
            // A score for an output that stands in the code says nothing of what the code does.
            if let Some(key) = pattern.filter(|_| !evaluated.adversarial)
                // A pattern that was deleted meanwhile takes its evidence with it.
                && let Some(pattern) = work.patterns().find(key).await?
            {
                self.observe(work.as_mut(), &pattern, judged.clone()).await?;
            }
            work.statistics().count_runs(0, 0, &[verdict.median]).await?;
            if let Some(issue) = issue {
                self.record_issue(work.as_mut(), issue).await?;
            }
            place.count(work.as_mut()).await?;
            finish.settle(work.as_mut(), evaluated).await?;
            Ok(work.commit().await?)
        })
        .await
    }

    /// The scores of so many judges who know nothing of each other, in the order in which they are done; those that give
    /// none are left out.
    ///
    /// # Errors
    /// If none gives one: why.
    #[tracing::instrument(target = "engramia::spans", name = "llm.multi_eval", skip_all, err)]
    pub(super) async fn judge(
        &self,
        gateway: &Gateway,
        account: Account<'_>,
        work: &Judged<'_>,
        judges: usize,
    ) -> Result<Vec<Score>> {
        let prompts: Vec<_> = (0..judges).map(|_| prompts::judge(self.entropy.as_ref(), work)).collect();
        let mut asked: FuturesUnordered<_> =
            prompts.iter().map(|prompt| self.ask_for(gateway, account, prompt, answers::score)).collect();
        let (mut scores, mut failure) = (Vec::with_capacity(judges), None);
        while let Some(outcome) = asked.next().await {
            match outcome {
                Ok(score) => scores.push(score),
                Err(error @ ServiceError::Store(_)) => return Err(error),
                Err(error) => {
                    tracing::warn!(%error, "a judge gave no verdict");
                    failure = Some(weightier(failure, error));
                }
            }
        }
        if scores.is_empty() { Err(no_verdict(failure)) } else { Ok(scores) }
    }

    async fn reproduces(&self, request: &Evaluate) -> Result<bool> {
        let Some(output) = request.output.clone().filter(|output| !output.trim().is_empty()) else { return Ok(false) };
        let code = request.code.clone();
        let inline = code.len() + output.len() <= INLINE_BYTES;
        let look = move || adversarial::reproduces(&code, &output);
        if inline { Ok(look()) } else { Ok(self.compute.run(Priority::Interactive, look).await?) }
    }
}

/// Of two failures, the one that says what to do: pay, come back, or mend the provider.
fn weightier(known: Option<ServiceError>, new: ServiceError) -> ServiceError {
    let weight = |error: &ServiceError| match error {
        ServiceError::Overspent(_) => 3,
        ServiceError::Busy { .. } | ServiceError::ModelDown { .. } => 2,
        _ => 1,
    };
    match known {
        Some(known) if weight(&known) >= weight(&new) => known,
        _ => new,
    }
}

fn no_verdict(failure: Option<ServiceError>) -> ServiceError {
    failure.unwrap_or_else(|| ServiceError::Model(ModelError::Malformed("no judge gave a verdict".into())))
}
