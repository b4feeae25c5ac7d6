//! Plans and payments over HTTP, with a payment service of the tests.

use std::sync::Arc;

use axum::http::Method;
use chrono::TimeDelta;
use engramia::domain::overage::{OveragePeriod, PeriodState};
use engramia::domain::subscription::Overage;
use engramia::domain::{Month, Plan, Scope, Subscription, Timestamp};
use engramia::ports::Clock;
use engramia::store::Store;
use proptest::prelude::*;
use proptest::strategy::ValueTree;
use proptest::test_runner::TestRunner;
use serde_json::{Value, json};

use crate::support::app::{Setup, TestApp};
use crate::support::fakes::StoppedClock;
use crate::support::payments::{Stripe, WEBHOOK_SECRET, deliver, deliver_at, event, signature, subscription};
use crate::support::postgres::Database;
use crate::support::{eventually, run};

fn order() -> Value {
    json!({ "price_id": "price_1", "success_url": "https://a.example/ok", "cancel_url": "https://a.example/no" })
}

async fn status(app: &TestApp) -> Value {
    app.owner().get("/v1/billing/status").await.ok()
}

async fn patched(app: &TestApp, body: &str) -> crate::support::people::Answer {
    app.owner().call(Method::PATCH, "/v1/billing/overage").body(body.to_owned()).await
}

/// The tenant's customer at the payment service.
async fn customer(app: &TestApp, stripe: &Stripe) -> String {
    app.owner().get("/v1/billing/portal").await.ok();
    let asked = stripe.asked("/v1/billing_portal/sessions").await;
    asked.last().expect("asked").fields["customer"].clone()
}

fn now() -> i64 {
    chrono::Utc::now().timestamp()
}

