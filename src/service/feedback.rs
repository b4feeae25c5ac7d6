//! Recurring issues: what evaluations say again and again (`spec/engramia/20` §5, decision 15).

use super::{Result, Services};
use crate::domain::record::MAX_TASK;
use crate::domain::text::{self, WordSet};
use crate::domain::{Caller, Feedback, Timestamp};
use crate::ports::{Priority, Vector};
use crate::store::Work;
use crate::store::memory::IssueTask;

/// Two texts with a greater share of common words say the same (`spec/engramia/20` §5).
pub(super) const SAME_WORDS: f64 = 0.4;
/// Two texts that mean about the same say the same if they also share some words. Without shared words they would have
/// to be nearly equal: texts that a model knows nothing about come out more alike than paraphrases of ones it knows
/// (docs/feedback.md has the figures).
const NEAR: f64 = 0.60;
const SOME_WORDS: f64 = 0.15;
const NEARLY_EQUAL: f64 = 0.90;

/// An issue that is ready to be recorded.
#[derive(Debug, Clone)]
pub struct PreparedIssue {
    text: String,
    vector: Option<Vector>,
    task: Option<(String, Option<Vector>)>,
    score: f64,
}

impl Services {
    /// Makes an issue that an evaluation of `task` raised ready to be recorded; `score` is the overall score of that
    /// evaluation. Redacts, cuts what is too long, and embeds, so it belongs before any unit of work.
    ///
    /// # Errors
    /// When the server is too busy to redact a long text. Without an embedder there are no vectors.
    pub async fn prepare_issue(&self, task: &str, text: &str, score: f64) -> Result<PreparedIssue> {
        let texts = vec![text.to_owned(), task.to_owned()];
        let mut texts = self.cleaned(texts, Priority::Interactive).await?.into_iter();
        let mut next = |most: usize| -> String {
            let cut: String = texts.next().unwrap_or_default().trim().chars().take(most).collect();
            cut.trim_end().to_owned()
        };
        let (text, task) = (next(Feedback::MAX_CHARS), next(MAX_TASK));
        let mut vectors = self.vectors_if_possible(&[&text, &task]).await.into_iter();
        let (vector, of_task) = (vectors.next(), vectors.next());
        let task = (!task.is_empty()).then_some((task, of_task));
        Ok(PreparedIssue { text, vector, task, score })
    }

    /// Records an issue in a unit of work that writes: the most similar issue of the scope grows, and whatever it has
    /// grown together with joins it; else there is a new one, and if there are too many the weakest goes. An empty text
    /// is no issue.
    ///
    /// # Errors
    /// When the store fails.
    pub async fn record_issue(&self, work: &mut dyn Work, issue: &PreparedIssue) -> Result<()> {
        if issue.text.is_empty() {
            return Ok(());
        }
        let now = self.clock.now();
        let mut others = known(work, now).await?;
        let new = Known::new(Feedback::new(issue.text.clone(), issue.score, now), issue.vector.clone());
        let mut grown = match closest(&new, &others) {
            Some(at) => {
                let mut grown = others.remove(at);
                grown.vector = centroid(&grown, &new);
                grown.issue.seen_again(issue.score, now);
                grown
            }
            None => {
                make_room(work, &mut others).await?;
                new
            }
        };
        let mut absorbed = Vec::new();
        while let Some(at) = closest(&grown, &others) {
            let other = others.remove(at);
            let vector = centroid(&other, &grown);
            let (mut stronger, weaker) =
                if other.issue.strength() > grown.issue.strength() { (other, grown) } else { (grown, other) };
            stronger.issue.absorb(&weaker.issue);
            stronger.vector = vector;
            absorbed.push(weaker.issue.text);
            grown = stronger;
        }
        let name = &grown.issue.text;
        work.feedback().put(&grown.issue, grown.vector.as_ref()).await?;
        if !absorbed.is_empty() {
            let tasks = work.feedback().tasks().await?.into_iter().filter(|(of, _)| absorbed.contains(of));
            let tasks: Vec<IssueTask> = tasks.map(|(_, task)| task).collect();
            work.feedback().note_tasks(name, &tasks).await?;
            for text in absorbed {
                work.feedback().remove(&text).await?;
            }
        }
        if let Some((text, vector)) = issue.task.clone() {
            work.feedback().note_tasks(name, &[IssueTask { text, vector, seen_at: now }]).await?;
        }
        Ok(())
    }

    /// A page of issue texts, and whether there are more.
    pub async fn top_feedback(
        &self,
        caller: &Caller,
        containing: Option<&str>,
        offset: u32,
        limit: u32,
    ) -> Result<(Vec<String>, bool)> {
        let mut work = self.store.read(&caller.scope).await?;
        let mut issues = work.feedback().top(Feedback::RECURRING, containing, offset, limit + 1).await?;
        let has_more = issues.len() > limit as usize;
        issues.truncate(limit as usize);
        Ok((issues.into_iter().map(|issue| issue.text).collect(), has_more))
    }

