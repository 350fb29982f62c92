//! Every key of the configuration, with its default. `config.example.toml` explains them to operators.

use std::{
    net::{Ipv4Addr, SocketAddr},
    path::PathBuf,
    time::Duration,
};

use ruma::{OwnedServerName, OwnedUserId, RoomVersionId};
use serde::{Deserialize, Serialize};

use super::{
    AppservicesSection, MailSection, OAuthSection, RtcSection,
    addresses::{email_address, page_address, server_name, turn_uris},
    values::{
        AddressHeader, BaseUrl, DatabaseUrl, IpNetwork, LegacyMedia, Localpart, SecretString,
        between, empty_is_none, filter, path, room_version,
    },
};

/// The configuration of a server.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    pub server: ServerSection,
    /// The listeners. Each serves both the client API and the federation API.
    pub listen: Vec<ListenSection>,
    pub connections: ConnectionsSection,
    pub database: DatabaseSection,
    pub registration: RegistrationSection,
    pub passwords: PasswordsSection,
    pub oauth: OAuthSection,
    pub directory: DirectorySection,
    pub federation: FederationSection,
    pub limits: LimitsSection,
    pub media: MediaSection,
    pub url_previews: UrlPreviewsSection,
    pub push: PushSection,
    pub mail: MailSection,
    pub appservices: AppservicesSection,
    pub turn: TurnSection,
    pub rtc: RtcSection,
    pub server_notices: ServerNoticesSection,
    pub logging: LoggingSection,
    pub metrics: MetricsSection,
    pub support: SupportSection,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            server: ServerSection::default(),
            listen: vec![ListenSection::default()],
            connections: ConnectionsSection::default(),
            database: DatabaseSection::default(),
            registration: RegistrationSection::default(),
            passwords: PasswordsSection::default(),
            oauth: OAuthSection::default(),
            directory: DirectorySection::default(),
            federation: FederationSection::default(),
            limits: LimitsSection::default(),
            media: MediaSection::default(),
            url_previews: UrlPreviewsSection::default(),
            push: PushSection::default(),
            mail: MailSection::default(),
            appservices: AppservicesSection::default(),
            turn: TurnSection::default(),
            rtc: RtcSection::default(),
            server_notices: ServerNoticesSection::default(),
            logging: LoggingSection::default(),
            metrics: MetricsSection::default(),
            support: SupportSection::default(),
        }
    }
}

/// `[server]`: the identity of this server.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct ServerSection {
    /// The server name, which is part of the ids of its users and can never change.
    #[serde(deserialize_with = "server_name")]
    pub name: OwnedServerName,
    /// The URL at which clients reach the server; if unset, that of the first listener.
    #[serde(with = "empty_is_none")]
    pub public_url: Option<BaseUrl>,
    /// The directory of the database, the signing key and the media, unless they have their own paths.
    #[serde(deserialize_with = "path")]
    pub data_dir: PathBuf,
    #[serde(deserialize_with = "room_version")]
    pub default_room_version: RoomVersionId,
}

impl Default for ServerSection {
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
pub struct ListenSection {
    pub address: SocketAddr,
    /// The PEM file of the certificate chain. If set, the listener uses TLS.
    #[serde(with = "empty_is_none")]
    pub tls_certificate: Option<PathBuf>,
    /// The PEM file of the certificate's private key.
    #[serde(with = "empty_is_none")]
    pub tls_key: Option<PathBuf>,
}

impl Default for ListenSection {
    fn default() -> Self {
        Self {
            address: SocketAddr::from((Ipv4Addr::LOCALHOST, 8008)),
            tls_certificate: None,
            tls_key: None,
        }
    }
}

/// `[connections]`: limits for connections, and trusted reverse proxies.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct ConnectionsSection {
    /// The maximum number of open connections of all listeners together.
    #[serde(deserialize_with = "between::<16, 1_000_000, _, _>")]
    pub max_open: usize,
    /// The maximum number of open connections from one address or IPv6 /64 network.
    #[serde(deserialize_with = "between::<1, 1_000_000, _, _>")]
    pub max_open_per_address: usize,
    /// The time in which a client must send the head of a request or complete a TLS handshake.
    #[serde(deserialize_with = "between::<1, 3_600, _, _>")]
    pub head_timeout_seconds: u64,
    /// The time for which a connection without a request stays open.
    #[serde(deserialize_with = "between::<1, 3_600, _, _>")]
    pub idle_timeout_seconds: u64,
    /// The time in which the next part of a request body must arrive.
    #[serde(deserialize_with = "between::<1, 3_600, _, _>")]
    pub body_timeout_seconds: u64,
    /// The time in which a client must take the next part of a response.
    #[serde(deserialize_with = "between::<1, 3_600, _, _>")]
    pub write_timeout_seconds: u64,
    /// The reverse proxies that are trusted to name the address of a client.
    pub trusted_proxies: Vec<IpNetwork>,
    /// The headers with the client's address; the first one that is present in a request counts.
    pub address_headers: Vec<AddressHeader>,
}

