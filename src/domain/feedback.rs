//! Recurring quality issues of a scope (`spec/engramia/20` §5).

use super::Timestamp;

/// One recurring issue.
#[derive(Debug, Clone, PartialEq)]
pub struct Feedback {
    /// The text as first seen.
    pub text: String,
    /// How often it was seen; issues seen twice or more are shown.
    pub count: u32,
    /// Relevance in [0, 1]; fades by 0.90 a week.
    pub score: f64,
    /// When it was last seen.
    pub last_seen: Timestamp,
    /// From when the next decay counts.
    pub decayed_at: Timestamp,
}

impl Feedback {
    /// Weekly factor of the decay.
    pub const DECAY_PER_WEEK: f64 = 0.90;
    /// Below this score an issue is forgotten.
    pub const FORGOTTEN_BELOW: f64 = 0.15;
    /// Longest text kept, in characters.
    pub const MAX_CHARS: usize = 5_000;
}
