//! A payment service that answers as Stripe does, notes what it was asked, and sends signed events.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU16, Ordering};
use std::sync::{Arc, Mutex};

use aws_lc_rs::hmac::{HMAC_SHA256, Key, sign};
use serde_json::{Value, json};
use wiremock::{Mock, MockServer, Request, ResponseTemplate, matchers::any};

use super::app::{Setup, TestApp};
use super::people::Call;

/// Secret that events are signed with.
pub const WEBHOOK_SECRET: &str = "whsec_of_the_tests";

/// The service.
pub struct Stripe {
    server: MockServer,
    /// Status of every answer; 200 as long as it works.
    status: Arc<AtomicU16>,
}

/// A request to it.
#[derive(Debug, Clone)]
pub struct Sent {
    /// Path.
    pub path: String,
    /// Key under which it has its effect once.
    pub once: String,
    /// Fields.
    pub fields: HashMap<String, String>,
}

impl Stripe {
    /// Works.
    pub async fn start() -> Self {
        let server = MockServer::start().await;
        let status = Arc::new(AtomicU16::new(200));
        let (failing, made) = (Arc::clone(&status), Mutex::new(HashMap::<String, Value>::new()));
        let answer = move |request: &Request| {
            let sent = Sent::of(request);
            match failing.load(Ordering::Relaxed) {
                200 => {}
                status => {
                    let error = json!({ "error": { "type": "invalid_request_error", "message": "No." } });
                    return ResponseTemplate::new(status).set_body_json(error);
                }
            }
            if sent.fields.get("line_items[0][price]").is_some_and(|price| price == "price_missing") {
                let error = json!({ "type": "invalid_request_error", "message": "No such price: 'price_missing'" });
                return ResponseTemplate::new(400).set_body_json(json!({ "error": error }));
            }
            let mut made = made.lock().expect("no panic");
            let number = made.len() + 1;
            let answer = made.entry(sent.once.clone()).or_insert_with(|| match sent.path.as_str() {
                "/v1/customers" => json!({ "id": format!("cus_{number}"), "object": "customer" }),
                "/v1/checkout/sessions" => json!({ "id": "cs", "url": "https://checkout.stripe.com/c/1" }),
                "/v1/billing_portal/sessions" => json!({ "id": "bps", "url": "https://billing.stripe.com/p/1" }),
                "/v1/invoiceitems" => json!({ "id": format!("ii_{number}"), "object": "invoiceitem" }),
                other => panic!("asked for {other}"),
            });
            ResponseTemplate::new(200).set_body_json(answer.clone())
        };
        Mock::given(any()).respond_with(answer).mount(&server).await;
        Self { server, status }
    }

    /// Answers everything with this status from now on.
    pub fn answers(&self, status: u16) {
        self.status.store(status, Ordering::Relaxed);
    }

    /// An application that takes payments here.
    pub fn of(&self, setup: Setup) -> Setup {
        setup
            .var("STRIPE_SECRET_KEY", "sk_test_1")
            .var("STRIPE_WEBHOOK_SECRET", WEBHOOK_SECRET)
            .var("STRIPE_API_BASE", &self.server.uri())
    }

    /// What it was asked for under a path.
    pub async fn asked(&self, path: &str) -> Vec<Sent> {
        let requests = self.server.received_requests().await.expect("recorded");
        requests.iter().map(Sent::of).filter(|sent| sent.path == path).collect()
    }
}

impl Sent {
    fn of(request: &Request) -> Self {
        Self {
            path: request.url.path().to_owned(),
            once: request
                .headers
                .get("idempotency-key")
                .map(|key| key.to_str().expect("a key").to_owned())
                .expect("a key"),
            fields: url::form_urlencoded::parse(&request.body).into_owned().collect(),
        }
    }
}

/// A header for a body that is sent at this time.
pub fn signature(body: &str, secret: &str, at: i64) -> String {
    let tag = sign(&Key::new(HMAC_SHA256, secret.as_bytes()), format!("{at}.{body}").as_bytes());
    format!("t={at},v1={}", hex::encode(tag))
}

/// An event of this id and time.
pub fn event(id: &str, created: i64, kind: &str, object: Value) -> Value {
    json!({ "id": id, "object": "event", "type": kind, "created": created, "data": { "object": object } })
}

/// A subscription of a customer.
pub fn subscription(customer: &str, tenant: &str, plan: &str, status: &str) -> Value {
    json!({
        "id": format!("sub_{customer}"), "object": "subscription", "customer": customer, "status": status,
        "metadata": { "tenant_id": tenant, "plan_tier": plan },
        "items": { "data": [{
            "current_period_start": 1_750_000_000, "current_period_end": 1_752_592_000,
            "price": { "id": format!("price_{plan}"), "recurring": { "interval": "month" } },
        }] },
    })
}

/// Sends an event, signed now by the clock of the machine.
pub fn deliver(app: &TestApp, event: &Value) -> Call {
    deliver_at(app, event, chrono::Utc::now().timestamp())
}

/// Sends an event, signed at this time.
pub fn deliver_at(app: &TestApp, event: &Value, at: i64) -> Call {
    let body = event.to_string();
    let signature = signature(&body, WEBHOOK_SECRET, at);
    app.anonymous().send("/v1/billing/webhook", body).header("stripe-signature", signature)
}
