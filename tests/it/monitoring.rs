//! What is shipped for watching a server: every metric that a rule or a panel asks for is there with its labels, every
//! one is documented, and a server whose store is gone still says so.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use axum::http::Method;
use serde_json::{Value, json};

use crate::support::app::{Setup, TestApp};
use crate::support::cluster::{Cluster, Stop};
use crate::support::payments::Stripe;
use crate::support::postgres::Database;
use crate::support::program::{Server, lesson, on_database};
use crate::support::provider::{Provider, verdict};
use crate::support::{eventually, run};

/// What Prometheus adds by itself.
const OF_THE_TARGET: [&str; 3] = ["instance", "job", "le"];

/// Kind and labels by name.
type Families = BTreeMap<String, (String, BTreeSet<String>)>;

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn text(name: &str) -> String {
    fs::read_to_string(root().join(name)).unwrap_or_else(|error| panic!("{name}: {error}"))
}

/// Our own metrics of an answer.
fn families(exposition: &str) -> Families {
    let mut found = Families::new();
    for line in exposition.lines() {
        if let Some((name, kind)) = line.strip_prefix("# TYPE ").and_then(|rest| rest.split_once(' ')) {
            found.insert(name.to_owned(), (kind.to_owned(), BTreeSet::new()));
        } else if !line.starts_with('#')
            && let Some((name, rest)) = line.split_once('{')
        {
            let labels = labels_of(rest.rsplit_once('}').expect("closed").0);
            let family = family_of(name, &found).expect("a type before the samples").to_owned();
            found.get_mut(&family).expect("just found").1.extend(labels.filter(|label| label != "le"));
        }
    }
    found.retain(|name, _| name.starts_with("engramia_"));
    found
}

/// The metric that a sample belongs to.
fn family_of<'a>(sample: &'a str, families: &Families) -> Option<&'a str> {
    let ends = ["", "_bucket", "_sum", "_count"].into_iter();
    ends.filter_map(|end| sample.strip_suffix(end)).find(|name| families.contains_key(*name))
}

/// Names of labels in what stands between braces.
fn labels_of(inside: &str) -> impl Iterator<Item = String> + '_ {
    // The values are in quotes: the names stand in the even parts.
    let outside = inside.split('"').step_by(2);
    outside.map(|part| part.trim_matches(|c: char| ",=~! ".contains(c)).to_owned()).filter(|name| !name.is_empty())
}

/// Expressions of the rules, and of the dashboard.
fn queries() -> Vec<String> {
    let rules = text("monitoring/rules/engramia.yml");
    let rules = rules.split("expr:").skip(1).map(|rest| rest.split("for:").next().expect("a part").to_owned());
    let targets = dashboard()["panels"].as_array().expect("panels").clone();
    let targets = targets.into_iter().flat_map(|panel| panel["targets"].as_array().cloned().unwrap_or_default());
    rules.chain(targets.map(|target| target["expr"].as_str().expect("a query").to_owned())).collect()
}

fn dashboard() -> Value {
    serde_json::from_str(&text("monitoring/grafana/dashboards/engramia-overview.json")).expect("JSON")
}

fn is_name(c: char) -> bool {
    c.is_ascii_alphanumeric() || c == '_'
}

/// Our metrics in a text, with what follows each.
fn mentioned(text: &str) -> impl Iterator<Item = (&str, &str)> {
    text.match_indices("engramia_").filter(|(at, _)| !text[..*at].ends_with(is_name)).map(|(at, _)| {
        let rest = &text[at..];
        rest.split_at(rest.find(|c| !is_name(c)).unwrap_or(rest.len()))
    })
}

/// An application that has done everything once.
async fn busy() -> (TestApp, Database, Stripe, Provider) {
    let database = Database::new().await;
    let stripe = Stripe::start().await;
    let provider = Provider::saying(&[&verdict(8.0, "Good.")]).await;
    let setup = stripe.of(provider.of(Setup::new().postgres(&database))).var("ENGRAMIA_METRICS", "true");
    let app = setup.start().await;
    let owner = app.owner();
    owner.post("/v1/learn", &run("parse a file", "code", 8.0)).await.ok();
    owner.post("/v1/recall", &json!({ "task": "parse a file" })).await.ok();
    owner.post("/v1/recall", &json!({ "task": "something else entirely" })).await.ok();
    owner.post("/v1/evaluate", &json!({ "task": "t", "code": "c", "num_evals": 1 })).await.ok();
    app.anonymous().send("/v1/billing/webhook", "{}").await.problem(400, "VALIDATION_ERROR");
    let job = owner.call(Method::POST, "/v1/aging").header("prefer", "respond-async").await.json();
    let path = format!("/v1/jobs/{}", job["job_id"].as_str().expect("an id"));
    eventually("the job is done", async || {
        let job = owner.get(&path).await.ok();
        (job["status"] == "completed").then_some(())
    })
    .await;
    (app, database, stripe, provider)
}

