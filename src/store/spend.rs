//! What a tenant has spent on language models, by day and role.

use async_trait::async_trait;
use chrono::NaiveDate;

use super::Result;
use crate::domain::spend::{Budget, ModelRole, Nanos};

/// An amount that is set aside.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Booking {
    /// The day, UTC.
    pub day: NaiveDate,
    /// What for.
    pub role: ModelRole,
    /// How much.
    pub amount: Nanos,
}

impl Booking {
    /// The amount for judging, and the one for composing and evolving; one of them is nothing.
    pub(super) fn by_role(&self, amount: Nanos) -> (i64, i64) {
        match self.role {
            ModelRole::Eval => (amount.0, 0),
            ModelRole::Architect => (0, amount.0),
        }
    }
}

/// What is spent and set aside on one day.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Spent {
    /// On judging.
    pub eval: Nanos,
    /// On composing and evolving.
    pub architect: Nanos,
}

impl Spent {
    /// On everything.
    pub fn total(self) -> Nanos {
        Nanos(self.eval.0.saturating_add(self.architect.0))
    }

    /// On one role.
    pub fn of(self, role: ModelRole) -> Nanos {
        match role {
            ModelRole::Eval => self.eval,
            ModelRole::Architect => self.architect,
        }
    }
}

/// The account of this unit's tenant.
#[async_trait]
pub trait Spend: Send {
    /// Sets an amount aside if the budget allows it, in one statement: of many callers at once none exceeds it. Where it
    /// does not, nothing changes, and what is spent already comes back.
    async fn reserve(&mut self, booking: &Booking, budget: &Budget) -> Result<Option<Spent>>;
    /// Replaces what was set aside by what was spent.
    async fn settle(&mut self, booking: &Booking, spent: Nanos) -> Result<()>;
    /// What is spent and set aside on a day; nothing where there is no row.
    async fn of_day(&mut self, day: NaiveDate) -> Result<Spent>;
}
