//! The adapter against a provider that answers as told.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use serde_json::{Value, json};
use tokio::io::AsyncWriteExt;
use tokio::net::TcpListener;
use tracing::span::{Attributes, Id, Record};
use tracing::{Event, Metadata};
use wiremock::matchers::{body_json, header, method, path};
use wiremock::{Mock, MockServer, Request, ResponseTemplate};

use super::*;
use crate::domain::spend::ModelRole;
use crate::ports::Trouble;

const KEY: &str = "sk-secret-1";

/// Everything that is logged.
#[derive(Debug, Clone, Default)]
struct Log(Arc<Mutex<String>>);

impl tracing::Subscriber for Log {
    fn enabled(&self, _: &Metadata<'_>) -> bool {
        true
    }
    fn new_span(&self, _: &Attributes<'_>) -> Id {
        Id::from_u64(1)
    }
    fn record(&self, _: &Id, _: &Record<'_>) {}
    fn record_follows_from(&self, _: &Id, _: &Id) {}
    fn event(&self, event: &Event<'_>) {
        use std::fmt::Write;
        write!(self.0.lock().expect("no panic"), "{event:?}").expect("a string takes everything");
    }
    fn enter(&self, _: &Id) {}
    fn exit(&self, _: &Id) {}
}

fn embedder(server: &MockServer) -> OpenAiEmbedder {
    OpenAiEmbedder::new(&format!("{}/v1", server.uri()), &KEY.into(), "small").expect("a client")
}

fn chat(server: &MockServer) -> OpenAiChat {
    OpenAiChat::new(&format!("{}/v1", server.uri()), &KEY.into(), "gpt", EMBEDDING_TIMEOUT).expect("a client")
}

fn vectors(data: &[(u32, &[f32])]) -> ResponseTemplate {
    let data: Vec<Value> = data
        .iter()
        .map(|(index, values)| json!({"object": "embedding", "index": index, "embedding": values}))
        .collect();
    let usage = json!({"prompt_tokens": 1, "total_tokens": 1});
    ResponseTemplate::new(200).set_body_json(json!({"object": "list", "model": "m", "data": data, "usage": usage}))
}

/// One vector for each text of a request: its length in bytes, and one.
fn lengths(request: &Request) -> ResponseTemplate {
    let values: Vec<[f32; 2]> = inputs(request).iter().map(|text| [text.len() as f32, 1.0]).collect();
    let data: Vec<(u32, &[f32])> = (0..).zip(values.iter().map(<[f32; 2]>::as_slice)).collect();
    vectors(&data)
}

fn inputs(request: &Request) -> Vec<String> {
    let body: Value = request.body_json().expect("JSON");
    serde_json::from_value(body["input"].clone()).expect("a list of texts")
}

/// Embeds two texts where every request has the same answer.
async fn embed_two(answer: ResponseTemplate, calls: u64) -> Result<Vec<Vector>, ModelError> {
    let server = MockServer::start().await;
    Mock::given(method("POST")).respond_with(answer).expect(calls).mount(&server).await;
    embedder(&server).embed(&["one", "two"], Priority::Interactive).await
}

#[tokio::test]
async fn vectors_are_normalised_and_in_order_by_index() {
    let server = MockServer::start().await;
    Mock::given(method("POST"))
        .and(path("/v1/embeddings"))
        .and(header("authorization", "Bearer sk-secret-1"))
        .and(body_json(json!({"model": "small", "input": ["one", " "], "encoding_format": "float"})))
        .respond_with(vectors(&[(1, &[0.0, 2.0]), (0, &[3.0, 4.0])]))
        .mount(&server)
        .await;
    let embedder = embedder(&server);
    let vectors = embedder.embed(&["one", ""], Priority::Interactive).await.expect("vectors");
    assert_eq!(vectors.iter().map(|v| v.values.to_vec()).collect::<Vec<_>>(), [[0.6, 0.8], [0.0, 1.0]]);
    assert_eq!(vectors[0].space.as_str(), "openai/small");
    assert_eq!(embedder.embed(&[], Priority::Interactive).await.expect("nothing to do"), []);
}

#[tokio::test]
async fn comes_back_after_a_rate_limit() {
    let server = MockServer::start().await;
    let busy = ResponseTemplate::new(429).insert_header("retry-after", "0").set_body_string("not JSON");
    Mock::given(method("POST")).respond_with(busy).up_to_n_times(1).with_priority(1).mount(&server).await;
    Mock::given(method("POST")).respond_with(lengths).expect(1).mount(&server).await;
    assert_eq!(embedder(&server).embed(&["one"], Priority::Interactive).await.expect("vectors").len(), 1);
}

#[tokio::test]
async fn a_refusal_is_final_and_keeps_the_key_to_itself() {
    let body = json!({"error": {"message": format!("Incorrect API key: {KEY}"), "code": "invalid_api_key"}});
    let outcome = embed_two(ResponseTemplate::new(401).set_body_json(body), 1).await;
    let Err(ModelError::Rejected(source)) = outcome else { panic!("{outcome:?}") };
    assert_eq!(format!("{source:#}"), "HTTP 401 (invalid_api_key)");
    for status in [400, 403, 404] {
        let outcome = embed_two(ResponseTemplate::new(status).set_body_string(KEY), 1).await;
        assert!(matches!(&outcome, Err(ModelError::Rejected(_))), "{status}");
        assert!(!format!("{outcome:?}").contains(KEY));
    }
}

#[tokio::test]
async fn a_broken_slow_or_absent_provider_is_unavailable() {
    let outcome = embed_two(ResponseTemplate::new(500).set_body_string("oops"), 3).await;
    assert!(matches!(outcome, Err(ModelError::Unavailable(_))));

    let server = MockServer::start().await;
    let late = vectors(&[]).set_delay(Duration::from_secs(60));
    Mock::given(method("POST")).respond_with(late).expect(3).mount(&server).await;
    for address in [server.uri(), "http://127.0.0.1:9".into()] {
        let timeout = Duration::from_millis(100);
        let impatient = OpenAiEmbedder::with_timeout(&address, &KEY.into(), "small", timeout).expect("a client");
        let outcome = impatient.embed(&["one"], Priority::Interactive).await;
        assert!(matches!(outcome, Err(ModelError::Unavailable(_))), "{address}");
    }
}

#[tokio::test]
async fn answers_that_break_the_contract_are_malformed() {
    let answers = [
        ResponseTemplate::new(200).set_body_string("<html>sk-secret-1</html>"),
        ResponseTemplate::new(200).set_body_json(json!({"data": "sk-secret-1"})),
        vectors(&[(0, &[1.0])]),
        vectors(&[(0, &[1.0]), (0, &[1.0])]),
        vectors(&[(0, &[1.0]), (2, &[1.0])]),
        vectors(&[(0, &[1.0]), (1, &[0.0])]),
        vectors(&[(0, &[1.0]), (1, &[])]),
        vectors(&[(0, &[1.0]), (1, &[1.0, 2.0])]),
    ];
    for answer in answers {
        let log = Log::default();
        let outcome = embed_two(answer, 1).with_subscriber(log.clone()).await;
        assert!(matches!(&outcome, Err(ModelError::Malformed(what)) if !what.contains(KEY)), "{outcome:?}");
        assert!(!log.0.lock().expect("no panic").contains(KEY), "{log:?}");
    }
}

#[tokio::test]
async fn long_texts_are_cut_and_once_more_where_they_are_refused() {
    let server = MockServer::start().await;
    let refuse_long = |request: &Request| {
        let refused = inputs(request).iter().any(|text| text.starts_with('語') && text.len() > SURELY_FITTING);
        if refused { ResponseTemplate::new(400) } else { lengths(request) }
    };
    Mock::given(method("POST")).respond_with(refuse_long).mount(&server).await;
    let (prose, dense) = ("x".repeat(100_000), "語".repeat(30_000));
    for text in [&prose, &dense] {
        embedder(&server).embed(&[text], Priority::Interactive).await.expect("vectors");
    }
    let requests = server.received_requests().await.expect("recorded");
    let sent: Vec<usize> = requests.iter().map(|request| inputs(request)[0].len()).collect();
    assert_eq!(sent, [LONGEST, LONGEST, SURELY_FITTING / 3 * 3]);
}

#[tokio::test]
async fn a_large_load_is_split_into_requests_the_provider_takes() {
    let server = MockServer::start().await;
    Mock::given(method("POST")).respond_with(lengths).mount(&server).await;
    let long = "x".repeat(LONGEST);
    let texts: Vec<&str> = std::iter::repeat_n("short", BATCH + 1).chain([long.as_str(); 20]).collect();
    let vectors = embedder(&server).embed(&texts, Priority::Background).await.expect("vectors");
    assert_eq!(vectors.len(), texts.len());
    let requests = server.received_requests().await.expect("recorded");
    let sizes: Vec<usize> = requests.iter().map(|request| inputs(request).len()).collect();
    assert_eq!(sizes, [BATCH, 1 + 12, 8]);
}

fn prompt(schema: Option<AnswerSchema>) -> Prompt {
    Prompt { role: ModelRole::Eval, system: "be brief".into(), user: "ping".into(), schema, max_tokens: 64 }
}

fn shape() -> AnswerSchema {
    AnswerSchema { name: "shape", schema: json!({ "type": "object" }) }
}

fn completion(text: &str) -> ResponseTemplate {
    let choice = json!({"index": 0, "finish_reason": "length", "message": {"role": "assistant", "content": text}});
    ResponseTemplate::new(200).set_body_json(json!({
        "id": "1", "object": "chat.completion", "created": 1, "model": "gpt", "choices": [choice],
        "usage": { "prompt_tokens": 3, "completion_tokens": 5, "total_tokens": 8 },
    }))
}

#[tokio::test]
async fn chat_takes_the_first_choice() {
    let server = MockServer::start().await;
    let messages = json!([{"role": "system", "content": "be brief"}, {"role": "user", "content": "ping"}]);
    Mock::given(method("POST"))
        .and(path("/v1/chat/completions"))
        .and(header("authorization", "Bearer sk-secret-1"))
        .and(body_json(json!({"model": "gpt", "messages": messages, "max_completion_tokens": 64})))
        .respond_with(completion("pong"))
        .mount(&server)
        .await;
    let answer = chat(&server).ask(&prompt(None)).await.expect("an answer");
    let usage = Some(Usage { prompt_tokens: 3, completion_tokens: 5 });
    assert_eq!(answer, Completion { text: "pong".into(), usage, finish: Finish::Length });
}

#[tokio::test]
async fn a_schema_is_sent_until_it_is_refused() {
    let server = MockServer::start().await;
    let with_schema = |request: &Request| request.body_json::<Value>().expect("JSON").get("response_format").is_some();
    let picky = move |request: &Request| {
        if with_schema(request) { ResponseTemplate::new(400) } else { completion("pong") }
    };
    Mock::given(method("POST")).respond_with(picky).mount(&server).await;
    let chat = chat(&server);
    for _ in 0..2 {
        assert_eq!(chat.ask(&prompt(Some(shape()))).await.expect("an answer").text, "pong");
    }
    let requests = server.received_requests().await.expect("recorded");
    assert_eq!(requests.iter().map(with_schema).collect::<Vec<_>>(), [true, false, false]);
    let format = &requests[0].body_json::<Value>().expect("JSON")["response_format"]["json_schema"];
    assert_eq!(*format, json!({ "name": "shape", "schema": { "type": "object" }, "strict": true }));
}

#[tokio::test]
async fn a_request_that_is_refused_anyway_says_nothing_of_schemas() {
    let server = MockServer::start().await;
    Mock::given(method("POST")).respond_with(ResponseTemplate::new(400)).expect(4).mount(&server).await;
    let chat = chat(&server);
    for _ in 0..2 {
        assert_eq!(chat.ask(&prompt(Some(shape()))).await.expect_err("refused").kind, Trouble::Refused);
    }
}

#[tokio::test]
async fn chat_failures_are_told_apart() {
    let silent = json!({"id": "1", "object": "chat.completion", "created": 1, "model": "gpt", "choices": []});
    let answers = [
        (ResponseTemplate::new(200).set_body_json(silent), Trouble::Malformed),
        (ResponseTemplate::new(200).set_body_string("prose"), Trouble::Malformed),
        (completion(&"x".repeat(10_000_000)), Trouble::Malformed),
        (ResponseTemplate::new(403), Trouble::Refused),
        (ResponseTemplate::new(429), Trouble::RateLimited),
        (ResponseTemplate::new(502), Trouble::Failed),
    ];
    for (answer, expected) in answers {
        let server = MockServer::start().await;
        Mock::given(method("POST")).respond_with(answer).expect(1).mount(&server).await;
        assert_eq!(chat(&server).ask(&prompt(None)).await.expect_err("no answer").kind, expected);
    }
    let nobody = OpenAiChat::new("http://127.0.0.1:9", &KEY.into(), "gpt", EMBEDDING_TIMEOUT).expect("a client");
    assert_eq!(nobody.ask(&prompt(None)).await.expect_err("nobody").kind, Trouble::Unreachable);
}

/// Sends a byte now and then, for ever.
async fn dripping() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let address = listener.local_addr().expect("bound");
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            tokio::spawn(async move {
                let head = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: 100000\r\n\r\n{";
                let mut sent = stream.write_all(head).await;
                while sent.is_ok() {
                    tokio::time::sleep(Duration::from_millis(20)).await;
                    sent = stream.write_all(b" ").await;
                }
            });
        }
    });
    address
}

#[tokio::test]
async fn a_slow_drip_counts_against_the_time_of_an_attempt() {
    let url = format!("http://{}", dripping().await);
    let chat = OpenAiChat::new(&url, &KEY.into(), "gpt", Duration::from_millis(300)).expect("a client");
    let started = std::time::Instant::now();
    assert_eq!(chat.ask(&prompt(None)).await.expect_err("never done").kind, Trouble::Silent);
    assert!(started.elapsed() < Duration::from_secs(5));
}
