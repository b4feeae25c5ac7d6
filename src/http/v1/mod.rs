//! The Engramia v1 API, one file an operation group.

pub mod aging;
pub mod analytics;
pub mod audit;
pub mod billing;
pub mod classification;
pub mod compose;
pub mod erasure;
pub mod evaluate;
pub mod evolve;
pub mod failures;
pub mod feedback;
pub mod health;
pub mod jobs;
pub mod keys;
pub mod learn;
pub mod outcome;
pub mod patterns;
pub mod recall;
pub mod retention;
pub mod scope_export;
pub mod skills;
pub mod subjects;
pub mod transfer;

use axum::Json;

use super::problem::Problem;

/// What a handler answers.
pub type Answer<T> = Result<Json<T>, Problem>;
