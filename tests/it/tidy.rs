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
    ("store::engine", &["domain", "ports", "compute", "store", "vector"]),
    ("store::sqlite", &["domain", "ports", "compute", "store", "vector"]),
    ("store::postgres", &["domain", "ports", "compute", "store", "vector"]),
    ("auth", &["domain", "ports", "store"]),
    ("auth::oidc", &["config", "domain", "ports"]),
    ("service", &["domain", "store", "ports", "compute", "redaction"]),
    ("adapter", &["domain", "ports", "compute", "config"]),
    (
        "telemetry",
        &["domain", "ports", "store", "redaction", "service::ServiceError", "service::health", "service::instance"],
    ),
    ("telemetry::traces", &["config", "redaction"]),
    ("http", &["domain", "ports", "store", "service", "auth", "config", "telemetry::metrics", "telemetry::traces"]),
    ("jobs", &["auth", "config", "domain", "http", "service", "store", "telemetry::metrics"]),
    // The command line prints the document of the HTTP face; everything else it asks a server.
    ("cli", &["app", "config", "domain", "telemetry::logs", "telemetry::traces", "http::openapi_document"]),
    (
        "app",
        &["adapter", "auth", "compute", "config", "domain", "http", "jobs", "ports", "service", "store", "telemetry"],
    ),
    ("main", &["cli"]),
    ("lib", &[]),
];

/// Modules that nobody imports whole but `app`, whatever the table above says of their parents.
const ONLY_APP: &[&str] = &["store::sqlite", "store::postgres", "adapter"];

/// A name and the modules that may use it.
const MAY_NAME: &[(&[&str], &[&str])] = &[
    (&["sqlx::"], &["store::sqlite", "store::postgres", "store::original", "store::engine::error"]),
    (&["pgvector::"], &["store::postgres"]),
    // Text of statements that is put together: only where an index has a number in its definition.
    // Or where tables have theirs in it.
    (
        &["AssertSqlSafe"],
        &["store::postgres::ann", "store::postgres::tables", "store::postgres::restore", "store::sqlite::fingerprint"],
    ),
    (&["reqwest::"], &["adapter", "cli"]),
    (&["async_openai::"], &["adapter"]),
    (&["stripe_core::", "stripe_billing::", "stripe_checkout::"], &["adapter"]),
    (&["jsonwebtoken::"], &["auth::oidc"]),
    (&["aws_lc_rs::"], &["service::idempotency", "service::billing", "store::backup"]),
    (&["tar::"], &["store::backup"]),
    // Routing belongs to `http`; `app` holds the router, the command line serves it and speaks its types of messages,
    // the metrics know the type of a method.
    (&["axum::Router", "axum::middleware", "axum::extract", "axum::response", "axum::routing"], &["http", "app"]),
    (&["axum::"], &["http", "app", "cli", "telemetry::metrics"]),
    (&["std::env", "env::var"], &["config"]),
    (&["println!(", "eprintln!(", "print!(", "eprint!(", "io::stdout("], &["cli"]),
    (&["SqliteStore"], &["store::sqlite", "app"]),
    (&["PostgresStore"], &["store::postgres", "app"]),
    // A log line carries the time of the machine, whatever time the services are told.
    (&["Utc::now(", "Local::now(", "SystemTime::now("], &["adapter::system", "telemetry::logs"]),
    // Durations, never times of day.
    (
        &["Instant::now("],
        &[
            "adapter::disk",
            "http::context",
            "app",
            "jobs::attempt",
            "service::health",
            "service::gateway",
            "service::instance",
            "store::postgres::connect",
            "telemetry::traces",
        ],
    ),
    // Ids of requests need not be repeatable.
    (&["getrandom::", "Uuid::new_v4(", "Uuid::now_v7("], &["adapter::system", "http::context", "telemetry::traces"]),
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
            let kept_apart = ONLY_APP.iter().find(|of| is_inside(&import, of) && !is_inside(&module, of));
            let listed = is_inside(&import, own) && kept_apart.is_none() || may.iter().any(|of| is_inside(&import, of));
            if !listed || kept_apart.is_some_and(|_| !is_inside(&module, "app")) {
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

/// Names of the migrations of a store, in order.
fn migrations(store: &str) -> Vec<String> {
    let entries = fs::read_dir(root().join("migrations").join(store)).expect("a folder");
    let mut names: Vec<String> =
        entries.map(|entry| entry.expect("an entry").file_name().into_string().expect("a plain name")).collect();
    names.sort();
    names
}

#[test]
fn migrations_are_numbered_without_gaps_and_compiled_in() {
    for (store, code) in [("sqlite", "sqlite/schema.rs"), ("postgres", "postgres/schema.rs")] {
        let code = fs::read_to_string(root().join("src/store").join(code)).expect("a text");
        let names = migrations(store);
        assert!(!names.is_empty());
        for (number, name) in (1..).zip(&names) {
            let numbered = name.starts_with(&format!("{number:04}_")) && name.ends_with(".sql");
            assert!(numbered, "{name} is not number {number}");
            assert!(code.contains(&format!("migrations/{store}/{name}\"")), "{name} is not compiled in");
        }
    }
    assert_eq!(migrations("sqlite"), migrations("postgres"), "both stores have the same migrations");
}

/// Statements of a source: its string literals that begin like SQL, without the line breaks.
fn statements(code: &str) -> Vec<String> {
    let begins =
        |text: &str| ["select ", "insert ", "update ", "delete ", "with "].iter().any(|word| text.starts_with(word));
    let literals = code.split('"').skip(1).step_by(2).filter(|text| begins(text));
    literals.map(|text| text.split_whitespace().filter(|word| *word != "\\").collect::<Vec<_>>().join(" ")).collect()
}

/// Tables of the data plane: every statement about them names the tenant (`docs/architecture.md`, schema rules).
const DATA_TABLES: &[&str] = &[
    "scopes",
    "patterns",
    "vectors",
    "pattern_words",
    "tombstones",
    "reuse",
    "evaluations",
    "skills",
    "feedback",
    "feedback_tasks",
    "analytics_events",
    "analytics_rollups",
    "projects",
    "audit_log",
    "model_spend",
    "jobs",
    "job_turns",
    "billing_subscriptions",
    "usage_counters",
    "usage_reservations",
    "overage_periods",
    "dunning_warnings",
    "data_subject_requests",
    "erasures",
    "idempotency_keys",
];

#[test]
fn every_statement_about_data_names_its_tenant() {
    // Work that is no tenant's own, with a switch in row-level security of its own.
    let system = ["mod", "upkeep", "ann", "queue", "feed", "erasures", "statistics", "connect", "schema", "inspect"];
    let mut checked = 0;
    for Source { module, code, .. } in
        sources().into_iter().filter(|source| is_inside(&source.module, "store::postgres"))
    {
        if system.iter().any(|name| module == format!("store::postgres::{name}")) || module == "store::postgres" {
            continue;
        }
        for statement in statements(&code) {
            let about = |table: &&&str| statement.split([' ', '(', ')']).any(|word| word == **table);
            if DATA_TABLES.iter().find(about).is_some() {
                checked += 1;
                let named = statement.contains("tenant_id = $1") || statement.contains("(tenant_id, ");
                assert!(named, "{module}: {statement}");
            }
        }
    }
    assert!(checked > 25, "the statements were not found: {checked}");
}
