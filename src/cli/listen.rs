//! The listeners: plain TCP, and TLS whose handshakes happen beside the loop that accepts.

use std::{
    fmt, io,
    net::SocketAddr,
    path::PathBuf,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use axum::{
    extract::connect_info::Connected,
    serve::{IncomingStream, Listener},
};
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::{TcpListener, TcpStream},
    sync::{OwnedSemaphorePermit, Semaphore, mpsc},
};
use tokio_rustls::{TlsAcceptor, server::TlsStream};

use super::certificates::Certificates;
use crate::{api::Peer, config::Listen, error::Result, tasks::Tasks};

/// Connections that a listener holds at once: each costs some kilobytes and a file descriptor, and a waiting
/// client has one.
const MAX_CONNECTIONS: usize = 50_000;
/// TLS handshakes that run at once; each may cost a millisecond of computing.
const MAX_HANDSHAKES: usize = 256;
/// How long a handshake may take.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);
/// How long to wait after an error such as too many open files, which the next attempt would meet as well.
const PAUSE_AFTER_ERROR: Duration = Duration::from_secs(1);

/// A bound address.
pub(super) struct Bound {
    /// The address, with the port that the system chose if it was 0.
    pub(super) address: SocketAddr,
    listener: TcpListener,
    tls: Option<Certificates>,
}

/// A listener whose connections are ready for HTTP.
pub(super) struct Ready {
    address: SocketAddr,
    source: Source,
}

enum Source {
    Plain(TcpAccept),
    Tls(mpsc::Receiver<(Connection, SocketAddr)>),
}

/// Accepts connections, as many as are allowed at once.
struct TcpAccept {
    listener: TcpListener,
    room: Arc<Semaphore>,
}

impl Bound {
    /// Reads the certificate, if there is one, and binds the address.
    pub(super) async fn bind(config: &Listen) -> Result<Self, ListenError> {
        let tls = match (&config.tls_certificate, &config.tls_key) {
            (Some(certificate), Some(key)) => {
                let read = Certificates::read(certificate, key);
                let unusable = |(path, source)| ListenError::Certificate { path, source };
                Some(read.map_err(unusable)?)
            }
            _ => None,
        };
        let failed = |source| ListenError::Bind {
            address: config.address,
            source,
        };
        let listener = TcpListener::bind(config.address).await.map_err(failed)?;
        let address = listener.local_addr().map_err(failed)?;
        Ok(Self {
            address,
            listener,
            tls,
        })
    }

    /// Begins to accept connections.
    pub(super) fn accept(self, tasks: &Tasks) -> Ready {
        let accept = TcpAccept {
            listener: self.listener,
            room: Arc::new(Semaphore::new(MAX_CONNECTIONS)),
        };
        let source = match self.tls {
            None => Source::Plain(accept),
            Some(certificates) => {
                let (send, receive) = mpsc::channel(1);
                tasks.spawn(shake_hands(accept, certificates, send, tasks.clone()));
                Source::Tls(receive)
            }
        };
        Ready {
            address: self.address,
            source,
        }
    }
}

impl TcpAccept {
    async fn next(&mut self) -> (TcpStream, SocketAddr, OwnedSemaphorePermit) {
        loop {
            // The semaphore is never closed.
            let Ok(permit) = Arc::clone(&self.room).acquire_owned().await else {
                return std::future::pending().await;
            };
            match self.listener.accept().await {
                Ok((stream, peer)) => {
                    // Answers are written whole: waiting for more to send along only makes them late.
                    if let Err(error) = stream.set_nodelay(true) {
                        tracing::debug!(%error, "could not set TCP_NODELAY");
                    }
                    return (stream, peer, permit);
                }
                Err(error) if is_of_the_peer(&error) => {}
                Err(error) => {
                    tracing::warn!(%error, "could not accept a connection");
                    tokio::time::sleep(PAUSE_AFTER_ERROR).await;
                }
            }
        }
    }
}

/// Returns whether only this one connection failed, by its other end.
fn is_of_the_peer(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::ConnectionRefused
            | io::ErrorKind::ConnectionAborted
            | io::ErrorKind::ConnectionReset
    )
}

