//! Traces and logs of the real program: what a collector receives, what stands in a line, and what in neither.

use std::io::Read;
use std::net::TcpListener;
use std::process::Command;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
use opentelemetry_proto::tonic::common::v1::any_value::Value as Any;
use opentelemetry_proto::tonic::trace::v1::{ResourceSpans, Span};
use prost::Message;
use reqwest::Method;
use serde_json::{Value, json};
use wiremock::{Mock, MockServer, ResponseTemplate, matchers};

use crate::support::eventually;
use crate::support::postgres::Database;
use crate::support::program::{KEY, LONG, Reply, Server, on_database, on_directory};

/// The caller's trace, and its span in it.
const TRACE: &str = "0af7651916cd43dd8448eb211c80319c";
const PARENT: &str = "b7ad6b7169203331";
/// What must never leave.
const TASK: &str = "Ask jane.doe@example.org about the pineapple";
const SECRETS: [&str; 4] = ["jane.doe", "pineapple", "peel(fruit)", KEY];

fn traceparent() -> String {
    format!("00-{TRACE}-{PARENT}-01")
}

/// The program with traces to this address.
fn traced(mut command: Command, endpoint: &str, protocol: &str) -> Command {
    command
        .env("ENGRAMIA_TELEMETRY", "true")
        .env("ENGRAMIA_OTEL_ENDPOINT", endpoint)
        .env("OTEL_EXPORTER_OTLP_PROTOCOL", protocol);
    command
}

/// Asks as somebody in the middle of a trace.
async fn ask(server: &Server, method: Method, path: &str, headers: &[(&str, &str)], body: Option<Value>) -> Reply {
    let http = reqwest::Client::builder().timeout(LONG).build().expect("a client");
    let mut request = http.request(method, format!("http://{}{path}", server.address())).bearer_auth(KEY);
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    if let Some(body) = body {
        request = request.json(&body);
    }
    let started = Instant::now();
    let answer = request.send().await.expect("an answer");
    let (status, headers) = (answer.status().as_u16(), answer.headers().clone());
    Reply { status, headers, body: answer.text().await.expect("a body"), took: started.elapsed() }
}

async fn learn(server: &Server) {
    let body = json!({ "task": TASK, "code": "peel(fruit)", "eval_score": 8.0 });
    ask(server, Method::POST, "/v1/learn", &[], Some(body)).await.ok();
}

async fn recall(server: &Server, headers: &[(&str, &str)]) -> Reply {
    ask(server, Method::POST, "/v1/recall", headers, Some(json!({ "task": format!("{TASK}?") }))).await
}

/// Ends it in order.
async fn stop(mut server: Server) -> Vec<String> {
    tokio::task::spawn_blocking(move || {
        server.signal("TERM");
        assert!(server.wait().success());
        server.log()
    })
    .await
    .expect("stopped")
}

/// A collector that takes everything over HTTP.
async fn collector() -> MockServer {
    let collector = MockServer::start().await;
    let taking = Mock::given(matchers::path("/v1/traces")).respond_with(ResponseTemplate::new(200));
    taking.mount(&collector).await;
    collector
}

async fn received(collector: &MockServer) -> Vec<ResourceSpans> {
    let requests = collector.received_requests().await.expect("recorded");
    let mut all = Vec::new();
    for request in requests {
        assert_eq!(request.headers["content-type"], "application/x-protobuf");
        assert_no_secret(&request.body);
        all.extend(ExportTraceServiceRequest::decode(request.body.as_slice()).expect("a message").resource_spans);
    }
    all
}

fn assert_no_secret(bytes: &[u8]) {
    let text = String::from_utf8_lossy(bytes);
    for secret in SECRETS {
        assert!(!text.contains(secret), "{secret} has left");
    }
}

fn spans(all: &[ResourceSpans]) -> Vec<&Span> {
    all.iter().flat_map(|resource| &resource.scope_spans).flat_map(|scope| &scope.spans).collect()
}

fn attribute(span: &Span, name: &str) -> Value {
    let found = span.attributes.iter().find(|attribute| attribute.key == name);
    match found.and_then(|attribute| attribute.value.clone()?.value) {
        Some(Any::StringValue(text)) => json!(text),
        Some(Any::IntValue(number)) => json!(number),
        Some(Any::DoubleValue(number)) => json!(number),
        _ => Value::Null,
    }
}

