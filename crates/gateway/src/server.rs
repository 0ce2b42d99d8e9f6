//! The server: the admin API on a Unix socket, and metrics with health on a TCP address if wanted.

use std::fs;
use std::io;
use std::net::SocketAddr;
use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use axum::body::Body;
use axum::extract::{Query, Request, State};
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Json, Router};
use bytes::Bytes;
use futures::StreamExt;
use futures::future::BoxFuture;
use serde::Serialize;
use tokio::runtime::Handle;
use tokio::sync::{Semaphore, watch};
use tokio::task::JoinHandle;

use crate::admin::{Admin, Lines};
use crate::api::{
    ApiError, HINT_BYTES_MAX, HintAnswer, HintRequest, LoadQuery, LoadRequest, PathQuery,
};
use crate::metrics;

/// Lines of a long answer that are joined into one chunk at most, so that a listing of a million
/// entries is not a million writes.
const LINES_PER_CHUNK_MAX: usize = 256;

/// The unit in which room for the bodies of hints is handed out: a semaphore counts to 2^29.
const HINT_UNIT_BYTES: usize = 1 << 10;

/// Why the server could not start.
#[derive(Debug, thiserror::Error)]
#[expect(missing_docs, reason = "the doc of each variant covers its fields")]
pub enum ServerError {
    /// Another daemon answers on the socket. Stop it first, or choose another mount point.
    #[error("another feedline daemon already listens on {socket}: stop it with `feedline umount`")]
    InUse { socket: PathBuf },

    /// Something that is no socket lies where the socket belongs. It is left alone.
    #[error("{socket} exists and is no socket: move it away")]
    NotASocket { socket: PathBuf },

    /// The address cannot be listened on.
    #[error("cannot listen on {address}: {source}")]
    Listen { address: String, source: io::Error },
}

/// A running server. Dropping it does not stop it; [`Server::stop`] does.
#[derive(Debug)]
pub struct Server {
    socket: PathBuf,
    stop: watch::Sender<bool>,
    tasks: Vec<JoinHandle<()>>,
    metrics_address: Option<SocketAddr>,
}

#[derive(Clone)]
struct Shared {
    admin: Arc<dyn Admin>,
    tasks: Handle,
    /// Room for the bodies of hints, in units of [`HINT_UNIT_BYTES`].
    hint_room: Arc<Semaphore>,
}

impl Server {
    /// Listens on `socket` (mode 0600) and, for metrics and health only, on `metrics_listen`.
    ///
    /// A stale socket is replaced; a live one is refused. Must be called within the runtime.
    ///
    /// # Errors
    ///
    /// See [`ServerError`].
    pub fn start(
        admin: Arc<dyn Admin>,
        socket: &Path,
        metrics_listen: Option<SocketAddr>,
        tasks: &Handle,
    ) -> Result<Self, ServerError> {
        let listener = bind_socket(socket)?;
        let (stop, _) = watch::channel(false);
        let hint_room = Arc::new(Semaphore::new(HINT_BYTES_MAX / HINT_UNIT_BYTES));
        let shared = Shared { admin, tasks: tasks.clone(), hint_room };
        let mut running = Vec::new();
        let served = axum::serve(listener, admin_router(shared.clone()))
            .with_graceful_shutdown(stopped(stop.subscribe()));
        running.push(tasks.spawn(async move {
            if let Err(error) = served.await {
                tracing::error!(%error, "the admin socket failed");
            }
        }));
        let mut metrics_address = None;
        if let Some(address) = metrics_listen {
            let (listener, bound) = bind_tcp(address)?;
            metrics_address = Some(bound);
            let served = axum::serve(listener, metrics_router(shared))
                .with_graceful_shutdown(stopped(stop.subscribe()));
            running.push(tasks.spawn(async move {
                if let Err(error) = served.await {
                    tracing::error!(%error, "the metrics address failed");
                }
            }));
        }
        Ok(Self { socket: socket.to_owned(), stop, tasks: running, metrics_address })
    }

    /// Where metrics are served over TCP: the port that the system chose, if 0 was asked for.
    #[must_use]
    pub fn metrics_address(&self) -> Option<SocketAddr> {
        self.metrics_address
    }

    /// Removes the socket, closes the listeners, and ends connections that are left.
    pub async fn stop(self) {
        // Missing is fine: the runtime directory may have been cleared.
        let _ = fs::remove_file(&self.socket);
        let _ = self.stop.send(true);
        // An answer under way is not waited for: a client that does not read would hold the daemon.
        tokio::task::yield_now().await;
        for task in &self.tasks {
            task.abort();
        }
    }
}

async fn stopped(mut stop: watch::Receiver<bool>) {
    // An error means that the server was dropped without a stop: go on serving.
    if stop.wait_for(|stop| *stop).await.is_err() {
        std::future::pending::<()>().await;
    }
}

