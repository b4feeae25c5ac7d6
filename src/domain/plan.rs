//! What a tenant may have: plans with their limits, what more of it costs, and their features, as data (guide §6 and §8,
//! `spec/engramia/40` §1).

use super::words;

words! {
    /// A plan, in order of what it allows.
    Plan { Sandbox = "sandbox", Pro = "pro", Team = "team", Enterprise = "enterprise" }
}

words! {
    /// What only some plans have.
    Feature {
        /// Operations in the background (`Prefer: respond-async`).
        AsyncJobs = "async_jobs",
        /// `GET /v1/governance/export`.
        GdprExport = "gdpr_export",
        /// Tokens of an OpenID Connect issuer.
        Sso = "sso"
    }
}

/// What a plan allows. `None` is no limit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Terms {
    /// Projects of the tenant.
    pub projects: Option<u32>,
    /// Evaluations a calendar month (UTC).
    pub eval_runs: Option<u64>,
    /// Stored patterns of all projects together.
    pub patterns: Option<u64>,
    /// More evaluations than that, if the tenant wishes; `None` where the plan has none.
    pub overage: Option<OverageTerms>,
    /// What it has beside limits.
    pub features: &'static [Feature],
}

/// What evaluations beyond the limit cost. Whole blocks are billed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct OverageTerms {
    /// Evaluations of a block.
    pub block: u64,
    /// Price of a block in cents (USD).
    pub price_cents: u64,
    /// Whether a tenant may go without a budget cap.
    pub uncapped: bool,
}

impl Plan {
    /// What it allows.
    pub const fn terms(self) -> Terms {
        match self {
            Self::Sandbox => {
                Terms { projects: Some(1), eval_runs: Some(500), patterns: Some(5_000), overage: None, features: &[] }
            }
            Self::Pro => Terms {
                projects: Some(3),
                eval_runs: Some(3_000),
                patterns: Some(50_000),
                overage: Some(OverageTerms { block: 500, price_cents: 500, uncapped: false }),
                features: &[],
            },
            Self::Team => Terms {
                projects: Some(15),
                eval_runs: Some(15_000),
                patterns: Some(500_000),
                overage: Some(OverageTerms { block: 5_000, price_cents: 2_500, uncapped: true }),
                features: &[Feature::AsyncJobs, Feature::GdprExport],
            },
            Self::Enterprise => Terms {
                projects: None,
                eval_runs: None,
                patterns: None,
                overage: None,
                features: &[Feature::AsyncJobs, Feature::GdprExport, Feature::Sso],
            },
        }
    }

    /// Whether it has a feature.
    pub fn has(self, feature: Feature) -> bool {
        self.terms().features.contains(&feature)
    }
}

impl Feature {
    /// The smallest plan that has it.
    pub fn least_plan(self) -> Plan {
        match self {
            Self::AsyncJobs | Self::GdprExport => Plan::Team,
            Self::Sso => Plan::Enterprise,
        }
    }
}

impl OverageTerms {
    /// What so many evaluations beyond the limit cost, in cents: whole blocks.
    pub fn cost_cents(&self, excess: u64) -> u64 {
        (excess / self.block).saturating_mul(self.price_cents)
    }

    /// How many evaluations beyond the limit may begin before their cost reaches a cap.
    pub fn within(&self, cap_cents: u64) -> u64 {
        cap_cents.div_ceil(self.price_cents).saturating_mul(self.block)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_least_plan_of_a_feature_is_the_first_that_has_it() {
        for feature in [Feature::AsyncJobs, Feature::GdprExport, Feature::Sso] {
            let plans = [Plan::Sandbox, Plan::Pro, Plan::Team, Plan::Enterprise];
            assert_eq!(plans.into_iter().find(|plan| plan.has(feature)), Some(feature.least_plan()));
        }
    }

    #[test]
    fn runs_begin_until_their_cost_reaches_the_cap() {
        let pro = Plan::Pro.terms().overage.expect("overage");
        for (cap, runs) in [(0, 0), (1, 500), (500, 500), (501, 1_000), (5_000, 5_000)] {
            assert_eq!(pro.within(cap), runs, "{cap}");
            // The run before the last one is still below the cap, and the next one would not be.
            assert!(runs == 0 || pro.cost_cents(runs - 1) < cap);
            assert!(pro.cost_cents(runs) >= cap);
        }
        assert_eq!(pro.cost_cents(499), 0);
    }
}
