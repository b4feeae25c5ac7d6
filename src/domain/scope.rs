//! Who asks, for which memory, and what they may do (`spec/engramia/00` §1 and §4).

use std::net::IpAddr;
use std::sync::Arc;

use super::words;

/// The pair of tenant and project that every row belongs to.
///
/// Built only from a verified principal or from a stored row, so that no request can name a scope of its own.
#[derive(Clone, PartialEq, Eq, Hash, Debug, PartialOrd, Ord)]
pub struct Scope {
    tenant: Arc<str>,
    project: Arc<str>,
}

impl Scope {
    /// The tenant and the project of an installation that names none.
    pub const DEFAULT_NAME: &'static str = "default";

    /// A scope whose parts come from a verified principal or a stored row.
    pub fn verified(tenant: &str, project: &str) -> Self {
        Self { tenant: tenant.into(), project: project.into() }
    }

    /// Where a tenant keeps what belongs to none of its projects.
    pub fn of_tenant(tenant: &str) -> Self {
        Self::verified(tenant, "")
    }

    /// Whether this is no project but the tenant itself.
    pub fn is_whole_tenant(&self) -> bool {
        self.project.is_empty()
    }

    /// Whether everything of `other` belongs to this scope, too.
    pub fn covers(&self, other: &Self) -> bool {
        self.tenant == other.tenant && (self.is_whole_tenant() || self.project == other.project)
    }

    /// Tenant id.
    pub fn tenant(&self) -> &str {
        &self.tenant
    }

    /// Project id, unique inside its tenant.
    pub fn project(&self) -> &str {
        &self.project
    }

    /// Whether a project id from outside is acceptable: 1 to 100 of `A-Z a-z 0-9 _ . -`, and not only dots.
    pub fn is_project_name(name: &str) -> bool {
        (1..=100).contains(&name.len())
            && name.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'.' | b'-'))
            && name.bytes().any(|b| b != b'.')
    }
}

impl Default for Scope {
    /// `default` / `default`: the scope of static keys and of open mode.
    fn default() -> Self {
        Self::verified(Self::DEFAULT_NAME, Self::DEFAULT_NAME)
    }
}

words! {
    /// Strictly growing sets of permissions.
    Role { Reader = "reader", Editor = "editor", Admin = "admin", Owner = "owner" }
}

words! {
    /// What an operation needs; the names appear in the refusal's text.
    Permission {
        Health = "health",
        Metrics = "metrics",
        Recall = "recall",
        FeedbackRead = "feedback:read",
        SkillsSearch = "skills:search",
        JobsList = "jobs:list",
        JobsRead = "jobs:read",
        AnalyticsRead = "analytics:read",
        Learn = "learn",
        Evaluate = "evaluate",
        Compose = "compose",
        Evolve = "evolve",
        AnalyzeFailures = "analyze_failures",
        SkillsRegister = "skills:register",
        Aging = "aging",
        FeedbackDecay = "feedback:decay",
        JobsCancel = "jobs:cancel",
        AnalyticsRollup = "analytics:rollup",
        PatternsDeleteOwn = "patterns:delete_own",
        PatternsDelete = "patterns:delete",
        Import = "import",
        Export = "export",
        KeysCreate = "keys:create",
        KeysList = "keys:list",
        KeysRevoke = "keys:revoke",
        KeysRotate = "keys:rotate",
        AuditRead = "audit:read",
        GovernanceRead = "governance:read",
        GovernanceWrite = "governance:write",
        GovernanceAdmin = "governance:admin",
        GovernanceDelete = "governance:delete",
        /// Nothing but the owner's wildcard covers it.
        TenantDelete = "*",
        BillingRead = "billing:read",
        BillingManage = "billing:manage",
    }
}

impl Permission {
    /// The lowest role that holds this permission.
    fn least_role(self) -> Role {
        match self {
            Self::Health
            | Self::Metrics
            | Self::Recall
            | Self::FeedbackRead
            | Self::SkillsSearch
            | Self::JobsList
            | Self::JobsRead
            | Self::AnalyticsRead
            | Self::BillingRead => Role::Reader,
            Self::Learn
            | Self::Evaluate
            | Self::Compose
            | Self::Evolve
            | Self::AnalyzeFailures
            | Self::SkillsRegister
            | Self::Aging
            | Self::FeedbackDecay
            | Self::JobsCancel
            | Self::AnalyticsRollup
            | Self::PatternsDeleteOwn => Role::Editor,
            Self::PatternsDelete
            | Self::Import
            | Self::Export
            | Self::KeysCreate
            | Self::KeysList
            | Self::KeysRevoke
            | Self::KeysRotate
            | Self::AuditRead
            | Self::GovernanceRead
            | Self::GovernanceWrite
            | Self::GovernanceAdmin
            | Self::GovernanceDelete
            | Self::BillingManage => Role::Admin,
            Self::TenantDelete => Role::Owner,
        }
    }
}

impl Role {
    /// Whether this role holds `permission`.
    pub fn allows(self, permission: Permission) -> bool {
        self >= permission.least_role()
    }

    /// The highest role that a key made by this role may have; `None` for a role that makes none.
    pub fn assigns(self) -> Option<Self> {
        match self {
            Self::Owner => Some(Self::Owner),
            Self::Admin => Some(Self::Editor),
            Self::Editor | Self::Reader => None,
        }
    }
}

/// The verified origin of a request.
#[derive(Clone, Debug)]
pub struct Caller {
    /// Where its data lives.
    pub scope: Scope,
    /// What it may do.
    pub role: Role,
    /// Id of the key it came with; `None` in open mode.
    pub key_id: Option<Arc<str>>,
    /// Most patterns its scope may hold when it stores one more.
    pub max_patterns: Option<u32>,
    /// Address it came from, after trusted proxies.
    pub address: Option<IpAddr>,
    /// Id of the request, to find it in the log.
    pub request_id: Option<Arc<str>>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn roles_are_strict_supersets() {
        assert!(Role::Reader < Role::Editor && Role::Editor < Role::Admin && Role::Admin < Role::Owner);
        assert!(Role::Reader.allows(Permission::Recall) && !Role::Reader.allows(Permission::Learn));
        assert!(Role::Editor.allows(Permission::PatternsDeleteOwn) && !Role::Editor.allows(Permission::Export));
        assert!(Role::Admin.allows(Permission::KeysCreate) && !Role::Editor.allows(Permission::KeysCreate));
        assert_eq!((Role::Admin.assigns(), Role::Owner.assigns()), (Some(Role::Editor), Some(Role::Owner)));
        assert!(Role::Admin.allows(Permission::Import) && Role::Owner.allows(Permission::PatternsDelete));
    }

    #[test]
    fn project_names_are_bounded() {
        for good in ["default", "team-1", "a.b_c", &"x".repeat(100)] {
            assert!(Scope::is_project_name(good), "{good}");
        }
        for bad in ["", "..", "a/b", "ž", "a b", &"x".repeat(101)] {
            assert!(!Scope::is_project_name(bad), "{bad}");
        }
    }
}
