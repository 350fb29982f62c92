//! Requests to application services.
//!
//! See the [specification](https://spec.matrix.org/v1.19/application-service-api/#homeserver---application-service-api).

use std::time::Duration;

use reqwest::{
    Client, Method, StatusCode,
    header::{AUTHORIZATION, CONTENT_TYPE},
};
use serde::Deserialize;
use url::Url;

use crate::{
    config::AppservicesSection,
    error::{Error, Result},
    outbound::{self, NetworkReach},
    users::{ApplicationService, ServiceRegistration},
};

/// The time limit of a request for which a user waits.
pub(super) const QUERY_TIMEOUT: Duration = Duration::from_secs(10);
/// The time limit of a transaction. Bridges may need long for a large one.
pub(super) const TRANSACTION_TIMEOUT: Duration = Duration::from_mins(1);
/// The largest response that is read, in bytes.
const MAX_RESPONSE_BYTES: usize = 1024 * 1024;

/// Sends requests to application services. Cheap to clone.
#[derive(Clone)]
pub(super) struct ServiceClient {
    http: Client,
    reach: NetworkReach,
}

/// A request to an application service.
pub(super) struct ServiceRequest {
    pub(super) method: Method,
    /// The segments of the path after the prefix, not encoded.
    pub(super) path: Vec<String>,
    /// The parameters of the query.
    pub(super) query: Vec<(String, String)>,
    /// The body, as JSON.
    pub(super) body: Option<String>,
    pub(super) timeout: Duration,
}

/// The response of an application service.
pub(super) struct ServiceResponse {
    pub(super) status: StatusCode,
    pub(super) body: String,
}

/// The reason why an application service gave no response.
pub(super) enum ServiceFailure {
    Timeout,
    /// It could not be reached, or the connection broke.
    Connection(String),
}

/// The prefix of paths, and that of services written before the specification had versions of endpoints.
const PATH_PREFIX: [&str; 3] = ["_matrix", "app", "v1"];
const LEGACY_THIRD_PARTY_PREFIX: [&str; 3] = ["_matrix", "app", "unstable"];

#[derive(Default, Deserialize)]
struct ErrorBody {
    errcode: Option<String>,
}

impl ServiceRequest {
    /// Returns a `GET` request for which a user waits.
    pub(super) fn get<const N: usize>(path: [&str; N]) -> Self {
        Self {
            method: Method::GET,
            path: path.map(str::to_owned).into(),
            query: Vec::new(),
            body: None,
            timeout: QUERY_TIMEOUT,
        }
    }

    fn legacy_prefix(&self) -> Option<&'static [&'static str]> {
        match self.path.first().map(String::as_str) {
            Some("thirdparty") => Some(&LEGACY_THIRD_PARTY_PREFIX),
            Some("transactions" | "users" | "rooms") => Some(&[]),
            _ => None,
        }
    }
}

impl ServiceClient {
    /// Sets up the HTTP client.
    pub(super) fn new(config: &AppservicesSection) -> Result<Self> {
        let reach = if config.allow_private_addresses {
            NetworkReach::Everywhere
        } else {
            NetworkReach::Public
        };
        Ok(Self {
            http: outbound::web_client(reach)?,
            reach,
        })
    }

    /// Returns the URL of a service, if it has one.
    ///
    /// # Errors
    ///
    /// When the URL is not valid, or leads to an address that is not allowed.
    pub(super) fn url_of(&self, registration: &ServiceRegistration) -> Result<Option<Url>> {
        let Some(url) = &registration.url else {
            return Ok(None);
        };
        let url = Url::parse(url).map_err(|error| {
            let reason = format!("{}: url: {error}", registration.id);
            Error::internal("use the registration of an application service", reason)
        })?;
        outbound::check_url(&url, self.reach)?;
        Ok(Some(url))
    }

