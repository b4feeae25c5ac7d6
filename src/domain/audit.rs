//! What happened, by whom, for the record (`spec/engramia/30` §5): entries, and the hash chain that binds the entries of
//! a tenant, so that one that is changed or removed is noticed.

use serde_json::{Map, Value};
use sha2::{Digest, Sha256};

use super::{Timestamp, words};

words! {
    /// What is recorded.
    AuditAction {
        AuthFailure = "auth_failure",
        RateLimited = "rate_limited",
        PatternDeleted = "pattern_deleted",
        BulkImport = "bulk_import",
        DataExported = "data_exported",
        QuotaExceeded = "quota_exceeded",
        KeyCreated = "key_created",
        KeyRevoked = "key_revoked",
        KeyRotated = "key_rotated",
        SubscriptionChanged = "subscription_changed",
        OverageChanged = "overage_changed",
        ScopeExported = "scope_exported",
        RetentionSet = "retention_set",
        RetentionApplied = "retention_applied",
        PatternClassified = "pattern_classified",
        DsrCreated = "dsr_created",
        DsrUpdated = "dsr_updated",
        ScopeDeleted = "scope_deleted"
    }
}

/// An event to record, in the tenant and the project of the unit of work that records it.
#[derive(Debug, Clone, PartialEq)]
pub struct AuditEvent {
    /// When.
    pub at: Timestamp,
    /// What.
    pub action: AuditAction,
    /// Id of the key or subject of the token that did it; `None` for nobody known.
    pub actor: Option<String>,
    /// Kind of the thing it was done to, such as `api_key`.
    pub resource_type: Option<&'static str>,
    /// Which one.
    pub resource_id: Option<String>,
    /// Address it came from.
    pub ip: Option<String>,
    /// Whatever else is worth knowing.
    pub detail: Map<String, Value>,
    /// Random bytes, so that the address and the detail cannot be guessed from their digest once they are scrubbed.
    pub nonce: [u8; 16],
}

/// A recorded event.
#[derive(Debug, Clone, PartialEq)]
pub struct AuditEntry {
    /// Its number in the tenant's chain, from 1 without gaps.
    pub sequence: u64,
    /// Project it happened in.
    pub project: String,
    /// When.
    pub at: Timestamp,
    /// Its [`AuditAction`] as a word; entries of later versions stay readable.
    pub action: String,
    /// Who did it.
    pub actor: Option<String>,
    /// Kind of the thing it was done to.
    pub resource_type: Option<String>,
    /// Which one.
    pub resource_id: Option<String>,
    /// Address it came from.
    pub ip: Option<String>,
    /// Whatever else is worth knowing, as JSON with sorted keys.
    pub detail: Option<String>,
    /// See [`AuditEvent::nonce`]; `None` once the entry is scrubbed.
    pub nonce: Option<[u8; 16]>,
    /// Digest of nonce, address and detail: it outlives them.
    pub private: [u8; 32],
    /// Digest of everything else, of `private` and of the entry before.
    pub hash: [u8; 32],
}

/// The end of a tenant's chain.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct ChainHead {
    /// Number of the last entry; 0 before the first.
    pub sequence: u64,
    /// Its hash; zeros before the first.
    pub hash: [u8; 32],
}

/// What is wrong with an entry of a chain.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BrokenLink {
    /// Its number is not the next one: entries are missing.
    Gap,
    /// Its address or its detail was changed.
    Private,
    /// Something else of it, or an entry before it, was changed.
    Hash,
}

impl AuditEvent {
    /// Adds what it was done to.
    pub fn on(mut self, resource_type: &'static str, id: impl Into<String>) -> Self {
        self.resource_type = Some(resource_type);
        self.resource_id = Some(id.into());
        self
    }

    /// Adds a member to the detail.
    pub fn with(mut self, name: &str, value: impl Into<Value>) -> Self {
        self.detail.insert(name.to_owned(), value.into());
        self
    }
}

impl AuditEntry {
    /// The event as the next entry after `head`.
    pub fn after(head: &ChainHead, tenant: &str, project: &str, event: &AuditEvent) -> Self {
        let detail = (!event.detail.is_empty()).then(|| Value::Object(event.detail.clone()).to_string());
        let mut entry = Self {
            sequence: head.sequence + 1,
            project: project.to_owned(),
            at: event.at,
            action: event.action.as_str().to_owned(),
            actor: event.actor.clone(),
            resource_type: event.resource_type.map(str::to_owned),
            resource_id: event.resource_id.clone(),
            ip: event.ip.clone(),
            detail,
            nonce: Some(event.nonce),
            private: [0; 32],
            hash: [0; 32],
        };
        entry.private = entry.private_digest(&event.nonce);
        entry.hash = entry.link(&head.hash, tenant);
        entry
    }

