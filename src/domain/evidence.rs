//! What is known of a pattern's quality, and how scores fade (decision 16; `docs/quality.md`; `spec/engramia/20` §2.2
//! and §8).
//!
//! [`weigh`] is the only rule: a pure function of the pieces of evidence. It runs when a piece is written, so that a
//! recall reads one number.

use super::{Timestamp, words};

words! {
    /// Where a piece of evidence comes from.
    EvidenceKind {
        /// A score that whoever stored the pattern gave it.
        Reported = "reported",
        /// A judgement by independent evaluators.
        Evaluation = "evaluation",
        /// What came of using the pattern.
        Outcome = "outcome",
        /// Somebody who knows says how good it is now; what was known before hardly counts.
        Correction = "correction",
        /// What another store knew when the pattern was imported.
        Carried = "carried"
    }
}

impl EvidenceKind {
    /// How much one piece counts, in uses of the pattern. Reports count together, at most as one use.
    pub fn weight(self) -> f64 {
        match self {
            Self::Reported | Self::Outcome | Self::Carried => 1.0,
            Self::Evaluation => 2.0,
            Self::Correction => 4.0,
        }
    }
}

/// One piece of evidence.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Observation {
    /// Where it comes from.
    pub kind: EvidenceKind,
    /// Score in [0, 10].
    pub score: f64,
    /// How much it counts when it is new.
    pub weight: f64,
    /// When.
    pub at: Timestamp,
}

/// What all pieces of evidence of a pattern say together; the posterior mean over a neutral prior drives ranking.
///
/// The prior (5.0 with the weight of one use) keeps a single score from deciding, and gives a pattern without evidence
/// the multiplier 0.75.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct Evidence {
    /// Sum of weights.
    pub weight: f64,
    /// Sum of weight times score, score in [0, 10].
    pub sum: f64,
    /// Pieces that it is made of.
    pub count: u64,
    /// Weighted variance of their scores.
    pub variance: f64,
    /// When the newest came.
    pub seen_at: Option<Timestamp>,
}

impl Evidence {
    const PRIOR_MEAN: f64 = 5.0;
    const PRIOR_WEIGHT: f64 = 1.0;

    /// What one report of `score` says.
    pub fn of_report(score: f64, at: Timestamp) -> Self {
        let kind = EvidenceKind::Reported;
        weigh(&[Observation { kind, score, weight: kind.weight(), at }], at)
    }

    /// Evidence of which only the sums are known.
    pub fn of_sums(weight: f64, sum: f64) -> Self {
        Self { weight, sum, ..Self::default() }
    }

    /// Posterior mean in [0, 10].
    pub fn posterior(self) -> f64 {
        ((Self::PRIOR_WEIGHT * Self::PRIOR_MEAN + self.sum) / (Self::PRIOR_WEIGHT + self.weight)).clamp(0.0, 10.0)
    }

    /// Weighted mean of the scores alone; `None` without any.
    pub fn mean(self) -> Option<f64> {
        (self.weight > 0.0).then(|| (self.sum / self.weight).clamp(0.0, 10.0))
    }

    /// Ranking multiplier in [0.5, 1.0].
    pub fn multiplier(self) -> f64 {
        0.5 + 0.05 * self.posterior()
    }
}

/// How many of the newest pieces are weighed; older ones stay as history.
pub const WEIGHED: u32 = 256;
/// After so many days a piece counts half.
const HALF_LIFE_DAYS: f64 = 180.0;
/// Each report counts this much less than the next one.
const REPORT_FADES: f64 = 0.9;
/// What was known before a change, or before a correction, counts together as one use at most.
const OUTDATED_WEIGHT: f64 = 1.0;
/// A single failure is no change.
const LEAST_AFTER_CHANGE: usize = 2;
/// How many standard errors two stretches must differ to be two. Found by simulation, with the next two: where 40 of 100
/// outcomes are wrong, false alarms cost less than one wrong choice in 50; a clean change is seen after 4 to 10 pieces.
const CHANGE: f64 = 6.0;
/// Short stretches look more alike than they are: each is taken to vary as the whole does, as if so many more pieces had
/// shown it.
const PRIOR_PIECES: f64 = 8.0;
/// Least variance that the whole is taken to have.
const LEAST_VARIANCE: f64 = 1.0;

