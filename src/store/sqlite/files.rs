//! Reads the data directory of an installation of the original, for the one import at the first start (decision 24).
//!
//! The layout (`spec/engramia/50` §8 and `20` §15) is one JSON file per key. The default scope lies at the root, every
//! other scope in `<tenant>/<project>`; the original replaced unsafe characters of these names by `_`, and what was
//! there before is lost (W-41). A file that cannot be read is left out with a warning: it must not keep the rest from
//! being imported. Symbolic links inside the directory are not followed.

use std::collections::BTreeMap;
use std::fmt;
use std::fs::{self, File};
use std::io::{self, BufReader, ErrorKind};
use std::path::{Path, PathBuf};
use std::time::UNIX_EPOCH;

use anyhow::Context;
use serde::de::{Deserialize, DeserializeOwned, Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Value};

use crate::domain::record::Archive;
use crate::domain::{Feedback, PatternKey, Scope, from_unix_seconds};
use crate::store::legacy;

/// Folder of the patterns, and the first part of their keys.
const PATTERNS: &str = "patterns";
/// Folder of the recurring issues, which holds `<tenant>/<project>` once more.
const FEEDBACK: &str = "feedback";
/// Folders of the root that are no tenants: patterns of the default scope, and copies that this program made.
const NO_TENANTS: [&str; 2] = [PATTERNS, "backups"];
/// Evaluations, which the original filed under the default scope whatever theirs was.
const EVALUATIONS: [&str; 4] = ["evals", "default", "default", "_list.json"];
/// Vectors are read in a stream: their file may be larger than the memory.
const BUFFER: usize = 1 << 20;

/// Every scope with anything in it, the default scope first; nothing where there is no old data.
///
/// Reads files and waits for them: not for a thread of the async runtime.
///
/// # Errors
/// When `root` exists and cannot be listed.
pub fn read_old_directory(root: &Path) -> anyhow::Result<Vec<Archive>> {
    let tenants = match list(root) {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Vec::new()),
        outcome => outcome.with_context(|| format!("cannot list {}", root.display()))?,
    };
    let tenants: Vec<Entry> = tenants.into_iter().filter(|entry| !NO_TENANTS.contains(&entry.name.as_str())).collect();
    let mut scopes = scopes_below(&tenants);
    // Issues may be at the root even of a scope that has no folder of its own.
    let with_issues = below(root, &[FEEDBACK]).map_or_else(Vec::new, |folder| list_or_warn(&folder));
    for (scope, _) in scopes_below(&with_issues) {
        let folder = root.join(scope.tenant()).join(scope.project());
        scopes.entry(scope).or_insert(folder);
    }
    scopes.remove(&Scope::default());
    let archives = std::iter::once((Scope::default(), root.to_owned()))
        .chain(scopes)
        .map(|(scope, folder)| read_scope(root, scope, &folder));
    Ok(archives.filter(holds_anything).collect())
}

/// The scopes that `<tenant>/<project>` may stand for, with their folders.
fn scopes_below(tenants: &[Entry]) -> BTreeMap<Scope, PathBuf> {
    let mut scopes = BTreeMap::new();
    for tenant in tenants.iter().filter(|entry| entry.is_folder) {
        for project in list_or_warn(&tenant.path).into_iter().filter(|entry| entry.is_folder) {
            if Scope::is_project_name(&tenant.name) && Scope::is_project_name(&project.name) {
                scopes.insert(Scope::verified(&tenant.name, &project.name), project.path);
            } else {
                warn(&project.path, "its name is not that of a tenant and a project");
            }
        }
    }
    scopes
}

fn read_scope(root: &Path, scope: Scope, folder: &Path) -> Archive {
    // These two may also be at the root on behalf of every scope.
    let somewhere = |parts: &[&str]| below(folder, parts).or_else(|| below(root, parts));
    let model = somewhere(&["metadata", "embedding_config.json"]).and_then(|path| legacy::model(&read(&path)?));
    let feedback = somewhere(&[FEEDBACK, scope.tenant(), scope.project(), "_list.json"]);
    let vectors = below(folder, &["_embeddings.json"]).and_then(|path| read(&path));
    let skills: Option<Map<_, _>> = below(folder, &["skills", "_registry.json"]).and_then(|path| read(&path));
    let metrics: Option<Value> = below(folder, &["metrics", "_global.json"]).and_then(|path| read(&path));
    let (runs, successes) = metrics.as_ref().map_or((0, 0), legacy::runs);
    let evaluations: Option<Value> = below(folder, &EVALUATIONS).and_then(|path| read(&path));
    Archive {
        patterns: patterns(folder),
        vectors: vectors.map_or_else(Vec::new, |Vectors(vectors)| vectors),
        model,
        skills: legacy::tags(skills.unwrap_or_default()),
        feedback: feedback.map_or_else(Vec::new, |path| issues(&path)),
        runs,
        successes,
        recent_scores: evaluations.as_ref().map_or_else(Vec::new, legacy::recent_scores),
        scope,
    }
}

fn holds_anything(archive: &Archive) -> bool {
    let lists_are_empty = archive.patterns.is_empty() && archive.skills.is_empty() && archive.feedback.is_empty();
    !lists_are_empty || archive.runs > 0
}

