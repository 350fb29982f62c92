//! The HTTP requests of the library for OpenID Connect.

use std::{pin::Pin, time::Duration};

use openidconnect::{AsyncHttpClient, HttpRequest, HttpResponse};
use reqwest::Client;

/// The time limit of a request.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(10);
/// The largest response that is read, in bytes.
const MAX_RESPONSE_BYTES: usize = 256 * 1024;

/// Sends requests to one identity provider.
pub(super) struct ProviderHttp {
    pub(super) http: Client,
    /// Whether addresses without TLS are allowed, because the provider is on the same machine.
    pub(super) allows_plain: bool,
}

/// The reason why a request failed.
#[derive(Debug, thiserror::Error)]
pub(super) enum ProviderRequestError {
    #[error("the address {0} has no TLS")]
    Plain(String),
    #[error("the response is too large")]
    TooLarge,
    #[error("{0:?}")]
    Http(#[from] reqwest::Error),
}

impl<'c> AsyncHttpClient<'c> for ProviderHttp {
    type Error = ProviderRequestError;
    type Future = Pin<Box<dyn Future<Output = Result<HttpResponse, Self::Error>> + Send + 'c>>;

    fn call(&'c self, request: HttpRequest) -> Self::Future {
        Box::pin(self.send(request))
    }
}

impl ProviderHttp {
    async fn send(&self, request: HttpRequest) -> Result<HttpResponse, ProviderRequestError> {
        let mut request = reqwest::Request::try_from(request)?;
        let url = request.url();
        if url.scheme() != "https" && !self.allows_plain {
            return Err(ProviderRequestError::Plain(url.to_string()));
        }
        *request.timeout_mut() = Some(REQUEST_TIMEOUT);
        let mut response = self.http.execute(request).await?;
        let mut body = Vec::new();
        while let Some(chunk) = response.chunk().await? {
            body.extend_from_slice(&chunk);
            if body.len() > MAX_RESPONSE_BYTES {
                return Err(ProviderRequestError::TooLarge);
            }
        }
        let mut answer = HttpResponse::new(body);
        *answer.status_mut() = response.status();
        *answer.headers_mut() = response.headers().clone();
        Ok(answer)
    }
}