async fn check_one_trace(command: Command, backend: &str) {
    let collector = collector().await;
    let server = Server::start(traced(command, &collector.uri(), "http/protobuf")).await;
    learn(&server).await;
    for probe in ["/livez", "/readyz", "/v1/health", "/metrics"] {
        server.get(probe).await;
    }
    let headers = [("traceparent", traceparent()), ("x-request-id", "r-1".to_owned())];
    recall(&server, &headers.each_ref().map(|(name, value)| (*name, value.as_str()))).await.ok();
    ask(&server, Method::POST, "/v1/recall", &[("traceparent", "00-zz-1-01")], Some(json!({}))).await;
    stop(server).await;

    let all = received(&collector).await;
    let resource = all.first().and_then(|spans| spans.resource.clone()).expect("a resource");
    let named: Vec<_> = resource.attributes.iter().map(|attribute| attribute.key.as_str()).collect();
    assert_eq!(named.len(), 3, "{named:?}");
    for name in ["service.name", "service.version", "service.instance.id"] {
        assert!(named.contains(&name), "{named:?}");
    }
    let all = spans(&all);
    let of_caller: Vec<_> = all.iter().filter(|span| hex::encode(&span.trace_id) == TRACE).collect();
    let one = |name: &str| *of_caller.iter().find(|span| span.name == name).unwrap_or_else(|| panic!("no {name}"));
    let root = one("POST /v1/recall");
    assert_eq!((hex::encode(&root.parent_span_id), root.kind), (PARENT.to_owned(), 2), "a server span of the caller's");
    for (name, expected) in [
        ("http.request.method", json!("POST")),
        ("http.route", json!("/v1/recall")),
        ("http.response.status_code", json!(200)),
        ("engramia.request_id", json!("r-1")),
        ("engramia.tenant_id", json!("default")),
        ("engramia.project_id", json!("default")),
    ] {
        assert_eq!(attribute(root, name), expected, "{name}");
    }
    assert!(attribute(root, "engramia.duration_ms").as_f64().is_some_and(|ms| ms > 0.0));
    let recall = one("memory.recall");
    assert_eq!(recall.parent_span_id, root.span_id);
    for name in ["embedding.embed", "store.load", "memory.search"] {
        assert_eq!(one(name).parent_span_id, recall.span_id, "{name}");
    }
    assert_eq!(attribute(one("embedding.embed"), "embedding.provider"), "local");
    assert_eq!(attribute(one("store.load"), "store.backend"), backend);

    let requests: Vec<_> = all.iter().filter(|span| span.kind == 2).map(|span| span.name.as_str()).collect();
    assert_eq!(requests, ["POST /v1/learn", "POST /v1/recall", "POST /v1/recall"], "no probes");
    let malformed = all.iter().rfind(|span| span.kind == 2).expect("the last request");
    assert!(malformed.parent_span_id.is_empty() && attribute(malformed, "http.response.status_code") == 422);
    assert!(all.iter().any(|span| span.name == "memory.learn") && all.iter().any(|span| span.name == "store.save"));
}

#[tokio::test]
async fn one_recall_is_one_trace_below_the_span_of_its_caller() {
    let data = tempfile::tempdir().expect("a temporary directory");
    check_one_trace(on_directory(data.path()), "json").await;
}

#[tokio::test]
async fn one_recall_is_one_trace_over_postgres() {
    let database = Database::new().await;
    check_one_trace(on_database(&database.url()), "postgres").await;
}

/// A collector that takes connections and never says a word; what it was sent.
fn silent() -> (String, Arc<Mutex<Vec<u8>>>) {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let endpoint = format!("http://{}", listener.local_addr().expect("bound"));
    let taken = Arc::new(Mutex::new(Vec::new()));
    let kept = Arc::clone(&taken);
    std::thread::spawn(move || {
        for stream in listener.incoming().map_while(Result::ok) {
            let kept = Arc::clone(&kept);
            std::thread::spawn(move || {
                let (mut stream, mut buffer) = (stream, [0; 4096]);
                while let Ok(length @ 1..) = stream.read(&mut buffer) {
                    kept.lock().expect("no panic").extend_from_slice(&buffer[..length]);
                }
            });
        }
    });
    (endpoint, taken)
}

#[tokio::test]
async fn a_collector_that_hangs_holds_nobody_up() {
    let (endpoint, taken) = silent();
    let data = tempfile::tempdir().expect("a temporary directory");
    let server = Server::start(traced(on_directory(data.path()), &endpoint, "grpc")).await;
    learn(&server).await;
    for _ in 0..300 {
        let answer = recall(&server, &[]).await;
        answer.ok();
        assert!(answer.took < Duration::from_secs(1), "{:?}", answer.took);
    }
    let complaints = |log: &[String]| log.iter().filter(|line| line.contains("spans are lost")).count();
    eventually("the log says so", async || (complaints(&server.log()) > 0).then_some(())).await;
    let stopping = Instant::now();
    let log = stop(server).await;
    assert!(stopping.elapsed() < Duration::from_secs(12), "{:?}", stopping.elapsed());
    assert_eq!(complaints(&log), 1, "{log:?}");
    let taken = taken.lock().expect("no panic");
    let text = String::from_utf8_lossy(&taken);
    assert!(text.starts_with("PRI * HTTP/2.0") && text.contains("memory.recall"), "spans over gRPC");
    assert_no_secret(&taken);
}

#[tokio::test]
async fn nobody_is_connected_to_where_traces_are_off() {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    listener.set_nonblocking(true).expect("set");
    let data = tempfile::tempdir().expect("a temporary directory");
    let mut command = on_directory(data.path());
    command.env("ENGRAMIA_OTEL_ENDPOINT", format!("http://{}", listener.local_addr().expect("bound")));
    let server = Server::start(command).await;
    recall(&server, &[("traceparent", &traceparent())]).await.ok();
    stop(server).await;
    let nobody = listener.accept().expect_err("nobody came");
    assert_eq!(nobody.kind(), std::io::ErrorKind::WouldBlock);
}

