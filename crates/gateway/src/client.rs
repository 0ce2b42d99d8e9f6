//! The client of the admin API: one method per endpoint over the daemon's Unix socket.
//!
//! Each call opens its own connection: calls are rare, and a daemon that restarts is found again.

use std::collections::VecDeque;
use std::marker::PhantomData;
use std::path::{Path, PathBuf};

use bytes::{Buf, BytesMut};
use http::{Method, Request, StatusCode};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper_util::rt::TokioIo;
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::net::UnixStream;
use tokio::runtime::Handle;

use crate::api::{
    ApiError, CheckEvent, Health, HintAnswer, HintRequest, LoadFailure, LoadQuery, LoadRequest,
    LoadStatus, LsEntry, NodeSummary, PathQuery, SettingInfo, Status, Usage,
};

/// The longest line of a long answer. An entry is a path and a key, both under 4 KiB.
const LINE_BYTES_MAX: usize = 1 << 20;

/// Why a call failed.
#[derive(Debug, thiserror::Error)]
#[expect(missing_docs, reason = "the doc of each variant covers its fields")]
pub enum ClientError {
    /// Nobody listens. Start a daemon, or name another mount point.
    #[error("no feedline daemon serves {target}")]
    NoDaemon { target: String },

    /// The socket is there but may not be opened. Become the user who mounted, or root.
    #[error("the feedline daemon of {target} belongs to another user: try as root")]
    Forbidden { target: String },

    /// The daemon answered with an error; its message says what to do.
    #[error(transparent)]
    Api(#[from] ApiError),

    /// The connection broke or the answer made no sense. The daemon's log says more.
    #[error("the feedline daemon of {target} did not finish its answer: {cause}")]
    Broken { target: String, cause: String },
}

/// Talks to one daemon. Cheap; holds no connection. Must be used within a tokio runtime.
#[derive(Debug, Clone)]
pub struct Client {
    socket: PathBuf,
    target: String,
}

impl Client {
    /// A client of the daemon that listens on `socket`; errors call it `target` (a mount point).
    #[must_use]
    pub fn new(socket: impl Into<PathBuf>, target: impl Into<String>) -> Self {
        Self { socket: socket.into(), target: target.into() }
    }

    /// The socket.
    #[must_use]
    pub fn socket(&self) -> &Path {
        &self.socket
    }

    /// `GET /v1/health`.
    ///
    /// # Errors
    ///
    /// See [`ClientError`]; so for each method below.
    pub async fn health(&self) -> Result<Health, ClientError> {
        self.get("/v1/health").await
    }

    /// `GET /v1/status`.
    ///
    /// # Errors
    ///
    /// See [`ClientError`].
    pub async fn status(&self) -> Result<Status, ClientError> {
        self.get("/v1/status").await
    }

    /// `GET /v1/nodes`.
    ///
    /// # Errors
    ///
    /// See [`ClientError`].
    pub async fn nodes(&self) -> Result<Vec<NodeSummary>, ClientError> {
        self.get("/v1/nodes").await
    }

    /// `GET /v1/config`.
    ///
    /// # Errors
    ///
    /// See [`ClientError`].
    pub async fn config(&self) -> Result<Vec<SettingInfo>, ClientError> {
        self.get("/v1/config").await
    }

    /// `GET /v1/ls`.
    ///
    /// # Errors
    ///
    /// See [`ClientError`].
    pub async fn ls(&self, query: &PathQuery) -> Result<ItemStream<LsEntry>, ClientError> {
        let response = self.send(Method::GET, &with_query("/v1/ls", query), None).await?;
        Ok(self.items(response))
    }

    /// `GET /v1/stat`.
    ///
    /// # Errors
    ///
    /// See [`ClientError`].
    pub async fn stat(&self, query: &PathQuery) -> Result<LsEntry, ClientError> {
        self.get(&with_query("/v1/stat", query)).await
    }

    /// `GET /v1/du`.
    ///
    /// # Errors
    ///
    /// See [`ClientError`].
    pub async fn du(&self, query: &PathQuery) -> Result<Usage, ClientError> {
        self.get(&with_query("/v1/du", query)).await
    }

    /// `POST /v1/free`.
    ///
    /// # Errors
    ///
    /// See [`ClientError`].
    pub async fn free(&self, query: &PathQuery) -> Result<Usage, ClientError> {
        self.post("/v1/free", query).await
    }

    /// `POST /v1/pin`.
    ///
    /// # Errors
    ///
    /// See [`ClientError`].
    pub async fn pin(&self, query: &PathQuery) -> Result<Usage, ClientError> {
        self.post("/v1/pin", query).await
    }

