//! The client of the verbs: one request at a time, to a server or, where none runs, to the application itself.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::num::NonZeroU32;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::Context;
use axum::body::Body;
use axum::http::{HeaderName, HeaderValue, Method, Request, Response, header};
use http_body_util::BodyExt;
use reqwest::redirect::Policy;
use secrecy::{ExposeSecret, SecretString};
use serde_json::Value;
use tower::ServiceExt;
use url::{Host, Url};

use super::Global;
use super::failure::Failure;
use super::refusal::Refusal;
use crate::app::{App, OWNER_KEY_FILE, Overrides};
use crate::config::{AuthMode, Config, Findings, Limits, Loaded, Server, Storage};
use crate::telemetry::logs;

/// Time to reach a server at all.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// Time of a whole request; longest silence of one that streams.
const TIMEOUT: Duration = Duration::from_secs(120);
/// Time of a request whose answer may be as large as the memory.
const STREAM_TIMEOUT: Duration = Duration::from_secs(6 * 3600);
/// Every answer of the server has it, also to those without a key.
const SIGN: HeaderName = HeaderName::from_static("x-api-version");
/// What is logged when the application runs inside a command: the command itself reports failed requests.
pub const LOG_FILTER: &str = "warn,engramia::audit=off,engramia::http::context=error";

/// A server, however it is reached.
pub struct Client {
    transport: Transport,
    key: Option<HeaderValue>,
}

enum Transport {
    Http { client: reqwest::Client, base: Url },
    InProcess { app: Box<App>, root: PathBuf },
}

impl Client {
    /// A client of the server that the options name; without one, of the server on this machine or of the data
    /// directory.
    ///
    /// # Errors
    /// When no client can be set up, or when the application has to run here and cannot.
    pub async fn open(global: &Global) -> anyhow::Result<Self> {
        let given = global.key.as_ref().filter(|key| !key.expose_secret().trim().is_empty());
        let loaded = Config::from_env();
        let named = global.url.as_deref().filter(|url| !url.trim().is_empty());
        let base = match named {
            Some(url) => Some(base(url)?),
            None => local_base(loaded.as_ref().ok().map(|loaded| &loaded.config.server)),
        };
        if let Some(base) = base {
            let client = client(&base)?;
            if named.is_some() || answers(&client, &base).await? {
                // The owner key opens the memory on this machine: no other machine gets to see it.
                let owner = loaded.ok().filter(|_| named.is_none() || is_loopback(&base));
                let key = given.cloned().or_else(|| owner_key(&owner?.config));
                return Ok(Self { transport: Transport::Http { client, base }, key: key.map(bearer).transpose()? });
            }
        }
        logs::start(false, LOG_FILTER)?;
        Self::in_process(loaded, given).await
    }

    /// Runs the application here.
    async fn in_process(loaded: Result<Loaded, Findings>, given: Option<&SecretString>) -> anyhow::Result<Self> {
        let Loaded { mut config, .. } = loaded.context("no server runs, and one cannot start")?;
        let Storage::Embedded { root } = config.storage.clone() else {
            anyhow::bail!("no server runs: start one with `engramia serve`, or name one with --url");
        };
        // Limits keep callers from starving each other; here is only one.
        let most = NonZeroU32::MAX;
        // And jobs are a server's work: a command may be over in a moment.
        config.jobs.worker = false;
        config.limits = Limits { per_ip: most, expensive: most, per_key: most, ..config.limits };
        let app = App::start(config.clone(), Overrides::default())
            .await
            .context("no server answers, and the data directory cannot be used directly")?;
        if app.first_key.is_some() {
            eprintln!("engramia: started a new memory in {} (its owner key: {OWNER_KEY_FILE})", root.display());
        }
        let key = given.or(app.first_key.as_ref()).cloned().or_else(|| match &config.auth.mode {
            AuthMode::EnvKeys { keys, .. } => keys.first().cloned(),
            _ => owner_key(&config),
        });
        let key = key.map(bearer).transpose()?;
        Ok(Self { transport: Transport::InProcess { app: Box::new(app), root }, key })
    }

    /// Where requests go, for people.
    pub fn place(&self) -> String {
        match &self.transport {
            Transport::Http { base, .. } => base.as_str().trim_end_matches('/').to_owned(),
            Transport::InProcess { root, .. } => format!("none running; directly on {}", root.display()),
        }
    }

