//! The registration of an application service, as its YAML file has it.

use std::{fmt, fs, path::Path};

use regex::{Regex, RegexBuilder};
use ruma::{RoomAliasId, RoomId, UserId};
use serde::{Deserialize, de::Error as _};

use crate::error::{Error, Result};

/// The largest registration file, in bytes.
const MAX_FILE_BYTES: u64 = 1024 * 1024;
/// The largest size of a compiled regular expression, in bytes.
const MAX_REGEX_BYTES: usize = 1024 * 1024;

/// The registration of an application service.
///
/// See the [specification](https://spec.matrix.org/v1.19/application-service-api/#registration).
#[expect(
    clippy::struct_excessive_bools,
    reason = "each is a key of the registration, independent of the others"
)]
#[derive(Clone, Deserialize)]
pub struct ServiceRegistration {
    /// The unique id of the service.
    pub id: String,
    /// The URL to which transactions are sent; without it, the service only makes requests.
    #[serde(default)]
    pub url: Option<String>,
    /// The token with which the service authenticates its requests.
    pub as_token: String,
    /// The token with which this server authenticates its requests.
    pub hs_token: String,
    /// The localpart of the service's own user.
    pub sender_localpart: String,
    #[serde(default)]
    pub namespaces: ServiceNamespaces,
    /// Whether the requests of the service are limited like those of other clients.
    #[serde(default = "default_rate_limited")]
    pub rate_limited: bool,
    /// The networks to which the service bridges.
    #[serde(default)]
    pub protocols: Option<Vec<String>>,
    #[serde(default)]
    receive_ephemeral: bool,
    /// The name of `receive_ephemeral` in MSC2409.
    #[serde(default, rename = "de.sorunome.msc2409.push_ephemeral")]
    unstable_receive_ephemeral: bool,
    /// Whether the service is sent device lists and the numbers of its one-time keys (MSC3202).
    #[serde(default, rename = "org.matrix.msc3202")]
    pub receives_device_changes: bool,
}

/// The users, aliases and rooms in which a service is interested.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct ServiceNamespaces {
    pub users: Vec<ServiceNamespace>,
    pub aliases: Vec<ServiceNamespace>,
    pub rooms: Vec<ServiceNamespace>,
}

/// A set of ids.
#[derive(Clone, Debug, Deserialize)]
pub struct ServiceNamespace {
    /// Whether only the service may create users or aliases in it.
    #[serde(default)]
    pub exclusive: bool,
    #[serde(deserialize_with = "prefix_regex")]
    regex: Regex,
}

fn default_rate_limited() -> bool {
    true
}

impl ServiceRegistration {
    /// Reads a registration file.
    ///
    /// # Errors
    ///
    /// When it cannot be read, is too large, or is not a valid registration.
    pub fn read(path: &Path) -> Result<Self> {
        let failed = |reason: String| {
            let reason = format!("{}: {reason}", path.display());
            Error::internal("read the registration of an application service", reason)
        };
        let size = fs::metadata(path).map_err(|error| failed(error.to_string()))?;
        if size.len() > MAX_FILE_BYTES {
            return Err(failed(format!(
                "the file is larger than {MAX_FILE_BYTES} bytes"
            )));
        }
        let text = fs::read_to_string(path).map_err(|error| failed(error.to_string()))?;
        Self::parse(&text).map_err(failed)
    }

    /// Parses a registration in YAML.
    pub(super) fn parse(text: &str) -> Result<Self, String> {
        let registration: Self = serde_saphyr::from_str(text).map_err(|error| error.to_string())?;
        for (name, value) in [
            ("id", &registration.id),
            ("as_token", &registration.as_token),
            ("hs_token", &registration.hs_token),
            ("sender_localpart", &registration.sender_localpart),
        ] {
            if value.is_empty() {
                return Err(format!("{name} is empty"));
            }
        }
        Ok(registration)
    }

    /// Returns whether the service is sent typing notifications, receipts, presence and to-device messages.
    pub fn receives_ephemeral(&self) -> bool {
        self.receive_ephemeral || self.unstable_receive_ephemeral
    }
}

impl fmt::Debug for ServiceRegistration {
    /// Writes only the id, because the tokens are secret.
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("ServiceRegistration")
            .field("id", &self.id)
            .finish_non_exhaustive()
    }
}

impl ServiceNamespaces {
    /// Returns whether a user id is in the namespace of the service.
    pub fn has_user(&self, user_id: &UserId) -> bool {
        matches_any(&self.users, user_id.as_str())
    }