/// Accepts connections and hands them on once they speak TLS, until the server stops.
async fn shake_hands(
    mut accept: TcpAccept,
    certificates: Certificates,
    ready: mpsc::Sender<(Connection, SocketAddr)>,
    tasks: Tasks,
) {
    let handshakes = Arc::new(Semaphore::new(MAX_HANDSHAKES));
    let mut next = async || {
        let turn = Arc::clone(&handshakes).acquire_owned().await;
        (turn, accept.next().await)
    };
    while let Some((turn, (stream, peer, permit))) =
        tasks.stopping().run_until_cancelled(next()).await
    {
        let acceptor = TlsAcceptor::from(certificates.current());
        let handshake = tokio::time::timeout(HANDSHAKE_TIMEOUT, acceptor.accept(stream));
        let (ready, stopping) = (ready.clone(), tasks.stopping().clone());
        tasks.spawn(stopping.run_until_cancelled_owned(async move {
            let shaken = handshake.await;
            drop(turn);
            match shaken {
                Ok(Ok(stream)) => {
                    let stream = Stream::Tls(Box::new(stream));
                    // The receiver is gone only when the server stops.
                    let _ = ready.send((Connection::new(stream, permit), peer)).await;
                }
                Ok(Err(error)) => tracing::debug!(%error, "a TLS handshake failed"),
                Err(_) => tracing::debug!("a TLS handshake took too long"),
            }
        }));
    }
}

impl Listener for Ready {
    type Io = Connection;
    type Addr = SocketAddr;

    async fn accept(&mut self) -> (Connection, SocketAddr) {
        match &mut self.source {
            Source::Plain(accept) => {
                let (stream, peer, permit) = accept.next().await;
                (Connection::new(Stream::Plain(stream), permit), peer)
            }
            Source::Tls(ready) => match ready.recv().await {
                Some(connection) => connection,
                // The server stops; axum gives up waiting by itself.
                None => std::future::pending().await,
            },
        }
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        Ok(self.address)
    }
}

impl Connected<IncomingStream<'_, Ready>> for Peer {
    fn connect_info(stream: IncomingStream<'_, Ready>) -> Self {
        Self(*stream.remote_addr())
    }
}

/// An accepted connection; it gives its place back when it ends.
pub(super) struct Connection {
    stream: Stream,
    _permit: OwnedSemaphorePermit,
}

enum Stream {
    Plain(TcpStream),
    Tls(Box<TlsStream<TcpStream>>),
}

impl Connection {
    fn new(stream: Stream, permit: OwnedSemaphorePermit) -> Self {
        Self {
            stream,
            _permit: permit,
        }
    }
}

impl AsyncRead for Connection {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        match &mut self.stream {
            Stream::Plain(stream) => Pin::new(stream).poll_read(cx, buf),
            Stream::Tls(stream) => Pin::new(stream).poll_read(cx, buf),
        }
    }
}

impl AsyncWrite for Connection {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        match &mut self.stream {
            Stream::Plain(stream) => Pin::new(stream).poll_write(cx, buf),
            Stream::Tls(stream) => Pin::new(stream).poll_write(cx, buf),
        }
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        match &mut self.stream {
            Stream::Plain(stream) => Pin::new(stream).poll_write_vectored(cx, bufs),
            Stream::Tls(stream) => Pin::new(stream).poll_write_vectored(cx, bufs),
        }
    }

    fn is_write_vectored(&self) -> bool {
        match &self.stream {
            Stream::Plain(stream) => stream.is_write_vectored(),
            Stream::Tls(stream) => stream.is_write_vectored(),
        }
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.stream {
            Stream::Plain(stream) => Pin::new(stream).poll_flush(cx),
            Stream::Tls(stream) => Pin::new(stream).poll_flush(cx),
        }
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.stream {
            Stream::Plain(stream) => Pin::new(stream).poll_shutdown(cx),
            Stream::Tls(stream) => Pin::new(stream).poll_shutdown(cx),
        }
    }
}

/// Why a listener cannot be opened.
#[derive(Debug, thiserror::Error)]
pub(super) enum ListenError {
    /// The address cannot be bound.
    #[error("cannot listen on {address}: {source}")]
    Bind {
        /// The address.
        address: SocketAddr,
        /// Why.
        source: io::Error,
    },
    /// A file of the certificate cannot be used.
    #[error("cannot use {}: {source}", path.display())]
    Certificate {
        /// The file.
        path: PathBuf,
        /// Why.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
}

impl fmt::Debug for Ready {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "listener on {}", self.address)
    }
}