impl Default for ConnectionsSection {
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

impl ConnectionsSection {
    /// Returns the time limit for the head of a request or a TLS handshake.
    pub fn head_timeout(&self) -> Duration {
        Duration::from_secs(self.head_timeout_seconds)
    }

    /// Returns the time for which a connection without a request stays open.
    pub fn idle_timeout(&self) -> Duration {
        Duration::from_secs(self.idle_timeout_seconds)
    }

    /// Returns the time limit for the next part of a request body.
    pub fn body_timeout(&self) -> Duration {
        Duration::from_secs(self.body_timeout_seconds)
    }

    /// Returns the time limit for a client to take the next part of a response.
    pub fn write_timeout(&self) -> Duration {
        Duration::from_secs(self.write_timeout_seconds)
    }
}

/// `[database]`: the database.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct DatabaseSection {
    /// `sqlite:PATH`, relative to `server.data_dir`, or `postgres://…`.
    pub url: DatabaseUrl,
}

impl Default for DatabaseSection {
    fn default() -> Self {
        Self {
            url: DatabaseUrl::sqlite("parlour.db"),
        }
    }
}

/// `[registration]`: the conditions for registration.
#[expect(
    clippy::struct_excessive_bools,
    reason = "each is a key, independent of the others"
)]
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct RegistrationSection {
    /// Whether anyone may register; otherwise a registration token is needed.
    pub open: bool,
    /// Whether an invite link to a room is also a registration token.
    pub invite_links: bool,
    /// Whether guests may register.
    pub guests: bool,
    /// Whether an e-mail address must be confirmed to register.
    pub require_email: bool,
    /// The secret of `/_synapse/admin/v1/register`; without it, the endpoint is disabled.
    #[serde(with = "empty_is_none")]
    pub shared_secret: Option<SecretString>,
}

impl Default for RegistrationSection {
    fn default() -> Self {
        Self {
            open: false,
            invite_links: true,
            guests: false,
            require_email: false,
            shared_secret: None,
        }
    }
}

/// `[passwords]`: the cost of an argon2id hash.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct PasswordsSection {
    /// The memory for one hash, in KiB.
    #[serde(deserialize_with = "between::<8, 4_194_304, _, _>")]
    pub memory_kib: u32,
    /// The number of passes over that memory.
    #[serde(deserialize_with = "between::<1, 1_000, _, _>")]
    pub iterations: u32,
}

impl Default for PasswordsSection {
    fn default() -> Self {
        Self {
            memory_kib: 19_456,
            iterations: 2,
        }
    }
}

/// `[directory]`: the visibility of rooms and users in searches.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct DirectorySection {
    /// Whether the public room list is visible without a login and to other servers.
    pub public_without_login: bool,
    /// Whether a search finds all users, or only those who share a room with the searching user or are in a public
    /// room.
    pub all_users_searchable: bool,
    /// Whether the user list of the chat page contains all users, or only those whom a search can find.
    pub all_users_listed: bool,
}

impl Default for DirectorySection {
    fn default() -> Self {
        Self {
            public_without_login: false,
            all_users_searchable: false,
            all_users_listed: true,
        }
    }
}

/// `[federation]`: the communication with other servers.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct FederationSection {
    /// Whether federation is enabled.
    pub enabled: bool,
    /// PEM files of authorities that are trusted in addition to the public ones.
    pub trusted_ca: Vec<PathBuf>,
    pub verify_certificates: bool,
    /// Whether other servers may have loopback and private addresses.
    pub allow_private_addresses: bool,
    /// The servers that are asked for the keys of servers that do not respond.
    pub notaries: Vec<OwnedServerName>,
}

