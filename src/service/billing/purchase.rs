//! Buying a plan and looking after it: pages of the payment service, and the tenant as its customer.

use url::{Host, Url};

use super::super::{Result, ServiceError, Services, again};
use crate::domain::{Caller, Scope, text};
use crate::ports::{PaymentError, Purchase};
use crate::store::payments::Link;

/// What a caller wants to buy.
#[derive(Debug, Clone)]
pub struct Order {
    /// The price.
    pub price_id: String,
    /// Where to go afterwards.
    pub success_url: String,
    /// Where to go instead.
    pub cancel_url: String,
}

impl Services {
    /// Begins a purchase; where the buyer pays.
    ///
    /// # Errors
    /// When a price or an address cannot be used, or the payment service is not there.
    pub async fn checkout(&self, caller: &Caller, order: &Order) -> Result<String> {
        let payments = self.billing.payments()?;
        for (field, address) in [("success_url", &order.success_url), ("cancel_url", &order.cancel_url)] {
            if web_address(address).is_none() {
                return Err(ServiceError::InvalidField { field, message: "Input should be an http or https address" });
            }
            if !self.billing.return_origins.is_empty() && !self.may_return_to(address) {
                let message = "Input should be an address that customers may return to";
                return Err(ServiceError::InvalidField { field, message });
            }
        }
        let prices = &self.billing.prices;
        let plan = prices.get(&order.price_id).copied();
        if plan.is_none() && !prices.is_empty() {
            return Err(UNKNOWN_PRICE);
        }
        let tenant = caller.scope.tenant();
        let customer_id = self.customer(tenant).await?;
        let purchase = Purchase {
            customer_id: &customer_id,
            tenant,
            price_id: &order.price_id,
            plan,
            success_url: &order.success_url,
            cancel_url: &order.cancel_url,
        };
        payments.checkout(&purchase, &self.new_id()).await.map_err(refused)
    }

    /// Opens the page where the caller's tenant looks after its subscription; its address.
    ///
    /// # Errors
    /// When the address to return to is not one of ours, or the payment service is not there.
    pub async fn portal(&self, caller: &Caller, return_url: Option<&str>) -> Result<String> {
        let payments = self.billing.payments()?;
        let return_url = match return_url {
            Some(wanted) if self.may_return_to(wanted) => Some(wanted),
            Some(_) => return Err(ServiceError::InvalidReturnUrl),
            None => self.billing.dashboard.as_deref(),
        };
        let customer = self.customer(caller.scope.tenant()).await?;
        payments.portal(&customer, return_url, &self.new_id()).await.map_err(ServiceError::Payment)
    }

    /// Origins of the configuration; where there are none, whatever is safe to send a browser to. What the request says
    /// of its host counts for nothing: who sends it chooses it.
    fn may_return_to(&self, wanted: &str) -> bool {
        let Some(url) = web_address(wanted) else { return false };
        let allowed = &self.billing.return_origins;
        if !allowed.is_empty() {
            return allowed.contains(&url.origin().ascii_serialization());
        }
        url.scheme() == "https" || is_loopback(&url)
    }

    /// The tenant as a customer of the payment service, made at the first need.
    async fn customer(&self, tenant: &str) -> Result<String> {
        let scope = &Scope::of_tenant(tenant);
        if let Some(known) = self.store.read(scope).await?.billing().subscription().await?.customer_id {
            return Ok(known);
        }
        // Of several requests at once, and after a crash before the next line, the same customer comes back.
        let once = format!("engramia-customer-{}", &hex::encode(text::digest(tenant))[..32]);
        let made = &self.billing.payments()?.create_customer(tenant, &once).await.map_err(ServiceError::Payment)?;
        let linked = again(|| async move {
            let mut work = self.store.begin(scope).await?;
            if work.payments().link(made, self.clock.now()).await? == Link::Refused {
                return Ok(false);
            }
            let mut subscription = work.billing().subscription().await?;
            subscription.customer_id = Some(made.clone());
            work.billing().put_subscription(&subscription).await?;
            work.commit().await?;
            Ok(true)
        })
        .await?;
        if linked {
            return Ok(made.clone());
        }
        // Somebody else was faster, with another one.
        let known = self.store.read(scope).await?.billing().subscription().await?.customer_id;
        known.ok_or(ServiceError::Payment(PaymentError::Unavailable(anyhow::anyhow!("{made} is another tenant's"))))
    }
}

const UNKNOWN_PRICE: ServiceError =
    ServiceError::InvalidField { field: "price_id", message: "Input should be the id of a price that can be bought" };

/// What a refusal says about the order.
fn refused(error: PaymentError) -> ServiceError {
    let PaymentError::Refused { param: Some(param), .. } = &error else { return ServiceError::Payment(error) };
    let message = "Stripe does not accept this address";
    match param.as_str() {
        "success_url" => ServiceError::InvalidField { field: "success_url", message },
        "cancel_url" => ServiceError::InvalidField { field: "cancel_url", message },
        param if param.starts_with("line_items") => UNKNOWN_PRICE,
        _ => ServiceError::Payment(error),
    }
}

/// An address that a browser can be sent to without harm; `None` for any other text.
fn web_address(text: &str) -> Option<Url> {
    let url = Url::parse(text).ok()?;
    let plain = matches!(url.scheme(), "http" | "https") && url.username().is_empty() && url.password().is_none();
    // White space and control characters inside would be dropped by who reads them.
    let clean = !text.chars().any(|c| c.is_whitespace() || c.is_control()) && !text.contains('\\');
    (plain && clean && url.has_host()).then_some(url)
}

fn is_loopback(url: &Url) -> bool {
    match url.host() {
        Some(Host::Domain(name)) => name == "localhost",
        Some(Host::Ipv4(ip)) => ip.is_loopback(),
        Some(Host::Ipv6(ip)) => ip.is_loopback(),
        None => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_plain_web_addresses_are_sent_to_a_browser() {
        for good in ["https://your-app.com", "http://localhost:3000/x?y={CHECKOUT_SESSION_ID}", "https://a.example/#b"]
        {
            assert!(web_address(good).is_some(), "{good}");
        }
        for bad in [
            "",
            "x",
            "//x",
            "/x",
            "not a url",
            "javascript:alert(1)",
            "ftp://x.example/",
            "data:text/html,x",
            "https://",
            "https://user@x.example",
            "https://x.example\\@y.example",
            " https://x.example",
            "https://x\n.example",
        ] {
            assert!(web_address(bad).is_none(), "{bad}");
        }
    }
}
