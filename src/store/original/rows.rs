//! What rows of the original's tables say.

use serde_json::Value;
use uuid::Uuid;

use super::Members;
use crate::domain::time::parse_iso;
use crate::domain::{Classification, PatternKey, Role, Scope, Source, Timestamp};
use crate::store::copy::CarriedRow;
use crate::store::identity::ApiKey;

/// A row as JSON, by column.
#[derive(Debug, PartialEq)]
pub(super) struct Fields(Members);

impl Fields {
    pub(super) fn parse(row: &str) -> Option<Self> {
        match json(row)? {
            Value::Object(members) => Some(Self(members)),
            _ => None,
        }
    }

    /// A text or a number, not blank.
    pub(super) fn text(&self, column: &str) -> Option<String> {
        let text = match self.0.get(column)? {
            Value::String(text) => text.trim().to_owned(),
            Value::Number(number) => number.to_string(),
            _ => return None,
        };
        (!text.is_empty()).then_some(text)
    }

    /// A time, in any of the forms that the original wrote.
    pub(super) fn time(&self, column: &str) -> Result<Option<Timestamp>, String> {
        let Some(text) = self.text(column) else { return Ok(None) };
        parse_iso(&text).map(Some).ok_or_else(|| format!("{column} is no time"))
    }

    fn needed(&self, column: &str) -> Result<String, String> {
        self.text(column).ok_or_else(|| format!("{column} is missing"))
    }

    /// The column `data`; JSON inside a JSON text, too.
    pub(super) fn data(&self) -> Option<Value> {
        match self.0.get("data")? {
            Value::Null => None,
            Value::String(text) => json(text),
            value => Some(value.clone()),
        }
    }
}

pub(super) fn json(text: &str) -> Option<Value> {
    serde_json::from_str(text).ok()
}

/// Key and data of a pattern, with what only the columns say.
pub(super) fn pattern(key: &str, row: &str) -> Result<(PatternKey, Members), String> {
    let key = PatternKey::parse(key).map_err(|error| error.to_string())?;
    let fields = Fields::parse(row).ok_or("the row cannot be read")?;
    let Some(Value::Object(mut data)) = fields.data() else { return Err("its data is no object".to_owned()) };
    let design = data.entry("design").or_insert_with(|| Value::Object(Members::new()));
    if design.is_null() {
        *design = Value::Object(Members::new());
    }
    if let Value::Object(design) = design {
        add_columns(design, &fields);
    }
    for (column, member) in [("run_id", "_run_id"), ("author", "_author_key_id")] {
        if let Some(text) = fields.text(column)
            && data.get(member).is_none_or(Value::is_null)
        {
            data.insert(member.to_owned(), text.into());
        }
    }
    if fields.0.get("redacted") == Some(&Value::Bool(true)) {
        data.insert("_redacted".to_owned(), true.into());
    }
    Ok((key, data))
}

/// The columns are newer than the design, except where they hold only their default (W-40): then the stricter of the two
/// counts.
fn add_columns(design: &mut Members, fields: &Fields) {
    let own = design.get("classification").and_then(Value::as_str).and_then(|word| word.parse().ok());
    let column = fields.text("classification").and_then(|word| word.parse().ok());
    let classification = match (column, own) {
        (Some(Classification::Internal), Some(Classification::Confidential)) => own,
        (Some(_), _) => column,
        (None, _) => own,
    };
    if let Some(word) = classification {
        design.insert("classification".to_owned(), word.as_str().into());
    }
    if let Some(source) = fields.text("source").and_then(|word| word.parse::<Source>().ok()) {
        design.insert("source".to_owned(), source.as_str().into());
    }
}

/// An API key of a project. A time that cannot be read leaves the key out: it could open what it should not.
pub(super) fn api_key(scope: &Scope, row: &str) -> Result<ApiKey, String> {
    let fields = Fields::parse(row).ok_or("the row cannot be read")?;
    let id = Uuid::try_parse(&fields.needed("id")?).map_err(|_| "its id is no UUID")?;
    let mut hash = [0; 32];
    hex::decode_to_slice(fields.needed("key_hash")?, &mut hash).map_err(|_| "its hash is no SHA-256 in hex")?;
    let role: Role = fields.needed("role")?.to_lowercase().parse().map_err(|_| "its role is unknown")?;
    let max_patterns = match fields.text("max_patterns") {
        Some(most) => Some(most.parse().map_err(|_| "its max_patterns is no number")?),
        None => None,
    };
    Ok(ApiKey {
        id: id.to_string(),
        scope: scope.clone(),
        name: fields.text("name").unwrap_or_default(),
        prefix: fields.text("key_prefix").unwrap_or_default(),
        hash,
        role,
        max_patterns,
        created_at: fields.time("created_at")?.unwrap_or_default(),
        last_used_at: fields.time("last_used_at").unwrap_or_default(),
        revoked_at: fields.time("revoked_at")?,
        expires_at: fields.time("expires_at")?,
    })
}