    /// A vector each, or none at all.
    async fn vectors_if_possible(&self, texts: &[&str]) -> Vec<Vector> {
        let Some(embedder) = &self.embedder else { return Vec::new() };
        match embedder.embed(texts, Priority::Interactive).await {
            Ok(vectors) => vectors,
            Err(error) => {
                tracing::warn!(%error, "recording an issue without its vector");
                Vec::new()
            }
        }
    }
}

/// An issue as comparing needs it.
pub(super) struct Known {
    pub(super) issue: Feedback,
    pub(super) vector: Option<Vector>,
    words: WordSet,
}

impl Known {
    pub(super) fn new(issue: Feedback, vector: Option<Vector>) -> Self {
        let words = WordSet::of_words(&text::normalized(&issue.text));
        Self { issue, vector, words }
    }

    /// Share of common words, in [0, 1].
    pub(super) fn shared_words(&self, other: &Self) -> f64 {
        self.words.jaccard(&other.words)
    }

    /// Cosine of the meanings; `None` where the vectors cannot be compared.
    pub(super) fn cosine(&self, other: &Self) -> Option<f64> {
        let (a, b) = (self.vector.as_ref()?, other.vector.as_ref()?);
        (a.space == b.space && a.values.len() == b.values.len()).then(|| f64::from(dot(&a.values, &b.values)))
    }

    /// How close two issues are that say the same; `None` where they do not. The same words are closer than any
    /// meaning.
    fn closeness(&self, other: &Self) -> Option<f64> {
        let shared = self.shared_words(other);
        if shared > SAME_WORDS {
            return Some(1.0 + shared);
        }
        let least = if shared >= SOME_WORDS { NEAR } else { NEARLY_EQUAL };
        self.cosine(other).filter(|cosine| *cosine >= least)
    }
}

/// The product of two vectors, in lanes that the compiler can keep side by side.
pub(super) fn dot(a: &[f32], b: &[f32]) -> f32 {
    const LANES: usize = 16;
    let (wide_a, rest_a) = a.as_chunks::<LANES>();
    let (wide_b, rest_b) = b.as_chunks::<LANES>();
    let mut sums = [0f32; LANES];
    for (x, y) in wide_a.iter().zip(wide_b) {
        for (sum, (x, y)) in sums.iter_mut().zip(x.iter().zip(y)) {
            *sum += x * y;
        }
    }
    let rest: f32 = rest_a.iter().zip(rest_b).map(|(x, y)| x * y).sum();
    sums.iter().sum::<f32>() + rest
}

/// Every issue of the scope as it is at `now`; what has faded away is removed.
async fn known(work: &mut dyn Work, now: Timestamp) -> Result<Vec<Known>> {
    let mut vectors = work.feedback().vectors().await?.into_iter().peekable();
    let mut known = Vec::new();
    for issue in work.feedback().all().await? {
        let vector = vectors.next_if(|(text, _)| *text == issue.text).map(|(_, vector)| vector);
        let issue = issue.faded(now);
        if issue.is_forgotten() {
            work.feedback().remove(&issue.text).await?;
        } else {
            known.push(Known::new(issue, vector));
        }
    }
    Ok(known)
}

/// Place of the issue that says the same and is closest.
fn closest(issue: &Known, others: &[Known]) -> Option<usize> {
    let close = others.iter().enumerate().filter_map(|(at, other)| Some((issue.closeness(other)?, at)));
    close.max_by(|(a, first), (b, second)| a.total_cmp(b).then(second.cmp(first))).map(|(_, at)| at)
}

/// Where two issues meet, each as heavy as it was seen often. Of two spaces the one of `newer` wins.
fn centroid(older: &Known, newer: &Known) -> Option<Vector> {
    let (Some(a), Some(b)) = (&older.vector, &newer.vector) else {
        return newer.vector.clone().or_else(|| older.vector.clone());
    };
    if older.cosine(newer).is_none() {
        return Some(b.clone());
    }
    let (n, m) = (older.issue.count as f32, newer.issue.count as f32);
    let sum = a.values.iter().zip(b.values.iter()).map(|(x, y)| n * x + m * y).collect();
    Vector::normalized(b.space.clone(), sum)
}

/// Removes the weakest issues, until there is room for one more.
async fn make_room(work: &mut dyn Work, issues: &mut Vec<Known>) -> Result<()> {
    while issues.len() >= Feedback::KEPT {
        let order = |a: &Feedback, b: &Feedback| {
            a.strength().total_cmp(&b.strength()).then(a.last_seen.cmp(&b.last_seen)).then(a.text.cmp(&b.text))
        };
        let weakest = issues.iter().enumerate().min_by(|(_, a), (_, b)| order(&a.issue, &b.issue));
        let Some(at) = weakest.map(|(at, _)| at) else { return Ok(()) };
        work.feedback().remove(&issues.remove(at).issue.text).await?;
    }
    Ok(())
}
