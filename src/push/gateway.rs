//! Requests to push gateways.
//!
//! See the [specification](https://spec.matrix.org/v1.19/push-gateway-api/).

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use reqwest::{Client, header::CONTENT_TYPE};
use serde::Deserialize;
use tokio::sync::Semaphore;
use url::Url;

use crate::{
    config::PushSection,
    error::{Error, Result},
    outbound::{self, NetworkReach},
};

/// The time limit of a request.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(15);
/// The number of simultaneous requests to one gateway.
const MAX_REQUESTS_PER_GATEWAY: usize = 32;
/// The number of gateways in memory above which those without a pusher are forgotten.
const MAX_GATEWAYS_IN_MEMORY: usize = 1_000;
/// The largest response that is read, in bytes.
const MAX_RESPONSE_BYTES: usize = 64 * 1024;

/// The push gateways that users have set.
pub(super) struct PushGateways {
    client: Client,
    reach: NetworkReach,
    permits: Mutex<HashMap<String, Arc<Semaphore>>>,
}

/// A push gateway.
#[derive(Clone)]
pub(super) struct PushGateway {
    url: Url,
    /// Limits the simultaneous requests, so that a slow gateway takes nothing from the others.
    permits: Arc<Semaphore>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct NotifyResponse {
    rejected: Vec<String>,
}

impl PushGateways {
    /// Sets up the HTTP client.
    pub(super) fn new(config: &PushSection) -> Result<Self> {
        let reach = if config.allow_private_addresses {
            NetworkReach::Everywhere
        } else {
            NetworkReach::Public
        };
        Ok(Self {
            client: outbound::web_client(reach)?,
            reach,
            permits: Mutex::default(),
        })
    }

    /// Returns the gateway with a URL, unless this server does not contact its address.
    pub(super) fn find(&self, url: &str) -> Option<PushGateway> {
        let url = Url::parse(url).ok()?;
        outbound::check_url(&url, self.reach).ok()?;
        let host = url.host_str()?.to_owned();
        let mut permits = self.permits.lock().unwrap_or_else(PoisonError::into_inner);
        if permits.len() >= MAX_GATEWAYS_IN_MEMORY {
            permits.retain(|_, permits| Arc::strong_count(permits) > 1);
        }
        let new = || Arc::new(Semaphore::new(MAX_REQUESTS_PER_GATEWAY));
        let permits = permits.entry(host).or_insert_with(new).clone();
        Some(PushGateway { url, permits })
    }

    /// Sends a notification, and returns the pushkeys that are no longer valid.
    pub(super) async fn notify(&self, gateway: &PushGateway, body: String) -> Result<Vec<String>> {
        // The semaphore is never closed.
        let _permit = gateway.permits.acquire().await.ok();
        let unreachable = |error: reqwest::Error| Error::Unreachable(error.to_string());
        let response = self
            .client
            .post(gateway.url.clone())
            .header(CONTENT_TYPE, "application/json")
            .timeout(REQUEST_TIMEOUT)
            .body(body)
            .send()
            .await
            .and_then(reqwest::Response::error_for_status);
        let mut response = response.map_err(unreachable)?;
        let mut bytes = Vec::new();
        while let Some(chunk) = response.chunk().await.map_err(unreachable)? {
            bytes.extend_from_slice(&chunk);
            if bytes.len() > MAX_RESPONSE_BYTES {
                break;
            }
        }
        // A response with a status of success accepts the notification, even if its body cannot be read.
        let answer: NotifyResponse = serde_json::from_slice(&bytes).unwrap_or_default();
        Ok(answer.rejected)
    }
}
