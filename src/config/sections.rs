//! Every key of the configuration, with its default. `config.example.toml` explains them to operators.

use std::{
    net::{Ipv4Addr, SocketAddr},
    path::PathBuf,
    time::Duration,
};

use ruma::{OwnedServerName, OwnedUserId, RoomVersionId};
use serde::{Deserialize, Serialize};

use super::{
    addresses::{email_address, page_address, server_name, turn_uris},
    values::{
        AddressHeader, BaseUrl, DatabaseUrl, LegacyMedia, Localpart, Network, Secret, between,
        empty_is_none, filter, path, room_version,
    },
};

/// The configuration of a server.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// Who this server is.
    pub server: Server,
    /// Where it listens; each listener serves both the client and the federation API.
    pub listen: Vec<Listen>,
    /// The connections that it holds open.
    pub connections: Connections,
    /// Where it keeps its data.
    pub database: Database,
    /// Who may register.
    pub registration: Registration,
    /// How passwords are hashed.
    pub passwords: Passwords,
    /// What of rooms and users can be searched.
    pub directory: Directory,
    /// How it talks to other servers.
    pub federation: Federation,
    /// What it bounds.
    pub limits: Limits,
    /// What it stores of files.
    pub media: Media,
    /// Whether it looks at the pages that messages link to.
    pub url_previews: UrlPreviews,
    /// Where calls find a relay.
    pub turn: Turn,
    /// Who tells users what the server has to say.
    pub server_notices: ServerNotices,
    /// What it logs.
    pub logging: Logging,
    /// Where it shows its metrics.
    pub metrics: Metrics,
    /// Whom users may ask for help.
    pub support: Support,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            server: Server::default(),
            listen: vec![Listen::default()],
            connections: Connections::default(),
            database: Database::default(),
            registration: Registration::default(),
            passwords: Passwords::default(),
            directory: Directory::default(),
            federation: Federation::default(),
            limits: Limits::default(),
            media: Media::default(),
            url_previews: UrlPreviews::default(),
            turn: Turn::default(),
            server_notices: ServerNotices::default(),
            logging: Logging::default(),
            metrics: Metrics::default(),
            support: Support::default(),
        }
    }
}

/// `[server]`: who this server is.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct Server {
    /// The name that stands after the colon of its users' ids; it can never change.
    #[serde(deserialize_with = "server_name")]
    pub name: OwnedServerName,
    /// The address under which clients reach it; that of the first listener when unset.
    #[serde(with = "empty_is_none")]
    pub public_url: Option<BaseUrl>,
    /// The folder of the database, the signing key and the media, unless placed elsewhere.
    #[serde(deserialize_with = "path")]
    pub data_dir: PathBuf,
    /// The version of new rooms.
    #[serde(deserialize_with = "room_version")]
    pub default_room_version: RoomVersionId,
}

impl Default for Server {
    fn default() -> Self {
        Self {
            name: ruma::server_name!("localhost").to_owned(),
            public_url: None,
            data_dir: PathBuf::from("parlour-data"),
            default_room_version: RoomVersionId::V12,
        }
    }
}

/// `[[listen]]`: an address to listen on.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct Listen {
    /// The IP address and port.
    pub address: SocketAddr,
    /// The PEM file of the certificate chain; with it, the listener speaks TLS.
    #[serde(with = "empty_is_none")]
    pub tls_certificate: Option<PathBuf>,
    /// The PEM file of the certificate's private key.
    #[serde(with = "empty_is_none")]
    pub tls_key: Option<PathBuf>,
}

impl Default for Listen {
    fn default() -> Self {
        Self {
            address: SocketAddr::from((Ipv4Addr::LOCALHOST, 8008)),
            tls_certificate: None,
            tls_key: None,
        }
    }
}

/// `[connections]`: the connections that are open, and the reverse proxies that some of them come from.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct Connections {
    /// The connections that are open at once, of all listeners together.
    #[serde(deserialize_with = "between::<16, 1_000_000, _, _>")]
    pub max_open: usize,
    /// Those of them that come from one address, or one /64 network of IPv6.
    #[serde(deserialize_with = "between::<1, 1_000_000, _, _>")]
    pub max_open_per_address: usize,
    /// The seconds within which a client must have sent the head of a request, or made a TLS handshake.
    #[serde(deserialize_with = "between::<1, 3_600, _, _>")]
    pub head_timeout_seconds: u64,
    /// The seconds for which a connection without a request stays open.
    #[serde(deserialize_with = "between::<1, 3_600, _, _>")]
    pub idle_timeout_seconds: u64,
    /// The seconds for which the next part of a request's body is waited for.
    #[serde(deserialize_with = "between::<1, 3_600, _, _>")]
    pub body_timeout_seconds: u64,
    /// The seconds within which a client must take the next part of an answer.
    #[serde(deserialize_with = "between::<1, 3_600, _, _>")]
    pub write_timeout_seconds: u64,
    /// The reverse proxies that are believed when they name the address of a client.
    pub trusted_proxies: Vec<Network>,
    /// The headers in which they name it; the first that a request has counts.
    pub address_headers: Vec<AddressHeader>,
}