/// Key and data of every pattern of a scope, in order of their files.
fn patterns(folder: &Path) -> Vec<(PatternKey, Map<String, Value>)> {
    let mut found = Vec::new();
    let mut folders: Vec<_> = below(folder, &[PATTERNS]).map(|path| (PATTERNS.to_owned(), path)).into_iter().collect();
    while let Some((prefix, folder)) = folders.pop() {
        for entry in list_or_warn(&folder) {
            let key = |name: &str| format!("{prefix}/{name}");
            if entry.is_folder {
                folders.push((key(&entry.name), entry.path));
            } else if let Some(name) = entry.name.strip_suffix(".json").filter(|name| !name.starts_with('_')) {
                found.extend(pattern(&key(name), &entry.path));
            }
        }
    }
    found
}

/// The file holds the data, or the data and its key: `{"key": .., "data": {..}}`.
fn pattern(key: &str, path: &Path) -> Option<(PatternKey, Map<String, Value>)> {
    let mut members: Map<String, Value> = read(path)?;
    let mut own_key = None;
    if let (Some(Value::String(key)), Some(Value::Object(data))) = (members.get("key"), members.get("data")) {
        own_key = PatternKey::parse(key).ok();
        members = data.clone();
    }
    let key = own_key.map_or_else(|| PatternKey::parse(key), Ok).inspect_err(|error| warn(path, error)).ok()?;
    Some((key, members))
}

/// Recurring issues of a file, which was written after every one of their times.
fn issues(path: &Path) -> Vec<Feedback> {
    let written = fs::metadata(path).and_then(|metadata| metadata.modified()).ok();
    let written = written.and_then(|at| from_unix_seconds(at.duration_since(UNIX_EPOCH).ok()?.as_secs_f64()));
    legacy::issues(&read(path).unwrap_or_default(), written.unwrap_or_default())
}

/// Vectors of patterns: `{key: [..]}`, `{key: {"embedding": [..]}}` or `[{"key": .., "embedding": [..]}]`, where
/// `vector` is another name of `embedding`. Entries of any other form are left out.
struct Vectors(Vec<(PatternKey, Vec<f32>)>);

#[derive(serde::Deserialize)]
#[serde(untagged)]
enum Member {
    Plain(Vec<f32>),
    Named {
        #[serde(alias = "vector")]
        embedding: Vec<f32>,
    },
    Other(IgnoredAny),
}

#[derive(serde::Deserialize)]
#[serde(untagged)]
enum Item {
    Vector {
        key: String,
        #[serde(alias = "vector")]
        embedding: Vec<f32>,
    },
    Other(IgnoredAny),
}

impl Vectors {
    fn add(&mut self, key: &str, vector: Vec<f32>) {
        self.0.extend(PatternKey::parse(key).ok().map(|key| (key, vector)));
    }
}

impl<'de> Deserialize<'de> for Vectors {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(Self(Vec::new()))
    }
}

impl<'de> Visitor<'de> for Vectors {
    type Value = Self;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("vectors by key")
    }

    fn visit_map<A: MapAccess<'de>>(mut self, mut members: A) -> Result<Self, A::Error> {
        while let Some((key, member)) = members.next_entry::<String, Member>()? {
            if let Member::Plain(vector) | Member::Named { embedding: vector } = member {
                self.add(&key, vector);
            }
        }
        Ok(self)
    }

    fn visit_seq<A: SeqAccess<'de>>(mut self, mut items: A) -> Result<Self, A::Error> {
        while let Some(item) = items.next_element()? {
            if let Item::Vector { key, embedding } = item {
                self.add(&key, embedding);
            }
        }
        Ok(self)
    }
}

/// A file or a folder.
struct Entry {
    name: String,
    path: PathBuf,
    is_folder: bool,
}

/// Files and folders in order of their names, without symbolic links, hidden ones and names that are not Unicode.
fn list(folder: &Path) -> io::Result<Vec<Entry>> {
    let mut entries = Vec::new();
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        let kind = entry.file_type()?;
        let Ok(name) = entry.file_name().into_string() else {
            continue;
        };
        if (kind.is_dir() || kind.is_file()) && !name.starts_with('.') {
            entries.push(Entry { name, path: entry.path(), is_folder: kind.is_dir() });
        }
    }
    entries.sort_by(|a, b| a.name.cmp(&b.name));
    Ok(entries)
}

fn list_or_warn(folder: &Path) -> Vec<Entry> {
    list(folder).inspect_err(|error| warn(folder, error)).unwrap_or_default()
}

/// The path of something that exists, if no part of it is a symbolic link.
fn below(folder: &Path, parts: &[&str]) -> Option<PathBuf> {
    let mut path = folder.to_owned();
    for part in parts {
        path.push(part);
        if fs::symlink_metadata(&path).ok()?.is_symlink() {
            return None;
        }
    }
    Some(path)
}

fn read<T: DeserializeOwned>(path: &Path) -> Option<T> {
    let parse = |file| serde_json::from_reader(BufReader::with_capacity(BUFFER, file)).map_err(io::Error::from);
    File::open(path).and_then(parse).inspect_err(|error| warn(path, error)).ok()
}

fn warn(path: &Path, reason: impl fmt::Display) {
    tracing::warn!(path = %path.display(), %reason, "left out of the import of the old data directory");
}

#[cfg(test)]
mod tests;
