//! What the image, the Compose files and the manifests must not lose. That they work is tried as docs/deployment.md says.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use regex::Regex;

use engramia::config;

const SETTINGS_ONLY: &str = "docker-compose.yml";
const MONITORING: &str = "docker-compose.monitoring.yml";
const PRODUCTION: &str = "docker-compose.prod.yml";

fn text(name: &str) -> Option<String> {
    fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join(name)).ok()
}

fn must(name: &str) -> String {
    text(name).unwrap_or_else(|| panic!("{name} is missing"))
}

fn found(pattern: &str, text: &str) -> BTreeSet<String> {
    let pattern = Regex::new(pattern).expect("a pattern");
    pattern.captures_iter(text).map(|found| found[1].to_owned()).collect()
}

/// Names under a heading of `.env.example`; under all others where it is none.
fn example(heading: &str) -> (BTreeSet<String>, BTreeSet<String>) {
    let text = config::env_example();
    let sections = text.split("\n# ---- ").skip(1);
    let (own, others): (Vec<_>, Vec<_>) = sections.partition(|section| section.starts_with(&format!("{heading} ----")));
    let names = |sections: Vec<&str>| found(r"(?m)^#([A-Z][A-Z0-9_]*)=", &sections.join("\n"));
    (names(own), names(others))
}

/// Names that Compose replaces in a file: `$$` is its escape.
fn replaced(file: &str) -> BTreeSet<String> {
    let lines: Vec<_> = file.lines().filter(|line| !line.trim_start().starts_with('#')).collect();
    found(r"\$\{?([A-Z][A-Z0-9_]*)", &lines.join("\n").replace("$$", ""))
}

#[test]
fn every_variable_of_a_compose_file_is_documented_and_the_other_way_round() {
    for name in [SETTINGS_ONLY, PRODUCTION, MONITORING] {
        let Some(file) = text(name) else { continue };
        let ((own, others), used) = (example(name), replaced(&file));
        let strange: Vec<_> = used.iter().filter(|used| !own.contains(*used) && !others.contains(*used)).collect();
        assert!(strange.is_empty(), "{name} uses what src/config does not know: {strange:?}");
        let unused: Vec<_> = own.difference(&used).collect();
        assert!(unused.is_empty(), "src/config/compose.rs has what {name} does not use: {unused:?}");
    }
}

#[test]
fn settings_that_compose_files_fix_exist() {
    let settings = example("").1;
    for name in [SETTINGS_ONLY, PRODUCTION] {
        for set in found(r"(?m)^      ((?:ENGRAMIA|OPENAI|ANTHROPIC|STRIPE|GIT|BUILD)_[A-Z_]+):", &must(name)) {
            let setting = set.strip_suffix("_FILE").unwrap_or(&set);
            assert!(settings.contains(setting), "{name}: {set}");
        }
    }
}

#[test]
fn only_caddy_is_published_beyond_this_machine() {
    for name in [SETTINGS_ONLY, PRODUCTION, MONITORING] {
        let Some(file) = text(name) else { continue };
        let published = found(r#"(?m)^ +(?:- |ports: \[)"?((?:[0-9.]+:)?\d+:\d+(?:/\w+)?)"?\]?$"#, &file);
        assert!(!published.is_empty(), "{name} publishes something");
        let open: Vec<_> = published.iter().filter(|port| !port.starts_with("127.0.0.1:")).collect();
        let expected: &[&str] = if name == PRODUCTION { &["443:443", "80:80"] } else { &[] };
        assert_eq!(open, expected, "{name}");
    }
}

#[test]
fn every_secret_of_production_is_a_file_that_the_guide_makes() {
    let (file, page) = (must(PRODUCTION), must("docs/deployment.md"));
    let files = found(r"file: \./secrets/([a-z_]+)", &file);
    let read = found(r"_FILE: /run/secrets/([a-z_]+)", &file);
    assert!(files.len() >= 7 && files == read, "{files:?} {read:?}");
    assert!(files.iter().all(|name| page.contains(name)), "docs/deployment.md names {files:?}");
    let ignored = must(".gitignore");
    assert!(ignored.lines().any(|line| line == "/secrets") && ignored.lines().any(|line| line == ".env"));
}

#[test]
fn the_image_runs_as_nobody_in_particular_and_says_its_version() {
    let file = must("Dockerfile");
    for line in
        ["USER 1001:1001", "VOLUME /data", "EXPOSE 8000", "STOPSIGNAL SIGTERM", "FROM gcr.io/distroless/cc-debian12"]
    {
        assert!(file.lines().any(|found| found == line), "{line}");
    }
    let version = format!("ARG APP_VERSION={}", env!("CARGO_PKG_VERSION"));
    assert_eq!(file.lines().filter(|line| *line == version).count(), 2);
    assert!(file.contains(r#"CMD ["/usr/local/bin/engramia", "healthcheck"]"#));
    let rust = format!("FROM rust:{}-slim-bookworm", env!("CARGO_PKG_RUST_VERSION"));
    assert!(file.contains(&rust), "the compiler that Cargo.toml asks for");
}

#[test]
fn the_version_is_the_same_in_every_file() {
    let image = format!("engramia:{}", env!("CARGO_PKG_VERSION"));
    for name in [PRODUCTION, "docs/deployment.md", "Dockerfile", "deploy/kubernetes/kustomization.yaml"] {
        let file = must(name).replace("newTag: \"", "engramia:");
        let named = found(r"\b(engramia:\d[0-9.]*\d)", &file);
        assert!(named.len() == 1 && named.contains(&image), "{name}: {named:?}");
    }
}

#[test]
fn every_pod_is_locked_down_and_its_settings_exist() {
    let settings = example("").1;
    for name in ["migrate", "web", "worker"] {
        let file = must(&format!("deploy/kubernetes/{name}.yaml"));
        // Without the last one the Service named engramia would set ENGRAMIA_PORT to tcp://...
        for line in [
            "runAsNonRoot: true",
            "runAsUser: 1001",
            "readOnlyRootFilesystem: true",
            "allowPrivilegeEscalation: false",
            "drop: [ALL]",
            "automountServiceAccountToken: false",
            "enableServiceLinks: false",
        ] {
            assert!(file.lines().any(|found| found.trim_start().starts_with(line)), "{name}: {line}");
        }
    }
    for name in ["config", "secret.example"] {
        let set = found(r"(?m)^  ([A-Z][A-Z_]+):", &must(&format!("deploy/kubernetes/{name}.yaml")));
        let strange: Vec<_> = set.difference(&settings).collect();
        assert!(!set.is_empty() && strange.is_empty(), "{name}: {strange:?}");
    }
}
