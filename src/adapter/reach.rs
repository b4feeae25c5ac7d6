//! Whether the services that the configuration names can be reached and take their keys, for `engramia doctor`. What is
//! asked costs nothing.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use chrono::DateTime;
use reqwest::StatusCode;
use reqwest::header::{AUTHORIZATION, DATE, HeaderMap, HeaderName, HeaderValue};

use super::anthropic::API_VERSION;
use super::http;
use crate::config::{AuthMode, Config, EmbeddingChoice, LlmChoice};
use crate::domain::Timestamp;

/// Time a service has.
const TIMEOUT: Duration = Duration::from_secs(5);

/// A service, and what to ask it for.
pub struct Service {
    /// What it is for.
    pub name: &'static str,
    /// Its address without the path that is asked for.
    pub base: String,
    url: String,
    headers: HeaderMap,
}

/// What came of asking.
#[derive(Debug, Clone)]
pub struct Answer {
    /// State, with what a person should know.
    pub verdict: Verdict,
    /// The time by its clock.
    pub clock: Option<Timestamp>,
}

/// State of a service.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// It answers, and takes the key where there is one.
    Fine,
    /// It answers, but refuses the key.
    KeyRefused(u16),
    /// It answers with something else.
    Odd(u16),
    /// It does not answer; why not.
    Silent(String),
}

/// The services of a configuration.
///
/// # Errors
/// When a key cannot be sent in a header.
pub fn services(config: &Config) -> anyhow::Result<Vec<Service>> {
    let mut found: Vec<Service> = Vec::new();
    let bearer = |key| anyhow::Ok(HeaderMap::from_iter([(AUTHORIZATION, http::secret("Bearer ", key)?)]));
    if let EmbeddingChoice::OpenAi { key, base_url, .. } = &config.models.embedding {
        found.push(Service::new("embedding", base_url, "/models", bearer(key)?));
    }
    match &config.models.llm {
        LlmChoice::OpenAi { key, base_url, .. } => {
            found.push(Service::new("llm", base_url, "/models", bearer(key)?));
        }
        LlmChoice::Anthropic { key, base_url, .. } => {
            let headers = [
                (HeaderName::from_static("x-api-key"), http::secret("", key)?),
                (HeaderName::from_static("anthropic-version"), HeaderValue::from_static(API_VERSION)),
            ];
            found.push(Service::new("llm", base_url, "/v1/models", HeaderMap::from_iter(headers)));
        }
        LlmChoice::Off | LlmChoice::NotConfigured { .. } => {}
    }
    if let Some(account) = &config.billing.stripe {
        found.push(Service::new("stripe", &account.base_url, "/v1/customers?limit=1", bearer(&account.key)?));
    }
    if let AuthMode::Oidc(rules) = &config.auth.mode {
        found.push(Service::new("oidc", &rules.issuer, "/.well-known/openid-configuration", HeaderMap::new()));
    }
    Ok(found)
}

impl Service {
    fn new(name: &'static str, base: &str, path: &str, headers: HeaderMap) -> Self {
        let base = base.trim_end_matches('/').to_owned();
        Self { name, url: format!("{base}{path}"), base, headers }
    }

    /// Asks it.
    pub async fn ask(&self) -> Answer {
        let asking = async {
            let client = http::client(self.headers.clone(), TIMEOUT)?;
            anyhow::Ok(client.get(&self.url).send().await.map_err(http::transport)?)
        };
        match asking.await {
            Ok(response) => Answer { verdict: verdict(response.status()), clock: clock(response.headers()) },
            Err(error) => Answer { verdict: Verdict::Silent(format!("{error:#}")), clock: None },
        }
    }
}

fn verdict(status: StatusCode) -> Verdict {
    match status {
        status if status.is_success() => Verdict::Fine,
        StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => Verdict::KeyRefused(status.as_u16()),
        status => Verdict::Odd(status.as_u16()),
    }
}

fn clock(headers: &HeaderMap) -> Option<Timestamp> {
    let text = headers.get(DATE)?.to_str().ok()?;
    Some(DateTime::parse_from_rfc2822(text).ok()?.to_utc())
}

/// Whether a server of this program listens at an address of this machine.
pub async fn is_engramia(address: SocketAddr) -> bool {
    let Ok(client) = http::client(HeaderMap::new(), TIMEOUT) else { return false };
    // Whoever listens everywhere also listens here.
    let host = match address.ip() {
        IpAddr::V4(host) if host.is_unspecified() => Ipv4Addr::LOCALHOST.into(),
        IpAddr::V6(host) if host.is_unspecified() => Ipv6Addr::LOCALHOST.into(),
        host => host,
    };
    let here = SocketAddr::new(host, address.port());
    let answer = client.get(format!("http://{here}/livez")).send().await;
    answer.is_ok_and(|answer| answer.headers().contains_key("x-api-version"))
}