/// What pieces of evidence say together at `now`; in order of time, oldest first.
///
/// 1. Reports say what whoever stored the pattern thinks. However many there are, they count as `n / (n + 1)` of one
///    use, so that nobody makes a pattern good by praising it.
/// 2. Everything else counts by its kind and fades by half in 180 days.
/// 3. A correction outweighs what came before it.
/// 4. If the newer part differs from the older by more than chance (two-sample test at the best split, in the manner
///    of Page's CUSUM and of ADWIN, Bifet and Gavaldà 2007), the world has changed: the older part is outdated. The
///    test is made anew each time, so that a false alarm does not last.
pub fn weigh(pieces: &[Observation], now: Timestamp) -> Evidence {
    let (reports, mut rest): (Vec<_>, Vec<_>) =
        pieces.iter().copied().partition(|piece| piece.kind == EvidenceKind::Reported);
    for piece in &mut rest {
        piece.weight *= 0.5f64.powf(weeks_between(piece.at, now) * 7.0 / HALF_LIFE_DAYS);
    }
    if let Some(at) = rest.iter().rposition(|piece| piece.kind == EvidenceKind::Correction) {
        outdate(&mut rest[..at]);
        if let Some(change) = change(&rest[at..]) {
            outdate(&mut rest[at..at + change]);
        }
    } else if let Some(change) = change(&rest) {
        outdate(&mut rest[..change]);
    }
    rest.extend(joint_report(&reports));

    let weight: f64 = rest.iter().map(|piece| piece.weight).sum();
    let sum: f64 = rest.iter().map(|piece| piece.weight * piece.score).sum();
    Evidence {
        weight,
        sum,
        count: pieces.len() as u64,
        variance: variance(&rest),
        seen_at: pieces.iter().map(|piece| piece.at).max(),
    }
}

/// All reports as one piece: their fading mean.
fn joint_report(reports: &[Observation]) -> Option<Observation> {
    let newest = reports.last()?;
    let (mut weight, mut sum, mut share) = (0.0, 0.0, 1.0);
    for report in reports.iter().rev() {
        weight += share;
        sum += share * report.score;
        share *= REPORT_FADES;
    }
    let count = reports.len() as f64;
    Some(Observation { score: sum / weight, weight: count / (count + 1.0), ..*newest })
}

/// Makes pieces count as [`OUTDATED_WEIGHT`] together at most.
fn outdate(pieces: &mut [Observation]) {
    let weight: f64 = pieces.iter().map(|piece| piece.weight).sum();
    if weight > OUTDATED_WEIGHT {
        pieces.iter_mut().for_each(|piece| piece.weight *= OUTDATED_WEIGHT / weight);
    }
}

/// Where the newer part begins, if there are two parts that differ by more than chance.
fn change(pieces: &[Observation]) -> Option<usize> {
    let splits = pieces.len().checked_sub(LEAST_AFTER_CHANGE)?;
    let mut newer = pieces.iter().fold(Moments::default(), |sums, piece| sums.with(piece, 1.0));
    let (mut older, whole, mut best) = (Moments::default(), newer.weight, (CHANGE, None));
    let prior = variance(pieces).max(LEAST_VARIANCE) * PRIOR_PIECES;
    for (at, piece) in pieces.iter().enumerate().take(splits) {
        older = older.with(piece, 1.0);
        newer = newer.with(piece, -1.0);
        let spread = prior + older.squared_error() + newer.squared_error();
        let deviation = (spread / (PRIOR_PIECES + whole)).sqrt();
        let gap = (older.sum / older.weight - newer.sum / newer.weight).abs();
        let errors = gap * (older.weight * newer.weight / whole).sqrt() / deviation;
        if errors > best.0 {
            best = (errors, Some(at + 1));
        }
    }
    best.1
}