#[tokio::test]
async fn without_a_payment_service_everybody_has_a_sandbox() {
    let app = TestApp::start().await;
    app.owner().post("/v1/learn", &run("t", "c", 5.0)).await.ok();
    let expected = json!({
        "plan_tier": "sandbox", "status": "active", "billing_interval": "month",
        "eval_runs_used": 0, "eval_runs_limit": 500, "patterns_used": 1, "patterns_limit": 5000,
        "projects_used": 1, "projects_limit": 1, "period_end": null,
        "overage_enabled": false, "overage_budget_cap_cents": null,
    });
    assert_eq!(status(&app).await, expected);
    app.owner().post("/v1/billing/checkout", &order()).await.problem(503, "SERVICE_UNAVAILABLE");
    app.owner().get("/v1/billing/portal").await.problem(503, "SERVICE_UNAVAILABLE");
    deliver(&app, &event("evt_1", now(), "ping", json!({}))).await.problem(503, "SERVICE_UNAVAILABLE");
    let refusal = patched(&app, r#"{"enabled":true,"budget_cap_cents":500}"#).await.problem(400, "VALIDATION_ERROR");
    assert_eq!(refusal["detail"], "Invalid overage configuration.");
}

#[tokio::test]
async fn a_purchase_begins_with_one_customer_however_often() {
    let stripe = Stripe::start().await;
    let app = stripe.of(Setup::new()).start().await;
    let answers = futures_util::future::join_all(
        (0..4).map(|_| app.owner().post("/v1/billing/checkout", &order()).into_future()),
    )
    .await;
    for answer in answers {
        assert_eq!(answer.ok()["checkout_url"], "https://checkout.stripe.com/c/1");
    }
    assert_eq!(app.owner().get("/v1/billing/portal").await.ok()["portal_url"], "https://billing.stripe.com/p/1");
    let made = stripe.asked("/v1/customers").await;
    assert!(made.iter().all(|sent| sent.once == made[0].once && sent.fields["metadata[tenant_id]"] == "default"));
    let sessions = stripe.asked("/v1/checkout/sessions").await;
    assert!(sessions.iter().all(|sent| sent.fields["customer"] == sessions[0].fields["customer"]));
    let fields = &sessions[0].fields;
    assert_eq!(fields["subscription_data[metadata][tenant_id]"], "default");
    assert_eq!(fields["client_reference_id"], "default");
}

#[tokio::test]
async fn prices_of_the_configuration_are_the_only_ones() {
    let stripe = Stripe::start().await;
    let app = stripe.of(Setup::new()).var("ENGRAMIA_STRIPE_PRICES", "price_1=team").start().await;
    app.owner().post("/v1/billing/checkout", &order()).await.ok();
    let sent = stripe.asked("/v1/checkout/sessions").await.remove(0);
    assert_eq!(sent.fields["subscription_data[metadata][plan_tier]"], "team");
    let mut other = order();
    other["price_id"] = json!("price_2");
    let refusal = app.owner().post("/v1/billing/checkout", &other).await.problem(422, "VALIDATION_ERROR");
    assert_eq!(refusal["detail"][0]["loc"], json!(["body", "price_id"]));
    assert_eq!(stripe.asked("/v1/checkout/sessions").await.len(), 1, "nobody was asked");
}

#[tokio::test]
async fn what_cannot_be_bought_is_named_and_an_outage_says_when_to_come_back() {
    let stripe = Stripe::start().await;
    let app = stripe.of(Setup::new()).start().await;
    let changed = |name: &str, value: Value| {
        let mut order = order();
        order[name] = value;
        order
    };
    for (name, value) in [
        ("price_id", json!("price_missing")),
        ("price_id", json!("")),
        ("price_id", json!(5)),
        ("success_url", json!("javascript:alert(1)")),
        ("cancel_url", json!("//a.example")),
        ("cancel_url", json!(null)),
    ] {
        let answer = app.owner().post("/v1/billing/checkout", &changed(name, value.clone())).await;
        assert_eq!(answer.problem(422, "VALIDATION_ERROR")["detail"][0]["loc"], json!(["body", name]), "{value}");
    }
    stripe.answers(503);
    let answer = app.owner().post("/v1/billing/checkout", &order()).await;
    answer.problem(503, "SERVICE_UNAVAILABLE");
    assert!(answer.header("retry-after").is_some());
    stripe.answers(401);
    app.owner().get("/v1/billing/portal").await.problem(503, "SERVICE_UNAVAILABLE");
    stripe.answers(404);
    app.owner().get("/v1/billing/portal").await.problem(502, "PROVIDER_ERROR");
}

#[tokio::test]
async fn customers_return_only_where_they_may() {
    let stripe = Stripe::start().await;
    let portal = |app: &TestApp, url: &str| {
        let query: String =
            url::form_urlencoded::Serializer::new(String::new()).append_pair("return_url", url).finish();
        app.owner().get(&format!("/v1/billing/portal?{query}")).header("host", "evil.example")
    };
    let app = stripe.of(Setup::new()).start().await;
    for good in ["https://your-app.com", "http://localhost:3000/billing", "http://127.0.0.1/"] {
        portal(&app, good).await.ok();
    }
    let bad = [
        "javascript:alert(1)",
        "ftp://x.example/",
        "not a url",
        "//x",
        "data:text/html,x",
        "http://x.example",
        "",
        "https://u:p@x",
    ];
    for bad in bad {
        let refusal = portal(&app, bad).await.problem(400, "VALIDATION_ERROR");
        assert_eq!(refusal["detail"], "Invalid return_url.", "{bad}");
    }
    let setup = Setup::new().var("ENGRAMIA_BILLING_RETURN_URLS", "https://your-app.com");
    let app = stripe.of(setup.var("ENGRAMIA_DASHBOARD_URL", "https://dash.example/app")).start().await;
    for good in ["https://your-app.com/settings?a=b", "https://dash.example"] {
        portal(&app, good).await.ok();
    }
    for bad in
        ["https://evil.example", "https://your-app.com.evil.example", "https://your-app.com:444", "http://your-app.com"]
    {
        portal(&app, bad).await.problem(400, "VALIDATION_ERROR");
    }
    app.owner().get("/v1/billing/portal").await.ok();
    let sent = stripe.asked("/v1/billing_portal/sessions").await;
    assert_eq!(sent.last().expect("asked").fields["return_url"], "https://dash.example/app");
}

#[tokio::test]
async fn only_what_is_signed_just_now_is_taken() {
    let stripe = Stripe::start().await;
    let app = stripe.of(Setup::new()).var("ENGRAMIA_RATE_LIMIT_DEFAULT", "2").start().await;
    let customer = customer(&app, &stripe).await;
    let upgrade =
        event("evt_1", now(), "customer.subscription.updated", subscription(&customer, "default", "team", "active"));
    let body = upgrade.to_string();
    let send = |signature: Option<String>| {
        let call = app.anonymous().send("/v1/billing/webhook", body.clone());
        match signature {
            Some(text) => call.header("stripe-signature", text),
            None => call,
        }
    };
    let at = now();
    for (sent, text) in [
        (None, "Missing Stripe-Signature header."),
        (Some(String::new()), "Invalid webhook signature."),
        (Some("t=1,v1=deadbeef".to_owned()), "Invalid webhook signature."),
        (Some(signature(&body, "whsec_other", at)), "Invalid webhook signature."),
        (Some(signature(&body, WEBHOOK_SECRET, at - 3_600)), "Invalid webhook signature."),
        (Some(signature(&body, WEBHOOK_SECRET, at + 3_600)), "Invalid webhook signature."),
        (Some(signature("{}", WEBHOOK_SECRET, at)), "Invalid webhook signature."),
        (Some("ž".to_owned()), "Invalid webhook signature."),
    ] {
        assert_eq!(send(sent).await.problem(400, "VALIDATION_ERROR")["detail"], text);
    }
    let signed = |body: &str| {
        let header = signature(body, WEBHOOK_SECRET, at);
        app.anonymous().send("/v1/billing/webhook", body.to_owned()).header("stripe-signature", header)
    };
    for unreadable in ["", "{", "[]", "null", "{\"type\":5}", "{\"type\":\"invoice.paid\"}"] {
        signed(unreadable).await.problem(400, "VALIDATION_ERROR");
    }
    let huge = format!("{{\"type\":\"ping\",\"x\":\"{}\"}}", "x".repeat(1 << 20));
    signed(&huge).await.problem(413, "PAYLOAD_TOO_LARGE");
    let answer = signed("{\"type\":\"charge.succeeded\",\"data\":7}").await.ok();
    assert_eq!(answer, json!({ "status": "ok", "event_type": "charge.succeeded" }));
    send(Some(format!("{},v1=00", signature(&body, WEBHOOK_SECRET, at)))).await.ok();
    // The limit by address counts for others.
    let read = async || app.owner().get("/v1/billing/status").from("192.0.2.9").await;
    assert_eq!(read().await.ok()["plan_tier"], "team");
}

/// On both stores.
async fn on_both(test: impl AsyncFn(Setup)) {
    test(Setup::new()).await;
    let database = Database::new().await;
    test(Setup::new().postgres(&database).var("ENGRAMIA_AUTH_MODE", "env")).await;
}

#[tokio::test]
async fn a_subscription_lives_as_the_guide_tells_it() {
    on_both(async |setup| {
        let stripe = Stripe::start().await;
        let clock = Arc::new(StoppedClock::new());
        let app = stripe.of(setup).clock(Arc::clone(&clock) as _).start().await;
        let customer = customer(&app, &stripe).await;
        let learn = || app.owner().post("/v1/learn", &run("t", "c", 5.0));
        let send = async |id: &str, kind: &str, object: Value| {
            let at = clock.now().timestamp();
            deliver_at(&app, &event(id, at, kind, object), at).await.ok();
        };
        let bought = |plan, status| subscription(&customer, "default", plan, status);
        let invoice = json!({ "object": "invoice", "customer": customer });
        send("evt_1", "customer.subscription.created", bought("team", "active")).await;
        let now = status(&app).await;
        assert_eq!((&now["plan_tier"], &now["projects_limit"]), (&json!("team"), &json!(15)));
        assert_eq!(now["period_end"], "2025-07-15T15:06:40Z");

        clock.pass(TimeDelta::days(1));
        send("evt_2", "invoice.payment_failed", invoice.clone()).await;
        assert_eq!(status(&app).await["status"], "past_due");
        clock.pass(TimeDelta::days(6));
        send("evt_3", "invoice.payment_failed", invoice.clone()).await;
        learn().await.ok();
        clock.pass(TimeDelta::days(1));
        let refusal = learn().await.problem(402, "PAYMENT_REQUIRED");
        assert_eq!(refusal["error"], "payment_required");
        app.owner().post("/v1/recall", &json!({ "task": "t" })).await.ok();

        send("evt_4", "invoice.paid", invoice.clone()).await;
        assert_eq!(status(&app).await["status"], "active");
        learn().await.ok();
        clock.pass(TimeDelta::days(1));
        send("evt_5", "customer.subscription.deleted", bought("team", "canceled")).await;
        let now = status(&app).await;
        assert_eq!((&now["plan_tier"], &now["status"]), (&json!("sandbox"), &json!("active")));
        learn().await.ok();
        // What was told long ago changes nothing.
        send("evt_2", "invoice.payment_failed", invoice).await;
        assert_eq!(status(&app).await, now);
        let audited = app.owner().get("/v1/audit?action=subscription_changed").await.ok().to_string();
        assert!(!audited.contains("team"), "the events are of the tenant, not of a project: {audited}");
        app.stop().await;
    })
    .await;
}

#[tokio::test]
async fn nobody_knows_a_customer_until_a_purchase_tells() {
    on_both(async |setup| {
        let stripe = Stripe::start().await;
        let app = stripe.of(setup).start().await;
        app.owner().post("/v1/learn", &run("t", "c", 5.0)).await.ok();
        let before = status(&app).await;
        for (id, tenant) in [("evt_1", "no-such-tenant"), ("evt_2", "")] {
            let object = subscription("cus_elsewhere", tenant, "team", "active");
            deliver(&app, &event(id, now(), "customer.subscription.created", object)).await.ok();
            assert_eq!(status(&app).await, before);
        }
        // Whoever buys by a link chooses the reference; the metadata are ours.
        let session = json!({ "customer": "cus_elsewhere", "client_reference_id": "default" });
        deliver(&app, &event("evt_2b", now(), "checkout.session.completed", session)).await.ok();
        assert_eq!(status(&app).await, before);
        let session = json!({ "customer": "cus_elsewhere", "metadata": { "tenant_id": "default" } });
        deliver(&app, &event("evt_3", now(), "checkout.session.completed", session)).await.ok();
        assert_eq!(status(&app).await["plan_tier"], "team");
        // Now the tenant is this customer, and no other.
        let object = subscription("cus_other", "default", "enterprise", "active");
        deliver(&app, &event("evt_4", now(), "customer.subscription.created", object)).await.ok();
        assert_eq!(status(&app).await["plan_tier"], "team");
        assert_eq!(customer(&app, &stripe).await, "cus_elsewhere");
        app.stop().await;
    })
    .await;
}

#[tokio::test]
async fn the_order_of_delivery_does_not_matter() {
    let kinds = ["active", "past_due", "trialing", "canceled", "incomplete"];
    let story: Vec<Value> = (0..12)
        .map(|number: i64| {
            let (id, created) = (format!("evt_{number:02}"), now() - 100 + number / 2);
            match number % 4 {
                1 => event(&id, created, "invoice.payment_failed", json!({ "customer": "cus_1" })),
                3 => event(&id, created, "invoice.paid", json!({ "customer": "cus_1" })),
                _ => {
                    let (plan, status) = (["pro", "team"][number as usize % 3 % 2], kinds[number as usize % 5]);
                    event(&id, created, "customer.subscription.updated", subscription("cus_1", "default", plan, status))
                }
            }
        })
        .collect();
    let stripe = Stripe::start().await;
    let started = async |setup: Setup| {
        let app = stripe.of(setup).start().await;
        app.owner().post("/v1/learn", &run("t", "c", 5.0)).await.ok();
        app
    };
    let app = started(Setup::new()).await;
    for event in &story {
        deliver(&app, event).await.ok();
    }
    let expected = status(&app).await;
    for _ in 0..3 {
        on_both(async |setup| {
            let app = started(setup).await;
            let again: Vec<Value> = story.iter().chain(&story[..5]).cloned().collect();
            let order = Just(again).prop_shuffle().new_tree(&mut TestRunner::default()).expect("an order").current();
            let sent = order.iter().map(|event| deliver(&app, event).into_future());
            for answer in futures_util::future::join_all(sent).await {
                answer.ok();
            }
            assert_eq!(status(&app).await, expected, "{order:?}");
            app.stop().await;
        })
        .await;
    }
}

/// A tenant with this subscription.
async fn subscribed(store: &dyn Store, plan: Plan, overage: Overage) {
    let mut work = store.begin(&Scope::of_tenant("default")).await.expect("a unit of work");
    let customer_id = Some("cus_1".to_owned());
    let subscription = Subscription { plan, overage, customer_id, ..Subscription::none() };
    work.billing().put_subscription(&subscription).await.expect("stored");
    work.payments().link("cus_1", Timestamp::UNIX_EPOCH).await.expect("linked");
    work.commit().await.expect("committed");
}

#[tokio::test]
async fn overage_follows_the_plan() {
    let on = |cap| Some((true, cap));
    // What is sent in turn, and what holds then; nothing for a refusal.
    type Step = (&'static str, Option<(bool, Option<u64>)>);
    let pro: [Step; 6] = [
        (r#"{"enabled":true}"#, None),
        (r#"{"enabled":true,"budget_cap_cents":5000}"#, on(Some(5000))),
        (r#"{"enabled":true,"budget_cap_cents":null}"#, None),
        (r#"{"enabled":false}"#, Some((false, Some(5000)))),
        (r#"{"enabled":true}"#, on(Some(5000))),
        (r#"{"enabled":false,"budget_cap_cents":null}"#, Some((false, Some(5000)))),
    ];
    let team: [Step; 3] = [
        (r#"{"enabled":true,"budget_cap_cents":0}"#, on(Some(0))),
        (r#"{"enabled":true,"budget_cap_cents":null}"#, on(None)),
        (r#"{"enabled":false,"budget_cap_cents":7}"#, Some((false, Some(7)))),
    ];
    let none: [Step; 1] = [(r#"{"enabled":true,"budget_cap_cents":5000}"#, None)];
    for (plan, steps) in
        [(Plan::Pro, &pro[..]), (Plan::Team, &team[..]), (Plan::Enterprise, &none[..]), (Plan::Sandbox, &none[..])]
    {
        let app =
            Setup::new().prepare(async |store| subscribed(store, plan, Overage::default()).await).await.start().await;
        for (body, expected) in steps {
            let answer = patched(&app, body).await;
            let Some((enabled, cap)) = expected else {
                assert_eq!(
                    answer.problem(400, "VALIDATION_ERROR")["detail"],
                    "Invalid overage configuration.",
                    "{body}"
                );
                continue;
            };
            assert_eq!(answer.ok(), json!({ "overage_enabled": enabled, "budget_cap_cents": cap }), "{plan:?} {body}");
            let shown = status(&app).await;
            assert_eq!((&shown["overage_enabled"], &shown["overage_budget_cap_cents"]), (&json!(enabled), &json!(cap)));
        }
        let before = status(&app).await;
        for wrong in [
            "{",
            "[]",
            "[true]",
            "",
            "null",
            r#"{"budget_cap_cents":5}"#,
            r#"{"enabled":"false"}"#,
            r#"{"enabled":"true"}"#,
            r#"{"enabled":1}"#,
            r#"{"enabled":null}"#,
            r#"{"enabled":true,"budget_cap_cents":-5}"#,
            r#"{"enabled":true,"budget_cap_cents":"500"}"#,
            r#"{"enabled":true,"budget_cap_cents":1e40}"#,
            r#"{"enabled":true,"budget_cap_cents":0.5}"#,
            r#"{"enabled":true,"budget_cap_cents":100000001}"#,
            r#"{"enabled":true,"budget_cap_cents":18446744073709551616}"#,
            r#"{"enabled":true,"budget_cap_cents":[5]}"#,
        ] {
            patched(&app, wrong).await.problem(422, "VALIDATION_ERROR");
        }
        assert_eq!(status(&app).await, before);
    }
}

/// A month that has ended by the clock of the tests, with so many evaluations beyond what it includes.
async fn ended_month(store: &dyn Store, runs: u64, change: impl Fn(OveragePeriod) -> OveragePeriod) {
    subscribed(store, Plan::Pro, Overage { enabled: false, cap_cents: Some(5_000) }).await;
    let month = Month::new(2025, 5).expect("a month");
    let terms = Subscription {
        plan: Plan::Pro,
        overage: Overage { enabled: true, cap_cents: Some(5_000) },
        ..Subscription::none()
    };
    let period = OveragePeriod::under(&terms, month, None, 0).expect("overage");
    let mut work = store.begin(&Scope::of_tenant("default")).await.expect("a unit of work");
    for _ in 0..runs {
        work.billing().count_run(month, None).await.expect("counted");
    }
    work.payments().put_period(&change(OveragePeriod { included: 2, ..period })).await.expect("stored");
    work.commit().await.expect("committed");
}

#[tokio::test]
async fn an_ended_month_is_billed_once() {
    on_both(async |setup| {
        let stripe = Stripe::start().await;
        let clock = Arc::new(StoppedClock::new());
        let setup = setup.prepare(async |store| ended_month(store, 1_010, |period| period).await).await;
        let app = stripe.of(setup).clock(Arc::clone(&clock) as _).start().await;
        let sent = eventually("a bill", async || stripe.asked("/v1/invoiceitems").await.pop()).await;
        for (name, value) in [
            ("customer", "cus_1"),
            ("amount", "1000"),
            ("currency", "usd"),
            ("metadata[month]", "2025-05"),
            ("description", "Engramia overage: 1008 eval runs (2 x 500 run blocks)"),
        ] {
            assert_eq!(sent.fields[name], value, "{name}");
        }
        assert!(!sent.fields.contains_key("invoice"));
        // Whatever calls for another look: nothing more is billed.
        for number in 0..3 {
            let at = clock.now().timestamp();
            let invoice = json!({ "id": "in_1", "customer": "cus_1", "billing_reason": "subscription_cycle" });
            deliver_at(&app, &event(&format!("evt_{number}"), at, "invoice.created", invoice), at).await.ok();
            clock.pass(TimeDelta::days(40));
        }
        tokio::task::yield_now().await;
        app.stop().await;
        assert_eq!(stripe.asked("/v1/invoiceitems").await.len(), 1);
    })
    .await;
}

#[tokio::test]
async fn a_new_period_takes_the_bill_on_its_draft() {
    let stripe = Stripe::start().await;
    let clock = Arc::new(StoppedClock::new());
    // No worker looked since the month ended; one that begins later delivers.
    let setup =
        Setup::new().prepare(async |store| ended_month(store, 600, |period| period).await).await.without_worker();
    let app = stripe.of(setup).clock(Arc::clone(&clock) as _).start().await;
    let at = clock.now().timestamp();
    for (id, reason) in [("evt_1", "manual"), ("evt_2", "subscription_cycle"), ("evt_3", "subscription_cycle")] {
        let invoice = json!({ "id": format!("in_{id}"), "customer": "cus_1", "billing_reason": reason });
        deliver_at(&app, &event(id, at, "invoice.created", invoice), at).await.ok();
    }
    let app = stripe.of(Setup::on(app.stop().await)).clock(clock as _).start().await;
    let sent = eventually("a bill", async || stripe.asked("/v1/invoiceitems").await.pop()).await;
    assert_eq!((sent.fields["amount"].as_str(), sent.fields["invoice"].as_str()), ("500", "in_evt_2"));
    app.stop().await;
}

#[tokio::test]
async fn a_crash_between_the_ledger_and_the_payment_service_bills_once() {
    let clock = StoppedClock::new();
    let pending =
        |attempted_at| move |period: OveragePeriod| OveragePeriod { attempted_at, ..period.closed(700, None) };
    // The process died after it told the payment service, or before; it is told again under the same key.
    let stripe = Stripe::start().await;
    let mut keys = Vec::new();
    for _ in 0..2 {
        let attempted_at = Some(clock.now() - TimeDelta::hours(1));
        let setup = Setup::new().prepare(async |store| ended_month(store, 0, pending(attempted_at)).await).await;
        let app = stripe.of(setup).clock(Arc::new(StoppedClock::new())).start().await;
        let seen = keys.len();
        let sent = eventually("a bill", async || stripe.asked("/v1/invoiceitems").await.into_iter().nth(seen)).await;
        keys.push(sent.once);
        app.stop().await;
    }
    assert_eq!(keys[0], keys[1]);
    // Too long ago for the payment service to remember: nobody is billed twice.
    let attempted_at = Some(clock.now() - TimeDelta::days(2));
    let setup = Setup::new().prepare(async |store| ended_month(store, 0, pending(attempted_at)).await).await;
    let app = stripe.of(setup).clock(Arc::new(StoppedClock::new())).start().await;
    let root = app.stop().await;
    let setup = Setup::on(root).prepare(async |store| {
        let mut work = store.read(&Scope::of_tenant("default")).await.expect("a unit of work");
        let left = work.payments().unsettled().await.expect("read");
        assert!(matches!(left[0].state, PeriodState::Unclear | PeriodState::Pending), "{left:?}");
    });
    drop(setup.await);
    assert_eq!(stripe.asked("/v1/invoiceitems").await.len(), 2);
}

#[tokio::test]
async fn a_bill_that_is_refused_comes_again_and_leaves_a_closed_draft() {
    let stripe = Stripe::start().await;
    stripe.answers(400);
    let draft = |period: OveragePeriod| period.closed(700, Some("in_1"));
    let setup = Setup::new().prepare(async |store| ended_month(store, 0, draft).await).await;
    let app = stripe.of(setup).clock(Arc::new(StoppedClock::new())).start().await;
    let first = eventually("a bill", async || stripe.asked("/v1/invoiceitems").await.pop()).await;
    assert_eq!(first.fields["invoice"], "in_1");
    let root = app.stop().await;
    stripe.answers(200);
    let app = stripe.of(Setup::on(root)).clock(Arc::new(StoppedClock::new())).start().await;
    let second = eventually("another", async || stripe.asked("/v1/invoiceitems").await.into_iter().nth(1)).await;
    assert!(!second.fields.contains_key("invoice"));
    assert_ne!(first.once, second.once);
    app.stop().await;
}
