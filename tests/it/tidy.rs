//! The walls of the house, checked on the source text: who may import whom, and who may name what
//! (`docs/architecture.md`). Test modules inside the sources are left out, comments too.

use std::fs;
use std::path::{Path, PathBuf};

/// A module and the modules of ours that it may import. The longest matching prefix decides.
const MAY_IMPORT: &[(&str, &[&str])] = &[
    ("domain", &[]),
    ("ports", &["domain"]),
    ("compute", &["ports"]),
    ("redaction", &[]),
    ("vector", &[]),
    ("config", &["domain"]),
    ("store", &["domain", "ports", "compute"]),
    ("store::sqlite", &["domain", "ports", "compute", "store", "vector"]),
    ("auth", &["domain", "ports", "store"]),
    ("service", &["domain", "store", "ports", "compute", "redaction"]),
    ("adapter", &["domain", "ports", "compute", "config"]),
    ("telemetry", &["domain", "ports", "store", "redaction", "service::health"]),
    ("http", &["domain", "ports", "store", "service", "auth", "config", "telemetry::metrics"]),
    // The command line prints the document of the HTTP face; everything else it asks a server.
    ("cli", &["app", "config", "domain", "telemetry::logs", "http::openapi_document"]),
    ("app", &["adapter", "auth", "compute", "config", "domain", "http", "ports", "service", "store", "telemetry"]),
    ("main", &["cli"]),
    ("lib", &[]),
];

/// Modules that nobody imports whole but `app`, whatever the table above says of their parents.
const ONLY_APP: &[&str] = &["store::sqlite", "adapter"];

/// A name and the modules that may use it.
const MAY_NAME: &[(&[&str], &[&str])] = &[
    (&["sqlx::"], &["store::sqlite"]),
    (&["reqwest::"], &["adapter", "cli"]),
    (&["async_openai::"], &["adapter"]),
    // Routing belongs to `http`; `app` holds the router, the command line serves it and speaks its types of messages,
    // the metrics know the type of a method.
    (&["axum::Router", "axum::middleware", "axum::extract", "axum::response", "axum::routing"], &["http", "app"]),
    (&["axum::"], &["http", "app", "cli", "telemetry::metrics"]),
    (&["std::env", "env::var"], &["config"]),
    (&["println!(", "eprintln!(", "print!(", "eprint!(", "io::stdout("], &["cli"]),
    (&["SqliteStore"], &["store::sqlite", "app"]),
    // A log line carries the time of the machine, whatever time the services are told.
    (&["Utc::now(", "Local::now(", "SystemTime::now("], &["adapter::system", "telemetry::logs"]),
    // Durations, never times of day.
    (&["Instant::now("], &["http::context", "app", "service::health"]),
    // Ids of requests need not be repeatable.
    (&["getrandom::", "Uuid::new_v4(", "Uuid::now_v7("], &["adapter::system", "http::context"]),
    (&["unsafe {", "unsafe fn", "unsafe impl"], &["vector::kernels", "adapter::local::kernels"]),
    (&["static mut"], &[]),
];

/// What stands nowhere, in sources and tests.
const NOWHERE: &[&str] = &["todo!", "unimplemented!", "dbg!", "#[ignore", "allow("];

struct Source {
    path: PathBuf,
    /// `store::sqlite::rows`; a `mod.rs` has the name of its folder.
    module: String,
    /// Code without comments and without test modules.
    code: String,
}

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn files(folder: &Path, out: &mut Vec<PathBuf>) {
    let entries = fs::read_dir(folder).expect("a folder").map(|entry| entry.expect("an entry").path());
    for path in entries {
        if path.is_dir() {
            files(&path, out);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            out.push(path);
        }
    }
}

fn rust_files(folder: &str) -> Vec<PathBuf> {
    let mut found = Vec::new();
    files(&root().join(folder), &mut found);
    found.sort();
    found
}

fn sources() -> Vec<Source> {
    let sources: Vec<Source> = rust_files("src")
        .into_iter()
        .filter(|path| path.file_stem().is_some_and(|stem| stem != "tests"))
        .map(|path| {
            let text = fs::read_to_string(&path).expect("a text");
            let name = path.strip_prefix(root().join("src")).expect("below src").with_extension("");
            let parts: Vec<_> = name.iter().map(|part| part.to_str().expect("a plain name")).collect();
            let module = parts.join("::");
            let module = module.strip_suffix("::mod").unwrap_or(&module).to_owned();
            Source { path, module, code: code_of(&text) }
        })
        .collect();
    assert!(sources.len() > 50, "the sources were not found");
    sources
}

/// Without line comments and everything from a test module on, which is always the last item of a file.
fn code_of(text: &str) -> String {
    let text = text.split("#[cfg(test)]\nmod ").next().unwrap_or_default();
    let lines = text.lines().map(|line| line.trim_start());
    let lines = lines.map(|line| line.split(" // ").next().unwrap_or_default()).filter(|line| !line.starts_with("//"));
    lines.collect::<Vec<_>>().join("\n")
}

