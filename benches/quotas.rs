//! What plans cost: recall and learn with every gate on and off, asked in turn.
//!
//! `cargo bench --bench quotas -- [--count 3000]` starts two servers in this process that take tokens of an issuer, because
//! only those meet a gate on recall; prints the medians in milliseconds, and how much more the gates take.

#[path = "common/count.rs"]
mod count;
#[path = "common/server.rs"]
mod server;
#[path = "common/wire.rs"]
mod wire;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::Context;
use axum::routing::get;
use axum::{Json, Router};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use engramia::compute::ComputePool;
use engramia::domain::{Plan, Scope, Subscription};
use engramia::store::Store;
use engramia::store::sqlite::SqliteStore;
use jsonwebtoken::jwk::Jwk;
use jsonwebtoken::{Algorithm, EncodingKey, Header};
use serde_json::{Value, json};

use server::Server;
use wire::Connection;

const TENANT: &str = "acme";
const KEY_ID: &str = "one";
const AUDIENCE: &str = "engramia";

fn main() -> anyhow::Result<()> {
    let count = count::count_or(3_000)?;
    tokio::runtime::Builder::new_multi_thread().enable_all().build()?.block_on(run(count))
}

async fn run(count: usize) -> anyhow::Result<()> {
    let key = EncodingKey::from_ec_der(
        &STANDARD.decode(include_str!("../tests/fixtures/oidc/p256.pkcs8.b64").replace(char::is_whitespace, ""))?,
    );
    let issuer = issuer(&key).await?;
    let now = chrono::Utc::now().timestamp();
    let claims = json!({
        "iss": issuer, "aud": AUDIENCE, "sub": "bench", "org": TENANT, "engramia_role": "owner",
        "iat": now, "exp": now + 86_400,
    });
    let header = Header { kid: Some(KEY_ID.to_owned()), ..Header::new(Algorithm::ES256) };
    let token: &'static str = jsonwebtoken::encode(&header, &claims, &key)?.leak();
    let (mut servers, mut connections) = (Vec::new(), Vec::new());
    for gates in [false, true] {
        let server = start(&issuer, gates).await?;
        connections.push(Connection::open(server.address, token).await?);
        servers.push(server);
    }
    println!("| request | gates off, p50 ms | gates on, p50 ms | more, ms |\n|---|---|---|---|");
    for (name, path, body) in [
        ("recall, embedding cached", "/v1/recall", recall as fn(usize) -> Value),
        ("learn", "/v1/learn", learn as fn(usize) -> Value),
    ] {
        let mut times = [Vec::with_capacity(count), Vec::with_capacity(count)];
        let (off, on) = {
            for turn in 0..count {
                for step in 0..2 {
                    let at = (turn + step) % 2;
                    let body = body(turn);
                    let sent = Instant::now();
                    connections[at].post_to(0, path, &body).await?;
                    times[at].push(sent.elapsed());
                }
            }
            let [off, on] = &mut times;
            (median(off), median(on))
        };
        println!("| {name} | {off:.3} | {on:.3} | {:+.3} |", on - off);
    }
    for server in servers {
        server.stop().await;
    }
    Ok(())
}

/// Few questions, so that their vectors are at hand.
fn recall(turn: usize) -> Value {
    json!({ "task": format!("parse file number {}", turn % 16), "readonly": true })
}

fn learn(turn: usize) -> Value {
    json!({ "task": format!("write file number {turn}"), "code": format!("write({turn})"), "eval_score": 7.0 })
}

/// A server of a tenant on the largest plan.
async fn start(issuer: &str, gates: bool) -> anyhow::Result<Server> {
    let root = tempfile::tempdir()?.keep();
    let store = SqliteStore::open(&root, None, Arc::new(ComputePool::start(1, 16)?)).await?;
    let mut work = store.begin(&Scope::of_tenant(TENANT)).await?;
    work.billing().put_subscription(&Subscription { plan: Plan::Enterprise, ..Subscription::none() }).await?;
    work.commit().await?;
    store.close().await;
    let gates = if gates { "true" } else { "false" };
    let settings = [
        ("ENGRAMIA_DATA_PATH", root.to_str().context("a path of text")?),
        ("ENGRAMIA_API_KEYS", ""),
        ("ENGRAMIA_AUTH_MODE", "oidc"),
        ("ENGRAMIA_OIDC_ISSUER", issuer),
        ("ENGRAMIA_OIDC_AUDIENCE", AUDIENCE),
        ("ENGRAMIA_OIDC_TENANT_CLAIM", "org"),
        ("ENGRAMIA_ENFORCE_QUOTAS", gates),
        ("ENGRAMIA_ENFORCE_ENTITLEMENTS", gates),
    ];
    Server::start(settings.map(|(name, value)| (name.to_owned(), value.to_owned())).to_vec()).await
}

/// Publishes the key; the address.
async fn issuer(key: &EncodingKey) -> anyhow::Result<String> {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await?;
    let address: SocketAddr = listener.local_addr()?;
    let issuer = format!("http://{address}");
    let mut public = serde_json::to_value(Jwk::from_encoding_key(key, Algorithm::ES256)?)?;
    public["kid"] = json!(KEY_ID);
    let keys = json!({ "keys": [public] });
    let document = json!({ "issuer": issuer, "jwks_uri": format!("{issuer}/keys") });
    let routes = Router::new()
        .route("/keys", get(|| async { Json(keys) }))
        .route("/.well-known/openid-configuration", get(|| async { Json(document) }));
    tokio::spawn(async move { axum::serve(listener, routes).await });
    Ok(issuer)
}

fn median(times: &mut [Duration]) -> f64 {
    times.sort_unstable();
    times[times.len() / 2].as_secs_f64() * 1e3
}