    /// Checks this entry against the end of the chain before it.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn verify(&self, head: &ChainHead, tenant: &str) -> Result<ChainHead, BrokenLink> {
        if self.sequence != head.sequence + 1 {
            return Err(BrokenLink::Gap);
        }
        if self.nonce.is_some_and(|nonce| self.private_digest(&nonce) != self.private) {
            return Err(BrokenLink::Private);
        }
        if self.link(&head.hash, tenant) != self.hash {
            return Err(BrokenLink::Hash);
        }
        Ok(ChainHead { sequence: self.sequence, hash: self.hash })
    }

    fn private_digest(&self, nonce: &[u8; 16]) -> [u8; 32] {
        let mut digest = Fields::new();
        digest.add(Some(nonce));
        digest.add(self.ip.as_deref().map(str::as_bytes));
        digest.add(self.detail.as_deref().map(str::as_bytes));
        digest.finish()
    }

    fn link(&self, before: &[u8; 32], tenant: &str) -> [u8; 32] {
        let mut digest = Fields::new();
        digest.add(Some(before));
        digest.add(Some(&self.sequence.to_be_bytes()));
        digest.add(Some(tenant.as_bytes()));
        digest.add(Some(self.project.as_bytes()));
        digest.add(Some(&self.at.timestamp_micros().to_be_bytes()));
        digest.add(Some(self.action.as_bytes()));
        for text in [&self.actor, &self.resource_type, &self.resource_id] {
            digest.add(text.as_deref().map(str::as_bytes));
        }
        digest.add(Some(&self.private));
        digest.finish()
    }
}

/// A digest of fields with their lengths, so that no two lists of fields read the same.
struct Fields(Sha256);

impl Fields {
    fn new() -> Self {
        Self(Sha256::new())
    }

    fn add(&mut self, field: Option<&[u8]>) {
        let length = field.map_or(u64::MAX, |bytes| bytes.len() as u64);
        self.0.update(length.to_be_bytes());
        self.0.update(field.unwrap_or_default());
    }

    fn finish(self) -> [u8; 32] {
        self.0.finalize().into()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn chain() -> Vec<AuditEntry> {
        let mut head = ChainHead::default();
        let mut entries = Vec::new();
        for number in 0..3u8 {
            let event = AuditEvent {
                at: Timestamp::UNIX_EPOCH,
                action: AuditAction::KeyCreated,
                actor: Some("a".into()),
                resource_type: Some("api_key"),
                resource_id: None,
                ip: Some("192.0.2.1".into()),
                detail: Map::from_iter([("role".to_owned(), Value::from("owner"))]),
                nonce: [number; 16],
            };
            let entry = AuditEntry::after(&head, "acme", "web", &event);
            head = entry.verify(&head, "acme").expect("as made");
            entries.push(entry);
        }
        entries
    }

    fn broken(entries: &[AuditEntry]) -> Option<(usize, BrokenLink)> {
        let mut head = ChainHead::default();
        for (at, entry) in entries.iter().enumerate() {
            match entry.verify(&head, "acme") {
                Ok(next) => head = next,
                Err(link) => return Some((at, link)),
            }
        }
        None
    }

    type Change = fn(&mut AuditEntry);

    #[test]
    fn a_change_of_any_field_is_noticed() {
        assert_eq!(broken(&chain()), None);
        let changes: [(Change, BrokenLink); 9] = [
            (|e| e.project = "x".into(), BrokenLink::Hash),
            (|e| e.at += chrono::Duration::microseconds(1), BrokenLink::Hash),
            (|e| e.action = "key_revoked".into(), BrokenLink::Hash),
            (|e| e.actor = None, BrokenLink::Hash),
            (|e| e.resource_type = Some("api_keya".into()), BrokenLink::Hash),
            (|e| e.resource_id = Some(String::new()), BrokenLink::Hash),
            (|e| e.ip = None, BrokenLink::Private),
            (|e| e.detail = None, BrokenLink::Private),
            (|e| e.private = [0; 32], BrokenLink::Private),
        ];
        for (change, link) in changes {
            let mut entries = chain();
            change(&mut entries[1]);
            assert_eq!(broken(&entries), Some((1, link)));
        }
        let mut entries = chain();
        entries.remove(1);
        assert_eq!(broken(&entries), Some((1, BrokenLink::Gap)));
        assert!(chain()[0].verify(&ChainHead::default(), "other").is_err(), "another tenant's chain");
    }

    #[test]
    fn a_scrubbed_entry_keeps_the_chain_whole() {
        let mut entries = chain();
        entries[1].ip = Some("[REDACTED]".into());
        entries[1].nonce = None;
        assert_eq!(broken(&entries), None);
    }
}
