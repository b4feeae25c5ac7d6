//! What language models cost: roles, tokens, prices, amounts, and how much a tenant may spend a day.

use chrono::NaiveDate;

use super::words;

words! {
    /// What a model is asked for; budgets can be set for each.
    ModelRole { Eval = "eval", Architect = "architect" }
}

/// Tokens that a call used.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Usage {
    /// What was sent.
    pub prompt_tokens: u64,
    /// What came back.
    pub completion_tokens: u64,
}

/// An amount of money in nano-dollars: small enough for one token, and whole numbers add up exactly.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub struct Nanos(pub i64);

impl Nanos {
    const PER_USD: f64 = 1e9;

    /// Rounded to the next nano-dollar; what no number can hold is the greatest amount.
    pub fn of_usd(usd: f64) -> Self {
        Self((usd * Self::PER_USD).round() as i64)
    }

    /// In dollars.
    pub fn usd(self) -> f64 {
        self.0 as f64 / Self::PER_USD
    }
}

/// What a model costs, in dollars for a million tokens.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Price {
    /// Tokens that are sent.
    pub input: f64,
    /// Tokens that come back.
    pub output: f64,
}

impl Price {
    /// What so many tokens cost, rounded up.
    pub fn of(self, usage: Usage) -> Nanos {
        // A dollar for a million tokens is a thousand nano-dollars for one.
        let nanos = (usage.prompt_tokens as f64 * self.input + usage.completion_tokens as f64 * self.output) * 1e3;
        Nanos(nanos.ceil() as i64)
    }
}

/// How much a tenant may spend a day (UTC).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Budget {
    /// All roles together.
    pub total: Nanos,
    /// Judging alone; `None` for no limit but the total.
    pub eval: Option<Nanos>,
    /// Composing and evolving alone.
    pub architect: Option<Nanos>,
}

impl Budget {
    /// What a role may spend when nobody else spends anything.
    pub fn of_role(&self, role: ModelRole) -> Nanos {
        let own = match role {
            ModelRole::Eval => self.eval,
            ModelRole::Architect => self.architect,
        };
        own.map_or(self.total, |own| own.min(self.total))
    }
}

/// A budget does not allow a call.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Overspent {
    /// Spent and reserved so far, in dollars.
    pub current: f64,
    /// How much there may be, in dollars.
    pub limit: f64,
    /// The day on which there is a new budget.
    pub reset: NaiveDate,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_are_priced_exactly_and_rounded_up() {
        let price = Price { input: 2.0, output: 8.0 };
        assert_eq!(price.of(Usage { prompt_tokens: 1_000_000, completion_tokens: 0 }), Nanos::of_usd(2.0));
        assert_eq!(price.of(Usage { prompt_tokens: 1, completion_tokens: 1 }), Nanos(10_000));
        let cheap = Price { input: 0.000_1, output: 0.0 };
        assert_eq!(cheap.of(Usage { prompt_tokens: 1, completion_tokens: 0 }), Nanos(1));
        assert_eq!(Nanos::of_usd(f64::MAX), Nanos(i64::MAX));
    }

    #[test]
    fn a_role_never_has_more_than_the_total() {
        let budget = Budget { total: Nanos(5), eval: Some(Nanos(3)), architect: Some(Nanos(9)) };
        assert_eq!(budget.of_role(ModelRole::Eval), Nanos(3));
        assert_eq!(budget.of_role(ModelRole::Architect), Nanos(5));
    }
}
