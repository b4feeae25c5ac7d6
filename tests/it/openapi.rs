//! The OpenAPI document: checked in, complete, and true about limits.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;

use axum::http::StatusCode;
use serde_json::{Value, json};

use crate::support::app::Setup;
use crate::support::operations::{Operation, document, operations};
use crate::support::people::{Answer, Person};

#[test]
fn the_document_that_is_checked_in_is_up_to_date() {
    let now = engramia::http::openapi_document().to_pretty_json().expect("a document");
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("openapi.json");
    let checked_in = fs::read_to_string(path).unwrap_or_default();
    // Not `assert_eq`: two documents on the screen help nobody.
    assert!(checked_in.trim_end() == now.trim_end(), "write it again: engramia openapi > openapi.json");
}

#[test]
fn every_operation_is_completely_described() {
    let mut ids = BTreeSet::new();
    let tags: BTreeSet<String> =
        document()["tags"].as_array().expect("tags").iter().map(|tag| tag["name"].to_string()).collect();
    for operation in operations() {
        let Operation { id, method, path, documented } = &operation;
        let place = format!("{method} {path}");
        assert!(!id.is_empty() && ids.insert(id.clone()), "{place} needs an id of its own, not {id:?}");
        let tag = documented["tags"][0].to_string();
        assert!(tags.contains(&tag), "{place} has the unknown tag {tag}");
        assert!(documented["summary"].is_string() || documented["description"].is_string(), "{place} says nothing");
        let schema = |status: &str| &documented["responses"][status]["content"]["application/json"]["schema"];
        let lines = &documented["responses"]["200"]["content"]["application/x-ndjson"]["schema"];
        assert!(
            lines.is_object() || schema("200").is_object() || schema("201").is_object(),
            "{place} describes no success"
        );
        for status in ["401", "403", "404", "413", "422", "429", "503"] {
            assert_eq!(schema(status)["$ref"], "#/components/schemas/ErrorBody", "{place} {status}");
        }
        if operation.is_public() {
            assert!(["version", "bootstrap", "billing_webhook"].contains(&id.as_str()), "{place} is open to everybody");
        } else {
            assert_eq!(document()["security"], json!([{ "api_key": [] }]), "the whole document asks for a key");
            assert!(documented.get("security").is_none(), "{place} overrides the document's security");
        }
    }
}

#[tokio::test]
async fn the_server_serves_its_document_and_every_operation_in_it() {
    let app = Setup::new().keyed().await.start().await;
    assert_eq!(app.anonymous().get("/openapi.json").await.ok(), document());
    for operation in operations() {
        let answer = operation.valid(&app.owner()).await;
        let expected = match operation.id.as_str() {
            // What they are about does not exist.
            "classify" | "get_dsr" | "update_dsr" | "record_outcome" | "last_rollup" | "get_job"
            | "register_skills" | "revoke_key" | "rotate_key" => 404,
            "create_key" | "create_dsr" => 201,
            // It is not the caller's own.
            "erase_tenant" => 403,
            // There is no language model.
            "evaluate" | "compose" | "evolve" => 501,
            // There is no payment service, and the plan has no overage.
            "checkout" | "portal" | "billing_webhook" => 503,
            "overage" => 400,
            // There is a key already.
            "bootstrap" => 409,
            _ => 200,
        };
        assert_eq!(answer.status.as_u16(), expected, "{}: {}", operation.id, answer.text());
    }
}

/// A member of a body or a query with values on both sides of one limit.
struct Case {
    /// Names and positions down to the member.
    place: Vec<Value>,
    within: Value,
    beyond: Value,
}

/// Every documented limit of a schema, as values at it and beyond it.
fn limits(schema: &Value, place: &[Value], out: &mut Vec<Case>) {
    for (name, member) in schema["properties"].as_object().into_iter().flatten() {
        let mut place = place.to_vec();
        place.push(json!(name));
        limits_of(member, &place, out);
    }
}

fn limits_of(schema: &Value, place: &[Value], out: &mut Vec<Case>) {
    let mut case = |within: Value, beyond: Value| out.push(Case { place: place.to_vec(), within, beyond });
    let kinds = schema["type"].to_string();
    if let Some(most) = schema["maxLength"].as_u64() {
        // Characters, not bytes.
        case(json!("ž".repeat(most as usize)), json!("ž".repeat(most as usize + 1)));
    }
    if let Some(words) = schema["pattern"].as_str() {
        let words = words.strip_prefix("^(").and_then(|rest| rest.strip_suffix(")$")).expect("a list of words");
        words.split('|').for_each(|word| case(json!(word), json!(format!("{word}x"))));
    }
    let step = if kinds.contains("integer") { json!(1) } else { json!(0.001) };
    let moved = |limit: &Value, sign: f64| match limit.as_i64() {
        Some(whole) if step.is_i64() => json!(whole + sign as i64),
        _ => json!(limit.as_f64().expect("a number") + sign * step.as_f64().expect("a number")),
    };
    if schema["minimum"].is_number() {
        case(schema["minimum"].clone(), moved(&schema["minimum"], -1.0));
    }
    if schema["maximum"].is_number() {
        case(schema["maximum"].clone(), moved(&schema["maximum"], 1.0));
    }
    if let Some(most) = schema["maxItems"].as_u64() {
        let item = if schema["items"]["type"] == "string" { json!("x") } else { json!({ "key": "x", "data": {} }) };
        let list = |length: u64| Value::Array(vec![item.clone(); length as usize]);
        case(list(most), list(most + 1));
    }
    if schema["items"].is_object() {
        let mut place = place.to_vec();
        place.push(json!(0));
        limits(&schema["items"], &place, out);
        limits_of(&schema["items"], &place, out);
    }
}