impl Default for Connections {
    fn default() -> Self {
        Self {
            max_open: 20_000,
            max_open_per_address: 1_000,
            head_timeout_seconds: 30,
            idle_timeout_seconds: 75,
            body_timeout_seconds: 30,
            write_timeout_seconds: 60,
            trusted_proxies: Vec::new(),
            address_headers: vec![
                AddressHeader::XForwardedFor,
                AddressHeader::Forwarded,
                AddressHeader::XRealIp,
            ],
        }
    }
}

impl Connections {
    /// Returns how long the head of a request, or a TLS handshake, may take.
    pub fn head_timeout(&self) -> Duration {
        Duration::from_secs(self.head_timeout_seconds)
    }

    /// Returns how long a connection without a request stays open.
    pub fn idle_timeout(&self) -> Duration {
        Duration::from_secs(self.idle_timeout_seconds)
    }

    /// Returns how long the next part of a request's body is waited for.
    pub fn body_timeout(&self) -> Duration {
        Duration::from_secs(self.body_timeout_seconds)
    }

    /// Returns how long a client may take for the next part of an answer.
    pub fn write_timeout(&self) -> Duration {
        Duration::from_secs(self.write_timeout_seconds)
    }
}

/// `[database]`: where the data is kept.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct Database {
    /// `sqlite:PATH`, taken from `server.data_dir`, or `postgres://…`.
    pub url: DatabaseUrl,
}

impl Default for Database {
    fn default() -> Self {
        Self {
            url: DatabaseUrl::sqlite("parlour.db"),
        }
    }
}

/// `[registration]`: who may register.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct Registration {
    /// Whether anybody may; else a registration token is needed.
    pub open: bool,
    /// Whether a link into a room is such a token.
    pub invite_links: bool,
    /// Whether guests may.
    pub guests: bool,
    /// The secret of `/_synapse/admin/v1/register`; unset, there is no such endpoint.
    #[serde(with = "empty_is_none")]
    pub shared_secret: Option<Secret>,
}

impl Default for Registration {
    fn default() -> Self {
        Self {
            open: false,
            invite_links: true,
            guests: false,
            shared_secret: None,
        }
    }
}

/// `[passwords]`: what argon2id spends on a password.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct Passwords {
    /// Memory for one hash, in KiB.
    #[serde(deserialize_with = "between::<8, 4_194_304, _, _>")]
    pub memory_kib: u32,
    /// Passes over that memory.
    #[serde(deserialize_with = "between::<1, 1_000, _, _>")]
    pub iterations: u32,
}

impl Default for Passwords {
    fn default() -> Self {
        Self {
            memory_kib: 19_456,
            iterations: 2,
        }
    }
}

/// `[directory]`: what can be searched.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct Directory {
    /// Whether strangers and other servers see the public room list.
    pub public_without_login: bool,
    /// Whether a user finds all users, or only those who share a room with them or are in a public one.
    pub all_users_searchable: bool,
    /// Whether the list of people of the chat page has all users, or only those who can be found.
    pub all_users_listed: bool,
}

impl Default for Directory {
    fn default() -> Self {
        Self {
            public_without_login: false,
            all_users_searchable: false,
            all_users_listed: true,
        }
    }
}

/// `[federation]`: how this server talks to others.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct Federation {
    /// Whether it talks to other servers at all.
    pub enabled: bool,
    /// PEM files of authorities to trust beside the public ones.
    pub trusted_ca: Vec<PathBuf>,
    /// Whether the certificates of other servers are verified.
    pub verify_certificates: bool,
    /// Whether other servers may be at loopback and private addresses.
    pub allow_private_addresses: bool,
    /// The servers that are asked for the keys of servers that do not answer.
    pub notaries: Vec<OwnedServerName>,
}

impl Default for Federation {
    fn default() -> Self {
        Self {
            notaries: vec![ruma::server_name!("matrix.org").to_owned()],
            enabled: true,
            trusted_ca: Vec::new(),
            verify_certificates: true,
            allow_private_addresses: false,
        }
    }
}

