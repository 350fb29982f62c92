//! The URIs to which users are sent back after they have signed in a client.
//!
//! See the [specification](https://spec.matrix.org/v1.19/client-server-api/#redirect-uri-validation).

use url::{Host, Url};

/// The longest URI of a client, in bytes.
pub(super) const MAX_URI_BYTES: usize = 2_048;

/// The kind of a client, which decides the redirect URIs that it may have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum ClientKind {
    Web,
    Native,
}

/// Returns whether a client with this URI may have a redirect URI. `allows_http` is for servers without TLS, on which
/// clients are developed.
pub(super) fn is_allowed_redirect(
    uri: &str,
    client_uri: &Url,
    kind: ClientKind,
    allows_http: bool,
) -> bool {
    let Ok(url) = Url::parse(uri) else {
        return false;
    };
    if uri.len() > MAX_URI_BYTES || url.fragment().is_some() {
        return false;
    }
    if is_on_host_of(&url, client_uri, allows_http) {
        return true;
    }
    kind == ClientKind::Native
        && (is_portless_loopback(&url) || is_private_use_scheme(uri, &url, client_uri))
}

/// Returns whether a web page is on the host of the client, or on a subdomain of it.
///
/// "Those MUST be either on the same host or on a subdomain of the host of the `client_uri`. The port number, path and
/// query components MAY be different."
pub(super) fn is_on_host_of(url: &Url, client_uri: &Url, allows_http: bool) -> bool {
    if !is_page_address(url, allows_http) {
        return false;
    }
    match (url.host(), client_uri.host()) {
        (Some(Host::Domain(host)), Some(Host::Domain(base))) => {
            let prefix = host.strip_suffix(base);
            prefix.is_some_and(|prefix| prefix.is_empty() || prefix.ends_with('.'))
        }
        (host, base) => host == base,
    }
}

/// Returns whether a URL is the address of a web page: with TLS and without a user name.
pub(super) fn is_page_address(url: &Url, allows_http: bool) -> bool {
    let has_scheme = url.scheme() == "https" || (allows_http && url.scheme() == "http");
    has_scheme && url.host().is_some() && url.username().is_empty() && url.password().is_none()
}

/// "The host part MUST be `localhost`, `127.0.0.1`, or `[::1]`. There MUST NOT be a port."
fn is_portless_loopback(url: &Url) -> bool {
    let is_plain = url.port().is_none() && url.username().is_empty() && url.password().is_none();
    url.scheme() == "http"
        && is_plain
        && matches!(url.host_str(), Some("localhost" | "127.0.0.1" | "[::1]"))
}

/// "The scheme MUST be prefixed with the client URI hostname in reverse-DNS notation. There MUST NOT be an authority
/// component."
fn is_private_use_scheme(uri: &str, url: &Url, client_uri: &Url) -> bool {
    let Some(Host::Domain(domain)) = client_uri.host() else {
        return false;
    };
    let labels: Vec<&str> = domain.rsplit('.').collect();
    let reversed = labels.join(".");
    let rest = url.scheme().strip_prefix(&*reversed);
    let has_scheme = rest.is_some_and(|rest| rest.is_empty() || rest.starts_with('.'));
    let after_scheme = uri.get(url.scheme().len()..).unwrap_or_default();
    has_scheme && !after_scheme.starts_with("://")
}

/// Returns whether a redirect URI of a request is one that the client has registered.
///
/// "The homeserver MUST then accept any port number during the authorisation flow" on the loopback interface; others
/// must be equal.
pub(super) fn is_registered(uri: &str, registered: &[String]) -> bool {
    if registered.iter().any(|known| known == uri) {
        return true;
    }
    let Ok(mut url) = Url::parse(uri) else {
        return false;
    };
    if url.port().is_none() || url.set_port(None).is_err() {
        return false;
    }
    let mut registered = registered.iter().filter_map(|known| Url::parse(known).ok());
    registered.any(|known| known == url && is_portless_loopback(&known))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn allowed(uri: &str, kind: ClientKind) -> bool {
        let client_uri = Url::parse("https://example.com/").unwrap();
        is_allowed_redirect(uri, &client_uri, kind, false)
    }

    #[test]
    fn web_clients_are_on_the_host_of_the_client() {
        for uri in [
            "https://example.com/callback",
            "https://app.example.com/callback",
            "https://example.com:5173/?query=value",
        ] {
            assert!(allowed(uri, ClientKind::Web), "{uri}");
            assert!(allowed(uri, ClientKind::Native), "{uri}");
        }
        for uri in [
            "https://example.com/callback#fragment",
            "http://example.com/callback",
            "https://badexample.com/",
            "https://example.com.evil.org/",
            "https://user@example.com/",
            "http://localhost/",
            "com.example:/",
            "javascript:alert(1)",
            "not a uri",
        ] {
            assert!(!allowed(uri, ClientKind::Web), "{uri}");
        }
    }

    #[test]
    fn native_clients_may_use_their_own_scheme_and_the_loopback_interface() {
        for uri in [
            "com.example.app:/callback",
            "com.example:/",
            "com.example:callback",
            "http://localhost/callback",
            "http://127.0.0.1/callback",
            "http://[::1]/callback",
        ] {
            assert!(allowed(uri, ClientKind::Native), "{uri}");
        }
        for uri in [
            "example:/callback",
            "com.example.app://callback",
            "com.examples:/callback",
            "https://localhost/callback",
            "http://localhost:1234/callback",
            "http://192.168.0.1/callback",
            "javascript:alert(1)",
        ] {
            assert!(!allowed(uri, ClientKind::Native), "{uri}");
        }
    }

    #[test]
    fn only_the_port_of_a_loopback_uri_may_differ() {
        let registered = [
            "http://127.0.0.1/callback".to_owned(),
            "https://example.com/callback".to_owned(),
        ];

        assert!(is_registered("http://127.0.0.1:4321/callback", &registered));
        assert!(is_registered("https://example.com/callback", &registered));
        assert!(!is_registered("http://127.0.0.1:4321/other", &registered));
        assert!(!is_registered("http://127.0.0.1/callback/", &registered));
        let other_port = "https://example.com:8443/callback";
        assert!(!is_registered(other_port, &registered));
    }
}