#[tokio::test]
async fn rules_and_panels_ask_for_what_a_server_exports_and_the_documentation_names_all_of_it() {
    let (app, _database, _stripe, _provider) = busy().await;
    let exported = eventually("the end of the job is counted", async || {
        let text = app.anonymous().get("/metrics").await.text();
        text.contains("engramia_jobs_completed_total{").then_some(text)
    })
    .await;
    for line in ["engramia_stripe_webhook_errors_total{kind=\"refused\"} 1", "engramia_store_up 1"] {
        assert!(exported.lines().any(|found| found == line), "{line} is not in {exported}");
    }
    let families = families(&exported);
    let mut wrong = Vec::new();
    for query in queries() {
        let mut known: BTreeSet<&str> = OF_THE_TARGET.into();
        for (name, rest) in mentioned(&query) {
            let Some((_, labels)) = family_of(name, &families).and_then(|family| families.get(family)) else {
                wrong.push(format!("{name} is not exported: {query}"));
                continue;
            };
            known.extend(labels.iter().map(String::as_str));
            let selector = rest.strip_prefix('{').and_then(|rest| rest.split('}').next()).unwrap_or_default();
            let unknown = labels_of(selector).filter(|label| !known.contains(label.as_str()));
            wrong.extend(unknown.map(|label| format!("{name} has no label {label}")));
        }
        for list in query.split("by (").skip(1).filter(|_| query.contains("engramia_")) {
            let list = list.split(')').next().expect("a part").split(',').map(str::trim);
            wrong.extend(list.filter(|label| !known.contains(label)).map(|label| format!("{label} in {query}")));
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
    assert_eq!(documented(), families, "docs/monitoring.md lists the metrics as they are");
}

/// The table of metrics in the documentation.
fn documented() -> Families {
    let page = text("docs/monitoring.md");
    let rows = page.lines().filter_map(|line| line.strip_prefix("| `engramia_"));
    let rows = rows.map(|row| {
        let cells: Vec<_> = row.split('|').map(|cell| cell.trim().trim_matches('`')).collect();
        let labels = cells[2].split(',').map(|label| label.trim().to_owned()).filter(|label| !label.is_empty());
        (format!("engramia_{}", cells[0]), (cells[1].to_owned(), labels.collect()))
    });
    rows.collect()
}

#[test]
fn every_alert_says_how_bad_it_is_and_what_it_is_about_and_is_tested_and_documented() {
    let page = text("docs/monitoring.md");
    let mut names = Vec::new();
    for file in ["engramia", "host"] {
        let tests = text(&format!("monitoring/tests/{file}.yml"));
        for alert in text(&format!("monitoring/rules/{file}.yml")).split("- alert: ").skip(1) {
            let name = alert.lines().next().expect("a name");
            for part in ["severity: ", "component: ", "summary: ", "description: ", "for: "] {
                assert!(alert.contains(part), "{name} has no {part}");
            }
            let fires =
                format!("ALERTS{{alertname=\"{name}\",alertstate=\"firing\"}})\n        exp_samples: [{{value: ");
            let silent = format!("ALERTS{{alertname=\"{name}\",alertstate=\"firing\"}})\n        exp_samples: []");
            assert!(tests.contains(&fires) && tests.contains(&silent), "{name} is not tested");
            assert!(page.contains(&format!("| {name} |")), "{name} is not documented");
            names.push(name.to_owned());
        }
    }
    assert_eq!(names.len(), 25, "{names:?}");
}

#[test]
fn the_dashboard_shows_what_the_guide_promises() {
    let dashboard = dashboard();
    let facts = ["uid", "title", "refresh"].map(|name| dashboard[name].as_str().expect("a text"));
    assert_eq!(facts, ["engramia-overview", "Engramia Overview", "30s"]);
    assert_eq!(dashboard["time"], json!({ "from": "now-6h", "to": "now" }));
    let panels = dashboard["panels"].as_array().expect("panels");
    let titles: BTreeSet<_> = panels.iter().map(|panel| panel["title"].as_str().expect("a title")).collect();
    for title in [
        "API Status",
        "Pattern Count",
        "Average Eval Score",
        "Success Rate",
        "Reuse Rate",
        "Total Runs",
        "Request Rate",
        "Error Rate",
        "HTTP Request Latency",
        "LLM Call Latency",
        "Pattern Count over time",
        "Eval Score trend",
        "Recall Hits vs Misses",
        "Storage Operation Latency (p90)",
        "Embedding Latency (p90)",
        "Async Jobs",
        "Request Rate by Endpoint",
    ] {
        assert!(titles.contains(title), "{title} is missing");
    }
    let sources = panels.iter().filter(|panel| panel["type"] != "row").map(|panel| &panel["datasource"]["uid"]);
    assert!(sources.into_iter().all(|uid| uid == "engramia-prometheus"));
    let provisioned = text("monitoring/grafana/provisioning/datasources/engramia.yml");
    assert!(provisioned.contains("uid: engramia-prometheus") && provisioned.contains("uid: engramia-loki"));
}

#[test]
fn the_monitoring_stack_is_reached_from_this_machine_only() {
    let compose = text("docker-compose.monitoring.yml");
    let ports: Vec<_> = compose.lines().filter_map(|line| line.trim().strip_prefix("ports: ")).collect();
    let expected = ["9090:9090", "9093:9093", "3100:3100", "3000:3000", "3001:3001"];
    assert_eq!(ports, expected.map(|port| format!("[\"127.0.0.1:{port}\"]")));
    let services = compose.matches("\n    image: ").count();
    assert_eq!((services, compose.matches("<<: *service").count(), compose.matches("memory: ").count()), (7, 7, 7));
}

#[tokio::test]
async fn a_method_that_a_client_invents_is_no_label() {
    let app = Setup::new().var("ENGRAMIA_METRICS", "true").start().await;
    for method in ["BREW", "STEAL"] {
        let method = Method::from_bytes(method.as_bytes()).expect("a token");
        assert!(app.owner().call(method, "/v1/learn").await.status.is_client_error());
    }
    let text = app.anonymous().get("/metrics").await.text();
    assert!(
        text.contains("engramia_requests_total{method=\"OTHER\",path=\"/v1/learn\",status_code=\"405\"} 2"),
        "{text}"
    );
    assert!(!text.contains("BREW") && !text.contains("STEAL"));
    assert!(!text.contains("engramia_db_pool"), "the embedded store has no pool: {text}");
}

#[tokio::test]
async fn a_server_whose_database_is_gone_has_metrics_and_says_so() {
    let cluster = Cluster::durable().await;
    let mut command = on_database(cluster.url());
    command.env("ENGRAMIA_METRICS", "true");
    let server = Server::start(command).await;
    server.post("/v1/learn", &lesson("remember")).await.ok();
    let metrics = async || {
        let answer = server.get("/metrics").await;
        assert_eq!(answer.status, 200, "{answer:?}");
        answer.body
    };
    let is_up = |text: &str| text.contains("engramia_store_up 1\n") && text.contains("engramia_pattern_count 1\n");
    let is_down = |text: &str| {
        let own = ["engramia_requests_total{", "engramia_db_pool_size 6", "process_resident_memory_bytes"];
        let has_own = own.iter().all(|name| text.contains(name));
        text.contains("engramia_store_up 0\n") && !text.contains("\nengramia_pattern_count") && has_own
    };
    assert!(is_up(&metrics().await));
    cluster.stop(Stop::Fast).await;
    eventually("it says that the store is down", async || is_down(&metrics().await).then_some(())).await;
    cluster.start().await;
    eventually("it says that the store is back", async || is_up(&metrics().await).then_some(())).await;
}

/// Runs the script with a docker that notes what it is asked, and has the network or not.
fn script(verb: &str, has_network: bool) -> (Output, Vec<String>) {
    let folder = tempfile::tempdir().expect("a folder");
    let log = folder.path().join("log");
    let docker = folder.path().join("docker");
    let network = u8::from(!has_network);
    let stub = format!("#!/bin/sh\necho \"$*\" >> {}\ncase \"$1\" in network) exit {network};; esac\n", log.display());
    fs::write(&docker, stub).expect("written");
    let may_run = std::os::unix::fs::PermissionsExt::from_mode(0o755);
    fs::set_permissions(&docker, may_run).expect("made a program");
    let paths: Vec<PathBuf> =
        std::iter::once(folder.path().to_owned()).chain(["/usr/bin".into(), "/bin".into()]).collect();
    let path = std::env::join_paths(paths).expect("a path");
    let script = root().join("scripts/monitoring.sh");
    let output = Command::new("bash").arg(script).arg(verb).env("PATH", path).output().expect("it runs");
    let asked = fs::read_to_string(&log).unwrap_or_default();
    let asked = asked.lines().filter_map(|line| line.strip_prefix("compose -f docker-compose."));
    (output, asked.map(str::to_owned).collect())
}

#[test]
fn the_script_starts_and_stops_what_its_verbs_say() {
    let urls = "Grafana: http://localhost:3000\nPrometheus: http://localhost:9090\n\
        Alertmanager: http://localhost:9093\nUptime Kuma: http://localhost:3001\n";
    for (verb, expected, said) in [
        ("start", &["monitoring.yml up -d"][..], urls),
        ("start-all", &["prod.yml up -d", "monitoring.yml up -d"], urls),
        ("status", &["monitoring.yml ps"], ""),
        ("logs", &["monitoring.yml logs --follow --tail 100"], ""),
        ("restart", &["monitoring.yml up -d", "monitoring.yml restart"], ""),
        ("stop", &["monitoring.yml down"], ""),
        ("stop-all", &["monitoring.yml down", "prod.yml down"], ""),
    ] {
        let (output, asked) = script(verb, true);
        assert!(output.status.success(), "{verb}: {output:?}");
        assert_eq!(
            (asked, String::from_utf8_lossy(&output.stdout).as_ref()),
            (expected.iter().map(|s| (*s).to_owned()).collect(), said),
            "{verb}"
        );
    }
    let (output, asked) = script("start", false);
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(said.contains("network engramia-net is missing") && said.lines().count() == 1, "{said}");
    assert_eq!((output.status.code(), asked), (Some(1), Vec::new()));
    assert_eq!(script("begin", true).0.status.code(), Some(2));
}
