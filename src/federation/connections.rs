//! The HTTP clients for requests to other servers.

use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use reqwest::header::{HOST, HeaderValue};
use ruma::exports::http;
use tokio::sync::OnceCell;

use super::{
    dns::{Hosts, Names, ServersByRecords},
    failure::Failure,
    resolve::Place,
};
use crate::{
    clock::Clock,
    error::Result,
    outbound::{self, Reach, Trust},
};

/// The connections to other servers.
pub(super) struct Http {
    names: Arc<Names>,
    trust: Trust,
    /// Built when first needed, because loading the system's certificates takes a while.
    clients: OnceCell<Clients>,
}

/// Forgets the cached addresses of a name when dropped, unless a server answered there.
struct Doubt<'a> {
    names: &'a Names,
    name: &'a str,
    is_settled: bool,
}

impl Drop for Doubt<'_> {
    fn drop(&mut self) {
        if !self.is_settled {
            self.names.forget(self.name);
        }
    }
}

struct Clients {
    /// For addresses that have a port.
    by_host: reqwest::Client,
    /// For addresses without a port, which are found by SRV records.
    by_records: reqwest::Client,
}

impl Http {
    pub(super) fn new(clock: &Clock, reach: Reach, trust: Trust) -> Self {
        Self {
            names: Names::new(clock, reach),
            trust,
            clients: OnceCell::new(),
        }
    }

    /// Sends a request to the address of a server, and waits until the response begins.
    pub(super) async fn execute(
        &self,
        place: &Place,
        request: http::Request<Vec<u8>>,
    ) -> Result<reqwest::Response, Failure> {
        let failed = |text: String| Failure::Unreachable(text);
        let clients = self.clients.get_or_try_init(async || self.connect());
        let clients = clients.await.map_err(|error| failed(error.to_string()))?;
        let mut request =
            reqwest::Request::try_from(request).map_err(|error| failed(error.to_string()))?;
        if let Some(host) = &place.host
            && let Ok(host) = HeaderValue::from_str(host)
        {
            request.headers_mut().insert(HOST, host);
        }
        let client = if place.by_records {
            &clients.by_records
        } else {
            &clients.by_host
        };
        // A server that does not answer may have moved, so its name is resolved again. The guard
        // also covers a timeout.
        let mut doubt = Doubt {
            names: &self.names,
            name: place.name(),
            is_settled: false,
        };
        let response = client.execute(request).await.map_err(broken)?;
        doubt.is_settled = true;
        Ok(response)
    }

    fn connect(&self) -> Result<Clients> {
        let (hosts, servers) = (
            Hosts(self.names.clone()),
            ServersByRecords(self.names.clone()),
        );
        Ok(Clients {
            by_host: outbound::server_client(&self.trust, Arc::new(hosts))?,
            by_records: outbound::server_client(&self.trust, Arc::new(servers))?,
        })
    }
}

/// Describes a connection error with its causes, but without the URL, which may contain ids.
fn broken(error: reqwest::Error) -> Failure {
    let error = error.without_url();
    let mut text = error.to_string();
    let mut source = std::error::Error::source(&error);
    while let Some(cause) = source {
        text.push_str(": ");
        text.push_str(&cause.to_string());
        source = cause.source();
    }
    Failure::Unreachable(text)
}

/// Reads a body of at most `max_bytes`.
pub(super) async fn read(
    mut response: reqwest::Response,
    max_bytes: usize,
) -> Result<Bytes, Failure> {
    let mut body = BytesMut::new();
    while let Some(chunk) = response.chunk().await.map_err(broken)? {
        if body.len() + chunk.len() > max_bytes {
            let text = format!("the answer is larger than {max_bytes} bytes");
            return Err(Failure::Unreachable(text));
        }
        body.extend_from_slice(&chunk);
    }
    Ok(body.freeze())
}