/// `[limits]`: what is bounded.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct Limits {
    /// Whether logins, registrations, messages, and what other servers cause (invitations, and the keys of servers that
    /// nobody knows) are limited in their rate.
    pub enabled: bool,
    /// The largest JSON body of a request.
    #[serde(deserialize_with = "between::<65_536, 1_073_741_824, _, _>")]
    pub max_request_bytes: usize,
    /// The logins that may come from one address at once.
    #[serde(deserialize_with = "between::<1, 1_000_000, _, _>")]
    pub login_burst: u32,
    /// The logins that may come from one address in a minute after that.
    #[serde(deserialize_with = "between::<1, 1_000_000, _, _>")]
    pub login_per_minute: u32,
    /// The accounts that may be registered from one address at once.
    #[serde(deserialize_with = "between::<1, 1_000_000, _, _>")]
    pub registration_burst: u32,
    /// The accounts that may be registered from one address in a minute after that.
    #[serde(deserialize_with = "between::<1, 1_000_000, _, _>")]
    pub registration_per_minute: u32,
    /// The events that one user may send at once.
    #[serde(deserialize_with = "between::<1, 1_000_000, _, _>")]
    pub sending_burst: u32,
    /// The events that one user may send in a minute after that.
    #[serde(deserialize_with = "between::<1, 1_000_000, _, _>")]
    pub sending_per_minute: u32,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            enabled: true,
            max_request_bytes: 1024 * 1024,
            login_burst: 20,
            login_per_minute: 12,
            registration_burst: 20,
            registration_per_minute: 2,
            sending_burst: 100,
            sending_per_minute: 600,
        }
    }
}

/// `[media]`: what is stored of files.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct Media {
    /// The largest file that can be uploaded.
    #[serde(deserialize_with = "between::<1, 1_099_511_627_776, _, _>")]
    pub max_upload_bytes: u64,
    /// The folder of the files; `media` in `server.data_dir` when unset.
    #[serde(with = "empty_is_none")]
    pub directory: Option<PathBuf>,
    /// Which files the deprecated paths serve to those without an access token.
    pub legacy_unauthenticated: LegacyMedia,
    /// The largest file that is fetched from another server.
    #[serde(deserialize_with = "between::<1, 1_099_511_627_776, _, _>")]
    pub max_remote_bytes: u64,
}

impl Default for Media {
    fn default() -> Self {
        Self {
            max_upload_bytes: 100 * 1024 * 1024,
            directory: None,
            legacy_unauthenticated: LegacyMedia::Frozen,
            max_remote_bytes: 100 * 1024 * 1024,
        }
    }
}

/// `[url_previews]`: whether this server looks at the pages that messages link to.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct UrlPreviews {
    /// Whether it does.
    pub enabled: bool,
    /// Whether the pages may be at loopback and private addresses.
    pub allow_private_addresses: bool,
}

/// `[turn]`: where calls find a relay.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct Turn {
    /// The addresses of TURN servers.
    #[serde(deserialize_with = "turn_uris")]
    pub uris: Vec<String>,
    /// The secret that is shared with them, from which each user gets a name and password of their own.
    #[serde(with = "empty_is_none")]
    pub shared_secret: Option<Secret>,
    /// How long these last.
    #[serde(deserialize_with = "between::<60, 31_536_000, _, _>")]
    pub lifetime_seconds: u64,
}

impl Default for Turn {
    fn default() -> Self {
        Self {
            uris: Vec::new(),
            shared_secret: None,
            lifetime_seconds: 86_400,
        }
    }
}

/// `[server_notices]`: who tells users what the server has to say.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct ServerNotices {
    /// The name of the user who does, which nobody can register; unset, there are no notices.
    #[serde(with = "empty_is_none")]
    pub localpart: Option<Localpart>,
}

/// `[logging]`: what is logged, to standard error.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct Logging {
    /// For people or for programs.
    pub format: LogFormat,
    /// What is logged, as `tracing` writes it: `info`, or `info,parlour=debug`.
    #[serde(deserialize_with = "filter")]
    pub filter: String,
}

impl Default for Logging {
    fn default() -> Self {
        Self {
            format: LogFormat::Human,
            filter: "info".to_owned(),
        }
    }
}

/// For whom the log is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum LogFormat {
    /// Lines for people.
    Human,
    /// A JSON object a line.
    Json,
}

/// `[metrics]`: where Prometheus finds the metrics.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct Metrics {
    /// The address of a listener of its own; without one, no metrics are shown.
    #[serde(with = "empty_is_none")]
    pub address: Option<SocketAddr>,
}

/// `[support]`: what `.well-known/matrix/support` tells.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct Support {
    /// The administrator's e-mail address.
    #[serde(
        serialize_with = "empty_is_none::serialize",
        deserialize_with = "email_address"
    )]
    pub admin_email: Option<String>,
    /// The administrator's Matrix id.
    #[serde(with = "empty_is_none")]
    pub admin_matrix_id: Option<OwnedUserId>,
    /// The address of a page that helps.
    #[serde(
        serialize_with = "empty_is_none::serialize",
        deserialize_with = "page_address"
    )]
    pub page: Option<String>,
}
