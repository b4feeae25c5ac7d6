//! evolve: a better system text for an agent, from the issues that recur (`spec/engramia/20` §7).
//!
//! A candidate is accepted only after checks: of its form always, and of its effect where the memory holds tasks to try
//! it on.

use std::collections::BTreeSet;
use std::sync::LazyLock;

use chrono::TimeDelta;
use futures_util::future::try_join_all;
use regex::Regex;

use super::gateway::{Account, Gateway, Meter};
use super::prompts::{self, Work as Judged};
use super::recall::Recall;
use super::{Result, ServiceError, Services, answers};
use crate::domain::{Caller, Classification, Feedback};
use crate::ports::ModelError;

/// Longest system text, in characters.
pub const MAX_PROMPT: usize = 50_000;
/// A candidate may be so many characters longer than the current text, or so many times as long.
const MAY_GROW_BY: usize = 4_000;
const MAY_GROW_TO: usize = 4;
/// A candidate of a text longer than this may not be less than a quarter of it.
const LONG: usize = 200;
const MAY_SHRINK_TO: usize = 4;
/// Stored tasks that both texts are tried on.
const TRIALS: usize = 2;
/// How many patterns are looked at for them.
const LOOKED_AT: usize = 10;
/// Of a role and a text, what the tasks are looked for by, in characters.
const LOOKED_FOR: usize = 1_000;
/// A candidate may score so much less, by chance.
const TOLERANCE: f64 = 0.2;

/// `{name}`, also in double braces.
static PLACEHOLDER: LazyLock<Regex> =
    LazyLock::new(|| Regex::new(r"\{\{?[A-Za-z_][A-Za-z0-9_.]*\}?\}").expect("a valid pattern"));

/// What is to be improved.
#[derive(Debug, Clone)]
pub struct Evolve {
    /// Role of the agent.
    pub role: String,
    /// Its system text.
    pub current: String,
    /// How many issues to take on.
    pub issues: u32,
}

/// What came of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Evolved {
    /// The candidate, or the current text where there is none.
    pub text: String,
    /// What was changed.
    pub changes: Vec<String>,
    /// The issues that were taken on.
    pub issues: Vec<String>,
    /// Whether the candidate passed its checks.
    pub accepted: bool,
    /// Why.
    pub reason: String,
}

/// Mean scores of both texts on stored tasks.
struct Trial {
    tasks: usize,
    current: f64,
    candidate: f64,
}

impl Services {
    /// Proposes a better text, and checks it.
    ///
    /// # Errors
    /// [`ServiceError::NoModel`]; where the model cannot be asked, why. An answer that cannot be used is no error.
    #[tracing::instrument(target = "engramia::spans", name = "memory.evolve", skip_all, err)]
    pub async fn evolve(&self, caller: &Caller, request: Evolve, meter: &Meter) -> Result<Evolved> {
        let gateway = self.gateway("evolve_prompt")?;
        let started = self.clock.now();
        let issues = self.recurring(caller, request.issues).await?;
        let unchanged = |reason: &str| Evolved {
            text: request.current.clone(),
            changes: Vec::new(),
            issues: issues.clone(),
            accepted: false,
            reason: reason.to_owned(),
        };
        if issues.is_empty() {
            return Ok(unchanged("no_issues"));
        }
        let (role, current) = (self.redacted(request.role).await?, self.redacted(request.current.clone()).await?);
        let account = Account { caller, meter };
        let prompt = prompts::revise(self.entropy.as_ref(), &role, &current, &issues);
        let proposal = match self.ask_for(gateway, account, &prompt, answers::proposal).await {
            Ok(proposal) => proposal,
            Err(ServiceError::Model(ModelError::Malformed(_))) => {
                return Ok(unchanged("llm_error: the answer of the model cannot be used"));
            }
            Err(error) => return Err(error),
        };
        let Some(text) = proposal.text else {
            return Ok(unchanged("The model proposed no text."));
        };
        let (accepted, reason) = if let Some(flaw) = flaw(&current, &text) {
            (false, flaw)
        } else if current != request.current {
            let what = "The current prompt holds secrets or personal data, which did not travel to the model: put \
                        them back in place of the labels before you use the candidate.";
            (false, what.to_owned())
        } else if self.clock.now() - started > LATEST_TRIAL {
            (true, structural("there was no time for a trial"))
        } else {
            self.tried(gateway, account, &role, &current, &text).await?
        };
        Ok(Evolved { text, changes: proposal.changes, issues, accepted, reason })
    }

    async fn recurring(&self, caller: &Caller, limit: u32) -> Result<Vec<String>> {
        let mut work = self.store.read(&caller.scope).await?;
        let issues = work.feedback().top(Feedback::RECURRING, None, 0, limit).await?;
        Ok(issues.into_iter().map(|issue| issue.text).collect())
    }

