//! What is sent to Stripe, and what its answers mean.

use serde_json::json;
use wiremock::matchers::{body_string_contains, header, method, path};
use wiremock::{Mock, MockServer, ResponseTemplate};

use super::*;
use crate::domain::plan::Plan;

async fn stripe(server: &MockServer) -> Stripe {
    Stripe::new(&server.uri(), &"sk_test_1".into()).expect("a client")
}

fn purchase() -> Purchase<'static> {
    Purchase {
        customer_id: "cus_1",
        tenant: "acme",
        price_id: "price_1",
        plan: Some(Plan::Team),
        success_url: "https://app.example/ok?session={CHECKOUT_SESSION_ID}",
        cancel_url: "https://app.example/no",
    }
}

fn refusal(status: u16, error: serde_json::Value) -> ResponseTemplate {
    ResponseTemplate::new(status).set_body_json(json!({ "error": error }))
}

#[tokio::test]
async fn a_purchase_carries_everything_that_the_events_need_later() {
    let server = MockServer::start().await;
    let answer = json!({ "id": "cs_1", "object": "checkout.session", "url": "https://checkout.stripe.com/c/1" });
    Mock::given(method("POST"))
        .and(path("/v1/checkout/sessions"))
        .and(header("authorization", "Bearer sk_test_1"))
        .and(header("idempotency-key", "once-1"))
        .respond_with(ResponseTemplate::new(200).set_body_json(answer))
        .expect(1)
        .mount(&server)
        .await;
    let url = stripe(&server).await.checkout(&purchase(), "once-1").await.expect("a page");
    assert_eq!(url, "https://checkout.stripe.com/c/1");
    let sent = server.received_requests().await.expect("recorded").remove(0);
    let pairs: HashMap<String, String> = url::form_urlencoded::parse(&sent.body).into_owned().collect();
    for (name, value) in [
        ("mode", "subscription"),
        ("line_items[0][price]", "price_1"),
        ("line_items[0][quantity]", "1"),
        ("customer", "cus_1"),
        ("client_reference_id", "acme"),
        ("metadata[tenant_id]", "acme"),
        ("subscription_data[metadata][tenant_id]", "acme"),
        ("subscription_data[metadata][plan_tier]", "team"),
        ("automatic_tax[enabled]", "true"),
        ("tax_id_collection[enabled]", "true"),
        ("customer_update[address]", "auto"),
        ("customer_update[name]", "auto"),
        ("success_url", "https://app.example/ok?session={CHECKOUT_SESSION_ID}"),
        ("cancel_url", "https://app.example/no"),
    ] {
        assert_eq!(pairs.get(name).map(String::as_str), Some(value), "{name} in {pairs:?}");
    }
}

#[tokio::test]
async fn what_fails_for_now_is_tried_again_under_the_same_key() {
    let server = MockServer::start().await;
    let failing = refusal(500, json!({ "type": "api_error" }));
    Mock::given(method("POST")).respond_with(failing).up_to_n_times(2).mount(&server).await;
    let made = ResponseTemplate::new(200).set_body_json(json!({ "id": "ii_1" }));
    Mock::given(header("idempotency-key", "once")).respond_with(made).mount(&server).await;
    let charge = Charge {
        customer_id: "cus_1",
        tenant: "acme",
        month: "2026-10",
        amount_cents: 500,
        text: "text",
        invoice_id: Some("in_1"),
    };
    assert_eq!(stripe(&server).await.charge(&charge, "once").await.expect("made"), "ii_1");
    let requests = server.received_requests().await.expect("recorded");
    assert_eq!(requests.len(), 3);
    assert!(requests.iter().all(|sent| sent.headers["idempotency-key"] == "once"));
    let body = String::from_utf8(requests[0].body.clone()).expect("a form");
    for part in ["amount=500", "currency=usd", "invoice=in_1", "metadata[month]=2026-10"] {
        let encoded = part.replace('[', "%5B").replace(']', "%5D");
        assert!(body.contains(part) || body.contains(&encoded), "{part} in {body}");
    }
}

#[tokio::test]
async fn a_refusal_is_final_and_names_the_parameter() {
    let price = json!({ "type": "invalid_request_error", "message": "No such price: 'price_1'" });
    let url = json!({ "type": "invalid_request_error", "param": "success_url", "message": "Not a valid URL" });
    for (error, expected) in [(price, "line_items[0][price]"), (url, "success_url")] {
        let server = MockServer::start().await;
        Mock::given(body_string_contains("price_1")).respond_with(refusal(400, error)).expect(1).mount(&server).await;
        let outcome = stripe(&server).await.checkout(&purchase(), "once").await;
        let Err(PaymentError::Refused { param, .. }) = outcome else { panic!("{outcome:?}") };
        assert_eq!(param.as_deref(), Some(expected));
    }
}

#[tokio::test]
async fn a_wrong_key_and_an_outage_are_told_apart() {
    let server = MockServer::start().await;
    let unknown = refusal(401, json!({ "type": "invalid_request_error", "message": "Invalid API Key: sk_test_1" }));
    Mock::given(method("POST")).respond_with(unknown).mount(&server).await;
    let error = stripe(&server).await.create_customer("acme", "once").await.expect_err("refused");
    assert!(matches!(error, PaymentError::Key(_)), "{error:?}");
    assert!(!format!("{error:?}").contains("sk_test_1"));

    let gone = Stripe::new("http://127.0.0.1:1", &"sk_test_1".into()).expect("a client");
    let error = gone.portal("cus_1", None, "once").await.expect_err("nobody is there");
    assert!(matches!(error, PaymentError::Silent(_)), "{error:?}");
}
