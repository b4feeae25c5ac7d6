//! A backup that is being read. Nothing of it is believed before its digest was seen.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{BufReader, ErrorKind, Read, Seek, SeekFrom, Take};
use std::path::{Path, PathBuf};

use anyhow::Context;
use serde_json::Value;

use super::{BUFFER, Digest, Engine, Entry, FORMAT, HEADER, Header, MANIFEST, Manifest, PRODUCT};

/// Longest header or manifest that is read.
const LONGEST: u64 = 16 << 20;
/// Unit of a tar archive.
const BLOCK: u64 = 512;
/// Two empty blocks end a tar archive.
const TAIL: u64 = 2 * BLOCK;

/// A backup with a beginning and an end.
#[derive(Debug)]
pub struct Archive {
    path: PathBuf,
    /// What it says first.
    pub header: Header,
    /// What it says last.
    pub manifest: Manifest,
    /// Where its entries begin, and how long they are.
    spans: BTreeMap<String, (u64, u64)>,
}

impl Archive {
    /// Opens a file and looks at its beginning, its end, and the sizes between.
    ///
    /// # Errors
    /// When it is no backup, was cut off, was changed, or has a format that this program does not know.
    pub fn open(path: &Path) -> anyhow::Result<Self> {
        let name = path.display();
        let mut file = File::open(path).with_context(|| format!("opening {name}"))?;
        let length = file.metadata()?.len();
        let foreign = || format!("{name} is not a backup of Engramia");
        let cut_off = || format!("{name} is truncated: its end is missing");
        let damaged = || format!("{name} is damaged");

        let mut spans = BTreeMap::new();
        let mut header = None;
        let mut end = 0;
        let mut archive = tar::Archive::new(&file);
        for entry in archive.entries_with_seek().with_context(foreign)? {
            let entry = match entry {
                Ok(entry) => entry,
                Err(_) if header.is_none() => anyhow::bail!(foreign()),
                // The end of a file that is cut off stands in the middle of a block, or where there are no more.
                Err(error) if error.kind() == ErrorKind::UnexpectedEof || length % BLOCK != 0 => {
                    anyhow::bail!(cut_off())
                }
                Err(error) => return Err(error).with_context(damaged),
            };
            let of = String::from_utf8_lossy(&entry.path_bytes()).into_owned();
            let span = (entry.raw_file_position(), entry.size());
            if header.is_none() {
                anyhow::ensure!(of == HEADER && span.1 <= LONGEST, foreign());
                anyhow::ensure!(span.0 + span.1 <= length, cut_off());
                header = Some(read_header(path, &text(path, span)?)?);
            }
            end = span.0.saturating_add(span.1).next_multiple_of(BLOCK);
            spans.insert(of, span);
        }
        let header = header.with_context(foreign)?;
        let span = *spans.get(MANIFEST).with_context(cut_off)?;
        anyhow::ensure!(length >= end + TAIL, cut_off());
        anyhow::ensure!(length == end + TAIL && span.1 <= LONGEST, damaged());
        anyhow::ensure!(is_empty(&mut file, end)?, damaged());
        let manifest: Manifest =
            serde_json::from_slice(&text(path, span)?).with_context(|| format!("{}: {MANIFEST}", damaged()))?;
        let archive = Self { path: path.to_owned(), header, manifest, spans };
        archive.check_entries()?;
        Ok(archive)
    }

    /// What the manifest says of the entries is what there is.
    fn check_entries(&self) -> anyhow::Result<()> {
        let entries = &self.manifest.entries;
        anyhow::ensure!(entries.len() + 1 == self.spans.len(), self.differs("list of entries"));
        for Entry { name, bytes, .. } in entries {
            anyhow::ensure!(self.spans.get(name).is_some_and(|span| span.1 == *bytes), self.differs(name));
        }
        let mut header = self.entry(HEADER)?;
        std::io::copy(&mut header, &mut std::io::sink()).with_context(|| self.differs(HEADER))?;
        header.finish()
    }