    /// Sends a GET; the JSON of the answer.
    ///
    /// # Errors
    /// [`Failure::Unreachable`], [`Failure::Refused`], or an answer that is not JSON.
    pub async fn get(&self, path: &str) -> anyhow::Result<Value> {
        let response = self.send(Method::GET, path, String::new(), TIMEOUT).await?;
        self.json(response).await
    }

    /// Sends a POST; the JSON of the answer.
    ///
    /// # Errors
    /// As [`Self::get`].
    pub async fn post(&self, path: &str, body: &Value) -> anyhow::Result<Value> {
        self.post_text(path, body.to_string()).await
    }

    /// Sends a POST whose body is JSON already.
    ///
    /// # Errors
    /// As [`Self::get`].
    pub async fn post_text(&self, path: &str, body: String) -> anyhow::Result<Value> {
        let response = self.send(Method::POST, path, body, TIMEOUT).await?;
        self.json(response).await
    }

    /// Sends a PUT; the JSON of the answer.
    ///
    /// # Errors
    /// As [`Self::get`].
    pub async fn put(&self, path: &str, body: &Value) -> anyhow::Result<Value> {
        let response = self.send(Method::PUT, path, body.to_string(), TIMEOUT).await?;
        self.json(response).await
    }

    /// Sends a DELETE; the JSON of the answer.
    ///
    /// # Errors
    /// As [`Self::get`].
    pub async fn delete(&self, path: &str) -> anyhow::Result<Value> {
        let response = self.send(Method::DELETE, path, String::new(), TIMEOUT).await?;
        self.json(response).await
    }

    /// Sends a GET; the body of the answer, to be read piece by piece.
    ///
    /// # Errors
    /// [`Failure::Unreachable`] or [`Failure::Refused`].
    pub async fn stream(&self, path: &str) -> anyhow::Result<Body> {
        Ok(self.send(Method::GET, path, String::new(), STREAM_TIMEOUT).await?.into_body())
    }

    /// Ends the application, if it runs here.
    pub async fn close(self) {
        if let Transport::InProcess { app, .. } = self.transport {
            app.shutdown().await;
        }
    }

    async fn send(
        &self,
        method: Method,
        path: &str,
        body: String,
        timeout: Duration,
    ) -> anyhow::Result<Response<Body>> {
        let mut request = Request::builder().method(method).header(header::CONTENT_TYPE, "application/json");
        if let Some(key) = &self.key {
            request = request.header(header::AUTHORIZATION, key);
        }
        let response = match &self.transport {
            Transport::Http { client, base } => {
                let url = format!("{}{path}", base.as_str().trim_end_matches('/'));
                let mut request = reqwest::Request::try_from(request.uri(url).body(body)?)?;
                *request.timeout_mut() = Some(timeout);
                let response = client.execute(request).await.map_err(|error| self.unreachable(&error))?;
                Response::<reqwest::Body>::from(response).map(Body::new)
            }
            Transport::InProcess { app, .. } => {
                let request = request.uri(path).body(Body::from(body))?;
                app.router.clone().oneshot(request).await.unwrap_or_else(|never| match never {})
            }
        };
        if response.status().is_success() {
            return Ok(response);
        }
        let (parts, body) = response.into_parts();
        let body = body.collect().await.map_err(|error| self.unreachable(&error))?.to_bytes();
        Err(Failure::from(Refusal::new(parts.status, &parts.headers, &body)).into())
    }

    async fn json(&self, response: Response<Body>) -> anyhow::Result<Value> {
        let bytes = response.into_body().collect().await.map_err(|error| self.unreachable(&error))?.to_bytes();
        serde_json::from_slice(&bytes).with_context(|| format!("{} did not answer with JSON", self.place()))
    }

    fn unreachable(&self, error: &dyn std::error::Error) -> Failure {
        unreachable(self.place(), error)
    }
}

/// Leaves out the members that are null: the server takes absent ones for their defaults.
pub fn without_nulls(mut object: Value) -> Value {
    if let Value::Object(members) = &mut object {
        members.retain(|_, value| !value.is_null());
    }
    object
}

/// A client that follows no redirect: a key must not travel to another host.
fn client(base: &Url) -> anyhow::Result<reqwest::Client> {
    let builder = reqwest::Client::builder()
        .user_agent(concat!("engramia-cli/", env!("CARGO_PKG_VERSION")))
        .connect_timeout(CONNECT_TIMEOUT)
        .read_timeout(TIMEOUT)
        .redirect(Policy::none());
    // Nor through a proxy, which cannot reach this machine anyway.
    let builder = if is_loopback(base) { builder.no_proxy() } else { builder };
    builder.build().context("cannot set up HTTP")
}