/// Binds the admin socket: replaces a stale one, refuses a live one.
fn bind_socket(socket: &Path) -> Result<tokio::net::UnixListener, ServerError> {
    let failed = |source| ServerError::Listen { address: socket.display().to_string(), source };
    match fs::symlink_metadata(socket) {
        Ok(found) if !found.file_type().is_socket() => {
            return Err(ServerError::NotASocket { socket: socket.to_owned() });
        }
        Ok(_) if UnixStream::connect(socket).is_ok() => {
            return Err(ServerError::InUse { socket: socket.to_owned() });
        }
        Ok(_) => fs::remove_file(socket).map_err(failed)?,
        Err(_) => {}
    }
    let listener = tokio::net::UnixListener::bind(socket).map_err(failed)?;
    // Between bind and chmod the socket has the umask's mode; its directory is 0700, so nobody
    // else can reach it meanwhile.
    fs::set_permissions(socket, fs::Permissions::from_mode(0o600)).map_err(failed)?;
    Ok(listener)
}

fn bind_tcp(address: SocketAddr) -> Result<(tokio::net::TcpListener, SocketAddr), ServerError> {
    let failed = |source| ServerError::Listen { address: address.to_string(), source };
    let listener = std::net::TcpListener::bind(address).map_err(failed)?;
    listener.set_nonblocking(true).map_err(failed)?;
    let bound = listener.local_addr().map_err(failed)?;
    Ok((tokio::net::TcpListener::from_std(listener).map_err(failed)?, bound))
}

fn admin_router(shared: Shared) -> Router {
    Router::new()
        .route("/v1/health", get(health))
        .route(
            "/v1/status",
            get(|State(s): State<Shared>| async move { Json(s.admin.status().await) }),
        )
        .route(
            "/v1/nodes",
            get(|State(s): State<Shared>| async move { Json(s.admin.nodes().await) }),
        )
        .route(
            "/v1/config",
            get(|State(s): State<Shared>| async move { Json(s.admin.config().await) }),
        )
        .route("/v1/ls", get(ls))
        .route(
            "/v1/stat",
            get(|State(s): State<Shared>, Query(q): Query<PathQuery>| async move {
                answer(s.admin.stat(q).await)
            }),
        )
        .route(
            "/v1/du",
            get(|State(s): State<Shared>, Query(q): Query<PathQuery>| async move {
                answer(s.admin.du(q).await)
            }),
        )
        .route(
            "/v1/free",
            post(|State(s): State<Shared>, Json(q): Json<PathQuery>| async move {
                answer(s.admin.free(q).await)
            }),
        )
        .route(
            "/v1/pin",
            post(|State(s): State<Shared>, Json(q): Json<PathQuery>| async move {
                answer(s.admin.pin(q).await)
            }),
        )
        .route(
            "/v1/unpin",
            post(|State(s): State<Shared>, Json(q): Json<PathQuery>| async move {
                answer(s.admin.unpin(q).await)
            }),
        )
        .route("/v1/check", post(check))
        .route("/v1/hint", post(hint))
        .merge(load_router())
        .route(
            "/v1/shutdown",
            post(|State(s): State<Shared>| async move {
                s.admin.shutdown();
                StatusCode::ACCEPTED
            }),
        )
        .route("/metrics", get(metrics_text))
        .fallback(unknown)
        .with_state(shared)
}

/// Load jobs.
fn load_router() -> Router<Shared> {
    Router::new()
        .route(
            "/v1/loads",
            get(|State(s): State<Shared>| async move { Json(s.admin.loads().await) }),
        )
        .route(
            "/v1/load",
            get(|State(s): State<Shared>, Query(q): Query<LoadQuery>| async move {
                answer(s.admin.load_status(q.id).await)
            })
            .post(|State(s): State<Shared>, Json(r): Json<LoadRequest>| async move {
                answer(s.admin.load(r).await)
            }),
        )
        .route(
            "/v1/load/stop",
            post(|State(s): State<Shared>, Json(q): Json<LoadQuery>| async move {
                answer(s.admin.load_stop(q.id).await)
            }),
        )
        .route(
            "/v1/load/retry",
            post(|State(s): State<Shared>, Json(q): Json<LoadQuery>| async move {
                answer(s.admin.load_retry(q.id).await)
            }),
        )
        .route("/v1/load/failed", get(load_failed))
}

async fn load_failed(State(shared): State<Shared>, Query(query): Query<LoadQuery>) -> Response {
    stream(&shared.tasks, |out| {
        let admin = Arc::clone(&shared.admin);
        Box::pin(async move { admin.load_failed(query.id, out).await })
    })
    .await
}

fn metrics_router(shared: Shared) -> Router {
    Router::new()
        .route("/metrics", get(metrics_text))
        .route("/healthz", get(|| async { "ok\n" }))
        .route("/readyz", get(ready))
        .fallback(unknown)
        .with_state(shared)
}

async fn unknown() -> Response {
    error_response(&ApiError::not_found("no such endpoint"))
}

async fn health(State(shared): State<Shared>) -> Response {
    Json(shared.admin.health()).into_response()
}

