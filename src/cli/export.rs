//! `engramia export`.

use std::io::{Read, Write};
use std::path::{Path, PathBuf};

use anyhow::Context;
use clap::{Args, ValueEnum};
use indicatif::ProgressBar;
use serde::Deserialize;
use serde_json::json;
use serde_json::value::RawValue;

use super::client::Client;
use super::failure::Failure;
use super::output::{self, one_line};
use super::partial::{PartialDirectory, PartialFile};
use super::stream::{each_record, feed};
use crate::domain::PatternKey;

/// Where to write every pattern.
#[derive(Args)]
#[command(after_help = "\
The file appears, or is replaced, only when the export is complete.

Examples:
  engramia export backup.json
  engramia export --format jsonl | gzip > backup.jsonl.gz
  engramia export --format dir backup")]
pub struct ExportArgs {
    /// File (for `dir` a new directory) to write; `-` for standard output
    #[arg(default_value = "-")]
    file: PathBuf,
    /// What to write
    #[arg(long, value_enum, default_value_t = Format::Json)]
    format: Format,
}

/// Forms of an export.
#[derive(Clone, Copy, ValueEnum)]
enum Format {
    /// One JSON document, as `GET /v1/export` answers
    Json,
    /// One record a line
    Jsonl,
    /// One file a pattern, as the data directory of Engramia 0.6 has them
    Dir,
}

/// Runs the verb.
pub async fn run(client: &Client, args: ExportArgs, json: bool) -> anyhow::Result<()> {
    let ExportArgs { file, format } = args;
    let to_stdout = file.as_os_str() == "-";
    if to_stdout && matches!(format, Format::Dir) {
        return Err(Failure::Usage("--format dir needs a directory to write").into());
    }
    let total = client.get("/v1/health").await?["pattern_count"].as_u64();
    let bar = output::progress("exporting", total);
    let body = client.stream("/v1/export").await?;
    let (path, counter) = (file.clone(), bar.clone());
    let written = feed(body, move |pieces| match format {
        Format::Dir => directory(pieces, &path, &counter),
        _ if to_stdout => document(pieces, &mut std::io::stdout().lock(), format, &counter),
        _ => {
            let mut file = PartialFile::create(&path)?;
            let count = document(pieces, &mut file, format, &counter)?;
            file.finish()?;
            Ok(count)
        }
    });
    let count = written.await?;
    bar.finish_and_clear();
    match (to_stdout, json) {
        (true, _) => {}
        (false, true) => output::json(&json!({ "exported": count, "file": file.display().to_string() }))?,
        (false, false) => output::line(&format!("exported {count} patterns to {}", file.display()))?,
    }
    Ok(())
}

/// Writes one document, a record a line in both forms.
fn document(reader: impl Read, out: &mut impl Write, format: Format, bar: &ProgressBar) -> anyhow::Result<u64> {
    let whole = matches!(format, Format::Json);
    let mut separator = if whole { "{\"records\":[\n" } else { "" };
    let count = each_record(reader, |record| {
        write!(out, "{separator}{}", record.get())?;
        separator = if whole { ",\n" } else { "\n" };
        bar.inc(1);
        Ok(())
    })?;
    match (whole, count) {
        (true, 0) => writeln!(out, "{{\"records\":[],\"count\":0}}")?,
        (true, _) => writeln!(out, "\n],\"count\":{count}}}")?,
        (false, 0) => {}
        (false, _) => writeln!(out)?,
    }
    out.flush()?;
    Ok(count)
}

#[derive(Deserialize)]
struct Record<'a> {
    key: String,
    #[serde(borrow)]
    data: &'a RawValue,
}

/// Writes a file a record.
fn directory(reader: impl Read, path: &Path, bar: &ProgressBar) -> anyhow::Result<u64> {
    let directory = PartialDirectory::create(path)?;
    let count = each_record(reader, |record| {
        let Record { key, data } = serde_json::from_str(record.get()).context("a record without key or data")?;
        let written = file_of(&key).and_then(|file| directory.write(&file, data.get()));
        written.with_context(|| format!("{}: --format jsonl can hold it", one_line(&key)))?;
        bar.inc(1);
        Ok(())
    })?;
    directory.finish()?;
    Ok(count)
}

