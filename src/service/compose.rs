//! compose: a task as a pipeline of stages, each with the pattern that serves it (`spec/engramia/20` §4).

use futures_util::future::try_join_all;

use super::gateway::{Account, Meter};
use super::recall::{Mode, Recall};
use super::{Result, ServiceError, Services, answers, prompts};
use crate::domain::pipeline::{self, Stage};
use crate::domain::{Caller, ReuseTier};

/// A stage with what is known to serve it.
#[derive(Debug, Clone, PartialEq)]
pub struct Matched {
    /// The stage.
    pub stage: Stage,
    /// What to do with the pattern.
    pub tier: ReuseTier,
    /// Plain cosine with the pattern's task; 0 without a pattern.
    pub similarity: f64,
    /// The pattern's solution.
    pub code: Option<String>,
}

/// A pipeline.
#[derive(Debug, Clone, PartialEq)]
pub struct Pipeline {
    /// What was decomposed.
    pub task: String,
    /// In order.
    pub stages: Vec<Matched>,
    /// What is wrong with the data flow; empty where it is sound.
    pub errors: Vec<String>,
    /// Whether the model could not be used, so that the whole task is one stage.
    pub is_fallback: bool,
}

impl Services {
    /// Decomposes a task. A model that fails, or answers something odd, costs the decomposition, not the request.
    ///
    /// # Errors
    /// [`ServiceError::NoModel`]; where the server is busy or the budget is used up, that.
    #[tracing::instrument(target = "engramia::spans", name = "memory.compose", skip_all, err)]
    pub async fn compose(&self, caller: &Caller, task: String, meter: &Meter) -> Result<Pipeline> {
        let gateway = self.gateway("compose")?;
        let clean = self.redacted(task.clone()).await?;
        let prompt = prompts::decompose(self.entropy.as_ref(), &clean);
        let asked = self.ask_for(gateway, Account { caller, meter }, &prompt, answers::stages).await;
        let (stages, is_fallback) = match asked {
            Ok(stages) => (stages, false),
            Err(error @ (ServiceError::Model(_) | ServiceError::ModelDown { .. })) => {
                tracing::warn!(%error, "composing a single stage");
                (vec![whole(&task)], true)
            }
            Err(error) => return Err(error),
        };
        let errors = pipeline::contract_errors(&stages, &pipeline::initial_inputs(&task));
        let stages = try_join_all(stages.into_iter().map(|stage| self.matched(caller, stage))).await?;
        Ok(Pipeline { task, stages, errors, is_fallback })
    }

    /// The best pattern for a stage. It leaves no trace: a plan is no use of a pattern.
    async fn matched(&self, caller: &Caller, stage: Stage) -> Result<Matched> {
        let query = Recall { deduplicate: false, ..Recall::unseen(stage.task.clone(), 1) };
        let found = self.recall(caller, query).await?;
        let by_meaning = found.mode != Mode::Keyword;
        Ok(match found.matches.into_iter().next().filter(|_| by_meaning) {
            Some(found) => {
                Matched { stage, tier: found.tier, similarity: found.rank.similarity, code: found.pattern.body.code }
            }
            None => Matched { stage, tier: ReuseTier::Fresh, similarity: 0.0, code: None },
        })
    }
}

/// The whole task as one stage.
fn whole(task: &str) -> Stage {
    Stage { name: "stage_0".into(), task: task.to_owned(), reads: Vec::new(), writes: vec!["output.json".into()] }
}
