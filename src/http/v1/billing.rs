//! `/v1/billing/*`: the plan of a tenant, buying another, and what the payment service tells.

use axum::Json;
use axum::extract::{Request, State};
use serde::Serialize;
use utoipa::{IntoParams, ToSchema};

use super::Answer;
use crate::domain::time::iso;
use crate::http::AppState;
use crate::http::caller::{Authorized, needs};
use crate::http::extract::{Body, Query, read_bytes};
use crate::http::fields::{Amount, Fields, FromFields, Text};
use crate::http::openapi::{ErrorBody, Errors};
use crate::http::problem::Problem;
use crate::service::billing::Cap;
use crate::service::billing::Order;
use crate::service::quotas::Usage;

/// Longest address.
const MAX_URL: usize = 2_048;
/// Largest event.
const MAX_EVENT: usize = 1 << 20;
/// Greatest budget cap: a million dollars a month.
const MAX_CAP: u64 = 100_000_000;

/// The plan of the tenant, and what it uses of it.
#[derive(Serialize, ToSchema)]
pub struct BillingStatus {
    /// `sandbox`, `pro`, `team` or `enterprise`.
    #[schema(example = "pro")]
    plan_tier: &'static str,
    /// Status of the subscription: `active`, `past_due` while a payment is due, or another word of Stripe.
    #[schema(example = "active")]
    status: String,
    /// `month` or `year`.
    #[schema(example = "month")]
    billing_interval: &'static str,
    /// Evaluations of this calendar month, UTC.
    #[schema(example = 1250)]
    eval_runs_used: u64,
    /// Evaluations that the plan includes; null for no limit.
    #[schema(example = 3000)]
    eval_runs_limit: Option<u64>,
    /// Patterns of all projects.
    #[schema(example = 12_000)]
    patterns_used: u64,
    /// Patterns that the plan includes; null for no limit.
    #[schema(example = 50_000)]
    patterns_limit: Option<u64>,
    /// Projects.
    #[schema(example = 2)]
    projects_used: u64,
    /// Projects that the plan includes; null for no limit.
    #[schema(example = 3)]
    projects_limit: Option<u32>,
    /// End of the period that is paid; null without a subscription.
    #[schema(example = "2026-05-01T00:00:00Z")]
    period_end: Option<String>,
    /// Whether evaluations beyond the limit are paid for.
    overage_enabled: bool,
    /// Most that is paid for them in a month; null for no cap.
    overage_budget_cap_cents: Option<u64>,
}

impl From<Usage> for BillingStatus {
    fn from(Usage { subscription, eval_runs, held }: Usage) -> Self {
        let terms = subscription.plan.terms();
        Self {
            plan_tier: subscription.plan.as_str(),
            status: subscription.status,
            billing_interval: subscription.interval.as_str(),
            eval_runs_used: eval_runs,
            eval_runs_limit: terms.eval_runs,
            patterns_used: held.patterns,
            patterns_limit: terms.patterns,
            projects_used: held.projects,
            projects_limit: terms.projects,
            period_end: subscription.period_end.map(iso),
            overage_enabled: subscription.overage.enabled,
            overage_budget_cap_cents: subscription.overage.cap_cents,
        }
    }
}

/// What to buy, and where to go afterwards.
#[derive(ToSchema)]
#[expect(dead_code, reason = "documents what `Order` is read from")]
pub struct CheckoutRequest {
    /// Id of a price at Stripe.
    #[schema(max_length = 255, example = "price_1Abc")]
    price_id: String,
    /// Where the buyer goes after the payment: an http or https address.
    #[schema(max_length = 2048, example = "https://your-app.com/billing/success")]
    success_url: String,
    /// Where the buyer goes instead.
    #[schema(max_length = 2048, example = "https://your-app.com/billing/cancel")]
    cancel_url: String,
}

impl FromFields for Order {
    fn read(fields: &mut Fields) -> Self {
        let mut text = |name, most| fields.required_text(name, Text::up_to(most).not_blank());
        Self {
            price_id: text("price_id", 255),
            success_url: text("success_url", MAX_URL),
            cancel_url: text("cancel_url", MAX_URL),
        }
    }
}

/// Where the buyer pays.
#[derive(Serialize, ToSchema)]
pub struct CheckoutResponse {
    /// A page of Stripe.
    #[schema(example = "https://checkout.stripe.com/...")]
    checkout_url: String,
}

/// Where to return to.
#[derive(IntoParams)]
#[into_params(parameter_in = Query)]
pub struct PortalQuery {
    /// An address that the server's configuration allows; the dashboard without it.
    #[param(max_length = 2048)]
    return_url: Option<String>,
}

impl FromFields for PortalQuery {
    fn read(fields: &mut Fields) -> Self {
        Self { return_url: fields.text("return_url", Text::up_to(MAX_URL)) }
    }
}

/// Where the customer looks after the subscription.
#[derive(Serialize, ToSchema)]
pub struct PortalResponse {
    /// A page of Stripe.
    #[schema(example = "https://billing.stripe.com/...")]
    portal_url: String,
}