    /// `POST /v1/unpin`.
    ///
    /// # Errors
    ///
    /// See [`ClientError`].
    pub async fn unpin(&self, query: &PathQuery) -> Result<Usage, ClientError> {
        self.post("/v1/unpin", query).await
    }

    /// `POST /v1/check`.
    ///
    /// # Errors
    ///
    /// See [`ClientError`].
    pub async fn check(&self, query: &PathQuery) -> Result<ItemStream<CheckEvent>, ClientError> {
        let response = self.send(Method::POST, "/v1/check", Some(to_json(query))).await?;
        Ok(self.items(response))
    }

    /// `POST /v1/hint`. Cost: the order as JSON in memory.
    ///
    /// # Errors
    ///
    /// See [`ClientError`].
    pub async fn hint(&self, request: &HintRequest) -> Result<HintAnswer, ClientError> {
        self.post("/v1/hint", request).await
    }

    /// `POST /v1/load`.
    ///
    /// # Errors
    ///
    /// See [`ClientError`].
    pub async fn load(&self, request: &LoadRequest) -> Result<LoadStatus, ClientError> {
        self.post("/v1/load", request).await
    }

    /// `GET /v1/loads`.
    ///
    /// # Errors
    ///
    /// See [`ClientError`].
    pub async fn loads(&self) -> Result<Vec<LoadStatus>, ClientError> {
        self.get("/v1/loads").await
    }

    /// `GET /v1/load`.
    ///
    /// # Errors
    ///
    /// See [`ClientError`].
    pub async fn load_status(&self, id: &str) -> Result<LoadStatus, ClientError> {
        self.get(&format!("/v1/load?id={}", percent_encode(id))).await
    }

    /// `POST /v1/load/stop`.
    ///
    /// # Errors
    ///
    /// See [`ClientError`].
    pub async fn load_stop(&self, id: &str) -> Result<LoadStatus, ClientError> {
        self.post("/v1/load/stop", &LoadQuery { id: id.to_owned() }).await
    }

    /// `POST /v1/load/retry`.
    ///
    /// # Errors
    ///
    /// See [`ClientError`].
    pub async fn load_retry(&self, id: &str) -> Result<LoadStatus, ClientError> {
        self.post("/v1/load/retry", &LoadQuery { id: id.to_owned() }).await
    }

    /// `GET /v1/load/failed`.
    ///
    /// # Errors
    ///
    /// See [`ClientError`].
    pub async fn load_failed(&self, id: &str) -> Result<ItemStream<LoadFailure>, ClientError> {
        let path = format!("/v1/load/failed?id={}", percent_encode(id));
        let response = self.send(Method::GET, &path, None).await?;
        Ok(self.items(response))
    }

    /// `POST /v1/shutdown`: returns when the daemon agreed, before it ended.
    ///
    /// # Errors
    ///
    /// See [`ClientError`].
    pub async fn shutdown(&self) -> Result<(), ClientError> {
        self.send(Method::POST, "/v1/shutdown", None).await.map(drop)
    }

    /// `GET /metrics`: Prometheus text.
    ///
    /// # Errors
    ///
    /// See [`ClientError`].
    pub async fn metrics(&self) -> Result<String, ClientError> {
        let response = self.send(Method::GET, "/metrics", None).await?;
        let body = self.collect(response).await?;
        String::from_utf8(body).map_err(|error| self.broken(&error))
    }

    async fn get<T: DeserializeOwned>(&self, path: &str) -> Result<T, ClientError> {
        let response = self.send(Method::GET, path, None).await?;
        self.decode(&self.collect(response).await?)
    }

    async fn post<T: DeserializeOwned>(
        &self,
        path: &str,
        query: &impl Serialize,
    ) -> Result<T, ClientError> {
        let response = self.send(Method::POST, path, Some(to_json(query))).await?;
        self.decode(&self.collect(response).await?)
    }

