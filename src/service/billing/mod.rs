//! Payments: buying a plan, looking after it, and what the payment service tells (guide §6, `docs/billing.md`).
//!
//! | file | purpose |
//! |---|---|
//! | `purchase.rs` | checkout, portal, the tenant as a customer |
//! | `notice.rs` | events: read, recorded, and folded into the subscription |
//! | `signature.rs` | whether an event comes from the payment service |
//! | `overage.rs` | evaluations beyond the limit: the wish, the months, the bill |
//! | `upkeep.rs` | what time brings: warnings, ended months, bills that are not delivered |

mod notice;
mod overage;
mod purchase;
mod signature;
mod upkeep;

use std::sync::Arc;

use secrecy::SecretString;
use tokio::sync::Notify;

use super::{Result, ServiceError};
use crate::domain::payment::Prices;
use crate::ports::Payments;

pub use overage::Cap;
pub use purchase::Order;

/// What payments need.
#[derive(Default)]
pub struct Billing {
    /// The payment service; `None` where nobody pays anything.
    pub payments: Option<Arc<dyn Payments>>,
    /// Secret that events are signed with.
    pub webhook_secret: Option<SecretString>,
    /// Plans by the ids of their prices.
    pub prices: Prices,
    /// Origins to which a customer may return; empty for any.
    pub return_origins: Vec<String>,
    /// Where customers return to where nobody says.
    pub dashboard: Option<String>,
    /// Told when there is a bill to deliver.
    pub bell: Notify,
}

impl Billing {
    fn payments(&self) -> Result<&dyn Payments> {
        self.payments.as_deref().ok_or(ServiceError::NoPayments)
    }
}
