//! The end of a project or a tenant: what was removed, and the certificate that says so.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use super::time::iso;
use super::{Scope, Timestamp};

/// How an erasure was ordered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ErasureOrder {
    /// Key or subject that asked for it.
    pub requested_by: Option<String>,
    /// Project of the tenant in whose audit log the end is recorded.
    pub recorded_in: String,
    /// Whether the scope may be used again as soon as it is empty: where no key is bound to a project, so that nobody
    /// could say that it begins anew.
    pub reopens: bool,
    /// When.
    pub at: Timestamp,
}

/// Rows, by table.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ErasedRows {
    /// Rows that are gone.
    pub removed: BTreeMap<String, u64>,
    /// Rows that stay without what they said of anybody.
    pub scrubbed: BTreeMap<String, u64>,
}

/// What an erasure has done.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ErasureTally {
    /// How it was ordered.
    pub order: ErasureOrder,
    /// Rows, by table.
    pub rows: ErasedRows,
    /// Keys that opened something until then.
    pub keys_revoked: u64,
    /// Projects that were there.
    pub projects: u64,
}

/// The proof of an erasure.
#[derive(Debug, Clone, PartialEq)]
pub struct Certificate(Value);

impl ErasedRows {
    /// Counts rows of a table that are gone.
    pub fn remove(&mut self, table: &str, rows: u64) {
        add(&mut self.removed, table, rows);
    }

    /// Counts rows of a table that were scrubbed.
    pub fn scrub(&mut self, table: &str, rows: u64) {
        add(&mut self.scrubbed, table, rows);
    }

    /// Adds what another step has done.
    pub fn add(&mut self, step: &Self) {
        step.removed.iter().for_each(|(table, rows)| self.remove(table, *rows));
        step.scrubbed.iter().for_each(|(table, rows)| self.scrub(table, *rows));
    }

    /// Rows of a table that are gone.
    pub fn of(&self, table: &str) -> u64 {
        self.removed.get(table).copied().unwrap_or(0)
    }
}

fn add(rows: &mut BTreeMap<String, u64>, table: &str, more: u64) {
    if more > 0 {
        *rows.entry(table.to_owned()).or_default() += more;
    }
}

impl Certificate {
    /// The certificate of an erasure that ended at a time. `sha256` is the digest of everything else as JSON without
    /// spaces, with sorted keys.
    pub fn of(scope: &Scope, tally: &ErasureTally, ended: Timestamp) -> Self {
        let project = if scope.is_whole_tenant() { "*" } else { scope.project() };
        let mut text = json!({
            "scope": { "tenant_id": scope.tenant(), "project_id": project },
            "tables": tally.rows.removed,
            "scrubbed": tally.rows.scrubbed,
            "keys_revoked": tally.keys_revoked,
            "requested_by": tally.order.requested_by,
            "started_at": iso(tally.order.at),
            "completed_at": iso(ended),
        });
        let digest = hex::encode(Sha256::digest(text.to_string()));
        text["sha256"] = digest.into();
        Self(text)
    }

    /// As JSON.
    pub fn to_json(&self) -> &Value {
        &self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_digest_covers_everything_else_in_the_order_of_its_keys() {
        let mut rows = ErasedRows::default();
        rows.remove("patterns", 2);
        rows.remove("patterns", 1);
        rows.remove("jobs", 0);
        let at = Timestamp::UNIX_EPOCH;
        let order = ErasureOrder { requested_by: Some("é".into()), recorded_in: "web".into(), reopens: false, at };
        let tally = ErasureTally { order, rows, keys_revoked: 1, projects: 1 };
        let certificate = Certificate::of(&Scope::of_tenant("acme"), &tally, at);
        let mut text = certificate.to_json().clone();
        let digest = text.as_object_mut().and_then(|members| members.remove("sha256")).expect("a digest");
        let canonical = "{\"completed_at\":\"1970-01-01T00:00:00Z\",\"keys_revoked\":1,\"requested_by\":\"é\",\
                         \"scope\":{\"project_id\":\"*\",\"tenant_id\":\"acme\"},\"scrubbed\":{},\
                         \"started_at\":\"1970-01-01T00:00:00Z\",\"tables\":{\"patterns\":3}}";
        assert_eq!(text.to_string(), canonical);
        assert_eq!(digest, hex::encode(Sha256::digest(canonical)));
    }
}