    /// Sends one request; an answer that is no success is read and returned as the error.
    async fn send(
        &self,
        method: Method,
        path: &str,
        body: Option<Vec<u8>>,
    ) -> Result<Incoming, ClientError> {
        let stream = UnixStream::connect(&self.socket).await.map_err(|error| {
            let target = self.target.clone();
            match error.kind() {
                std::io::ErrorKind::PermissionDenied => ClientError::Forbidden { target },
                _ => ClientError::NoDaemon { target },
            }
        })?;
        let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream))
            .await
            .map_err(|error| self.broken(&error))?;
        // Ends with the answer; its error also reaches the reader of the body.
        drop(Handle::current().spawn(connection));
        let mut request = Request::builder().method(method).uri(path).header("host", "feedline");
        if body.is_some() {
            request = request.header("content-type", "application/json");
        }
        let request = request
            .body(Full::new(bytes::Bytes::from(body.unwrap_or_default())))
            .map_err(|error| self.broken(&error))?;
        let response = sender.send_request(request).await.map_err(|error| self.broken(&error))?;
        let (head, body) = response.into_parts();
        if head.status == StatusCode::OK || head.status == StatusCode::ACCEPTED {
            return Ok(body);
        }
        let body = self.collect(body).await?;
        match serde_json::from_slice::<ApiError>(&body) {
            Ok(error) => Err(error.into()),
            Err(_) => Err(self.broken(&format!(
                "HTTP status {}: {}",
                head.status,
                String::from_utf8_lossy(&body)
            ))),
        }
    }

    async fn collect(&self, body: Incoming) -> Result<Vec<u8>, ClientError> {
        let collected = body.collect().await.map_err(|error| self.broken(&error))?;
        Ok(collected.to_bytes().to_vec())
    }

    fn decode<T: DeserializeOwned>(&self, body: &[u8]) -> Result<T, ClientError> {
        serde_json::from_slice(body).map_err(|error| self.broken(&error))
    }

    fn items<T>(&self, body: Incoming) -> ItemStream<T> {
        ItemStream {
            client: self.clone(),
            body,
            partial: BytesMut::new(),
            lines: VecDeque::new(),
            item: PhantomData,
        }
    }

    fn broken(&self, cause: &dyn ToString) -> ClientError {
        ClientError::Broken { target: self.target.clone(), cause: cause.to_string() }
    }
}

/// A long answer, item by item. Dropping it hangs up, and the daemon stops working on it.
#[derive(Debug)]
pub struct ItemStream<T> {
    client: Client,
    body: Incoming,
    /// The begin of a line whose end has not arrived.
    partial: BytesMut,
    /// Whole lines that have arrived.
    lines: VecDeque<BytesMut>,
    item: PhantomData<fn() -> T>,
}

impl<T: DeserializeOwned> ItemStream<T> {
    /// The next item; `None` at the end.
    ///
    /// # Errors
    ///
    /// When the daemon ended the answer with an error, or the connection broke.
    pub async fn next(&mut self) -> Result<Option<T>, ClientError> {
        #[derive(serde::Deserialize)]
        struct Failure {
            error: ApiError,
        }
        loop {
            if let Some(line) = self.lines.pop_front() {
                if let Ok(failure) = serde_json::from_slice::<Failure>(&line) {
                    return Err(failure.error.into());
                }
                return self.client.decode(&line).map(Some);
            }
            match self.body.frame().await {
                Some(Ok(frame)) => {
                    if let Some(data) = frame.data_ref() {
                        self.split(data)?;
                    }
                }
                Some(Err(error)) => return Err(self.client.broken(&error)),
                None if self.partial.is_empty() => return Ok(None),
                None => return Err(self.client.broken(&"the last line is incomplete")),
            }
        }
    }

    fn split(&mut self, data: &[u8]) -> Result<(), ClientError> {
        self.partial.extend_from_slice(data);
        while let Some(end) = self.partial.iter().position(|byte| *byte == b'\n') {
            let line = self.partial.split_to(end);
            self.partial.advance(1);
            self.lines.push_back(line);
        }
        if LINE_BYTES_MAX < self.partial.len() {
            return Err(self.client.broken(&"a line is too long"));
        }
        Ok(())
    }
}

fn to_json(body: &impl Serialize) -> Vec<u8> {
    serde_json::to_vec(body).expect("the API types have string keys and no failing serializers")
}

/// `path` with the query as parameters.
fn with_query(path: &str, query: &PathQuery) -> String {
    let PathQuery { path: below, recursive, cached, node_only } = query;
    let encoded = percent_encode(below);
    format!("{path}?path={encoded}&recursive={recursive}&cached={cached}&node_only={node_only}")
}

/// Everything but letters, digits and `/-._~` as `%XX`, as a query parameter wants it.
fn percent_encode(text: &str) -> String {
    use std::fmt::Write as _;
    text.bytes().fold(String::with_capacity(text.len()), |mut out, byte| {
        if byte.is_ascii_alphanumeric() || b"/-._~".contains(&byte) {
            out.push(char::from(byte));
        } else {
            let _ = write!(out, "%{byte:02X}");
        }
        out
    })
}
