//! The search engine above both databases (decision 20): one in-memory vector index a scope, derived from the rows, and
//! the same arithmetic for every result. A database says how rows are loaded and how changes arrive.

mod error;
mod hot;
mod index;
mod meta;
mod search;
mod shelf;

pub(in crate::store) use hot::Hot;
pub(in crate::store) use index::{Change, ChangeKind, Ready, ScopeIndex};
pub(in crate::store) use meta::{NOT_MINE_FOR, RowMeta, column, corrupt, count, key, small, word};
pub(in crate::store) use search::{Found, KEYWORD_POOL, assemble, close_rows, look, query_words, scored, sort};
pub(in crate::store) use shelf::Shelf;