/// Whether evaluations beyond the limit are paid for.
#[derive(ToSchema)]
pub struct OverageRequest {
    /// Whether they are: `true` or `false`, no text.
    enabled: bool,
    /// Most that is paid for them in a month, in cents (USD). Without it the cap stays as it is; null removes it (Team
    /// only).
    #[schema(minimum = 0, maximum = 100_000_000, value_type = Option<u64>)]
    budget_cap_cents: Amount,
}

impl FromFields for OverageRequest {
    fn read(fields: &mut Fields) -> Self {
        Self {
            enabled: fields.required_strict_flag("enabled"),
            budget_cap_cents: fields.strict_amount("budget_cap_cents", MAX_CAP),
        }
    }
}

/// What holds from now on.
#[derive(Serialize, ToSchema)]
pub struct OverageResponse {
    /// Whether evaluations beyond the limit are paid for.
    overage_enabled: bool,
    /// Most that is paid for them in a month; null for no cap.
    #[schema(example = 5000)]
    budget_cap_cents: Option<u64>,
}

/// An event was taken.
#[derive(Serialize, ToSchema)]
pub struct NoticeResponse {
    /// Always `ok`.
    #[schema(example = "ok")]
    status: &'static str,
    /// Type of the event.
    #[schema(example = "invoice.paid")]
    event_type: String,
}

/// The plan of the tenant, and what it uses of it.
#[utoipa::path(get, path = "/v1/billing/status", operation_id = "billing_status", tag = "billing",
    responses((status = 200, body = BillingStatus), Errors))]
pub async fn status(
    State(state): State<AppState>,
    Authorized { caller, .. }: Authorized<needs::BillingRead>,
) -> Answer<BillingStatus> {
    Ok(Json(state.services.usage(&caller).await?.into()))
}

/// Begin to buy a plan: a page of Stripe.
#[utoipa::path(post, path = "/v1/billing/checkout", operation_id = "checkout", tag = "billing",
    request_body = CheckoutRequest,
    responses((status = 200, body = CheckoutResponse), (status = 502, body = ErrorBody, description = "Stripe refused"),
        Errors))]
pub async fn checkout(
    State(state): State<AppState>,
    Authorized { caller, .. }: Authorized<needs::BillingManage>,
    Body(order): Body<Order>,
) -> Answer<CheckoutResponse> {
    Ok(Json(CheckoutResponse { checkout_url: state.services.checkout(&caller, &order).await? }))
}

/// Look after the subscription: a page of Stripe.
#[utoipa::path(get, path = "/v1/billing/portal", operation_id = "portal", tag = "billing", params(PortalQuery),
    responses((status = 200, body = PortalResponse),
        (status = 400, body = ErrorBody, description = "Nobody may be sent to this address"),
        (status = 502, body = ErrorBody, description = "Stripe refused"), Errors))]
pub async fn portal(
    State(state): State<AppState>,
    Authorized { caller, .. }: Authorized<needs::BillingManage>,
    Query(query): Query<PortalQuery>,
) -> Answer<PortalResponse> {
    Ok(Json(PortalResponse { portal_url: state.services.portal(&caller, query.return_url.as_deref()).await? }))
}

/// Pay for evaluations beyond the limit, or stop it.
#[utoipa::path(patch, path = "/v1/billing/overage", operation_id = "overage", tag = "billing",
    request_body = OverageRequest,
    responses((status = 200, body = OverageResponse),
        (status = 400, body = ErrorBody, description = "The plan has no overage, or asks for a cap"), Errors))]
pub async fn overage(
    State(state): State<AppState>,
    Authorized { caller, .. }: Authorized<needs::BillingManage>,
    Body(OverageRequest { enabled, budget_cap_cents }): Body<OverageRequest>,
) -> Answer<OverageResponse> {
    let cap = match budget_cap_cents {
        Amount::Absent => Cap::Unsaid,
        Amount::Null => Cap::Off,
        Amount::Given(cents) => Cap::Cents(cents),
    };
    let overage = state.services.set_overage(&caller, enabled, cap).await?;
    Ok(Json(OverageResponse { overage_enabled: overage.enabled, budget_cap_cents: overage.cap_cents }))
}

/// Take an event of Stripe, signed in `Stripe-Signature`.
#[utoipa::path(post, path = "/v1/billing/webhook", operation_id = "billing_webhook", tag = "billing", security(()),
    params(("Stripe-Signature" = String, Header, description = "Time and signatures, as Stripe makes them")),
    responses((status = 200, body = NoticeResponse),
        (status = 400, body = ErrorBody, description = "Not signed as it should be, too old, or unreadable"), Errors))]
pub async fn webhook(State(state): State<AppState>, request: Request) -> Answer<NoticeResponse> {
    let signature = request.headers().get("stripe-signature").cloned();
    let body = read_bytes(request, MAX_EVENT).await?;
    let signature = signature.as_ref().map(|value| value.to_str().unwrap_or_default());
    let taken = state.services.take_notice(&body, signature).await;
    let event_type = taken.inspect_err(|error| state.metrics.notice_not_taken(error)).map_err(Problem::from)?;
    Ok(Json(NoticeResponse { status: "ok", event_type }))
}
