//! Payments (guide §4 "Billing", decision 7): the account at Stripe, and what its prices stand for.

use secrecy::SecretString;

use super::Reader;
use super::parse::is_loopback;
use super::sections::CorsOrigins;
use super::settings as table;
use crate::domain::payment::Prices;

/// Payments.
#[derive(Debug, Clone)]
pub struct Billing {
    /// The account; `None` where nobody pays anything.
    pub stripe: Option<StripeAccount>,
    /// Secret that events are signed with; without it none is taken.
    pub webhook_secret: Option<SecretString>,
    /// Plans by the ids of their prices. Empty leaves it to the metadata of prices and subscriptions.
    pub prices: Prices,
    /// Origins to which a customer may return; empty for any.
    pub return_origins: Vec<String>,
    /// Where customers return to where nobody says.
    pub dashboard: Option<String>,
}

/// An account at Stripe.
#[derive(Debug, Clone)]
pub struct StripeAccount {
    /// Secret key.
    pub key: SecretString,
    /// Where its API is.
    pub base_url: String,
}

impl Billing {
    pub(super) fn read(reader: &mut Reader, cors: &CorsOrigins) -> Self {
        let key = reader.given(&table::STRIPE_SECRET_KEY);
        let base_url = reader.read(&table::STRIPE_API_BASE);
        let webhook_secret = reader.given(&table::STRIPE_WEBHOOK_SECRET);
        if key.is_none() && webhook_secret.is_some() {
            reader.warn("STRIPE_WEBHOOK_SECRET has no effect: STRIPE_SECRET_KEY is not set");
        }
        if key.is_some() && webhook_secret.is_none() {
            reader.warn("STRIPE_WEBHOOK_SECRET is not set: no event of Stripe is taken, so nobody's plan changes");
        }
        if base_url.starts_with("http://") && !is_loopback(&base_url) {
            reader.warn("STRIPE_API_BASE is not https: who is on the way to it can read the secret key");
        }
        let dashboard = reader.given(&table::DASHBOARD_URL);
        let mut return_origins = reader.read(&table::BILLING_RETURN_URLS);
        return_origins.extend(dashboard.as_deref().and_then(super::parse::origin_of));
        if let CorsOrigins::Only(origins) = cors {
            return_origins.extend_from_slice(origins);
        }
        Self {
            webhook_secret: webhook_secret.filter(|_| key.is_some()),
            stripe: key.map(|key| StripeAccount { key, base_url }),
            prices: reader.read(&table::STRIPE_PRICES),
            return_origins,
            dashboard,
        }
    }
}

#[cfg(test)]
mod tests {
    use crate::config::{Billing, Config, Loaded};
    use crate::domain::Plan;

    fn load(vars: &[(&str, &str)]) -> Result<Loaded, String> {
        let vars = vars.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
        Config::load(vars).map_err(|findings| findings.to_string())
    }

    fn billing(vars: &[(&str, &str)]) -> Billing {
        load(vars).expect("valid").config.billing
    }

    #[test]
    fn without_a_key_nobody_pays() {
        let none = billing(&[]);
        assert!(none.stripe.is_none() && none.prices.is_empty() && none.return_origins.is_empty());
        assert!(billing(&[("STRIPE_WEBHOOK_SECRET", "whsec")]).webhook_secret.is_none());
        let account = billing(&[("STRIPE_SECRET_KEY", "sk")]).stripe.expect("an account");
        assert_eq!(account.base_url, "https://api.stripe.com");
    }

    #[test]
    fn prices_stand_for_plans() {
        let prices = billing(&[("ENGRAMIA_STRIPE_PRICES", "price_a=pro, price_b = team")]).prices;
        assert_eq!(
            prices.into_iter().collect::<Vec<_>>(),
            [("price_a".into(), Plan::Pro), ("price_b".into(), Plan::Team)]
        );
        for bad in ["price_a", "price_a=gold", "=pro", "price_a=pro,price_a=team"] {
            let finding = load(&[("ENGRAMIA_STRIPE_PRICES", bad)]).expect_err(bad);
            assert!(finding.starts_with("ENGRAMIA_STRIPE_PRICES="), "{finding}");
        }
    }

    #[test]
    fn customers_return_to_places_that_are_ours() {
        let billing = billing(&[
            ("ENGRAMIA_BILLING_RETURN_URLS", "https://a.example"),
            ("ENGRAMIA_DASHBOARD_URL", "https://b.example/app"),
            ("ENGRAMIA_CORS_ORIGINS", "https://c.example"),
        ]);
        assert_eq!(billing.return_origins, ["https://a.example", "https://b.example", "https://c.example"]);
        assert_eq!(billing.dashboard.as_deref(), Some("https://b.example/app"));
    }
}
