//! The listeners. They accept connections within the limits, and serve each in a task of its own.

use std::{io, net::SocketAddr, path::PathBuf, time::Duration};

use axum::Router;
use tokio::net::{TcpListener, TcpStream};

use super::{
    certificates::ListenerCertificate,
    connection::{AcceptedConnection, ConnectionServer},
};
use crate::{config::ListenSection, error::Result, tasks::Tasks};

/// The pause after an error, such as too many open files, that would occur again immediately.
const PAUSE_AFTER_ERROR: Duration = Duration::from_secs(1);

/// A bound address.
pub(super) struct BoundListener {
    /// The address, with the port that the system chose if the configured port is 0.
    pub(super) address: SocketAddr,
    listener: TcpListener,
    tls: Option<ListenerCertificate>,
}

impl BoundListener {
    /// Reads the certificate, if there is one, and binds the address.
    pub(super) async fn bind(config: &ListenSection) -> Result<Self, ListenError> {
        let tls = match (&config.tls_certificate, &config.tls_key) {
            (Some(certificate), Some(key)) => {
                let read = ListenerCertificate::read(certificate, key);
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

    /// Serves a router to all clients until the server stops.
    pub(super) async fn serve(self, router: Router, connections: ConnectionServer, tasks: Tasks) {
        let accepting = async {
            loop {
                let accepted = self.accept(&connections).await;
                let tls = self.tls.as_ref().map(ListenerCertificate::current_config);
                let serving = connections.clone().serve(accepted, tls, router.clone());
                drop(tasks.spawn(serving));
            }
        };
        let _: Option<()> = tasks.stopping().run_until_cancelled(accepting).await;
    }

    async fn accept(&self, connections: &ConnectionServer) -> AcceptedConnection {
        let mut permit = connections.wait_for_permit().await;
        loop {
            let (stream, peer): (TcpStream, SocketAddr) = match self.listener.accept().await {
                Ok(accepted) => accepted,
                Err(error) if is_peer_error(&error) => continue,
                Err(error) => {
                    tracing::warn!(%error, "could not accept a connection");
                    tokio::time::sleep(PAUSE_AFTER_ERROR).await;
                    continue;
                }
            };
            if let Some(accepted) = connections.admit(permit, stream, peer) {
                return accepted;
            }
            tracing::debug!(%peer, "refused a connection: its address has too many");
            permit = connections.wait_for_permit().await;
        }
    }
}

/// Returns whether the error concerns only one connection, because the client closed it.
fn is_peer_error(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::ConnectionRefused
            | io::ErrorKind::ConnectionAborted
            | io::ErrorKind::ConnectionReset
    )
}

/// The reason why a listener cannot be opened.
#[derive(Debug, thiserror::Error)]
pub(super) enum ListenError {
    /// The address cannot be bound.
    #[error("cannot listen on {address}: {source}")]
    Bind {
        address: SocketAddr,
        source: io::Error,
    },
    /// A file of the certificate cannot be used.
    #[error("cannot use {}: {source}", path.display())]
    Certificate {
        path: PathBuf,
        source: Box<dyn std::error::Error + Send + Sync>,
    },
}
