//! A small HTTP client of the control socket, for the command line: one connection per request.
use crate::error::{Error, ErrorBody, Kind, Result};
use crate::sockets::Address;
use http_body_util::{BodyExt, Full};
use hyper::body::Bytes;
use hyper::{Method, Request};
use hyper_util::rt::TokioIo;
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;
use std::path::PathBuf;
use std::time::{Duration, Instant};
use tokio::net::UnixStream;

/// A client of one agent.
pub struct Client {
    socket: PathBuf,
    timeout: Option<Duration>,
    runtime: tokio::runtime::Runtime,
}

impl Client {
    /// A client of the agent at this socket; each request may take `timeout` (`None`: as long as it takes).
    ///
    /// # Errors
    /// The system's.
    pub fn new(socket: PathBuf, timeout: Option<Duration>) -> Result<Self> {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .map_err(|source| Error::general(Kind::Failed, format!("cannot start: {source}")))?;
        Ok(Self { socket, timeout, runtime })
    }

    /// `GET`, as JSON.
    ///
    /// # Errors
    /// The agent's, `Unreachable`, `Timeout`.
    pub fn get(&self, path: &str) -> Result<Value> {
        self.request(Method::GET, path, None)
    }

    /// `GET` of somebody who waits until `end` (`None`: as long as it takes) and looks now and then.
    ///
    /// # Errors
    /// As `get`; `Timeout` if there is no answer by then.
    pub fn get_by(&self, path: &str, end: Option<Instant>) -> Result<Value> {
        let left = end.map(|end| end.saturating_duration_since(Instant::now()));
        self.request_within(left, Method::GET, path, None)
    }

    /// `GET`, as a type.
    ///
    /// # Errors
    /// As `get`.
    pub fn get_as<T: DeserializeOwned>(&self, path: &str) -> Result<T> {
        from_value(self.get(path)?)
    }

    /// `POST` with a body; an answer without a body is `null`.
    ///
    /// # Errors
    /// As `get`.
    pub fn post(&self, path: &str, body: &impl Serialize) -> Result<Value> {
        self.request(Method::POST, path, Some(encode(body)))
    }

    /// `PATCH` with a body.
    ///
    /// # Errors
    /// As `get`.
    pub fn patch(&self, path: &str, body: &impl Serialize) -> Result<Value> {
        self.request(Method::PATCH, path, Some(encode(body)))
    }

    /// `DELETE`.
    ///
    /// # Errors
    /// As `get`.
    pub fn delete(&self, path: &str) -> Result<Value> {
        self.request(Method::DELETE, path, None)
    }

    fn request(&self, method: Method, path: &str, body: Option<Vec<u8>>) -> Result<Value> {
        self.request_within(self.timeout, method, path, body)
    }

    fn request_within(
        &self,
        timeout: Option<Duration>,
        method: Method,
        path: &str,
        body: Option<Vec<u8>>,
    ) -> Result<Value> {
        let asked = self.ask(method, path, body);
        self.runtime.block_on(async {
            match timeout {
                None => asked.await,
                Some(timeout) => tokio::time::timeout(timeout, asked).await.unwrap_or_else(|_| {
                    let message = format!("the agent did not answer within {} ms", timeout.as_millis());
                    Err(Error::general(Kind::Timeout, message)
                        .hint("it goes on; repeat the command to see the outcome"))
                }),
            }
        })
    }

    async fn ask(&self, method: Method, path: &str, body: Option<Vec<u8>>) -> Result<Value> {
        let address = Address::of(&self.socket).map_err(|source| self.unreachable(&source))?;
        let stream = UnixStream::connect(address.path()).await.map_err(|source| self.unreachable(&source))?;
        let broken = |source: hyper::Error| {
            Error::new(
                Kind::Unreachable,
                self.name(),
                format!("the agent at {} hung up: {source}", self.name()),
            )
            .hint("repeat the command; see the agent's log")
        };
        let (mut sender, connection) =
            hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.map_err(broken)?;
        tokio::spawn(connection);
        let request = Request::builder()
            .method(method)
            .uri(path)
            .header("host", "plinth")
            .header("content-type", "application/json")
            .body(Full::new(Bytes::from(body.unwrap_or_default())))
            .map_err(|error| Error::general(Kind::Invalid, format!("not a request: {error}")))?;
        let response = sender.send_request(request).await.map_err(broken)?;
        let status = response.status();
        let bytes = response.into_body().collect().await.map_err(broken)?.to_bytes();
        if !status.is_success() {
            return Err(match serde_json::from_slice::<ErrorBody>(&bytes) {
                Ok(body) => body.error.into(),
                Err(_) => Error::general(Kind::Failed, format!("the agent answered {status}")),
            });
        }
        if bytes.is_empty() {
            return Ok(Value::Null);
        }
        serde_json::from_slice(&bytes).map_err(|error| {
            Error::general(Kind::Failed, format!("the agent's answer is not understood: {error}"))
        })
    }

    fn name(&self) -> String {
        self.socket.display().to_string()
    }

    fn unreachable(&self, source: &std::io::Error) -> Error {
        let name = self.name();
        if source.kind() == std::io::ErrorKind::PermissionDenied {
            return Error::new(
                Kind::Permission,
                name.clone(),
                format!("no permission to talk to the agent at {name}"),
            )
            .hint("run as the user that runs the agent");
        }
        Error::new(Kind::Unreachable, name.clone(), format!("no agent answers at {name}: {source}"))
            .hint("start it with plinth node, or give its socket with --socket")
    }
}

fn encode(body: &impl Serialize) -> Vec<u8> {
    serde_json::to_vec(body).expect("parameters encode as JSON")
}

/// Reads a type from JSON.
///
/// # Errors
/// `Failed` when the agent is of another version than the client.
pub fn from_value<T: DeserializeOwned>(value: Value) -> Result<T> {
    serde_json::from_value(value).map_err(|error| {
        Error::general(Kind::Failed, format!("the agent's answer is not understood: {error}"))
    })
}

/// Encodes a name as one part of a path.
pub fn part(name: &str) -> String {
    let mut out = String::with_capacity(name.len());
    for byte in name.bytes() {
        if byte.is_ascii_alphanumeric() || b"._-".contains(&byte) {
            out.push(byte as char);
        } else {
            out.push_str(&format!("%{byte:02X}"));
        }
    }
    // A name that is no name must not become another path.
    if out.is_empty() || out == "." || out == ".." { "%20".to_owned() } else { out }
}