/// Weighted sums of scores.
#[derive(Clone, Copy, Default)]
struct Moments {
    weight: f64,
    sum: f64,
    squares: f64,
}

impl Moments {
    /// With one piece more, or less.
    fn with(self, piece: &Observation, sign: f64) -> Self {
        let weight = sign * piece.weight;
        Self {
            weight: self.weight + weight,
            sum: self.sum + weight * piece.score,
            squares: self.squares + weight * piece.score * piece.score,
        }
    }

    /// Weighted sum of squared distances from the mean.
    fn squared_error(self) -> f64 {
        (self.squares - self.sum * self.sum / self.weight).max(0.0)
    }
}

/// Weighted variance of the scores; 0 without any.
fn variance(pieces: &[Observation]) -> f64 {
    let weight: f64 = pieces.iter().map(|piece| piece.weight).sum();
    if weight <= 0.0 {
        return 0.0;
    }
    let mean = pieces.iter().map(|piece| piece.weight * piece.score).sum::<f64>() / weight;
    pieces.iter().map(|piece| piece.weight * (piece.score - mean).powi(2)).sum::<f64>() / weight
}

/// Weeks between two times, never negative.
pub(super) fn weeks_between(since: Timestamp, now: Timestamp) -> f64 {
    const WEEK_MICROS: f64 = 7.0 * 86_400.0 * 1e6;
    ((now - since).num_microseconds().unwrap_or(0).max(0)) as f64 / WEEK_MICROS
}

/// `score` after `now - since` at `per_week` (0.98 for patterns, 0.90 for feedback), rounded to 4 decimals.
///
/// Decay is always measured from the last decay, so that the total depends on age alone and not on how often it runs.
pub fn decayed_score(score: f64, per_week: f64, since: Timestamp, now: Timestamp) -> f64 {
    (score * per_week.powf(weeks_between(since, now)) * 1e4).round() / 1e4
}

#[cfg(test)]
mod tests {
    use super::*;
    use chrono::{DateTime, Duration};
    use proptest::prelude::*;

    fn pieces(kind: EvidenceKind, scores: &[f64]) -> Vec<Observation> {
        let at = DateTime::UNIX_EPOCH;
        scores.iter().map(|score| Observation { kind, score: *score, weight: kind.weight(), at }).collect()
    }

    fn outcomes(scores: &[f64]) -> Vec<Observation> {
        pieces(EvidenceKind::Outcome, scores)
    }

    fn posterior(pieces: &[Observation]) -> f64 {
        weigh(pieces, DateTime::UNIX_EPOCH).posterior()
    }

    #[test]
    fn a_pattern_without_evidence_is_neutral() {
        assert_eq!(weigh(&[], DateTime::UNIX_EPOCH), Evidence::default());
        assert!((Evidence::default().multiplier() - 0.75).abs() < 1e-12);
        assert!((weigh(&outcomes(&[10.0]), DateTime::UNIX_EPOCH).multiplier() - 0.875).abs() < 1e-12);
        assert!((weigh(&outcomes(&[0.0]), DateTime::UNIX_EPOCH).multiplier() - 0.625).abs() < 1e-12);
    }

    #[test]
    fn praise_of_oneself_counts_as_one_use_at_most() {
        let praise = |n: usize| posterior(&pieces(EvidenceKind::Reported, &vec![10.0; n]));
        assert!(praise(1) < praise(5) && praise(200) < 7.5);
        assert!(praise(200) < posterior(&outcomes(&[9.0, 9.0])), "two good uses are worth more");
        let mut found_out = pieces(EvidenceKind::Reported, &[10.0; 200]);
        found_out.extend(outcomes(&[0.0, 0.0]));
        assert!(posterior(&found_out) < 5.0);
    }