/// A row that is carried over as it is.
#[derive(Debug, PartialEq)]
pub struct Carried {
    /// Id of its tenant; empty for a row of none.
    pub tenant: String,
    /// The row.
    pub row: CarriedRow,
}

impl Carried {
    pub(super) fn new(source: &str, id: &str, data: &str) -> Result<Self, String> {
        let fields = Fields::parse(data).ok_or("the row cannot be read")?;
        let tenant = match source {
            "tenants" => id.to_owned(),
            "processed_webhook_events" => String::new(),
            _ => fields.needed("tenant_id")?,
        };
        if !tenant.is_empty() && !Scope::is_project_name(&tenant) {
            return Err("the id of its tenant could not be kept".to_owned());
        }
        let row = CarriedRow { source: source.to_owned(), id: id.to_owned(), data: data.to_owned() };
        Ok(Self { tenant, row })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn read(row: Value) -> Result<Members, String> {
        pattern("patterns/a_1", &row.to_string()).map(|(_, data)| data)
    }

    #[test]
    fn columns_complete_the_data() {
        let data = read(json!({
            "data": { "task": "t", "design": { "code": "c", "classification": "zzz", "source": "zzz" } },
            "classification": "public", "source": "sdk", "run_id": "r", "author": "k", "redacted": true,
        }));
        let expected = json!({
            "task": "t", "design": { "code": "c", "classification": "public", "source": "sdk" },
            "_run_id": "r", "_author_key_id": "k", "_redacted": true,
        });
        assert_eq!(data.map(Value::Object), Ok(expected));
    }

    #[test]
    fn the_stricter_classification_counts_where_the_column_has_its_default() {
        let of = |column: &str, own: &str| {
            let design = json!({ "classification": own });
            let data = read(json!({ "data": { "task": "t", "design": design }, "classification": column }));
            data.expect("readable")["design"]["classification"].as_str().map(str::to_owned)
        };
        assert_eq!(of("internal", "confidential").as_deref(), Some("confidential"));
        assert_eq!(of("internal", "public").as_deref(), Some("internal"));
        assert_eq!(of("public", "confidential").as_deref(), Some("public"), "it was classified anew");
        assert_eq!(of("confidential", "public").as_deref(), Some("confidential"));
        assert_eq!(of("", "public").as_deref(), Some("public"));
    }

    #[test]
    fn unreadable_rows_are_flawed() {
        for row in [json!([]), json!({}), json!({ "data": null }), json!({ "data": [1] }), json!({ "data": "{" })] {
            assert!(read(row.clone()).is_err(), "{row}");
        }
        assert!(read(json!({ "data": "{\"task\": \"JSON in a text\"}" })).is_ok());
        assert!(pattern("patterns/../x", "{\"data\": {}}").is_err());
    }

    #[test]
    fn keys_with_times_in_both_forms_are_read_and_flawed_ones_are_not() {
        let row = json!({
            "id": "0BE2046E-0000-4000-8000-000000000000", "name": "CI", "key_prefix": "engramia-01234567...",
            "key_hash": "ab".repeat(32), "role": "Editor", "max_patterns": 5, "last_used_at": "never",
            "created_at": "2026-04-04 12:00:00+00", "expires_at": "2027-04-04T12:00:00Z", "revoked_at": null,
        });
        let key = api_key(&Scope::default(), &row.to_string()).expect("sound");
        assert_eq!((key.id.as_str(), key.hash), ("0be2046e-0000-4000-8000-000000000000", [0xab; 32]));
        assert_eq!((key.role, key.max_patterns), (Role::Editor, Some(5)));
        assert_eq!(Some(key.created_at), parse_iso("2026-04-04T12:00:00Z"));
        assert_eq!((key.expires_at, key.revoked_at), (parse_iso("2027-04-04T12:00:00Z"), None));
        for (column, value) in [("id", "x"), ("key_hash", "abc"), ("role", "boss"), ("expires_at", "soon")] {
            let mut flawed = row.clone();
            flawed[column] = json!(value);
            assert!(api_key(&Scope::default(), &flawed.to_string()).is_err(), "{column}");
        }
    }

    #[test]
    fn carried_rows_know_their_tenant() {
        let tenant = |source: &str, data: Value| Carried::new(source, "i", &data.to_string()).map(|row| row.tenant);
        assert_eq!(tenant("usage_counters", json!({ "tenant_id": "acme" })), Ok("acme".into()));
        assert_eq!(tenant("tenants", json!({})), Ok("i".into()));
        assert_eq!(tenant("processed_webhook_events", json!({})), Ok(String::new()));
        assert!(
            tenant("usage_counters", json!({})).is_err() && tenant("projects", json!({ "tenant_id": "a b" })).is_err()
        );
    }
}