    /// Returns whether only the service may create a user with this id.
    pub fn has_exclusive_user(&self, user_id: &UserId) -> bool {
        matches_exclusive(&self.users, user_id.as_str())
    }

    /// Returns whether an alias is in the namespace of the service.
    pub fn has_alias(&self, alias: &RoomAliasId) -> bool {
        matches_any(&self.aliases, alias.as_str())
    }

    /// Returns whether only the service may create this alias.
    pub fn has_exclusive_alias(&self, alias: &RoomAliasId) -> bool {
        matches_exclusive(&self.aliases, alias.as_str())
    }

    /// Returns whether a room id is in the namespace of the service.
    pub fn has_room(&self, room_id: &RoomId) -> bool {
        matches_any(&self.rooms, room_id.as_str())
    }
}

fn matches_any(namespaces: &[ServiceNamespace], id: &str) -> bool {
    namespaces
        .iter()
        .any(|namespace| namespace.regex.is_match(id))
}

fn matches_exclusive(namespaces: &[ServiceNamespace], id: &str) -> bool {
    let mut exclusive = namespaces.iter().filter(|namespace| namespace.exclusive);
    exclusive.any(|namespace| namespace.regex.is_match(id))
}

/// Reads a regular expression that matches from the start of an id, but not necessarily to its end, as Synapse does.
fn prefix_regex<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<Regex, D::Error> {
    let text = String::deserialize(deserializer)?;
    RegexBuilder::new(&format!("^(?:{text})"))
        .size_limit(MAX_REGEX_BYTES)
        .build()
        .map_err(D::Error::custom)
}

#[cfg(test)]
mod tests {
    use ruma::{room_alias_id, room_id, user_id};

    use super::*;

    const IRC_BRIDGE: &str = r##"
id: "IRC Bridge"
url: "http://127.0.0.1:1234"
as_token: "30c05ae90a248a4188e620216fa72e349803310ec83e2a77b34fe90be6081f46"
hs_token: "312df522183efd404ec1cd22d2ffa4bbc76a8c1ccf541dd692eef281356bb74e"
sender_localpart: "_irc_bot"
namespaces:
  users:
    - exclusive: true
      regex: "@_irc_bridge_.*"
  aliases:
    - exclusive: false
      regex: "#_irc_bridge_.*"
  rooms: []
"##;

    #[test]
    fn the_example_of_the_specification_is_read() {
        let irc = ServiceRegistration::parse(IRC_BRIDGE).unwrap();

        assert_eq!(irc.id, "IRC Bridge");
        assert_eq!(irc.url.as_deref(), Some("http://127.0.0.1:1234"));
        assert!(irc.rate_limited);
        assert!(!irc.receives_ephemeral());
        let namespaces = &irc.namespaces;
        assert!(namespaces.has_exclusive_user(user_id!("@_irc_bridge_bob:example.org")));
        assert!(!namespaces.has_user(user_id!("@bob_irc_bridge_:example.org")));
        let alias = room_alias_id!("#_irc_bridge_rust:example.org");
        assert!(namespaces.has_alias(alias));
        assert!(!namespaces.has_exclusive_alias(alias));
        assert!(!namespaces.has_room(room_id!("!a:example.org")));
    }

    #[test]
    fn keys_of_proposals_are_read() {
        let text = format!(
            "{IRC_BRIDGE}\nrate_limited: false\nde.sorunome.msc2409.push_ephemeral: true\norg.matrix.msc3202: true\n\
             protocols: [irc]\nio.element.msc4190: true\n"
        );

        let irc = ServiceRegistration::parse(&text).unwrap();

        assert!(!irc.rate_limited);
        assert!(irc.receives_ephemeral());
        assert!(irc.receives_device_changes);
        assert_eq!(irc.protocols.unwrap(), ["irc"]);
    }

    #[test]
    fn a_service_without_url_is_read() {
        let text = IRC_BRIDGE.replace("\"http://127.0.0.1:1234\"", "null");

        assert_eq!(ServiceRegistration::parse(&text).unwrap().url, None);
    }

    #[test]
    fn an_invalid_registration_is_refused() {
        for (old, new) in [
            ("as_token", "token"),
            ("\"_irc_bot\"", "\"\""),
            ("@_irc_bridge_.*", "@_irc_(bridge"),
        ] {
            let text = IRC_BRIDGE.replace(old, new);
            assert!(ServiceRegistration::parse(&text).is_err(), "{new}");
        }
    }
}
