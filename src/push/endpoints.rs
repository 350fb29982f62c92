//! The servers to which notifications are sent: push gateways of clients, and push services of browsers.
//!
//! See the [specification](https://spec.matrix.org/v1.19/push-gateway-api/) for push gateways, and
//! [RFC 8030](https://www.rfc-editor.org/rfc/rfc8030) for push services.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use reqwest::{
    Body, Client, Response, StatusCode,
    header::{AUTHORIZATION, CONTENT_ENCODING, CONTENT_TYPE, HeaderMap, HeaderValue},
};
use serde::Deserialize;
use tokio::sync::Semaphore;
use url::Url;

use crate::{
    config::PushSection,
    error::{Error, Result},
    outbound::{self, NetworkReach},
    users::WebPushSubscription,
};

/// The time limit of a request.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(15);
/// The number of simultaneous requests to one host.
const MAX_REQUESTS_PER_HOST: usize = 32;
/// The number of hosts in memory above which those without a pusher are forgotten.
const MAX_HOSTS_IN_MEMORY: usize = 1_000;
/// The largest response that is read, in bytes.
const MAX_RESPONSE_BYTES: usize = 64 * 1024;
/// The time for which a push service keeps a message for a client that is offline, in seconds.
const MESSAGE_LIFETIME_S: u32 = 24 * 60 * 60;

/// The servers to which notifications are sent.
pub(super) struct PushEndpoints {
    client: Client,
    reach: NetworkReach,
    permits: Mutex<HashMap<String, Arc<Semaphore>>>,
}

/// An address to which notifications are sent.
#[derive(Clone)]
pub(super) struct PushEndpoint {
    pub(super) url: Url,
    /// Limits the simultaneous requests, so that a slow host takes nothing from the others.
    permits: Arc<Semaphore>,
}

/// The push service of a Web Push pusher, and the client behind it.
#[derive(Clone)]
pub(super) struct WebPushTarget {
    pub(super) service: PushEndpoint,
    pub(super) subscription: WebPushSubscription,
}

/// The priority of a notification: high ones must arrive at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum PushPriority {
    High,
    Low,
}

/// A message to a push service.
pub(super) struct WebPushMessage {
    /// The encrypted content.
    pub(super) body: Vec<u8>,
    /// The value of the header `Authorization`.
    pub(super) authorization: String,
    pub(super) priority: PushPriority,
}

/// The answer of a push service that is not a temporary failure.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum WebPushAnswer {
    Accepted,
    /// The push service can never deliver this message.
    MessageRefused,
    /// The subscription has ended.
    SubscriptionEnded,
}

impl PushPriority {
    /// Returns the name, which push gateways and push services share.
    pub(super) fn as_str(self) -> &'static str {
        match self {
            Self::High => "high",
            Self::Low => "low",
        }
    }
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct NotifyResponse {
    rejected: Vec<String>,
}

impl PushEndpoints {
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

    /// Returns the endpoint with a URL, unless this server does not contact its address.
    pub(super) fn find(&self, url: &str) -> Option<PushEndpoint> {
        let url = Url::parse(url).ok()?;
        outbound::check_url(&url, self.reach).ok()?;
        let host = url.host_str()?.to_owned();
        let mut permits = self.permits.lock().unwrap_or_else(PoisonError::into_inner);
        if permits.len() >= MAX_HOSTS_IN_MEMORY {
            permits.retain(|_, permits| Arc::strong_count(permits) > 1);
        }
        let new = || Arc::new(Semaphore::new(MAX_REQUESTS_PER_HOST));
        let permits = permits.entry(host).or_insert_with(new).clone();
        Some(PushEndpoint { url, permits })
    }

    /// Sends a notification to a push gateway, and returns the pushkeys that are no longer valid.
    pub(super) async fn notify(&self, gateway: &PushEndpoint, body: String) -> Result<Vec<String>> {
        let json = HeaderValue::from_static("application/json");
        let headers = HeaderMap::from_iter([(CONTENT_TYPE, json)]);
        // The semaphore is never closed.
        let _permit = gateway.permits.acquire().await.ok();
        let response = self.post(gateway, headers, body).await?;
        let mut response = response
            .error_for_status()
            .map_err(|error| unreachable(&error))?;
        let mut bytes = Vec::new();
        while let Some(chunk) = response
            .chunk()
            .await
            .map_err(|error| unreachable(&error))?
        {
            bytes.extend_from_slice(&chunk);
            if bytes.len() > MAX_RESPONSE_BYTES {
                break;
            }
        }
        // A response with a status of success accepts the notification, even if its body cannot be read.
        let answer: NotifyResponse = serde_json::from_slice(&bytes).unwrap_or_default();
        Ok(answer.rejected)
    }

    /// Sends a message to a push service.
    ///
    /// # Errors
    ///
    /// [`Error::Unreachable`] when the message must be sent again later.
    pub(super) async fn send_web_push(
        &self,
        service: &PushEndpoint,
        message: WebPushMessage,
    ) -> Result<WebPushAnswer> {
        let authorization = HeaderValue::try_from(message.authorization)
            .map_err(|source| Error::internal("write the header Authorization", source))?;
        let mut headers = HeaderMap::from_iter([
            (
                CONTENT_TYPE,
                HeaderValue::from_static("application/octet-stream"),
            ),
            (CONTENT_ENCODING, HeaderValue::from_static("aes128gcm")),
            (AUTHORIZATION, authorization),
        ]);
        headers.insert("ttl", HeaderValue::from(MESSAGE_LIFETIME_S));
        headers.insert(
            "urgency",
            HeaderValue::from_static(message.priority.as_str()),
        );
        let _permit = service.permits.acquire().await.ok();
        let response = self.post(service, headers, message.body).await?;
        match response.status() {
            status if status.is_success() => Ok(WebPushAnswer::Accepted),
            StatusCode::FORBIDDEN | StatusCode::NOT_FOUND | StatusCode::GONE => {
                Ok(WebPushAnswer::SubscriptionEnded)
            }
            StatusCode::BAD_REQUEST | StatusCode::PAYLOAD_TOO_LARGE => {
                Ok(WebPushAnswer::MessageRefused)
            }
            status => Err(Error::Unreachable(format!(
                "the push service answered with the status {status}"
            ))),
        }
    }

    async fn post(
        &self,
        endpoint: &PushEndpoint,
        headers: HeaderMap,
        body: impl Into<Body>,
    ) -> Result<Response> {
        self.client
            .post(endpoint.url.clone())
            .headers(headers)
            .timeout(REQUEST_TIMEOUT)
            .body(body)
            .send()
            .await
            .map_err(|error| unreachable(&error))
    }
}

fn unreachable(error: &reqwest::Error) -> Error {
    Error::Unreachable(error.to_string())
}
