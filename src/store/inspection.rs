//! What a store says about its own state, for `engramia doctor`: read-only, beside a server that may be running.

use super::Revision;
use crate::domain::Timestamp;

/// State of a store.
#[derive(Debug, Clone)]
pub struct Inspection {
    /// Its schema; version 0 where there is none.
    pub schema: Revision,
    /// Its engine with its version, as `SQLite 3.50.2`.
    pub engine: String,
    /// What the engine itself says is damaged; `None` where nothing is, or nobody knows.
    pub damage: Option<String>,
    /// Stored patterns.
    pub patterns: u64,
    /// Patterns whose vector is not of the wanted space: the server embeds them in the background.
    pub waiting: u64,
    /// Rows by what is wrong with them: an index or a counter that does not agree with the patterns.
    pub disagreements: Vec<(&'static str, u64)>,
    /// The time by its own clock, where that is another than this machine's.
    pub clock: Option<Timestamp>,
}

/// What a statement counts, and the statement: one row, one number.
pub type Comparison = (&'static str, &'static str);
