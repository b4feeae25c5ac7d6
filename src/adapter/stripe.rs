//! Stripe as the payment service (`spec/engramia/40` §6).
//!
//! Requests are built and sent by the crates of `async-stripe`; of an answer only what is needed is read, so that no
//! field that Stripe adds or drops can break it.

use std::collections::HashMap;
use std::time::Duration;

use anyhow::anyhow;
use async_trait::async_trait;
use miniserde::Deserialize;
use secrecy::{ExposeSecret, SecretString};
use stripe::{ApiErrors, Client, ClientBuilder, IdempotencyKey, RequestStrategy, StripeError, StripeRequest};
use stripe_billing::billing_portal_session::CreateBillingPortalSession;
use stripe_billing::invoice_item::CreateInvoiceItem;
use stripe_checkout::CheckoutSessionMode;
use stripe_checkout::checkout_session::{
    CreateCheckoutSession, CreateCheckoutSessionAutomaticTax, CreateCheckoutSessionCustomerUpdate,
    CreateCheckoutSessionCustomerUpdateAddress, CreateCheckoutSessionCustomerUpdateName,
    CreateCheckoutSessionLineItems, CreateCheckoutSessionSubscriptionData, CreateCheckoutSessionTaxIdCollection,
};
use stripe_core::customer::CreateCustomer;
use stripe_types::Currency;

use super::http::{self, transport};
use super::retry::{Failure, with_retries};
use crate::ports::{Charge, PaymentError, Payments, Purchase};

/// Time of one attempt, from connecting to the last byte.
const TIMEOUT: Duration = Duration::from_secs(10);

/// An account at Stripe.
pub struct Stripe {
    client: Client,
    /// Without the key, to see whether anybody is there.
    plain: reqwest::Client,
    base_url: String,
}

/// A thing that was made.
#[derive(Deserialize)]
struct Made {
    id: String,
}

/// A page to send somebody to.
#[derive(Deserialize)]
struct Page {
    url: Option<String>,
}

impl Stripe {
    /// The account of a secret key, at `base_url`.
    ///
    /// # Errors
    /// When the key cannot be sent in a header or the address is none.
    pub fn new(base_url: &str, key: &SecretString) -> anyhow::Result<Self> {
        let client = ClientBuilder::new(key.expose_secret().trim())
            .url(format!("{}/", base_url.trim_end_matches('/')))
            .app_info("engramia", Some(env!("CARGO_PKG_VERSION").to_owned()), None)
            .timeout(TIMEOUT)
            .build();
        Ok(Self {
            client: client.map_err(|_| anyhow!("STRIPE_SECRET_KEY or STRIPE_API_BASE cannot be used"))?,
            plain: http::client(reqwest::header::HeaderMap::new(), TIMEOUT)?,
            base_url: base_url.to_owned(),
        })
    }

    /// Sends a request, and again where another attempt can help, always under the same key.
    async fn send<T: Deserialize>(&self, request: &impl StripeRequest, once: &str) -> Result<T, PaymentError> {
        let key = IdempotencyKey::new(once).map_err(|error| PaymentError::Unavailable(error.into()))?;
        let attempt = || async {
            let strategy = RequestStrategy::Idempotent(key.clone());
            let sent = request.build().customize::<T>().request_strategy(strategy).send(&self.client).await;
            match sent.map_err(|error| verdict(&error)) {
                Ok(answer) => Ok(Ok(answer)),
                Err(Verdict::Final(error)) => Ok(Err(error)),
                Err(Verdict::Again(failure)) => Err(failure),
            }
        };
        match with_retries(attempt).await {
            Ok(outcome) => outcome,
            // 429: Stripe has not begun.
            Err(failure @ Failure::Status { status, .. }) if !status.is_server_error() => {
                Err(PaymentError::Unavailable(failure.into()))
            }
            Err(failure) => Err(PaymentError::Silent(failure.into())),
        }
    }
}

/// What a failed attempt means.
enum Verdict {
    Final(PaymentError),
    Again(Failure),
}

