//! `engramia keys`: makes, lists, revokes and rotates API keys; `bootstrap` makes the first one without a server.

use clap::builder::PossibleValuesParser;
use clap::{Args, Subcommand};
use secrecy::ExposeSecret;
use serde_json::{Value, json};
use uuid::Uuid;

use super::client::{Client, without_nulls};
use super::direct;
use super::output::{self, one_line};
use super::{Global, with_client};
use crate::domain::Role;

/// What to do with keys.
#[derive(Subcommand)]
#[command(after_help = "\
A new key is printed alone on standard output; it is shown only once.

Examples:
  engramia keys create 'CI key' --role editor --expires-at 2027-01-01
  engramia keys list
  engramia keys bootstrap")]
pub enum KeysVerb {
    /// Make a key
    Create(CreateArgs),
    /// List the keys of the project
    List,
    /// End a key for good
    Revoke(KeyArgs),
    /// Give a key a new secret; the old one is dead at once
    Rotate(KeyArgs),
    /// Make the first owner key in the configured store itself; a running server must be stopped if it holds the
    /// embedded store
    Bootstrap,
}

/// A key to be made.
#[derive(Args)]
pub struct CreateArgs {
    /// Name, for people
    name: String,
    /// What it may do
    #[arg(long, value_parser = PossibleValuesParser::new(Role::WORDS), default_value = Role::Editor.as_str())]
    role: String,
    /// Most patterns the project may hold when this key stores one more
    #[arg(long, value_name = "COUNT")]
    max_patterns: Option<u32>,
    /// From when it opens nothing, such as 2027-01-01T00:00:00Z
    #[arg(long, value_name = "TIME")]
    expires_at: Option<String>,
    /// Project it opens, if not that of the key used here
    #[arg(long, value_name = "PROJECT")]
    project: Option<String>,
}

/// Which key.
#[derive(Args)]
pub struct KeyArgs {
    /// Its id, as `engramia keys list` shows it
    id: Uuid,
}

/// Runs the verb.
pub fn run(verb: KeysVerb, global: &Global) -> anyhow::Result<()> {
    let json = global.json;
    match verb {
        KeysVerb::Create(args) => with_client(global, async |client| create(client, args, json).await),
        KeysVerb::List => with_client(global, async |client| list(client, json).await),
        KeysVerb::Revoke(KeyArgs { id }) => with_client(global, async |client| {
            let answer = client.delete(&format!("/v1/keys/{id}")).await?;
            show(&answer, json, &format!("revoked {id}"))
        }),
        KeysVerb::Rotate(KeyArgs { id }) => with_client(global, async |client| {
            let answer = client.post(&format!("/v1/keys/{id}/rotate"), &json!({})).await?;
            show_secret(&answer, json)
        }),
        KeysVerb::Bootstrap => direct::run(async |store| {
            let made = store.bootstrap().await?;
            let issued = made.ok_or_else(|| anyhow::anyhow!("there is a key already: use it to make more"))?;
            let (key, secret) = (issued.key, issued.secret.expose_secret());
            show_secret(&json!({ "id": key.id, "role": key.role.as_str(), "key": secret }), json)
        }),
    }
}

async fn create(client: &Client, args: CreateArgs, json: bool) -> anyhow::Result<()> {
    let body = without_nulls(json!({
        "name": args.name,
        "role": args.role,
        "max_patterns": args.max_patterns,
        "expires_at": args.expires_at,
        "project_id": args.project,
    }));
    show_secret(&client.post("/v1/keys", &body).await?, json)
}

async fn list(client: &Client, json: bool) -> anyhow::Result<()> {
    let answer = client.get("/v1/keys").await?;
    if json {
        output::json(&answer)?;
        return Ok(());
    }
    for key in answer["keys"].as_array().into_iter().flatten() {
        output::fitting(&row(key))?;
    }
    Ok(())
}

fn row(key: &Value) -> String {
    let text = |name: &str| one_line(key[name].as_str().unwrap_or("-"));
    let state = match (&key["revoked_at"], &key["expires_at"]) {
        (Value::String(at), _) => format!("revoked {}", one_line(at)),
        (_, Value::String(at)) => format!("expires {}", one_line(at)),
        _ => "-".to_owned(),
    };
    let used = text("last_used_at");
    format!("{}  {:<6}  {}  used {used}  {state}  {}", text("id"), text("role"), text("key_prefix"), text("name"))
}

/// The key alone goes to standard output, so that a script can take it.
fn show_secret(answer: &Value, json: bool) -> anyhow::Result<()> {
    if !json {
        let id = one_line(answer["id"].as_str().unwrap_or_default());
        eprintln!("engramia: this is the key {id}; it is shown only now");
    }
    show(answer, json, &one_line(answer["key"].as_str().unwrap_or_default()))
}

fn show(answer: &Value, json: bool, text: &str) -> anyhow::Result<()> {
    if json {
        output::json(answer)?
    } else {
        output::line(text)?
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_is_one_row() {
        let mut key = json!({"id": "i", "role": "admin", "key_prefix": "p...", "name": "a\nb", "last_used_at": null});
        assert_eq!(row(&key), "i  admin   p...  used -  -  a b");
        key["expires_at"] = json!("2027");
        assert_eq!(row(&key), "i  admin   p...  used -  expires 2027  a b");
        key["revoked_at"] = json!("2026");
        assert_eq!(row(&key), "i  admin   p...  used -  revoked 2026  a b");
    }
}