/// The address of a server from an option.
fn base(text: &str) -> anyhow::Result<Url> {
    let url = Url::parse(text.trim()).ok().filter(|url| matches!(url.scheme(), "http" | "https") && url.has_host());
    Ok(url.ok_or(Failure::Usage("--url: not the address of a server, such as http://127.0.0.1:8000"))?)
}

/// Where a server with this configuration listens; `None` where that cannot be known.
pub fn local_base(server: Option<&Server>) -> Option<Url> {
    const LOCALHOST: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);
    let (host, port) = server.map_or((LOCALHOST, 8000), |server| (server.host, server.port));
    let host = if host.is_unspecified() { LOCALHOST } else { host };
    (port != 0).then(|| Url::parse(&format!("http://{}", SocketAddr::new(host, port))).ok())?
}

fn is_loopback(url: &Url) -> bool {
    match url.host() {
        Some(Host::Domain(name)) => name == "localhost",
        Some(Host::Ipv4(address)) => address.is_loopback(),
        Some(Host::Ipv6(address)) => address.is_loopback(),
        None => false,
    }
}

/// Whether a server of ours listens there; asked without a key, which is not for strangers.
async fn answers(client: &reqwest::Client, base: &Url) -> anyhow::Result<bool> {
    match client.get(format!("{base}livez")).send().await {
        Ok(response) if response.headers().contains_key(SIGN) => Ok(true),
        Ok(_) => anyhow::bail!(
            "something else than engramia listens at {base}: set ENGRAMIA_PORT, or name a server with --url"
        ),
        Err(error) if error.is_connect() => Ok(false),
        Err(error) => Err(unreachable(base.to_string(), &error).into()),
    }
}

/// What to say where nobody answers.
pub fn unreachable(url: String, mut error: &dyn std::error::Error) -> Failure {
    while let Some(cause) = error.source() {
        error = cause;
    }
    Failure::Unreachable { url, reason: error.to_string() }
}

/// The key that the first start left in the data directory.
fn owner_key(config: &Config) -> Option<SecretString> {
    let Storage::Embedded { root } = &config.storage else { return None };
    let text = std::fs::read_to_string(root.join(OWNER_KEY_FILE)).ok()?;
    let key = text.trim();
    (!key.is_empty()).then(|| key.into())
}

