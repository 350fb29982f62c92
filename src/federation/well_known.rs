//! Reads `/.well-known/matrix/server`, with which a host delegates to the address of its server.
//!
//! See the [specification](https://spec.matrix.org/v1.19/server-server-api/#resolving-server-names).

use std::time::Duration;

use reqwest::{
    Client, Response,
    header::{CACHE_CONTROL, HeaderMap},
};
use ruma::{OwnedServerName, ServerName};

/// The time limit of a request.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(10);
/// The largest answer that is read; typical ones have fifty bytes.
const MAX_BYTES: usize = 50 * 1024;
/// "The recommended sensible default is 24 hours. Servers should additionally impose a maximum cache time for
/// responses: 48 hours is recommended."
const DEFAULT_LIFETIME: Duration = Duration::from_hours(24);
const MAX_LIFETIME: Duration = Duration::from_hours(48);
/// The lower limit for the cache time that a server chooses.
const MIN_LIFETIME: Duration = Duration::from_mins(5);
/// "Errors are recommended to be cached for up to an hour". The time is shorter if the host could not be reached.
const ERROR_LIFETIME: Duration = Duration::from_hours(1);
const FAILURE_LIFETIME: Duration = Duration::from_mins(5);

/// Asks a host for the name of its server. Returns the name, or `None` if there is none, and the time to cache it.
pub(super) async fn fetch_delegation(
    client: &Client,
    host: &str,
) -> (Option<OwnedServerName>, Duration) {
    fetch_delegation_from(client, &format!("https://{host}/.well-known/matrix/server")).await
}

async fn fetch_delegation_from(
    client: &Client,
    address: &str,
) -> (Option<OwnedServerName>, Duration) {
    let asking = async {
        let response = client.get(address).send().await?;
        let headers = response.headers().clone();
        let is_success = response.status() == reqwest::StatusCode::OK;
        let body = if is_success {
            read_body(response).await?
        } else {
            None
        };
        Ok::<_, reqwest::Error>((headers, body.and_then(|body| parse_server_name(&body))))
    };
    match tokio::time::timeout(REQUEST_TIMEOUT, asking).await {
        Ok(Ok((headers, Some(server)))) => (Some(server), cache_lifetime(&headers)),
        Ok(Ok((headers, None))) => (None, cache_lifetime(&headers).min(ERROR_LIFETIME)),
        Ok(Err(error)) => {
            tracing::debug!(address, %error, "the .well-known of a host could not be fetched");
            (None, FAILURE_LIFETIME)
        }
        Err(_) => (None, FAILURE_LIFETIME),
    }
}

/// Reads the body; `None` if it is too long.
async fn read_body(mut response: Response) -> reqwest::Result<Option<Vec<u8>>> {
    let mut body = Vec::new();
    while let Some(chunk) = response.chunk().await? {
        body.extend_from_slice(&chunk);
        if body.len() > MAX_BYTES {
            return Ok(None);
        }
    }
    Ok(Some(body))
}

fn parse_server_name(body: &[u8]) -> Option<OwnedServerName> {
    let value: serde_json::Value = serde_json::from_slice(body).ok()?;
    ServerName::parse(value.get("m.server")?.as_str()?).ok()
}

/// Returns the time to cache an answer, by its headers.
fn cache_lifetime(headers: &HeaderMap) -> Duration {
    let directives = headers.get_all(CACHE_CONTROL).into_iter();
    let directives = directives.filter_map(|value| value.to_str().ok());
    let mut lifetime = DEFAULT_LIFETIME;
    for directive in directives.flat_map(|value| value.split(',')) {
        let directive = directive.trim().to_ascii_lowercase();
        if directive == "no-store" || directive == "no-cache" {
            return MIN_LIFETIME;
        }
        if let Some(seconds) = directive.strip_prefix("max-age=")
            && let Ok(seconds) = seconds.trim_matches('"').parse()
        {
            lifetime = Duration::from_secs(seconds);
        }
    }
    lifetime.clamp(MIN_LIFETIME, MAX_LIFETIME)
}

#[cfg(test)]
mod tests {
    use axum::{Router, response::Redirect, routing::get};

    use super::*;
    use crate::{
        outbound::{self, NetworkReach},
        tasks::Tasks,
    };

    fn with(cache_control: &'static str) -> HeaderMap {
        let mut headers = HeaderMap::new();
        headers.insert(CACHE_CONTROL, cache_control.parse().unwrap());
        headers
    }

    #[test]
    fn headers_set_the_lifetime_of_an_answer_within_bounds() {
        assert_eq!(cache_lifetime(&HeaderMap::new()), DEFAULT_LIFETIME);
        assert_eq!(
            cache_lifetime(&with("public, max-age=3600")),
            Duration::from_hours(1)
        );
        assert_eq!(cache_lifetime(&with("max-age=999999999")), MAX_LIFETIME);
        assert_eq!(cache_lifetime(&with("max-age=0")), MIN_LIFETIME);
        assert_eq!(cache_lifetime(&with("No-Store")), MIN_LIFETIME);
        assert_eq!(cache_lifetime(&with("max-age=x")), DEFAULT_LIFETIME);
    }

    #[test]
    fn only_a_server_name_is_an_answer() {
        let parsed =
            |body: &str| parse_server_name(body.as_bytes()).map(|server| server.to_string());

        let good = r#"{"m.server":"b.example:443"}"#;
        assert_eq!(parsed(good).as_deref(), Some("b.example:443"));
        for bad in ["", "{}", r#"{"m.server":1}"#, r#"{"m.server":"a b"}"#] {
            assert_eq!(parsed(bad), None, "{bad}");
        }
    }

    #[tokio::test]
    async fn endless_redirects_and_long_answers_give_no_server() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let base = format!("http://{}", listener.local_addr().unwrap());
        let answer = r#"{"m.server":"b.example"}"#;
        let long = format!("{answer}{}", " ".repeat(MAX_BYTES));
        let router = Router::new()
            .route(
                "/good",
                get(async move || ([("cache-control", "max-age=600")], answer)),
            )
            .route("/there", get(async || Redirect::temporary("/good")))
            .route("/round", get(async || Redirect::temporary("/round")))
            .route("/long", get(async move || long));
        let tasks = Tasks::default();
        drop(tasks.spawn(async move { axum::serve(listener, router).await }));
        let client = outbound::web_client(NetworkReach::Everywhere).unwrap();
        let look_up =
            async |path: &str| fetch_delegation_from(&client, &format!("{base}/{path}")).await;

        let (server, lifetime) = look_up("there").await;
        assert_eq!(server.unwrap(), "b.example");
        assert_eq!(lifetime, Duration::from_mins(10));
        assert_eq!(look_up("round").await, (None, FAILURE_LIFETIME));
        assert_eq!(look_up("long").await, (None, ERROR_LIFETIME));
        assert_eq!(look_up("nothing").await, (None, ERROR_LIFETIME));
    }
}