async fn ready(State(shared): State<Shared>) -> Response {
    let state = shared.admin.health().state;
    let code = if state == "serving" { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    (code, format!("{state}\n")).into_response()
}

async fn metrics_text(State(shared): State<Shared>) -> Response {
    let text = metrics::render(&shared.admin.status().await);
    ([(header::CONTENT_TYPE, metrics::CONTENT_TYPE)], text).into_response()
}

async fn ls(State(shared): State<Shared>, Query(query): Query<PathQuery>) -> Response {
    stream(&shared.tasks, |out| {
        let admin = Arc::clone(&shared.admin);
        Box::pin(async move { admin.ls(query, out).await })
    })
    .await
}

async fn check(State(shared): State<Shared>, Json(query): Json<PathQuery>) -> Response {
    stream(&shared.tasks, |out| {
        let admin = Arc::clone(&shared.admin);
        Box::pin(async move { admin.check(query, out).await })
    })
    .await
}

/// Takes the body itself: axum's own limit is 2 MB, and several large bodies wait for each other
/// instead of adding up.
async fn hint(State(shared): State<Shared>, request: Request) -> Response {
    answer(take_hint(&shared, request).await)
}

async fn take_hint(shared: &Shared, request: Request) -> Result<HintAnswer, ApiError> {
    let length = request.headers().get(header::CONTENT_LENGTH);
    let length = length.and_then(|length| length.to_str().ok()?.parse::<usize>().ok());
    let length = length.ok_or_else(|| ApiError::bad_request("a hint needs a Content-Length"))?;
    let units = match u32::try_from(length.div_ceil(HINT_UNIT_BYTES)) {
        Ok(units) if length <= HINT_BYTES_MAX => units,
        _ => {
            return Err(ApiError::bad_request(format!(
                "a hint of {length} bytes: at most {HINT_BYTES_MAX}; send positions instead of \
                 files, or a part of the order"
            )));
        }
    };
    let room = shared.hint_room.acquire_many(units).await;
    let _room = room.map_err(|error| ApiError::internal(error.to_string()))?;
    let body = axum::body::to_bytes(request.into_body(), length).await;
    let body =
        body.map_err(|error| ApiError::bad_request(format!("the hint broke off: {error}")))?;
    // Tens of milliseconds for a long order: not in the way of other answers.
    let parsed = shared.tasks.spawn_blocking(move || serde_json::from_slice::<HintRequest>(&body));
    let parsed = parsed.await.map_err(|error| ApiError::internal(error.to_string()))?;
    let request = parsed.map_err(|error| {
        ApiError::bad_request(format!(
            "the hint is not as it should be: {error}; it is {{\"path\": FOLDER, \"order\": \
             {{\"files\": [..]}}}}, or \"positions\" (whole numbers from 0), or \"torch_seeds\""
        ))
    })?;
    shared.admin.hint(request).await
}

fn answer<T: Serialize>(result: Result<T, ApiError>) -> Response {
    match result {
        Ok(value) => Json(value).into_response(),
        Err(error) => error_response(&error),
    }
}

/// The only place where a kind of error becomes an HTTP status.
fn error_response(error: &ApiError) -> Response {
    let code = match error.kind.as_str() {
        "not_found" => StatusCode::NOT_FOUND,
        "bad_request" => StatusCode::BAD_REQUEST,
        "unavailable" => StatusCode::SERVICE_UNAVAILABLE,
        _ => StatusCode::INTERNAL_SERVER_ERROR,
    };
    (code, Json(error)).into_response()
}

/// Runs `work` as a task and sends its items as lines. An error before the first item becomes the
/// status of the answer; a later one becomes a last line `{"error": {..}}`.
async fn stream<T, W>(tasks: &Handle, work: W) -> Response
where
    T: Serialize + Send + 'static,
    W: FnOnce(Lines<T>) -> BoxFuture<'static, Result<(), ApiError>>,
{
    let (lines, mut items) = Lines::<T>::channel();
    let failure = lines.again();
    let work = work(lines);
    tasks.spawn(async move {
        if let Err(error) = work.await {
            failure.fail(error).await;
        }
    });
    let first = items.recv().await;
    if let Some(Err(error)) = &first {
        return error_response(error);
    }
    let chunks = futures::stream::unfold((first, items), |(first, mut items)| async move {
        let mut batch = Vec::new();
        match first {
            Some(item) => batch.push(item),
            None => {
                if items.recv_many(&mut batch, LINES_PER_CHUNK_MAX).await == 0 {
                    return None;
                }
            }
        }
        Some((chunk(&batch), (None, items)))
    });
    let body = Body::from_stream(chunks.map(Ok::<_, io::Error>));
    ([(header::CONTENT_TYPE, "application/x-ndjson")], body).into_response()
}

fn chunk<T: Serialize>(items: &[Result<T, ApiError>]) -> Bytes {
    let mut text = Vec::new();
    for item in items {
        match item {
            Ok(item) => serde_json::to_writer(&mut text, item),
            Err(error) => serde_json::to_writer(&mut text, &serde_json::json!({ "error": error })),
        }
        .expect("the API types have string keys and no failing serializers");
        text.push(b'\n');
    }
    text.into()
}
