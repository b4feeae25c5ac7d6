//! What judges say, and what several of them say together (`spec/engramia/20` §3).

/// The verdict of one judge; numbers in [0, 10].
#[derive(Debug, Clone, PartialEq)]
pub struct Score {
    /// Whether the code does what the task asks.
    pub task_alignment: f64,
    /// How well it is written.
    pub code_quality: f64,
    /// How well it uses files and other resources.
    pub workspace_usage: f64,
    /// How it meets odd input and failures.
    pub robustness: f64,
    /// All in all.
    pub overall: f64,
    /// What to mend first.
    pub feedback: String,
}

/// What several judges say together.
#[derive(Debug, Clone, PartialEq)]
pub struct Verdict {
    /// Median of the overall scores, 2 decimals.
    pub median: f64,
    /// Greatest minus least overall score, 2 decimals.
    pub range: f64,
    /// Whether the judges disagree, by the range before rounding.
    pub disputed: bool,
    /// What the strictest judge said; of several, the first.
    pub feedback: String,
}

impl Verdict {
    /// Ranges above this are a dispute.
    const DISPUTE: f64 = 1.5;

    /// `None` without any score.
    pub fn of(scores: &[Score]) -> Option<Self> {
        let worst = scores.iter().reduce(|worst, score| if score.overall < worst.overall { score } else { worst })?;
        let mut overall: Vec<f64> = scores.iter().map(|score| score.overall).collect();
        overall.sort_by(f64::total_cmp);
        let half = overall.len() / 2;
        let median =
            if overall.len() % 2 == 1 { overall[half] } else { f64::midpoint(overall[half - 1], overall[half]) };
        let range = overall[overall.len() - 1] - overall[0];
        Some(Self {
            median: cents(median),
            range: cents(range),
            disputed: range > Self::DISPUTE,
            feedback: worst.feedback.clone(),
        })
    }
}

/// Rounded to 2 decimals.
fn cents(value: f64) -> f64 {
    (value * 100.0).round() / 100.0
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn score(overall: f64, feedback: &str) -> Score {
        let five = 5.0;
        Score {
            task_alignment: five,
            code_quality: five,
            workspace_usage: five,
            robustness: five,
            overall,
            feedback: feedback.into(),
        }
    }

    fn of(overall: &[f64]) -> Verdict {
        let scores: Vec<Score> = (0..).zip(overall).map(|(at, value)| score(*value, &at.to_string())).collect();
        Verdict::of(&scores).expect("there are scores")
    }

    #[test]
    fn the_middle_counts_and_the_strictest_speaks() {
        assert_eq!(Verdict::of(&[]), None);
        let verdict = of(&[9.0, 2.0, 8.0, 2.0]);
        assert_eq!((verdict.median, verdict.range, verdict.disputed), (5.0, 7.0, true));
        assert_eq!(verdict.feedback, "1", "the first of two");
        assert_eq!(of(&[8.0, 8.125]).median, 8.06);
    }

    #[test]
    fn a_dispute_is_decided_before_rounding() {
        assert!(!of(&[5.0, 6.5]).disputed);
        let close = of(&[5.0, 6.504]);
        assert!(close.disputed && close.range == 1.5, "{close:?}");
    }

    proptest! {
        #[test]
        fn the_median_lies_between_the_extremes(overall in prop::collection::vec(0.0..=10.0, 1..12)) {
            let verdict = of(&overall);
            let least = overall.iter().copied().fold(f64::INFINITY, f64::min);
            let most = overall.iter().copied().fold(0.0, f64::max);
            prop_assert!(verdict.median >= cents(least) && verdict.median <= cents(most));
            prop_assert!((verdict.range - (most - least)).abs() <= 0.005 + 1e-9);
        }
    }
}