/// `patterns/<name>.json`. The key comes from elsewhere: no part of it may leave the directory.
fn file_of(key: &str) -> anyhow::Result<PathBuf> {
    let key = PatternKey::parse(key)?;
    let safe = |c: char| if c.is_alphanumeric() || matches!(c, '-' | '_' | '.') { c } else { '_' };
    let mut file = PathBuf::new();
    for part in key.as_str().split('/') {
        let name: String = part.chars().map(safe).collect();
        file.push(if name.is_empty() || name == "." { "_" } else { &name });
    }
    file.as_mut_os_string().push(".json");
    Ok(file)
}

#[cfg(test)]
mod tests {
    use super::super::records;
    use super::*;

    const ANSWER: &str = r#"{"records":[{"version":1,"key":"patterns/a_1","data":{"task":"A","n":1.50}},{"version":1,"key":"patterns/b/c","data":{"task":"B"}}],"count":2}"#;
    const EMPTY: &str = "{\"records\":[],\"count\":0}";

    fn written(answer: &str, format: Format) -> anyhow::Result<String> {
        let mut out = Vec::new();
        document(answer.as_bytes(), &mut out, format, &ProgressBar::hidden())?;
        Ok(String::from_utf8(out)?)
    }

    #[test]
    fn both_documents_can_be_imported() {
        for format in [Format::Json, Format::Jsonl] {
            let text = written(ANSWER, format).expect("written");
            let records = records::read(&text).expect("readable");
            let records: Vec<_> = records.iter().map(|record| record.json.get()).collect();
            assert_eq!(format!("{{\"records\":[{}],\"count\":2}}", records.join(",")), ANSWER);
            let empty = written(EMPTY, format).expect("written");
            assert!(records::read(&empty).expect("readable").is_empty());
        }
        assert_eq!(written(ANSWER, Format::Jsonl).expect("written").lines().count(), 2);
        assert_eq!(written(EMPTY, Format::Json).expect("written"), format!("{EMPTY}\n"));
    }

    #[test]
    fn an_export_that_breaks_off_leaves_nothing() {
        assert!(written(&ANSWER[..100], Format::Json).is_err());
        let parent = tempfile::tempdir().expect("a directory");
        let path = parent.path().join("out");
        assert!(directory(&ANSWER.as_bytes()[..100], &path, &ProgressBar::hidden()).is_err());
        assert_eq!(std::fs::read_dir(parent.path()).expect("a directory").count(), 0);
    }

    #[test]
    fn a_directory_has_a_file_a_pattern() {
        let parent = tempfile::tempdir().expect("a directory");
        let path = parent.path().join("out");
        directory(ANSWER.as_bytes(), &path, &ProgressBar::hidden()).expect("written");
        let read = |name| std::fs::read_to_string(path.join(name)).expect(name);
        assert_eq!(read("patterns/a_1.json"), r#"{"task":"A","n":1.50}"#);
        assert_eq!(read("patterns/b/c.json"), r#"{"task":"B"}"#);
    }

    #[test]
    fn no_key_leaves_the_directory() {
        let shown = |key| file_of(key).map(|file| file.display().to_string()).ok();
        assert_eq!(shown("patterns/a b:c").as_deref(), Some("patterns/a_b_c.json"));
        assert_eq!(shown("patterns//etc/passwd").as_deref(), Some("patterns/_/etc/passwd.json"));
        assert_eq!(shown("patterns/./x").as_deref(), Some("patterns/_/x.json"));
        assert_eq!(shown("patterns/x.y").as_deref(), Some("patterns/x.y.json"));
        for bad in ["patterns/../x", "/etc/passwd", "patterns/", "other/x"] {
            assert_eq!(shown(bad), None, "{bad}");
        }
    }
}