/// Runs it with requests that carry secrets wherever a log could pick them up; its log.
async fn log_of(json: bool, traces: Option<&str>) -> Vec<String> {
    let data = tempfile::tempdir().expect("a temporary directory");
    let mut command = on_directory(data.path());
    command.env("ENGRAMIA_JSON_LOGS", json.to_string()).env("ENGRAMIA_LOG", "warn,engramia=debug");
    if let Some(endpoint) = traces {
        command = traced(command, endpoint, "http/protobuf");
    }
    let server = Server::start(command).await;
    learn(&server).await;
    let parent = traceparent();
    let headers = [("traceparent", parent.as_str()), ("x-request-id", "jane.doe@example.org")];
    let path = "/v1/nothing/sk-proj-abcdefghijklmnopqrstuvwxyz0123456789?token=hidden-in-a-query";
    assert_eq!(ask(&server, Method::GET, path, &headers, None).await.status, 404);
    let refused = server.ask_as("sk-wrong-key-0123456789", Method::GET, "/v1/metrics?x=hidden-in-a-query", None).await;
    assert_eq!(refused.expect("an answer").status, 401);
    server.get("/v1/health").await;
    let log = stop(server).await;
    for secret in SECRETS.iter().chain(&["sk-proj-abc", "sk-wrong", "hidden-in-a-query"]) {
        let line = log.iter().find(|line| line.contains(secret));
        assert_eq!(line, None, "{secret}");
    }
    log
}

#[tokio::test]
async fn every_line_is_an_object_with_the_fields_of_the_guide() {
    for traces in [false, true] {
        let collector = collector().await;
        let endpoint = collector.uri();
        let log = log_of(true, traces.then_some(endpoint.as_str())).await;
        let lines: Vec<Value> =
            log.iter().map(|line| serde_json::from_str(line).unwrap_or_else(|_| panic!("no JSON: {line}"))).collect();
        for line in &lines {
            for name in ["timestamp", "level", "logger", "message"] {
                assert!(line[name].is_string(), "{name}: {line}");
            }
            let level = line["level"].as_str().expect("a text");
            assert!(["DEBUG", "INFO", "WARNING", "ERROR"].contains(&level), "{line}");
        }
        let find = |text: &str| {
            let has = |line: &&Value| line["message"].as_str().is_some_and(|message| message.contains(text));
            lines.iter().find(has)
        };
        let request = find("GET /v1/nothing/").expect("the request");
        assert_eq!((&request["level"], &request["tenant_id"]), (&json!("WARNING"), &json!("default")), "{request}");
        assert_eq!((&request["project_id"], &request["trace_id"]), (&json!("default"), &json!(TRACE)), "{request}");
        assert_eq!(request["request_id"], "[REDACTED_EMAIL]");
        let message = request["message"].as_str().expect("a text");
        assert!(message.contains(" 404 ") && message.contains("ms request_id="), "{message}");
        // Its own span where it has one, else the caller's.
        assert_eq!(request["span_id"] == PARENT, !traces, "{request}");
        let learned = find("POST /v1/learn 200").expect("shown at this level");
        assert_eq!((&learned["level"], learned["trace_id"].is_string()), (&json!("DEBUG"), traces), "{learned}");
        assert_eq!(find("/v1/health"), None);
        let refused = lines.iter().find(|line| line["event"] == "auth_failure").expect("an AUDIT line");
        assert_eq!((&refused["message"], &refused["level"]), (&json!("AUDIT"), &json!("WARNING")));
        assert!(refused["request_id"].is_string() && refused["ip"] == "127.0.0.1", "{refused}");
    }
}

#[tokio::test]
async fn text_for_people_is_redacted_too() {
    let log = log_of(false, None).await;
    let request = log.iter().find(|line| line.contains("GET /v1/nothing/")).expect("the request");
    for part in [" WARN request{request_id=[REDACTED_EMAIL] ", "tenant_id=default", TRACE, " 404 "] {
        assert!(request.contains(part), "{part}: {request}");
    }
    let refused = log.iter().find(|line| line.contains("AUDIT")).expect("an AUDIT line");
    assert!(refused.contains("event=auth_failure") && refused.contains("request_id="), "{refused}");
}

#[tokio::test]
async fn a_failed_start_is_told_in_the_format_of_the_log() {
    let taken = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let data = tempfile::tempdir().expect("a temporary directory");
    let mut command = on_directory(data.path());
    let port = taken.local_addr().expect("bound").port();
    command.env("ENGRAMIA_JSON_LOGS", "true").env("ENGRAMIA_PORT", port.to_string());
    let output = crate::support::program::finished(command).await;
    assert_eq!(output.status.code(), Some(1));
    let text = String::from_utf8(output.stderr).expect("text");
    let lines: Vec<Value> = text.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect();
    assert!(lines.iter().any(|line| line["level"] == "ERROR" && line["message"].as_str().is_some()), "{text}");
}