fn bearer(key: SecretString) -> anyhow::Result<HeaderValue> {
    let value = HeaderValue::from_str(&format!("Bearer {}", key.expose_secret().trim()));
    let mut value = value.ok().context("the API key holds characters that cannot be sent")?;
    value.set_sensitive(true);
    Ok(value)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;
    use wiremock::matchers::{header as has_header, method, path};
    use wiremock::{Mock, MockServer, ResponseTemplate};

    fn http(url: &str, key: Option<&str>) -> Client {
        let base = base(url).expect("an address");
        let client = client(&base).expect("a client");
        let key = key.map(|key| bearer(key.into()).expect("a key"));
        Client { transport: Transport::Http { client, base }, key }
    }

    fn failure(error: &anyhow::Error) -> &Failure {
        error.downcast_ref().expect("a failure of its own")
    }

    #[test]
    fn addresses() {
        let local = |vars: &[(&str, &str)]| {
            let vars = vars.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
            let server = Config::load(vars).expect("valid").config.server;
            local_base(Some(&server)).map(|url| url.to_string())
        };
        assert_eq!(local(&[]).as_deref(), Some("http://127.0.0.1:8000/"));
        assert_eq!(local(&[("ENGRAMIA_PORT", "81"), ("ENGRAMIA_HOST", "::1")]).as_deref(), Some("http://[::1]:81/"));
        assert_eq!(local(&[("ENGRAMIA_PORT", "0")]), None);
        assert_eq!(local_base(None).map(|url| url.to_string()).as_deref(), Some("http://127.0.0.1:8000/"));
        for bad in ["localhost:8000", "ftp://h", "", "http://"] {
            assert!(matches!(failure(&base(bad).unwrap_err()), Failure::Usage(_)), "{bad}");
        }
        for (url, expected) in
            [("http://localhost:1", true), ("http://[::1]", true), ("https://localhost.example", false)]
        {
            assert_eq!(is_loopback(&base(url).expect("an address")), expected, "{url}");
        }
    }

    #[test]
    fn a_key_is_sent_but_never_shown() {
        let value = bearer(" engramia_sk_x\n".into()).expect("white space around a key is no part of it");
        assert_eq!(value.to_str().expect("ASCII"), "Bearer engramia_sk_x");
        assert!(!format!("{value:?}").contains("engramia"));
        assert!(!format!("{:#}", bearer("hid\nden".into()).unwrap_err()).contains("hid"));
    }

    #[tokio::test]
    async fn requests_carry_the_key_below_the_path_of_the_address() {
        let server = MockServer::start().await;
        Mock::given(method("POST"))
            .and(path("/base/v1/recall"))
            .and(has_header("authorization", "Bearer k"))
            .and(has_header("content-type", "application/json"))
            .respond_with(ResponseTemplate::new(200).set_body_json(json!({"matches": []})))
            .mount(&server)
            .await;
        let client = http(&format!("{}/base/", server.uri()), Some("k"));
        let answer = client.post("/v1/recall", &json!({"task": "t"})).await.expect("an answer");
        assert_eq!(answer, json!({"matches": []}));
    }

    #[tokio::test]
    async fn failures_are_told_apart() {
        let server = MockServer::start().await;
        let answer =
            |status: u16| ResponseTemplate::new(status).set_body_json(json!({"error_code": "X", "detail": "d"}));
        for (at, response) in [
            ("/refused", answer(401)),
            ("/wrong", answer(422)),
            ("/moved", ResponseTemplate::new(307).insert_header("location", "https://elsewhere.invalid/")),
            ("/text", ResponseTemplate::new(200).set_body_string("hello")),
        ] {
            Mock::given(path(at)).respond_with(response).mount(&server).await;
        }
        let client = http(&server.uri(), None);
        let refused = client.get("/refused").await.unwrap_err();
        assert!(matches!(failure(&refused), Failure::Refused(refusal) if refusal.is_about_credentials()));
        let wrong = client.get("/wrong").await.unwrap_err();
        assert!(matches!(failure(&wrong), Failure::Refused(refusal) if !refusal.is_about_credentials()));
        assert!(client.get("/moved").await.unwrap_err().to_string().starts_with("HTTP 307"));
        assert!(client.get("/text").await.unwrap_err().to_string().ends_with("did not answer with JSON"));
    }

    #[tokio::test]
    async fn nobody_there_is_not_the_same_as_somebody_else() {
        let free = std::net::TcpListener::bind("127.0.0.1:0").expect("a port").local_addr().expect("an address");
        let url = format!("http://{free}");
        let unreachable = http(&url, None).get("/v1/health").await.unwrap_err();
        assert!(matches!(failure(&unreachable), Failure::Unreachable { .. }));
        let base_url = base(&url).expect("an address");
        assert!(!answers(&client(&base_url).expect("a client"), &base_url).await.expect("known"));

        let server = MockServer::start().await;
        let base_url = base(&server.uri()).expect("an address");
        let asked = answers(&client(&base_url).expect("a client"), &base_url).await;
        assert!(asked.unwrap_err().to_string().starts_with("something else"));
        let ours = ResponseTemplate::new(503).insert_header("x-api-version", "v1");
        Mock::given(path("/livez")).respond_with(ours).mount(&server).await;
        assert!(answers(&client(&base_url).expect("a client"), &base_url).await.expect("known"));
    }

    #[tokio::test]
    async fn without_a_server_the_application_answers_itself() {
        let directory = tempfile::tempdir().expect("a directory");
        let root = directory.path().join("data").display().to_string();
        let load = || Config::load([("ENGRAMIA_DATA_PATH".to_owned(), root.clone())]);
        for expected in [0, 1] {
            let client = Client::in_process(load(), None).await.expect("a client");
            let health = client.get("/v1/health").await.expect("an answer");
            assert_eq!(health["pattern_count"], expected);
            let run = json!({"task": "t", "code": "c", "eval_score": 8});
            client.post("/v1/learn", &run).await.expect("stored");
            client.close().await;
        }
        let stranger = Client::in_process(load(), Some(&"nobody".into())).await.expect("a client");
        let refused = stranger.get("/v1/health").await.unwrap_err();
        assert!(matches!(failure(&refused), Failure::Refused(refusal) if refusal.is_about_credentials()));
        stranger.close().await;
        let invalid = Config::load([("ENGRAMIA_PORT".to_owned(), "x".to_owned())]);
        assert!(Client::in_process(invalid, None).await.is_err());
    }
}
