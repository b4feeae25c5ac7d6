//! Backups: one file with everything a store holds, and what it promises about itself (`docs/backup.md`).
//!
//! A plain tar archive. [`HEADER`] comes first and says what it is, the data follow, [`MANIFEST`] comes last and says what
//! there must be: a file without it was cut off. [`Draft`] writes one, [`Archive`] reads one; what stands between is the
//! matter of each store.

mod archive;
mod draft;

use std::collections::BTreeMap;
use std::io::{self, Write};
use std::path::PathBuf;

use async_trait::async_trait;
use aws_lc_rs::digest::{Context, SHA256};
use chrono::TimeDelta;
use serde::{Deserialize, Serialize};

use crate::domain::Timestamp;

use super::Result;

pub use archive::{Archive, EntryReader};
pub use draft::{Draft, Scratch, remove_stale, sync_directory};

/// Format of the files that this program writes, and the newest one that it reads.
pub const FORMAT: u32 = 1;
/// Name of the first entry.
pub(in crate::store) const HEADER: &str = "BACKUP.json";
/// Name of the last entry.
pub(in crate::store) const MANIFEST: &str = "MANIFEST.json";
/// What the files are of.
const PRODUCT: &str = "engramia";
/// Bytes that are read and written at once.
pub(in crate::store) const BUFFER: usize = 1 << 20;

/// Backups of everything, while the store is in use.
#[async_trait]
pub trait Backups: Send + Sync {
    /// Writes everything that is committed now to a file. Writers go on meanwhile; what they write is not part of it.
    async fn back_up(&self, order: &Order) -> anyhow::Result<Report>;
    /// Whether it is the caller's turn to do what is done once in so long a time by one of all servers: true for one of
    /// those that ask, and for the first time at once.
    async fn take_turn(&self, name: &str, due: Due, now: Timestamp) -> Result<bool>;
    /// What was begun with the last turn is done.
    async fn end_turn(&self, name: &str) -> Result<()>;
}

/// When the next turn is due.
#[derive(Debug, Clone, Copy)]
pub struct Due {
    /// So long after the beginning of one that was ended.
    pub every: TimeDelta,
    /// So long after the beginning of one that was not: it failed, or who took it is gone.
    pub again: TimeDelta,
}

/// A backup to be made.
#[derive(Debug, Clone)]
pub struct Order {
    /// The file.
    pub target: PathBuf,
    /// Whether it may take the place of a file.
    pub replaces: bool,
    /// The time it is made at.
    pub at: Timestamp,
}

/// A backup that was made.
#[derive(Debug, Clone)]
pub struct Report {
    /// What it is.
    pub header: Header,
    /// What is in it.
    pub manifest: Manifest,
    /// Its size.
    pub bytes: u64,
}

/// The kind of store that a backup is of.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Engine {
    /// The embedded store.
    Sqlite,
    /// PostgreSQL.
    Postgres,
}

impl Engine {
    /// For people.
    pub fn name(self) -> &'static str {
        match self {
            Self::Sqlite => "the embedded store",
            Self::Postgres => "PostgreSQL",
        }
    }
}

/// What a backup says first.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Header {
    product: String,
    format: u32,
    /// Of which kind of store.
    pub engine: Engine,
    /// Version of its schema.
    pub schema: i64,
    /// Version of the program that made it.
    pub server: String,
    /// When it was begun.
    pub created_at: Timestamp,
}

impl Header {
    /// Of a backup that this program makes.
    pub(in crate::store) fn new(engine: Engine, schema: i64, created_at: Timestamp) -> Self {
        let server = env!("CARGO_PKG_VERSION").to_owned();
        Self { product: PRODUCT.to_owned(), format: FORMAT, engine, schema, server, created_at }
    }
}

/// What a backup says last.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Manifest {
    /// Every table.
    pub tables: Vec<Table>,
    /// The last values of the counters that number rows, where one was used.
    #[serde(default)]
    pub sequences: BTreeMap<String, Option<i64>>,
    /// Every entry before this one.
    pub entries: Vec<Entry>,
}

/// A table, as it is in the backup.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Table {
    /// Name.
    pub name: String,
    /// Columns in the order of their values.
    pub columns: Vec<String>,
    /// How many rows it has.
    pub rows: u64,
    /// Digest of its rows in the order of their keys.
    pub sha256: String,
}

/// An entry of the file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Entry {
    /// Name.
    pub name: String,
    /// Size.
    pub bytes: u64,
    /// Digest.
    pub sha256: String,
}

/// Refuses tables that are not what a manifest says; names the first one that differs.
pub(in crate::store) fn compare(wanted: &[Table], found: &[Table]) -> anyhow::Result<()> {
    for table in wanted {
        let other = found.iter().find(|other| other.name == table.name);
        let Some(other) = other else { anyhow::bail!("table {} is missing", table.name) };
        let (rows, name) = (other.rows, &table.name);
        anyhow::ensure!(rows == table.rows, "table {name} has {rows} rows, and {} in the manifest", table.rows);
        let is_equal = other.sha256 == table.sha256 && other.columns == table.columns;
        anyhow::ensure!(is_equal, "the rows of table {name} differ from the manifest");
    }
    let unknown = found.iter().find(|other| !wanted.iter().any(|table| table.name == other.name));
    unknown.map_or(Ok(()), |table| Err(anyhow::anyhow!("table {} is not in the manifest", table.name)))
}

/// A digest that grows with what is written.
pub(in crate::store) struct Digest(Context);

impl Digest {
    pub(in crate::store) fn new() -> Self {
        Self(Context::new(&SHA256))
    }

    pub(in crate::store) fn add(&mut self, bytes: &[u8]) {
        self.0.update(bytes);
    }

    /// In hexadecimal digits.
    pub(in crate::store) fn finish(self) -> String {
        hex::encode(self.0.finish())
    }
}

impl Write for Digest {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.add(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Does what waits for files on a thread that may wait.
pub(in crate::store) async fn waiting<T: Send + 'static>(
    work: impl FnOnce() -> anyhow::Result<T> + Send + 'static,
) -> anyhow::Result<T> {
    tokio::task::spawn_blocking(work).await?
}

#[cfg(test)]
mod tests {
    use super::*;

    fn table(name: &str, rows: u64, sha256: &str) -> Table {
        Table { name: name.to_owned(), columns: vec!["id".to_owned()], rows, sha256: sha256.to_owned() }
    }

    #[test]
    fn the_first_difference_is_named() {
        let wanted = [table("a", 1, "x"), table("b", 2, "y")];
        assert!(compare(&wanted, &wanted).is_ok());
        let said = |found: &[Table]| compare(&wanted, found).expect_err("they differ").to_string();
        assert_eq!(said(&wanted[..1]), "table b is missing");
        assert_eq!(said(&[table("a", 1, "x"), table("b", 3, "y")]), "table b has 3 rows, and 2 in the manifest");
        assert_eq!(said(&[table("a", 1, "z"), table("b", 2, "y")]), "the rows of table a differ from the manifest");
        let more = [wanted.as_slice(), &[table("c", 0, "")]].concat();
        assert_eq!(said(&more), "table c is not in the manifest");
    }
}
