//! People as objects: `app.owner().post("/v1/learn", body).await`.

use std::net::{IpAddr, SocketAddr};
use std::pin::Pin;

use axum::Router;
use axum::body::{Body, Bytes, to_bytes};
use axum::extract::ConnectInfo;
use axum::http::{HeaderMap, HeaderName, HeaderValue, Method, Request, StatusCode, header};
use serde_json::Value;
use tower::ServiceExt;

/// Somebody who calls the API.
#[derive(Clone)]
pub struct Person {
    router: Router,
    authorization: Option<String>,
}

/// A request that is being put together; awaiting it sends it.
pub struct Call {
    router: Router,
    request: Request<Body>,
}

/// What came back.
pub struct Answer {
    /// Status.
    pub status: StatusCode,
    /// Headers.
    pub headers: HeaderMap,
    /// Body.
    pub bytes: Bytes,
}

impl Person {
    /// Somebody who sends this Authorization header.
    pub fn new(router: Router, authorization: Option<String>) -> Self {
        Self { router, authorization }
    }

    /// A request without a body.
    pub fn call(&self, method: Method, path: &str) -> Call {
        let mut request = Request::new(Body::empty());
        *request.method_mut() = method;
        *request.uri_mut() = path.parse().expect("a path");
        let call = Call { router: self.router.clone(), request }.from("127.0.0.1");
        match &self.authorization {
            Some(value) => call.header("authorization", value),
            None => call,
        }
    }

    /// GET.
    pub fn get(&self, path: &str) -> Call {
        self.call(Method::GET, path)
    }

    /// DELETE.
    pub fn delete(&self, path: &str) -> Call {
        self.call(Method::DELETE, path)
    }

    /// POST of a JSON value.
    pub fn post(&self, path: &str, body: &Value) -> Call {
        self.send(path, body.to_string()).header("content-type", "application/json")
    }

    /// POST of any bytes, without a content type.
    pub fn send(&self, path: &str, body: impl Into<Body>) -> Call {
        self.call(Method::POST, path).body(body)
    }
}

impl Call {
    /// Sets a header to any bytes that a header can hold.
    pub fn header(mut self, name: &str, value: impl AsRef<[u8]>) -> Self {
        let name: HeaderName = name.parse().expect("a header name");
        let value = HeaderValue::from_bytes(value.as_ref()).expect("a header value");
        self.request.headers_mut().append(name, value);
        self
    }

    /// Address that the request comes from.
    pub fn from(mut self, address: &str) -> Self {
        let address: IpAddr = address.parse().expect("an address");
        self.request.extensions_mut().insert(ConnectInfo(SocketAddr::new(address, 40_000)));
        self
    }

    /// Sets the body.
    pub fn body(mut self, body: impl Into<Body>) -> Self {
        *self.request.body_mut() = body.into();
        self
    }

    /// Sends it and leaves the body of the answer unread.
    pub async fn stream(self) -> axum::response::Response {
        self.router.oneshot(self.request).await.expect("a router never fails")
    }
}

impl IntoFuture for Call {
    type Output = Answer;
    type IntoFuture = Pin<Box<dyn Future<Output = Answer> + Send>>;

    fn into_future(self) -> Self::IntoFuture {
        Box::pin(async move {
            let (parts, body) = self.stream().await.into_parts();
            let bytes = to_bytes(body, usize::MAX).await.expect("a whole body");
            Answer { status: parts.status, headers: parts.headers, bytes }
        })
    }
}

impl Answer {
    /// The body as JSON.
    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.bytes).unwrap_or_else(|error| panic!("{error} in {:?}", self.text()))
    }

    /// The body as text.
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.bytes).into_owned()
    }

    /// A header as text.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).map(|value| value.to_str().expect("a text"))
    }

    /// The body of a success.
    pub fn ok(&self) -> Value {
        assert_eq!(self.status, StatusCode::OK, "{}", self.text());
        self.json()
    }

    /// Asserts an error in the documented shape, and gives its body.
    pub fn problem(&self, status: u16, code: &str) -> Value {
        assert_eq!(self.status.as_u16(), status, "{}", self.text());
        let body = self.json();
        assert_eq!(body["error_code"], code, "{body}");
        self.assert_documented_error();
        body
    }

    /// Asserts the shape that every error has.
    pub fn assert_documented_error(&self) {
        assert_eq!(self.header(header::CONTENT_TYPE.as_str()), Some("application/json"), "{}", self.text());
        let body = self.json();
        assert!(body["error_code"].is_string(), "{body}");
        assert!(body["detail"].is_string() || body["detail"].as_array().is_some_and(|list| !list.is_empty()), "{body}");
        assert_eq!(body["request_id"].as_str(), self.header("x-request-id"), "{body}");
        for item in body["detail"].as_array().into_iter().flatten() {
            let sound = item["type"].is_string() && item["loc"].is_array() && item["msg"].is_string();
            assert!(sound, "{item}");
        }
    }
}