    /// Sends a request, and returns the response, also if its status is an error.
    ///
    /// A service that does not know the path is asked at the path of earlier versions of the specification.
    pub(super) async fn send(
        &self,
        service: &ApplicationService,
        request: &ServiceRequest,
    ) -> Result<ServiceResponse, ServiceFailure> {
        let base = match self.url_of(&service.registration) {
            Ok(Some(url)) => url,
            Ok(None) => return Err(ServiceFailure::Connection("it has no URL".to_owned())),
            Err(error) => return Err(ServiceFailure::Connection(error.to_string())),
        };
        let response = self
            .send_to(service, request, request_url(&base, &PATH_PREFIX, request))
            .await?;
        match request.legacy_prefix() {
            Some(prefix) if is_unknown_path(&response) => {
                let url = request_url(&base, prefix, request);
                self.send_to(service, request, url).await
            }
            _ => Ok(response),
        }
    }

    async fn send_to(
        &self,
        service: &ApplicationService,
        request: &ServiceRequest,
        url: Url,
    ) -> Result<ServiceResponse, ServiceFailure> {
        let token = &service.registration.hs_token;
        let mut sending = self
            .http
            .request(request.method.clone(), url)
            .header(AUTHORIZATION, format!("Bearer {token}"))
            .timeout(request.timeout);
        if let Some(body) = &request.body {
            sending = sending
                .header(CONTENT_TYPE, "application/json")
                .body(body.clone());
        }
        let mut response = sending.send().await.map_err(|error| into_failure(&error))?;
        let mut bytes = Vec::new();
        while let Some(chunk) = response
            .chunk()
            .await
            .map_err(|error| into_failure(&error))?
        {
            bytes.extend_from_slice(&chunk);
            if bytes.len() > MAX_RESPONSE_BYTES {
                let reason = "the response is too large".to_owned();
                return Err(ServiceFailure::Connection(reason));
            }
        }
        Ok(ServiceResponse {
            status: response.status(),
            body: String::from_utf8_lossy(&bytes).into_owned(),
        })
    }
}

fn request_url(base: &Url, prefix: &[&str], request: &ServiceRequest) -> Url {
    let mut url = base.clone();
    if let Ok(mut segments) = url.path_segments_mut() {
        segments.pop_if_empty().extend(prefix).extend(&request.path);
    }
    if !request.query.is_empty() {
        url.query_pairs_mut().extend_pairs(&request.query);
    }
    url
}

/// Returns whether a response says that the service does not know the path, and not only that a thing does not exist.
fn is_unknown_path(response: &ServiceResponse) -> bool {
    if response.status != StatusCode::NOT_FOUND {
        return false;
    }
    let body: ErrorBody = serde_json::from_str(&response.body).unwrap_or_default();
    body.errcode.is_none_or(|code| code == "M_UNRECOGNIZED")
}

fn into_failure(error: &reqwest::Error) -> ServiceFailure {
    if error.is_timeout() {
        ServiceFailure::Timeout
    } else {
        ServiceFailure::Connection(error.to_string())
    }
}

impl From<ServiceFailure> for Error {
    fn from(failure: ServiceFailure) -> Self {
        Self::Unreachable(match failure {
            ServiceFailure::Timeout => "the application service did not answer in time".to_owned(),
            ServiceFailure::Connection(reason) => {
                format!("the application service could not be reached: {reason}")
            }
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_are_encoded_in_paths() {
        let base = Url::parse("http://localhost:9000/bridge/").unwrap();
        let request = ServiceRequest::get(["rooms", "#irc/rust:example.org"]);

        let url = request_url(&base, &PATH_PREFIX, &request);

        let expected =
            "http://localhost:9000/bridge/_matrix/app/v1/rooms/%23irc%2Frust:example.org";
        assert_eq!(url.as_str(), expected);
    }

    #[test]
    fn a_missing_thing_is_no_unknown_path() {
        let is_unknown = |body: &str| {
            is_unknown_path(&ServiceResponse {
                status: StatusCode::NOT_FOUND,
                body: body.to_owned(),
            })
        };

        assert!(is_unknown("<h1>Not found</h1>"));
        assert!(is_unknown(r#"{"errcode":"M_UNRECOGNIZED"}"#));
        assert!(!is_unknown(r#"{"errcode":"M_NOT_FOUND"}"#));
    }
}
