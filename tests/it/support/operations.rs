//! The operations of the OpenAPI document, and one valid request for each.

use axum::http::Method;
use serde_json::{Value, json};

use super::app::BOOTSTRAP_TOKEN;
use super::people::{Call, Person};

/// One operation.
#[derive(Debug, Clone)]
pub struct Operation {
    /// Its id.
    pub id: String,
    /// Method.
    pub method: Method,
    /// Path with the names of its parameters in braces.
    pub path: String,
    /// As documented.
    pub documented: Value,
}

/// The document as JSON.
pub fn document() -> Value {
    serde_json::to_value(engramia::http::openapi_document()).expect("a document")
}

/// Every operation of the document.
pub fn operations() -> Vec<Operation> {
    let document = document();
    let mut all = Vec::new();
    for (path, item) in document["paths"].as_object().expect("paths") {
        for (method, documented) in item.as_object().expect("methods") {
            let id = documented["operationId"].as_str().unwrap_or_default().to_owned();
            let method = method.to_uppercase().parse().expect("a method");
            all.push(Operation { id, method, path: path.clone(), documented: documented.clone() });
        }
    }
    all
}

impl Operation {
    /// The path with a key that exists nowhere.
    pub fn concrete_path(&self) -> String {
        self.path
            .replace("{key}", "patterns/0be2046e_1795319203747")
            .replace("{window}", "daily")
            .replace("{project_id}", "none")
            .replace("{tenant_id}", "none")
            .replace("{key_id}", "0be2046e-0000-7000-8000-000000000000")
            .replace("{request_id}", "0be2046e-0000-7000-8000-000000000000")
            .replace("{job_id}", "0be2046e-0000-7000-8000-000000000000")
    }

    /// Whether it takes a body.
    pub fn has_body(&self) -> bool {
        self.documented.get("requestBody").is_some()
    }

    /// Whether it answers 503 where nobody takes payments.
    pub fn needs_payments(&self) -> bool {
        ["checkout", "portal", "billing_webhook"].contains(&self.id.as_str())
    }

    /// Whether it is served without a key.
    pub fn is_public(&self) -> bool {
        self.documented["security"] == json!([{}])
    }

    /// Schema of the body, with every reference replaced by what it refers to.
    pub fn body_schema(&self) -> Value {
        let schema = &self.documented["requestBody"]["content"]["application/json"]["schema"];
        resolved(schema, &document())
    }

    /// A valid body; a new operation with a body must be added here.
    pub fn valid_body(&self) -> Value {
        match self.id.as_str() {
            "learn" => json!({ "task": "t", "code": "c", "eval_score": 5 }),
            "recall" => json!({ "task": "t" }),
            "record_outcome" => json!({ "success": true }),
            "evaluate" => json!({ "task": "t", "code": "c" }),
            "compose" => json!({ "task": "t" }),
            "evolve" => json!({ "role": "r", "current_prompt": "p" }),
            "register_skills" => json!({ "pattern_key": "patterns/0be2046e_1795319203747", "skills": ["csv"] }),
            "analyze_failures" => json!({ "min_count": 1 }),
            "rollup" => json!({ "window": "daily" }),
            "search_skills" => json!({ "required": ["csv"] }),
            "import" => json!({ "records": [{ "version": 2, "key": "patterns/x", "data": {} }] }),
            "create_key" => json!({ "name": "n", "role": "reader" }),
            "checkout" => {
                json!({ "price_id": "price_1", "success_url": "https://a.example", "cancel_url": "https://a.example" })
            }
            "overage" => json!({ "enabled": true, "budget_cap_cents": 500 }),
            "bootstrap" => json!({ "token": BOOTSTRAP_TOKEN }),
            "set_retention" => json!({ "retention_days": 90 }),
            "apply_retention" => json!({ "dry_run": true }),
            "classify" => json!({ "classification": "internal" }),
            "create_dsr" => json!({ "request_type": "access", "subject_email": "x@y.z" }),
            "update_dsr" => json!({ "status": "completed" }),
            other => panic!("no valid body is known for the operation {other}"),
        }
    }

    /// A valid request of somebody.
    pub fn valid(&self, person: &Person) -> Call {
        let path = self.concrete_path();
        let call = person.call(self.method.clone(), &path);
        if self.has_body() { call.body(self.valid_body().to_string()) } else { call }
    }
}

fn resolved(schema: &Value, document: &Value) -> Value {
    match schema {
        Value::Object(members) => match members.get("$ref").and_then(Value::as_str) {
            Some(reference) => {
                let target = document.pointer(reference.trim_start_matches('#'));
                resolved(target.unwrap_or_else(|| panic!("{reference} leads nowhere")), document)
            }
            None => members.iter().map(|(name, value)| (name.clone(), resolved(value, document))).collect(),
        },
        Value::Array(items) => items.iter().map(|item| resolved(item, document)).collect(),
        other => other.clone(),
    }
}
