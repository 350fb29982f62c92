//! Names and addresses that this server announces to others. An impossible one is refused when the configuration is
//! read.

use ruma::{OwnedServerName, ServerName};
use serde::{Deserialize, Deserializer, de::Error as _};
use url::Url;

/// The URI schemes of TURN and STUN servers.
///
/// See [RFC 7064](https://www.rfc-editor.org/rfc/rfc7064) and [RFC 7065](https://www.rfc-editor.org/rfc/rfc7065).
const TURN_SCHEMES: [&str; 4] = ["turn", "turns", "stun", "stuns"];

/// Reads the name of this server.
pub(super) fn server_name<'de, D: Deserializer<'de>>(
    deserializer: D,
) -> Result<OwnedServerName, D::Error> {
    let name = OwnedServerName::deserialize(deserializer)?;
    if !is_reachable(&name) {
        return Err(D::Error::custom(
            "expected a host name or an IP address, and a port other than 0 if any",
        ));
    }
    Ok(name)
}

/// Reads the addresses of TURN servers.
pub(super) fn turn_uris<'de, D: Deserializer<'de>>(
    deserializer: D,
) -> Result<Vec<String>, D::Error> {
    let uris = Vec::<String>::deserialize(deserializer)?;
    match uris.iter().find(|uri| !is_turn_uri(uri)) {
        None => Ok(uris),
        Some(wrong) => Err(D::Error::custom(format!(
            "{wrong:?} is not the address of a TURN server, like `turn:turn.example.org:3478?transport=udp`"
        ))),
    }
}

/// Reads an e-mail address; an empty string means none.
pub(super) fn email_address<'de, D: Deserializer<'de>>(
    deserializer: D,
) -> Result<Option<String>, D::Error> {
    let expected = "expected an e-mail address, like `admin@example.org`";
    optional_text(deserializer, is_email_address, expected)
}

/// Reads the address of a web page; an empty string means none.
pub(super) fn page_address<'de, D: Deserializer<'de>>(
    deserializer: D,
) -> Result<Option<String>, D::Error> {
    let expected = "expected the address of a page, like `https://example.org/help`";
    optional_text(deserializer, is_page_address, expected)
}

fn optional_text<'de, D: Deserializer<'de>>(
    deserializer: D,
    is_valid: fn(&str) -> bool,
    expected: &str,
) -> Result<Option<String>, D::Error> {
    let text = String::deserialize(deserializer)?;
    if text.is_empty() {
        return Ok(None);
    }
    if is_valid(&text) {
        Ok(Some(text))
    } else {
        Err(D::Error::custom(expected))
    }
}

/// Returns whether a server with this name is possible. The grammar of Matrix allows more names.
fn is_reachable(name: &ServerName) -> bool {
    let host = name.host();
    let has_labels = host.starts_with('[') || host.split('.').all(|label| !label.is_empty());
    has_labels && name.port() != Some(0)
}

fn is_turn_uri(uri: &str) -> bool {
    let Some((scheme, rest)) = uri.split_once(':') else {
        return false;
    };
    let (server, query) = match rest.split_once('?') {
        Some((server, query)) => (server, Some(query)),
        None => (rest, None),
    };
    let is_transport = |query: &str| {
        let transport = query.strip_prefix("transport=").unwrap_or_default();
        !transport.is_empty() && transport.bytes().all(|b| b.is_ascii_alphanumeric())
    };
    TURN_SCHEMES.contains(&scheme)
        && <&ServerName>::try_from(server).is_ok_and(is_reachable)
        && query.is_none_or(is_transport)
}

fn is_email_address(text: &str) -> bool {
    let is_plain = !text.contains(|c: char| c.is_whitespace() || c.is_control());
    let parts = text.rsplit_once('@');
    is_plain && parts.is_some_and(|(user, host)| !user.is_empty() && !host.is_empty())
}

fn is_page_address(text: &str) -> bool {
    Url::parse(text).is_ok_and(|url| matches!(url.scheme(), "http" | "https") && url.has_host())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_server_name_has_a_host_and_no_zero_port() {
        let is_valid = |name: &str| <&ServerName>::try_from(name).is_ok_and(is_reachable);

        for name in ["example.org", "localhost:8448", "127.0.0.1", "[::1]:8448"] {
            assert!(is_valid(name), "{name}");
        }
        for name in ["...", "example..org", ".org", "x:0"] {
            assert!(!is_valid(name), "{name}");
        }
    }

    #[test]
    fn a_turn_uri_has_a_scheme_and_a_host() {
        for uri in [
            "turn:turn.example.org",
            "turns:[2001:db8::1]:5349?transport=tcp",
            "stun:192.0.2.1:3478",
        ] {
            assert!(is_turn_uri(uri), "{uri}");
        }
        for uri in ["x", "turn:", "turn:a b", "turn:a?", "turn:a?udp", "http:a"] {
            assert!(!is_turn_uri(uri), "{uri}");
        }
    }

    #[test]
    fn support_addresses_are_valid_mail_and_web_addresses() {
        assert!(is_email_address("admin+matrix@example.org"));
        for text in ["x", "@example.org", "admin@", "a b@example.org"] {
            assert!(!is_email_address(text), "{text}");
        }
        assert!(is_page_address("https://example.org/help"));
        for text in ["x", "javascript:alert(1)", "/help", "https://"] {
            assert!(!is_page_address(text), "{text}");
        }
    }
}
