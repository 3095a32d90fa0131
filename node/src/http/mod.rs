//! The control socket: HTTP/JSON over a Unix socket that only its owner can open. And, if asked for, a port that
//! shows metrics and health to whoever reaches it, and nothing else.
//!
//! Bounded against whoever connects and does not speak: a limit of connections, a deadline for the head of
//! each request (which also ends idle connections), a limit on bodies (axum's default, 2 MiB), a deadline for
//! whoever does not read its answer.
pub mod error;
mod groups;
mod keys;
pub mod metrics;
pub mod openapi;
pub mod routes;
mod stall;

use crate::error::{Error, Kind, Result};
use hyper_util::rt::{TokioIo, TokioTimer};
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, UnixListener};
use tokio::sync::{Semaphore, watch};

/// Connections at once; more wait.
pub(crate) const MAX_CONNECTIONS: usize = 256;
/// The longest that the head of a request may take, or a connection be idle.
const HEAD_DEADLINE: Duration = Duration::from_secs(30);
/// The longest that a caller may leave a part of its answer unread.
const READ_DEADLINE: Duration = Duration::from_secs(30);
/// Pause after the system had no file left for a connection.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
/// How long the last answers may take when the agent ends.
const LAST_ANSWERS: Duration = Duration::from_secs(5);

/// Binds the control socket with mode 0600. The caller has checked the folder and holds the agent's lock.
///
/// # Errors
/// The file system's.
pub fn bind(socket: &Path) -> Result<UnixListener> {
    let listen = || {
        let listener = crate::sockets::listen(socket)?;
        listener.set_nonblocking(true)?;
        UnixListener::from_std(listener)
    };
    listen().map_err(|source| Error::io("listen on", socket, &source))
}

/// Binds the port for metrics.
///
/// # Errors
/// The address is taken or not one of this machine.
pub async fn bind_metrics(address: SocketAddr) -> Result<TcpListener> {
    let refused = |source: std::io::Error| {
        let kind = match source.kind() {
            std::io::ErrorKind::PermissionDenied => Kind::Permission,
            _ => Kind::Refused,
        };
        Error::new(kind, address.to_string(), format!("cannot serve metrics at {address}: {source}"))
            .hint("give another address to --metrics-listen, or leave it away")
    };
    let listener = TcpListener::bind(address).await.map_err(refused)?;
    let bound = listener.local_addr().map_err(refused)?;
    tracing::info!("metrics at http://{bound}/metrics");
    Ok(listener)
}

/// Where connections come from.
pub trait Listener {
    /// A connection.
    type Stream: AsyncRead + AsyncWrite + Unpin + Send + 'static;
    /// The next one.
    fn next(&self) -> impl Future<Output = std::io::Result<Self::Stream>> + Send;
}

impl Listener for UnixListener {
    type Stream = tokio::net::UnixStream;
    async fn next(&self) -> std::io::Result<Self::Stream> {
        self.accept().await.map(|(stream, _)| stream)
    }
}

impl Listener for TcpListener {
    type Stream = tokio::net::TcpStream;
    async fn next(&self) -> std::io::Result<Self::Stream> {
        self.accept().await.map(|(stream, _)| stream)
    }
}

/// Serves until `stop` says so; requests that were heard by then are still answered, within `LAST_ANSWERS`.
pub async fn serve(routes: axum::Router, listener: impl Listener, stop: watch::Sender<bool>) {
    let places = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    let mut stopped = stop.subscribe();
    loop {
        let place = tokio::select! {
            place = places.clone().acquire_owned() => place.expect("never closed"),
            _ = stopped.wait_for(|stop| *stop) => break,
        };
        let accepted = tokio::select! {
            accepted = listener.next() => accepted,
            _ = stopped.wait_for(|stop| *stop) => break,
        };
        let stream = match accepted {
            Ok(stream) => stream,
            Err(error) => {
                tracing::error!("cannot accept a connection: {error}");
                tokio::time::sleep(ACCEPT_PAUSE).await;
                continue;
            }
        };
        let (routes, stopped) = (routes.clone(), stop.subscribe());
        tokio::spawn(async move {
            connection(stream, routes, stopped).await;
            drop(place);
        });
    }
    // Every connection that has ended has given its place back.
    let all = places.acquire_many(MAX_CONNECTIONS as u32);
    if tokio::time::timeout(LAST_ANSWERS, all).await.is_err() {
        tracing::warn!("some requests were not answered before the end");
    }
}

async fn connection(
    stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
    routes: axum::Router,
    mut stopped: watch::Receiver<bool>,
) {
    let service = hyper_util::service::TowerToHyperService::new(routes);
    let served = hyper::server::conn::http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_DEADLINE)
        .serve_connection(TokioIo::new(stall::Bounded::new(stream, READ_DEADLINE)), service);
    tokio::pin!(served);
    let told = async {
        let _ = stopped.wait_for(|stop| *stop).await;
    };
    let ended = tokio::select! {
        ended = served.as_mut() => Some(ended),
        () = told => None,
    };
    let ended = match ended {
        Some(ended) => ended,
        None => {
            served.as_mut().graceful_shutdown();
            served.await
        }
    };
    if let Err(error) = ended {
        tracing::debug!("a connection ended early: {error}");
    }
}
