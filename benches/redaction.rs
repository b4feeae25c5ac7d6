//! What redaction replaces in files of ordinary code, and how fast it is.
//!
//! `cargo bench --bench redaction -- DIRECTORY... [--ends py,rs] [--show FAMILY] [--into DIRECTORY]` reads every file
//! below the directories whose name ends so, and prints for each ending files, lines, lines with a replacement, the rate
//! for 1,000 lines, and MB/s; then the replacements of each family. `--show` prints up to 200 places of a family (`all`
//! for every family), `--into` writes what was changed, numbered, before and after, to see whether it still parses
//! (`tools/redacted_parses.py`).

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use engramia::redaction::{Redacted, redact};

/// Places that are shown at most.
const MOST_SHOWN: usize = 200;
/// Larger files are data.
const LARGEST: u64 = 2_000_000;

/// What is wanted.
#[derive(Default)]
struct Options {
    roots: Vec<PathBuf>,
    ends: Vec<String>,
    show: Option<String>,
    into: Option<PathBuf>,
}

/// What was found in the files of one kind.
#[derive(Default)]
struct Tally {
    files: usize,
    changed_files: usize,
    lines: usize,
    changed_lines: usize,
    bytes: usize,
    time: Duration,
}

fn main() -> anyhow::Result<()> {
    let options = options()?;
    let mut files = Vec::new();
    for root in &options.roots {
        collect(root, &options.ends, &mut files);
    }
    files.sort();
    let (mut tallies, mut families, mut shown) = (BTreeMap::<String, Tally>::new(), BTreeMap::new(), 0);
    for path in &files {
        let Ok(text) = fs::read_to_string(path) else { continue };
        let begun = Instant::now();
        let redacted = redact(&text);
        let time = begun.elapsed();
        let end = path.extension().map(|end| end.to_string_lossy().into_owned()).unwrap_or_default();
        let tally = tallies.entry(end).or_default();
        tally.files += 1;
        tally.lines += text.lines().count();
        tally.bytes += text.len();
        tally.time += time;
        if redacted.findings.is_empty() {
            continue;
        }
        tally.changed_files += 1;
        tally.changed_lines += changed(&text, &redacted.text).count();
        for (family, count) in redacted.findings.iter() {
            *families.entry(family).or_insert(0) += count;
        }
        if let Some(wanted) = &options.show {
            shown = show(path, &text, &redacted, wanted, shown);
        }
        if let Some(into) = &options.into {
            write(into, path, &text, &redacted.text, tally.changed_files)?;
        }
    }
    print(&tallies, &families);
    Ok(())
}

fn options() -> anyhow::Result<Options> {
    let mut options = Options::default();
    let mut arguments = std::env::args().skip(1);
    while let Some(argument) = arguments.next() {
        let mut value = || arguments.next().with_context(|| format!("{argument} needs a value"));
        match argument.as_str() {
            "--ends" => options.ends = value()?.split(',').map(str::to_owned).collect(),
            "--show" => options.show = Some(value()?),
            "--into" => options.into = Some(value()?.into()),
            // What `cargo bench` adds.
            "--bench" => {}
            directory => options.roots.push(directory.into()),
        }
    }
    ensure!(!options.roots.is_empty(), "name one directory of code at least");
    Ok(options)
}

fn collect(path: &Path, ends: &[String], out: &mut Vec<PathBuf>) {
    let Ok(kind) = fs::symlink_metadata(path) else { return };
    if kind.is_dir() {
        for entry in fs::read_dir(path).into_iter().flatten().flatten() {
            collect(&entry.path(), ends, out);
        }
    }
    let end = path.extension().and_then(|end| end.to_str()).unwrap_or_default();
    if kind.is_file() && kind.len() <= LARGEST && (ends.is_empty() || ends.iter().any(|wanted| wanted == end)) {
        out.push(path.to_owned());
    }
}

/// Lines before and after that differ. A key block of many lines is one of them: the rest is not compared.
fn changed<'a>(before: &'a str, after: &'a str) -> impl Iterator<Item = (usize, &'a str, &'a str)> {
    let same = before.lines().count() == after.lines().count();
    let pairs = before.lines().zip(after.lines()).enumerate().filter(|(_, (before, after))| before != after);
    pairs.map(|(number, (before, after))| (number + 1, before, after)).take(if same { usize::MAX } else { 1 })
}

fn show(path: &Path, text: &str, redacted: &Redacted<'_>, wanted: &str, mut shown: usize) -> usize {
    for (number, before, after) in changed(text, &redacted.text) {
        let is_wanted = wanted == "all" || redact(before).findings.iter().any(|(family, _)| family == wanted);
        if is_wanted && shown < MOST_SHOWN {
            let cut = |line: &str| line.trim().chars().take(160).collect::<String>();
            println!("{}:{number}\n  - {}\n  + {}", path.display(), cut(before), cut(after));
            shown += 1;
        }
    }
    shown
}

fn write(into: &Path, path: &Path, before: &str, after: &str, number: usize) -> anyhow::Result<()> {
    let end = path.extension().map(|end| end.to_string_lossy().into_owned()).unwrap_or_default();
    for (side, text) in [("before", before), ("after", after)] {
        let folder = into.join(side);
        fs::create_dir_all(&folder)?;
        fs::write(folder.join(format!("{number:06}.{end}")), text)?;
    }
    Ok(())
}

fn print(tallies: &BTreeMap<String, Tally>, families: &BTreeMap<&'static str, u32>) {
    println!(
        "{:>8} {:>8} {:>8} {:>10} {:>8} {:>9} {:>7}",
        "ending", "files", "changed", "lines", "changed", "in 1,000", "MB/s"
    );
    for (end, tally) in tallies {
        let rate = 1e3 * tally.changed_lines as f64 / tally.lines.max(1) as f64;
        let speed = tally.bytes as f64 / 1e6 / tally.time.as_secs_f64().max(1e-9);
        println!(
            "{end:>8} {:>8} {:>8} {:>10} {:>8} {rate:>9.3} {speed:>7.0}",
            tally.files, tally.changed_files, tally.lines, tally.changed_lines
        );
    }
    let mut families: Vec<_> = families.iter().collect();
    families.sort_by_key(|(_, count)| std::cmp::Reverse(**count));
    for (family, count) in families {
        println!("{count:>8} {family}");
    }
}