    #[test]
    fn a_real_change_shows_at_once_and_a_single_failure_does_not() {
        let mut scores = vec![9.0; 40];
        scores.push(1.0);
        assert!(posterior(&outcomes(&scores)) > 8.0, "one failure after forty successes");
        scores.push(1.0);
        assert!(posterior(&outcomes(&scores)) < 5.0, "two in a row");
        scores.extend([9.0; 3]);
        assert!(posterior(&outcomes(&scores)) > 7.0, "and a false alarm does not last");
    }

    #[test]
    fn noise_is_no_change() {
        // Four of ten are wrong, evenly mixed.
        let scores: Vec<f64> = (0..100).map(|n| if n % 5 < 3 { 10.0 } else { 0.0 }).collect();
        let evidence = weigh(&outcomes(&scores), DateTime::UNIX_EPOCH);
        assert!((evidence.weight - 100.0).abs() < 1e-9 && (evidence.posterior() - 6.0).abs() < 0.1);
        assert!((evidence.variance - 24.0).abs() < 1e-9 && evidence.count == 100);
    }

    #[test]
    fn a_correction_outweighs_what_came_before() {
        let mut all = outcomes(&[10.0; 100]);
        all.extend(pieces(EvidenceKind::Correction, &[1.0]));
        assert!(posterior(&all) < 4.0, "{}", posterior(&all));
        all.extend(outcomes(&[10.0; 12]));
        assert!(posterior(&all) > 7.0, "and is outweighed by what comes after");
    }

    #[test]
    fn old_evidence_fades_towards_the_prior() {
        let year = DateTime::UNIX_EPOCH + Duration::days(360);
        let evidence = weigh(&outcomes(&[10.0; 4]), year);
        assert!((evidence.weight - 1.0).abs() < 1e-9 && (evidence.posterior() - 7.5).abs() < 1e-9);
        assert_eq!(evidence.mean(), Some(10.0));
        assert_eq!(evidence.seen_at, Some(DateTime::UNIX_EPOCH));
    }

    proptest! {
        #[test]
        fn whatever_is_weighed_the_multiplier_stays_in_its_range(
            all in prop::collection::vec((0usize..5, 0.0f64..=10.0, 0i64..1_000_000_000), 0..80),
        ) {
            let kinds = [0, 1, 2, 3, 4].map(|n| EvidenceKind::WORDS[n].parse::<EvidenceKind>().expect("a word of its own"));
            let mut all: Vec<Observation> = all
                .into_iter()
                .map(|(kind, score, second)| Observation {
                    kind: kinds[kind],
                    score,
                    weight: kinds[kind].weight(),
                    at: DateTime::UNIX_EPOCH + Duration::seconds(second),
                })
                .collect();
            all.sort_by_key(|piece| piece.at);
            let evidence = weigh(&all, DateTime::UNIX_EPOCH + Duration::seconds(1_000_000_000));
            prop_assert!((0.5..=1.0).contains(&evidence.multiplier()));
            prop_assert!(evidence.weight >= 0.0 && (0.0..=25.0 + 1e-9).contains(&evidence.variance));
            prop_assert!(evidence.mean().is_none_or(|mean| (0.0..=10.0).contains(&mean)));
        }
    }

    #[test]
    fn decay_in_steps_equals_decay_at_once() {
        let start = DateTime::UNIX_EPOCH;
        let day = |n| start + Duration::days(n);
        let at_once = decayed_score(8.0, 0.98, start, day(70));
        let mut stepwise = 8.0;
        for n in 0..10 {
            stepwise = decayed_score(stepwise, 0.98, day(7 * n), day(7 * n + 7));
        }
        assert!((at_once - 8.0 * 0.98f64.powi(10)).abs() < 1e-4);
        assert!((at_once - stepwise).abs() < 1e-3);
        assert!((decayed_score(8.0, 0.98, day(7), start) - 8.0).abs() < f64::EPSILON, "a clock that jumps back");
    }
}
