//! The HTTP clients for requests to other servers.

use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use reqwest::header::{HOST, HeaderValue};
use ruma::{ServerName, exports::http};
use serde_json::Value;
use tokio::sync::OnceCell;

use super::{
    dns::{DnsResolver, HostResolver, SrvRecordResolver},
    failure::{RemoteRefusal, RequestFailure, shorten},
    resolve::ServerAddress,
};
use crate::{
    clock::Clock,
    error::Result,
    outbound::{self, CertificateTrust, NetworkReach},
};

/// The longest error response that is read, in bytes.
const MAX_REFUSAL_BYTES: usize = 64 * 1024;

/// The connections to other servers.
pub(super) struct ServerConnections {
    resolver: Arc<DnsResolver>,
    trust: CertificateTrust,
    /// Built when first needed, because loading the system's certificates takes a while.
    clients: OnceCell<HttpClients>,
}

/// Forgets the cached addresses of a name when dropped, unless a server answered there.
struct AddressGuard<'a> {
    resolver: &'a DnsResolver,
    name: &'a str,
    has_answered: bool,
}

impl Drop for AddressGuard<'_> {
    fn drop(&mut self) {
        if !self.has_answered {
            self.resolver.forget(self.name);
        }
    }
}

struct HttpClients {
    /// For addresses that have a port.
    by_host: reqwest::Client,
    /// For addresses without a port, which are found by SRV records.
    by_srv_records: reqwest::Client,
}

impl ServerConnections {
    pub(super) fn new(clock: &Clock, reach: NetworkReach, trust: CertificateTrust) -> Self {
        Self {
            resolver: DnsResolver::new(clock, reach),
            trust,
            clients: OnceCell::new(),
        }
    }

    /// Sends a request to the address of a server, and waits until the response begins.
    pub(super) async fn execute(
        &self,
        place: &ServerAddress,
        request: http::Request<Vec<u8>>,
    ) -> Result<reqwest::Response, RequestFailure> {
        let failed = |text: String| RequestFailure::Unreachable(text);
        let clients = self.clients.get_or_try_init(async || self.build_clients());
        let clients = clients.await.map_err(|error| failed(error.to_string()))?;
        let mut request =
            reqwest::Request::try_from(request).map_err(|error| failed(error.to_string()))?;
        if let Some(host) = &place.host
            && let Ok(host) = HeaderValue::from_str(host)
        {
            request.headers_mut().insert(HOST, host);
        }
        let client = if place.uses_srv_records {
            &clients.by_srv_records
        } else {
            &clients.by_host
        };
        // A server that does not answer may have moved, so its name is resolved again. The guard
        // also covers a timeout.
        let mut doubt = AddressGuard {
            resolver: &self.resolver,
            name: place.dns_name(),
            has_answered: false,
        };
        let response = client.execute(request).await.map_err(connection_failure)?;
        doubt.has_answered = true;
        Ok(response)
    }

    fn build_clients(&self) -> Result<HttpClients> {
        let (hosts, servers) = (
            HostResolver(self.resolver.clone()),
            SrvRecordResolver(self.resolver.clone()),
        );
        Ok(HttpClients {
            by_host: outbound::server_client(&self.trust, Arc::new(hosts))?,
            by_srv_records: outbound::server_client(&self.trust, Arc::new(servers))?,
        })
    }
}

/// Describes a connection error with its causes, but without the URL, which may contain ids.
fn connection_failure(error: reqwest::Error) -> RequestFailure {
    let error = error.without_url();
    let mut text = error.to_string();
    let mut source = std::error::Error::source(&error);
    while let Some(cause) = source {
        text.push_str(": ");
        text.push_str(&cause.to_string());
        source = cause.source();
    }
    RequestFailure::Unreachable(text)
}

/// Reads a body of at most `max_bytes`.
pub(super) async fn read_body(
    mut response: reqwest::Response,
    max_bytes: usize,
) -> Result<Bytes, RequestFailure> {
    let mut body = BytesMut::new();
    while let Some(chunk) = response.chunk().await.map_err(connection_failure)? {
        if body.len() + chunk.len() > max_bytes {
            let text = format!("the answer is larger than {max_bytes} bytes");
            return Err(RequestFailure::Unreachable(text));
        }
        body.extend_from_slice(&chunk);
    }
    Ok(body.freeze())
}

/// Reads the error response of a server.
pub(super) async fn read_refusal(
    server: &ServerName,
    response: reqwest::Response,
) -> RequestFailure {
    let status = response.status();
    let body = read_body(response, MAX_REFUSAL_BYTES)
        .await
        .unwrap_or_default();
    let body: Value = serde_json::from_slice(&body).unwrap_or_default();
    let text = |key: &str| body.get(key).and_then(Value::as_str).unwrap_or_default();
    let (errcode, error) = (text("errcode"), text("error"));
    if status.is_server_error() || status.is_redirection() {
        let text = format!("{server} answered {}: {}", status.as_u16(), shorten(error));
        return RequestFailure::Unreachable(text);
    }
    RequestFailure::Refused(Box::new(RemoteRefusal {
        status: status.as_u16(),
        errcode: errcode.to_owned(),
        error: if error.is_empty() {
            format!("{server} answered {}", status.as_u16())
        } else {
            shorten(error)
        },
        body,
    }))
}
