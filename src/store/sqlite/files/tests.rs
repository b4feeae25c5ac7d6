//! Directories as the original left them, and broken ones.

use serde_json::json;
use tempfile::TempDir;

use super::*;
use crate::domain::time::parse_iso;

fn directory(files: &[(&str, Value)]) -> TempDir {
    let root = TempDir::new().expect("a directory");
    for (path, content) in files {
        write(&root, path, &content.to_string());
    }
    root
}

fn write(root: &TempDir, path: &str, content: &str) {
    let path = root.path().join(path);
    fs::create_dir_all(path.parent().expect("a parent")).expect("folders");
    fs::write(path, content).expect("written");
}

fn archives(root: &TempDir) -> Vec<Archive> {
    read_old_directory(root.path()).expect("readable")
}

/// The only scope of a directory that holds these files and one pattern.
fn archive(files: &[(&str, Value)]) -> Archive {
    let root = directory(files);
    write(&root, "patterns/a_1.json", r#"{"task": "t"}"#);
    let mut archives = archives(&root);
    assert_eq!(archives.len(), 1);
    archives.remove(0)
}

fn keys<T>(rows: &[(PatternKey, T)]) -> Vec<&str> {
    rows.iter().map(|(key, _)| key.as_str()).collect()
}

#[test]
fn a_directory_without_old_data_is_empty() {
    let root = directory(&[("engramia.db", json!(1)), ("backups/default/patterns/a_1.json", json!({"task": "t"}))]);
    assert!(archives(&root).is_empty());
    assert!(read_old_directory(&root.path().join("missing")).expect("nothing old").is_empty());
    assert!(read_old_directory(&root.path().join("engramia.db")).is_err(), "not a directory");
}

#[test]
fn every_scope_is_found_the_default_first() {
    let root = directory(&[
        ("patterns/a_1.json", json!({"task": "one", "design": {"code": "c"}})),
        ("metrics/_global.json", json!({"runs": 7, "success": 5, "pipeline_reuse": 0})),
        ("acme/web/patterns/b_2.json", json!({"task": "two"})),
        ("acme/web/metrics/_global.json", json!({"runs": 2, "successes": 3})),
        ("acme/empty/analytics/events.json", json!([])),
        ("acme/bad name/patterns/c_3.json", json!({"task": "three"})),
        ("metrics/x/patterns/d_4.json", json!({"task": "a tenant named like one of the folders"})),
        ("default/default/patterns/e_5.json", json!({"task": "the default scope lies at the root"})),
        ("evals/default/default/_list.json", json!([{"scores": {}}])),
    ]);
    let archives = archives(&root);
    let scopes: Vec<_> = archives.iter().map(|a| (a.scope.tenant(), a.scope.project())).collect();
    assert_eq!(scopes, [("default", "default"), ("acme", "web"), ("metrics", "x")]);
    assert_eq!(keys(&archives[0].patterns), ["patterns/a_1"]);
    assert_eq!(archives[0].patterns[0].1["design"]["code"], "c");
    assert_eq!((archives[0].runs, archives[0].successes), (7, 5));
    assert_eq!(keys(&archives[1].patterns), ["patterns/b_2"]);
    assert_eq!((archives[1].runs, archives[1].successes), (2, 2), "never more successes than runs");
}

#[test]
fn keys_come_from_the_path_or_from_the_record() {
    let archive = archive(&[
        ("patterns/b_2.json", json!({"version": 1, "key": "patterns/own key", "data": {"task": "wrapped"}})),
        ("patterns/c_3.json", json!({"key": "../escape", "data": {"task": "wrapped"}})),
        ("patterns/deep/d_4.json", json!({"task": "t"})),
        ("patterns/_list.json", json!([])),
    ]);
    assert_eq!(keys(&archive.patterns), ["patterns/a_1", "patterns/own key", "patterns/c_3", "patterns/deep/d_4"]);
    assert_eq!(archive.patterns[1].1, *json!({"task": "wrapped"}).as_object().expect("an object"));
}

#[test]
fn broken_files_do_not_stop_the_rest() {
    let root = directory(&[("patterns/a_1.json", json!({"task": "t"})), ("patterns/b_2.json", json!(["no object"]))]);
    for path in ["patterns/c_3.json", "patterns/d..d.json", "patterns/e_5.json.bak", "patterns/f_6.tmp"] {
        write(&root, path, r#"{"task": "cut o"#);
    }
    for path in ["_embeddings.json", "metadata/embedding_config.json", "skills/_registry.json", "metrics/_global.json"]
    {
        write(&root, path, "{\"patterns/a_1\": [1.0");
    }
    write(&root, "feedback/default/default/_list.json", "");
    let archives = archives(&root);
    assert_eq!(archives.len(), 1);
    assert_eq!(keys(&archives[0].patterns), ["patterns/a_1"]);
    assert!(archives[0].vectors.is_empty() && archives[0].model.is_none() && archives[0].feedback.is_empty());
}

#[test]
fn vectors_are_read_in_every_form() {
    let forms = [
        json!({"patterns/a_1": [0.5, 1], "patterns/b": "x", "evals/x": [1.0], "patterns/c": [null], "patterns/d": [2]}),
        json!({"patterns/a_1": {"embedding": [0.5, 1.0]}, "patterns/b": {}, "patterns/d": {"vector": [2]}}),
        json!([
            {"key": "patterns/a_1", "embedding": [0.5, 1.0]}, 5, {"key": "patterns/b"},
            {"key": "patterns/d", "vector": [2], "dim": 1}
        ]),
    ];
    for form in forms {
        let archive = archive(&[("_embeddings.json", form)]);
        let vectors: Vec<_> = archive.vectors.iter().map(|(key, vector)| (key.as_str(), vector.as_slice())).collect();
        assert_eq!(vectors, [("patterns/a_1", &[0.5, 1.0][..]), ("patterns/d", &[2.0][..])]);
    }
    assert!(archive(&[("_embeddings.json", json!("none"))]).vectors.is_empty());
}

#[test]
fn the_model_is_found_under_its_names() {
    for name in ["model", "model_name", "embedding_model"] {
        let archive = archive(&[("metadata/embedding_config.json", json!({"provider": "p", name: "small"}))]);
        assert_eq!(archive.model.as_deref(), Some("small"));
    }
    let root = directory(&[
        ("metadata/embedding_config.json", json!({"model": "small"})),
        ("acme/web/patterns/a_1.json", json!({"task": "t"})),
    ]);
    assert_eq!(archives(&root)[0].model.as_deref(), Some("small"), "that of the root counts for every scope");
    assert_eq!(archive(&[("metadata/embedding_config.json", json!({"model": " "}))]).model, None);
}

#[test]
fn skills_of_patterns_are_read() {
    let registry = json!({"patterns/a_1": ["csv", 5, "stats"], "elsewhere": ["x"], "patterns/b_2": "no list"});
    let archive = archive(&[("skills/_registry.json", registry)]);
    assert_eq!(keys(&archive.skills), ["patterns/a_1"]);
    assert_eq!(archive.skills[0].1, ["csv", "stats"]);
}

#[test]
fn issues_are_read_from_the_root_or_from_the_scope() {
    let issue = json!({
        "pattern": " Add error handling ", "count": 3, "score": 0.7,
        "last_seen": "2026-01-02T03:04:05", "last_decayed": "2026-01-03T04:05:06+01:00"
    });
    let root = directory(&[
        ("feedback/default/default/_list.json", json!([issue, {"pattern": ""}, 5, {"count": 2}])),
        ("feedback/acme/web/_list.json", json!({"items": [issue]})),
        ("acme/api/feedback/acme/api/_list.json", json!([{"pattern": "x", "score": 9, "last_seen": "yesterday"}])),
    ]);
    let archives = archives(&root);
    let scopes: Vec<_> = archives.iter().map(|a| (a.scope.project(), a.feedback.len())).collect();
    assert_eq!(scopes, [("default", 1), ("api", 1), ("web", 1)]);
    let at = |text: &str| parse_iso(text).expect("a time");
    let expected = Feedback {
        text: "Add error handling".into(),
        count: 3,
        score: 0.7,
        ratings: crate::domain::Ratings::default(),
        last_seen: at("2026-01-02T03:04:05Z"),
        decayed_at: at("2026-01-03T03:05:06Z"),
    };
    for archive in [&archives[0], &archives[2]] {
        assert_eq!(archive.feedback.as_slice(), std::slice::from_ref(&expected));
    }
    let poor = &archives[1].feedback[0];
    assert_eq!((poor.count, poor.score, poor.decayed_at), (1, 1.0, poor.last_seen));
    assert!(poor.last_seen > at("2020-01-01T00:00:00Z"), "the time of the file stands in");
}

#[cfg(unix)]
#[test]
fn symbolic_links_are_not_followed() {
    use std::os::unix::fs::symlink;
    let outside = directory(&[
        ("patterns/x_1.json", json!({"task": "outside"})),
        ("embedding_config.json", json!({"model": "outside"})),
    ]);
    let root = directory(&[("patterns/a_1.json", json!({"task": "t"}))]);
    fs::create_dir(root.path().join("acme")).expect("a folder");
    let links = [
        ("patterns/x_1.json", "patterns/l_1.json"),
        ("patterns", "patterns/deep"),
        ("", "acme/web"),
        ("", "metadata"),
        ("", "tenant"),
    ];
    for (target, link) in links {
        symlink(outside.path().join(target), root.path().join(link)).expect("a link");
    }
    let archives = archives(&root);
    assert_eq!(archives.len(), 1);
    assert_eq!(keys(&archives[0].patterns), ["patterns/a_1"]);
    assert_eq!(archives[0].model, None);
}