fn verdict(error: &StripeError) -> Verdict {
    let failure = |status: u16, code| {
        let status = reqwest::StatusCode::from_u16(status).unwrap_or(reqwest::StatusCode::BAD_GATEWAY);
        Failure::Status { status, code, retry_after: None }
    };
    match error {
        StripeError::Stripe(error, status) => {
            let code = error.code.as_ref().map(|code| code.as_str().to_owned());
            match status {
                401 | 403 => Verdict::Final(PaymentError::Key(failure(*status, code).into())),
                // 409: a request with this key is just being worked on.
                409 | 429 | 500.. => Verdict::Again(failure(if *status == 409 { 503 } else { *status }, code)),
                _ => {
                    Verdict::Final(PaymentError::Refused { param: param(error), source: failure(*status, code).into() })
                }
            }
        }
        StripeError::JSONDeserialize(what) => Verdict::Final(PaymentError::Silent(anyhow!("{what}"))),
        StripeError::ConfigError(what) => Verdict::Final(PaymentError::Unavailable(anyhow!("{what}"))),
        StripeError::ClientError(what) => Verdict::Again(Failure::Transport(anyhow!("{what}"))),
        StripeError::Timeout => Verdict::Again(Failure::Transport(anyhow!("no answer in time"))),
    }
}

/// Which parameter is refused. For a price that does not exist Stripe does not always say so in a field.
fn param(error: &ApiErrors) -> Option<String> {
    let no_price = || error.message.as_deref().is_some_and(|message| message.starts_with("No such price"));
    error.param.clone().or_else(|| no_price().then(|| "line_items[0][price]".to_owned()))
}

fn address(page: Page) -> Result<String, PaymentError> {
    page.url.ok_or_else(|| PaymentError::Silent(anyhow!("the answer has no address")))
}

#[async_trait]
impl Payments for Stripe {
    async fn create_customer(&self, tenant: &str, once: &str) -> Result<String, PaymentError> {
        let request = CreateCustomer::new().metadata(HashMap::from([("tenant_id".to_owned(), tenant.to_owned())]));
        Ok(self.send::<Made>(&request, once).await?.id)
    }

    async fn checkout(&self, purchase: &Purchase<'_>, once: &str) -> Result<String, PaymentError> {
        let mut metadata = HashMap::from([("tenant_id".to_owned(), purchase.tenant.to_owned())]);
        if let Some(plan) = purchase.plan {
            metadata.insert("plan_tier".to_owned(), plan.as_str().to_owned());
        }
        let mut item = CreateCheckoutSessionLineItems::new();
        item.price = Some(purchase.price_id.to_owned());
        item.quantity = Some(1);
        let mut subscription = CreateCheckoutSessionSubscriptionData::new();
        subscription.metadata = Some(metadata.clone());
        // With a customer that is there already, Stripe wants to be told that it may complete it.
        let mut update = CreateCheckoutSessionCustomerUpdate::new();
        update.address = Some(CreateCheckoutSessionCustomerUpdateAddress::Auto);
        update.name = Some(CreateCheckoutSessionCustomerUpdateName::Auto);
        let request = CreateCheckoutSession::new()
            .mode(CheckoutSessionMode::Subscription)
            .line_items(vec![item])
            .success_url(purchase.success_url)
            .cancel_url(purchase.cancel_url)
            .customer(purchase.customer_id)
            .customer_update(update)
            .client_reference_id(purchase.tenant)
            .metadata(metadata)
            .subscription_data(subscription)
            .automatic_tax(CreateCheckoutSessionAutomaticTax::new(true))
            .tax_id_collection(CreateCheckoutSessionTaxIdCollection::new(true));
        address(self.send(&request, once).await?)
    }

    async fn portal(&self, customer_id: &str, return_url: Option<&str>, once: &str) -> Result<String, PaymentError> {
        let mut request = CreateBillingPortalSession::new().customer(customer_id);
        if let Some(return_url) = return_url {
            request = request.return_url(return_url);
        }
        address(self.send(&request, once).await?)
    }

    async fn charge(&self, charge: &Charge<'_>, once: &str) -> Result<String, PaymentError> {
        let metadata = HashMap::from([
            ("tenant_id".to_owned(), charge.tenant.to_owned()),
            ("month".to_owned(), charge.month.to_owned()),
        ]);
        let mut request = CreateInvoiceItem::new()
            .customer(charge.customer_id)
            .amount(charge.amount_cents)
            .currency(Currency::USD)
            .description(charge.text)
            .metadata(metadata);
        if let Some(invoice_id) = charge.invoice_id {
            request = request.invoice(invoice_id);
        }
        Ok(self.send::<Made>(&request, once).await?.id)
    }

    async fn ping(&self) -> Result<(), PaymentError> {
        let answer = self.plain.head(&self.base_url).send().await;
        answer.map(drop).map_err(|error| PaymentError::Unavailable(transport(error).into()))
    }
}

#[cfg(test)]
mod tests;