fn is_inside(module: &str, of: &str) -> bool {
    module == of || module.strip_prefix(of).is_some_and(|rest| rest.starts_with("::"))
}

/// Paths after `crate::`, a list in braces as one path each: `use crate::domain::{Role, Scope};`.
fn imports(code: &str) -> Vec<String> {
    let mut found = Vec::new();
    for rest in code.split("crate::").skip(1) {
        let path = |text: &str| {
            let end = text.find(|c: char| !(c.is_alphanumeric() || matches!(c, '_' | ':'))).unwrap_or(text.len());
            text[..end].trim_end_matches(':').to_owned()
        };
        match rest.strip_prefix('{') {
            Some(list) => {
                let list = list.split('}').next().unwrap_or_default();
                found.extend(list.split(',').map(|item| path(item.trim())).filter(|item| !item.is_empty()));
            }
            None => found.push(path(rest)),
        }
    }
    found
}

fn allowed_for(module: &str) -> &'static [&'static str] {
    let rows = MAY_IMPORT.iter().filter(|(of, _)| is_inside(module, of));
    rows.max_by_key(|(of, _)| of.len()).map_or_else(|| panic!("{module} has no row in MAY_IMPORT"), |(_, may)| may)
}

#[test]
fn modules_import_only_what_the_house_plan_allows() {
    let mut wrong = Vec::new();
    for Source { module, code, .. } in sources() {
        let own = module.split("::").next().unwrap_or_default();
        let may = allowed_for(&module);
        for import in imports(&code) {
            let listed = is_inside(&import, own) && !is_inside(&import, "store::sqlite")
                || is_inside(&import, "store::sqlite") && is_inside(&module, "store::sqlite")
                || may.iter().any(|of| is_inside(&import, of));
            let kept_apart = ONLY_APP.iter().find(|of| is_inside(&import, of) && !is_inside(&module, of));
            if !listed || kept_apart.is_some_and(|_| module != "app") {
                wrong.push(format!("{module} imports crate::{import}"));
            }
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}

#[test]
fn libraries_and_the_outside_are_named_only_where_they_belong() {
    let mut wrong = Vec::new();
    for Source { module, code, .. } in sources() {
        for (names, places) in MAY_NAME {
            if places.iter().any(|place| is_inside(&module, place)) {
                continue;
            }
            let names = names.iter().filter(|name| names_word(&code, name));
            wrong.extend(names.map(|name| format!("{module} names {name}")));
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}

/// Whether `name` stands in `code` and is not the end of a longer name.
fn names_word(code: &str, name: &str) -> bool {
    code.match_indices(name).any(|(at, _)| {
        let before = code[..at].chars().next_back();
        !before.is_some_and(|c| c.is_alphanumeric() || c == '_')
    })
}

#[test]
fn nothing_is_left_undone_or_switched_off() {
    let mut wrong = Vec::new();
    for path in rust_files("src").into_iter().chain(rust_files("tests")) {
        if path.ends_with("tests/it/tidy.rs") {
            continue;
        }
        let text = fs::read_to_string(&path).expect("a text");
        let found = NOWHERE.iter().filter(|name| names_word(&text, name));
        wrong.extend(found.map(|name| format!("{}: {name}", path.display())));
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}

#[test]
fn every_table_row_is_about_modules_that_exist() {
    let sources = sources();
    let mut names: Vec<String> = sources.iter().flat_map(|source| imports(&source.code)).collect();
    names.extend(sources.into_iter().map(|source| source.module));
    let of_imports = MAY_IMPORT.iter().flat_map(|(of, may)| std::iter::once(of).chain(may.iter()));
    for name in of_imports.chain(MAY_NAME.iter().flat_map(|(_, places)| places.iter())) {
        assert!(names.iter().any(|known| is_inside(known, name)), "{name} is gone: mend the table");
    }
}

#[test]
fn every_source_begins_with_its_purpose() {
    for Source { path, .. } in sources() {
        let text = fs::read_to_string(&path).expect("a text");
        assert!(text.starts_with("//! "), "{} says not what it is for", path.display());
    }
}

#[test]
fn migrations_are_numbered_without_gaps_and_compiled_in() {
    let store = fs::read_to_string(root().join("src/store/sqlite/mod.rs")).expect("a text");
    let entries = fs::read_dir(root().join("migrations/sqlite")).expect("a folder");
    let mut names: Vec<String> =
        entries.map(|entry| entry.expect("an entry").file_name().into_string().expect("a plain name")).collect();
    names.sort();
    assert!(!names.is_empty());
    for (number, name) in (1..).zip(&names) {
        assert!(name.starts_with(&format!("{number:04}_")) && name.ends_with(".sql"), "{name} is not number {number}");
        assert!(store.contains(&format!("migrations/sqlite/{name}\"")), "{name} is not compiled in");
    }
}