    /// Refuses a backup of another kind of store, and one of a schema that this program does not know.
    ///
    /// # Errors
    /// When it is one.
    pub fn expect(&self, engine: Engine, newest: i64) -> anyhow::Result<()> {
        let (name, of, schema) = (self.path.display(), self.header.engine, self.header.schema);
        anyhow::ensure!(
            of == engine,
            "{name} is a backup of {}, and the configured store is {}: restore it into a store of its own kind, then \
             move everything with `engramia copy-store`",
            of.name(),
            engine.name()
        );
        anyhow::ensure!(
            schema <= newest,
            "{name} has schema {schema}, which is newer than this program's ({newest}): use the program that made it \
             ({}) or a newer one",
            self.header.server
        );
        anyhow::ensure!(schema > 0, "{name} is damaged: it has no schema");
        Ok(())
    }

    /// An entry, to be read once from its beginning to its end.
    ///
    /// # Errors
    /// When there is none of this name.
    pub fn entry(&self, name: &str) -> anyhow::Result<EntryReader> {
        let known = self.manifest.entries.iter().find(|entry| entry.name == name);
        let (entry, span) = known.zip(self.spans.get(name)).with_context(|| self.differs(name))?;
        Ok(EntryReader {
            inner: at(&self.path, *span)?,
            digest: Digest::new(),
            bytes: 0,
            wanted: entry.clone(),
            damaged: self.differs(name),
        })
    }

    /// The file.
    pub fn path(&self) -> &Path {
        &self.path
    }

    fn differs(&self, what: &str) -> String {
        format!("{} is damaged: {what} is not what the manifest says", self.path.display())
    }
}

/// An entry that is being read.
pub struct EntryReader {
    inner: BufReader<Take<File>>,
    digest: Digest,
    bytes: u64,
    wanted: Entry,
    damaged: String,
}

impl Read for EntryReader {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        let read = self.inner.read(buffer)?;
        self.digest.add(&buffer[..read]);
        self.bytes += read as u64;
        Ok(read)
    }
}

impl EntryReader {
    /// Whether what was read is what was written.
    ///
    /// # Errors
    /// When it is not.
    pub fn finish(self) -> anyhow::Result<()> {
        let is_whole = self.bytes == self.wanted.bytes && self.digest.finish() == self.wanted.sha256;
        anyhow::ensure!(is_whole, self.damaged);
        Ok(())
    }
}

fn at(path: &Path, (position, length): (u64, u64)) -> anyhow::Result<BufReader<Take<File>>> {
    let mut file = File::open(path).with_context(|| format!("opening {}", path.display()))?;
    file.seek(SeekFrom::Start(position))?;
    Ok(BufReader::with_capacity(BUFFER, file.take(length)))
}

fn text(path: &Path, span: (u64, u64)) -> anyhow::Result<Vec<u8>> {
    let mut text = Vec::new();
    at(path, span)?.read_to_end(&mut text).with_context(|| format!("reading {}", path.display()))?;
    Ok(text)
}

/// Whether nothing but zeros follows.
fn is_empty(file: &mut File, from: u64) -> anyhow::Result<bool> {
    let mut rest = Vec::new();
    file.seek(SeekFrom::Start(from))?;
    file.read_to_end(&mut rest)?;
    Ok(rest.iter().all(|byte| *byte == 0))
}

/// Product and format first: another format may say everything else in another way.
fn read_header(path: &Path, text: &[u8]) -> anyhow::Result<Header> {
    let name = path.display();
    let header: Value = serde_json::from_slice(text).with_context(|| format!("{name} is damaged: {HEADER}"))?;
    anyhow::ensure!(header["product"] == PRODUCT, "{name} is not a backup of Engramia");
    let format = header["format"].as_u64().with_context(|| format!("{name} is damaged: {HEADER}"))?;
    anyhow::ensure!(
        format <= u64::from(FORMAT),
        "{name} has format {format}, which is newer than this program's ({FORMAT}): use the program that made it \
         ({}) or a newer one",
        header["server"].as_str().unwrap_or("unknown")
    );
    serde_json::from_value(header).with_context(|| format!("{name} is damaged: {HEADER}"))
}