impl Default for FederationSection {
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

/// `[limits]`: rate limits and the maximum request size.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct LimitsSection {
    /// Whether there are rate limits for logins, registrations and messages, and for what other servers cause (invites,
    /// and the fetching of unknown servers' keys).
    pub enabled: bool,
    /// The maximum size of a JSON request body.
    #[serde(deserialize_with = "between::<65_536, 1_073_741_824, _, _>")]
    pub max_request_bytes: usize,
    /// The number of logins from one address that are allowed at the same time.
    #[serde(deserialize_with = "between::<1, 1_000_000, _, _>")]
    pub login_burst: u32,
    /// The number of further logins per minute from one address.
    #[serde(deserialize_with = "between::<1, 1_000_000, _, _>")]
    pub login_per_minute: u32,
    /// The number of registrations from one address that are allowed at the same time.
    #[serde(deserialize_with = "between::<1, 1_000_000, _, _>")]
    pub registration_burst: u32,
    /// The number of further registrations per minute from one address.
    #[serde(deserialize_with = "between::<1, 1_000_000, _, _>")]
    pub registration_per_minute: u32,
    /// The number of events that one user may send at the same time.
    #[serde(deserialize_with = "between::<1, 1_000_000, _, _>")]
    pub sending_burst: u32,
    /// The number of further events per minute of one user.
    #[serde(deserialize_with = "between::<1, 1_000_000, _, _>")]
    pub sending_per_minute: u32,
}

impl Default for LimitsSection {
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

/// `[media]`: the storage of files.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct MediaSection {
    /// The maximum size of an uploaded file.
    #[serde(deserialize_with = "between::<1, 1_099_511_627_776, _, _>")]
    pub max_upload_bytes: u64,
    /// The directory of the files; if unset, `media` in `server.data_dir`.
    #[serde(with = "empty_is_none")]
    pub directory: Option<PathBuf>,
    /// The files that the deprecated endpoints serve without an access token.
    pub legacy_unauthenticated: LegacyMedia,
    /// The maximum size of a file that is fetched from another server.
    #[serde(deserialize_with = "between::<1, 1_099_511_627_776, _, _>")]
    pub max_remote_bytes: u64,
}

impl Default for MediaSection {
    fn default() -> Self {
        Self {
            max_upload_bytes: 100 * 1024 * 1024,
            directory: None,
            legacy_unauthenticated: LegacyMedia::Frozen,
            max_remote_bytes: 100 * 1024 * 1024,
        }
    }
}

/// `[url_previews]`: previews of the pages to which messages link.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct UrlPreviewsSection {
    pub enabled: bool,
    /// Whether the pages may have loopback and private addresses.
    pub allow_private_addresses: bool,
}

/// `[push]`: push notifications.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct PushSection {
    /// Whether push gateways and push services may have loopback and private addresses, and be reached without TLS.
    pub allow_private_addresses: bool,
}

/// `[turn]`: the TURN servers for calls.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct TurnSection {
    #[serde(deserialize_with = "turn_uris")]
    pub uris: Vec<String>,
    /// The secret shared with the TURN servers, from which each user's credentials are derived.
    #[serde(with = "empty_is_none")]
    pub shared_secret: Option<SecretString>,
    /// The lifetime of the credentials.
    #[serde(deserialize_with = "between::<60, 31_536_000, _, _>")]
    pub lifetime_seconds: u64,
}

impl Default for TurnSection {
    fn default() -> Self {
        Self {
            uris: Vec::new(),
            shared_secret: None,
            lifetime_seconds: 86_400,
        }
    }
}

/// `[server_notices]`: the sender of server notices.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct ServerNoticesSection {
    /// The localpart of the sending user, which nobody can register. If unset, there are no notices.
    #[serde(with = "empty_is_none")]
    pub localpart: Option<Localpart>,
}

/// `[logging]`: the log on standard error.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct LoggingSection {
    pub format: LogFormat,
    /// The filter in the syntax of `tracing`: `info`, or `info,parlour=debug`.
    #[serde(deserialize_with = "filter")]
    pub filter: String,
}

impl Default for LoggingSection {
    fn default() -> Self {
        Self {
            format: LogFormat::Human,
            filter: "info".to_owned(),
        }
    }
}

/// The format of the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum LogFormat {
    /// Lines for people.
    Human,
    /// One JSON object per line.
    Json,
}

/// `[metrics]`: the metrics for Prometheus.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct MetricsSection {
    /// The address of a separate listener; if unset, there are no metrics.
    #[serde(with = "empty_is_none")]
    pub address: Option<SocketAddr>,
}

/// `[support]`: the content of `.well-known/matrix/support`.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct SupportSection {
    #[serde(
        serialize_with = "empty_is_none::serialize",
        deserialize_with = "email_address"
    )]
    pub admin_email: Option<String>,
    #[serde(with = "empty_is_none")]
    pub admin_matrix_id: Option<OwnedUserId>,
    /// The URL of a support page.
    #[serde(
        serialize_with = "empty_is_none::serialize",
        deserialize_with = "page_address"
    )]
    pub page: Option<String>,
}