    /// Whether the candidate does at least about as well as the current text on stored tasks.
    async fn tried(
        &self,
        gateway: &Gateway,
        account: Account<'_>,
        role: &str,
        current: &str,
        candidate: &str,
    ) -> Result<(bool, String)> {
        let tasks = self.held_out(account.caller, role, current).await?;
        if tasks.is_empty() {
            return Ok((true, structural("there are no stored tasks with evidence to try it on")));
        }
        let trial = match self.trial(gateway, account, &tasks, current, candidate).await {
            Ok(trial) => trial,
            Err(error @ ServiceError::Store(_)) => return Err(error),
            Err(error) => {
                tracing::warn!(%error, "a candidate could not be tried");
                return Ok((true, structural("the trial on stored tasks failed")));
            }
        };
        let accepted = trial.candidate >= trial.current - TOLERANCE;
        let outcome = if accepted { "Accepted" } else { "Rejected" };
        let plural = if trial.tasks == 1 { "" } else { "s" };
        let reason = format!(
            "{outcome} after a held-out check on {} stored task{plural}: the candidate scored {:.2}, the current prompt \
             {:.2} (tolerance {TOLERANCE}).",
            trial.tasks, trial.candidate, trial.current
        );
        Ok((accepted, reason))
    }

    /// Tasks of patterns with evidence that are near to the role and its text. Confidential ones stay here.
    async fn held_out(&self, caller: &Caller, role: &str, current: &str) -> Result<Vec<String>> {
        let task: String = role.chars().chain(['\n']).chain(current.chars()).take(LOOKED_FOR).collect();
        let query = Recall { eval_weighted: false, ..Recall::unseen(task, LOOKED_AT) };
        let found = self.recall(caller, query).await?.matches.into_iter().map(|found| found.pattern.body);
        let usable = found
            .filter(|pattern| pattern.evidence.weight > 0.0 && pattern.classification != Classification::Confidential);
        Ok(usable.map(|pattern| pattern.task).take(TRIALS).collect())
    }

    /// Both texts do every task; a judge who knows nothing of them judges each answer.
    async fn trial(
        &self,
        gateway: &Gateway,
        account: Account<'_>,
        tasks: &[String],
        current: &str,
        candidate: &str,
    ) -> Result<Trial> {
        let runs = tasks.iter().flat_map(|task| [(task, current), (task, candidate)]);
        let scores = try_join_all(runs.map(async |(task, system)| {
            let answer = self.ask(gateway, account, &prompts::trial(system, task)).await?;
            let judged = Judged { task, code: &answer.text, output: None };
            let scores = self.judge(gateway, account, &judged, 1).await?;
            Ok::<f64, ServiceError>(scores.first().map_or(0.0, |score| score.overall))
        }));
        let scores = scores.await?;
        let mean = |offset: usize| scores.iter().skip(offset).step_by(2).sum::<f64>() / tasks.len() as f64;
        Ok(Trial { tasks: tasks.len(), current: mean(0), candidate: mean(1) })
    }
}

/// After so long a trial begins no more: the request must end in time.
const LATEST_TRIAL: TimeDelta = TimeDelta::seconds(45);

fn structural(why: &str) -> String {
    format!("Accepted after structural checks only: {why}.")
}

/// What is wrong with the form of a candidate, as a sentence.
fn flaw(current: &str, candidate: &str) -> Option<String> {
    let (before, after) = (current.trim().chars().count(), candidate.chars().count());
    if after == 0 {
        return Some("The candidate is empty.".into());
    }
    if candidate == current.trim() {
        return Some("The candidate is equal to the current prompt.".into());
    }
    let most = (before + MAY_GROW_BY).max(before * MAY_GROW_TO).min(MAX_PROMPT);
    if after > most {
        return Some(format!("The candidate has {after} characters; {most} are allowed."));
    }
    if before > LONG && after < before / MAY_SHRINK_TO {
        return Some(format!("The candidate has {after} characters, the current prompt {before}: too much is gone."));
    }
    let placeholders = |text: &str| -> BTreeSet<String> {
        PLACEHOLDER.find_iter(text).map(|found| found.as_str().to_owned()).collect()
    };
    let kept = placeholders(candidate);
    let lost: Vec<String> = placeholders(current).into_iter().filter(|name| !kept.contains(name)).collect();
    (!lost.is_empty()).then(|| format!("The candidate lost placeholders: {}.", lost.join(", ")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_form_of_a_candidate_is_checked() {
        let long = "x".repeat(1_000);
        for (current, candidate, expected) in [
            ("You are a coder.", "You are a careful coder.", None),
            ("", "You are a coder.", None),
            ("Greet {name}.", "Greet {name} politely.", None),
            ("a", "", Some("empty")),
            (" a \n", "a", Some("equal")),
            ("a", &"x".repeat(5_000), Some("4001 are allowed")),
            (&long, "short", Some("too much is gone")),
            ("Greet {name} in {{ lang }} {{lang}}.", "Greet {name}.", Some("{{lang}}")),
        ] {
            let flaw = flaw(current, candidate);
            match expected {
                None => assert_eq!(flaw, None, "{candidate}"),
                Some(text) => assert!(flaw.as_ref().is_some_and(|flaw| flaw.contains(text)), "{flaw:?}"),
            }
        }
    }
}
