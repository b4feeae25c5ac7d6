//! Whatever is sent to whatever operation: the server never fails, and refuses in the documented shape.

use axum::http::Method;
use proptest::prelude::*;
use proptest::sample::select;
use proptest::test_runner::{Config, TestRunner};
use serde_json::{Map, Value, json};

use crate::support::app::{Setup, TestApp};
use crate::support::operations::{Operation, operations};

/// Pieces of JSON text, some of them no JSON at all.
const ODD: &[&[u8]] = &[
    b"NaN",
    b"-Infinity",
    b"1e400",
    b"-1e-400",
    b"123456789012345678901234567890",
    b"-9223372036854775809",
    b"0.1e+",
    b"\"\\u0000\"",
    b"\"\\ud800\"",
    b"\"\\udfff\\ud800\"",
    b"\"\xff\xfe\"",
    b"\"\xed\xa0\x80\"",
    b"\"\x01\"",
    b"\"unfinished",
    b"[1,",
    b"{\"a\":}",
    b"\xef\xbb\xbf{}",
    b"'single'",
    b"tru",
    b"",
];

fn any_json() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        any::<f64>().prop_map(Value::from),
        any::<String>().prop_map(Value::from),
        select(vec!["", " ", "\0", "patterns/x", "patterns/..", "NaN", "1e309", "public", "merge", "🙂\u{202e}"])
            .prop_map(Value::from),
    ];
    leaf.prop_recursive(4, 24, 5, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..5).prop_map(Value::from),
            prop::collection::vec((any::<String>(), inner), 0..5)
                .prop_map(|members| members.into_iter().collect::<Map<_, _>>().into()),
        ]
    })
}

/// How a valid body is spoilt.
#[derive(Debug, Clone)]
enum Spoil {
    /// Something else instead.
    Replace(Value),
    /// Members with other values; the names are chosen by index among those of the schema.
    Members(Vec<(prop::sample::Index, Value)>),
    /// A member whose value is no JSON.
    Raw(prop::sample::Index, &'static [u8]),
    /// Cut off.
    Cut(prop::sample::Index),
    /// Nested so deep.
    Deep(usize),
    /// Any bytes.
    Bytes(Vec<u8>),
}

fn spoils() -> impl Strategy<Value = Spoil> {
    let index = any::<prop::sample::Index>;
    prop_oneof![
        1 => any_json().prop_map(Spoil::Replace),
        6 => prop::collection::vec((index(), any_json()), 1..5).prop_map(Spoil::Members),
        3 => (index(), select(ODD)).prop_map(|(at, raw)| Spoil::Raw(at, raw)),
        1 => index().prop_map(Spoil::Cut),
        1 => (1usize..20_000).prop_map(Spoil::Deep),
        1 => prop::collection::vec(any::<u8>(), 0..64).prop_map(Spoil::Bytes),
    ]
}

/// The spoilt body of an operation.
fn spoilt(operation: &Operation, spoil: Spoil) -> Vec<u8> {
    let mut body = if operation.has_body() { operation.valid_body() } else { json!({}) };
    let schema = if operation.has_body() { operation.body_schema() } else { json!({}) };
    let mut names: Vec<String> =
        schema["properties"].as_object().into_iter().flatten().map(|(n, _)| n.clone()).collect();
    names.push("unknown".into());
    match spoil {
        Spoil::Replace(value) => value.to_string().into_bytes(),
        Spoil::Members(members) => {
            for (at, value) in members {
                body[at.get(&names).as_str()] = value;
            }
            body.to_string().into_bytes()
        }
        Spoil::Raw(at, raw) => {
            body[at.get(&names).as_str()] = json!("@@");
            let text = body.to_string();
            let (before, after) = text.split_once("\"@@\"").expect("it was put in");
            [before.as_bytes(), raw, after.as_bytes()].concat()
        }
        Spoil::Cut(at) => {
            let text = body.to_string().into_bytes();
            text[..at.index(text.len())].to_vec()
        }
        Spoil::Deep(levels) => {
            let (open, close) = ("[".repeat(levels), "]".repeat(levels));
            format!("{{\"task\":{open}{close},\"records\":[{{\"key\":\"patterns/x\",\"data\":{open}{close}}}]}}")
                .into_bytes()
        }
        Spoil::Bytes(bytes) => bytes,
    }
}

/// Tails of a path: keys and queries.
fn tails() -> impl Strategy<Value = Vec<u8>> {
    prop::collection::vec(any::<u8>(), 0..40)
}

fn percent_encoded(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("%{byte:02X}")).collect()
}

#[test]
fn nothing_that_is_sent_makes_the_server_fail() {
    let runtime =
        tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().expect("a runtime");
    let app = runtime.block_on(async { Setup::new().keyed().await.start().await });
    let config = Config { cases: 128, failure_persistence: None, ..Config::default() };
    let case = (select(operations()), spoils(), tails(), any::<bool>());
    let outcome = TestRunner::new(config).run(&case, |(operation, spoil, tail, plain_query)| {
        let query = match plain_query {
            true => format!("limit={}&offset={0}&task_type={0}&since={0}&cursor={0}&actor={0}", percent_encoded(&tail)),
            false => percent_encoded(&tail),
        };
        let path = operation.path.replace("{key}", &format!("patterns/{}", percent_encoded(&tail)));
        let path = path.replace("{key_id}", &percent_encoded(&tail));
        let call = app.owner().call(operation.method.clone(), &format!("{path}?{query}"));
        let answer = runtime.block_on(call.body(spoilt(&operation, spoil)).into_future());
        let works = answer.status.as_u16() < 500 || answer.status == 501 || operation.needs_payments();
        prop_assert!(works, "{} {}", answer.status, answer.text());
        if answer.status.as_u16() >= 400 {
            answer.assert_documented_error();
        } else if !answer.status.is_redirection() {
            // Without a tail the path ends in a slash, and leads to the one without.
            let lines = answer.header("content-type") == Some("application/x-ndjson");
            let mut parts: Vec<&[u8]> = vec![&answer.bytes];
            if lines {
                parts = answer.bytes.split(|byte| *byte == b'\n').filter(|line| !line.is_empty()).collect();
            }
            let sound = parts.into_iter().all(|part| serde_json::from_slice::<Value>(part).is_ok());
            prop_assert!(sound, "{}", answer.text());
        }
        Ok(())
    });
    outcome.unwrap_or_else(|failure| panic!("{failure}"));
    // What was stored on the way is sound.
    runtime.block_on(async {
        let exported = app.owner().get("/v1/export").await.ok();
        let copy = TestApp::start().await;
        let imported = copy.owner().post("/v1/import", &exported).await.ok();
        assert_eq!(imported["imported"], exported["count"]);
        app.owner().call(Method::POST, "/v1/aging").await.ok();
    });
}