/// Puts a value at its place, making what is missing on the way.
fn put(body: &mut Value, place: &[Value], value: &Value) {
    match place {
        [] => *body = value.clone(),
        [name, rest @ ..] => {
            let next = match name.as_u64() {
                Some(at) => &mut body[at as usize],
                None => &mut body[name.as_str().expect("a name")],
            };
            put(next, rest, value);
        }
    }
}

/// Places that a refusal names.
fn named(answer: &Answer) -> Vec<Vec<Value>> {
    if answer.status != StatusCode::UNPROCESSABLE_ENTITY {
        return Vec::new();
    }
    answer.assert_documented_error();
    let items = answer.json()["detail"].as_array().cloned().unwrap_or_default();
    items.iter().map(|item| item["loc"].as_array().cloned().expect("a place")).collect()
}

async fn checked(operation: &Operation, place: &[Value], within: Answer, beyond: Answer) {
    let what = &operation.id;
    let shown = |answer: &Answer| answer.text().chars().take(300).collect::<String>();
    let works = within.status.as_u16() < 500 || within.status == 501 || operation.needs_payments();
    assert!(works, "{what} {place:?} at the limit: {}", shown(&within));
    assert!(!named(&within).contains(&place.to_vec()), "{what} {place:?} at the limit: {}", shown(&within));
    assert_eq!(beyond.status.as_u16(), 422, "{what} {place:?} beyond the limit: {}", shown(&beyond));
    assert_eq!(named(&beyond), [place.to_vec()], "{what} beyond the limit: {}", shown(&beyond));
}

#[tokio::test]
async fn documented_limits_of_bodies_hold_to_the_last_character() {
    let app = Setup::new().keyed().await.start().await;
    let mut seen: BTreeMap<String, usize> = BTreeMap::new();
    for operation in operations().into_iter().filter(Operation::has_body) {
        let mut cases = Vec::new();
        limits(&operation.body_schema(), &[], &mut cases);
        seen.insert(operation.id.clone(), cases.len());
        for Case { place, within, beyond } in cases {
            let send = async |person: &Person, value: &Value| {
                let mut body = operation.valid_body();
                put(&mut body, &place, value);
                person.call(operation.method.clone(), &operation.concrete_path()).body(body.to_string()).await
            };
            let (within, beyond) = (send(&app.owner(), &within).await, send(&app.owner(), &beyond).await);
            let full: Vec<Value> = std::iter::once(json!("body")).chain(place.iter().cloned()).collect();
            checked(&operation, &full, within, beyond).await;
        }
    }
    // A document that forgets its limits would pass everything above.
    for (operation, least) in
        [("learn", 16), ("recall", 20), ("register_skills", 2), ("search_skills", 1), ("import", 2), ("create_key", 7)]
    {
        assert!(seen[operation] >= least, "{operation} documents only {} limits", seen[operation]);
    }
}

#[tokio::test]
async fn documented_limits_of_queries_hold_to_the_last_character() {
    let app = Setup::new().start().await;
    let mut seen = 0;
    for operation in operations() {
        for parameter in operation.documented["parameters"].as_array().into_iter().flatten() {
            if parameter["in"] != "query" {
                continue;
            }
            let mut cases = Vec::new();
            limits_of(&parameter["schema"], &[parameter["name"].clone()], &mut cases);
            seen += cases.len();
            for Case { place, within, beyond } in cases {
                let name = place[0].as_str().expect("a name").to_owned();
                let send = async |value: &Value| {
                    let text = value.as_str().map_or_else(|| value.to_string(), str::to_owned);
                    let query: String =
                        url::form_urlencoded::Serializer::new(String::new()).append_pair(&name, &text).finish();
                    app.owner().get(&format!("{}?{query}", operation.path)).await
                };
                let (within, beyond) = (send(&within).await, send(&beyond).await);
                checked(&operation, &[json!("query"), json!(name)], within, beyond).await;
            }
        }
    }
    let what = "limit, offset and task_type of the feedback; limit, action and actor of the audit log; limit and status \
                of jobs; limit and since of events; return_url of the portal; limit and status of requests of data \
                subjects";
    assert_eq!(seen, 22, "{what}");
}
